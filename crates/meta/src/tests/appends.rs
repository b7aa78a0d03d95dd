//! Reservations of ranges for appends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use valor_protocol::InodeId;
use valor_protocol::meta::*;
use valor_protocol::status::code;
use valor_protocol::valor::AppendReserveReq;

use super::{Answer, code_of, length};
use crate::testing::{TestServer, client, session, test_config};

/// Reserves under session `number` of client 1.
async fn reserve(server: &TestServer, inode: InodeId, number: u8, len: u64) -> Answer<u64> {
    let session = session(1, number).unwrap().session;
    let req = AppendReserveReq { base: server.base(0), inode, session, len, ..AppendReserveReq::default() };
    server.meta.append_reserve(req).await.map(|rsp| rsp.offset)
}

#[tokio::test]
async fn ranges_follow_one_another() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    for number in 1..=2 {
        server.open_write("f", number).await;
    }
    server.chunks.write(file.id, 100);
    assert_eq!(reserve(&server, file.id, 1, 10).await.unwrap(), 100, "what is in storage counts");
    assert_eq!(reserve(&server, file.id, 2, 20).await.unwrap(), 110);
    assert_eq!(reserve(&server, file.id, 1, 5).await.unwrap(), 130);
    assert_eq!(length(&server.stat("f").await.unwrap()), (0, 0), "nothing is written yet");
    let asked = server.chunks.queries.load(Ordering::Relaxed);
    assert_eq!(asked, 2, "once per session");
    // The second range is written and synced first: the third still comes after all.
    server.chunks.write(file.id, 130);
    let sync = SyncReq { update_length: true, ..SyncReq::default() };
    assert_eq!(length(&server.sync(file.id, sync).await.unwrap()), (130, 0));
    assert_eq!(reserve(&server, file.id, 2, 1).await.unwrap(), 135);
}

#[tokio::test]
async fn hints_count_for_what_the_client_wrote_otherwise() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.open_write("f", 1).await;
    assert_eq!(reserve(&server, file.id, 1, 10).await.unwrap(), 0);
    let with_hint = |length, truncate_ver| AppendReserveReq {
        base: server.base(0),
        inode: file.id,
        session: session(1, 1).unwrap().session,
        len: 1,
        length_hint: Some(VersionedLength { length, truncate_ver }),
    };
    assert_eq!(server.meta.append_reserve(with_hint(50, 0)).await.unwrap().offset, 50);
    assert_eq!(server.meta.append_reserve(with_hint(90, 1)).await.unwrap().offset, 51);
}

#[tokio::test]
async fn a_closed_session_takes_its_reservations_along() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.open_write("f", 1).await;
    assert_eq!(reserve(&server, file.id, 1, 10).await.unwrap(), 0);
    server.chunks.write(file.id, 4);
    server.close(file.id, 1, true).await.unwrap();
    assert_eq!(code_of(reserve(&server, file.id, 1, 1).await), code::META_NOT_FILE);
    assert!(!server.has_session(file.id, 1).await);
    server.open_write("f", 2).await;
    assert_eq!(reserve(&server, file.id, 2, 10).await.unwrap(), 4);
    let foreign = AppendReserveReq {
        base: ReqBase { client: client(2), ..server.base(0) },
        inode: file.id,
        session: session(1, 2).unwrap().session,
        len: 1,
        ..AppendReserveReq::default()
    };
    assert_eq!(code_of(server.meta.append_reserve(foreign).await), code::META_NOT_FILE);
}

#[tokio::test]
async fn truncation_voids_reservations_and_a_lost_length_does_not() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.open_write("f", 1).await;
    // The client claims more than it wrote, then storage is asked: no truncation.
    let hint = Some(VersionedLength { length: 40, truncate_ver: 0 });
    let claim = SyncReq { update_length: true, length_hint: hint, ..SyncReq::default() };
    server.sync(file.id, claim).await.unwrap();
    assert_eq!(reserve(&server, file.id, 1, 10).await.unwrap(), 40);
    let ask = SyncReq { update_length: true, ..SyncReq::default() };
    assert_eq!(length(&server.sync(file.id, ask.clone()).await.unwrap()), (0, 1));
    assert_eq!(reserve(&server, file.id, 1, 10).await.unwrap(), 50);
    let truncated = SyncReq { truncated: true, ..ask };
    assert_eq!(length(&server.sync(file.id, truncated).await.unwrap()), (0, 2));
    assert_eq!(reserve(&server, file.id, 1, 10).await.unwrap(), 0);
}

#[tokio::test]
async fn files_end_somewhere() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.open_write("f", 1).await;
    let most = (512_u64 << 10) << 32;
    assert_eq!(code_of(reserve(&server, file.id, 1, u64::MAX).await), code::META_FILE_TOO_LARGE);
    assert_eq!(code_of(reserve(&server, file.id, 1, most + 1).await), code::META_FILE_TOO_LARGE);
    assert_eq!(reserve(&server, file.id, 1, most).await.unwrap(), 0);
    assert_eq!(code_of(reserve(&server, file.id, 1, 1).await), code::META_FILE_TOO_LARGE);
    let directory = server.mkdir("d").await;
    assert_eq!(code_of(reserve(&server, directory.id, 1, 1).await), code::META_NOT_FILE);
}

#[tokio::test]
async fn many_writers_never_overlap() {
    let server = Arc::new(TestServer::start(test_config()).await);
    let file = server.create("f").await;
    for number in 1..=8 {
        server.open_write("f", number).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for number in 1..=8_u8 {
        let (server, id) = (Arc::clone(&server), file.id);
        tasks.spawn(async move {
            let mut ranges = Vec::new();
            for i in 1..=20 {
                let offset = reserve(&server, id, number, i).await.unwrap();
                ranges.push((offset, offset + i));
                if i % 4 == 0 {
                    server.chunks.write(id, offset + i);
                    let sync = SyncReq { update_length: true, ..SyncReq::default() };
                    server.sync(id, sync).await.unwrap();
                }
            }
            ranges
        });
    }
    let mut ranges: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    ranges.sort_unstable();
    assert_eq!(ranges[0].0, 0);
    for pair in ranges.windows(2) {
        assert_eq!(pair[0].1, pair[1].0, "gap or overlap");
    }
}
