//! The storage service: chunk replicas on local disks, replicated along chains.
//!
//! [`replica`] holds the rules and knows nothing of disks or networks; [`dedup`] recognises retried updates.

pub mod dedup;
pub mod replica;
