//! Sessions of clients that are gone.

use std::sync::atomic::Ordering;

use valor_protocol::meta::*;
use valor_protocol::status::code;
use valor_protocol::valor::HoldReq;
use valor_wire::{UtcTime, to_bytes};

use super::{code_of, length};
use crate::schema::{FileSession, PRUNE_INODE, session_key};
use crate::testing::{TestServer, client, session, test_config};

/// Makes sessions of client 1 look as old as the scan wants them.
async fn age_sessions(server: &TestServer, numbers: &[u8], inode: valor_protocol::InodeId) {
    let tx = server.db.begin();
    for number in numbers {
        let old = FileSession::new(inode, &session(1, *number).unwrap(), UtcTime(5));
        tx.set(session_key(inode, old.session_id), to_bytes(&old));
    }
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn dead_clients_lose_their_sessions() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.open_write("f", 1).await;
    server.open_write("f", 2).await;
    assert_eq!(server.meta.scan_sessions().await.unwrap(), 0, "too young");
    age_sessions(&server, &[1], file.id).await;
    let now = UtcTime(valor_env::Env::real().utc_now().0);
    server.cluster.clients.lock().insert(client(1).uuid, now);
    assert_eq!(server.meta.scan_sessions().await.unwrap(), 0, "alive");
    server.cluster.clients.lock().insert(client(1).uuid, UtcTime(now.0 - 311_000_000));
    server.cluster.bootstrapping.store(true, Ordering::Relaxed);
    assert_eq!(code_of(server.meta.scan_sessions().await), code::MGMTD_CLIENT_ROUTING_INFO_NOT_READY);
    server.cluster.bootstrapping.store(false, Ordering::Relaxed);
    assert_eq!(server.meta.scan_sessions().await.unwrap(), 1);
    assert!(!server.has_session(file.id, 1).await);
    assert!(server.has_session(file.id, 2).await);
}

#[tokio::test]
async fn the_length_of_a_dead_clients_file_is_brought_up_to_date_if_asked() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.chunks.write(file.id, 4321);
    age_sessions(&server, &[1], file.id).await;
    age_sessions(&server, &[2], 77.into()).await;
    server.configure("session_manager.sync_on_prune_session = true");
    assert_eq!(server.meta.scan_sessions().await.unwrap(), 2);
    assert_eq!(length(&server.stat("f").await.unwrap()), (4321, 0));
    assert!(!server.has_session(file.id, 1).await);
    assert!(!server.has_session(77.into(), 2).await, "of an inode that is gone");
}

#[tokio::test]
async fn sessions_are_pruned_on_demand() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    for number in 1..=3 {
        server.open_write("f", number).await;
    }
    let sessions = [1, 9].map(|number| session(1, number).unwrap().session);
    let req =
        PruneSessionReq { client: client(1), sessions: sessions.to_vec(), ..PruneSessionReq::default() };
    server.meta.prune_session(req).await.unwrap();
    for session in sessions {
        assert!(server.key(session_key(PRUNE_INODE, session)).await.is_some());
    }
    assert!(server.has_session(file.id, 1).await);
    assert_eq!(server.meta.scan_sessions().await.unwrap(), 1);
    assert!(!server.has_session(file.id, 1).await);
    assert!(server.has_session(file.id, 2).await);
    let wish = |number| session_key(PRUNE_INODE, session(1, number).unwrap().session);
    assert!(server.key(wish(1)).await.is_none(), "the wish is fulfilled");
    // The open may still be on its way: it must not leave a session for good.
    assert!(server.key(wish(9)).await.is_some());
    server.open_write("f", 9).await;
    assert_eq!(server.meta.scan_sessions().await.unwrap(), 1);
    assert!(!server.has_session(file.id, 9).await);
    assert!(server.key(wish(9)).await.is_none());
}

#[tokio::test]
async fn wishes_to_prune_what_never_came_into_being_end() {
    let server = TestServer::start(test_config()).await;
    let info = session(1, 9).unwrap();
    let old = UtcTime(valor_env::Env::real().utc_now().0 - 61_000_000);
    let wish = FileSession::new(PRUNE_INODE, &info, old);
    let tx = server.db.begin();
    tx.set(session_key(PRUNE_INODE, info.session), to_bytes(&wish));
    tx.commit().await.unwrap();
    assert_eq!(server.meta.scan_sessions().await.unwrap(), 0);
    assert!(server.key(session_key(PRUNE_INODE, info.session)).await.is_none());
}

#[tokio::test]
async fn many_sessions_are_scanned_in_pages() {
    let server = TestServer::start(test_config()).await;
    server.configure("session_manager.scan_batch = 7");
    for number in 0..50_u8 {
        age_sessions(&server, &[number], valor_protocol::InodeId(u64::from(number) << 12)).await;
    }
    assert_eq!(server.meta.scan_sessions().await.unwrap(), 50);
    assert_eq!(server.meta.scan_sessions().await.unwrap(), 0);
}

#[tokio::test]
async fn readers_can_hold_a_file() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    let hold = |inode| HoldReq { base: server.base(0), inode, session: session(1, 7).unwrap() };
    assert_eq!(server.meta.hold(hold(file.id)).await.unwrap().stat.id, file.id);
    assert!(server.has_session(file.id, 7).await);
    server.close(file.id, 7, false).await.unwrap();
    assert!(!server.has_session(file.id, 7).await);
    assert_eq!(code_of(server.meta.hold(hold(99.into())).await), code::META_NOT_FOUND);
    let directory = server.mkdir("d").await;
    assert_eq!(code_of(server.meta.hold(hold(directory.id)).await), code::META_NOT_FILE);
}
