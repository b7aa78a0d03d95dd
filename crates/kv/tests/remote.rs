//! A database in another process: what the connection adds to the semantics. Semantics are in the conformance suite.

use std::time::Duration;

use tempfile::TempDir;
use valor_env::{Endpoint, Env};
use valor_kv::{Database, Durability, KvError, SimulatedStorage};
use valor_rpc::{Client, ClientConfig, Server, ServerConfig, ServerHandle};

struct Pair {
    local: Database,
    remote: Database,
    server: ServerHandle,
    socket: Endpoint,
    _dir: TempDir,
}

fn serve(db: &Database, socket: &Endpoint) -> ServerHandle {
    Server::builder(Env::real(), ServerConfig::default())
        .service(valor_kv::remote::router(db.clone()))
        .listen(std::slice::from_ref(socket))
        .unwrap()
}

fn pair(local: Database) -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let socket = Endpoint::Unix(dir.path().join("kv.sock"));
    let server = serve(&local, &socket);
    let client = Client::new(Env::real(), ClientConfig::default());
    let remote = Database::remote(Env::real(), client, socket.clone());
    Pair { local, remote, server, socket, _dir: dir }
}

async fn put(db: &Database, key: &str, value: &str) -> Result<(), KvError> {
    let tx = db.begin();
    tx.set(key, value);
    tx.commit().await.map(|_| ())
}

#[tokio::test]
async fn both_sides_see_and_exclude_each_other() {
    let Pair { local, remote, server: _server, _dir, .. } = pair(Database::memory(Env::real()));
    put(&local, "k", "1").await.unwrap();
    assert_eq!(remote.begin().get("k").await.unwrap(), Some("1".into()));
    for (reader, writer) in [(&local, &remote), (&remote, &local)] {
        let tx = reader.begin();
        tx.get("k").await.unwrap();
        tx.set("other", "");
        put(writer, "k", "2").await.unwrap();
        assert_eq!(tx.commit().await, Err(KvError::Conflict));
    }
}

#[tokio::test]
async fn a_large_range_comes_in_pieces() {
    let Pair { local, remote, server: _server, _dir, .. } = pair(Database::memory(Env::real()));
    let tx = local.begin();
    for n in 0..90u32 {
        tx.set(n.to_be_bytes(), vec![n as u8; 100_000]);
    }
    tx.commit().await.unwrap();
    let tx = remote.begin();
    let items = tx.get_range([0], [1], usize::MAX, true).await.unwrap().items;
    assert_eq!(items.len(), 90);
    assert!(items.iter().rev().enumerate().all(|(n, entry)| entry.value[..] == [n as u8; 100_000]));
}

#[tokio::test]
async fn held_views_are_bounded() {
    let Pair { remote, server: _server, _dir, .. } = pair(Database::memory(Env::real()));
    put(&remote, "k", "1").await.unwrap();
    let mut held = Vec::new();
    for _ in 0..1100 {
        let tx = remote.begin();
        tx.get("k").await.unwrap();
        held.push(tx);
    }
    assert_eq!(held[0].get("k").await, Err(KvError::TooOld), "given up for later ones");
    remote.run(async |tx| tx.get("k").await).await.unwrap();
}

#[tokio::test]
async fn a_restarted_server_ends_transactions() {
    let storage = SimulatedStorage::new();
    let open = || Database::simulated(Env::real(), &storage, Durability::Process);
    let Pair { local, remote, server, socket, _dir } = pair(open());
    put(&remote, "k", "1").await.unwrap();
    let reader = remote.begin();
    reader.get("k").await.unwrap();
    let writer = remote.begin();
    writer.get("k").await.unwrap();
    writer.set("k", "2");
    server.stop(Duration::ZERO).await;
    drop(local);
    let restarted = open();
    let _server = serve(&restarted, &socket);
    assert!(matches!(reader.get("k").await, Err(KvError::TooOld | KvError::Retryable(_))));
    assert!(matches!(writer.commit().await, Err(KvError::TooOld | KvError::Retryable(_))));
    assert_eq!(restarted.begin().get("k").await.unwrap(), Some("1".into()));
    put(&remote, "k", "3").await.unwrap();
    assert_eq!(restarted.begin().get("k").await.unwrap(), Some("3".into()));
}

#[tokio::test]
async fn without_a_server_nothing_is_committed() {
    let Pair { remote, server, _dir, .. } = pair(Database::memory(Env::real()));
    server.stop(Duration::ZERO).await;
    let error = put(&remote, "k", "1").await.unwrap_err();
    assert!(matches!(error, KvError::Retryable(_)), "{error:?}");
    assert!(matches!(remote.begin().get("k").await, Err(KvError::Retryable(_))));
}
