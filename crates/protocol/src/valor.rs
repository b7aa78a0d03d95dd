//! Extensions between Valor peers. A C++ 3FS server answers 2008 `InvalidServiceID` to them, upon which a client does
//! without.

use crate::id::{ChainId, ChainVersion, InodeId, RequestId, TargetId};
use crate::meta::{Inode, PathAt, ReqBase, RspBase, SessionInfo, Validate, VersionedLength};
use crate::storage::{IOResult, UpdateChannel, VersionedChainId};
use valor_wire::{Status, Uuid, Wire};

/// Request of `appendReserve`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct AppendReserveReq {
    /// What every request carries; the client must be the session's.
    #[wire(base)]
    pub base: ReqBase,
    /// File.
    pub inode: InodeId,
    /// Session under which it is open for writing.
    pub session: Uuid,
    /// Bytes to append.
    pub len: u64,
    /// Length as the client knows it from its own writes that were not synced yet.
    pub length_hint: Option<VersionedLength>,
}

/// Reply of `appendReserve`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct AppendReserveRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// Where to write; nobody else is given an offset in the `len` bytes from here.
    pub offset: u64,
}

/// `renameat2` flag: fail with 3007 if the new name exists.
pub const RENAME_NOREPLACE: u32 = 1;
/// `renameat2` flag: exchange the two names.
pub const RENAME_EXCHANGE: u32 = 2;

/// Request of `rename2`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct Rename2Req {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// Old name.
    pub src: PathAt,
    /// New name.
    pub dest: PathAt,
    /// 0, [`RENAME_NOREPLACE`] or [`RENAME_EXCHANGE`].
    pub flags: u32,
}

/// Reply of `rename2`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct Rename2Rsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// The inode that had the old name.
    pub stat: Inode,
}

/// Request of `hold`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct HoldReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// File that is open for reading and about to lose its last name.
    pub inode: InodeId,
    /// Session that keeps its data until `close`.
    pub session: SessionInfo,
}

/// Reply of `hold`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct HoldRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// The inode.
    pub stat: Inode,
}

macro_rules! checked_by_the_server {
    ($($req:ty),*) => {$(
        impl Validate for $req {
            fn valid(&self) -> Result<(), Status> {
                Ok(())
            }
        }
    )*};
}

checked_by_the_server!(AppendReserveReq, Rename2Req, HoldReq);

/// Methods of our own that metadata servers serve beside `MetaSerde`, at the same address.
pub mod meta {
    use super::*;
    crate::method::methods! { "ValorMeta", 0x5604;
        /// An offset for an append that no other client gets.
        AppendReserve = 1 "appendReserve" (AppendReserveReq) -> AppendReserveRsp;
        /// Rename with the flags of `renameat2`.
        Rename2 = 2 "rename2" (Rename2Req) -> Rename2Rsp;
        /// Keeps the data of a file that is open for reading only.
        Hold = 3 "hold" (HoldReq) -> HoldRsp;
    }
}

/// How far the filling of a successor is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct SyncProgress {
    /// Chain.
    pub chain_id: ChainId,
    /// Version of the chain in which it is filled.
    pub chain_ver: ChainVersion,
    /// Target being filled.
    pub target_id: TargetId,
    /// Chunks that differed when the filling began.
    pub chunks: u64,
    /// Of them, those that are there.
    pub chunks_done: u64,
    /// Bytes of chunks that differed.
    pub bytes: u64,
    /// Of them, those that are there.
    pub bytes_done: u64,
    /// Milliseconds since it began.
    pub elapsed_ms: u64,
}

/// Request of `listSyncProgress`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct ListSyncProgressReq {
    /// Only these chains; all if empty.
    pub chain_ids: Vec<ChainId>,
}

/// Reply of `listSyncProgress`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct ListSyncProgressRsp {
    /// Successors being filled by this server.
    pub progress: Vec<SyncProgress>,
}

/// A client's update that succeeded: the answer that a repetition of it gets.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct AnsweredUpdate {
    /// Client.
    pub client: Uuid,
    /// Channel and position; on each channel the last update is remembered.
    pub channel: UpdateChannel,
    /// Number among the client's requests.
    pub request_id: RequestId,
    /// Milliseconds since the client was heard on the channel.
    pub age_ms: u64,
    /// The answer.
    pub result: IOResult,
}

/// Request of `rememberUpdates`: what the successor needs besides chunks before it serves. Without it an update whose
/// answer was lost, and that is repeated towards the successor, would be applied again.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RememberUpdatesReq {
    /// Chain and the version under which the successor is filled.
    pub v_chain_id: VersionedChainId,
    /// Updates of the chain.
    pub updates: Vec<AnsweredUpdate>,
}

/// Reply of `rememberUpdates`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RememberUpdatesRsp {
    /// Updates that found no place, or have no client or channel.
    pub left_out: u32,
}

/// Methods of our own that storage servers serve beside `StorageSerde`, at the same address.
pub mod storage {
    pub use super::{
        AnsweredUpdate, ListSyncProgressReq, ListSyncProgressRsp, RememberUpdatesReq, RememberUpdatesRsp,
        SyncProgress,
    };
    crate::method::methods! { "ValorStorage", 0x5605;
        /// How far this server is with filling its successors.
        ListSyncProgress = 1 "listSyncProgress" (ListSyncProgressReq) -> ListSyncProgressRsp;
        /// From a predecessor to a successor that it has filled: who was answered.
        RememberUpdates = 2 "rememberUpdates" (RememberUpdatesReq) -> RememberUpdatesRsp;
    }
}
