//! An open target: its chunk engine in the terms of replication.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use valor_chunk_engine::{self as engine, Engine, EngineError, ReadOutput, Tag, UpdateKind};
use valor_protocol::status::code;
use valor_protocol::storage::{
    ChecksumInfo, ChecksumType, ChunkFileId, ChunkId, ChunkMeta, ChunkMetadata, ChunkState, IOResult,
    RecycleState, UpdateType,
};
use valor_protocol::{ChainId, ChainVersion, ChunkVer, RequestId, Status, TargetId, UtcTime, Uuid};

use crate::applied::Applied;
use crate::dedup;
use crate::locks::ChunkLocks;
use crate::replica::resync;
use crate::replica::update::Prepared;
use crate::replica::version::{LocalChunk, Pending, Version};

/// A version that stays pending with nobody working on it, and the update that left it.
#[derive(Clone, Copy, Debug)]
pub struct Unfinished {
    /// The version.
    pub ver: ChunkVer,
    /// The update, if a client may ask for its result again.
    pub update: Option<(dedup::Key, dedup::Request)>,
    /// The successor does not take the update under its own tag any more.
    pub tag_refused: bool,
}

/// One opening of a target. Requests that found it keep it until they end, even when the target lost its place.
#[derive(Debug)]
pub struct OpenTarget {
    /// Target.
    pub id: TargetId,
    /// Chain it was created for.
    pub chain_id: ChainId,
    /// Which opening this is, unique in the process.
    pub generation: u32,
    /// Directory.
    pub dir: PathBuf,
    /// Locks of chunks.
    pub locks: Arc<ChunkLocks>,
    /// Held for reading while a version is committed without a successor, see [`OpenTarget::put`]; taken for writing
    /// before what is here is compared with a successor's chunks.
    pub puts: tokio::sync::RwLock<()>,
    /// Chunks with a version to complete.
    pub unfinished: Arc<Mutex<HashMap<ChunkId, Unfinished>>>,
    store: Store,
}

/// The part of a target that lasts longer than one opening.
#[derive(Clone)]
pub struct Store {
    /// Its chunks.
    pub engine: Arc<Engine>,
    /// Bytes used, counted from time to time.
    pub used: Arc<AtomicU64>,
    /// Chunks with a version to complete. Who asks for one again must learn what became of it under a later opening.
    pub unfinished: Arc<Mutex<HashMap<ChunkId, Unfinished>>>,
    /// Updates from before the process started.
    pub applied: Arc<Applied>,
}

impl Store {
    /// The store of an engine that was just opened.
    pub fn new(engine: Arc<Engine>, now_us: i64) -> Store {
        let applied = Arc::new(Applied::of(&engine, now_us));
        Store { engine, used: Arc::default(), unfinished: Arc::default(), applied }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("used", &self.used).finish_non_exhaustive()
    }
}

/// A change as the engine gets it.
#[derive(Clone, Debug)]
pub struct Change {
    /// Kind.
    pub kind: UpdateType,
    /// First byte written.
    pub offset: u32,
    /// New length of truncate and extend.
    pub length: u32,
    /// Bytes written.
    pub data: Bytes,
    /// Storage CRC-32C of the bytes.
    pub crc: u32,
    /// Capacity of the chunk.
    pub chunk_size: u32,
    /// Who asks.
    pub tag: Tag,
}

impl OpenTarget {
    /// Whether the successor may still take a version that was left pending under its update's own tag.
    pub(crate) fn takes_tag(&self, chunk: &ChunkId) -> bool {
        self.unfinished.lock().get(chunk).is_some_and(|left| !left.tag_refused)
    }

    /// A new opening of a store.
    pub fn new(id: TargetId, chain_id: ChainId, generation: u32, dir: PathBuf, store: Store) -> Arc<Self> {
        Arc::new(OpenTarget {
            id,
            chain_id,
            generation,
            dir,
            locks: Arc::default(),
            puts: tokio::sync::RwLock::default(),
            unfinished: Arc::clone(&store.unfinished),
            store,
        })
    }

    /// Bytes used when last counted.
    pub fn used(&self) -> u64 {
        self.store.used.load(Ordering::Relaxed)
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.store.engine
    }

    /// What is here of a chunk.
    pub fn local(&self, chunk: &ChunkId) -> LocalChunk {
        self.engine().get_meta(chunk.as_slice()).map(|meta| local(&meta)).unwrap_or_default()
    }

    /// Makes a change durable as pending version `ver`.
    ///
    /// # Errors
    /// The engine's; nothing is changed then.
    pub async fn prepare(
        &self,
        chunk: &ChunkId,
        change: Change,
        ver: ChunkVer,
        chain_ver: ChainVersion,
        replace: bool,
    ) -> Result<Prepared, EngineError> {
        self.store_version(chunk, change, ver, chain_ver, replace, false).await
    }

    /// Makes a change durable as committed version `ver`: [`OpenTarget::prepare`] and [`OpenTarget::commit`] in one.
    /// The target must have no successor, seen with [`OpenTarget::puts`] held for reading.
    ///
    /// # Errors
    /// The engine's; nothing is changed then.
    pub async fn put(
        &self,
        chunk: &ChunkId,
        change: Change,
        ver: ChunkVer,
        chain_ver: ChainVersion,
    ) -> Result<Prepared, EngineError> {
        self.store_version(chunk, change, ver, chain_ver, false, true).await
    }

    async fn store_version(
        &self,
        chunk: &ChunkId,
        change: Change,
        ver: ChunkVer,
        chain_ver: ChainVersion,
        replace: bool,
        commit: bool,
    ) -> Result<Prepared, EngineError> {
        let present = self.engine().get_meta(chunk.as_slice());
        if replace && let Some(before) = present.as_ref().and_then(|meta| meta.pending) {
            // The same content under the same number means that the update has happened elsewhere too.
            let (version, length) = (before.version, change.data.len());
            let same = (version.ver, version.checksum, version.length as usize)
                == (ver.0, change.crc, length)
                && !before.removes;
            if !same {
                // Before the replacement, which goes on even if nobody waits for it.
                self.store.applied.forget_pending(chunk, ChunkVer(version.ver));
            }
        }
        let checksum = Some(change.crc);
        let kind = match change.kind {
            UpdateType::Write if replace => UpdateKind::Replace { data: pieces(change.data), checksum },
            UpdateType::Write => {
                UpdateKind::Write { offset: change.offset, data: pieces(change.data), checksum }
            }
            UpdateType::Truncate => UpdateKind::Truncate { len: change.length },
            UpdateType::Extend => UpdateKind::Extend { len: change.length },
            UpdateType::Remove => {
                let ver = if replace { None } else { Some(ver) };
                return self.remove(chunk, present, &change, ver, chain_ver, commit).await;
            }
            UpdateType::Invalid | UpdateType::Commit => {
                return Err(EngineError::InvalidArg("kind of update"));
            }
        };
        let update = engine::Update {
            kind,
            ver: ver.0,
            chain_ver: chain_ver.0,
            chunk_size: change.chunk_size,
            tag: change.tag,
        };
        self.run(chunk, update, commit).await
    }

    async fn run(
        &self,
        chunk: &ChunkId,
        update: engine::Update,
        commit: bool,
    ) -> Result<Prepared, EngineError> {
        let id = chunk.as_slice();
        let stored = if commit {
            self.engine().put(id, update).await?
        } else {
            self.engine().prepare(id, update).await?
        };
        Ok(prepared(&stored))
    }

    /// A removal as part of being filled may have any version; the engine wants the next one. The number does not matter,
    /// since nothing is left that carries it. Nothing may be pending then.
    async fn remove(
        &self,
        chunk: &ChunkId,
        present: Option<engine::ChunkMeta>,
        change: &Change,
        ver: Option<ChunkVer>,
        chain_ver: ChainVersion,
        commit: bool,
    ) -> Result<Prepared, EngineError> {
        let present = present.ok_or_else(|| EngineError::NotFound(engine::ChunkId::new(chunk.as_slice())))?;
        let next = present.committed.map_or(1, |v| v.ver.saturating_add(1));
        let update = engine::Update {
            kind: UpdateKind::Remove,
            ver: ver.map_or(next, |ver| ver.0),
            chain_ver: chain_ver.0,
            chunk_size: present.chunk_size,
            tag: change.tag,
        };
        self.run(chunk, update, commit).await
    }

    /// Makes the pending version the committed one.
    ///
    /// # Errors
    /// The engine's.
    pub async fn commit(
        &self,
        chunk: &ChunkId,
        ver: ChunkVer,
        chain_ver: ChainVersion,
    ) -> Result<(), EngineError> {
        let id = chunk.as_slice();
        let pending = self.engine().get_meta(id).and_then(|meta| meta.pending);
        let ver = pending.filter(|pending| pending.removes).map_or(ver.0, |pending| pending.version.ver);
        self.engine().commit(id, ver, chain_ver.0).await.map(drop)
    }

    /// Drops the pending version.
    ///
    /// # Errors
    /// The engine's.
    pub async fn discard(&self, chunk: &ChunkId) -> Result<(), EngineError> {
        self.unfinished.lock().remove(chunk);
        if let Some(pending) = self.local(chunk).pending {
            self.store.applied.forget_pending(chunk, pending.version.ver);
        }
        self.engine().discard_pending(chunk.as_slice()).await
    }

    /// Commits everything that is pending (a last-serving target that returns); returns what it committed, as results
    /// of the updates.
    ///
    /// # Errors
    /// The engine's, at the first failure.
    pub async fn commit_all(&self, chain_ver: ChainVersion) -> Result<Vec<(ChunkId, IOResult)>, EngineError> {
        let mut committed = Vec::new();
        for meta in self.engine().pending() {
            let Some(pending) = meta.pending else { continue };
            let version = version(&pending.version);
            tracing::warn!(target = %self.id, chunk = %meta.id, version = %version.ver, "pending version committed");
            self.engine().commit(meta.id.as_bytes(), version.ver.0, chain_ver.0).await?;
            let result = IOResult {
                length_info: Ok(version.length),
                update_ver: version.ver,
                commit_ver: version.ver,
                commit_chain_ver: chain_ver,
                checksum: version.checksum,
            };
            committed.push((ChunkId::from_slice(meta.id.as_bytes()), result));
        }
        Ok(committed)
    }

    /// Updates from before the process started.
    pub fn applied(&self) -> &Applied {
        &self.store.applied
    }

    /// Reads from a chunk.
    ///
    /// # Errors
    /// The engine's.
    pub async fn read(
        &self,
        chunk: &ChunkId,
        offset: u32,
        length: u32,
        uncommitted: bool,
    ) -> Result<ReadOutput, EngineError> {
        self.engine().read(chunk.as_slice(), offset, length, uncommitted).await
    }

    /// All chunks, largest id first.
    pub fn metas(&self) -> Vec<ChunkMeta> {
        let all = self.engine().all_metas();
        all.iter()
            .rev()
            .map(|meta| resync::describe(ChunkId::from_slice(meta.id.as_bytes()), &local(meta)))
            .collect()
    }

    /// One chunk as `queryChunk` shows it.
    pub fn metadata(&self, chunk: &ChunkId) -> Option<ChunkMetadata> {
        self.engine().get_meta(chunk.as_slice()).map(|meta| metadata(&meta))
    }
}

fn pieces(data: Bytes) -> Vec<Bytes> {
    if data.is_empty() { Vec::new() } else { vec![data] }
}

fn prepared(pending: &engine::PendingMeta) -> Prepared {
    Prepared { length: pending.version.length, checksum: crc32c(pending.version.checksum) }
}

/// A storage CRC-32C as 3FS sends it.
pub fn crc32c(value: u32) -> ChecksumInfo {
    ChecksumInfo { r#type: ChecksumType::Crc32c, value }
}

fn version(meta: &engine::VersionMeta) -> Version {
    Version {
        ver: ChunkVer(meta.ver),
        chain_ver: ChainVersion(meta.chain_ver),
        length: meta.length,
        checksum: crc32c(meta.checksum),
    }
}

/// The engine's view of a chunk in the terms of replication.
pub fn local(meta: &engine::ChunkMeta) -> LocalChunk {
    LocalChunk {
        committed: meta.committed.as_ref().map(version),
        pending: meta
            .pending
            .map(|pending| Pending { version: version(&pending.version), remove: pending.removes }),
    }
}

fn metadata(meta: &engine::ChunkMeta) -> ChunkMetadata {
    let newest = meta.pending.map(|p| p.version).or(meta.committed).unwrap_or_default();
    let described = resync::describe(ChunkId::default(), &local(meta));
    let removing = meta.pending.is_some_and(|pending| pending.removes);
    ChunkMetadata {
        commit_ver: described.commit_ver,
        update_ver: described.update_ver,
        chain_ver: described.chain_ver,
        size: described.length,
        chunk_state: if meta.pending.is_some() { ChunkState::Clean } else { ChunkState::Commit },
        recycle_state: if removing { RecycleState::RemovalInProgress } else { RecycleState::Normal },
        checksum_type: ChecksumType::Crc32c,
        checksum_value: newest.checksum,
        last_node_id: newest.tag.node_id,
        last_request_id: RequestId(newest.tag.request_id),
        inner_offset: 0,
        inner_file_id: ChunkFileId { chunk_size: meta.chunk_size, chunk_idx: 0 },
        last_client_uuid: Uuid(newest.tag.client),
        timestamp: UtcTime(newest.tag.timestamp_us),
    }
}

/// 3FS's code for an engine's failure to change something.
pub fn update_status(error: &EngineError) -> Status {
    let code = match error {
        EngineError::NotFound(_) => code::STORAGE_CHUNK_METADATA_NOT_FOUND,
        EngineError::InvalidArg(_) => code::INVALID_ARG,
        EngineError::ChunkSizeMismatch { .. } => code::STORAGE_CHUNK_SIZE_MISMATCH,
        EngineError::ChecksumMismatch { .. } => code::STORAGE_CHECKSUM_MISMATCH,
        EngineError::Busy(_) => code::STORAGE_CHUNK_IS_LOCKED,
        EngineError::PendingExists { .. } => code::STORAGE_CHUNK_ADVANCE_UPDATE,
        EngineError::PendingMismatch { .. } => code::STORAGE_CHUNK_VERSION_MISMATCH,
        EngineError::NothingPending { .. } => code::STORAGE_CHUNK_STALE_COMMIT,
        EngineError::StaleVersion { .. } => code::STORAGE_CHUNK_COMMITTED_UPDATE,
        EngineError::NoSpace(_) => code::STORAGE_CLIENT_NO_SPACE,
        EngineError::Corrupt { .. } => code::STORAGE_CHUNK_READ_FAILED,
        EngineError::Io { .. } => code::STORAGE_CHUNK_WRITE_FAILED,
        EngineError::ReadOnly(_) => code::STORAGE_CHUNK_METADATA_SET_ERROR,
        EngineError::Closed => code::STORAGE_TARGET_OFFLINE,
    };
    Status::new(code, error.to_string())
}

/// 3FS's code for an engine's failure to read: one after which clients try another replica.
pub fn read_status(error: &EngineError) -> Status {
    let code = match error {
        EngineError::NotFound(_) => return Status::new(code::STORAGE_CHUNK_METADATA_NOT_FOUND, ""),
        EngineError::InvalidArg(_) => code::INVALID_ARG,
        _ => code::STORAGE_CHUNK_READ_FAILED,
    };
    Status::new(code, error.to_string())
}

/// True if the disk cannot be written any more.
pub fn is_disk_failure(error: &EngineError) -> bool {
    matches!(error, EngineError::Io { .. } | EngineError::ReadOnly(_))
}
