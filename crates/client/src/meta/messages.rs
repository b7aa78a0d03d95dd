//! What all metadata requests and responses have in common.

use valor_protocol::meta::*;
use valor_protocol::valor::{AppendReserveReq, AppendReserveRsp, HoldReq, HoldRsp, Rename2Req, Rename2Rsp};

/// A metadata request.
pub trait MetaRequest {
    /// The part that every request carries.
    fn base_mut(&mut self) -> &mut ReqBase;
    /// Whether carrying it out again does nothing else than once. If so it may be repeated under another name, when servers
    /// may have forgotten the answer to the first.
    const IDEMPOTENT: bool = false;
}

impl MetaRequest for SetAttrReq {
    const IDEMPOTENT: bool = true;

    fn base_mut(&mut self) -> &mut ReqBase {
        &mut self.base
    }
}

/// A metadata response.
pub trait MetaResponse {
    /// Calls `visit` for every inode in it.
    fn for_each_inode(&self, visit: &mut dyn FnMut(&Inode));
}

macro_rules! requests {
    ($($req:ident)*) => {$(
        impl MetaRequest for $req {
            fn base_mut(&mut self) -> &mut ReqBase {
                &mut self.base
            }
        }
    )*};
}

requests! {
    StatFsReq StatReq CreateReq MkdirsReq SymlinkReq HardLinkReq RemoveReq OpenReq SyncReq CloseReq RenameReq ListReq
    TruncateReq GetRealPathReq PruneSessionReq DropUserCacheReq AuthReq LockDirectoryReq BatchStatReq
    BatchStatByPathReq TestRpcReq AppendReserveReq Rename2Req HoldReq
}

macro_rules! with_stat {
    ($($rsp:ident)*) => {$(
        impl MetaResponse for $rsp {
            fn for_each_inode(&self, visit: &mut dyn FnMut(&Inode)) {
                visit(&self.stat);
            }
        }
    )*};
}

with_stat! {
    StatRsp CreateRsp MkdirsRsp SymlinkRsp HardLinkRsp OpenRsp SyncRsp CloseRsp TruncateRsp SetAttrRsp Rename2Rsp
    HoldRsp
}

macro_rules! without_inodes {
    ($($rsp:ident)*) => {$(
        impl MetaResponse for $rsp {
            fn for_each_inode(&self, _: &mut dyn FnMut(&Inode)) {}
        }
    )*};
}

// The inode of `testRpc` is a default one.
without_inodes! {
    StatFsRsp RemoveRsp GetRealPathRsp PruneSessionRsp DropUserCacheRsp AuthRsp LockDirectoryRsp TestRpcRsp
    AppendReserveRsp
}

impl MetaResponse for RenameRsp {
    fn for_each_inode(&self, visit: &mut dyn FnMut(&Inode)) {
        self.stat.iter().for_each(visit);
    }
}

impl MetaResponse for ListRsp {
    fn for_each_inode(&self, visit: &mut dyn FnMut(&Inode)) {
        self.inodes.iter().for_each(visit);
    }
}

impl MetaResponse for BatchStatRsp {
    fn for_each_inode(&self, visit: &mut dyn FnMut(&Inode)) {
        self.inodes.iter().flatten().for_each(visit);
    }
}

impl MetaResponse for BatchStatByPathRsp {
    fn for_each_inode(&self, visit: &mut dyn FnMut(&Inode)) {
        self.inodes.iter().flatten().for_each(visit);
    }
}
