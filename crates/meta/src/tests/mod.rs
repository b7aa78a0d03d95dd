//! Tests of the whole service over memory.

mod appends;
mod attributes;
mod entries;
mod garbage;
mod golden;
mod invariants;
mod lengths;
mod links;
mod model;
mod opens;
mod paths;
mod reference;
mod renames;
mod replays;
mod servers;
mod sessions;
mod speed;

use bytes::Bytes;
use valor_protocol::InodeId;
use valor_protocol::meta::*;
use valor_protocol::valor::{Rename2Req, Rename2Rsp};
use valor_wire::Status;

use crate::testing::{TestServer, at, client, session};

type Answer<T> = Result<T, Status>;

/// The code of a refusal.
fn code_of<T: std::fmt::Debug>(answer: Answer<T>) -> u16 {
    match answer {
        Ok(value) => panic!("expected a refusal, not {value:?}"),
        Err(status) => status.code,
    }
}

/// Shorthands for the requests that most tests make, as user `uid` and client 1.
impl TestServer {
    async fn mkdir_as(&self, uid: u32, path: &str, perm: u32) -> Answer<Inode> {
        let req = MkdirsReq { base: self.base(uid), path: at(path), perm, ..MkdirsReq::default() };
        self.meta.mkdirs(req).await.map(|rsp| rsp.stat)
    }

    async fn mkdir(&self, path: &str) -> Inode {
        self.mkdir_as(0, path, 0o755).await.unwrap()
    }

    fn create_req(&self, uid: u32, path: &str, flags: OpenFlags, number: u8) -> CreateReq {
        CreateReq {
            base: self.base(uid),
            path: at(path),
            session: flags.writes().then(|| session(1, number).unwrap()),
            flags,
            perm: 0o644,
            remove_chunks_batch_size: 32,
            ..CreateReq::default()
        }
    }

    async fn create_as(&self, uid: u32, path: &str) -> Answer<Inode> {
        self.meta.create(self.create_req(uid, path, OpenFlags::RDONLY, 0)).await.map(|rsp| rsp.stat)
    }

    async fn create(&self, path: &str) -> Inode {
        self.create_as(0, path).await.unwrap()
    }

    fn open_req(&self, uid: u32, path: PathAt, flags: OpenFlags, number: u8) -> OpenReq {
        OpenReq {
            base: self.base(uid),
            path,
            session: flags.writes().then(|| session(1, number).unwrap()),
            flags,
            remove_chunks_batch_size: 32,
            ..OpenReq::default()
        }
    }

    /// Opens a file for writing under session `number` of client 1.
    async fn open_write(&self, path: &str, number: u8) -> Inode {
        self.meta.open(self.open_req(0, at(path), OpenFlags::RDWR, number)).await.unwrap().stat
    }

    async fn close(&self, inode: InodeId, number: u8, update_length: bool) -> Answer<Inode> {
        let req = CloseReq {
            base: self.base(0),
            inode,
            session: session(1, number),
            update_length,
            ..CloseReq::default()
        };
        self.meta.close(req).await.map(|rsp| rsp.stat)
    }

    async fn stat_at(&self, path: PathAt, flags: AtFlags) -> Answer<Inode> {
        let req = StatReq { base: self.base(0), path, flags };
        self.meta.stat(req).await.map(|rsp| rsp.stat)
    }

    async fn stat(&self, path: &str) -> Answer<Inode> {
        self.stat_at(at(path), AtFlags::SYMLINK_NOFOLLOW).await
    }

    async fn stat_id(&self, inode: InodeId) -> Answer<Inode> {
        self.stat_at(PathAt::inode(inode), AtFlags::default()).await
    }

    async fn symlink(&self, path: &str, target: &str) -> Answer<Inode> {
        let req = SymlinkReq { base: self.base(0), path: at(path), target: target.into() };
        self.meta.symlink(req).await.map(|rsp| rsp.stat)
    }

    async fn link(&self, old: &str, new: &str) -> Answer<Inode> {
        let req = HardLinkReq {
            base: self.base(0),
            old_path: at(old),
            new_path: at(new),
            flags: AtFlags::default(),
        };
        self.meta.hard_link(req).await.map(|rsp| rsp.stat)
    }

    async fn remove_as(&self, uid: u32, path: &str, recursive: bool) -> Answer<()> {
        let req = RemoveReq { base: self.base(uid), path: at(path), recursive, ..RemoveReq::default() };
        self.meta.remove(req).await.map(|_| ())
    }

    async fn remove(&self, path: &str) -> Answer<()> {
        self.remove_as(0, path, false).await
    }

    async fn rename_as(&self, uid: u32, src: &str, dest: &str) -> Answer<Inode> {
        let req = RenameReq { base: self.base(uid), src: at(src), dest: at(dest), ..RenameReq::default() };
        self.meta.rename(req).await.map(|rsp| rsp.stat.unwrap())
    }

    async fn rename(&self, src: &str, dest: &str) -> Answer<Inode> {
        self.rename_as(0, src, dest).await
    }

    async fn rename2(&self, src: &str, dest: &str, flags: u32) -> Answer<Inode> {
        let req = Rename2Req { base: self.base(0), src: at(src), dest: at(dest), flags };
        self.meta.rename2(req).await.map(|Rename2Rsp { stat, .. }| stat)
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let req = ListReq { base: self.base(0), path: at(path), limit: 10_000, ..ListReq::default() };
        let rsp = self.meta.list(req).await.unwrap();
        assert!(!rsp.more);
        rsp.entries.iter().map(|entry| entry.name.to_string()).collect()
    }

    async fn set_attr(&self, uid: u32, path: PathAt, change: SetAttrReq) -> Answer<Inode> {
        let req = SetAttrReq { base: self.base(uid), path, ..change };
        self.meta.set_attr(req).await.map(|rsp| rsp.stat)
    }

    async fn sync(&self, inode: InodeId, change: SyncReq) -> Answer<Inode> {
        let req = SyncReq { base: self.base(0), inode, ..change };
        self.meta.sync(req).await.map(|rsp| rsp.stat)
    }

    async fn lock(&self, number: u8, inode: InodeId, action: LockAction) -> Answer<()> {
        let base = ReqBase { client: client(number), ..self.base(0) };
        self.meta.lock_directory(LockDirectoryReq { base, inode, action }).await.map(|_| ())
    }

    /// A key of the store.
    async fn key(&self, key: impl AsRef<[u8]>) -> Option<Bytes> {
        self.db.begin().get(key).await.unwrap()
    }

    /// Whether a file has a session of client 1.
    async fn has_session(&self, inode: InodeId, number: u8) -> bool {
        let session = session(1, number).unwrap().session;
        self.key(crate::schema::session_key(inode, session)).await.is_some()
    }

    /// Changes the configuration.
    fn configure(&self, toml: &str) {
        self.config.hot_update(toml, "test").unwrap();
    }
}

/// Length and version of a file.
fn length(inode: &Inode) -> (u64, u64) {
    let file = inode.data.as_file().unwrap();
    (file.length, file.truncate_ver)
}
