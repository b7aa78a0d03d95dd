//! Why an operation on chunks failed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ChunkId;

/// Failure of an engine call. Nothing was changed, unless said otherwise.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// No such chunk.
    #[error("chunk {0} does not exist")]
    NotFound(ChunkId),
    /// An argument makes no sense whatever the chunk's state.
    #[error("invalid argument: {0}")]
    InvalidArg(&'static str),
    /// The chunk exists with another capacity.
    #[error("chunk {chunk} has size {actual}, not {asked}")]
    ChunkSizeMismatch {
        /// The chunk.
        chunk: ChunkId,
        /// Its size.
        actual: u32,
        /// The update's.
        asked: u32,
    },
    /// The data handed in do not have the checksum handed in (both in 3FS's form).
    #[error("checksum of data is {actual:08x}, not {expected:08x}")]
    ChecksumMismatch {
        /// As told.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// Another update of this chunk is under way.
    #[error("chunk {0} is being updated")]
    Busy(ChunkId),
    /// A different version is pending.
    #[error("chunk {chunk} has version {pending} pending")]
    PendingExists {
        /// The chunk.
        chunk: ChunkId,
        /// The pending version.
        pending: u32,
    },
    /// A commit named a version which is not the pending one.
    #[error("chunk {chunk} has version {pending} pending, not {asked}")]
    PendingMismatch {
        /// The chunk.
        chunk: ChunkId,
        /// The pending version.
        pending: u32,
        /// The version to commit.
        asked: u32,
    },
    /// A commit or discard found nothing pending.
    #[error("chunk {chunk} has nothing pending; its committed version is {committed}")]
    NothingPending {
        /// The chunk.
        chunk: ChunkId,
        /// The committed version.
        committed: u32,
    },
    /// The update's version is not above the committed one.
    #[error("chunk {chunk} is at version {committed}, update makes {asked}")]
    StaleVersion {
        /// The chunk.
        chunk: ChunkId,
        /// The committed version.
        committed: u32,
        /// The update's version.
        asked: u32,
    },
    /// No room for the data. Reads, commits and removals still work.
    #[error("no space left on {}", .0.display())]
    NoSpace(PathBuf),
    /// Bytes on disk are not those that were written.
    #[error("corrupt data in {} at {offset}{}: {what}", .file.display(), of(.chunk))]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// The chunk they belong to, where known.
        chunk: Option<ChunkId>,
        /// What did not fit.
        what: &'static str,
    },
    /// A disk operation failed.
    #[error("{op} {}: {source}", .file.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        file: PathBuf,
        /// The failure.
        source: Arc<io::Error>,
    },
    /// The engine was closed.
    #[error("the engine is closed")]
    Closed,
    /// Writing metadata failed earlier; nothing can be changed until the engine is opened again.
    #[error("the engine is read-only after a failed log write: {0}")]
    ReadOnly(Arc<EngineError>),
}

impl EngineError {
    pub(crate) fn corrupt(file: &Path, offset: u64, what: &'static str) -> Self {
        EngineError::Corrupt { file: file.into(), offset, chunk: None, what }
    }
}

/// A failed disk operation; a full disk is told apart.
pub(crate) fn io_error(op: &'static str, file: &Path, error: io::Error) -> EngineError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => EngineError::NoSpace(file.into()),
        _ => EngineError::Io { op, file: file.into(), source: Arc::new(error) },
    }
}

/// A failed sync. What was written may or may not be on disk, whatever the reason.
pub(crate) fn sync_error(file: &Path, error: io::Error) -> EngineError {
    EngineError::Io { op: "sync", file: file.into(), source: Arc::new(error) }
}

fn of(chunk: &Option<ChunkId>) -> String {
    chunk.as_ref().map(|c| format!(" (chunk {c})")).unwrap_or_default()
}

/// Result of an engine call.
pub type Result<T> = std::result::Result<T, EngineError>;
