//! The metadata client's choice of servers, retry rules, truncation and background closing.

use crate::cluster::Cluster;
use crate::file;
use crate::memory::Memory;
use crate::servers::*;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use valor_client::MetaClient;
use valor_client::file::{FileMap, FileWrite, FileWriteOptions};
use valor_client::meta::*;
use valor_protocol::app::ClientId;
use valor_protocol::meta::methods::{
    Close, Create, Mkdirs, Open, PruneSession, Remove, Rename, SERVICE, SERVICE_ID, SetAttr, Stat, Sync,
    TestRpc,
};
use valor_protocol::meta::*;
use valor_protocol::mgmtd::NodeType;
use valor_protocol::status::{code, status};
use valor_protocol::user::UserInfo;
use valor_protocol::*;
use valor_rpc::Router;

fn router() -> Router {
    Router::new(SERVICE_ID, SERVICE)
}

fn add(cluster: &Cluster, id: u32, router: Router) -> Running {
    let server = serve(&cluster.net, [router]);
    cluster.add_node(id, NodeType::Meta, SERVICE, server.rpc_address());
    server
}

fn client_id() -> ClientId {
    ClientId { uuid: Uuid([9; 16]), hostname: "h".into() }
}

async fn client(cluster: &Cluster) -> Arc<MetaClient> {
    let (env, rpc, mgmtd) = (cluster.net.env(), rpc_client(&cluster.net), cluster.mgmtd().await);
    MetaClient::start(env, rpc, mgmtd, None, MetaClientConfig::default(), client_id())
}

fn user() -> UserInfo {
    UserInfo { uid: 1000, ..UserInfo::default() }
}

fn at(path: &str) -> PathAt {
    PathAt::at(InodeId::ROOT, path)
}

fn inode(id: u64) -> Inode {
    let r#type = InodeKind::Directory(Directory::default());
    Inode { id: InodeId(id), data: InodeData { r#type, ..InodeData::default() } }
}

fn stat_with(
    answer: impl Fn(usize) -> Result<(), u16> + Send + std::marker::Sync + 'static,
) -> (Router, Arc<Seen<Stat>>) {
    scripted::<Stat>(router(), move |_, count| {
        answer(count).map_err(status)?;
        Ok(StatRsp { stat: inode(5), ..StatRsp::default() })
    })
}

#[tokio::test(start_paused = true)]
async fn busy_inodes_are_asked_again_soon() {
    let cluster = Cluster::new(1);
    let (one, seen) = stat_with(|count| if count < 3 { Err(code::META_BUSY) } else { Ok(()) });
    let _server = add(&cluster, 1, one);
    let client = client(&cluster).await;
    let start = Instant::now();
    let spawned = client.clone();
    let found = tokio::spawn(async move { spawned.stat(&user(), at("/a"), true).await }).await.unwrap();
    assert_eq!(found.unwrap().id, InodeId(5));
    assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    let all = seen.all();
    assert_eq!(all.len(), 4);
    assert_eq!((all[0].base.client.clone(), all[0].base.user.uid), (client_id(), 1000));
    assert_eq!(all[0].flags, AtFlags::SYMLINK_FOLLOW);
}

#[tokio::test(start_paused = true)]
async fn answers_are_returned_and_final_errors_too() {
    let cluster = Cluster::new(2);
    let codes =
        [code::META_NOT_FOUND, code::META_INCONSISTENT, code::READ_ONLY_MODE, code::AUTHENTICATION_FAIL];
    let (one, seen) = stat_with(move |count| Err(codes[count]));
    let _server = add(&cluster, 1, one);
    let client = client(&cluster).await;
    for (index, code) in codes.into_iter().enumerate() {
        assert_eq!(client.stat(&user(), at("/a"), false).await.unwrap_err().code, code);
        assert_eq!(seen.count(), index + 1);
    }
    let error = client.mkdirs(&user(), PathAt::inode(InodeId(1)), 0o755, true, None).await.unwrap_err();
    assert_eq!(error.code, code::INVALID_ARG, "never sent");
}

#[tokio::test(start_paused = true)]
async fn transaction_errors_back_off_until_time_is_over() {
    let cluster = Cluster::new(3);
    let (one, seen) = stat_with(|_| Err(code::TXN_CONFLICT));
    let _server = add(&cluster, 1, one);
    let client = client(&cluster).await;
    let start = Instant::now();
    assert_eq!(client.stat(&user(), at("/a"), false).await.unwrap_err().code, code::TXN_CONFLICT);
    let elapsed = start.elapsed().as_secs();
    assert!((58..=62).contains(&elapsed), "{elapsed} s");
    // 0.5, 1, 2, 4, then 5 s each.
    assert!((14..=17).contains(&seen.count()), "{}", seen.count());
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_replaced_and_looked_after() {
    let cluster = Cluster::new(4);
    let serve_meta = |id: u32| {
        let (one, seen) = stat_with(|_| Ok(()));
        let (one, tests) = scripted::<TestRpc>(one, |_, _| Ok(TestRpcRsp::default()));
        (add(&cluster, id, one), seen, tests)
    };
    let mut servers = vec![serve_meta(1), serve_meta(2)];
    let client = client(&cluster).await;
    client.stat(&user(), at("/a"), true).await.unwrap();
    let preferred = usize::from(servers[0].1.count() == 0);
    let (dead, dead_seen, _) = servers.swap_remove(preferred);
    let (_other, other_seen, _) = servers.swap_remove(0);
    assert_eq!((dead_seen.count(), other_seen.count()), (1, 0));
    let address = dead.address;
    dead.handle.stop(Duration::ZERO).await;
    let start = Instant::now();
    client.stat(&user(), at("/a"), true).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    client.stat(&user(), at("/a"), true).await.unwrap();
    assert_eq!(other_seen.count(), 2);
    // It comes back: after the next check it is preferred again.
    let (again, seen) = stat_with(|_| Ok(()));
    let (again, tests) = scripted::<TestRpc>(again, |_, _| Ok(TestRpcRsp::default()));
    let _again = serve_at(&cluster.net, &address.to_string(), [again]);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(tests.count(), 1);
    client.stat(&user(), at("/a"), true).await.unwrap();
    assert_eq!(seen.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_first_server() {
    let cluster = Arc::new(Cluster::new(5));
    let client = client(&cluster).await;
    let later = cluster.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(3)).await;
        let server = add(&later, 1, stat_with(|_| Ok(())).0);
        sleep(Duration::from_secs(60)).await;
        drop(server);
    });
    let start = Instant::now();
    client.stat(&user(), at("/a"), true).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn repetitions_carry_the_same_name() {
    let cluster = Cluster::new(6);
    let (one, seen) = scripted::<Mkdirs>(router(), |_, count| match count {
        0 => Err(status(code::TXN_MAYBE_COMMITTED)),
        _ => Ok(MkdirsRsp { stat: inode(9), ..MkdirsRsp::default() }),
    });
    let _server = add(&cluster, 1, one);
    let client = client(&cluster).await;
    for _ in 0..2 {
        client.mkdirs(&user(), at("/d"), 0o170755, false, None).await.unwrap();
    }
    let names: Vec<Uuid> = seen.all().iter().map(|req| req.base.uuid).collect();
    assert_eq!(names.len(), 3);
    assert_eq!(names[0], names[1]);
    assert_ne!(names[1], names[2]);
    assert!(!names[0].is_zero());
    assert_eq!(seen.all()[0].perm, 0o755);
}

/// Servers remember answers for some time only: what may have been executed is not repeated after that. What surely was
/// not is.
#[tokio::test(start_paused = true)]
async fn calls_that_may_have_been_executed_are_not_repeated_for_ever() {
    for (code, least, most) in [(code::TXN_MAYBE_COMMITTED, 20, 30), (code::TXN_CONFLICT, 23 * 60, 25 * 60)] {
        let cluster = Cluster::new(7);
        let (one, _) = scripted::<Mkdirs>(router(), move |_, _| Err(status(code)));
        let _server = add(&cluster, 1, one);
        let (env, rpc, mgmtd) = (cluster.net.env(), rpc_client(&cluster.net), cluster.mgmtd().await);
        let mut config = MetaClientConfig::default();
        config.retry_default.retry_total_time = valor_config::Duration::from_secs(86_400);
        config.retry_default.retry_max_wait = valor_config::Duration::from_secs(60);
        let client = MetaClient::start(env, rpc, mgmtd, None, config, client_id());
        let start = Instant::now();
        let error = client.mkdirs(&user(), at("/d"), 0o755, false, None).await.unwrap_err();
        assert_eq!(error.code, code);
        let minutes = start.elapsed().as_secs() / 60;
        assert!((least..=most).contains(&minutes), "{code}: {minutes} min");
    }
}

fn file_inode(id: u64, table_version: u32) -> Inode {
    let layout = Layout { table_version: ChainTableVersion(table_version), ..file::layout() };
    let r#type = InodeKind::File(File { layout, ..File::default() });
    Inode { id: InodeId(id), data: InodeData { r#type, ..InodeData::default() } }
}

#[tokio::test(start_paused = true)]
async fn responses_wait_for_the_chain_tables_they_name() {
    let cluster = Arc::new(Cluster::new(7));
    cluster.set_table(&[1]);
    let (one, seen) =
        scripted::<Stat>(router(), |_, _| Ok(StatRsp { stat: file_inode(5, 2), ..Default::default() }));
    let _server = add(&cluster, 1, one);
    let client = client(&cluster).await;
    let later = cluster.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(2)).await;
        later.change(|info| {
            let versions = info.chain_tables.get_mut(&ChainTableId(1)).unwrap();
            versions.insert(ChainTableVersion(2), versions[&ChainTableVersion(1)].clone());
        });
    });
    let start = Instant::now();
    client.stat(&user(), at("/a"), true).await.unwrap();
    assert!((2..4).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(seen.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn opens_for_reading_have_no_session() {
    let cluster = Cluster::new(8);
    let (one, seen) = scripted::<Open>(router(), |_, _| Ok(OpenRsp { stat: inode(5), ..OpenRsp::default() }));
    let _server = add(&cluster, 1, one);
    let client = client(&cluster).await;
    let session = Some(Uuid([4; 16]));
    client.open(&user(), at("/a"), session, OpenFlags::RDONLY).await.unwrap();
    client.open(&user(), at("/a"), session, OpenFlags::RDWR).await.unwrap();
    let sessions: Vec<Option<SessionInfo>> = seen.all().into_iter().map(|req| req.session).collect();
    assert_eq!(sessions, [None, Some(SessionInfo { client: client_id(), session: Uuid([4; 16]) })]);
    assert_eq!(seen.all()[0].remove_chunks_batch_size, 32);
}

#[tokio::test(start_paused = true)]
async fn sessions_that_may_be_left_are_pruned() {
    let cluster = Cluster::new(9);
    let (one, _) = scripted::<Open>(router(), |_, count| match count {
        0 => Err(status(code::TXN_MAYBE_COMMITTED)),
        _ => Err(status(code::META_NOT_FOUND)),
    });
    let (one, pruned) = scripted::<PruneSession>(one, |_, count| match count {
        0 | 1 => Err(status(code::TXN_CONFLICT)),
        _ => Ok(PruneSessionRsp::default()),
    });
    let _server = add(&cluster, 1, one);
    let client = client(&cluster).await;
    let open = client.open(&user(), at("/a"), Some(Uuid([4; 16])), OpenFlags::RDWR).await;
    assert_eq!(open.unwrap_err().code, code::META_NOT_FOUND);
    assert_eq!(pruned.count(), 0);
    // A second one without doubt about its session is not pruned.
    client.open(&user(), at("/a"), Some(Uuid([5; 16])), OpenFlags::RDWR).await.unwrap_err();
    sleep(Duration::from_secs(12)).await;
    let all = pruned.all();
    assert_eq!(all.len(), 3, "repeated until it succeeds");
    assert_eq!((all[2].client.clone(), all[2].sessions.clone()), (client_id(), vec![Uuid([4; 16])]));
    assert!(all[2].base.client.is_zero());
    assert_eq!(client.background_tasks(), 0);
    // A full batch goes out at once.
    for n in 0..128u8 {
        client.prune_session(Uuid([n; 16]));
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(pruned.all()[3].sessions.len(), 128);
}

#[tokio::test(start_paused = true)]
async fn closing_goes_on_in_the_background() {
    let cluster = Cluster::new(10);
    let failing = Arc::new(Mutex::new(true));
    let fails = failing.clone();
    let (one, seen) = scripted::<Close>(router(), move |req, _| match (*fails.lock(), req.inode.0) {
        (true, 5) => Err(status(code::META_RETRYABLE)),
        (_, 6) => Err(status(code::META_NOT_FOUND)),
        _ => Ok(CloseRsp { stat: inode(5), ..CloseRsp::default() }),
    });
    let _server = add(&cluster, 1, one);
    let client = client(&cluster).await;
    let session = Some(Uuid([4; 16]));
    let change = FileChange { update_length: true, ..FileChange::default() };
    let error = client.close(&user(), InodeId(5), session, change).await.unwrap_err();
    assert_eq!((error.code, client.background_tasks()), (code::META_RETRYABLE, 1));
    let before = seen.count();
    sleep(Duration::from_secs(1)).await;
    assert!(seen.count() > before);
    *failing.lock() = false;
    sleep(Duration::from_secs(11)).await;
    assert_eq!(client.background_tasks(), 0);
    assert!(seen.all().iter().all(|req| req.session.is_some() && req.update_length));
    client.close(&user(), InodeId(6), session, change).await.unwrap_err();
    assert_eq!(client.background_tasks(), 0, "3000 will not go away");
    client.close_later(&user(), InodeId(7), Uuid([4; 16]), change);
    sleep(Duration::from_millis(1)).await;
    assert_eq!((seen.all().last().unwrap().inode, client.background_tasks()), (InodeId(7), 0));
}

#[tokio::test(start_paused = true)]
async fn removals_and_moves_to_the_trash_name_their_inode() {
    let cluster = Cluster::new(11);
    let (one, stats) = stat_with(|_| Ok(()));
    let (one, removed) = scripted::<Remove>(one, |_, _| Ok(RemoveRsp::default()));
    let (one, renamed) = scripted::<Rename>(one, |_, _| Ok(RenameRsp::default()));
    let _server = add(&cluster, 1, one);
    let client = client(&cluster).await;
    client.remove(&user(), at("/a"), true).await.unwrap();
    client.unlink(&user(), at("/a")).await.unwrap();
    client.rmdir(&user(), at("/a"), false).await.unwrap();
    let seen: Vec<_> =
        removed.all().iter().map(|req| (req.recursive, req.check_type, req.at_flags, req.inode_id)).collect();
    assert_eq!(
        seen,
        [
            (true, false, AtFlags(0), Some(InodeId(5))),
            (false, true, AtFlags(0), None),
            (false, true, AtFlags::REMOVEDIR, None)
        ]
    );
    assert_eq!(stats.count(), 1);
    // A server that does not send the inode is asked for it.
    assert_eq!(client.rename(&user(), at("/a"), at("/b"), true).await.unwrap().id, InodeId(5));
    assert_eq!(renamed.all()[0].inode_id, Some(InodeId(5)));
    assert_eq!(stats.all()[2].path, at("/b"));
}

#[tokio::test(start_paused = true)]
async fn chain_lists_get_the_newest_table_version() {
    let cluster = Cluster::new(12);
    cluster.set_table(&[1, 2]);
    let (one, seen) =
        scripted::<Create>(router(), |_, _| Ok(CreateRsp { stat: inode(5), ..CreateRsp::default() }));
    let _server = add(&cluster, 1, one);
    let client = client(&cluster).await;
    let layout = |table| Layout {
        table_id: ChainTableId(table),
        chunk_size: 4096,
        stripe_size: 2,
        chains: Chains::ChainList(ChainList { chain_indexes: vec![2, 1] }),
        ..Layout::default()
    };
    let user = user();
    let create = |table| client.create(&user, at("/f"), None, OpenFlags::RDONLY, 0o644, Some(layout(table)));
    create(1).await.unwrap();
    assert_eq!(seen.all()[0].layout.as_ref().unwrap().table_version, ChainTableVersion(1));
    assert_eq!(create(7).await.unwrap_err().code, code::META_INVALID_FILE_LAYOUT);
}

/// A metadata server with one file, and a storage behind it.
struct Truncation {
    client: Arc<MetaClient>,
    memory: Memory,
    synced: Arc<Seen<Sync>>,
    attrs: Arc<Seen<SetAttr>>,
    closed: Arc<Seen<Close>>,
    _servers: Vec<Running>,
}

const FILE: InodeId = InodeId(33);

async fn truncation(cluster: &Cluster, dyn_stripe: u32, storage_fails: Arc<Mutex<bool>>) -> Truncation {
    let memory = Memory::default();
    let fault = move || storage_fails.lock().then_some(code::READ_ONLY_MODE);
    let (storage, mut servers) = file::storage(cluster, &memory, fault).await;
    let mut stat = file_inode(FILE.0, 1);
    stat.data.as_file_mut().unwrap().dyn_stripe = dyn_stripe;
    let answer = stat.clone();
    let (one, _) =
        scripted::<Stat>(router(), move |_, _| Ok(StatRsp { stat: answer.clone(), ..StatRsp::default() }));
    let answer = stat.clone();
    let (one, _) = scripted::<Create>(one, move |_, _| {
        Ok(CreateRsp { stat: answer.clone(), need_truncate: true, ..CreateRsp::default() })
    });
    let answer = stat.clone();
    let (one, synced) =
        scripted::<Sync>(one, move |_, _| Ok(SyncRsp { stat: answer.clone(), ..SyncRsp::default() }));
    let answer = stat.clone();
    let (one, attrs) = scripted::<SetAttr>(one, move |_, _| {
        Ok(SetAttrRsp { stat: answer.clone(), ..SetAttrRsp::default() })
    });
    let (one, closed) =
        scripted::<Close>(one, move |_, _| Ok(CloseRsp { stat: stat.clone(), ..CloseRsp::default() }));
    servers.push(add(cluster, 50, one));
    let (env, rpc, mgmtd) = (cluster.net.env(), rpc_client(&cluster.net), storage.mgmtd().clone());
    mgmtd.refresh_now().await.unwrap();
    let config =
        MetaClientConfig { dynamic_stripe: true, remove_chunks_batch_size: 2, ..MetaClientConfig::default() };
    let client = MetaClient::start(env, rpc, mgmtd, Some(storage), config, client_id());
    Truncation { client, memory, synced, attrs, closed, _servers: servers }
}

async fn fill(of: &Truncation, length: usize) {
    let map = FileMap::of(&file_inode(FILE.0, 1)).unwrap();
    let write = FileWrite { map: &map, offset: 0, data: vec![1; length].into() };
    of.client.files().unwrap().write(&user(), write, &FileWriteOptions::default()).await.unwrap();
}

async fn length(of: &Truncation) -> u64 {
    let map = FileMap::of(&file_inode(FILE.0, 1)).unwrap();
    of.client.files().unwrap().length(&user(), &map, 0).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn truncation_is_done_by_the_client() {
    let cluster = Cluster::new(13);
    let of = truncation(&cluster, 0, Arc::default()).await;
    fill(&of, 2000).await;
    assert_eq!(of.memory.count(FILE), 32);
    of.client.truncate(&user(), FILE, 100).await.unwrap();
    assert_eq!((length(&of).await, of.memory.count(FILE)), (100, 2));
    let synced = of.synced.all();
    assert_eq!(synced.len(), 1);
    assert!(synced[0].truncated && synced[0].update_length && synced[0].length_hint.is_none());
    of.client.truncate(&user(), FILE, 700).await.unwrap();
    assert_eq!((length(&of).await, of.memory.count(FILE)), (700, 3), "grown by its last chunk only");
    of.client.truncate(&user(), FILE, 0).await.unwrap();
    assert_eq!(of.memory.count(FILE), 0);
    assert_eq!(of.attrs.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn truncation_extends_the_stripe() {
    let cluster = Cluster::new(14);
    let of = truncation(&cluster, 2, Arc::default()).await;
    of.client.truncate(&user(), FILE, 64).await.unwrap();
    assert_eq!(of.attrs.count(), 0);
    of.client.truncate(&user(), FILE, 64 * 3).await.unwrap();
    of.client.truncate(&user(), FILE, 64 * 300).await.unwrap();
    let wanted: Vec<u32> = of.attrs.all().iter().map(|req| req.dyn_stripe).collect();
    assert_eq!(wanted, [3, file::STRIPE]);
    assert_eq!(of.attrs.all()[0].path, PathAt::inode(FILE));
}

#[tokio::test(start_paused = true)]
async fn opening_with_truncation() {
    let cluster = Cluster::new(15);
    let fails = Arc::new(Mutex::new(false));
    let of = truncation(&cluster, 0, fails.clone()).await;
    fill(&of, 500).await;
    let (session, flags) = (Some(Uuid([4; 16])), OpenFlags::RDWR | OpenFlags::TRUNC);
    of.client.create(&user(), at("/f"), session, flags, 0o644, None).await.unwrap();
    assert_eq!((of.memory.count(FILE), of.synced.count(), of.closed.count()), (0, 1, 0));
    // If it fails, the file that was opened is closed.
    *fails.lock() = true;
    let error = of.client.create(&user(), at("/f"), session, flags, 0o644, None).await.unwrap_err();
    assert_eq!(error.code, code::STORAGE_CLIENT_READ_ONLY_SERVER);
    let closed = of.closed.all();
    assert_eq!((closed.len(), closed[0].session.as_ref().unwrap().session), (1, Uuid([4; 16])));
    let error = of.client.create(&user(), at("/f"), session, OpenFlags::RDWR, 0o644, None).await.unwrap_err();
    assert_eq!(error.code, code::META_FOUND_BUG, "truncation that nobody asked for");
}

/// What may have been done is given up before servers forget whether it was; what can be done twice goes on under another
/// name.
#[tokio::test(start_paused = true)]
async fn unclear_changes_are_given_up_unless_they_can_be_repeated() {
    let cluster = Cluster::new(31);
    let back = Instant::now() + Duration::from_secs(20 * 60);
    let (router, made) = scripted::<Mkdirs>(router(), |_, _| Err(status(code::RPC_TIMEOUT)));
    let (router, set) = scripted::<SetAttr>(router, move |_, _| {
        if Instant::now() < back {
            Err(status(code::RPC_TIMEOUT))
        } else {
            Ok(SetAttrRsp { stat: inode(5), ..SetAttrRsp::default() })
        }
    });
    let _server = add(&cluster, 1, router);
    let mut config = MetaClientConfig::default();
    config.retry_default.retry_total_time = valor_config::Duration::from_secs(24 * 3600);
    config.retry_default.retry_unclear_time = valor_config::Duration::from_secs(4 * 60);
    let (env, rpc, mgmtd) = (cluster.net.env(), rpc_client(&cluster.net), cluster.mgmtd().await);
    let client = MetaClient::start(env, rpc, mgmtd, None, config, client_id());
    let start = Instant::now();
    assert_eq!(
        client.mkdirs(&user(), at("d"), 0o755, false, None).await.unwrap_err().code,
        code::RPC_TIMEOUT
    );
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(240) && took < Duration::from_secs(300), "{took:?}");
    assert!(made.all().windows(2).all(|two| two[0].base.uuid == two[1].base.uuid));
    let new = Permissions { perm: Some(0o700), ..Permissions::default() };
    assert_eq!(client.set_permission(&user(), at("d"), false, new).await.unwrap().id, InodeId(5));
    let names: Vec<Uuid> = set.all().iter().map(|req| req.base.uuid).collect();
    let changes = names.windows(2).filter(|two| two[0] != two[1]).count();
    assert!((2..=4).contains(&changes) && !names[0].is_zero(), "{changes} new names in 16 minutes");
}
