//! Why an operation did not succeed.

use valor_kv::KvError;
use valor_protocol::status::code;
use valor_wire::{DecodeError, Status};

/// What ends one try of an operation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The transaction failed; most of these go away with a new try.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// What was read is older than what this server knows already: only a new try sees it.
    #[error("{0}")]
    Stale(&'static str),
    /// The answer for the client.
    #[error(transparent)]
    Status(Status),
}

/// The result of a step within a transaction.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Error {
    /// What the client sees.
    pub(crate) fn into_status(self) -> Status {
        match self {
            Self::Kv(error) => Status { code: error.code(), message: error.to_string() },
            Self::Stale(reason) => status(code::TXN_TOO_OLD, reason),
            Self::Status(status) => status,
        }
    }

    /// A new transaction may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            // After an unknown outcome, operations recognise what they did themselves.
            Self::Kv(KvError::MaybeCommitted) => true,
            Self::Kv(error) => error.is_retryable(),
            Self::Stale(_) => true,
            Self::Status(_) => false,
        }
    }
}

/// A status with a text.
pub(crate) fn status(code: u16, message: impl Into<String>) -> Status {
    Status { code, message: message.into() }
}

/// An error with a status code and a text.
pub(crate) fn fail<T>(code: u16, message: impl Into<String>) -> Result<T> {
    Err(Error::Status(status(code, message)))
}

/// A stored value that is not what its key promises.
pub(crate) fn corrupt(what: &str, error: &DecodeError) -> Error {
    tracing::error!(what, %error, "stored metadata cannot be decoded");
    Error::Status(status(code::DATA_CORRUPTION, format!("{what}: {error}")))
}

/// The operation was performed, or refused for a reason the caller can expect (3FS `ErrorHandling::success`).
pub(crate) fn is_expected(code: u16) -> bool {
    matches!(
        code,
        code::OK
            | code::INVALID_ARG
            | code::AUTHENTICATION_FAIL
            | code::META_NOT_FOUND
            | code::META_NOT_EMPTY
            | code::META_NOT_DIRECTORY
            | code::META_TOO_MANY_SYMLINKS
            | code::META_IS_DIRECTORY
            | code::META_EXISTS
            | code::META_NO_PERMISSION
            | code::META_NOT_FILE
            | code::META_INVALID_FILE_LAYOUT
            | code::META_MORE_CHUNKS_TO_REMOVE
            | code::META_NAME_TOO_LONG
            | code::META_EXPECTED..=3199
    )
}

/// A copy of the request must get the same refusal: this one is final, and what it was refused for may change. What is
/// wrong with the request itself stays so, and need not be written down.
pub(crate) fn is_remembered(refusal: &Status) -> bool {
    let of_the_request = matches!(refusal.code, code::INVALID_ARG | code::META_NAME_TOO_LONG);
    !of_the_request && (is_expected(refusal.code) || !is_retryable(refusal.code))
}

/// The same request may succeed later (3FS `ErrorHandling::retryable`, `src/fbs/meta/Utils.h`).
pub(crate) fn is_retryable(code: u16) -> bool {
    match code {
        0..=999 => false,
        code::META_OTRUNC_FAILED
        | code::META_MORE_CHUNKS_TO_REMOVE
        | code::META_BUSY
        | code::META_INODE_ID_ALLOC_FAILED => true,
        code::META_NOT_FOUND
        | code::META_NOT_EMPTY
        | code::META_NOT_DIRECTORY
        | code::META_TOO_MANY_SYMLINKS
        | code::META_IS_DIRECTORY
        | code::META_EXISTS
        | code::META_NO_PERMISSION
        | code::META_INCONSISTENT
        | code::META_NOT_FILE
        | code::META_BAD_FILE_SYSTEM
        | code::META_INVALID_FILE_LAYOUT
        | code::META_FILE_HAS_HOLE
        | code::META_NAME_TOO_LONG
        | code::META_REQUEST_CANCELED => false,
        3000..=3999 => code < code::META_NOT_RETRYABLE,
        code::STORAGE_CLIENT_CHUNK_NOT_FOUND
        | code::STORAGE_CLIENT_CHECKSUM_MISMATCH
        | code::STORAGE_CLIENT_READ_ONLY_SERVER
        | code::STORAGE_CLIENT_FOUND_BUG => false,
        _ => code != code::RPC_INVALID_METHOD_ID,
    }
}
