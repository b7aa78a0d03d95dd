//! Where errors become errno values, and nowhere else.

use valor_protocol::status::errno;
use valor_wire::Status;
use xfuse::Errno;

/// What the calling process sees for a status (3FS's table, `src/common/utils/StatusCode.cc`).
pub fn of(status: &Status) -> Errno {
    match errno(status.code) {
        0 => Errno::EIO,
        number => Errno(number),
    }
}

/// Converts a cluster's failure, leaving a trace of those that hide what happened.
pub fn from(operation: &'static str, status: &Status) -> Errno {
    let errno = of(status);
    if matches!(errno, Errno::EIO | Errno(libc::EREMOTEIO)) {
        tracing::warn!(operation, %status, %errno, "operation failed");
    } else {
        tracing::trace!(operation, %status, %errno, "operation refused");
    }
    errno
}

/// Adds the conversion to results.
pub(crate) trait OrErrno<T> {
    /// The value, or the errno of the failure.
    fn or_errno(self, operation: &'static str) -> Result<T, Errno>;
}

impl<T> OrErrno<T> for Result<T, Status> {
    fn or_errno(self, operation: &'static str) -> Result<T, Errno> {
        self.map_err(|status| from(operation, &status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::status::{code, status};

    #[test]
    fn permission_failures_are_eperm() {
        assert_eq!(of(&status(code::META_NO_PERMISSION)), Errno::EPERM);
        assert_eq!(of(&status(code::META_NOT_FOUND)), Errno::ENOENT);
        assert_eq!(of(&status(code::RPC_TIMEOUT)), Errno(libc::EREMOTEIO));
        assert_eq!(of(&status(code::READ_ONLY_MODE)), Errno::EROFS);
        assert_eq!(of(&status(code::AGENT_HOLE_IN_IO_OUTCOME)), Errno::ENODATA);
        assert_eq!(of(&status(code::OK)), Errno::EIO, "a success is no errno");
    }
}
