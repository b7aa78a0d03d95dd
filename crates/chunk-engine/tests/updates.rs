//! The rules of updates, one by one.

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use support::{Model, Step, checksum, create, open, perform, rng, small, write};
use valor_chunk_engine::{ChunkId, Engine, EngineError, SyncMode, Tag, Update, UpdateKind};
use valor_env::disk::memory::MemoryDisk;

const SIZE: u32 = 65_536;

fn update(kind: UpdateKind, ver: u32) -> Update {
    Update { kind, ver, chain_ver: 1, chunk_size: SIZE, tag: Tag::default() }
}

async fn engine() -> (MemoryDisk, Arc<Engine>) {
    let disk = MemoryDisk::new(1);
    let engine = create(disk.handle(), small(SyncMode::Process)).await.unwrap();
    (disk, engine)
}

async fn put(engine: &Arc<Engine>, id: &[u8], update: Update) {
    let ver = update.ver;
    engine.prepare(id, update).await.unwrap();
    engine.commit(id, ver, 1).await.unwrap();
}

#[tokio::test]
async fn a_pending_version_is_beside_the_committed_one() {
    let (disk, engine) = engine().await;
    put(&engine, b"a", write(0, "first", 1, SIZE)).await;
    let pending = engine.prepare(b"a", write(3, "more", 2, SIZE)).await.unwrap();
    assert_eq!((pending.version.ver, pending.version.length), (2, 7));
    assert_eq!(pending.version.checksum, checksum(b"firmore"));
    let mut engine = engine;
    for _ in 0..2 {
        let read = engine.read(b"a", 0, 100, false).await.unwrap();
        assert_eq!((&read.data[..], read.version.ver, read.has_pending), (&b"first"[..], 1, true));
        let read = engine.read(b"a", 2, 3, true).await.unwrap();
        assert_eq!((&read.data[..], read.version.ver), (&b"rmo"[..], 2));
        assert_eq!(read.checksum, checksum(b"rmo"));
        assert_eq!(read.committed.unwrap().ver, 1);
        assert_eq!(engine.pending().len(), 1);
        disk.restart();
        engine = open(disk.handle(), small(SyncMode::Process)).await.unwrap();
    }
}

#[tokio::test]
async fn versions_must_follow() {
    let (_disk, engine) = engine().await;
    put(&engine, b"a", write(0, "first", 3, SIZE)).await;
    let refused = engine.prepare(b"a", write(0, "x", 3, SIZE)).await;
    assert!(matches!(refused, Err(EngineError::StaleVersion { committed: 3, asked: 3, .. })));
    engine.prepare(b"a", write(0, "second", 4, SIZE)).await.unwrap();
    let refused = engine.prepare(b"a", write(0, "x", 5, SIZE)).await;
    assert!(matches!(refused, Err(EngineError::PendingExists { pending: 4, .. })));
    let refused = engine.commit(b"a", 5, 1).await;
    assert!(matches!(refused, Err(EngineError::PendingMismatch { pending: 4, asked: 5, .. })));
    // A retry replaces the pending version; resync replaces anything.
    engine.prepare(b"a", write(0, "SECOND", 4, SIZE)).await.unwrap();
    assert_eq!(&engine.read(b"a", 0, 9, true).await.unwrap().data[..], b"SECOND");
    let replace = UpdateKind::Replace { data: vec![Bytes::from("copy")], checksum: Some(checksum(b"copy")) };
    engine.prepare(b"a", update(replace, 2)).await.unwrap();
    engine.commit(b"a", 2, 9).await.unwrap();
    let meta = engine.get_meta(b"a").unwrap().committed.unwrap();
    assert_eq!((meta.ver, meta.chain_ver, meta.length), (2, 9, 4));
    let refused = engine.commit(b"a", 2, 9).await;
    assert!(matches!(refused, Err(EngineError::NothingPending { committed: 2, .. })));
    assert!(matches!(engine.commit(b"b", 1, 1).await, Err(EngineError::NotFound(_))));
}

#[tokio::test]
async fn arguments_are_checked() {
    let (_disk, engine) = engine().await;
    let invalid = |result: Result<_, EngineError>| matches!(result, Err(EngineError::InvalidArg(_)));
    assert!(invalid(engine.prepare(b"", write(0, "x", 1, SIZE)).await));
    assert!(invalid(engine.prepare(&[1; 256], write(0, "x", 1, SIZE)).await));
    assert!(invalid(engine.prepare(b"a", write(0, "x", 0, SIZE)).await));
    assert!(invalid(engine.prepare(b"a", write(0, "x", 1, 0)).await));
    assert!(invalid(engine.prepare(b"a", write(0, "x", 1, (64 << 20) + 1)).await));
    assert!(invalid(engine.prepare(b"a", write(SIZE - 1, "xy", 1, SIZE)).await));
    assert!(invalid(engine.prepare(b"a", write(u32::MAX, "xy", 1, SIZE)).await));
    assert!(invalid(engine.prepare(b"a", update(UpdateKind::Extend { len: SIZE + 1 }, 1)).await));
    let wrong = UpdateKind::Write { offset: 0, data: vec![Bytes::from("data")], checksum: Some(1) };
    let refused = engine.prepare(b"a", update(wrong, 1)).await;
    assert!(matches!(refused, Err(EngineError::ChecksumMismatch { expected: 1, .. })));
    assert!(matches!(
        engine.prepare(b"a", update(UpdateKind::Remove, 1)).await,
        Err(EngineError::NotFound(_))
    ));
    assert!(engine.all_metas().is_empty());
    put(&engine, &[1; 255], write(SIZE - 1, "x", 1, SIZE)).await;
    let refused = engine.prepare(&[1; 255], write(0, "x", 2, SIZE * 2)).await;
    assert!(matches!(refused, Err(EngineError::ChunkSizeMismatch { actual: SIZE, .. })));
    let read = engine.read(&[1; 255], SIZE - 2, 10, false).await.unwrap();
    assert_eq!(&read.data[..], [0, b'x']);
    assert!(engine.read(&[1; 255], SIZE, 10, false).await.unwrap().data.is_empty());
    assert!(engine.read(&[1; 255], u32::MAX, u32::MAX, false).await.unwrap().data.is_empty());
}

#[tokio::test]
async fn removal_is_done_at_commit() {
    let (disk, engine) = engine().await;
    put(&engine, b"a", write(0, "data", 1, SIZE)).await;
    let pending = engine.prepare(b"a", update(UpdateKind::Remove, 2)).await.unwrap();
    assert!(pending.removes);
    assert_eq!(&engine.read(b"a", 0, 9, true).await.unwrap().data[..], b"data");
    disk.restart();
    let engine = open(disk.handle(), small(SyncMode::Process)).await.unwrap();
    assert!(engine.pending()[0].pending.unwrap().removes);
    assert_eq!(engine.commit(b"a", 2, 1).await.unwrap(), None);
    assert_eq!(engine.get_meta(b"a"), None);
    assert!(matches!(engine.read(b"a", 0, 9, true).await, Err(EngineError::NotFound(_))));
    // A chunk that was never committed is removed, too, and discarded.
    engine.prepare(b"b", write(0, "data", 1, SIZE)).await.unwrap();
    assert!(matches!(engine.read(b"b", 0, 9, false).await, Err(EngineError::NotFound(_))));
    engine.prepare(b"b", update(UpdateKind::Remove, 1)).await.unwrap();
    engine.commit(b"b", 1, 1).await.unwrap();
    engine.prepare(b"b", write(0, "data", 1, SIZE)).await.unwrap();
    engine.discard_pending(b"b").await.unwrap();
    assert!(matches!(engine.discard_pending(b"b").await, Err(EngineError::NotFound(_))));
    assert!(engine.all_metas().is_empty());
    assert_eq!(engine.space().await.unwrap().used, 0);
}

#[tokio::test]
async fn the_range_query_goes_down() {
    let (_disk, engine) = engine().await;
    for i in 0..10u8 {
        put(&engine, &[i], write(0, vec![i; usize::from(i)], 1, SIZE)).await;
    }
    let ids = |(metas, more): (Vec<valor_chunk_engine::ChunkMeta>, bool)| {
        (metas.iter().map(|meta| meta.id.as_bytes()[0]).collect::<Vec<_>>(), more)
    };
    assert_eq!(ids(engine.query_descending(&[2], &[7], 3)), (vec![6, 5, 4], true));
    assert_eq!(ids(engine.query_descending(&[2], &[7], 5)), (vec![6, 5, 4, 3, 2], false));
    assert_eq!(ids(engine.query_descending(&[7], &[2], 5)), (vec![], false));
    assert_eq!(ids(engine.query_descending(&[], &[255], 100)).0.len(), 10);
    assert_eq!(engine.page_ascending(Some(&[8]), 5)[0].id, ChunkId::new(&[9]));
}

/// Updates that are dropped after some polls are brought to an end by the background task; without it their chunks
/// stay busy until the next open.
#[tokio::test]
async fn dropped_updates_go_on() {
    for maintained in [true, false] {
        let disk = MemoryDisk::new(3);
        let rng = &mut rng(3);
        let engine = create(disk.handle(), small(SyncMode::Always)).await.unwrap();
        disk.set_polls(5);
        if maintained {
            tokio::spawn(Arc::clone(&engine).maintain());
            tokio::task::yield_now().await;
        }
        let mut model = Model::default();
        for polls in 0..60 {
            let step = model.random_step(rng, &[SIZE]);
            if engine.get_meta(step.id()).is_none() && matches!(step, Step::Discard(_)) {
                continue;
            }
            {
                let mut update = pin!(perform(&engine, &step));
                let mut context = Context::from_waker(Waker::noop());
                let mut result = Poll::Pending;
                for _ in 0..polls % 12 {
                    result = update.as_mut().poll(&mut context);
                    if result.is_ready() {
                        break;
                    }
                }
                if let Poll::Ready(Err(error)) = &result {
                    let stuck = matches!(error, EngineError::Busy(_) | EngineError::ReadOnly(_));
                    assert!(!maintained && stuck, "{error}");
                    continue;
                }
            }
            while maintained && engine.internals()["busy"] > 0 {
                tokio::task::yield_now().await;
            }
            let mut with = model.clone();
            with.apply(&step);
            if engine.all_metas() == with.metas() {
                model = with;
            }
        }
        if maintained {
            model.check(&engine).await;
            engine.close().await.unwrap();
        }
        disk.set_polls(0);
        disk.restart();
        let engine = open(disk.handle(), small(SyncMode::Always)).await.unwrap();
        assert_eq!(engine.internals()["busy"], 0);
        for meta in engine.all_metas() {
            engine.scrub(meta.id.as_bytes()).await.unwrap();
        }
        if maintained {
            model.check(&engine).await;
        }
    }
}

#[tokio::test]
async fn one_update_of_a_chunk_at_a_time() {
    let (disk, engine) = engine().await;
    disk.set_polls(5);
    let mut first = pin!(engine.prepare(b"a", write(0, "one", 1, SIZE)));
    let mut context = Context::from_waker(Waker::noop());
    while engine.internals()["busy"] == 0 {
        assert!(first.as_mut().poll(&mut context).is_pending());
    }
    assert!(matches!(engine.prepare(b"a", write(0, "two", 1, SIZE)).await, Err(EngineError::Busy(_))));
    engine.prepare(b"b", write(0, "other", 1, SIZE)).await.unwrap();
    first.await.unwrap();
    engine.prepare(b"a", write(0, "two", 1, SIZE)).await.unwrap();
}

#[tokio::test]
async fn a_closed_engine_reads_only() {
    let (_disk, engine) = engine().await;
    put(&engine, b"a", write(0, "data", 1, SIZE)).await;
    engine.close().await.unwrap();
    engine.close().await.unwrap();
    Arc::clone(&engine).maintain().await;
    assert!(matches!(engine.prepare(b"a", write(0, "x", 2, SIZE)).await, Err(EngineError::Closed)));
    assert_eq!(&engine.read(b"a", 0, 9, false).await.unwrap().data[..], b"data");
}
