//! What a local engine does: keep versions of values in key order, and keep committed batches.
//!
//! Transactions, conflicts and read-your-writes are above ([`crate::local`]); an engine sees committed batches only, in version
//! order, from one caller at a time.

pub(crate) mod embedded;
pub(crate) mod memory;
pub(crate) mod simulated;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::KvError;
use crate::batch::{Batch, Version};
use crate::key::{KeyRange, KeyValue};

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// The commit is with the operating system: it survives the end of the process, however abrupt, but not that of the
    /// machine. The embedded engine syncs in the background, so that a power failure takes about the last second.
    #[default]
    Process,
    /// The commit is on the disk (fdatasync); commits that wait together share one sync.
    Always,
}

/// When an applied batch may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckAfter {
    /// At once.
    Apply,
    /// After [`Engine::sync`] returned this version or a later one.
    Sync,
}

/// How applying a batch failed.
#[derive(Debug)]
pub(crate) enum ApplyError {
    /// The batch left no trace; the engine goes on.
    NothingWritten(KvError),
    /// The batch may or may not be found after reopening; the engine takes no more batches.
    Unknown(KvError),
}

/// Part of a range, in the order asked for.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) entries: Vec<KeyValue>,
    /// The limit ended the scan: more entries may follow the last one.
    pub(crate) more: bool,
}

/// A local store of versioned values.
pub(crate) trait Engine: Send + Sync + 'static {
    /// The value of `key` at `at`.
    fn get(&self, key: &[u8], at: Version) -> Result<Option<Bytes>, KvError>;

    /// Up to `limit` entries of `range` at `at`, from its begin or, with `reverse`, from its end.
    fn scan(&self, range: &KeyRange, at: Version, reverse: bool, limit: usize) -> Result<Scan, KvError>;

    /// A version above all that were handed out and all that were recovered.
    fn next_version(&self) -> Version;

    /// Keeps a batch and makes it readable at its version.
    fn apply(&self, batch: &Batch) -> Result<(), ApplyError>;

    /// When [`Engine::apply`] is enough.
    fn ack_after(&self) -> AckAfter;

    /// Blocks until what was applied before the call is durable; returns the version up to which it is.
    fn sync(&self) -> Result<Version, KvError>;

    /// A future to wait for before the next batch when the engine is behind with its housekeeping.
    fn congested(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        None
    }

    /// Makes everything durable and stops; no batch is applied afterwards.
    fn close(&self) -> Result<(), KvError>;

    /// Reads everything that is stored and compares checksums.
    fn verify(&self) -> Result<(), KvError> {
        Ok(())
    }
}
