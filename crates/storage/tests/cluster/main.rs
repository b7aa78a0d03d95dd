//! Storage servers on loopback, from one to three replicas: replication, retries, failures of nodes and disks.

#[path = "../model/chain.rs"]
mod chain;
mod failures;
mod golden;
mod harness;
mod methods;
mod recovery;
mod replication;
mod scrub;
