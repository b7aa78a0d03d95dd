//! What a transaction hands to the store at commit, and what the store hands to its engine.

use bytes::Bytes;
use tokio::time::Instant;

use crate::key::KeyRange;

/// Number of a committed state of the database; grows with every commit, with gaps.
pub type Version = u64;

/// Length of a versionstamp: the commit version (8 bytes, big endian) and the order within it (2 bytes, always 0 here since
/// every transaction has a version of its own).
pub const VERSIONSTAMP_LEN: usize = 10;

/// A value that is unique to a commit and grows from commit to commit.
pub type Versionstamp = [u8; VERSIONSTAMP_LEN];

/// The versionstamp of a version.
pub fn versionstamp(version: Version) -> Versionstamp {
    let mut stamp = [0; VERSIONSTAMP_LEN];
    stamp[..8].copy_from_slice(&version.to_be_bytes());
    stamp
}

/// What a successful commit tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    /// Version of the commit; for a transaction that wrote nothing its read version, or 0 when it read nothing either.
    pub version: Version,
    /// The stamp that versionstamped values got; `None` for a transaction that wrote nothing.
    pub versionstamp: Option<Versionstamp>,
}

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    Set { key: Bytes, value: Bytes },
    Clear { key: Bytes },
    ClearRange(KeyRange),
    SetVersionstamped { key: Bytes, value: Bytes, offset: usize },
}

/// A transaction to be committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommitRequest {
    /// Version the reads were made at; `None` when nothing was read.
    pub(crate) read_version: Option<Version>,
    /// From then on it must not take effect any more.
    pub(crate) ends: Option<Instant>,
    /// Ranges no later commit may have written. Sorted, disjoint.
    pub(crate) read_conflicts: Vec<KeyRange>,
    /// Ranges that this commit counts as having written. Sorted, disjoint, a superset of what `mutations` touch.
    pub(crate) write_conflicts: Vec<KeyRange>,
    /// Writes in order: range clears first.
    pub(crate) mutations: Vec<Mutation>,
}

/// One write as the engine applies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) key: Bytes,
    /// `None` removes the key.
    pub(crate) value: Option<Bytes>,
}

/// A committed transaction as the engine applies it: every key at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) version: Version,
    pub(crate) ops: Vec<Op>,
}
