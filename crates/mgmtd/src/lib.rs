//! Cluster manager: lease, nodes, chains, configuration and client sessions.
//!
//! One of several managers is primary: it holds the lease in the key-value store, hears heartbeats of servers,
//! decides which replicas of each chain serve ([`chain_rules`]) and hands out routing information and
//! configurations. Everything follows 3FS's `src/mgmtd`, so that C++ servers and clients can work with it and its
//! store can be taken over from a C++ manager.

pub mod chain_rules;
mod config;

pub use config::{Config, ConfigSource, RetryTransaction, UserCache};
