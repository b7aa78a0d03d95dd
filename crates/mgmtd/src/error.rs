//! Errors of the service, as the statuses that callers get.

use valor_protocol::NodeId;
use valor_protocol::Status;
use valor_protocol::status::code;

/// 5000: this manager is not primary. The message is the primary's node id if it is known; callers follow it.
pub fn not_primary(primary: Option<NodeId>) -> Status {
    Status::new(code::MGMTD_NOT_PRIMARY, primary.map(|id| id.to_string()).unwrap_or_default())
}

/// 3: the request makes no sense.
pub fn invalid(message: impl Into<String>) -> Status {
    Status::new(code::INVALID_ARG, message)
}

/// 5002: a heartbeat is refused.
pub fn heartbeat_fail(message: impl Into<String>) -> Status {
    Status::new(code::MGMTD_HEARTBEAT_FAIL, message)
}

/// 5007: chains or tables do not fit together.
pub fn invalid_chain_table(message: impl Into<String>) -> Status {
    Status::new(code::MGMTD_INVALID_CHAIN_TABLE, message)
}

/// 5011: tags cannot be changed that way.
pub fn invalid_tag(message: impl Into<String>) -> Status {
    Status::new(code::MGMTD_INVALID_TAG, message)
}
