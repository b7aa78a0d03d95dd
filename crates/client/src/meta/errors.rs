//! What errors of metadata calls mean (`src/fbs/meta/Utils.h`, `ErrorHandling`).

use valor_protocol::status::{self, code};
use valor_protocol::{Method, valor};

/// True for answers to a call that did what it should: the code says something about the file system, not about the
/// service.
pub(super) fn is_answer(code: u16) -> bool {
    match code {
        code::OK | code::INVALID_ARG | code::AUTHENTICATION_FAIL => true,
        code::META_NOT_FOUND
        | code::META_NOT_EMPTY
        | code::META_NOT_DIRECTORY
        | code::META_TOO_MANY_SYMLINKS
        | code::META_IS_DIRECTORY
        | code::META_EXISTS
        | code::META_NO_PERMISSION
        | code::META_NOT_FILE
        | code::META_INVALID_FILE_LAYOUT
        | code::META_MORE_CHUNKS_TO_REMOVE
        | code::META_NAME_TOO_LONG => true,
        code => status::is_meta(code) && (code::META_EXPECTED..code::META_RETRYABLE).contains(&code),
    }
}

/// True for failures after which the call may have been executed, or may still be.
pub(super) fn is_unclear(code: u16) -> bool {
    let surely_not = matches!(
        code,
        code::TXN_CONFLICT
            | code::RPC_CONNECT_FAILED
            | code::RPC_INVALID_ADDR
            | code::RPC_SEND_FAILED
            | code::RPC_REQUEST_REFUSED
    );
    let passed_on = matches!(code, code::META_FORWARD_TIMEOUT | code::META_OPERATION_TIMEOUT);
    passed_on || ((1000..3000).contains(&code) && !surely_not)
}

/// True if the call may be repeated.
pub(super) fn is_retryable(code: u16) -> bool {
    if code < 1000 {
        return false;
    }
    if status::is_meta(code) {
        return match code {
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
            | code::META_REQUEST_CANCELED
            | code::META_FOUND_BUG => false,
            code => code < code::META_NOT_RETRYABLE,
        };
    }
    if status::is_storage_client(code) {
        return !matches!(
            code,
            code::STORAGE_CLIENT_CHUNK_NOT_FOUND
                | code::STORAGE_CLIENT_CHECKSUM_MISMATCH
                | code::STORAGE_CLIENT_READ_ONLY_SERVER
                | code::STORAGE_CLIENT_FOUND_BUG
        );
    }
    code != code::RPC_INVALID_METHOD_ID
}

/// True if the failure speaks against the server.
pub(super) fn is_server_failure(code: u16) -> bool {
    status::is_rpc(code) || code == code::TXN_NETWORK_ERROR
}

/// True if the server answered that it does not know an extension of ours, as C++ 3FS does.
pub(super) fn is_unknown_extension<M: Method>(code: u16) -> bool {
    let unknown = matches!(code, code::RPC_INVALID_SERVICE_ID | code::RPC_INVALID_METHOD_ID);
    M::SERVICE_ID == valor::meta::SERVICE_ID && unknown
}

/// True for failures that pass quickly, or that another server does not have.
pub(super) fn passes_quickly(code: u16) -> bool {
    status::is_rpc(code) || code == code::META_BUSY
}

/// True if an open that failed may have left a session behind.
pub(super) fn may_leave_session(code: u16) -> bool {
    match code {
        code::TXN_MAYBE_COMMITTED | code::META_OTRUNC_FAILED => true,
        code::RPC_SEND_FAILED
        | code::RPC_CONNECT_FAILED
        | code::RPC_IB_INIT_FAILED
        | code::RPC_INVALID_METHOD_ID => false,
        code => status::is_rpc(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        for answer in [0, 3, 25, 3000, 3007, 3016, 3100, 3101, 3102] {
            assert!(is_answer(answer), "{answer}");
        }
        for failure in [1, 34, 1001, 2005, 3009, 3012, 3018, 3019, 3200, 3203, 3999, 5000, 7011] {
            assert!(!is_answer(failure), "{failure}");
        }
        for retryable in [1001, 1006, 2005, 2012, 3012, 3015, 3016, 3019, 3200, 3203, 6004, 7011, 7021, 5000]
        {
            assert!(is_retryable(retryable), "{retryable}");
        }
        for final_ in [1, 3, 34, 70, 2009, 3000, 3009, 3018, 3300, 3999, 7007, 7015, 7019, 7999] {
            assert!(!is_retryable(final_), "{final_}");
        }
        assert!(may_leave_session(2005) && may_leave_session(1006) && may_leave_session(3015));
        assert!(!may_leave_session(2007) && !may_leave_session(3000) && !may_leave_session(1001));
    }
}
