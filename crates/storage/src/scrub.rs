//! Verifying what is stored, in the background and slowly: every chunk's bytes against its checksums, and its version
//! and checksum against the successor's; also of chunks that only the successor has.
//!
//! A chunk whose bytes do not have their checksum is repaired from another serving replica of its chain. The rule that
//! keeps this from doing harm: only a quiet chunk (nothing pending, its lock held) is repaired, only with bytes that
//! another replica has under the very same version and that have the very checksum which this replica's metadata asks
//! for, and the version stays what it is. Whatever else is found is reported and left alone: bytes that are good in
//! themselves but differ between replicas do not tell which of them is right.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use valor_chunk_engine::{ChunkMeta as EngineMeta, EngineError, VersionMeta};
use valor_protocol::mgmtd::PublicTargetState;
use valor_protocol::status::code;
use valor_protocol::storage::methods;
use valor_protocol::storage::{
    BatchReadReq, ChecksumType, ChunkId, ChunkState, FeatureFlags, GetAllChunkMetadataReq, GlobalKey,
    QueryChunkReq, RDMARemoteBuf, ReadIO, UpdateType,
};
use valor_protocol::{Address, ChainVersion, ChunkVer, Status, TargetId};
use valor_rpc::CallOptions;

use crate::replica::roles;
use crate::storage::{Local, Storage};
use crate::target::{Change, OpenTarget, crc32c, update_status};

/// A chunk costs as much of the limit as this many bytes at least.
const LEAST_COST: u64 = 16 << 10;
/// Pause between two looks while there is nothing to do.
const IDLE: Duration = Duration::from_millis(200);
/// Deadline of a question to another replica.
const ASK: Duration = Duration::from_secs(5);

/// What was found out about a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Being written; the next pass looks again.
    Busy,
    Repaired,
    Damaged,
    Unreadable,
    Disagrees,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Busy => "busy",
            Verdict::Repaired => "repaired",
            Verdict::Damaged => "damaged",
            Verdict::Unreadable => "unreadable",
            Verdict::Disagrees => "disagrees",
        }
    }

    fn is_bad(self) -> bool {
        matches!(self, Verdict::Damaged | Verdict::Unreadable | Verdict::Disagrees)
    }
}

/// Counts of a pass.
#[derive(Debug, Default)]
struct Pass {
    chunks: u64,
    repaired: u64,
    bad: u64,
}

impl Storage {
    /// Pass after pass over all chunks of targets that serve.
    pub(crate) async fn keep_scrubbing(self: Arc<Self>) {
        self.joined().await;
        sleep(self.config.get().scrub.start_after.get()).await;
        loop {
            if self.config.get().scrub.enable {
                let mut pass = Pass::default();
                let ids: Vec<TargetId> = self.map().targets().map(|target| target.info.target_id).collect();
                for id in ids {
                    self.scrub_target(id, &mut pass).await;
                }
                self.metrics.scrub_passes.increment(1);
                self.metrics.scrub_bad.set(pass.bad as f64);
                let Pass { chunks, repaired, bad } = pass;
                if bad > 0 {
                    tracing::error!(chunks, repaired, bad, "chunks verified, some are bad");
                } else if repaired > 0 {
                    tracing::warn!(chunks, repaired, "chunks verified, some had to be repaired");
                } else {
                    tracing::info!(chunks, "chunks verified");
                }
            }
            sleep(self.config.get().scrub.pause.get().max(IDLE)).await;
        }
    }

    /// The target of now, if it serves and is up to date.
    fn serving(&self, id: TargetId) -> Option<(Local, Arc<OpenTarget>)> {
        let map = self.map();
        let target = map.by_id(id).ok()?;
        let serves = target.info.public_state == PublicTargetState::Serving && target.is_up_to_date();
        let open = target.store.clone().filter(|_| serves)?;
        Some((Arc::clone(target), open))
    }

    async fn scrub_target(self: &Arc<Self>, id: TargetId, pass: &mut Pass) {
        let mut chunks = self.chunks_of_successor(id).await;
        let Some((_, open)) = self.serving(id) else { return };
        // Those that only the successor has.
        chunks.retain(|chunk| open.local(chunk).is_absent());
        let metas = open.engine().all_metas();
        // Not held while this waits: a target that lost its place is opened anew once nobody has it.
        drop(open);
        chunks.extend(metas.iter().map(|meta| ChunkId::from_slice(meta.id.as_bytes())));
        drop(metas);
        // A server that is often restarted gets to all of them too.
        let offset = self.env.random_u64() as usize % chunks.len().max(1);
        chunks.rotate_left(offset);
        for chunk in chunks {
            let Some((_, open)) = self.serving(id) else { return };
            let length = open.local(&chunk).committed.map_or(0, |version| u64::from(version.length));
            drop(open);
            let limit = || self.config.get().scrub.max_bytes_per_second.get();
            self.scrub_pace.wait(length.max(LEAST_COST), limit).await;
            if !self.config.get().scrub.enable {
                return;
            }
            // The target may have lost its place or been opened anew.
            let Some((target, open)) = self.serving(id) else { return };
            let verdict = self.scrub_chunk(&target, &open, &chunk).await;
            self.metrics.scrubbed(verdict.name(), length);
            pass.chunks += 1;
            pass.repaired += u64::from(verdict == Verdict::Repaired);
            pass.bad += u64::from(verdict.is_bad());
        }
    }

    /// All chunks of a target's successor; none where that is not known.
    async fn chunks_of_successor(&self, id: TargetId) -> Vec<ChunkId> {
        let config = self.config.get();
        let Some((target, open)) = self.serving(id) else { return Vec::new() };
        drop(open);
        let successor = target.info.successor.as_ref().map(|successor| successor.target_info.target_id);
        let (Some(target_id), Ok(address)) = (successor, target.successor_address()) else {
            return Vec::new();
        };
        if !config.scrub.compare_replicas || target.successor_is_syncing() {
            return Vec::new();
        }
        let req = GetAllChunkMetadataReq { target_id };
        let options = CallOptions::timeout(config.sync_worker.sync_start_timeout.get());
        match self.rpc.call::<methods::GetAllChunkMetadata>(address, &req, &options).await {
            Ok(rsp) => rsp.chunk_meta_vec.into_iter().map(|meta| meta.chunk_id).collect(),
            Err(status) => {
                tracing::debug!(%target_id, %status, "chunks of the successor are not known");
                Vec::new()
            }
        }
    }

    async fn scrub_chunk(
        self: &Arc<Self>,
        target: &Local,
        open: &Arc<OpenTarget>,
        chunk: &ChunkId,
    ) -> Verdict {
        match open.engine().scrub(chunk.as_slice()).await {
            Err(EngineError::Closed) => Verdict::Good,
            Ok(()) | Err(EngineError::NotFound(_)) if !self.config.get().scrub.compare_replicas => {
                Verdict::Good
            }
            // Not here: removed meanwhile, or only the successor has it.
            Ok(()) | Err(EngineError::NotFound(_)) => self.compare_with_successor(target, open, chunk).await,
            Err(EngineError::Corrupt { .. }) => self.repair(target, open, chunk).await,
            Err(error) => {
                tracing::error!(target = %open.id, %chunk, %error, "chunk cannot be read");
                Verdict::Unreadable
            }
        }
    }

    /// Asks the successor about a chunk that is quiet here. While its lock is held no update passes, so that the
    /// successor must have the same.
    async fn compare_with_successor(
        self: &Arc<Self>,
        target: &Local,
        open: &Arc<OpenTarget>,
        chunk: &ChunkId,
    ) -> Verdict {
        if target.info.successor.is_none() || target.successor_is_syncing() {
            return Verdict::Good;
        }
        let Ok(address) = target.successor_address() else { return Verdict::Good };
        let Some(_lock) = open.locks.try_lock(chunk) else { return Verdict::Busy };
        let local = open.local(chunk);
        if local.pending.is_some() {
            return Verdict::Busy;
        }
        let here = local.committed;
        let req = QueryChunkReq { chain_id: open.chain_id, chunk_id: chunk.clone() };
        let reply = self.rpc.call::<methods::QueryChunk>(address, &req, &CallOptions::timeout(ASK)).await;
        // Whoever cannot be asked is somebody else's problem; so is a chain that changes.
        let Ok(reply) = reply else { return Verdict::Good };
        let unchanged = self.serving(open.id).is_some_and(|(now, _)| {
            now.info.v_chain_id == target.info.v_chain_id && reply.target.v_chain_id == target.info.v_chain_id
        });
        let agrees = match (&reply.meta, here) {
            (Ok(there), Some(here)) => {
                there.chunk_state == ChunkState::Commit
                    && (there.commit_ver, there.update_ver) == (here.ver, here.ver)
                    && (there.checksum_type != ChecksumType::Crc32c
                        || there.checksum_value == here.checksum.value)
            }
            (Ok(_), None) => false,
            (Err(status), here) if status.code == code::STORAGE_CHUNK_METADATA_NOT_FOUND => here.is_none(),
            (Err(_), _) => return Verdict::Good,
        };
        if agrees || !unchanged {
            return Verdict::Good;
        }
        tracing::error!(target = %open.id, %chunk, ?here, there = ?reply.meta, "replicas disagree");
        Verdict::Disagrees
    }

    /// Repairs a chunk from another replica; see the head of this file.
    async fn repair(self: &Arc<Self>, target: &Local, open: &Arc<OpenTarget>, chunk: &ChunkId) -> Verdict {
        let waiters = self.config.get().storage.max_waiters_per_chunk as usize;
        let Ok(_lock) = open.locks.lock(chunk, waiters).await else { return Verdict::Busy };
        // What was read may have been replaced meanwhile.
        match open.engine().scrub(chunk.as_slice()).await {
            Err(EngineError::Corrupt { file, offset, what, .. }) => {
                self.metrics.corrupt_reads.increment(1);
                tracing::error!(target = %open.id, %chunk, file = %file.display(), offset, what, "chunk is damaged");
            }
            _ => return Verdict::Good,
        }
        let Some(meta) = open.engine().get_meta(chunk.as_slice()) else { return Verdict::Good };
        let (Some(version), None) = (meta.committed, meta.pending) else { return Verdict::Busy };
        for (id, address) in self.other_replicas(target) {
            let data = match self.fetch(target, chunk, &version, address).await {
                Ok(data) => data,
                Err(status) => {
                    tracing::warn!(target = %open.id, %chunk, from = %id, %status, "no help against the damage");
                    continue;
                }
            };
            return match self.put_back(open, chunk, &meta, &version, data).await {
                Ok(()) => {
                    tracing::warn!(target = %open.id, %chunk, from = %id, "damage repaired");
                    Verdict::Repaired
                }
                Err(status) => {
                    tracing::error!(target = %open.id, %chunk, %status, "damage not repaired");
                    Verdict::Damaged
                }
            };
        }
        Verdict::Damaged
    }

    /// Other targets of the chain that serve, with their servers' addresses.
    fn other_replicas(&self, target: &Local) -> Vec<(TargetId, Address)> {
        let routing = self.cluster.routing();
        let info = routing.info();
        let Some(chain) = info.chains.get(&target.info.chain_id) else { return Vec::new() };
        let serves =
            |id: &TargetId, state| *id != target.info.target_id && state == PublicTargetState::Serving;
        let members = chain.targets.iter().filter(|member| serves(&member.target_id, member.public_state));
        members
            .filter_map(|member| Some((member.target_id, roles::address(member.target_id, info)?)))
            .collect()
    }

    /// A chunk's content from another replica, if it is exactly the version wanted.
    async fn fetch(
        &self,
        target: &Local,
        chunk: &ChunkId,
        version: &VersionMeta,
        from: Address,
    ) -> Result<Bytes, Status> {
        let length = version.length;
        let read = ReadIO {
            offset: 0,
            length,
            key: GlobalKey { v_chain_id: target.info.v_chain_id, chunk_id: chunk.clone() },
            rdmabuf: RDMARemoteBuf { size: u64::from(length), ..RDMARemoteBuf::default() },
        };
        let req = BatchReadReq {
            payloads: vec![read],
            checksum_type: ChecksumType::Crc32c,
            feature_flags: FeatureFlags::SEND_DATA_INLINE,
            ..BatchReadReq::default()
        };
        let rsp = self.rpc.call::<methods::BatchRead>(from, &req, &CallOptions::timeout(ASK)).await?;
        let differs =
            |what: &str| Status::new(code::STORAGE_CHUNK_VERSION_MISMATCH, format!("{what} differs"));
        let result = rsp.results.first().ok_or_else(|| differs("number of results"))?;
        let found = result.length_info.clone()?;
        let data = rsp.inlinebuf.data;
        if result.commit_ver != ChunkVer(version.ver) || result.update_ver != result.commit_ver {
            return Err(differs("version"));
        }
        if found != length || data.len() != length as usize {
            return Err(differs("length"));
        }
        if valor_wire::storage_crc32c(&data) != version.checksum {
            return Err(differs("checksum"));
        }
        Ok(data)
    }

    /// Writes a version's content anew, to another place of the disk.
    async fn put_back(
        self: &Arc<Self>,
        open: &Arc<OpenTarget>,
        chunk: &ChunkId,
        meta: &EngineMeta,
        version: &VersionMeta,
        data: Bytes,
    ) -> Result<(), Status> {
        let change = Change {
            kind: UpdateType::Write,
            offset: 0,
            length: version.length,
            data,
            crc: version.checksum,
            chunk_size: meta.chunk_size,
            tag: version.tag,
        };
        let (ver, chain_ver) = (ChunkVer(version.ver), ChainVersion(version.chain_ver));
        let failed = |error: EngineError| {
            self.engine_failed(&open.dir, &error);
            update_status(&error)
        };
        let prepared = open.prepare(chunk, change, ver, chain_ver, true).await.map_err(failed)?;
        if prepared.checksum != crc32c(version.checksum) || prepared.length != version.length {
            open.discard(chunk).await.map_err(failed)?;
            return Err(Status::new(code::STORAGE_CHECKSUM_MISMATCH, "written differently"));
        }
        if let Err(failure) = open.commit(chunk, ver, chain_ver).await {
            let status = failed(failure);
            open.discard(chunk).await.map_err(failed)?;
            return Err(status);
        }
        open.engine().scrub(chunk.as_slice()).await.map_err(|error| update_status(&error))
    }
}
