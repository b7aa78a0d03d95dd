//! How fast the service is by itself, without the network: `cargo test --release -p valor-meta speed -- --ignored
//! --nocapture`.

use std::sync::Arc;
use std::time::Instant;

use valor_env::Env;
use valor_kv::{Database, Durability};
use valor_protocol::meta::*;
use valor_wire::UtcTime;

use crate::config::Config;
use crate::init_fs;
use crate::testing::{TestCluster, TestServer, at, test_layout};

const FILES: usize = 20_000;
const TASKS: usize = 8;

async fn measure(
    name: &str,
    server: &Arc<TestServer>,
    run: impl AsyncFn(&TestServer, usize) + Clone + 'static,
) {
    let started = Instant::now();
    let local = tokio::task::LocalSet::new();
    for task in 0..TASKS {
        let (server, run) = (Arc::clone(server), run.clone());
        local.spawn_local(async move {
            for i in 0..FILES / TASKS {
                run(&server, task * FILES / TASKS + i).await;
            }
        });
    }
    local.await;
    println!("{name:24} {:8.0} per second", FILES as f64 / started.elapsed().as_secs_f64());
}

async fn run_all(engine: &str, db: Database) {
    println!("{engine}, {TASKS} tasks");
    init_fs(&db, test_layout(), UtcTime(0)).await.unwrap();
    let cluster = Arc::new(TestCluster::with_chains(6));
    let server = Arc::new(TestServer::join(Config::fast(), db, cluster, Arc::default(), 50.into()).await);
    let directory = server.mkdir("d").await;
    let path = move |i: usize| PathAt::at(directory.id, format!("file{i}"));
    measure("create in one directory", &server, async move |server: &TestServer, i| {
        let req =
            CreateReq { path: path(i), ..server.create_req(0, "x", OpenFlags::WRONLY, (i % 250) as u8 + 1) };
        server.meta.create(req).await.unwrap();
    })
    .await;
    let inode = server.stat("d/file7").await.unwrap().id;
    measure("stat by id", &server, async move |server: &TestServer, _| {
        server.stat_id(inode).await.unwrap();
    })
    .await;
    measure("stat by name", &server, async move |server: &TestServer, i| {
        server.stat_at(path(i), AtFlags::default()).await.unwrap();
    })
    .await;
    measure("close with hint", &server, async move |server: &TestServer, i| {
        let stat = server.stat_at(path(i), AtFlags::default()).await.unwrap();
        server.close(stat.id, (i % 250) as u8 + 1, false).await.unwrap();
    })
    .await;
    measure("mkdir", &server, async move |server: &TestServer, i| {
        let req = MkdirsReq {
            base: server.base(0),
            path: at(&format!("d/sub{i}")),
            perm: 0o755,
            ..MkdirsReq::default()
        };
        server.meta.mkdirs(req).await.unwrap();
    })
    .await;
    measure("rename", &server, async move |server: &TestServer, i| {
        let dest = PathAt::at(directory.id, format!("renamed{i}"));
        let req = RenameReq { base: server.base(0), src: path(i), dest, ..RenameReq::default() };
        server.meta.rename(req).await.unwrap();
    })
    .await;
    measure("remove", &server, async move |server: &TestServer, i| {
        let path = PathAt::at(directory.id, format!("renamed{i}"));
        let req = RemoveReq { base: server.base(0), path, ..RemoveReq::default() };
        server.meta.remove(req).await.unwrap();
    })
    .await;
}

#[tokio::test]
#[ignore = "measures"]
async fn speed() {
    run_all("memory", Database::memory(Env::real())).await;
    let directory = tempfile::tempdir().unwrap();
    for durability in [Durability::Process, Durability::Always] {
        let path = directory.path().join(format!("{durability:?}"));
        run_all(&format!("embedded, {durability:?}"), Database::open(Env::real(), path, durability).unwrap())
            .await;
    }
}
