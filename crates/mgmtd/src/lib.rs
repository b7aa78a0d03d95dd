//! Cluster manager: lease, nodes, chains, configuration and client sessions.
//!
//! One of several managers is primary: it holds the lease in the key-value store, hears heartbeats of servers,
//! decides which replicas of each chain serve ([`chain_rules`]) and hands out routing information and
//! configurations. Everything follows 3FS's `src/mgmtd`, so that C++ servers and clients can work with it and its
//! store can be taken over from a C++ manager.
//!
//! # After a restart
//!
//! Who is alive is not stored. A manager that becomes primary loads nodes, chains and configurations and takes every
//! target for `OFFLINE` until its server reports it. Applying the chain rules then would throw all replicas out, so
//! a chain is *newborn* at first: left as it is, and clients go on using it as it was. 3FS ends that after a fixed
//! time (`new_chain_bootstrap_interval`, 2 min). Here it ends as soon as every target that has a place to lose, that
//! is every one that is not `OFFLINE`, has been reported under the new lease; the fixed time is the limit for those
//! that do not come back.
//!
//! Ending it early or late is a matter of how many replicas have to be filled again, not of safety: the rules let a
//! replica serve only if it was serving, was the last one serving, or was filled completely, and a report that
//! belongs to an older version of the chain does not count (`heartbeat_ignore_stale_targets`).

mod background;
pub mod chain_rules;
mod config;
mod data;
mod error;
mod lease;
pub mod offline;
mod ops;
mod router;
pub mod schema;
mod server;
mod snapshot;
mod store;
mod tags;

pub use config::{Config, ConfigSource, RetryTransaction, UserCache};
pub use server::{ApplyConfig, Hooks, Identity, Mgmtd};
pub use snapshot::RoutingReply;
