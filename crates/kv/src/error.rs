//! What a transaction can fail with, and which failures another attempt may cure.

use std::path::PathBuf;

use valor_wire::Status;

/// Status codes of transactions, 3FS's `TransactionCode` (`src/common/utils/StatusCodeDetails.h`).
pub mod code {
    /// Failed, for a reason that a retry does not cure.
    pub const FAILED: u16 = 1000;
    /// Another transaction wrote what this one read.
    pub const CONFLICT: u16 = 1001;
    /// The store asks for fewer requests.
    pub const THROTTLED: u16 = 1002;
    /// The read version is older than what is still kept.
    pub const TOO_OLD: u16 = 1003;
    /// The store was not reached.
    pub const NETWORK_ERROR: u16 = 1004;
    /// The transaction was cancelled.
    pub const CANCELED: u16 = 1005;
    /// It is unknown whether the commit took place.
    pub const MAYBE_COMMITTED: u16 = 1006;
    /// Failed for a passing reason.
    pub const RETRYABLE: u16 = 1007;
    /// The store is short of memory.
    pub const RESOURCE_CONSTRAINED: u16 = 1008;
    /// A process of the store lags behind.
    pub const PROCESS_BEHIND: u16 = 1009;
    /// The read version is in the future.
    pub const FUTURE_VERSION: u16 = 1010;

    /// Whether a failure with this code left no effect and may pass on another attempt
    /// (3FS `TransactionHelper::isRetryable` without `allowMaybeCommitted`).
    pub fn is_retryable(code: u16) -> bool {
        matches!(
            code,
            CONFLICT
                | THROTTLED
                | TOO_OLD
                | RETRYABLE
                | RESOURCE_CONSTRAINED
                | PROCESS_BEHIND
                | FUTURE_VERSION
        )
    }
}

/// Why an operation on the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// A key or range that the transaction read was written by a transaction that committed after the read version.
    /// Nothing was written.
    #[error("transaction conflicts with one that committed after its read version")]
    Conflict,
    /// The transaction is older than what the store remembers. Nothing was written.
    #[error("transaction is older than what the store still remembers")]
    TooOld,
    /// The commit failed at a point after which it may have taken effect.
    #[error("commit result unknown: it may have taken effect")]
    MaybeCommitted,
    /// A passing failure that left no effect.
    #[error("transaction failed for a passing reason: {0}")]
    Retryable(String),
    /// A key, a value or the whole transaction exceeds its limit ([`crate::MAX_KEY`], [`crate::MAX_VALUE`],
    /// [`crate::MAX_TRANSACTION`]). Nothing was written.
    #[error("{what} of {size} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The call breaks a rule of the interface: a reserved key, a range whose begin is after its end, a use after commit,
    /// a read of a value that holds a versionstamp not known before commit. Nothing was written.
    #[error("illegal use of a transaction: {0}")]
    Illegal(String),
    /// The engine failed; the transaction had no effect.
    #[error("storage engine failed: {message}")]
    Engine {
        /// What failed.
        message: String,
    },
    /// Data on disk is damaged.
    #[error("corrupt database file {}{}: {reason}", file.display(), Offset(*offset))]
    Corrupt {
        /// The damaged file, or the directory when the file is not known.
        file: PathBuf,
        /// Byte position of the damage, where known.
        offset: Option<u64>,
        /// What is wrong.
        reason: String,
    },
}

struct Offset(Option<u64>);

impl std::fmt::Display for Offset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(offset) => write!(f, " at byte {offset}"),
            None => Ok(()),
        }
    }
}

impl KvError {
    /// An engine failure without effect.
    pub(crate) fn engine(message: impl std::fmt::Display) -> Self {
        KvError::Engine { message: message.to_string() }
    }

    pub(crate) fn illegal(message: impl Into<String>) -> Self {
        KvError::Illegal(message.into())
    }

    /// Whether nothing was written and another attempt may succeed. False for [`KvError::MaybeCommitted`]: only the caller
    /// knows whether doing the same twice does harm.
    pub fn is_retryable(&self) -> bool {
        code::is_retryable(self.code())
    }

    /// 3FS's status code of this failure (1xxx).
    pub fn code(&self) -> u16 {
        match self {
            KvError::Conflict => code::CONFLICT,
            KvError::TooOld => code::TOO_OLD,
            KvError::MaybeCommitted => code::MAYBE_COMMITTED,
            KvError::Retryable(_) => code::RETRYABLE,
            KvError::TooLarge { .. }
            | KvError::Illegal(_)
            | KvError::Engine { .. }
            | KvError::Corrupt { .. } => code::FAILED,
        }
    }
}

impl From<KvError> for Status {
    fn from(error: KvError) -> Self {
        Status { code: error.code(), message: error.to_string() }
    }
}

/// An error type that a body of [`crate::Database::run`] may return.
///
/// `run` wraps the store's own failures in it and asks it whether a failure came from the store.
pub trait TransactionError: From<KvError> {
    /// The 1xxx code when this is a failure of the store; `None` ends the retries.
    fn transaction_code(&self) -> Option<u16>;
}

impl TransactionError for KvError {
    fn transaction_code(&self) -> Option<u16> {
        Some(self.code())
    }
}

impl TransactionError for Status {
    fn transaction_code(&self) -> Option<u16> {
        (1000..2000).contains(&self.code).then_some(self.code)
    }
}
