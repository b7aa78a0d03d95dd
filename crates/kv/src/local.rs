//! Commits on a local engine: conflict check, version, log, publication.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::KvError;
use crate::batch::{Batch, CommitInfo, CommitRequest, Mutation, Op, VERSIONSTAMP_LEN, Version, versionstamp};
use crate::engine::{AckAfter, ApplyError, Engine};
use crate::group_commit::GroupCommit;
use crate::key::{KeyRange, MAX_TRANSACTION};
use crate::resolver::Resolver;
use crate::snapshots::{Snapshot, Snapshots};
use crate::unsettled::Unsettled;

/// Bounds of a local database that are not the engine's.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// A transaction that holds back the store for longer than this fails with [`KvError::TooOld`] at its next read.
    pub max_transaction_age: Duration,
    /// Memory for the writes that conflicts are looked for in.
    pub resolver_bytes: usize,
}

impl Default for LocalOptions {
    fn default() -> Self {
        LocalOptions { max_transaction_age: Duration::from_secs(60), resolver_bytes: 8 << 20 }
    }
}

/// Rows of a cleared range that are read at a time.
const CLEAR_CHUNK: usize = 1024;

/// A database in this process.
pub(crate) struct LocalStore {
    engine: Arc<dyn Engine>,
    snapshots: Arc<Snapshots>,
    writer: Mutex<Writer>,
    unsettled: Arc<Unsettled>,
    group: Option<GroupCommit>,
}

struct Writer {
    resolver: Resolver,
    /// Highest applied version: what the next commit's range clears must see, published or not.
    applied: Version,
    /// Why no further commit is accepted.
    failed: Option<KvError>,
}

impl LocalStore {
    /// A database over an engine that has recovered. `snapshots` is the registry the engine was made with.
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        snapshots: Arc<Snapshots>,
        options: &LocalOptions,
    ) -> Result<Self, KvError> {
        let applied = snapshots.published();
        let writer =
            Writer { resolver: Resolver::new(applied, options.resolver_bytes), applied, failed: None };
        let unsettled = Arc::new(Unsettled::default());
        let group = match engine.ack_after() {
            AckAfter::Apply => None,
            AckAfter::Sync => Some(GroupCommit::start(engine.clone(), snapshots.clone(), unsettled.clone())?),
        };
        Ok(LocalStore { engine, snapshots, writer: Mutex::new(writer), unsettled, group })
    }

    /// Pins the newest readable version. It has every commit that was given up because of its age before the call.
    pub(crate) async fn view(&self) -> Result<Snapshot, KvError> {
        self.unsettled.wait().await?;
        Ok(self.snapshots.open())
    }

    pub(crate) fn get(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let _permit = snapshot.enter()?;
        self.engine.get(key, snapshot.version())
    }

    pub(crate) fn scan(
        &self,
        snapshot: &Snapshot,
        range: &KeyRange,
        reverse: bool,
        limit: usize,
    ) -> Result<crate::engine::Scan, KvError> {
        let _permit = snapshot.enter()?;
        self.engine.scan(range, snapshot.version(), reverse, limit)
    }

    /// Commits. With [`AckAfter::Apply`] everything happens on the caller's thread before the first suspension.
    pub(crate) async fn commit(&self, request: &CommitRequest) -> Result<CommitInfo, KvError> {
        while let Some(relief) = self.engine.congested() {
            relief.await;
        }
        let under_way = request.ends.map(|ends| self.unsettled.enter(ends));
        let (version, durable) = {
            let mut writer = self.writer.lock();
            let version = self.apply(&mut writer, request)?;
            match &self.group {
                None => {
                    self.snapshots.publish(version);
                    drop(under_way);
                    (version, None)
                }
                Some(group) => (version, Some(group.enqueue(version, under_way))),
            }
        };
        if let Some(durable) = durable
            && let Err(error) = durable.await
        {
            self.writer.lock().failed.get_or_insert(error);
            return Err(KvError::MaybeCommitted);
        }
        Ok(CommitInfo { version, versionstamp: Some(versionstamp(version)) })
    }

    fn apply(&self, writer: &mut Writer, request: &CommitRequest) -> Result<Version, KvError> {
        if let Some(error) = &writer.failed {
            return Err(error.clone());
        }
        if request.ends.is_some_and(|ends| Instant::now() >= ends) {
            return Err(KvError::TooOld).inspect_err(count_refusal);
        }
        if let Some(read_version) = request.read_version {
            if read_version > self.snapshots.published() {
                // Only a remote caller can send it.
                return Err(KvError::illegal("the read version is in the future"));
            }
            writer.resolver.check(read_version, &request.read_conflicts).inspect_err(count_refusal)?;
        }
        let version = self.engine.next_version();
        let ops = self.resolve(&request.mutations, version, writer.applied)?;
        match self.engine.apply(&Batch { version, ops }) {
            Ok(()) => {}
            Err(ApplyError::NothingWritten(error)) => return Err(error),
            Err(ApplyError::Unknown(error)) => {
                tracing::error!(%error, "commit failed half-way; the database serves no more transactions");
                self.unsettled.fail(&error);
                writer.failed = Some(error);
                return Err(KvError::MaybeCommitted);
            }
        }
        writer.applied = version;
        writer.resolver.record(version, &request.write_conflicts, || self.snapshots.oldest());
        metrics::counter!(valor_env::metrics::KV_COMMITS).increment(1);
        Ok(version)
    }

    /// Turns a transaction's writes into at most one write per key: cleared ranges become the keys they hold.
    fn resolve(
        &self,
        mutations: &[Mutation],
        version: Version,
        applied: Version,
    ) -> Result<Vec<Op>, KvError> {
        let mut cleared = BTreeMap::new();
        let mut ops = Vec::with_capacity(mutations.len());
        for mutation in mutations {
            let op = match mutation {
                Mutation::ClearRange(range) => {
                    self.collect_keys(range, applied, &mut cleared)?;
                    continue;
                }
                Mutation::Set { key, value } => Op { key: key.clone(), value: Some(value.clone()) },
                Mutation::Clear { key } => Op { key: key.clone(), value: None },
                Mutation::SetVersionstamped { key, value, offset } => {
                    let mut stamped = value.to_vec();
                    let place = stamped.get_mut(*offset..*offset + VERSIONSTAMP_LEN);
                    place
                        .ok_or_else(|| KvError::illegal("a versionstamp does not fit into its value"))?
                        .copy_from_slice(&versionstamp(version));
                    Op { key: key.clone(), value: Some(stamped.into()) }
                }
            };
            cleared.remove(&op.key);
            ops.push(op);
        }
        ops.extend(cleared.into_keys().map(|key| Op { key, value: None }));
        Ok(ops)
    }

    fn collect_keys(
        &self,
        range: &KeyRange,
        at: Version,
        keys: &mut BTreeMap<Bytes, ()>,
    ) -> Result<(), KvError> {
        let mut rest = range.clone();
        let mut size: usize = keys.keys().map(Bytes::len).sum();
        loop {
            let scan = self.engine.scan(&rest, at, false, CLEAR_CHUNK)?;
            let last = scan.entries.last().map(|entry| entry.key.clone());
            for entry in scan.entries {
                size += entry.key.len();
                keys.insert(entry.key, ());
            }
            if size > MAX_TRANSACTION {
                return Err(KvError::TooLarge { what: "set of cleared keys", size, limit: MAX_TRANSACTION });
            }
            match last {
                Some(last) if scan.more => rest = crate::overlay::rest_after(&rest, &last, false),
                _ => return Ok(()),
            }
        }
    }

    /// Makes everything committed durable and refuses further commits. Reads go on.
    pub(crate) fn close(&self) -> Result<(), KvError> {
        self.writer.lock().failed.get_or_insert_with(|| KvError::engine("the database is closed"));
        if let Some(group) = &self.group {
            group.stop();
        }
        self.engine.close()
    }

    pub(crate) fn verify(&self) -> Result<(), KvError> {
        self.engine.verify()
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing the database failed");
        }
    }
}

fn count_refusal(error: &KvError) {
    let name = match error {
        KvError::TooOld => valor_env::metrics::KV_TOO_OLD,
        _ => valor_env::metrics::KV_CONFLICTS,
    };
    metrics::counter!(name).increment(1);
}

#[cfg(test)]
mod tests;
