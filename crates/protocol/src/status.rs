//! Status codes (`src/common/utils/StatusCodeDetails.h`): names and conversions.

use valor_wire::Status;

macro_rules! codes {
    ($($name:ident = $value:literal $text:literal;)*) => {
        /// Every code, named by its group and 3FS's name.
        pub mod code {
            $(#[doc = $text] pub const $name: u16 = $value;)*
        }

        /// 3FS's name of a code, such as `Meta::NotFound`.
        pub fn name(code: u16) -> &'static str {
            match code {
                $($value => $text,)*
                _ => "UnknownStatusCode",
            }
        }

        /// Every code.
        pub const ALL: &[u16] = &[$($value),*];
    };
}

codes! {
    // 0xx: common to all parts.
    OK = 0 "OK";
    NOT_IMPLEMENTED = 1 "NotImplemented";
    DATA_CORRUPTION = 2 "DataCorruption";
    INVALID_ARG = 3 "InvalidArg";
    INVALID_CONFIG = 4 "InvalidConfig";
    QUEUE_EMPTY = 5 "QueueEmpty";
    QUEUE_FULL = 6 "QueueFull";
    QUEUE_CONFLICT = 7 "QueueConflict";
    QUEUE_INVALID_ITEM = 8 "QueueInvalidItem";
    MONITOR_INIT_FAILED = 12 "MonitorInitFailed";
    MONITOR_QUERY_FAILED = 13 "MonitorQueryFailed";
    MONITOR_WRITE_FAILED = 14 "MonitorWriteFailed";
    CONFIG_INVALID_TYPE = 15 "ConfigInvalidType";
    CONFIG_INVALID_VALUE = 16 "ConfigInvalidValue";
    CONFIG_UPDATE_FAILED = 17 "ConfigUpdateFailed";
    CONFIG_VALIDATE_FAILED = 18 "ConfigValidateFailed";
    CONFIG_REDUNDANT_KEY = 19 "ConfigRedundantKey";
    CONFIG_KEY_NOT_FOUND = 20 "ConfigKeyNotFound";
    AUTHENTICATION_FAIL = 25 "AuthenticationFail";
    NOT_ENOUGH_MEMORY = 26 "NotEnoughMemory";
    INTERRUPTED = 27 "Interrupted";
    INVALID_FORMAT = 33 "InvalidFormat";
    READ_ONLY_MODE = 34 "ReadOnlyMode";
    SERDE_INSUFFICIENT_LENGTH = 40 "SerdeInsufficientLength";
    SERDE_MISSING_FIELDS_AT_END = 41 "SerdeMissingFieldsAtEnd";
    SERDE_VARIANT_INDEX_EXCEEDED = 42 "SerdeVariantIndexExceeded";
    SERDE_UNKNOWN_ENUM_VALUE = 43 "SerdeUnknownEnumValue";
    SERDE_NOT_CONTAINER = 44 "SerdeNotContainer";
    SERDE_NOT_STRING = 45 "SerdeNotString";
    SERDE_NOT_NUMBER = 46 "SerdeNotNumber";
    SERDE_NOT_INTEGER = 47 "SerdeNotInteger";
    SERDE_NOT_TABLE = 48 "SerdeNotTable";
    SERDE_KEY_NOT_FOUND = 49 "SerdeKeyNotFound";
    SERDE_INVALID_JSON = 50 "SerdeInvalidJson";
    SERDE_INVALID_TOML = 51 "SerdeInvalidToml";
    NO_APPLICATION = 52 "NoApplication";
    CANNOT_PUSH_CONFIG = 53 "CannotPushConfig";
    KV_STORE_NOT_FOUND = 60 "KVStoreNotFound";
    KV_STORE_GET_ERROR = 61 "KVStoreGetError";
    KV_STORE_SET_ERROR = 62 "KVStoreSetError";
    KV_STORE_OPEN_FAILED = 63 "KVStoreOpenFailed";
    TOKEN_MISMATCH = 64 "TokenMismatch";
    TOKEN_DUPLICATED = 65 "TokenDuplicated";
    TOKEN_STALE = 66 "TokenStale";
    TOO_MANY_TOKENS = 67 "TooManyTokens";
    KV_STORE_ITERATE_ERROR = 68 "KVStoreIterateError";
    IO_ERROR = 69 "IOError";
    FAULT_INJECTION = 70 "FaultInjection";
    CONFIG_PARSE_ERROR = 71 "ConfigParseError";
    OS_ERROR = 72 "OSError";
    FOUND_BUG = 998 "FoundBug";
    UNKNOWN = 999 "Unknown";
    // 1xxx: key-value transactions.
    TXN_FAILED = 1000 "Transaction::Failed";
    TXN_CONFLICT = 1001 "Transaction::Conflict";
    TXN_THROTTLED = 1002 "Transaction::Throttled";
    TXN_TOO_OLD = 1003 "Transaction::TooOld";
    TXN_NETWORK_ERROR = 1004 "Transaction::NetworkError";
    TXN_CANCELED = 1005 "Transaction::Canceled";
    TXN_MAYBE_COMMITTED = 1006 "Transaction::MaybeCommitted";
    TXN_RETRYABLE = 1007 "Transaction::Retryable";
    TXN_RESOURCE_CONSTRAINED = 1008 "Transaction::ResourceConstrained";
    TXN_PROCESS_BEHIND = 1009 "Transaction::ProcessBehind";
    TXN_FUTURE_VERSION = 1010 "Transaction::FutureVersion";
    // 2xxx: messages and connections.
    RPC_INVALID_MESSAGE_TYPE = 2000 "RPC::InvalidMessageType";
    RPC_REQUEST_IS_EMPTY = 2001 "RPC::RequestIsEmpty";
    RPC_VERIFY_REQUEST_FAILED = 2002 "RPC::VerifyRequestFailed";
    RPC_VERIFY_RESPONSE_FAILED = 2003 "RPC::VerifyResponseFailed";
    RPC_TIMEOUT = 2005 "RPC::Timeout";
    RPC_INVALID_ADDR = 2006 "RPC::InvalidAddr";
    RPC_SEND_FAILED = 2007 "RPC::SendFailed";
    RPC_INVALID_SERVICE_ID = 2008 "RPC::InvalidServiceID";
    RPC_INVALID_METHOD_ID = 2009 "RPC::InvalidMethodID";
    RPC_SOCKET_ERROR = 2010 "RPC::SocketError";
    RPC_LISTEN_FAILED = 2011 "RPC::ListenFailed";
    RPC_REQUEST_REFUSED = 2012 "RPC::RequestRefused";
    RPC_SOCKET_CLOSED = 2013 "RPC::SocketClosed";
    RPC_CONNECT_FAILED = 2014 "RPC::ConnectFailed";
    RPC_IB_INIT_FAILED = 2015 "RPC::IBInitFailed";
    RPC_IB_DEVICE_NOT_FOUND = 2016 "RPC::IBDeviceNotFound";
    RPC_RDMA_POST_FAILED = 2017 "RPC::RDMAPostFailed";
    RPC_RDMA_ERROR = 2018 "RPC::RDMAError";
    RPC_RDMA_NO_BUF = 2019 "RPC::RDMANoBuf";
    RPC_INVALID_SERVICE_NAME = 2020 "RPC::InvalidServiceName";
    RPC_IB_DEVICE_NOT_INITIALIZED = 2021 "RPC::IBDeviceNotInitialized";
    RPC_EPOLL_INIT_ERROR = 2022 "RPC::EpollInitError";
    RPC_EPOLL_ADD_ERROR = 2023 "RPC::EpollAddError";
    RPC_EPOLL_DEL_ERROR = 2024 "RPC::EpollDelError";
    RPC_EPOLL_WAKE_UP_ERROR = 2025 "RPC::EpollWakeUpError";
    RPC_EPOLL_WAIT_ERROR = 2026 "RPC::EpollWaitError";
    RPC_IB_OPEN_PORT_FAILED = 2027 "RPC::IBOpenPortFailed";
    // 3xxx: metadata.
    META_NOT_FOUND = 3000 "Meta::NotFound";
    META_NOT_EMPTY = 3001 "Meta::NotEmpty";
    META_NOT_DIRECTORY = 3003 "Meta::NotDirectory";
    META_TOO_MANY_SYMLINKS = 3005 "Meta::TooManySymlinks";
    META_IS_DIRECTORY = 3006 "Meta::IsDirectory";
    META_EXISTS = 3007 "Meta::Exists";
    META_NO_PERMISSION = 3008 "Meta::NoPermission";
    META_INCONSISTENT = 3009 "Meta::Inconsistent";
    META_NOT_FILE = 3010 "Meta::NotFile";
    META_BAD_FILE_SYSTEM = 3011 "Meta::BadFileSystem";
    META_INODE_ID_ALLOC_FAILED = 3012 "Meta::InodeIdAllocFailed";
    META_INVALID_FILE_LAYOUT = 3013 "Meta::InvalidFileLayout";
    META_FILE_HAS_HOLE = 3014 "Meta::FileHasHole";
    META_OTRUNC_FAILED = 3015 "Meta::OTruncFailed";
    META_MORE_CHUNKS_TO_REMOVE = 3016 "Meta::MoreChunksToRemove";
    META_NAME_TOO_LONG = 3017 "Meta::NameTooLong";
    META_REQUEST_CANCELED = 3018 "Meta::RequestCanceled";
    META_BUSY = 3019 "Meta::Busy";
    META_EXPECTED = 3100 "Meta::Expected";
    META_NO_LOCK = 3101 "Meta::NoLock";
    META_FILE_TOO_LARGE = 3102 "Meta::FileTooLarge";
    META_RETRYABLE = 3200 "Meta::Retryable";
    META_FORWARD_FAILED = 3201 "Meta::ForwardFailed";
    META_FORWARD_TIMEOUT = 3202 "Meta::ForwardTimeout";
    META_OPERATION_TIMEOUT = 3203 "Meta::OperationTimeout";
    META_NOT_RETRYABLE = 3300 "Meta::NotRetryable";
    META_FOUND_BUG = 3999 "Meta::FoundBug";
    // 4xxx: storage servers.
    STORAGE_CHUNK_METADATA_UNPACK_ERROR = 4000 "Storage::ChunkMetadataUnpackError";
    STORAGE_CHUNK_METADATA_NOT_FOUND = 4001 "Storage::ChunkMetadataNotFound";
    STORAGE_CHUNK_METADATA_GET_ERROR = 4002 "Storage::ChunkMetadataGetError";
    STORAGE_CHUNK_METADATA_SET_ERROR = 4003 "Storage::ChunkMetadataSetError";
    STORAGE_CHUNK_NOT_COMMIT = 4004 "Storage::ChunkNotCommit";
    STORAGE_CHUNK_NOT_CLEAN = 4005 "Storage::ChunkNotClean";
    STORAGE_CHUNK_STALE_UPDATE = 4006 "Storage::ChunkStaleUpdate";
    STORAGE_CHUNK_MISSING_UPDATE = 4007 "Storage::ChunkMissingUpdate";
    STORAGE_CHUNK_COMMITTED_UPDATE = 4008 "Storage::ChunkCommittedUpdate";
    STORAGE_CHUNK_OPEN_FAILED = 4009 "Storage::ChunkOpenFailed";
    STORAGE_CHUNK_READ_FAILED = 4010 "Storage::ChunkReadFailed";
    STORAGE_CHUNK_WRITE_FAILED = 4011 "Storage::ChunkWriteFailed";
    STORAGE_CHUNK_ADVANCE_UPDATE = 4012 "Storage::ChunkAdvanceUpdate";
    STORAGE_CHUNK_APPLY_FAILED = 4013 "Storage::ChunkApplyFailed";
    STORAGE_PUNCH_HOLE_FAILED = 4014 "Storage::PunchHoleFailed";
    STORAGE_CHUNK_SIZE_MISMATCH = 4015 "Storage::ChunkSizeMismatch";
    STORAGE_STORAGE_STAT_FAILED = 4016 "Storage::StorageStatFailed";
    STORAGE_STORAGE_UUID_MISMATCH = 4017 "Storage::StorageUUIDMismatch";
    STORAGE_STORAGE_INIT_FAILED = 4018 "Storage::StorageInitFailed";
    STORAGE_META_STORE_OPEN_FAILED = 4020 "Storage::MetaStoreOpenFailed";
    STORAGE_META_STORE_INVALID_ITERATOR = 4021 "Storage::MetaStoreInvalidIterator";
    STORAGE_CHUNK_NOT_READY_TO_REMOVE = 4022 "Storage::ChunkNotReadyToRemove";
    STORAGE_CHUNK_STALE_COMMIT = 4023 "Storage::ChunkStaleCommit";
    STORAGE_CHUNK_INVALID_CHUNK_SIZE = 4024 "Storage::ChunkInvalidChunkSize";
    STORAGE_TARGET_OFFLINE = 4030 "Storage::TargetOffline";
    STORAGE_TARGET_NOT_FOUND = 4031 "Storage::TargetNotFound";
    STORAGE_TARGET_STATE_INVALID = 4032 "Storage::TargetStateInvalid";
    STORAGE_NO_SUCCESSOR_TARGET = 4033 "Storage::NoSuccessorTarget";
    STORAGE_NO_SUCCESSOR_ADDR = 4034 "Storage::NoSuccessorAddr";
    STORAGE_CHUNK_STORE_INIT_FAILED = 4040 "Storage::ChunkStoreInitFailed";
    STORAGE_AIO_SUBMIT_FAILED = 4050 "Storage::AioSubmitFailed";
    STORAGE_AIO_GET_EVENTS_FAILED = 4051 "Storage::AioGetEventsFailed";
    STORAGE_BUFFER_SIZE_EXCEEDED = 4060 "Storage::BufferSizeExceeded";
    STORAGE_SYNC_START_FAILED = 4070 "Storage::SyncStartFailed";
    STORAGE_SYNC_SEND_START_FAILED = 4071 "Storage::SyncSendStartFailed";
    STORAGE_SYNC_SEND_DONE_FAILED = 4072 "Storage::SyncSendDoneFailed";
    STORAGE_CHECKSUM_MISMATCH = 4080 "Storage::ChecksumMismatch";
    STORAGE_CHAIN_VERSION_MISMATCH = 4081 "Storage::ChainVersionMismatch";
    STORAGE_CHUNK_VERSION_MISMATCH = 4082 "Storage::ChunkVersionMismatch";
    STORAGE_CHANNEL_IS_LOCKED = 4090 "Storage::ChannelIsLocked";
    STORAGE_CHUNK_IS_LOCKED = 4091 "Storage::ChunkIsLocked";
    // 5xxx: cluster manager.
    MGMTD_NOT_PRIMARY = 5000 "Mgmtd::NotPrimary";
    MGMTD_NODE_NOT_FOUND = 5001 "Mgmtd::NodeNotFound";
    MGMTD_HEARTBEAT_FAIL = 5002 "Mgmtd::HeartbeatFail";
    MGMTD_CLUSTER_ID_MISMATCH = 5003 "Mgmtd::ClusterIdMismatch";
    MGMTD_REGISTER_FAIL = 5004 "Mgmtd::RegisterFail";
    MGMTD_INVALID_ROUTING_INFO_VERSION = 5005 "Mgmtd::InvalidRoutingInfoVersion";
    MGMTD_INVALID_CONFIG_VERSION = 5006 "Mgmtd::InvalidConfigVersion";
    MGMTD_INVALID_CHAIN_TABLE = 5007 "Mgmtd::InvalidChainTable";
    MGMTD_INVALID_CHAIN_TABLE_VERSION = 5008 "Mgmtd::InvalidChainTableVersion";
    MGMTD_HEARTBEAT_VERSION_STALE = 5009 "Mgmtd::HeartbeatVersionStale";
    MGMTD_CLIENT_SESSION_VERSION_STALE = 5010 "Mgmtd::ClientSessionVersionStale";
    MGMTD_INVALID_TAG = 5011 "Mgmtd::InvalidTag";
    MGMTD_CHAIN_NOT_FOUND = 5012 "Mgmtd::ChainNotFound";
    MGMTD_NODE_TYPE_MISMATCH = 5013 "Mgmtd::NodeTypeMismatch";
    MGMTD_EXTEND_CLIENT_SESSION_MISMATCH = 5014 "Mgmtd::ExtendClientSessionMismatch";
    MGMTD_CLIENT_SESSION_NOT_FOUND = 5015 "Mgmtd::ClientSessionNotFound";
    MGMTD_NOT_ADMIN = 5016 "Mgmtd::NotAdmin";
    MGMTD_TARGET_NOT_FOUND = 5017 "Mgmtd::TargetNotFound";
    MGMTD_TARGET_EXISTED = 5018 "Mgmtd::TargetExisted";
    // 6xxx: clients of the cluster manager.
    MGMTD_CLIENT_PRIMARY_MGMTD_NOT_FOUND = 6000 "MgmtdClient::PrimaryMgmtdNotFound";
    MGMTD_CLIENT_WORK_QUEUE_FULL = 6001 "MgmtdClient::WorkQueueFull";
    MGMTD_CLIENT_META_SERVICE_NOT_AVAILABLE = 6002 "MgmtdClient::MetaServiceNotAvailable";
    MGMTD_CLIENT_EXIT = 6003 "MgmtdClient::Exit";
    MGMTD_CLIENT_ROUTING_INFO_NOT_READY = 6004 "MgmtdClient::RoutingInfoNotReady";
    // 7xxx: storage clients; some also come from servers.
    STORAGE_CLIENT_INIT_FAILED = 7000 "StorageClient::InitFailed";
    STORAGE_CLIENT_MEMORY_ERROR = 7001 "StorageClient::MemoryError";
    STORAGE_CLIENT_INVALID_ARG = 7002 "StorageClient::InvalidArg";
    STORAGE_CLIENT_NOT_INITIALIZED = 7003 "StorageClient::NotInitialized";
    STORAGE_CLIENT_ROUTING_ERROR = 7004 "StorageClient::RoutingError";
    STORAGE_CLIENT_NOT_AVAILABLE = 7005 "StorageClient::NotAvailable";
    STORAGE_CLIENT_COMM_ERROR = 7006 "StorageClient::CommError";
    STORAGE_CLIENT_CHUNK_NOT_FOUND = 7007 "StorageClient::ChunkNotFound";
    STORAGE_CLIENT_TIMEOUT = 7008 "StorageClient::Timeout";
    STORAGE_CLIENT_BAD_CONFIG = 7009 "StorageClient::BadConfig";
    STORAGE_CLIENT_REMOTE_IO_ERROR = 7010 "StorageClient::RemoteIOError";
    STORAGE_CLIENT_SERVER_ERROR = 7011 "StorageClient::ServerError";
    STORAGE_CLIENT_RESOURCE_BUSY = 7012 "StorageClient::ResourceBusy";
    STORAGE_CLIENT_DUPLICATE_UPDATE = 7013 "StorageClient::DuplicateUpdate";
    STORAGE_CLIENT_ROUTING_VERSION_MISMATCH = 7014 "StorageClient::RoutingVersionMismatch";
    STORAGE_CLIENT_CHECKSUM_MISMATCH = 7015 "StorageClient::ChecksumMismatch";
    STORAGE_CLIENT_NO_RDMA_INTERFACE = 7016 "StorageClient::NoRDMAInterface";
    STORAGE_CLIENT_PROTOCOL_MISMATCH = 7017 "StorageClient::ProtocolMismatch";
    STORAGE_CLIENT_REQUEST_CANCELED = 7018 "StorageClient::RequestCanceled";
    STORAGE_CLIENT_READ_ONLY_SERVER = 7019 "StorageClient::ReadOnlyServer";
    STORAGE_CLIENT_CHUNK_NOT_COMMIT = 7020 "StorageClient::ChunkNotCommit";
    STORAGE_CLIENT_NO_SPACE = 7021 "StorageClient::NoSpace";
    STORAGE_CLIENT_FOUND_BUG = 7999 "StorageClient::FoundBug";
    // 8xxx: FUSE and USRBIO.
    AGENT_TOO_MANY_OPEN_FILES = 8000 "ClientAgent::TooManyOpenFiles";
    AGENT_HOLE_IN_IO_OUTCOME = 8001 "ClientAgent::HoleInIoOutcome";
    AGENT_FAILED_TO_START = 8002 "ClientAgent::FailedToStart";
    AGENT_OPERATION_DISABLED = 8003 "ClientAgent::OperationDisabled";
    AGENT_IOV_NOT_REGISTERED = 8004 "ClientAgent::IovNotRegistered";
    AGENT_IOV_SHM_FAIL = 8006 "ClientAgent::IovShmFail";
    // 10000: command line.
    CLI_WRONG_USAGE = 10000 "Cli::WrongUsage";
    // 11xxx: key-value service, unused in the open 3FS.
    KV_SERVICE_UPDATE_CONFLICT = 11000 "KvService::UpdateConflict";
    KV_SERVICE_OPERATING_BY_OTHERS = 11001 "KvService::OperatingByOthers";
    KV_SERVICE_STORE_NOT_FOUND = 11002 "KvService::StoreNotFound";
    KV_SERVICE_STORE_NOT_AVAILABLE = 11003 "KvService::StoreNotAvailable";
    KV_SERVICE_STORE_LOADED = 11004 "KvService::StoreLoaded";
    KV_SERVICE_CLUSTER_ID_MISMATCH = 11005 "KvService::ClusterIdMismatch";
    KV_SERVICE_NOT_PRIMARY = 11006 "KvService::NotPrimary";
    KV_SERVICE_TABLE_INFO_STALE = 11007 "KvService::TableInfoStale";
    KV_SERVICE_HEARTBEAT_VERSION_STALE = 11008 "KvService::HeartbeatVersionStale";
    KV_SERVICE_UNKNOWN_WORKER = 11009 "KvService::UnknownWorker";
    KV_SERVICE_STORE_LEASE_EMPTY = 11010 "KvService::StoreLeaseEmpty";
    KV_SERVICE_STORE_LEASE_HELD = 11011 "KvService::StoreLeaseHeld";
    KV_SERVICE_TABLE_NOT_FOUND = 11012 "KvService::TableNotFound";
    KV_SERVICE_TABLE_ID_MISMATCH = 11013 "KvService::TableIdMismatch";
    KV_SERVICE_NO_AVAILABLE_WORKER = 11014 "KvService::NoAvailableWorker";
    KV_SERVICE_NO_PERMISSION = 11015 "KvService::NoPermission";
    KV_SERVICE_NO_AVAILABLE_MASTER = 11016 "KvService::NoAvailableMaster";
    KV_SERVICE_STORE_TYPE_MISMATCH = 11017 "KvService::StoreTypeMismatch";
    KV_SERVICE_WRITE_STALE = 11018 "KvService::WriteStale";
    KV_SERVICE_EXISTS = 11019 "KvService::Exists";
    KV_SERVICE_NOT_FOUND = 11020 "KvService::NotFound";
    KV_SERVICE_OUT_OF_RANGE = 11021 "KvService::OutOfRange";
    KV_SERVICE_DELETED = 11022 "KvService::Deleted";
    KV_SERVICE_SERVICE_STOPPING = 11023 "KvService::ServiceStopping";
}

/// A status of this code without a message.
pub fn status(code: u16) -> Status {
    Status { code, message: String::new() }
}

/// A status of this code with a message.
pub fn with_message(code: u16, message: impl Into<String>) -> Status {
    Status { code, message: message.into() }
}

/// Number, name and message of a status, for logs.
pub fn describe(status: &Status) -> String {
    if status.message.is_empty() {
        format!("{}({})", status.code, name(status.code))
    } else {
        format!("{}({}) {}", status.code, name(status.code), status.message)
    }
}

/// True for codes of the RPC layer: known ones of the 2xxx range.
pub fn is_rpc(code: u16) -> bool {
    (2000..3000).contains(&code) && is_known(code)
}

/// True for codes of the storage client: known ones of the 7xxx range.
pub fn is_storage_client(code: u16) -> bool {
    (7000..8000).contains(&code) && is_known(code)
}

/// True for codes of key-value transactions: known ones of the 1xxx range.
pub fn is_transaction(code: u16) -> bool {
    (1000..2000).contains(&code) && is_known(code)
}

/// True for codes of metadata: known ones of the 3xxx range.
pub fn is_meta(code: u16) -> bool {
    (3000..4000).contains(&code) && is_known(code)
}

fn is_known(code: u16) -> bool {
    name(code) != "UnknownStatusCode"
}

/// Linux error numbers used by [`errno`].
mod linux {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EINTR: i32 = 4;
    pub const EIO: i32 = 5;
    pub const EBADF: i32 = 9;
    pub const EAGAIN: i32 = 11;
    pub const ENOMEM: i32 = 12;
    pub const EACCES: i32 = 13;
    pub const EEXIST: i32 = 17;
    pub const ENOTDIR: i32 = 20;
    pub const EISDIR: i32 = 21;
    pub const EINVAL: i32 = 22;
    pub const EMFILE: i32 = 24;
    pub const EFBIG: i32 = 27;
    pub const ENOSPC: i32 = 28;
    pub const EROFS: i32 = 30;
    pub const ENAMETOOLONG: i32 = 36;
    pub const ENOLCK: i32 = 37;
    pub const ENOSYS: i32 = 38;
    pub const ENOTEMPTY: i32 = 39;
    pub const ELOOP: i32 = 40;
    pub const ENODATA: i32 = 61;
    pub const EOPNOTSUPP: i32 = 95;
    pub const EREMOTEIO: i32 = 121;
}

/// The errno that FUSE and USRBIO report for a code (`src/common/utils/StatusCode.cc`). Permission failures are
/// EPERM, never EACCES.
pub fn errno(code: u16) -> i32 {
    use linux::*;
    if is_rpc(code) {
        return EREMOTEIO;
    }
    match code {
        code::OK => 0,
        code::INVALID_ARG => EINVAL,
        code::NOT_IMPLEMENTED => ENOSYS,
        code::NOT_ENOUGH_MEMORY => ENOMEM,
        code::AUTHENTICATION_FAIL => EPERM,
        code::READ_ONLY_MODE => EROFS,
        code::META_REQUEST_CANCELED | code::STORAGE_CLIENT_REQUEST_CANCELED => EINTR,
        code::STORAGE_CLIENT_NO_SPACE => ENOSPC,
        code::META_NOT_FOUND => ENOENT,
        code::META_NOT_EMPTY => ENOTEMPTY,
        code::META_NOT_DIRECTORY => ENOTDIR,
        code::META_TOO_MANY_SYMLINKS => ELOOP,
        code::META_IS_DIRECTORY => EISDIR,
        code::META_EXISTS => EEXIST,
        code::META_NO_PERMISSION => EPERM,
        code::META_NOT_FILE => EBADF,
        code::META_MORE_CHUNKS_TO_REMOVE => EAGAIN,
        code::META_NAME_TOO_LONG => ENAMETOOLONG,
        code::META_NO_LOCK => ENOLCK,
        code::META_FILE_TOO_LARGE => EFBIG,
        code::AGENT_TOO_MANY_OPEN_FILES => EMFILE,
        code::AGENT_HOLE_IN_IO_OUTCOME => ENODATA,
        code::AGENT_OPERATION_DISABLED => EOPNOTSUPP,
        code::AGENT_IOV_NOT_REGISTERED | code::AGENT_IOV_SHM_FAIL => EACCES,
        _ => EIO,
    }
}

/// The storage client's code for a code from a server or the RPC layer
/// (`src/common/utils/StatusCodeConversion.cc`).
pub fn to_storage_client(code: u16) -> u16 {
    match code {
        code::INVALID_ARG => code::STORAGE_CLIENT_INVALID_ARG,
        code::RPC_TIMEOUT => code::STORAGE_CLIENT_TIMEOUT,
        code::RPC_SEND_FAILED | code::RPC_REQUEST_REFUSED => code::STORAGE_CLIENT_COMM_ERROR,
        code::RPC_VERIFY_REQUEST_FAILED | code::RPC_VERIFY_RESPONSE_FAILED => {
            code::STORAGE_CLIENT_PROTOCOL_MISMATCH
        }
        code::STORAGE_CHUNK_METADATA_NOT_FOUND => code::STORAGE_CLIENT_CHUNK_NOT_FOUND,
        code::STORAGE_CHUNK_READ_FAILED => code::STORAGE_CLIENT_REMOTE_IO_ERROR,
        code::STORAGE_CHECKSUM_MISMATCH => code::STORAGE_CLIENT_CHECKSUM_MISMATCH,
        code::STORAGE_CHAIN_VERSION_MISMATCH => code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH,
        code::STORAGE_CHUNK_NOT_COMMIT => code::STORAGE_CLIENT_CHUNK_NOT_COMMIT,
        code::STORAGE_CHANNEL_IS_LOCKED => code::STORAGE_CLIENT_RESOURCE_BUSY,
        code::READ_ONLY_MODE => code::STORAGE_CLIENT_READ_ONLY_SERVER,
        code if is_storage_client(code) => code,
        _ => code::STORAGE_CLIENT_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_errno_and_conversion() {
        assert_eq!(name(3000), "Meta::NotFound");
        assert_eq!(name(4083), "UnknownStatusCode");
        assert_eq!(errno(code::META_NOT_FOUND), 2);
        assert_eq!(errno(code::RPC_TIMEOUT), 121);
        assert_eq!(errno(2004), 5, "2004 is no code");
        assert_eq!(errno(code::META_INCONSISTENT), 5);
        assert_eq!(errno(code::OK), 0);
        assert_eq!(to_storage_client(code::STORAGE_TARGET_OFFLINE), 7011);
        assert_eq!(to_storage_client(7013), 7013);
        assert_eq!(to_storage_client(7900), 7011);
        assert_eq!(to_storage_client(2014), 7011);
        assert_eq!(describe(&with_message(3000, "x")), "3000(Meta::NotFound) x");
        assert_eq!(ALL.len(), ALL.iter().collect::<std::collections::BTreeSet<_>>().len());
    }
}
