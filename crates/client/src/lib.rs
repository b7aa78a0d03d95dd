//! Clients of the cluster manager, metadata and storage services: routing, retry, striping.
//!
//! * [`mgmtd::MgmtdClient`] finds the primary manager and keeps [`routing::Routing`] fresh.

mod backoff;
pub mod file;
mod join;
pub mod meta;
pub mod mgmtd;
pub mod routing;
pub mod storage;

pub use backoff::{Backoff, FastPause};
pub use file::FileIo;
pub use meta::MetaClient;
pub use mgmtd::MgmtdClient;
pub use routing::{Routing, RoutingCache};
pub use storage::StorageClient;
