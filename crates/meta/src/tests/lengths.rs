//! Lengths and times of files, by `sync` and `close`.

use std::sync::atomic::Ordering;

use valor_protocol::meta::*;
use valor_protocol::status::code;
use valor_wire::UtcTime;

use super::{code_of, length};
use crate::testing::{TestServer, session, test_config};

fn hint(length: u64, truncate_ver: u64) -> SyncReq {
    let length_hint = Some(VersionedLength { length, truncate_ver });
    SyncReq { update_length: true, length_hint, ..SyncReq::default() }
}

fn ask() -> SyncReq {
    SyncReq { update_length: true, ..SyncReq::default() }
}

async fn queries(server: &TestServer) -> u64 {
    server.chunks.queries.swap(0, Ordering::Relaxed)
}

#[tokio::test]
async fn hints_raise_the_length_without_asking_storage() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    assert_eq!(length(&server.sync(file.id, hint(100, 0)).await.unwrap()), (100, 0));
    assert_eq!(length(&server.sync(file.id, hint(50, 0)).await.unwrap()), (100, 0));
    assert_eq!(queries(&server).await, 0);
    server.chunks.write(file.id, 300);
    assert_eq!(length(&server.sync(file.id, ask()).await.unwrap()), (300, 0));
    assert_eq!(queries(&server).await, 1);
    server.configure("ignore_length_hint = true");
    assert_eq!(length(&server.sync(file.id, hint(900, 0)).await.unwrap()), (300, 0));
    assert_eq!(queries(&server).await, 1);
}

#[tokio::test]
async fn truncation_raises_the_version() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.chunks.write(file.id, 1000);
    server.sync(file.id, ask()).await.unwrap();
    server.chunks.lengths.lock().insert(file.id, 10);
    let truncated = SyncReq { truncated: true, ..ask() };
    let inode = server.sync(file.id, truncated.clone()).await.unwrap();
    assert_eq!(length(&inode), (10, 1));
    assert!(inode.data.ctime > file.data.ctime);
    // A hint of the time before must not bring the old length back.
    assert_eq!(length(&server.sync(file.id, hint(1000, 0)).await.unwrap()), (10, 1));
    // Truncating to the same length still counts.
    assert_eq!(length(&server.sync(file.id, truncated).await.unwrap()), (10, 2));
    // Storage has less than was recorded: counts too.
    server.chunks.lengths.lock().insert(file.id, 5);
    assert_eq!(length(&server.sync(file.id, ask()).await.unwrap()), (5, 3));
    assert_eq!(code_of(server.sync(file.id, hint(9, 4)).await), code::META_FOUND_BUG);
    let without = SyncReq { truncated: true, ..SyncReq::default() };
    assert_eq!(code_of(server.sync(file.id, without).await), code::INVALID_ARG);
}

#[tokio::test]
async fn a_short_hint_of_a_truncated_file_asks_storage() {
    // C++ compares a hint's length with the file's version.
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    for _ in 0..3 {
        server.sync(file.id, SyncReq { truncated: true, ..ask() }).await.unwrap();
    }
    queries(&server).await;
    server.chunks.write(file.id, 2);
    assert_eq!(length(&server.sync(file.id, hint(2, 3)).await.unwrap()), (2, 3));
    assert_eq!(queries(&server).await, 1);
    assert_eq!(length(&server.sync(file.id, hint(4, 3)).await.unwrap()), (4, 3));
    assert_eq!(queries(&server).await, 0);
}

#[tokio::test]
async fn times_move_forward_only() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    let later = UtcTime(file.data.mtime.0 + 1_000_000);
    let times = |atime, mtime| SyncReq { atime, mtime, ..SyncReq::default() };
    let inode = server.sync(file.id, times(Some(later), Some(UtcTime(5)))).await.unwrap();
    assert_eq!((inode.data.atime, inode.data.mtime), (later, file.data.mtime));
    let close = CloseReq {
        base: server.base(0),
        inode: file.id,
        session: session(1, 1),
        mtime: Some(later),
        ..CloseReq::default()
    };
    assert_eq!(server.meta.close(close.clone()).await.unwrap().stat.data.mtime, later);
    assert_eq!(code_of(server.meta.close(CloseReq { session: None, ..close }).await), code::INVALID_ARG);
    // A longer file was modified now.
    let longer = server.sync(file.id, hint(1, 0)).await.unwrap();
    assert_eq!(longer.data.mtime, later, "still in the future");
    server
        .set_attr(0, PathAt::inode(file.id), SetAttrReq { mtime: Some(UtcTime(1)), ..SetAttrReq::default() })
        .await
        .unwrap();
    assert!(server.sync(file.id, hint(2, 0)).await.unwrap().data.mtime.0 > 1);
}

#[tokio::test]
async fn only_files_have_a_length() {
    let server = TestServer::start(test_config()).await;
    let directory = server.mkdir("d").await;
    assert_eq!(code_of(server.sync(directory.id, ask()).await), code::META_NOT_FILE);
    assert_eq!(code_of(server.close(directory.id, 1, false).await), code::META_NOT_FILE);
    let times = SyncReq { atime: Some(UtcTime(i64::MAX / 2)), ..SyncReq::default() };
    assert!(server.sync(directory.id, times).await.is_ok());
    assert_eq!(code_of(server.sync(99.into(), ask()).await), code::META_NOT_FOUND);
}

#[tokio::test]
async fn storage_failures_reach_the_client() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.open_write("f", 1).await;
    server.chunks.failure.store(u64::from(code::STORAGE_CLIENT_TIMEOUT), Ordering::Relaxed);
    assert_eq!(code_of(server.close(file.id, 1, true).await), code::STORAGE_CLIENT_TIMEOUT);
    assert!(server.has_session(file.id, 1).await, "the close did not take place");
    server.chunks.failure.store(0, Ordering::Relaxed);
    server.close(file.id, 1, true).await.unwrap();
}

#[tokio::test]
async fn requests_of_a_batch_are_merged() {
    let server = std::sync::Arc::new(TestServer::start(test_config()).await);
    let file = server.create("f").await;
    let writers = 50_u8;
    for number in 1..=writers {
        server.open_write("f", number).await;
    }
    server.chunks.write(file.id, 777);
    queries(&server).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 1..=writers {
        let (server, id) = (std::sync::Arc::clone(&server), file.id);
        tasks.spawn(async move {
            match number % 3 {
                0 => server.close(id, number, true).await.unwrap(),
                1 => server.sync(id, hint(u64::from(number), 0)).await.unwrap(),
                _ => server.sync(id, ask()).await.unwrap(),
            }
        });
    }
    let longest = tasks.join_all().await.iter().map(length).max();
    assert_eq!(longest, Some((777, 0)));
    let asked = queries(&server).await;
    assert!((1..=3).contains(&asked), "storage was asked {asked} times");
    for number in 1..=writers {
        assert_eq!(server.has_session(file.id, number).await, number % 3 != 0);
    }
}

#[tokio::test]
async fn a_bad_request_does_not_spoil_its_batch() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    let (good, bad, refused, other) = tokio::join!(
        server.sync(file.id, hint(10, 0)),
        server.sync(file.id, hint(10, 7)),
        server.set_attr(5, PathAt::inode(file.id), SetAttrReq { perm: Some(0), ..SetAttrReq::default() }),
        server.sync(file.id, hint(20, 0)),
    );
    assert!(good.is_ok() && other.is_ok());
    assert_eq!(code_of(bad), code::META_FOUND_BUG);
    assert_eq!(code_of(refused), code::META_NO_PERMISSION);
    assert_eq!(length(&server.stat("f").await.unwrap()), (20, 0));
}

#[tokio::test]
async fn batches_are_bounded() {
    let server = TestServer::start(test_config()).await;
    server.configure("max_batch_operations = 2");
    let file = server.create("f").await;
    let answers = tokio::join!(
        server.sync(file.id, ask()),
        server.sync(file.id, ask()),
        server.sync(file.id, ask()),
        server.sync(file.id, ask()),
    );
    assert!(answers.0.is_ok() && answers.1.is_ok() && answers.2.is_ok());
    assert_eq!(code_of(answers.3), code::META_BUSY);
}
