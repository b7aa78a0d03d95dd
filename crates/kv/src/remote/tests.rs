//! Requests no well-behaved client sends, and commits without an answer.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use valor_env::{Endpoint, Env};
use valor_rpc::{CallOptions, Client, ClientConfig, Router, Server, ServerConfig, ServerHandle};
use valor_wire::Status;

use super::protocol::{
    Begin, BeginReq, Commit, CommitReq, Fence, FenceReq, Get, Range, ViewInfo, WriteMessage,
};
use crate::batch::Mutation;
use crate::key::METADATA_VERSION_KEY;
use crate::{Database, KvError};

fn write(kind: u8, key: &'static [u8], value: &'static [u8], offset: u32) -> WriteMessage {
    WriteMessage { kind, key: key.into(), value: value.into(), offset }
}

fn range(begin: &'static str, end: &'static str) -> Range {
    Range { begin: begin.into(), end: end.into() }
}

fn check(req: CommitReq) -> Result<Vec<Mutation>, KvError> {
    req.check(None).map(|request| request.mutations)
}

#[test]
fn hostile_commits_are_refused() {
    let refused = [
        CommitReq { writes: vec![write(4, b"k", b"", 0)], ..CommitReq::default() },
        CommitReq { writes: vec![write(0, b"", b"", 0)], ..CommitReq::default() },
        CommitReq { writes: vec![write(0, b"\xff", b"", 0)], ..CommitReq::default() },
        CommitReq { writes: vec![write(0, METADATA_VERSION_KEY, b"", 0)], ..CommitReq::default() },
        CommitReq { writes: vec![write(2, b"b", b"a", 0)], ..CommitReq::default() },
        CommitReq { writes: vec![write(3, b"k", b"0123456789", 1)], ..CommitReq::default() },
        CommitReq { writes: vec![write(3, b"k", b"0123456789", u32::MAX)], ..CommitReq::default() },
        CommitReq { read_conflicts: vec![range("b", "a")], ..CommitReq::default() },
        CommitReq { write_conflicts: vec![range("b", "a")], ..CommitReq::default() },
    ];
    for req in refused {
        let text = format!("{req:?}");
        let status = Status::from(check(req).expect_err(&text));
        assert_eq!(status.code, 1000, "{text}");
    }
    let huge = CommitReq {
        writes: (0..500u32)
            .map(|n| WriteMessage {
                kind: 0,
                key: n.to_be_bytes().to_vec().into(),
                value: vec![0; 100_000].into(),
                offset: 0,
            })
            .collect(),
        ..CommitReq::default()
    };
    assert!(matches!(check(huge), Err(KvError::TooLarge { .. })));
}

#[test]
fn writes_are_brought_into_order() {
    let writes = vec![
        write(0, b"b", b"1", 0),
        write(0, b"c", b"1", 0),
        write(0, b"c", b"2", 0),
        write(2, b"a", b"c", 0),
        write(1, b"c", b"", 0),
    ];
    let req =
        CommitReq { writes, read_conflicts: vec![range("x", "z"), range("a", "y")], ..CommitReq::default() };
    let request = req.check(None).unwrap();
    assert_eq!(
        request.mutations,
        [Mutation::ClearRange(crate::KeyRange::new("a", "c")), Mutation::Clear { key: "c".into() },]
    );
    assert_eq!(request.read_conflicts, [crate::KeyRange::new("a", "z")]);
    // Touching ranges are one.
    assert_eq!(request.write_conflicts, [crate::KeyRange::new("a", "c\0")]);
}

fn serve(router: Router, socket: &Endpoint) -> ServerHandle {
    let server = Server::builder(Env::real(), ServerConfig::default()).service(router);
    server.listen(std::slice::from_ref(socket)).unwrap()
}

/// The server dies while a commit is under way.
#[tokio::test]
async fn a_commit_without_an_answer_may_have_taken_place() {
    let dir = tempfile::tempdir().unwrap();
    let socket = Endpoint::Unix(dir.path().join("kv.sock"));
    let arrived = Arc::new(tokio::sync::Notify::new());
    let notify = arrived.clone();
    let silent = Router::new(super::SERVICE_ID, super::SERVICE)
        .method::<Begin, _, _>(async |_, _| Ok(ViewInfo { view: 1, version: 0 }))
        .method::<Commit, _, _>(move |_, _| {
            notify.notify_one();
            std::future::pending()
        });
    let server = serve(silent, &socket);
    let rpc = Client::new(Env::real(), ClientConfig::default());
    let db = Database::remote(Env::real(), rpc, socket.clone());
    let commit = tokio::spawn(async move {
        let tx = db.begin();
        tx.set("k", "v");
        tx.commit().await
    });
    arrived.notified().await;
    server.stop(Duration::ZERO).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!commit.is_finished(), "it is not known yet that the commit will not arrive");
    let _server = serve(super::router(Database::memory(Env::real())), &socket);
    assert_eq!(commit.await.unwrap(), Err(KvError::MaybeCommitted));
}

#[tokio::test]
async fn a_commit_that_was_fenced_off_does_not_arrive_later() {
    let dir = tempfile::tempdir().unwrap();
    let socket = Endpoint::Unix(dir.path().join("kv.sock"));
    let db = Database::memory(Env::real());
    let _server = serve(super::router(db.clone()), &socket);
    let rpc = Client::new(Env::real(), ClientConfig::default());
    let options = CallOptions::default();
    let begin =
        async || rpc.call_endpoint::<Begin>(&socket, &BeginReq { client: 1 }, &options).await.unwrap();
    let commit = |begun: &ViewInfo, fence| CommitReq {
        view: begun.view,
        fence,
        read_version: Some(begun.version),
        writes: vec![write(0, b"k", b"v", 0)],
        ..CommitReq::default()
    };
    let (first, second) = (begin().await, begin().await);
    rpc.call_endpoint::<Fence>(&socket, &FenceReq { fence: 7 }, &options).await.unwrap();
    let late = rpc.call_endpoint::<Commit>(&socket, &commit(&first, 7), &options).await.unwrap_err();
    assert_eq!(late.code, KvError::Conflict.code());
    assert_eq!(db.begin().get("k").await.unwrap(), None);
    rpc.call_endpoint::<Commit>(&socket, &commit(&second, 8), &options).await.unwrap();
    assert_eq!(db.begin().get("k").await.unwrap(), Some("v".into()), "another is not concerned");
}

#[tokio::test]
async fn a_commit_that_is_too_old_does_not_take_effect() {
    let dir = tempfile::tempdir().unwrap();
    let socket = Endpoint::Unix(dir.path().join("kv.sock"));
    let db = Database::memory(Env::real());
    let _server = serve(super::router(db.clone()), &socket);
    let rpc = Client::new(Env::real(), ClientConfig::default());
    let remote = Database::remote(Env::real(), rpc, socket);
    let (tx, other) = (remote.begin(), remote.begin());
    for tx in [&tx, &other] {
        tx.get("k").await.unwrap();
        tx.set("k", "v");
    }
    tokio::time::pause();
    tokio::time::advance(super::VIEW_AGE_MAX).await;
    tokio::time::resume();
    assert_eq!(tx.get("other").await, Err(KvError::TooOld));
    assert_eq!(other.commit().await, Err(KvError::TooOld));
    assert_eq!(db.begin().get("k").await.unwrap(), None);
}

/// Nobody answers any more: the caller is not held up for longer than the commit could still take effect.
#[tokio::test]
async fn a_commit_without_a_server_is_given_up_with_its_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let socket = Endpoint::Unix(dir.path().join("kv.sock"));
    let silent = Router::new(super::SERVICE_ID, super::SERVICE)
        .method::<Begin, _, _>(async |_, _| Ok(ViewInfo { view: 1, version: 0 }))
        .method::<Commit, _, _>(|_, _| std::future::pending())
        .method::<Fence, _, _>(|_, _| std::future::pending());
    let _server = serve(silent, &socket);
    let rpc = Client::new(Env::real(), ClientConfig::default());
    let db = Database::remote(Env::real(), rpc, socket);
    let tx = db.begin();
    tx.read_version().await.unwrap();
    tx.set("k", "v");
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    assert_eq!(tx.commit().await, Err(KvError::MaybeCommitted));
    assert!(begun.elapsed() <= super::VIEW_AGE_MAX + super::VIEW_AGE_MAX / 10, "{:?}", begun.elapsed());
}

/// The network holds a commit and its fences back until its sender has given up.
#[tokio::test]
async fn a_commit_that_was_held_back_does_not_take_effect_after_it_was_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (real, held) =
        (Endpoint::Unix(dir.path().join("kv.sock")), Endpoint::Unix(dir.path().join("held.sock")));
    let db = Database::memory(Env::real());
    let _server = serve(super::router(db.clone()), &real);
    let rpc = Client::new(Env::real(), ClientConfig::default());
    let (release, arrived) = (Arc::new(tokio::sync::Notify::new()), Arc::new(Mutex::new(None)));
    let _proxy = serve(holding_back(rpc.clone(), real.clone(), release.clone(), arrived.clone()), &held);
    let remote = Database::remote(Env::real(), rpc.clone(), held);
    let tx = remote.begin();
    assert_eq!(tx.get("k").await.unwrap(), None);
    tx.set("k", "v");
    tokio::time::pause();
    assert_eq!(tx.commit().await, Err(KvError::MaybeCommitted));
    tokio::time::resume();
    let direct = Database::remote(Env::real(), rpc, real);
    assert_eq!(direct.begin().get("k").await.unwrap(), None);
    release.notify_one();
    let late = async {
        loop {
            if let Some(result) = arrived.lock().take() {
                return result;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let late = tokio::time::timeout(PATIENCE, late).await.expect("the commit arrives in the end");
    assert_eq!(late, Err(KvError::TooOld.code()));
    assert_eq!(direct.begin().get("k").await.unwrap(), None);
}

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network that delivers commits when told to, and no fences.
fn holding_back(
    rpc: Arc<Client>,
    real: Endpoint,
    release: Arc<tokio::sync::Notify>,
    arrived: Arc<Mutex<Option<Result<u64, u16>>>>,
) -> Router {
    let (to_begin, to_get) = ((rpc.clone(), real.clone()), (rpc.clone(), real.clone()));
    Router::new(super::SERVICE_ID, super::SERVICE)
        .method::<Begin, _, _>(move |_, req| {
            let (rpc, real) = to_begin.clone();
            async move { rpc.call_endpoint::<Begin>(&real, &req, &CallOptions::timeout(PATIENCE)).await }
        })
        .method::<Get, _, _>(move |_, req| {
            let (rpc, real) = to_get.clone();
            async move { rpc.call_endpoint::<Get>(&real, &req, &CallOptions::timeout(PATIENCE)).await }
        })
        .method::<Fence, _, _>(|_, _| std::future::pending())
        .method::<Commit, _, _>(move |_, req| {
            let (rpc, real, release, arrived) = (rpc.clone(), real.clone(), release.clone(), arrived.clone());
            async move {
                release.notified().await;
                let result = rpc.call_endpoint::<Commit>(&real, &req, &CallOptions::timeout(PATIENCE)).await;
                let told = result.as_ref().map(|rsp| rsp.version).map_err(|status| status.code);
                *arrived.lock() = Some(told);
                result
            }
        })
}
