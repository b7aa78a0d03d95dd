//! Requests, replies and methods of the metadata service (`src/fbs/meta/Service.h`).

use super::*;
use crate::app::ClientId;
use crate::id::*;
use crate::user::UserInfo;
use bstr::BString;
use valor_wire::{Status, UtcTime, Uuid, Void, Wire};

/// Time value of `setAttr` that means the server's now.
pub const SETATTR_TIME_NOW: UtcTime = UtcTime(-1);

/// What every request carries.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct ReqBase {
    /// Whom the request acts for.
    pub user: UserInfo,
    /// Client process; zero = none.
    pub client: ClientId,
    /// Server that forwarded the request; 0 = it comes from the client.
    pub forward: NodeId,
    /// Names the request, so that a repetition is recognised; zero = none.
    pub uuid: Uuid,
}

/// What every reply carries: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct RspBase {
    /// Nothing.
    pub dummy: Void,
}

/// What `lockDirectory` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Wire)]
#[repr(u8)]
pub enum LockAction {
    /// Lock; fails if another client holds the lock.
    #[default]
    TryLock = 0,
    /// Lock, taking it from another client.
    PreemptLock = 1,
    /// Unlock; fails if another client holds the lock.
    UnLock = 2,
    /// Unlock in any case.
    Clear = 3,
}

/// Request of `statFs`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct StatFsReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
}

/// Reply of `statFs`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct StatFsRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// Bytes in all.
    pub capacity: u64,
    /// Bytes used.
    pub used: u64,
    /// Bytes free.
    pub free: u64,
}

/// Request of `stat`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct StatReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// What.
    pub path: PathAt,
    /// How its last symlink is treated.
    pub flags: AtFlags,
}

/// Reply of `stat`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct StatRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// The inode afterwards.
    pub stat: Inode,
}

/// Request of `create`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct CreateReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// What.
    pub path: PathAt,
    /// Required for write access.
    pub session: Option<SessionInfo>,
    /// How to open.
    pub flags: OpenFlags,
    /// Permission bits.
    pub perm: u32,
    /// Layout; absent = the parent directory's.
    pub layout: Option<Layout>,
    /// Unused by present servers, must not be 0 with O_TRUNC.
    pub remove_chunks_batch_size: u32,
    /// The client can extend the stripe.
    pub dyn_stripe: bool,
}

/// Reply of `create`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct CreateRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// The inode afterwards.
    pub stat: Inode,
    /// The client has to truncate the file.
    pub need_truncate: bool,
}

/// Request of `mkdirs`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct MkdirsReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// What.
    pub path: PathAt,
    /// Permission bits.
    pub perm: u32,
    /// Also the missing ones above.
    pub recursive: bool,
    /// Layout; absent = the parent directory's.
    pub layout: Option<Layout>,
}

/// Reply of `mkdirs`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct MkdirsRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// The inode afterwards.
    pub stat: Inode,
}

/// Request of `symlink`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SymlinkReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// What.
    pub path: PathAt,
    /// Where it points.
    pub target: BString,
}

/// Reply of `symlink`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SymlinkRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// The inode afterwards.
    pub stat: Inode,
}

/// Request of `hardLink`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct HardLinkReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// Existing file.
    pub old_path: PathAt,
    /// New name.
    pub new_path: PathAt,
    /// How the last symlink of the existing name is treated.
    pub flags: AtFlags,
}

/// Reply of `hardLink`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct HardLinkRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// The inode afterwards.
    pub stat: Inode,
}

/// Request of `remove`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RemoveReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// What.
    pub path: PathAt,
    /// REMOVEDIR with `check_type`.
    pub at_flags: AtFlags,
    /// Also a directory that is not empty.
    pub recursive: bool,
    /// Directories only with REMOVEDIR, others only without.
    pub check_type: bool,
    /// Fail with 3000 if it is another inode.
    pub inode_id: Option<InodeId>,
}

/// Reply of `remove`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RemoveRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// Nothing.
    pub dummy: Void,
}

/// Request of `open`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct OpenReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// What.
    pub path: PathAt,
    /// Required for write access.
    pub session: Option<SessionInfo>,
    /// How to open.
    pub flags: OpenFlags,
    /// Unused by present servers, must not be 0 with O_TRUNC.
    pub remove_chunks_batch_size: u32,
    /// The client can extend the stripe.
    pub dyn_stripe: bool,
}

/// Reply of `open`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct OpenRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// Unused.
    pub unused: u32,
    /// The inode afterwards.
    pub stat: Inode,
    /// The client has to truncate the file.
    pub need_truncate: bool,
}

/// Request of `sync`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SyncReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// File.
    pub inode: InodeId,
    /// Bring the recorded length up to date.
    pub update_length: bool,
    /// New access time.
    pub atime: Option<UtcTime>,
    /// New modification time.
    pub mtime: Option<UtcTime>,
    /// The client has truncated the file.
    pub truncated: bool,
    /// Length as the client saw it; absent = ask storage.
    pub length_hint: Option<VersionedLength>,
}

/// Reply of `sync`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SyncRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// Unused.
    pub unused: u32,
    /// The inode afterwards.
    pub stat: Inode,
}

/// Request of `close`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct CloseReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// File.
    pub inode: InodeId,
    /// Required for write access.
    pub session: Option<SessionInfo>,
    /// Bring the recorded length up to date.
    pub update_length: bool,
    /// New access time.
    pub atime: Option<UtcTime>,
    /// New modification time.
    pub mtime: Option<UtcTime>,
    /// Length as the client saw it; absent = ask storage.
    pub length_hint: Option<VersionedLength>,
}

/// Reply of `close`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct CloseRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// Unused.
    pub unused: u32,
    /// The inode afterwards.
    pub stat: Inode,
}

/// Request of `rename`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RenameReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// Old name.
    pub src: PathAt,
    /// New name.
    pub dest: PathAt,
    /// The new name is in the trash.
    pub move_to_trash: bool,
    /// Fail with 3000 if it is another inode.
    pub inode_id: Option<InodeId>,
}

/// Reply of `rename`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RenameRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// Nothing.
    pub dummy: Void,
    /// The inode that was renamed.
    pub stat: Option<Inode>,
}

/// Request of `list`.
#[derive(Clone, Debug, PartialEq, Wire)]
pub struct ListReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// Directory.
    pub path: PathAt,
    /// Entries after this name.
    pub prev: BString,
    /// At most so many; <= 0 = the server's default.
    pub limit: i32,
    /// Also the inodes.
    pub status: bool,
}

impl Default for ListReq {
    fn default() -> Self {
        ListReq {
            base: ReqBase::default(),
            path: PathAt::default(),
            prev: BString::default(),
            limit: -1,
            status: false,
        }
    }
}

/// Reply of `list`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct ListRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// Entries by name.
    pub entries: Vec<DirEntry>,
    /// Their inodes, if asked for.
    pub inodes: Vec<Inode>,
    /// There are more.
    pub more: bool,
}

/// Request of `truncate`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct TruncateReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// File.
    pub inode: InodeId,
    /// New length.
    pub length: u64,
    /// Chunks per call, not 0.
    pub remove_chunks_batch_size: u32,
}

/// Reply of `truncate`.
#[derive(Clone, Debug, PartialEq, Wire)]
pub struct TruncateRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// Chunks removed by this call.
    pub chunks_removed: u32,
    /// The inode afterwards.
    pub stat: Inode,
    /// Nothing is left to do.
    pub finished: bool,
}

impl Default for TruncateRsp {
    fn default() -> Self {
        TruncateRsp { base: RspBase::default(), chunks_removed: 0, stat: Inode::default(), finished: true }
    }
}

/// Request of `getRealPath`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetRealPathReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// What.
    pub path: PathAt,
    /// From the root.
    pub absolute: bool,
}

/// Reply of `getRealPath`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetRealPathRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// The path.
    pub path: BString,
}

/// Request of `setAttr`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetAttrReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// What.
    pub path: PathAt,
    /// How its last symlink is treated.
    pub flags: AtFlags,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New permission bits.
    pub perm: Option<u32>,
    /// New access time; [`SETATTR_TIME_NOW`] = the server's now.
    pub atime: Option<UtcTime>,
    /// New modification time; [`SETATTR_TIME_NOW`] = the server's now.
    pub mtime: Option<UtcTime>,
    /// New layout of a directory.
    pub layout: Option<Layout>,
    /// New flags.
    pub iflags: Option<IFlags>,
    /// Extend the stripe to at least so many chains; 0 = leave it.
    pub dyn_stripe: u32,
}

/// Reply of `setAttr`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetAttrRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// The inode afterwards.
    pub stat: Inode,
}

/// Request of `pruneSession`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct PruneSessionReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// Whose; a second field of this name besides the base's.
    pub client: ClientId,
    /// Sessions.
    pub sessions: Vec<Uuid>,
    /// Deprecated.
    pub need_sync: Vec<bool>,
}

/// Reply of `pruneSession`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct PruneSessionRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// Nothing.
    pub dummy: Void,
}

/// Request of `dropUserCache`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct DropUserCacheReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// Which.
    pub uid: Option<u32>,
    /// All.
    pub drop_all: bool,
}

/// Reply of `dropUserCache`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct DropUserCacheRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// Nothing.
    pub dummy: Void,
}

/// Request of `authenticate`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct AuthReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// Nothing.
    pub dummy: Void,
}

/// Reply of `authenticate`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct AuthRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// The caller as the server knows it.
    pub user: UserInfo,
}

/// Request of `lockDirectory`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct LockDirectoryReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// Directory.
    pub inode: InodeId,
    /// What to do.
    pub action: LockAction,
}

/// Reply of `lockDirectory`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct LockDirectoryRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// Nothing.
    pub dummy: Void,
}

/// Request of `batchStat`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct BatchStatReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// Which.
    pub inode_ids: Vec<InodeId>,
}

/// Reply of `batchStat`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct BatchStatRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// In the request's order; absent = unknown.
    pub inodes: Vec<Option<Inode>>,
}

/// Request of `batchStatByPath`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct BatchStatByPathReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// Which.
    pub paths: Vec<PathAt>,
    /// How last symlinks are treated.
    pub flags: AtFlags,
}

/// Reply of `batchStatByPath`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct BatchStatByPathRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// In the request's order.
    pub inodes: Vec<Result<Inode, Status>>,
}

/// Request of `testRpc`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct TestRpcReq {
    /// What every request carries.
    #[wire(base)]
    pub base: ReqBase,
    /// What.
    pub path: PathAt,
    /// Unused.
    pub flags: u32,
}

/// Reply of `testRpc`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct TestRpcRsp {
    /// What every reply carries.
    #[wire(base)]
    pub base: RspBase,
    /// The inode afterwards.
    pub stat: Inode,
}

/// Methods of the metadata service.
pub mod methods {
    use super::*;
    crate::method::methods! { "MetaSerde", 4;
        /// Space of the whole cluster.
        StatFs = 1 "statFs" (StatFsReq) -> StatFsRsp;
        /// An inode.
        Stat = 2 "stat" (StatReq) -> StatRsp;
        /// Creates a file, or opens an existing one.
        Create = 3 "create" (CreateReq) -> CreateRsp;
        /// Creates directories.
        Mkdirs = 4 "mkdirs" (MkdirsReq) -> MkdirsRsp;
        /// Creates a symlink.
        Symlink = 5 "symlink" (SymlinkReq) -> SymlinkRsp;
        /// Creates another name of a file.
        HardLink = 6 "hardLink" (HardLinkReq) -> HardLinkRsp;
        /// Removes a name.
        Remove = 7 "remove" (RemoveReq) -> RemoveRsp;
        /// Opens a file.
        Open = 8 "open" (OpenReq) -> OpenRsp;
        /// Brings a file's length and times up to date.
        Sync = 9 "sync" (SyncReq) -> SyncRsp;
        /// Ends an open file.
        Close = 10 "close" (CloseReq) -> CloseRsp;
        /// Renames.
        Rename = 11 "rename" (RenameReq) -> RenameRsp;
        /// Lists a directory.
        List = 12 "list" (ListReq) -> ListRsp;
        /// Deprecated: servers answer 1 NotImplemented.
        Truncate = 13 "truncate" (TruncateReq) -> TruncateRsp;
        /// A path without symlinks.
        GetRealPath = 14 "getRealPath" (GetRealPathReq) -> GetRealPathRsp;
        /// Changes an inode's attributes.
        SetAttr = 15 "setAttr" (SetAttrReq) -> SetAttrRsp;
        /// Ends open files that no close will end.
        PruneSession = 16 "pruneSession" (PruneSessionReq) -> PruneSessionRsp;
        /// Forgets cached users.
        DropUserCache = 17 "dropUserCache" (DropUserCacheReq) -> DropUserCacheRsp;
        /// Resolves the caller.
        Authenticate = 18 "authenticate" (AuthReq) -> AuthRsp;
        /// Locks or unlocks a directory.
        LockDirectory = 19 "lockDirectory" (LockDirectoryReq) -> LockDirectoryRsp;
        /// Inodes by number.
        BatchStat = 20 "batchStat" (BatchStatReq) -> BatchStatRsp;
        /// Inodes by path.
        BatchStatByPath = 21 "batchStatByPath" (BatchStatByPathReq) -> BatchStatByPathRsp;
        /// Nothing; to see whether a server answers.
        TestRpc = 50 "testRpc" (TestRpcReq) -> TestRpcRsp;
    }
}
