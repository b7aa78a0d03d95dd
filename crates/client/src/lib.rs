//! Clients of the cluster manager, metadata and storage services: routing, retry, striping.
//!
//! * [`MgmtdClient`] finds the primary manager, keeps [`Routing`] fresh, sends heartbeats or extends the session.
//! * [`StorageClient`] reads and updates chunks: it chooses replicas, batches per server and retries.
//! * [`MetaClient`] has a method per metadata call, with server selection, failover and background closing.
//! * [`FileIo`] reads and writes files over their layouts.
//!
//! All are shared by the threads of a process. Data is never copied: what is written is sent from the caller's
//! `Bytes`, what is read refers to the memory it arrived in. Retry rules and defaults are 3FS's, except that failures
//! which pass quickly are repeated within milliseconds.

mod backoff;
pub mod file;
mod join;
pub mod meta;
pub mod mgmtd;
pub mod routing;
pub mod storage;

pub use backoff::{Backoff, FastPause};
pub use file::FileIo;
pub use join::join_all;
pub use meta::MetaClient;
pub use mgmtd::MgmtdClient;
pub use routing::{Routing, RoutingCache};
pub use storage::StorageClient;
