//! A cluster in this process: the real metadata service over memory, and chunks in a map.

use bstr::BString;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::watch;
use valor_client::file::FileMap;
use valor_client::meta::{FileChange, Permissions};
use valor_config::Live;
use valor_env::Env;
use valor_fuse::Cluster;
use valor_kv::Database;
use valor_meta::{BoxFuture, ChainState, ChunkAccess, Config, Deps, Meta, Space, Users};
use valor_protocol::app::ClientId;
use valor_protocol::meta::*;
use valor_protocol::mgmtd::ListClientSessionsRsp;
use valor_protocol::status::{code, status};
use valor_protocol::user::{UserAttr, UserInfo};
use valor_protocol::{Address, ChainTableId, ChainTableVersion, InodeId, NodeId, valor};
use valor_rpc::{Client, ClientConfig};
use valor_wire::{Status, UtcTime, Uuid};

/// Bytes per chunk of all files.
pub const CHUNK: u64 = 256 << 10;
const STRIPE: u32 = 4;
const CHAINS: usize = 8;
const META_NODE: NodeId = NodeId(50);

/// Chunks of all files, with switches to make them fail or wait.
pub struct Storage {
    chunks: Mutex<HashMap<InodeId, BTreeMap<u32, Vec<u8>>>>,
    /// Code that writes fail with; 0 for success.
    pub write_failure: AtomicU64,
    /// Writes wait while this is true.
    pub held: watch::Sender<bool>,
    /// Writes begun.
    pub writes: AtomicU64,
    /// Reads begun.
    pub reads: AtomicU64,
}

impl Storage {
    fn length(&self, inode: InodeId) -> u64 {
        let chunks = self.chunks.lock();
        let last = chunks.get(&inode).and_then(|chunks| chunks.last_key_value());
        last.map_or(0, |(index, data)| u64::from(*index) * CHUNK + data.len() as u64)
    }

    /// Numbers of a file's chunks.
    pub fn present(&self, inode: InodeId) -> Vec<u32> {
        self.chunks.lock().get(&inode).map(|chunks| chunks.keys().copied().collect()).unwrap_or_default()
    }

    fn write(&self, inode: InodeId, offset: u64, data: &[u8]) {
        let mut chunks = self.chunks.lock();
        let chunks = chunks.entry(inode).or_default();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (index, start) = ((at / CHUNK) as u32, (at % CHUNK) as usize);
            let part = (CHUNK as usize - start).min(data.len() - done);
            let chunk = chunks.entry(index).or_default();
            if chunk.len() < start + part {
                chunk.resize(start + part, 0);
            }
            chunk[start..start + part].copy_from_slice(&data[done..done + part]);
            done += part;
        }
    }

    fn read(&self, inode: InodeId, offset: u64, length: u64, known: u64) -> Bytes {
        let chunks = self.chunks.lock();
        let ends = chunks.get(&inode).into_iter().flatten();
        let ends = ends.map(|(index, chunk)| u64::from(*index) * CHUNK + chunk.len() as u64);
        // Chunks that are not there are holes as far as the file is known to reach.
        let stored = ends.filter(|end| (offset..offset + length + CHUNK).contains(end)).max().unwrap_or(0);
        let end = (offset + length).min(known.max(stored));
        let mut data = vec![0; end.saturating_sub(offset) as usize];
        for (index, chunk) in chunks.get(&inode).into_iter().flatten() {
            let start = u64::from(*index) * CHUNK;
            let (from, to) = (start.max(offset), (start + chunk.len() as u64).min(end));
            if from < to {
                data[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&chunk[(from - start) as usize..(to - start) as usize]);
            }
        }
        data.into()
    }
}

impl ChunkAccess for Storage {
    fn file_length<'a>(&'a self, inode: &'a Inode, _: bool) -> BoxFuture<'a, Result<u64, Status>> {
        Box::pin(async { Ok(self.length(inode.id)) })
    }

    fn remove_chunks<'a>(
        &'a self,
        inode: &'a Inode,
        _: u32,
        _: bool,
    ) -> BoxFuture<'a, Result<(u64, bool), Status>> {
        Box::pin(async { Ok((self.chunks.lock().remove(&inode.id).map_or(0, |c| c.len() as u64), false)) })
    }

    fn space(&self) -> BoxFuture<'_, Result<Space, Status>> {
        Box::pin(async { Ok(Space { capacity: 100 << 30, free: 60 << 30 }) })
    }
}

struct Routes;

impl valor_meta::Cluster for Routes {
    fn chain_table(&self, table: ChainTableId, _: ChainTableVersion) -> Option<(ChainTableVersion, usize)> {
        (table.0 == 1).then_some((ChainTableVersion(1), CHAINS))
    }
    fn chain(&self, _: ChainTableId, _: ChainTableVersion, _: u32) -> ChainState {
        ChainState::Usable
    }
    fn meta_servers(&self) -> Vec<NodeId> {
        vec![META_NODE]
    }
    fn meta_address(&self, _: NodeId) -> Option<Address> {
        None
    }
    fn client_sessions(&self) -> BoxFuture<'_, Result<ListClientSessionsRsp, Status>> {
        Box::pin(async { Ok(ListClientSessionsRsp::default()) })
    }
}

struct Everybody;

impl Users for Everybody {
    fn authenticate<'a>(&'a self, user: &'a UserInfo) -> BoxFuture<'a, Result<UserInfo, Status>> {
        Box::pin(async { Ok(user.clone()) })
    }
    fn user(&self, _: u32) -> BoxFuture<'_, Result<Option<UserAttr>, Status>> {
        Box::pin(async { Ok(None) })
    }
    fn forget(&self, _: Option<u32>) {}
}

/// The services, shared by all mounts of a test.
pub struct Services {
    pub meta: Arc<Meta>,
    pub storage: Arc<Storage>,
    /// Pretends that the metadata service is a C++ one.
    pub no_extensions: AtomicBool,
    /// Code that changes of a length fail with; 0 for success.
    pub length_failure: AtomicU64,
    requests: AtomicU64,
    /// Ends the thread of the metadata service.
    _stop: std::sync::mpsc::Sender<()>,
}

impl Services {
    /// Starts the metadata service on a thread of its own.
    pub fn start() -> Arc<Self> {
        let storage = Arc::new(Storage {
            chunks: Mutex::default(),
            write_failure: AtomicU64::new(0),
            held: watch::Sender::new(false),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        });
        let (started, meta) = std::sync::mpsc::channel();
        let (_stop, stopped) = std::sync::mpsc::channel::<()>();
        let chunks = storage.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                started.send(start_meta(chunks).await).unwrap();
                while matches!(stopped.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)) {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            });
        });
        let meta = meta.recv().unwrap();
        let no_extensions = AtomicBool::new(false);
        let length_failure = AtomicU64::new(0);
        Arc::new(Services {
            meta,
            storage,
            no_extensions,
            length_failure,
            requests: AtomicU64::new(1),
            _stop,
        })
    }
}

async fn start_meta(chunks: Arc<Storage>) -> Arc<Meta> {
    let env = Env::real();
    let db = Database::memory(env.clone());
    let layout = Layout::empty(ChainTableId(1), CHUNK as u32, STRIPE);
    valor_meta::init_fs(&db, layout, UtcTime(env.utc_now().0)).await.unwrap();
    let config = Config {
        time_granularity: valor_config::Duration::from_micros(1),
        posix_times: true,
        dynamic_stripe: true,
        dynamic_stripe_initial: 1,
        ..Config::default()
    };
    let deps = Deps {
        db,
        users: Arc::new(Everybody),
        cluster: Arc::new(Routes),
        chunks,
        rpc: Client::new(env.clone(), ClientConfig::default()),
    };
    Meta::start(env, Live::new(config), META_NODE, deps).await.unwrap()
}

/// One client's view of the services.
pub struct Direct {
    services: Arc<Services>,
    client: ClientId,
    calls: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Direct {
    pub fn new(services: Arc<Services>, number: u8) -> Self {
        let client = ClientId { uuid: Uuid([number; 16]), hostname: format!("host{number}") };
        Direct { services, client, calls: Arc::default() }
    }

    /// Calls by name, for tests that count them.
    pub fn calls(&self) -> Arc<Mutex<BTreeMap<&'static str, u64>>> {
        self.calls.clone()
    }

    fn meta(&self, name: &'static str) -> &Meta {
        *self.calls.lock().entry(name).or_default() += 1;
        &self.services.meta
    }

    fn base(&self, user: &UserInfo) -> ReqBase {
        let mut uuid = [9; 16];
        uuid[..8].copy_from_slice(&self.services.requests.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        ReqBase { user: user.clone(), client: self.client.clone(), uuid: Uuid(uuid), ..ReqBase::default() }
    }

    fn session(&self, session: Uuid) -> SessionInfo {
        SessionInfo { client: self.client.clone(), session }
    }

    fn extension(&self) -> Result<(), Status> {
        if self.services.no_extensions.load(Ordering::Relaxed) {
            return Err(status(code::RPC_INVALID_SERVICE_ID));
        }
        Ok(())
    }

    async fn truncated(
        &self,
        user: &UserInfo,
        inode: &Inode,
        length: u64,
        only_extend: bool,
    ) -> Result<Inode, Status> {
        match self.services.length_failure.load(Ordering::Relaxed) {
            0 => {}
            failure => return Err(status(failure as u16)),
        }
        {
            let mut chunks = self.services.storage.chunks.lock();
            let chunks = chunks.entry(inode.id).or_default();
            if !only_extend {
                chunks.retain(|index, _| u64::from(*index) * CHUNK < length);
            }
            if length > 0 {
                let last = ((length - 1) / CHUNK) as u32;
                let len = (length - u64::from(last) * CHUNK) as usize;
                let chunk = chunks.entry(last).or_default();
                chunk.resize(if only_extend { chunk.len().max(len) } else { len }, 0);
            }
        }
        let (base, truncated) = (self.base(user), !only_extend);
        let req = SyncReq { base, inode: inode.id, update_length: true, truncated, ..SyncReq::default() };
        Ok(self.meta("truncate").sync(req).await?.stat)
    }

    async fn set_attr(&self, req: SetAttrReq) -> Result<Inode, Status> {
        Ok(self.meta("set_attr").set_attr(req).await?.stat)
    }
}

impl Cluster for Direct {
    async fn stat(&self, user: &UserInfo, path: PathAt) -> Result<Inode, Status> {
        let req = StatReq { base: self.base(user), path, flags: AtFlags::SYMLINK_NOFOLLOW };
        Ok(self.meta("stat").stat(req).await?.stat)
    }

    async fn stat_fs(&self, user: &UserInfo) -> Result<StatFsRsp, Status> {
        self.meta("stat_fs").stat_fs(StatFsReq { base: self.base(user) }).await
    }

    async fn real_path(&self, user: &UserInfo, inode: InodeId) -> Result<BString, Status> {
        let req = GetRealPathReq { base: self.base(user), path: PathAt::inode(inode), absolute: true };
        Ok(self.meta("real_path").get_real_path(req).await?.path)
    }

    async fn open(
        &self,
        user: &UserInfo,
        inode: InodeId,
        session: Option<Uuid>,
        flags: OpenFlags,
    ) -> Result<Inode, Status> {
        let req = OpenReq {
            base: self.base(user),
            path: PathAt::inode(inode),
            session: session.map(|session| self.session(session)),
            flags,
            remove_chunks_batch_size: 32,
            dyn_stripe: true,
        };
        let rsp = self.meta("open").open(req).await?;
        if rsp.need_truncate { self.truncated(user, &rsp.stat, 0, false).await } else { Ok(rsp.stat) }
    }

    async fn create(
        &self,
        user: &UserInfo,
        path: PathAt,
        session: Option<Uuid>,
        flags: OpenFlags,
        perm: u32,
    ) -> Result<Inode, Status> {
        let req = CreateReq {
            base: self.base(user),
            path,
            session: session.map(|session| self.session(session)),
            flags,
            perm,
            layout: None,
            remove_chunks_batch_size: 32,
            dyn_stripe: true,
        };
        let rsp = self.meta("create").create(req).await?;
        if rsp.need_truncate { self.truncated(user, &rsp.stat, 0, false).await } else { Ok(rsp.stat) }
    }

    async fn close(
        &self,
        user: &UserInfo,
        inode: InodeId,
        session: Option<Uuid>,
        change: FileChange,
    ) -> Result<Inode, Status> {
        let FileChange { update_length, atime, mtime, length_hint } = change;
        let session = session.map(|session| self.session(session));
        let req =
            CloseReq { base: self.base(user), inode, session, update_length, atime, mtime, length_hint };
        Ok(self.meta("close").close(req).await?.stat)
    }

    fn close_later(&self, user: &UserInfo, inode: InodeId, session: Uuid, _: FileChange) {
        let req = CloseReq {
            base: self.base(user),
            inode,
            session: Some(self.session(session)),
            ..CloseReq::default()
        };
        *self.calls.lock().entry("close_later").or_default() += 1;
        let meta = self.services.meta.clone();
        tokio::spawn(async move { meta.close(req).await });
    }

    async fn sync(&self, user: &UserInfo, inode: InodeId, change: FileChange) -> Result<Inode, Status> {
        let FileChange { update_length, atime, mtime, length_hint } = change;
        let base = self.base(user);
        let req = SyncReq { base, inode, update_length, atime, mtime, truncated: false, length_hint };
        Ok(self.meta("sync").sync(req).await?.stat)
    }

    async fn set_permission(
        &self,
        user: &UserInfo,
        inode: InodeId,
        new: Permissions,
    ) -> Result<Inode, Status> {
        let Permissions { uid, gid, perm, iflags } = new;
        let (base, path) = (self.base(user), PathAt::inode(inode));
        self.set_attr(SetAttrReq { base, path, uid, gid, perm, iflags, ..SetAttrReq::default() }).await
    }

    async fn utimes(
        &self,
        user: &UserInfo,
        inode: InodeId,
        atime: Option<UtcTime>,
        mtime: Option<UtcTime>,
    ) -> Result<Inode, Status> {
        let (base, path) = (self.base(user), PathAt::inode(inode));
        self.set_attr(SetAttrReq { base, path, atime, mtime, ..SetAttrReq::default() }).await
    }

    async fn truncate(&self, user: &UserInfo, inode: InodeId, length: u64) -> Result<Inode, Status> {
        let inode = self.stat(user, PathAt::inode(inode)).await?;
        self.truncated(user, &inode, length, false).await
    }

    async fn extend(&self, user: &UserInfo, inode: InodeId, length: u64) -> Result<Inode, Status> {
        let inode = self.stat(user, PathAt::inode(inode)).await?;
        self.truncated(user, &inode, length, true).await
    }

    async fn extend_stripe(&self, user: &UserInfo, inode: InodeId, stripe: u32) -> Result<Inode, Status> {
        let (base, path) = (self.base(user), PathAt::inode(inode));
        self.set_attr(SetAttrReq { base, path, dyn_stripe: stripe, ..SetAttrReq::default() }).await
    }

    async fn mkdir(&self, user: &UserInfo, path: PathAt, perm: u32) -> Result<Inode, Status> {
        let req = MkdirsReq { base: self.base(user), path, perm, recursive: false, layout: None };
        Ok(self.meta("mkdir").mkdirs(req).await?.stat)
    }

    async fn symlink(&self, user: &UserInfo, path: PathAt, target: Bytes) -> Result<Inode, Status> {
        let req = SymlinkReq { base: self.base(user), path, target: (&target[..]).into() };
        Ok(self.meta("symlink").symlink(req).await?.stat)
    }

    async fn hard_link(&self, user: &UserInfo, inode: InodeId, new_path: PathAt) -> Result<Inode, Status> {
        let (base, old_path) = (self.base(user), PathAt::inode(inode));
        let req = HardLinkReq { base, old_path, new_path, flags: AtFlags::SYMLINK_NOFOLLOW };
        Ok(self.meta("hard_link").hard_link(req).await?.stat)
    }

    async fn unlink(&self, user: &UserInfo, path: PathAt) -> Result<(), Status> {
        let req = RemoveReq { base: self.base(user), path, check_type: true, ..RemoveReq::default() };
        self.meta("unlink").remove(req).await.map(drop)
    }

    async fn rmdir(&self, user: &UserInfo, path: PathAt) -> Result<(), Status> {
        let (base, at_flags) = (self.base(user), AtFlags::REMOVEDIR);
        let req = RemoveReq { base, path, at_flags, check_type: true, ..RemoveReq::default() };
        self.meta("rmdir").remove(req).await.map(drop)
    }

    async fn remove(&self, user: &UserInfo, path: PathAt, recursive: bool) -> Result<(), Status> {
        let req = RemoveReq { base: self.base(user), path, recursive, ..RemoveReq::default() };
        self.meta("remove").remove(req).await.map(drop)
    }

    async fn rename(
        &self,
        user: &UserInfo,
        src: PathAt,
        dest: PathAt,
        to_trash: bool,
    ) -> Result<Inode, Status> {
        let req = RenameReq { base: self.base(user), src, dest, move_to_trash: to_trash, inode_id: None };
        self.meta("rename").rename(req).await?.stat.ok_or_else(|| status(code::META_FOUND_BUG))
    }

    async fn rename_with(
        &self,
        user: &UserInfo,
        src: PathAt,
        dest: PathAt,
        flags: u32,
    ) -> Result<Inode, Status> {
        self.extension()?;
        let req = valor::Rename2Req { base: self.base(user), src, dest, flags };
        Ok(self.meta("rename_with").rename2(req).await?.stat)
    }

    async fn list(
        &self,
        user: &UserInfo,
        inode: InodeId,
        prev: BString,
        _: i32,
        status: bool,
    ) -> Result<ListRsp, Status> {
        // A small limit, so that tests see several pages.
        let (base, path) = (self.base(user), PathAt::inode(inode));
        self.meta("list").list(ListReq { base, path, prev, limit: 50, status }).await
    }

    async fn lock_directory(
        &self,
        user: &UserInfo,
        inode: InodeId,
        action: LockAction,
    ) -> Result<(), Status> {
        let req = LockDirectoryReq { base: self.base(user), inode, action };
        self.meta("lock_directory").lock_directory(req).await.map(drop)
    }

    async fn reserve_append(
        &self,
        user: &UserInfo,
        inode: InodeId,
        session: Uuid,
        len: u64,
        length_hint: Option<VersionedLength>,
    ) -> Result<u64, Status> {
        self.extension()?;
        let req = valor::AppendReserveReq { base: self.base(user), inode, session, len, length_hint };
        Ok(self.meta("reserve_append").append_reserve(req).await?.offset)
    }

    async fn hold(&self, user: &UserInfo, inode: InodeId, session: Uuid) -> Result<(), Status> {
        self.extension()?;
        let req = valor::HoldReq { base: self.base(user), inode, session: self.session(session) };
        self.meta("hold").hold(req).await.map(drop)
    }

    async fn read(
        &self,
        _: &UserInfo,
        map: &FileMap,
        offset: u64,
        length: u32,
        file_length: u64,
    ) -> Result<Vec<Bytes>, Status> {
        let storage = &self.services.storage;
        storage.reads.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        Ok(vec![storage.read(map.inode(), offset, u64::from(length), file_length)])
    }

    async fn write(&self, _: &UserInfo, map: &FileMap, offset: u64, data: Bytes) -> Result<u64, Status> {
        let storage = &self.services.storage;
        storage.writes.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let _ = storage.held.subscribe().wait_for(|held| !held).await;
        match storage.write_failure.load(Ordering::Relaxed) {
            0 => {
                storage.write(map.inode(), offset, &data);
                Ok(data.len() as u64)
            }
            failure => Err(status(failure as u16)),
        }
    }

    async fn punch(&self, _: &UserInfo, map: &FileMap, start: u64, end: u64) -> Result<(), Status> {
        let mut chunks = self.services.storage.chunks.lock();
        let chunks = chunks.entry(map.inode()).or_default();
        chunks.retain(|index, _| !(start..end).contains(&(u64::from(*index) * CHUNK)));
        Ok(())
    }

    async fn chunks_present(
        &self,
        _: &UserInfo,
        map: &FileMap,
        first: u32,
        count: u32,
    ) -> Result<Vec<bool>, Status> {
        let present = self.services.storage.present(map.inode());
        Ok((first..first + count).map(|index| present.contains(&index)).collect())
    }
}
