//! The storage service: chunk replicas on local disks, replicated along chains.
//!
//! [`Storage`] is the service. What it is made of, from the rules outwards:
//!
//! * [`replica`]: the rules of chain replication, without disk, network or clock; [`dedup`] recognises retried updates.
//! * `applied` recognises those from before a restart; `answers` passes on to a filled replica who was answered.
//! * `target`: a target's chunk engine in the terms of the rules; `locks` puts updates of a chunk one after the other.
//! * `update` runs an update's steps, `forward` passes it on to the successor, `read` and `query` answer the rest.
//! * `placement` follows the routing information and sends heartbeats; `disks` opens, creates and removes targets.
//! * `resync` fills a successor that has returned (`fills` knows how far it is), `check` looks after disks.
//! * `scrub` verifies what is stored and repairs it from other replicas.
//! * `contact` ends a server that has lost its manager.
//!
//! State is shared by all shards of a process; locks are held for moments only and never while waiting, but for the locks of
//! chunks, which last as long as an update does.

mod admin;
mod answers;
mod applied;
mod check;
mod cluster;
mod config;
mod contact;
pub mod dedup;
mod disks;
mod fills;
mod forward;
mod identity;
mod locks;
mod metrics;
mod placement;
mod query;
mod read;
mod recent;
pub mod replica;
mod resync;
mod scrub;
mod service;
mod storage;
mod target;
mod update;

pub use cluster::{BoxFuture, Cluster, HeartbeatBoard};
pub use config::{
    CheckWorkerConfig, Config, ForwardingConfig, FullSyncLevel, OperatorConfig, PoolConfig,
    ReliableUpdateConfig, ScrubConfig, Sync, SyncWorkerConfig, TargetsConfig,
};
pub use storage::{Identity, Storage};
