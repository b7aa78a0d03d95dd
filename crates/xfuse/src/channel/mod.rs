//! Channels: the threads that take requests from the kernel.

pub(crate) mod classic;
pub(crate) mod deputy;
pub(crate) mod run;
pub(crate) mod uring;

/// Why a channel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The file system was unmounted or the connection aborted.
    Gone,
}
