//! Filling a successor that has returned (`src/storage/sync/ResyncWorker.cc`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use valor_client::join_all;
use valor_env::mutation::{Mutation, broken};
use valor_protocol::status::code;
use valor_protocol::storage::methods;
use valor_protocol::storage::{
    ChunkId, ChunkMeta, GlobalKey, OfflineTargetReq, SyncDoneReq, SyncStartReq, UpdateIO, UpdateOptions,
    UpdateReq, UpdateType, VersionedChainId,
};
use valor_protocol::{ChainId, ChainVersion, ChunkVer, Status};
use valor_rpc::CallOptions;

use crate::config::{Config, FullSyncLevel};
use crate::fills::Filling;
use crate::replica::resync::{self, Decision};
use crate::replica::update::{Forwarded, Update};
use crate::replica::version::{Intent, LocalChunk};
use crate::storage::{Local, Storage};
use crate::target::{OpenTarget, local};
use crate::update::Incoming;

/// Pause between two looks for chains with a successor to fill.
const SCAN_INTERVAL: Duration = Duration::from_millis(500);

/// Longest sleep before the limit, which may have been raised, is looked at again.
const PACE_LOOK: Duration = Duration::from_secs(1);

/// Spreads work over time: what is done now has to be worked off before the next may begin.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Debt>);

#[derive(Debug, Default)]
struct Debt {
    bytes: f64,
    at: Option<Instant>,
}

impl Pace {
    /// Waits until `bytes` more may be moved; no limit while `per_second` is 0.
    pub(crate) async fn wait(&self, bytes: u64, per_second: impl Fn() -> u64) {
        loop {
            let limit = per_second();
            if limit == 0 {
                return;
            }
            let delay = {
                let mut debt = self.0.lock();
                let now = Instant::now();
                let passed = debt.at.map_or(Duration::ZERO, |at| now - at);
                // A byte less is a rounding error. What was not used is not saved up.
                debt.bytes = (debt.bytes - passed.as_secs_f64() * limit as f64).max(0.0);
                debt.at = Some(now);
                if debt.bytes < 1.0 {
                    debt.bytes = bytes as f64;
                    return;
                }
                Duration::from_secs_f64(debt.bytes / limit as f64)
            };
            sleep(delay.clamp(Duration::from_millis(1), PACE_LOOK)).await;
        }
    }
}

/// What is known of earlier attempts.
#[derive(Default)]
struct Attempts {
    running: Vec<ChainId>,
    ended: HashMap<ChainId, (VersionedChainId, Instant)>,
}

/// What a comparison asks for.
#[derive(Default)]
struct Plan {
    /// With their lengths as they were then.
    todo: VecDeque<(ChunkId, u64)>,
    skipped: u64,
}

impl Storage {
    /// Fills successors, one attempt per chain at a time; a failed one is repeated.
    pub(crate) async fn fill_successors(self: Arc<Self>) {
        let attempts = Arc::new(Mutex::new(Attempts::default()));
        loop {
            sleep(SCAN_INTERVAL).await;
            let mut chains = self.map().syncing_chains().to_vec();
            // Not always the same chain first.
            let offset = self.env.random_u64() as usize % chains.len().max(1);
            chains.rotate_left(offset);
            for chain in chains {
                self.begin_filling(chain, &attempts);
            }
        }
    }

    fn begin_filling(self: &Arc<Self>, chain: VersionedChainId, attempts: &Arc<Mutex<Attempts>>) {
        let retry = self.config.get().sync_worker.retry_interval.get();
        {
            let mut attempts = attempts.lock();
            let recent = attempts
                .ended
                .get(&chain.chain_id)
                .is_some_and(|(of, at)| *of == chain && at.elapsed() < retry);
            if recent || attempts.running.contains(&chain.chain_id) {
                return;
            }
            attempts.running.push(chain.chain_id);
        }
        let (storage, attempts) = (Arc::clone(self), Arc::clone(attempts));
        tokio::spawn(async move {
            let result = match Arc::clone(&storage.filling).acquire_owned().await {
                Ok(_permit) if !storage.is_stopping() => storage.fill(chain).await,
                _ => Err(Status::new(code::RPC_REQUEST_REFUSED, "stopping")),
            };
            match result {
                Ok(sent) => {
                    tracing::info!(chain = %chain.chain_id, chain_ver = %chain.chain_ver, sent, "successor filled");
                    storage.metrics.resync_ended("filled");
                }
                Err(status) if status.code == code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH => {
                    tracing::debug!(chain = %chain.chain_id, %status, "successor not filled yet");
                    storage.metrics.resync_ended("routing");
                }
                Err(status) => {
                    tracing::warn!(chain = %chain.chain_id, %status, "successor not filled");
                    storage.metrics.resync_ended("failed");
                }
            }
            let mut attempts = attempts.lock();
            attempts.running.retain(|running| *running != chain.chain_id);
            attempts.ended.insert(chain.chain_id, (chain, Instant::now()));
        });
    }

    /// One attempt; returns how many chunks were sent or removed.
    async fn fill(self: &Arc<Self>, chain: VersionedChainId) -> Result<usize, Status> {
        let target = self.lookup(chain, false)?;
        let Some(open) = target.store.clone() else {
            return Err(Status::new(code::STORAGE_TARGET_OFFLINE, "target is offline"));
        };
        let address = target.successor_address()?;
        let config = self.config.get();
        let filling = self.fills.begin(chain, successor_id(&target));
        let options = CallOptions::timeout(config.sync_worker.sync_start_timeout.get());
        let start =
            self.rpc.call::<methods::SyncStart>(address, &SyncStartReq { v_chain_id: chain }, &options).await;
        let remote = start.inspect_err(|status| {
            if status.code == code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH {
                // The successor is behind, or this server is.
                self.refresh_wanted.notify_one();
            }
        })?;
        // Updates that do not know of the successor yet are waited for; later ones are sent to it.
        drop(open.puts.write().await);
        let mut plan = match self.compare(&open, remote.metas, chain, &config) {
            Ok(plan) => plan,
            Err(status) => {
                let req = OfflineTargetReq { target_id: successor_id(&target), force: true };
                let offline = self.rpc.call::<methods::OfflineTarget>(address, &req, &options).await;
                tracing::error!(target = %req.target_id, %status, ?offline, "successor has diverged, taken offline");
                return Err(status);
            }
        };
        // The comparison is worth something only if no update ran under another chain version meanwhile.
        self.lookup(chain, false)?;
        if broken(Mutation::FillIncompletely) {
            plan.todo.truncate(plan.todo.len() / 2);
        }
        let count = plan.todo.len();
        tracing::info!(chain = %chain.chain_id, chain_ver = %chain.chain_ver, count, equal = plan.skipped, "filling successor");
        filling.planned(count as u64, plan.todo.iter().map(|(_, length)| length).sum());
        let remaining = Remaining::new(self, &filling, &plan);
        self.send_all(&open, plan.todo, chain, &remaining).await?;
        self.lookup(chain, false)?;
        if !broken(Mutation::FillWithoutAnswers) {
            self.pass_answers(chain, address, &options).await?;
        }
        self.lookup(chain, false)?;
        let done =
            self.rpc.call::<methods::SyncDone>(address, &SyncDoneReq { v_chain_id: chain }, &options).await?;
        done.result.length_info?;
        Ok(count)
    }

    /// Finds what the successor lacks; an error if it has what it must not have.
    fn compare(
        &self,
        open: &OpenTarget,
        remote: Vec<ChunkMeta>,
        chain: VersionedChainId,
        config: &Config,
    ) -> Result<Plan, Status> {
        let sync = &config.sync_worker;
        let chosen = sync.full_sync_chains.is_empty() || sync.full_sync_chains.contains(&chain.chain_id.0);
        let full = sync.full_sync_level == FullSyncLevel::Heavy && chosen;
        let mut here: HashMap<ChunkId, _> = HashMap::new();
        for meta in open.engine().all_metas() {
            here.insert(ChunkId::from_slice(meta.id.as_bytes()), local(&meta));
        }
        let (mut plan, mut removes, mut writes) = (Plan::default(), 0, 0);
        for meta in remote {
            let (id, chunk) = here
                .remove_entry(&meta.chunk_id)
                .unwrap_or_else(|| (meta.chunk_id.clone(), Default::default()));
            match resync::compare(&chunk, Some(&meta), chain.chain_ver, full) {
                // First, since it makes room.
                Decision::Remove => {
                    removes += 1;
                    plan.todo.push_front((id, 0));
                }
                Decision::Write(reason) => {
                    tracing::debug!(chunk = %id, ?reason, "to be sent");
                    writes += 1;
                    plan.todo.push_back((id, length(&chunk)));
                }
                Decision::Skip(_) => plan.skipped += 1,
                Decision::Fatal(reason) => {
                    let text = format!("chunk {id} diverged: {reason:?}, here {chunk:?}, there {meta:?}");
                    return Err(Status::new(code::STORAGE_SYNC_SEND_START_FAILED, text));
                }
            }
        }
        for (id, chunk) in here {
            if let Decision::Write(_) = resync::compare(&chunk, None, chain.chain_ver, full) {
                writes += 1;
                plan.todo.push_back((id, length(&chunk)));
            }
        }
        self.metrics.resync_compared("removed", removes);
        self.metrics.resync_compared("sent", writes);
        self.metrics.resync_compared("equal", plan.skipped);
        Ok(plan)
    }

    /// Sends chunks, a number of them at a time. All that were begun are waited for, so that nothing is left under way when
    /// another attempt begins.
    async fn send_all(
        self: &Arc<Self>,
        open: &Arc<OpenTarget>,
        todo: VecDeque<(ChunkId, u64)>,
        chain: VersionedChainId,
        remaining: &Remaining<'_>,
    ) -> Result<(), Status> {
        let width = self.config.get().sync_worker.batch_size as usize;
        let todo = Mutex::new((todo, Ok(())));
        let lanes = (0..width).map(|_| async {
            loop {
                let next = {
                    let mut todo = todo.lock();
                    if todo.1.is_ok() { todo.0.pop_front() } else { None }
                };
                let Some((chunk, length)) = next else { return };
                match self.send_chunk(open, &chunk, length, chain).await {
                    Ok(()) => remaining.one_less(length),
                    Err(status) => {
                        tracing::warn!(%chunk, %status, "chunk not sent");
                        todo.lock().1 = Err(status);
                    }
                }
            }
        });
        join_all(lanes).await;
        todo.into_inner().1
    }

    /// Waits until this server's target has another place in the chain than under this version.
    async fn moved_on(&self, chain: VersionedChainId) -> Status {
        let mut changes = self.changes();
        loop {
            if let Err(status) = self.lookup(chain, false) {
                return status;
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Brings the successor to what this replica has of a chunk.
    async fn send_chunk(
        self: &Arc<Self>,
        open: &Arc<OpenTarget>,
        chunk: &ChunkId,
        planned: u64,
        chain: VersionedChainId,
    ) -> Result<(), Status> {
        let limit = || self.config.get().sync_worker.max_bytes_per_second.get();
        if !self.fills.is_carried(chain, chunk) {
            // Before the chunk is locked, so that no update waits for this. The target is in use meanwhile, which keeps
            // it from being opened again should it lose its place.
            tokio::select! {
                () = self.pace.wait(planned, limit) => {}
                status = self.moved_on(chain) => return Err(status),
            }
        }
        let config = self.config.get();
        let lock = open.locks.lock(chunk, config.storage.max_waiters_per_chunk as usize).await;
        let _lock =
            lock.map_err(|_| Status::new(code::STORAGE_CHUNK_IS_LOCKED, "too many wait for the chunk"))?;
        self.lookup(chain, false)?;
        if self.fills.is_carried(chain, chunk) {
            return Ok(());
        }
        let meta = open.engine().get_meta(chunk.as_slice());
        let here = meta.as_ref().map(local).unwrap_or_default();
        let (kind, ver, chain_ver, length) = match resync::offer(&here) {
            Some(version) => (UpdateType::Write, version.ver, version.chain_ver, version.length),
            None => (UpdateType::Remove, resync::removal(&here), chain.chain_ver, 0),
        };
        let mut incoming =
            self.replacement(chunk, chain, kind, ver, chain_ver, meta.map_or(0, |meta| meta.chunk_size));
        if kind == UpdateType::Write && here.pending.is_some() {
            incoming.req.tag = self.tag_of(open, chunk, ver);
        }
        let intent = Intent { kind, update_ver: ver, chain_ver, syncing: true, content: None };
        let update = Update::new(intent, length);
        match self.forward(&incoming, &update, open, false).await {
            Forwarded::Committed { .. } => {
                self.metrics.resync_bytes.increment(u64::from(length));
                Ok(())
            }
            Forwarded::Failed { status, .. } => Err(status),
            Forwarded::Tail { .. } => {
                Err(Status::new(code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH, "the successor is gone"))
            }
        }
    }

    /// The update that stands for a chunk; its data are read when it is sent.
    fn replacement(
        &self,
        chunk: &ChunkId,
        chain: VersionedChainId,
        kind: UpdateType,
        ver: ChunkVer,
        chain_ver: ChainVersion,
        chunk_size: u32,
    ) -> Incoming {
        let payload = UpdateIO {
            chunk_size,
            key: GlobalKey { v_chain_id: chain, chunk_id: chunk.clone() },
            update_ver: ver,
            update_type: kind,
            ..UpdateIO::default()
        };
        let options = UpdateOptions { is_syncing: true, from_client: false, commit_chain_ver: chain_ver };
        Incoming::without_data(UpdateReq { payload, options, tag: self.own_tag(), ..UpdateReq::default() })
    }
}

fn successor_id(target: &Local) -> valor_protocol::TargetId {
    target.info.successor.as_ref().map(|successor| successor.target_info.target_id).unwrap_or_default()
}

fn length(chunk: &LocalChunk) -> u64 {
    resync::offer(chunk).map_or(0, |version| u64::from(version.length))
}

/// Counts what is still to be sent; whatever is left when it goes is taken off the metrics.
struct Remaining<'a> {
    storage: &'a Storage,
    filling: &'a Filling<'a>,
    left: Mutex<(u64, u64)>,
}

impl<'a> Remaining<'a> {
    fn new(storage: &'a Storage, filling: &'a Filling<'a>, plan: &Plan) -> Self {
        let bytes = plan.todo.iter().map(|(_, length)| length).sum();
        storage.metrics.resync_remaining.increment(plan.todo.len() as f64);
        storage.metrics.resync_remaining_bytes.increment(bytes as f64);
        Remaining { storage, filling, left: Mutex::new((plan.todo.len() as u64, bytes)) }
    }

    fn one_less(&self, bytes: u64) {
        let mut left = self.left.lock();
        left.0 -= 1;
        left.1 -= bytes;
        self.storage.metrics.resync_remaining.decrement(1.0);
        self.storage.metrics.resync_remaining_bytes.decrement(bytes as f64);
        self.filling.done(bytes);
    }
}

impl Drop for Remaining<'_> {
    fn drop(&mut self) {
        let (chunks, bytes) = *self.left.lock();
        self.storage.metrics.resync_remaining.decrement(chunks as f64);
        self.storage.metrics.resync_remaining_bytes.decrement(bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pace_keeps_to_the_limit() {
        let pace = Pace::default();
        let near = |elapsed: Duration, seconds: f64| (elapsed.as_secs_f64() - seconds).abs() < 0.02;
        let begin = Instant::now();
        for _ in 0..5 {
            pace.wait(1000, || 1000).await;
        }
        assert!(near(begin.elapsed(), 4.0), "{:?}", begin.elapsed());
        // What was not used is not saved up.
        sleep(Duration::from_secs(10)).await;
        let begin = Instant::now();
        pace.wait(1000, || 1000).await;
        pace.wait(1000, || 1000).await;
        assert!(near(begin.elapsed(), 1.0), "{:?}", begin.elapsed());
        pace.wait(u64::MAX, || 0).await;
        // A limit that is raised holds for those who wait already.
        sleep(Duration::from_secs(10)).await;
        let begin = Instant::now();
        pace.wait(1_000_000, || 1000).await;
        pace.wait(1000, || if begin.elapsed() < Duration::from_secs(5) { 1000 } else { 1_000_000 }).await;
        assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    }
}
