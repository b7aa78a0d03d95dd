//! Conversations of C++ 3FS, held again with this service: it must say the same.
//!
//! What cannot be the same is mapped or masked: inode ids, the time of "now", chains chosen at random.

use std::collections::HashMap;
use std::fmt::Debug;

use bytes::Bytes;
use valor_env::Env;
use valor_protocol::InodeId;
use valor_protocol::meta::{self, *};
use valor_protocol::status::{code, describe};
use valor_wire::{FrameHeader, MessagePacket, Status, UtcTime, Wire, from_bytes, open_body};

use crate::config::Config;
use crate::testing::{TestServer, test_config};

/// Times from here on were "now" when the recording was made.
const RECORDING: UtcTime = UtcTime(1_700_000_000_000_000 + 86_400_000_000 * 365);

struct Pair {
    name: String,
    method: u16,
    request: Bytes,
    response: Bytes,
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn packet(hex: &str) -> MessagePacket {
    let mut bytes = Bytes::from(unhex(hex));
    let body = bytes.split_off(8);
    let header = FrameHeader::parse(bytes.first_chunk().unwrap()).unwrap();
    from_bytes(open_body(header, body).unwrap().0).unwrap()
}

fn conversation(text: &str) -> Vec<Pair> {
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().unwrap().to_owned();
            let request = packet(words.next().unwrap());
            let response = packet(words.next().unwrap());
            Pair { name, method: request.method_id, request: request.payload, response: response.payload }
        })
        .collect()
}

/// Ids of the recording and ours.
#[derive(Default)]
struct Ids(HashMap<InodeId, InodeId>);

impl Ids {
    fn map(&self, id: &mut InodeId) {
        *id = self.0.get(id).copied().unwrap_or(*id);
    }

    fn map_path(&self, path: &mut PathAt) {
        self.map(&mut path.parent);
    }

    /// Takes `ours` for the counterpart of a recorded id, unless that has one.
    fn learn(&mut self, recorded: &mut InodeId, ours: InodeId) {
        if !recorded.is_tree_root() {
            self.0.entry(*recorded).or_insert(ours);
        }
        self.map(recorded);
    }
}

fn mask_time(recorded: &mut UtcTime, ours: &mut UtcTime) {
    if *recorded > RECORDING {
        let age = Env::real().utc_now().0 - ours.0;
        assert!(age < 600_000_000, "time {ours:?} is not now");
        *recorded = *ours;
    }
}

fn mask_layout(layout: &mut Layout) {
    if let Chains::ChainRange(range) = &mut layout.chains {
        assert_eq!(range.shuffle, Shuffle::StdShuffleMt19937);
        range.seed = 0;
        range.base_index = 0;
    }
}

fn same_inode(ids: &mut Ids, recorded: &mut Inode, ours: &mut Inode) {
    ids.learn(&mut recorded.id, ours.id);
    mask_time(&mut recorded.data.atime, &mut ours.data.atime);
    mask_time(&mut recorded.data.ctime, &mut ours.data.ctime);
    mask_time(&mut recorded.data.mtime, &mut ours.data.mtime);
    for inode in [&mut *recorded, &mut *ours] {
        match &mut inode.data.r#type {
            InodeKind::File(file) => mask_layout(&mut file.layout),
            InodeKind::Directory(directory) => mask_layout(&mut directory.layout),
            InodeKind::Symlink(_) => {}
        }
    }
    if let (Some(recorded), Some(ours)) = (recorded.data.as_directory_mut(), ours.data.as_directory()) {
        ids.learn(&mut recorded.parent, ours.parent);
    }
}

fn same_entry(ids: &mut Ids, recorded: &mut DirEntry, ours: &DirEntry) {
    ids.learn(&mut recorded.data.id, ours.data.id);
    ids.map(&mut recorded.parent);
}

/// A request whose ids can be mapped.
trait Mapped {
    fn map(&mut self, _: &Ids) {}
}

/// A response that can be compared after masking.
trait Compared {
    fn mask(&mut self, _: &mut Self, _: &mut Ids) {}
}

macro_rules! mapped {
    ($($req:ty: |$r:ident, $ids:ident| $map:expr;)*) => {$(
        impl Mapped for $req {
            fn map(&mut self, $ids: &Ids) {
                let $r = self;
                $map
            }
        }
    )*};
}

mapped! {
    StatReq: |r, ids| ids.map_path(&mut r.path);
    CreateReq: |r, ids| ids.map_path(&mut r.path);
    MkdirsReq: |r, ids| ids.map_path(&mut r.path);
    OpenReq: |r, ids| ids.map_path(&mut r.path);
    SymlinkReq: |r, ids| ids.map_path(&mut r.path);
    ListReq: |r, ids| ids.map_path(&mut r.path);
    GetRealPathReq: |r, ids| ids.map_path(&mut r.path);
    SetAttrReq: |r, ids| ids.map_path(&mut r.path);
    SyncReq: |r, ids| ids.map(&mut r.inode);
    CloseReq: |r, ids| ids.map(&mut r.inode);
    LockDirectoryReq: |r, ids| ids.map(&mut r.inode);
    HardLinkReq: |r, ids| { ids.map_path(&mut r.old_path); ids.map_path(&mut r.new_path) };
    RemoveReq: |r, ids| { ids.map_path(&mut r.path); r.inode_id.iter_mut().for_each(|id| ids.map(id)) };
    RenameReq: |r, ids| {
        ids.map_path(&mut r.src);
        ids.map_path(&mut r.dest);
        r.inode_id.iter_mut().for_each(|id| ids.map(id));
    };
    BatchStatReq: |r, ids| r.inode_ids.iter_mut().for_each(|id| ids.map(id));
    BatchStatByPathReq: |r, ids| r.paths.iter_mut().for_each(|path| ids.map_path(path));
}

impl Mapped for AuthReq {}
impl Mapped for StatFsReq {}
impl Mapped for TruncateReq {}
impl Mapped for PruneSessionReq {}
impl Mapped for DropUserCacheReq {}
impl Mapped for TestRpcReq {}

macro_rules! compared {
    ($($rsp:ty: |$recorded:ident, $ours:ident, $ids:ident| $mask:expr;)*) => {$(
        impl Compared for $rsp {
            fn mask(&mut self, $ours: &mut Self, $ids: &mut Ids) {
                let $recorded = self;
                $mask
            }
        }
    )*};
}

compared! {
    StatRsp: |a, b, ids| same_inode(ids, &mut a.stat, &mut b.stat);
    CreateRsp: |a, b, ids| same_inode(ids, &mut a.stat, &mut b.stat);
    MkdirsRsp: |a, b, ids| same_inode(ids, &mut a.stat, &mut b.stat);
    OpenRsp: |a, b, ids| same_inode(ids, &mut a.stat, &mut b.stat);
    SymlinkRsp: |a, b, ids| same_inode(ids, &mut a.stat, &mut b.stat);
    HardLinkRsp: |a, b, ids| same_inode(ids, &mut a.stat, &mut b.stat);
    SyncRsp: |a, b, ids| same_inode(ids, &mut a.stat, &mut b.stat);
    CloseRsp: |a, b, ids| same_inode(ids, &mut a.stat, &mut b.stat);
    SetAttrRsp: |a, b, ids| same_inode(ids, &mut a.stat, &mut b.stat);
    RenameRsp: |a, b, ids| {
        if let (Some(a), Some(b)) = (&mut a.stat, &mut b.stat) {
            same_inode(ids, a, b);
        }
    };
    ListRsp: |a, b, ids| {
        for (a, b) in a.entries.iter_mut().zip(&b.entries) {
            same_entry(ids, a, b);
        }
        for (a, b) in a.inodes.iter_mut().zip(&mut b.inodes) {
            same_inode(ids, a, b);
        }
    };
    BatchStatRsp: |a, b, ids| {
        for (a, b) in a.inodes.iter_mut().flatten().zip(b.inodes.iter_mut().flatten()) {
            same_inode(ids, a, b);
        }
    };
    BatchStatByPathRsp: |a, b, ids| {
        for (a, b) in a.inodes.iter_mut().zip(b.inodes.iter_mut()) {
            match (a, b) {
                (Ok(a), Ok(b)) => same_inode(ids, a, b),
                (Err(a), Err(b)) => b.message = a.message.clone(),
                _ => {}
            }
        }
    };
    StatFsRsp: |a, b, _ids| {
        assert_eq!(a.used, a.capacity - a.free);
        (a.capacity, a.used, a.free) = (b.capacity, b.used, b.free);
    };
}

impl Compared for AuthRsp {}
impl Compared for GetRealPathRsp {}
impl Compared for RemoveRsp {}
impl Compared for TruncateRsp {}
impl Compared for PruneSessionRsp {}
impl Compared for DropUserCacheRsp {}
impl Compared for LockDirectoryRsp {}
impl Compared for TestRpcRsp {}

fn recorded<Rsp: Wire>(pair: &Pair) -> Result<Rsp, Status> {
    from_bytes(pair.response.clone()).unwrap_or_else(|error| panic!("{}: {error}", pair.name))
}

fn compare<Rsp: Wire + Compared + Debug + PartialEq>(pair: &Pair, ours: Result<Rsp, Status>, ids: &mut Ids) {
    match (recorded::<Rsp>(pair), ours) {
        (Ok(mut recorded), Ok(mut ours)) => {
            recorded.mask(&mut ours, ids);
            assert_eq!(recorded, ours, "{} (recorded left, ours right)", pair.name);
        }
        (Err(recorded), Err(ours)) => {
            assert_eq!(recorded.code, ours.code, "{}: {}", pair.name, describe(&ours))
        }
        (recorded, ours) => panic!("{}: recorded {recorded:?}\nours {ours:?}", pair.name),
    }
}

/// Asks what was asked, and compares.
async fn replay(server: &TestServer, pair: &Pair, ids: &mut Ids) {
    use meta::methods as m;
    let service = &server.meta;
    macro_rules! dispatch {
        ($($method:ident => $handler:ident,)*) => {
            match pair.method {
                $(<m::$method as valor_protocol::Method>::ID => {
                    let mut req: <m::$method as valor_protocol::Method>::Req =
                        from_bytes(pair.request.clone()).unwrap();
                    req.map(ids);
                    compare(pair, service.$handler(req).await, ids);
                })*
                other => panic!("method {other}"),
            }
        };
    }
    dispatch! {
        StatFs => stat_fs, Stat => stat, Create => create, Mkdirs => mkdirs, Symlink => symlink, HardLink => hard_link,
        Remove => remove, Open => open, Sync => sync, Close => close, Rename => rename, List => list,
        Truncate => truncate, GetRealPath => get_real_path, SetAttr => set_attr, PruneSession => prune_session,
        DropUserCache => drop_user_cache, Authenticate => authenticate, LockDirectory => lock_directory,
        BatchStat => batch_stat, BatchStatByPath => batch_stat_by_path, TestRpc => test_rpc,
    }
}

/// The configuration of the recorded server, as far as its answers show it.
fn recorded_config() -> Config {
    Config {
        time_granularity: valor_config::Duration::from_secs(1),
        dynamic_stripe: true,
        dynamic_stripe_initial: 1,
        iflags_chain_allocation: true,
        ..test_config()
    }
}

#[tokio::test]
async fn one_call_of_every_method() {
    let server = TestServer::start(recorded_config()).await;
    let mut ids = Ids::default();
    for pair in conversation(include_str!("golden/3_rpc.txt")) {
        replay(&server, &pair, &mut ids).await;
    }
    assert!(ids.0.len() >= 6, "{:?}", ids.0);
    assert_eq!(server.users.forgotten.lock().as_slice(), [Some(0)]);
    let gone = StatReq { path: crate::testing::at("peer1"), ..StatReq::default() };
    assert_eq!(server.meta.stat(gone).await.unwrap_err().code, code::META_NOT_FOUND);
}

/// What storage had when the recording was made, as the recorded answer shows it.
fn prepare_storage(server: &TestServer, pair: &Pair, ids: &Ids) {
    let stat = match pair.name.split('.').next() {
        Some("sync") => recorded::<SyncRsp>(pair).map(|rsp| rsp.stat),
        Some("close") => recorded::<CloseRsp>(pair).map(|rsp| rsp.stat),
        _ => return,
    };
    if let Ok(mut inode) = stat {
        ids.map(&mut inode.id);
        if let Some(file) = inode.data.as_file() {
            server.chunks.lengths.lock().insert(inode.id, file.length);
        }
    }
}

#[tokio::test]
async fn the_fuse_client_at_work() {
    let server = TestServer::start(recorded_config()).await;
    let mut ids = Ids::default();
    for pair in conversation(include_str!("golden/2_fuse.txt")) {
        prepare_storage(&server, &pair, &ids);
        replay(&server, &pair, &mut ids).await;
    }
}
