//! Data in place through `/dev/fuse`.

mod common;

#[path = "bodies/in_place.rs"]
mod in_place;
