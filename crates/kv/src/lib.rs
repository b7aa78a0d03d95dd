//! Transactional key-value store: ordered keys, serializable transactions with conflict ranges, several engines.
//!
//! Semantics are FoundationDB's as 3FS uses it (`src/common/kv/ITransaction.h`): snapshot reads at a read version,
//! read-your-writes, optimistic commits checked against later writes, versionstamps. [`Database`] is the way in;
//! [`Transaction`] says what a transaction promises.
//!
//! # Layers
//! * [`Transaction`]: own writes over reads at a version, conflict ranges. Pure part: `overlay`.
//! * `LocalStore`: one resolver for conflicts, versions, publication, group commit; the same for all local engines.
//! * `remote`: the same transactions on a database of another process.
//! * Engines keep versioned values and committed batches: memory; simulated (memory, over a log that survives simulated
//!   crashes); embedded (a log and an LSM tree on disk, README.md says why this one).
//!
//! # Bounds
//! Keys up to [`MAX_KEY`], values up to [`MAX_VALUE`], a transaction up to [`MAX_TRANSACTION`] bytes. Memory of the resolver is
//! bounded; transactions that outlive its window, or hold back the engine for too long, fail with [`KvError::TooOld`].

mod batch;
mod database;
mod engine;
mod error;
mod faults;
mod group_commit;
mod key;
mod local;
mod overlay;
#[cfg(test)]
mod random;
pub mod remote;
mod resolver;
mod snapshots;
mod store;
mod transaction;
mod unsettled;

pub use batch::{CommitInfo, VERSIONSTAMP_LEN, Version, Versionstamp, versionstamp};
pub use database::{Database, RunOptions};
pub use engine::Durability;
pub use engine::embedded::EmbeddedOptions;
pub use engine::simulated::SimulatedStorage;
pub use error::{KvError, TransactionError, code};
pub use faults::Faults;
pub use key::{
    KeyRange, KeyValue, MAX_KEY, MAX_TRANSACTION, MAX_VALUE, METADATA_VERSION_KEY, key_after, prefix_end,
};
pub use local::LocalOptions;
pub use transaction::{RangeResult, Transaction};
