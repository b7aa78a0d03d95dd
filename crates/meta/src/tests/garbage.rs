//! Garbage collection.

use std::sync::atomic::Ordering;
use std::time::Duration;

use valor_protocol::InodeId;
use valor_protocol::meta::*;
use valor_protocol::status::code;
use valor_protocol::user::UserAttr;

use super::code_of;
use super::invariants::Everything;
use crate::config::Config;
use crate::core::Operation;
use crate::ops::Open;
use crate::store::Tx;
use crate::testing::{TestServer, at, test_config};

/// No delays by the wall clock, which tests cannot turn.
fn config() -> Config {
    let mut config = test_config();
    config.gc.gc_file_delay = valor_config::Duration::from_secs(0);
    config.gc.retry_delay = valor_config::Duration::from_secs(0);
    config
}

/// Waits until nothing waits any more.
async fn collected(server: &TestServer) -> Everything {
    for _ in 0..2000 {
        let everything = Everything::read(&server.db).await;
        everything.check();
        if everything.waiting().is_empty() {
            return everything;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the queues do not empty");
}

#[tokio::test(start_paused = true)]
async fn files_lose_their_chunks_and_then_their_inode() {
    let server = TestServer::start(config()).await;
    let file = server.create("f").await;
    server.chunks.write(file.id, 100 * (512 << 10));
    server.remove("f").await.unwrap();
    let everything = collected(&server).await;
    assert!(!everything.inodes.contains_key(&file.id));
    assert!(server.chunks.lengths.lock().is_empty());
    // 32 chunks per request.
    assert_eq!(server.chunks.removals.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn open_files_keep_their_data() {
    let server = TestServer::start(config()).await;
    let file = server.create("f").await;
    server.open_write("f", 1).await;
    server.chunks.write(file.id, 10);
    server.remove("f").await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(server.stat_id(file.id).await.is_ok());
    assert_eq!(server.chunks.removals.load(Ordering::Relaxed), 0);
    assert_eq!(Everything::read(&server.db).await.waiting().len(), 1);
    server.close(file.id, 1, true).await.unwrap();
    collected(&server).await;
    assert_eq!(code_of(server.stat_id(file.id).await), code::META_NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn trees_are_taken_apart() {
    let server = TestServer::start(config()).await;
    server.mkdir("t").await;
    for i in 0..40 {
        server.mkdir(&format!("t/d{i}")).await;
        server.create(&format!("t/d{i}/f")).await;
        server.symlink(&format!("t/d{i}/s"), "x").await.unwrap();
    }
    let kept = server.create("kept").await;
    server.link("kept", "t/d7/link").await.unwrap();
    assert_eq!(code_of(server.remove("t").await), code::META_NOT_EMPTY);
    server.remove_as(0, "t", true).await.unwrap();
    let waiting = Everything::read(&server.db).await;
    let [entry] = waiting.waiting()[..] else { panic!("one entry waits") };
    assert_eq!(entry.data.gc_info.as_ref().unwrap().orig_path, "/t");
    assert_eq!(entry.name[0], b'd');
    let everything = collected(&server).await;
    assert_eq!(server.names("/").await, ["kept"]);
    assert_eq!(everything.inodes[&kept.id].data.nlink, 1);
    // The two roots, the queues, and the file.
    assert_eq!(everything.inodes.len(), 2 + 4 + 1);
}

#[tokio::test]
async fn recursive_removal_needs_the_right_to_it() {
    let server = TestServer::start(config()).await;
    server.mkdir_as(0, "home", 0o777).await.unwrap();
    server.mkdir_as(5, "home/t", 0o755).await.unwrap();
    server.mkdir_as(5, "home/t/inner", 0o755).await.unwrap();
    assert_eq!(code_of(server.remove_as(6, "home/t", true).await), code::META_NO_PERMISSION);
    let foreign = SetAttrReq { uid: Some(7), ..SetAttrReq::default() };
    server.set_attr(0, at("home/t/inner"), foreign).await.unwrap();
    assert_eq!(code_of(server.remove_as(5, "home/t", true).await), code::META_NO_PERMISSION);
    let anonymous =
        RemoveReq { base: ReqBase::default(), path: at("home/t"), recursive: true, ..RemoveReq::default() };
    assert_eq!(code_of(server.meta.remove(anonymous).await), code::INVALID_ARG);
    assert!(server.remove_as(0, "home/t", true).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_removed_becomes_an_orphan() {
    let server = TestServer::start(config()).await;
    server.configure("recursive_remove_perm_check = 0");
    let attr = UserAttr { name: "alice".into(), uid: 5, gid: 5, ..UserAttr::default() };
    server.users.users.lock().insert(5, attr);
    server.mkdir_as(0, "home", 0o777).await.unwrap();
    server.mkdir_as(5, "home/t", 0o777).await.unwrap();
    let foreign = server.mkdir_as(7, "home/t/foreign", 0o700).await.unwrap();
    server.create_as(7, "home/t/foreign/f").await.unwrap();
    server.mkdir_as(7, "home/t/empty", 0o700).await.unwrap();
    let immutable = server.create_as(5, "home/t/immutable").await.unwrap();
    let flags = SetAttrReq { iflags: Some(IFlags::IMMUTABLE), ..SetAttrReq::default() };
    server.set_attr(0, PathAt::inode(immutable.id), flags).await.unwrap();
    let removed = server.stat("home/t").await.unwrap();
    server.remove_as(5, "home/t", true).await.unwrap();
    let everything = collected(&server).await;
    assert!(!everything.inodes.contains_key(&removed.id));
    let [day] = &server.names("trash/gc-orphans").await[..] else { panic!("one day") };
    assert!(day.starts_with("alice-20") && day.len() == 14, "{day}");
    let day = format!("trash/gc-orphans/{day}");
    let by_parent = removed.id.to_string();
    assert_eq!(server.names(&day).await, [by_parent.as_str(), "foreign"]);
    assert_eq!(server.stat(&format!("{day}/foreign")).await.unwrap().id, foreign.id);
    assert_eq!(server.names(&format!("{day}/foreign")).await, ["_hf3fs_original_path", "f"]);
    let note = server.stat(&format!("{day}/foreign/_hf3fs_original_path")).await.unwrap();
    assert_eq!(note.data.as_symlink().unwrap().target, "/home/t/foreign");
    assert_eq!(server.names(&format!("{day}/{by_parent}")).await, ["_hf3fs_original_path", "immutable"]);
}

#[tokio::test(start_paused = true)]
async fn storage_that_fails_is_asked_again() {
    let server = TestServer::start(config()).await;
    let file = server.create("f").await;
    server.chunks.write(file.id, 10);
    server.chunks.failure.store(u64::from(code::STORAGE_CLIENT_TIMEOUT), Ordering::Relaxed);
    server.remove("f").await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(server.chunks.removals.load(Ordering::Relaxed) > 1);
    let name = Everything::read(&server.db).await.waiting()[0].name.clone();
    // A failure that will not pass sends the task to the end of the queue.
    server.chunks.failure.store(u64::from(code::STORAGE_CLIENT_CHECKSUM_MISMATCH), Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(Everything::read(&server.db).await.waiting()[0].name > name);
    server.chunks.failure.store(0, Ordering::Relaxed);
    collected(&server).await;
    assert!(server.chunks.lengths.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn removed_files_wait_unless_space_is_short() {
    let mut config = config();
    config.gc.gc_file_delay = valor_config::Duration::from_secs(3600);
    let server = TestServer::start(config).await;
    let file = server.create("f").await;
    server.remove("f").await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(server.stat_id(file.id).await.is_ok());
    // 60 % are free in tests.
    server.configure("gc.gc_delay_free_space_threshold = 61");
    collected(&server).await;
}

#[tokio::test]
async fn a_file_system_must_be_initialised() {
    let env = valor_env::Env::real();
    let db = valor_kv::Database::memory(env.clone());
    let deps = crate::Deps {
        db,
        users: std::sync::Arc::new(crate::testing::TestUsers::default()),
        cluster: std::sync::Arc::new(crate::testing::TestCluster::with_chains(1)),
        chunks: std::sync::Arc::new(crate::testing::TestChunks::default()),
        rpc: valor_rpc::Client::new(env.clone(), Default::default()),
    };
    let config = valor_config::Live::new(Config::default());
    let started = crate::Meta::start(env, config, 50.into(), deps).await;
    assert_eq!(started.map(|_| ()).unwrap_err().code, code::META_BAD_FILE_SYSTEM);
}

#[tokio::test]
async fn roots_and_queues_are_made_once() {
    let server = TestServer::start(test_config()).await;
    let before = Everything::read(&server.db).await;
    crate::init_fs(&server.db, Layout::empty(1.into(), 4096, 1), valor_wire::UtcTime(1)).await.unwrap();
    let again = TestServer::join(
        test_config(),
        server.db.clone(),
        server.cluster.clone(),
        server.chunks.clone(),
        50.into(),
    )
    .await;
    let after = Everything::read(&again.db).await;
    assert_eq!(before.inodes, after.inodes);
    assert_eq!(before.inodes.len(), 6);
    for queue in before.entries.values() {
        assert_eq!(queue.parent, InodeId::GC_ROOT);
    }
    assert_eq!(code_of(server.remove("/").await), code::INVALID_ARG);
}

#[tokio::test(start_paused = true)]
async fn an_open_file_is_never_collected() {
    let server = std::sync::Arc::new(TestServer::start(config()).await);
    for round in 0..100 {
        crate::testing::seed_interleaving(round);
        let file = server.create("f").await;
        let (opener, remover) = (std::sync::Arc::clone(&server), std::sync::Arc::clone(&server));
        let open = tokio::spawn(async move {
            let req = opener.open_req(0, PathAt::inode(file.id), OpenFlags::RDWR, 1);
            opener.meta.open(req).await.is_ok()
        });
        let remove = tokio::spawn(async move { remover.remove("f").await.unwrap() });
        let opened = open.await.unwrap();
        remove.await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        Everything::read(&server.db).await.check();
        assert_eq!(server.stat_id(file.id).await.is_ok(), opened, "round {round}");
        if opened {
            server.close(file.id, 1, true).await.unwrap();
        }
        collected(&server).await;
    }
}

/// An operation that found the file alive, and commits after it was collected, fails.
#[tokio::test(start_paused = true)]
async fn what_was_collected_is_not_opened() {
    let server = TestServer::start(config()).await;
    let core = server.meta.core();
    for by_id in [true, false] {
        let file = server.create("f").await;
        let path = if by_id { PathAt::inode(file.id) } else { at("f") };
        let mut tx = Tx::begin(&server.db);
        let mut open = Open::from(server.open_req(0, path, OpenFlags::RDWR, 1));
        open.run(&core.cx(), &mut tx).await.unwrap();
        server.remove("f").await.unwrap();
        collected(&server).await;
        assert!(tx.commit().await.is_err());
        Everything::read(&server.db).await.check();
    }
}
