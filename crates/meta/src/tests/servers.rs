//! Several servers of one file system.

use std::time::Duration;

use tokio::net::TcpListener;
use valor_env::{Endpoint, Env};
use valor_protocol::meta::*;
use valor_protocol::status::code;
use valor_protocol::{Address, InodeId, NodeId};
use valor_rpc::{Server, ServerConfig, ServerHandle};

use super::invariants::Everything;
use super::{code_of, length};
use crate::distributor;
use crate::testing::{TestServer, at, test_config};

/// Serves a server's requests at an address that the cluster knows.
fn serve(server: &TestServer, node: NodeId) -> ServerHandle {
    let mut builder = Server::builder(Env::real(), ServerConfig::default());
    for router in server.meta.routers() {
        builder = builder.service(router);
    }
    let handle = builder.listen(&[Endpoint::Tcp("127.0.0.1:0".parse().unwrap())]).unwrap();
    let Endpoint::Tcp(std::net::SocketAddr::V4(address)) = handle.addresses()[0].clone() else {
        panic!("no TCP")
    };
    server.cluster.servers.lock().insert(node, Some(Address::tcp(address)));
    handle
}

async fn second(first: &TestServer) -> TestServer {
    let (db, cluster, chunks) = (first.db.clone(), first.cluster.clone(), first.chunks.clone());
    let second = TestServer::join(test_config(), db, cluster, chunks, NodeId(51)).await;
    distributor::update(first.meta.core(), false).await.unwrap();
    second
}

/// A directory whose owner is `node`.
async fn owned_by(server: &TestServer, node: u32) -> Inode {
    for i in 0.. {
        let directory = server.mkdir(&format!("d{node}-{i}")).await;
        if server.meta.core().distributor.owner(directory.id) == Some(NodeId(node)) {
            return directory;
        }
    }
    unreachable!()
}

#[tokio::test]
async fn owners_answer_and_others_ask_them() {
    let first = TestServer::start(test_config()).await;
    let second = second(&first).await;
    let _serving = (serve(&first, NodeId(50)), serve(&second, NodeId(51)));
    for node in [50, 51] {
        let directory = owned_by(&first, node).await;
        for (server, name) in [(&first, "a"), (&second, "b")] {
            let req = CreateReq {
                path: PathAt::at(directory.id, name),
                ..server.create_req(0, "x", OpenFlags::RDONLY, 0)
            };
            let file = server.meta.create(req).await.unwrap().stat;
            let hint = Some(VersionedLength { length: 5, truncate_ver: 0 });
            let sync = SyncReq { update_length: true, length_hint: hint, ..SyncReq::default() };
            assert_eq!(length(&server.sync(file.id, sync).await.unwrap()), (5, 0));
            let change = SetAttrReq { perm: Some(0o600), ..SetAttrReq::default() };
            assert_eq!(
                server.set_attr(0, PathAt::inode(file.id), change).await.unwrap().data.acl.perm,
                0o600
            );
        }
        // An error of the owner passes unchanged.
        for server in [&first, &second] {
            assert_eq!(code_of(server.sync(InodeId(12), SyncReq::default()).await), code::META_NOT_FOUND);
        }
    }
    Everything::read(&first.db).await.check();
}

#[tokio::test]
async fn a_request_is_passed_on_once() {
    let first = TestServer::start(test_config()).await;
    let second = second(&first).await;
    let directory = owned_by(&first, 51).await;
    let sync = SyncReq { base: first.base(0), inode: directory.id, ..SyncReq::default() };
    assert_eq!(code_of(first.meta.sync(sync.clone()).await), code::META_FORWARD_FAILED, "no address");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let std::net::SocketAddr::V4(nobody) = nobody else { panic!("not IPv4") };
    first.cluster.servers.lock().insert(NodeId(51), Some(Address::tcp(nobody)));
    assert_eq!(code_of(first.meta.sync(sync.clone()).await), code::META_FORWARD_TIMEOUT);
    let _serving = serve(&second, NodeId(51));
    let forwarded = SyncReq { base: ReqBase { forward: NodeId(52), ..sync.base.clone() }, ..sync.clone() };
    assert_eq!(code_of(first.meta.sync(forwarded).await), code::META_FORWARD_FAILED);
    assert!(first.meta.sync(sync).await.is_ok());
}

#[tokio::test]
async fn a_server_that_lost_an_inode_does_not_write_it() {
    let first = TestServer::start(test_config()).await;
    let directory = first.mkdir("d").await;
    // Servers come until the directory belongs to another; the first does not know yet.
    let mut others = Vec::new();
    for node in 51.. {
        let (db, cluster, chunks) = (first.db.clone(), first.cluster.clone(), first.chunks.clone());
        others.push(TestServer::join(test_config(), db, cluster, chunks, NodeId(node)).await);
        if others[0].meta.core().distributor.owner(directory.id) == Some(NodeId(node))
            || others.last().unwrap().meta.core().distributor.owner(directory.id) != Some(NodeId(50))
        {
            break;
        }
    }
    assert_eq!(first.meta.core().distributor.owner(directory.id), Some(NodeId(50)), "as it believes");
    let times = SyncReq { atime: Some(valor_wire::UtcTime(i64::MAX / 2)), ..SyncReq::default() };
    assert_eq!(code_of(first.sync(directory.id, times.clone()).await), code::META_BUSY);
    let owner = first.meta.core().distributor.owner(directory.id).unwrap();
    assert_ne!(owner, NodeId(50), "now it knows");
    let owner = &others[owner.0 as usize - 51];
    assert!(owner.sync(directory.id, times).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn silent_servers_are_dropped_and_leaving_ones_go_at_once() {
    let first = TestServer::start(test_config()).await;
    let second = second(&first).await;
    let directory = owned_by(&first, 51).await;
    let owner = |server: &TestServer| server.meta.core().distributor.owner(directory.id);
    second.meta.stop().await;
    distributor::update(first.meta.core(), false).await.unwrap();
    assert_eq!(owner(&first), Some(NodeId(50)));
    // It comes back, and falls silent without a word.
    distributor::update(second.meta.core(), false).await.unwrap();
    distributor::update(first.meta.core(), false).await.unwrap();
    assert_eq!(owner(&first), Some(NodeId(51)));
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(owner(&first), Some(NodeId(51)));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(owner(&first), Some(NodeId(50)));
}

#[tokio::test]
async fn removals_spread_over_all_queues() {
    let first = TestServer::start(test_config()).await;
    let second = second(&first).await;
    let _serving = (serve(&first, NodeId(50)), serve(&second, NodeId(51)));
    let mut queues = std::collections::BTreeSet::new();
    // A new server knows all queues, the older one only its own until it looks again.
    for (server, expected) in [(&first, 4), (&second, 8)] {
        for i in 0..100 {
            server.create(&format!("f{i}")).await;
            server.remove(&format!("f{i}")).await.unwrap();
        }
        queues.extend(Everything::read(&first.db).await.waiting().iter().map(|entry| entry.parent));
        assert_eq!(queues.len(), expected);
    }
}

#[tokio::test]
async fn every_method_is_served() {
    let first = TestServer::start(test_config()).await;
    let handle = serve(&first, NodeId(50));
    let Endpoint::Tcp(std::net::SocketAddr::V4(address)) = handle.addresses()[0].clone() else {
        panic!("no TCP")
    };
    let client = valor_rpc::Client::new(Env::real(), Default::default());
    let to = Address::tcp(address);
    let options = valor_rpc::CallOptions::default();
    let stat = StatReq { base: first.base(0), path: at("/"), ..StatReq::default() };
    let root = client.call::<methods::Stat>(to, &stat, &options).await.unwrap().stat;
    assert_eq!(root.id, InodeId::ROOT);
    let hold = valor_protocol::valor::HoldReq::default();
    let refused = client.call::<valor_protocol::valor::meta::Hold>(to, &hold, &options).await;
    assert_eq!(code_of(refused), code::INVALID_ARG);
    assert!(client.call::<methods::TestRpc>(to, &TestRpcReq::default(), &options).await.is_ok());
    let statfs = client.call::<methods::StatFs>(to, &StatFsReq::default(), &options).await.unwrap();
    assert_eq!((statfs.capacity, statfs.used, statfs.free), (1000, 400, 600));
    let served: Vec<_> = first.meta.routers().iter().map(|router| router.name()).collect();
    assert_eq!(served, ["MetaSerde", "ValorMeta"]);
}

/// Copies of requests that were held up on their way to another server, and come after what the client did since.
#[tokio::test]
async fn copies_that_come_late_have_no_effect() {
    let first = TestServer::start(test_config()).await;
    let second = second(&first).await;
    let _serving = (serve(&first, NodeId(50)), serve(&second, NodeId(51)));
    let create = first.create_req(0, "f", OpenFlags::WRONLY, 1);
    let file = first.meta.create(create.clone()).await.unwrap();
    let mkdirs = MkdirsReq { base: first.base(0), path: at("d"), perm: 0o755, ..MkdirsReq::default() };
    first.meta.mkdirs(mkdirs.clone()).await.unwrap();
    let symlink = SymlinkReq { base: first.base(0), path: at("s"), target: "f".into() };
    first.meta.symlink(symlink.clone()).await.unwrap();
    let link =
        HardLinkReq { base: first.base(0), old_path: at("f"), new_path: at("l"), flags: AtFlags::default() };
    first.meta.hard_link(link.clone()).await.unwrap();
    let open = OpenReq {
        base: first.base(0),
        path: at("f"),
        session: first.create_req(0, "f", OpenFlags::WRONLY, 2).session,
        flags: OpenFlags::WRONLY,
        ..OpenReq::default()
    };
    first.meta.open(open.clone()).await.unwrap();
    for session in [create.session.clone(), open.session.clone()] {
        let close = CloseReq { base: first.base(0), inode: file.stat.id, session, ..CloseReq::default() };
        first.meta.close(close).await.unwrap();
    }
    let rename = RenameReq { base: first.base(0), src: at("l"), dest: at("r"), ..RenameReq::default() };
    first.meta.rename(rename.clone()).await.unwrap();
    for name in ["r", "s", "d"] {
        first.remove(name).await.unwrap();
    }
    let other = first.create("l").await;

    assert!(second.meta.open(open).await.is_ok());
    assert_eq!(second.meta.create(create).await.unwrap().stat.id, file.stat.id);
    assert!(second.meta.mkdirs(mkdirs).await.is_ok());
    assert!(second.meta.symlink(symlink).await.is_ok());
    assert!(second.meta.hard_link(link).await.is_ok());
    assert!(second.meta.rename(rename).await.is_ok());
    for name in ["r", "s", "d"] {
        assert_eq!(code_of(first.stat(name).await), code::META_NOT_FOUND, "{name}");
    }
    assert_eq!(first.stat("l").await.unwrap().id, other.id);
    let everything = Everything::read(&first.db).await;
    everything.check();
    assert!(everything.sessions.is_empty(), "{:?}", everything.sessions);
}

/// The same with attributes and locks, by path and by inode, wherever the owner is.
#[tokio::test]
async fn copies_of_changed_attributes_that_come_late_have_no_effect() {
    let first = TestServer::start(test_config()).await;
    let second = second(&first).await;
    let _serving = (serve(&first, NodeId(50)), serve(&second, NodeId(51)));
    let now = valor_wire::UtcTime(1_000_000);
    for node in [50, 51] {
        let directory = owned_by(&first, node).await;
        let name = directory.data.as_directory().unwrap().name.to_string();
        for path in [PathAt::inode(directory.id), at(&name)] {
            let change = |perm, mtime| SetAttrReq {
                base: first.base(0),
                path: path.clone(),
                perm: Some(perm),
                mtime: Some(mtime),
                ..SetAttrReq::default()
            };
            let changed = change(0o700, now);
            assert_eq!(first.meta.set_attr(changed.clone()).await.unwrap().stat.data.acl.perm, 0o700);
            let later = valor_wire::UtcTime(2 * now.0);
            first.meta.set_attr(change(0o755, later)).await.unwrap();
            second.meta.set_attr(changed).await.unwrap();
            let found = first.stat(&name).await.unwrap().data;
            assert_eq!((found.acl.perm, found.mtime), (0o755, later), "{path:?} of {node}");
        }
        let lock = |action| LockDirectoryReq { base: first.base(0), inode: directory.id, action };
        let locked = lock(LockAction::TryLock);
        first.meta.lock_directory(locked.clone()).await.unwrap();
        first.meta.lock_directory(lock(LockAction::UnLock)).await.unwrap();
        second.meta.lock_directory(locked).await.unwrap();
        let found = first.stat(&name).await.unwrap();
        assert_eq!(found.data.as_directory().unwrap().lock, None, "locked again");
        // A repetition shows what there is now, and one that was refused stays so.
        let file = first.create(&format!("{name}/f")).await;
        let of_file = |uid, perm| SetAttrReq {
            base: first.base(uid),
            path: PathAt::inode(file.id),
            perm: Some(perm),
            ..SetAttrReq::default()
        };
        let (refused, done) = (of_file(77, 0o600), of_file(0, 0o640));
        assert_eq!(code_of(first.meta.set_attr(refused.clone()).await), code::META_NO_PERMISSION);
        first.meta.set_attr(done.clone()).await.unwrap();
        let owner = SetAttrReq { uid: Some(77), ..of_file(0, 0o644) };
        first.meta.set_attr(owner).await.unwrap();
        assert_eq!(code_of(second.meta.set_attr(refused).await), code::META_NO_PERMISSION);
        assert_eq!(second.meta.set_attr(done).await.unwrap().stat.data.acl.perm, 0o644);
    }
    Everything::read(&first.db).await.check();
}

/// The same with what was refused, for a reason that is gone when the copy comes.
#[tokio::test]
async fn copies_of_refused_requests_that_come_late_are_refused() {
    let first = TestServer::start(test_config()).await;
    let second = second(&first).await;
    let _serving = (serve(&first, NodeId(50)), serve(&second, NodeId(51)));
    first.create("f").await;
    let create = first.create_req(0, "f", OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::EXCL, 1);
    assert_eq!(code_of(first.meta.create(create.clone()).await), code::META_EXISTS);
    let open = OpenReq {
        base: first.base(0),
        path: at("g"),
        session: first.create_req(0, "g", OpenFlags::WRONLY, 2).session,
        flags: OpenFlags::WRONLY,
        ..OpenReq::default()
    };
    assert_eq!(code_of(first.meta.open(open.clone()).await), code::META_NOT_FOUND);
    first.remove("f").await.unwrap();
    first.create("g").await;

    assert_eq!(code_of(second.meta.create(create).await), code::META_EXISTS);
    assert_eq!(code_of(second.meta.open(open).await), code::META_NOT_FOUND);
    assert_eq!(code_of(first.stat("f").await), code::META_NOT_FOUND);
    let everything = Everything::read(&first.db).await;
    everything.check();
    assert!(everything.sessions.is_empty(), "{:?}", everything.sessions);
    // What is wrong with a request itself is not written down.
    let mut long = first.create_req(0, &"n".repeat(300), OpenFlags::WRONLY, 3);
    long.base = first.base(0);
    let key = crate::schema::idempotent_key(long.base.uuid, long.base.client.uuid);
    assert!(first.meta.create(long).await.is_err());
    assert_eq!(first.db.begin().get(&key).await.unwrap(), None);
}
