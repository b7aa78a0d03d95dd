//! The real cluster: metadata and storage clients.

use crate::cluster::Cluster;
use crate::config::Config;
use bstr::BString;
use bytes::Bytes;
use std::sync::Arc;
use valor_client::StorageClient;
use valor_client::file::{FileIo, FileMap, FileRead, FileReadOptions, FileWrite, FileWriteOptions, Holes};
use valor_client::meta::{FileChange, MetaClient, Permissions};
use valor_config::Live;
use valor_protocol::InodeId;
use valor_protocol::meta::*;
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_protocol::valor;
use valor_wire::{Status, UtcTime, Uuid};

/// Clients of the services of one cluster.
pub struct Clients {
    meta: Arc<MetaClient>,
    files: FileIo,
    config: Arc<Live<Config>>,
}

impl Clients {
    /// Over clients that were started. They follow changes of the configuration.
    pub fn new(meta: Arc<MetaClient>, storage: Arc<StorageClient>, config: Arc<Live<Config>>) -> Self {
        let (followed, stored) = (Arc::downgrade(&meta), Arc::downgrade(&storage));
        config.on_update(move |config| {
            if let Some(meta) = followed.upgrade() {
                meta.set_config(config.meta.clone());
                meta.mgmtd().set_config(config.mgmtd.clone());
            }
            if let Some(storage) = stored.upgrade() {
                storage.set_config(config.storage.clone());
            }
        });
        Clients { meta, files: FileIo::new(storage), config }
    }

    fn read_options(&self, holes: Holes) -> FileReadOptions {
        let config = self.config.get();
        let max_piece = config.chunk_size_limit.get() as u32;
        FileReadOptions { holes, max_piece, storage: config.storage_io.read.clone() }
    }

    fn write_options(&self) -> FileWriteOptions {
        let config = self.config.get();
        let max_piece = config.chunk_size_limit.get() as u32;
        FileWriteOptions { max_piece, storage: config.storage_io.write.clone() }
    }

    /// What requests of our own methods carry.
    fn base(&self, user: &UserInfo) -> ReqBase {
        ReqBase { user: user.clone(), client: self.meta.client_id().clone(), ..ReqBase::default() }
    }
}

impl Cluster for Clients {
    async fn stat(&self, user: &UserInfo, path: PathAt) -> Result<Inode, Status> {
        self.meta.stat(user, path, false).await
    }

    async fn stat_fs(&self, user: &UserInfo) -> Result<StatFsRsp, Status> {
        self.meta.stat_fs(user).await
    }

    async fn real_path(&self, user: &UserInfo, inode: InodeId) -> Result<BString, Status> {
        self.meta.get_real_path(user, PathAt::inode(inode), true).await
    }

    async fn open(
        &self,
        user: &UserInfo,
        inode: InodeId,
        session: Option<Uuid>,
        flags: OpenFlags,
    ) -> Result<Inode, Status> {
        self.meta.open(user, PathAt::inode(inode), session, flags).await
    }

    async fn create(
        &self,
        user: &UserInfo,
        path: PathAt,
        session: Option<Uuid>,
        flags: OpenFlags,
        perm: u32,
    ) -> Result<Inode, Status> {
        self.meta.create(user, path, session, flags, perm, None).await
    }

    async fn close(
        &self,
        user: &UserInfo,
        inode: InodeId,
        session: Option<Uuid>,
        change: FileChange,
    ) -> Result<Inode, Status> {
        self.meta.close(user, inode, session, change).await
    }

    fn close_later(&self, user: &UserInfo, inode: InodeId, session: Uuid, change: FileChange) {
        self.meta.close_later(user, inode, session, change);
    }

    async fn sync(&self, user: &UserInfo, inode: InodeId, change: FileChange) -> Result<Inode, Status> {
        self.meta.sync(user, inode, change).await
    }

    async fn set_permission(
        &self,
        user: &UserInfo,
        inode: InodeId,
        new: Permissions,
    ) -> Result<Inode, Status> {
        self.meta.set_permission(user, PathAt::inode(inode), false, new).await
    }

    async fn utimes(
        &self,
        user: &UserInfo,
        inode: InodeId,
        atime: Option<UtcTime>,
        mtime: Option<UtcTime>,
    ) -> Result<Inode, Status> {
        self.meta.utimes(user, PathAt::inode(inode), false, atime, mtime).await
    }

    async fn truncate(&self, user: &UserInfo, inode: InodeId, length: u64) -> Result<Inode, Status> {
        self.meta.truncate(user, inode, length).await
    }

    async fn extend(&self, user: &UserInfo, inode: InodeId, length: u64) -> Result<Inode, Status> {
        self.meta.extend(user, inode, length).await
    }

    async fn extend_stripe(&self, user: &UserInfo, inode: InodeId, stripe: u32) -> Result<Inode, Status> {
        self.meta.extend_stripe(user, inode, stripe).await
    }

    async fn mkdir(&self, user: &UserInfo, path: PathAt, perm: u32) -> Result<Inode, Status> {
        self.meta.mkdirs(user, path, perm, false, None).await
    }

    async fn symlink(&self, user: &UserInfo, path: PathAt, target: Bytes) -> Result<Inode, Status> {
        self.meta.symlink(user, path, &target[..]).await
    }

    async fn hard_link(&self, user: &UserInfo, inode: InodeId, new: PathAt) -> Result<Inode, Status> {
        self.meta.hard_link(user, PathAt::inode(inode), new, false).await
    }

    async fn unlink(&self, user: &UserInfo, path: PathAt) -> Result<(), Status> {
        self.meta.unlink(user, path).await
    }

    async fn rmdir(&self, user: &UserInfo, path: PathAt) -> Result<(), Status> {
        self.meta.rmdir(user, path, false).await
    }

    async fn remove(&self, user: &UserInfo, path: PathAt, recursive: bool) -> Result<(), Status> {
        self.meta.remove(user, path, recursive).await
    }

    async fn rename(
        &self,
        user: &UserInfo,
        from: PathAt,
        to: PathAt,
        to_trash: bool,
    ) -> Result<Inode, Status> {
        self.meta.rename(user, from, to, to_trash).await
    }

    async fn rename_with(
        &self,
        user: &UserInfo,
        from: PathAt,
        to: PathAt,
        flags: u32,
    ) -> Result<Inode, Status> {
        let req = valor::Rename2Req { base: self.base(user), src: from, dest: to, flags };
        Ok(self.meta.call::<valor::meta::Rename2>(req).await?.stat)
    }

    async fn list(
        &self,
        user: &UserInfo,
        inode: InodeId,
        after: BString,
        limit: i32,
        inodes: bool,
    ) -> Result<ListRsp, Status> {
        self.meta.list(user, PathAt::inode(inode), after, limit, inodes).await
    }

    async fn lock_directory(
        &self,
        user: &UserInfo,
        inode: InodeId,
        action: LockAction,
    ) -> Result<(), Status> {
        self.meta.lock_directory(user, inode, action).await
    }

    async fn reserve_append(
        &self,
        user: &UserInfo,
        inode: InodeId,
        session: Uuid,
        len: u64,
        hint: Option<VersionedLength>,
    ) -> Result<u64, Status> {
        let req = valor::AppendReserveReq { base: self.base(user), inode, session, len, length_hint: hint };
        Ok(self.meta.call::<valor::meta::AppendReserve>(req).await?.offset)
    }

    async fn hold(&self, user: &UserInfo, inode: InodeId, session: Uuid) -> Result<(), Status> {
        let session = SessionInfo { client: self.meta.client_id().clone(), session };
        let req = valor::HoldReq { base: self.base(user), inode, session };
        self.meta.call::<valor::meta::Hold>(req).await.map(drop)
    }

    async fn read(
        &self,
        user: &UserInfo,
        map: &FileMap,
        offset: u64,
        length: u32,
        file_length: u64,
    ) -> Result<Vec<Bytes>, Status> {
        let read = FileRead { map, offset, length, file_length: Some(file_length) };
        Ok(self.files.read(user, read, &self.read_options(Holes::Zeros)).await?.segments)
    }

    async fn write(&self, user: &UserInfo, map: &FileMap, offset: u64, data: Bytes) -> Result<u64, Status> {
        // Owned, since the compiler cannot see that the storage client's closures are `Send` for borrowed arguments.
        let (files, user, map, options) =
            (self.files.clone(), user.clone(), map.clone(), self.write_options());
        let write = async move { files.write(&user, FileWrite { map: &map, offset, data }, &options).await };
        write.await
    }

    async fn punch(&self, user: &UserInfo, map: &FileMap, start: u64, end: u64) -> Result<(), Status> {
        self.files.punch(user, map, start, end).await.map(drop)
    }

    async fn chunks_present(
        &self,
        user: &UserInfo,
        map: &FileMap,
        first: u32,
        count: u32,
    ) -> Result<Vec<bool>, Status> {
        let size = u64::from(map.chunk_size());
        let probe = |index| FileRead { map, offset: u64::from(index) * size, length: 1, file_length: None };
        let probes: Vec<FileRead<'_>> = (first..first.saturating_add(count)).map(probe).collect();
        let results = self.files.read_many(user, &probes, &self.read_options(Holes::Zeros)).await;
        let present = |result: Result<valor_client::file::FileData, Status>| match result {
            Ok(data) => Ok(!data.is_empty()),
            Err(status) if status.code == code::STORAGE_CLIENT_CHUNK_NOT_FOUND => Ok(false),
            Err(status) => Err(status),
        };
        results.into_iter().map(present).collect()
    }
}
