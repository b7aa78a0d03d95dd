//! The simulator's engine: the memory engine with a log that outlives simulated processes.
//!
//! Deterministic: no thread, no file, no time. [`SimulatedStorage`] is the medium; a database opened on it replays its log.
//! When the simulator ends a process it drops the database; when it takes the power away it also calls
//! [`SimulatedStorage::lose_power`], which takes some of the batches that were not synced.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use valor_env::Env;

use super::memory::MemoryEngine;
use super::{AckAfter, ApplyError, Durability, Engine, Scan};
use crate::KvError;
use crate::batch::{Batch, Version};
use crate::key::KeyRange;
use crate::snapshots::Snapshots;

/// A medium that keeps what a simulated database committed.
#[derive(Clone, Debug, Default)]
pub struct SimulatedStorage(Arc<Mutex<Medium>>);

#[derive(Debug, Default)]
struct Medium {
    log: Vec<Batch>,
    /// Batches at the front of `log` that survive a power failure.
    synced: usize,
    /// Counts opens: a database that a later one replaced can no longer write.
    owner: u64,
    fail_writes: bool,
}

impl SimulatedStorage {
    /// An empty medium.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power: of the commits that were not synced, a random number of the last ones is lost. The database that was
    /// open on the medium can write no more.
    pub fn lose_power(&self, env: &Env) {
        let mut medium = self.0.lock();
        let unsynced = medium.log.len() - medium.synced;
        let kept = env.random_u64() as usize % (unsynced + 1);
        let len = medium.synced + kept;
        medium.log.truncate(len);
        medium.synced = len;
        medium.owner += 1;
    }

    /// Makes later writes fail, or succeed again.
    pub fn fail_writes(&self, fail: bool) {
        self.0.lock().fail_writes = fail;
    }

    /// Number of batches on the medium.
    pub fn commits(&self) -> usize {
        self.0.lock().log.len()
    }

    /// Highest version on the medium.
    pub(crate) fn last_version(&self) -> Version {
        self.0.lock().log.last().map_or(0, |batch| batch.version)
    }
}

/// The memory engine over a simulated medium.
pub(crate) struct SimulatedEngine {
    memory: MemoryEngine,
    storage: SimulatedStorage,
    owner: u64,
    durability: Durability,
}

impl SimulatedEngine {
    /// Replays the medium's log. The registry's published version is at or above the log's last one.
    pub(crate) fn open(
        storage: &SimulatedStorage,
        durability: Durability,
        snapshots: Arc<Snapshots>,
    ) -> Self {
        let memory = MemoryEngine::new(snapshots);
        let mut medium = storage.0.lock();
        medium.owner += 1;
        for batch in &medium.log {
            memory.apply(batch).expect("the memory engine accepts every batch");
        }
        let owner = medium.owner;
        drop(medium);
        SimulatedEngine { memory, storage: storage.clone(), owner, durability }
    }
}

impl Engine for SimulatedEngine {
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
        let mut medium = self.storage.0.lock();
        if medium.owner != self.owner {
            return Err(ApplyError::NothingWritten(KvError::engine("the storage has another owner")));
        }
        if medium.fail_writes {
            return Err(ApplyError::NothingWritten(KvError::engine("simulated write failure")));
        }
        medium.log.push(batch.clone());
        if self.durability == Durability::Always {
            medium.synced = medium.log.len();
        }
        drop(medium);
        self.memory.apply(batch)
    }

    fn ack_after(&self) -> AckAfter {
        AckAfter::Apply
    }

    fn sync(&self) -> Result<Version, KvError> {
        let mut medium = self.storage.0.lock();
        medium.synced = medium.log.len();
        self.memory.sync()
    }

    fn close(&self) -> Result<(), KvError> {
        self.sync().map(|_| ())
    }
}
