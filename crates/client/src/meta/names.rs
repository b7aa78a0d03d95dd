//! Names, directories and attributes.

use super::{MetaClient, at_flags};
use bstr::BString;
use valor_protocol::meta::methods::*;
use valor_protocol::meta::*;
use valor_protocol::status::{code, with_message};
use valor_protocol::user::UserInfo;
use valor_protocol::*;

/// Permission bits that requests may carry.
const ALL_PERMISSIONS: u32 = 0o7777;

/// New values of attributes; absent ones stay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Permissions {
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Permission bits.
    pub perm: Option<u32>,
    /// Flags.
    pub iflags: Option<IFlags>,
}

impl MetaClient {
    /// The caller as servers know it.
    ///
    /// # Errors
    /// 25 for an unknown token. As [`MetaClient::call`].
    pub async fn authenticate(&self, user: &UserInfo) -> Result<UserInfo, Status> {
        Ok(self.call::<Authenticate>(AuthReq { base: self.base(user), ..AuthReq::default() }).await?.user)
    }

    /// Space of the cluster.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn stat_fs(&self, user: &UserInfo) -> Result<StatFsRsp, Status> {
        self.call::<StatFs>(StatFsReq { base: self.base(user) }).await
    }

    /// An inode.
    ///
    /// # Errors
    /// 3000 if there is none. As [`MetaClient::call`].
    pub async fn stat(&self, user: &UserInfo, path: PathAt, follow: bool) -> Result<Inode, Status> {
        Ok(self.call::<Stat>(StatReq { base: self.base(user), path, flags: at_flags(follow) }).await?.stat)
    }

    /// Inodes by number, in order; none for those that do not exist.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn batch_stat(
        &self,
        user: &UserInfo,
        inode_ids: Vec<InodeId>,
    ) -> Result<Vec<Option<Inode>>, Status> {
        let count = inode_ids.len();
        let inodes = self.call::<BatchStat>(BatchStatReq { base: self.base(user), inode_ids }).await?.inodes;
        same_count(inodes, count)
    }

    /// Inodes by path, in order.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn batch_stat_by_path(
        &self,
        user: &UserInfo,
        paths: Vec<PathAt>,
        follow: bool,
    ) -> Result<Vec<Result<Inode, Status>>, Status> {
        let count = paths.len();
        let req = BatchStatByPathReq { base: self.base(user), paths, flags: at_flags(follow) };
        same_count(self.call::<BatchStatByPath>(req).await?.inodes, count)
    }

    /// A path without symlinks.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn get_real_path(
        &self,
        user: &UserInfo,
        path: PathAt,
        absolute: bool,
    ) -> Result<BString, Status> {
        Ok(self.call::<GetRealPath>(GetRealPathReq { base: self.base(user), path, absolute }).await?.path)
    }

    /// Entries of a directory after `prev`, at most `limit` (<= 0: the server's default); with `status`, their inodes.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn list(
        &self,
        user: &UserInfo,
        path: PathAt,
        prev: impl Into<BString>,
        limit: i32,
        status: bool,
    ) -> Result<ListRsp, Status> {
        self.call::<List>(ListReq { base: self.base(user), path, prev: prev.into(), limit, status }).await
    }

    /// Creates directories; the last one.
    ///
    /// # Errors
    /// 3007 if it exists. As [`MetaClient::call`].
    pub async fn mkdirs(
        &self,
        user: &UserInfo,
        path: PathAt,
        perm: u32,
        recursive: bool,
        layout: Option<Layout>,
    ) -> Result<Inode, Status> {
        let layout = layout.map(|layout| self.with_table_version(layout)).transpose()?;
        let perm = perm & ALL_PERMISSIONS;
        Ok(self
            .call::<Mkdirs>(MkdirsReq { base: self.named_base(user), path, perm, recursive, layout })
            .await?
            .stat)
    }

    /// Creates a symlink.
    ///
    /// # Errors
    /// 3007 if the name exists. As [`MetaClient::call`].
    pub async fn symlink(
        &self,
        user: &UserInfo,
        path: PathAt,
        target: impl Into<BString>,
    ) -> Result<Inode, Status> {
        let req = SymlinkReq { base: self.named_base(user), path, target: target.into() };
        Ok(self.call::<methods::Symlink>(req).await?.stat)
    }

    /// Creates another name of a file.
    ///
    /// # Errors
    /// 3007 if the name exists, 3006 for a directory. As [`MetaClient::call`].
    pub async fn hard_link(
        &self,
        user: &UserInfo,
        old_path: PathAt,
        new_path: PathAt,
        follow: bool,
    ) -> Result<Inode, Status> {
        let req = HardLinkReq { base: self.named_base(user), old_path, new_path, flags: at_flags(follow) };
        Ok(self.call::<HardLink>(req).await?.stat)
    }

    /// Removes a name of any type; with `recursive` also a directory that is not empty.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn remove(&self, user: &UserInfo, path: PathAt, recursive: bool) -> Result<(), Status> {
        self.remove_with(user, path, AtFlags(0), recursive, false).await
    }

    /// Removes a name that is no directory.
    ///
    /// # Errors
    /// 3006 for a directory. As [`MetaClient::call`].
    pub async fn unlink(&self, user: &UserInfo, path: PathAt) -> Result<(), Status> {
        self.remove_with(user, path, AtFlags(0), false, true).await
    }

    /// Removes a directory; with `recursive` also one that is not empty.
    ///
    /// # Errors
    /// 3003 if it is none, 3001 if it is not empty. As [`MetaClient::call`].
    pub async fn rmdir(&self, user: &UserInfo, path: PathAt, recursive: bool) -> Result<(), Status> {
        self.remove_with(user, path, AtFlags::REMOVEDIR, recursive, true).await
    }

    async fn remove_with(
        &self,
        user: &UserInfo,
        path: PathAt,
        at_flags: AtFlags,
        recursive: bool,
        check_type: bool,
    ) -> Result<(), Status> {
        // A repetition must not remove what has taken the name meanwhile.
        let inode_id = if recursive { Some(self.stat(user, path.clone(), false).await?.id) } else { None };
        let base = self.named_base(user);
        let req = RemoveReq { base, path, at_flags, recursive, check_type, inode_id };
        self.call::<Remove>(req).await.map(drop)
    }

    /// Renames; the inode that was renamed.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn rename(
        &self,
        user: &UserInfo,
        src: PathAt,
        dest: PathAt,
        move_to_trash: bool,
    ) -> Result<Inode, Status> {
        let inode_id = if move_to_trash { Some(self.stat(user, src.clone(), false).await?.id) } else { None };
        let req = RenameReq { base: self.named_base(user), src, dest: dest.clone(), move_to_trash, inode_id };
        match self.call::<Rename>(req).await?.stat {
            Some(inode) => Ok(inode),
            // Servers of older versions do not send it.
            None => self.stat(user, dest, false).await,
        }
    }

    async fn set_attr(&self, mut req: SetAttrReq) -> Result<Inode, Status> {
        // A copy that comes late must not set back what was changed since. Growth never goes back.
        if req.dyn_stripe == 0 {
            req.base.uuid = self.named_base(&req.base.user).uuid;
        }
        Ok(self.call::<SetAttr>(req).await?.stat)
    }

    /// Changes owner, group, permission bits or flags.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn set_permission(
        &self,
        user: &UserInfo,
        path: PathAt,
        follow: bool,
        new: Permissions,
    ) -> Result<Inode, Status> {
        let Permissions { uid, gid, perm, iflags } = new;
        let base = self.base(user);
        let flags = at_flags(follow);
        self.set_attr(SetAttrReq { base, path, flags, uid, gid, perm, iflags, ..SetAttrReq::default() }).await
    }

    /// Changes the flags of an inode.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn set_iflags(&self, user: &UserInfo, inode: InodeId, iflags: IFlags) -> Result<Inode, Status> {
        let (base, path) = (self.base(user), PathAt::inode(inode));
        self.set_attr(SetAttrReq { base, path, iflags: Some(iflags), ..SetAttrReq::default() }).await
    }

    /// Changes times; [`SETATTR_TIME_NOW`] is the server's now.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn utimes(
        &self,
        user: &UserInfo,
        path: PathAt,
        follow: bool,
        atime: Option<UtcTime>,
        mtime: Option<UtcTime>,
    ) -> Result<Inode, Status> {
        let (base, flags) = (self.base(user), at_flags(follow));
        self.set_attr(SetAttrReq { base, path, flags, atime, mtime, ..SetAttrReq::default() }).await
    }

    /// Changes the layout of a directory's new files.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn set_layout(&self, user: &UserInfo, path: PathAt, layout: Layout) -> Result<Inode, Status> {
        let base = self.base(user);
        self.set_attr(SetAttrReq { base, path, layout: Some(layout), ..SetAttrReq::default() }).await
    }

    /// Extends a file's stripe to at least `stripe` chains.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn extend_stripe(&self, user: &UserInfo, inode: InodeId, stripe: u32) -> Result<Inode, Status> {
        let (base, path) = (self.base(user), PathAt::inode(inode));
        self.set_attr(SetAttrReq { base, path, dyn_stripe: stripe, ..SetAttrReq::default() }).await
    }

    /// Locks or unlocks a directory.
    ///
    /// # Errors
    /// 3101 if another client holds the lock. As [`MetaClient::call`].
    pub async fn lock_directory(
        &self,
        user: &UserInfo,
        inode: InodeId,
        action: LockAction,
    ) -> Result<(), Status> {
        self.call::<LockDirectory>(LockDirectoryReq { base: self.named_base(user), inode, action })
            .await
            .map(drop)
    }

    /// Has a server forget cached users.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn drop_user_cache(
        &self,
        user: &UserInfo,
        uid: Option<u32>,
        drop_all: bool,
    ) -> Result<(), Status> {
        self.call::<DropUserCache>(DropUserCacheReq { base: self.base(user), uid, drop_all }).await.map(drop)
    }

    /// Sees whether a server answers.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn test_rpc(&self) -> Result<(), Status> {
        self.call::<TestRpc>(TestRpcReq::default()).await.map(drop)
    }

    /// Gives a chain list that names a table without a version the newest one.
    pub(super) fn with_table_version(&self, mut layout: Layout) -> Result<Layout, Status> {
        let unversioned = layout.table_id.0 != 0 && layout.table_version.0 == 0;
        if unversioned && matches!(layout.chains, Chains::ChainList(_)) {
            let routing = self.mgmtd.routing();
            let table =
                routing.info().chain_table(layout.table_id, layout.table_version).ok_or_else(|| {
                    let message = format!("chain table {} is not known", layout.table_id);
                    with_message(code::META_INVALID_FILE_LAYOUT, message)
                })?;
            layout.table_version = table.chain_table_version;
            layout.valid(true)?;
        }
        Ok(layout)
    }
}

fn same_count<T>(results: Vec<T>, count: usize) -> Result<Vec<T>, Status> {
    if results.len() == count {
        return Ok(results);
    }
    Err(with_message(code::META_FOUND_BUG, format!("{} results for {count} questions", results.len())))
}
