//! Commits on an engine whose disk a test controls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use super::{LocalOptions, LocalStore};
use crate::KvError;
use crate::batch::{Batch, CommitRequest, Mutation, Version};
use crate::engine::memory::MemoryEngine;
use crate::engine::{AckAfter, ApplyError, Engine, Scan};
use crate::key::KeyRange;
use crate::snapshots::Snapshots;

/// The memory engine with syncs that wait for permission.
struct SlowDisk {
    memory: MemoryEngine,
    applied: AtomicU64,
    syncs: AtomicUsize,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Default)]
struct Gate {
    open: bool,
    failure: Option<KvError>,
    half_written: bool,
}

impl SlowDisk {
    fn set(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut self.gate.lock());
        self.changed.notify_all();
    }
}

impl Engine for SlowDisk {
    fn get(&self, key: &[u8], at: Version) -> Result<Option<Bytes>, KvError> {
        self.memory.get(key, at)
    }

    fn scan(&self, range: &KeyRange, at: Version, reverse: bool, limit: usize) -> Result<Scan, KvError> {
        self.memory.scan(range, at, reverse, limit)
    }

    fn next_version(&self) -> Version {
        self.memory.next_version()
    }

    fn apply(&self, batch: &Batch) -> Result<(), ApplyError> {
        if self.gate.lock().half_written {
            return Err(ApplyError::Unknown(KvError::engine("half written")));
        }
        self.applied.store(batch.version, Ordering::Release);
        self.memory.apply(batch)
    }

    fn ack_after(&self) -> AckAfter {
        AckAfter::Sync
    }

    fn sync(&self) -> Result<Version, KvError> {
        let applied = self.applied.load(Ordering::Acquire);
        let mut gate = self.gate.lock();
        while !gate.open {
            self.changed.wait(&mut gate);
        }
        self.syncs.fetch_add(1, Ordering::Relaxed);
        gate.failure.clone().map_or(Ok(applied), Err)
    }

    fn close(&self) -> Result<(), KvError> {
        Ok(())
    }
}

fn store() -> (Arc<LocalStore>, Arc<SlowDisk>) {
    let snapshots = Snapshots::new(0, Duration::from_secs(60));
    let disk = Arc::new(SlowDisk {
        memory: MemoryEngine::new(snapshots.clone()),
        applied: AtomicU64::new(0),
        syncs: AtomicUsize::new(0),
        gate: Mutex::default(),
        changed: Condvar::new(),
    });
    let store = LocalStore::new(disk.clone(), snapshots, &LocalOptions::default()).unwrap();
    (Arc::new(store), disk)
}

fn put(key: &str, value: &str) -> CommitRequest {
    let key = Bytes::copy_from_slice(key.as_bytes());
    CommitRequest {
        write_conflicts: vec![KeyRange::single(&key)],
        mutations: vec![Mutation::Set { key, value: Bytes::copy_from_slice(value.as_bytes()) }],
        ..CommitRequest::default()
    }
}

async fn read(store: &LocalStore, key: &str) -> Option<Bytes> {
    store.get(&store.view().await.unwrap(), key.as_bytes()).unwrap()
}

fn spawn_commit(
    store: &Arc<LocalStore>,
    request: CommitRequest,
) -> tokio::task::JoinHandle<Result<Version, KvError>> {
    let store = store.clone();
    tokio::spawn(async move { store.commit(&request).await.map(|info| info.version) })
}

/// Lets the spawned commits run up to where they wait for the disk.
async fn settle(disk: &SlowDisk, applied: Version) {
    while disk.applied.load(Ordering::Acquire) < applied {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn commits_are_seen_when_they_are_durable_and_share_syncs() {
    let (store, disk) = store();
    let commits: Vec<_> = (0..50).map(|n| spawn_commit(&store, put(&format!("k{n}"), "1"))).collect();
    settle(&disk, 50).await;
    assert_eq!(read(&store, "k0").await, None, "not durable yet");
    assert!(commits.iter().all(|commit| !commit.is_finished()));
    disk.set(|gate| gate.open = true);
    for commit in commits {
        let version = commit.await.unwrap().unwrap();
        assert!(store.view().await.unwrap().version() >= version);
    }
    assert_eq!(read(&store, "k49").await, Some("1".into()));
    // The first sync may have begun with one commit; the rest waited for it.
    assert!(disk.syncs.load(Ordering::Relaxed) <= 3);
}

#[tokio::test]
async fn a_commit_that_is_not_durable_yet_conflicts_already() {
    let (store, disk) = store();
    let snapshot = store.view().await.unwrap();
    let first = spawn_commit(&store, put("k", "1"));
    settle(&disk, 1).await;
    let second = CommitRequest {
        read_version: Some(snapshot.version()),
        read_conflicts: vec![KeyRange::single(b"k")],
        ..put("k", "2")
    };
    assert_eq!(store.commit(&second).await, Err(KvError::Conflict));
    // A range clear sees it too.
    let clear = CommitRequest {
        write_conflicts: vec![KeyRange::new("a", "z")],
        mutations: vec![Mutation::ClearRange(KeyRange::new("a", "z"))],
        ..CommitRequest::default()
    };
    let clear = spawn_commit(&store, clear);
    settle(&disk, 2).await;
    disk.set(|gate| gate.open = true);
    first.await.unwrap().unwrap();
    clear.await.unwrap().unwrap();
    assert_eq!(read(&store, "k").await, None);
}

#[tokio::test]
async fn a_failed_sync_leaves_commits_unknown_and_ends_the_database() {
    let (store, disk) = store();
    let before = store.view().await.unwrap();
    let commit = spawn_commit(&store, put("k", "1"));
    settle(&disk, 1).await;
    disk.set(|gate| {
        *gate = Gate { open: true, failure: Some(KvError::engine("disk on fire")), half_written: false }
    });
    assert_eq!(commit.await.unwrap(), Err(KvError::MaybeCommitted));
    assert_eq!(store.commit(&put("k", "2")).await, Err(KvError::engine("disk on fire")));
    // It may be there or gone after a restart: nobody may act on either.
    assert_eq!(store.view().await.unwrap_err(), KvError::engine("disk on fire"));
    assert_eq!(store.get(&before, b"k").unwrap(), None, "what has begun goes on");
}

#[tokio::test]
async fn a_half_written_commit_ends_the_database() {
    let (store, disk) = store();
    disk.set(|gate| gate.half_written = true);
    assert_eq!(store.commit(&put("k", "1")).await, Err(KvError::MaybeCommitted));
    disk.set(|gate| *gate = Gate { open: true, ..Gate::default() });
    assert_eq!(store.commit(&put("k", "2")).await, Err(KvError::engine("half written")));
    assert_eq!(store.view().await.unwrap_err(), KvError::engine("half written"));
}

struct OpenAtLast(Arc<SlowDisk>);

impl Drop for OpenAtLast {
    fn drop(&mut self) {
        self.0.set(|gate| gate.open = true);
    }
}

/// Who waited for it was told at the end of its transaction that it may be there, and looks.
#[tokio::test(start_paused = true)]
async fn what_begins_after_the_end_of_a_commit_under_way_waits_for_it() {
    for given_up in [false, true] {
        let (store, disk) = store();
        // The store waits for its disk when it is dropped, also by a test that fails.
        let _opened = OpenAtLast(disk.clone());
        let age = Duration::from_secs(5);
        let ending = CommitRequest { ends: Some(Instant::now() + age), ..put("k", "1") };
        let commit = spawn_commit(&store, ending.clone());
        settle(&disk, 1).await;
        assert_eq!(read(&store, "k").await, None, "it may yet end otherwise");
        if given_up {
            commit.abort();
        }
        tokio::time::advance(age).await;
        assert_eq!(store.commit(&ending).await, Err(KvError::TooOld));
        let later = CommitRequest { ends: Some(Instant::now() + age), ..put("later", "1") };
        let later = spawn_commit(&store, later);
        settle(&disk, 2).await;
        let reader = {
            let store = store.clone();
            tokio::spawn(async move { read(&store, "k").await })
        };
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let waits = !reader.is_finished();
        disk.set(|gate| gate.open = true);
        assert!(waits, "it cannot be known yet whether the commit will be durable");
        assert_eq!(reader.await.unwrap(), Some("1".into()));
        later.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn closing_waits_for_commits_under_way() {
    let (store, disk) = store();
    let commit = spawn_commit(&store, put("k", "1"));
    settle(&disk, 1).await;
    let closer = {
        let store = store.clone();
        std::thread::spawn(move || store.close())
    };
    disk.set(|gate| gate.open = true);
    commit.await.unwrap().unwrap();
    closer.join().unwrap().unwrap();
    assert!(matches!(store.commit(&put("k", "2")).await, Err(KvError::Engine { .. })));
    assert_eq!(read(&store, "k").await, Some("1".into()));
}
