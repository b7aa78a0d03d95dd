//! The engine: chunks of one storage target.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use valor_env::disk::Disk;

use crate::{
    ChunkId, ChunkMeta, EngineError, MAX_CHUNK_SIZE, MAX_ID_LEN, Options, PendingMeta, ReadOutput, Result,
    Update, UpdateKind, VersionMeta,
};

/// Bytes used and free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceInfo {
    /// Size of the file system.
    pub capacity: u64,
    /// Bytes the file system has available, plus what the engine can reuse.
    pub available: u64,
    /// Bytes of committed and pending chunk content.
    pub used: u64,
    /// Number of chunks.
    pub chunks: u64,
}

/// Chunks of one storage target. Cheap to share; calls may come from several threads. At most one update (prepare, commit,
/// discard) of a chunk may be under way at a time; a second gets [`EngineError::Busy`].
pub struct Engine {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    chunks: Mutex<BTreeMap<ChunkId, Chunk>>,
}

#[derive(Clone)]
struct Chunk {
    chunk_size: u32,
    committed: Option<(VersionMeta, Bytes)>,
    pending: Option<(PendingMeta, Bytes)>,
}

impl Engine {
    /// Makes a new engine in `dir`, which is created if needed and must hold no engine.
    pub async fn create(disk: Arc<dyn Disk>, dir: &Path, _options: Options) -> Result<Arc<Engine>> {
        let made = disk.create_dir_all(dir).await;
        made.map_err(|e| EngineError::Io { op: "create", file: dir.into(), source: Arc::new(e) })?;
        Ok(Arc::new(Engine { disk, dir: dir.into(), chunks: Mutex::default() }))
    }

    /// Opens the engine in `dir`.
    pub async fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Arc<Engine>> {
        Engine::create(disk, dir, options).await
    }

    /// Whether `dir` holds an engine.
    pub async fn exists(disk: &Arc<dyn Disk>, dir: &Path) -> Result<bool> {
        let exists = disk.exists(dir).await;
        exists.map_err(|e| EngineError::Io { op: "stat", file: dir.into(), source: Arc::new(e) })
    }

    /// The chunk's versions.
    pub fn get_meta(&self, id: &[u8]) -> Option<ChunkMeta> {
        self.chunks.lock().get(id).map(|c| meta(id, c))
    }

    /// Up to `limit` chunks with `begin <= id < end`, largest id first, and whether there are more. Includes chunks which have
    /// only a pending version and chunks with a pending removal.
    pub fn query_descending(&self, begin: &[u8], end: &[u8], limit: usize) -> (Vec<ChunkMeta>, bool) {
        if begin >= end {
            return (Vec::new(), false);
        }
        let chunks = self.chunks.lock();
        let mut range = chunks.range::<[u8], _>((Bound::Included(begin), Bound::Excluded(end))).rev();
        let page = range.by_ref().take(limit).map(|(id, c)| meta(id.as_bytes(), c)).collect();
        (page, range.next().is_some())
    }

    /// Up to `limit` chunks with an id above `after` (from the first with `None`), smallest first.
    pub fn page_ascending(&self, after: Option<&[u8]>, limit: usize) -> Vec<ChunkMeta> {
        let chunks = self.chunks.lock();
        let low = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = chunks.range::<[u8], _>((low, Bound::Unbounded));
        range.take(limit).map(|(id, c)| meta(id.as_bytes(), c)).collect()
    }

    /// All chunks at the moment of the call, smallest id first.
    pub fn all_metas(&self) -> Vec<ChunkMeta> {
        self.page_ascending(None, usize::MAX)
    }

    /// Chunks which have a pending version, smallest id first.
    pub fn pending(&self) -> Vec<ChunkMeta> {
        self.all_metas().into_iter().filter(|m| m.pending.is_some()).collect()
    }

    /// Reads up to `len` bytes at `offset`: of the pending version if there is one and `allow_uncommitted`, else of the
    /// committed one. A pending removal is read as the committed version. Beyond the end there is nothing.
    pub async fn read(
        &self,
        id: &[u8],
        offset: u32,
        len: u32,
        allow_uncommitted: bool,
    ) -> Result<ReadOutput> {
        let chunks = self.chunks.lock();
        let chunk = chunks.get(id).ok_or_else(|| EngineError::NotFound(ChunkId::new(id)))?;
        let pending = chunk.pending.as_ref().filter(|(p, _)| allow_uncommitted && !p.removes);
        let (version, content) = match (pending, &chunk.committed) {
            (Some((p, content)), _) => (p.version, content),
            (None, Some((v, content))) => (*v, content),
            (None, None) => return Err(EngineError::NotFound(ChunkId::new(id))),
        };
        let start = content.len().min(offset as usize);
        let end = content.len().min(start + len as usize);
        let data = content.slice(start..end);
        Ok(ReadOutput {
            checksum: !crc32c::crc32c(&data),
            data,
            version,
            committed: chunk.committed.as_ref().map(|(v, _)| *v),
            has_pending: chunk.pending.is_some(),
        })
    }

    /// Puts a version on disk beside the committed one. `ver` must be above the committed version (any with
    /// [`UpdateKind::Replace`]); a pending version is replaced if it has the same number (or by `Replace`).
    pub async fn prepare(self: &Arc<Self>, id: &[u8], update: Update) -> Result<PendingMeta> {
        if id.is_empty() || id.len() > MAX_ID_LEN {
            return Err(EngineError::InvalidArg("length of chunk id"));
        }
        if update.chunk_size == 0 || update.chunk_size > MAX_CHUNK_SIZE || update.ver == 0 {
            return Err(EngineError::InvalidArg("chunk size or version"));
        }
        let mut chunks = self.chunks.lock();
        let old = chunks.get(id);
        if let Some(old) = old {
            check(id, old, &update)?;
        } else if matches!(update.kind, UpdateKind::Remove) {
            return Err(EngineError::NotFound(ChunkId::new(id)));
        }
        let before = old.and_then(|c| c.committed.as_ref()).map(|(_, c)| c.clone()).unwrap_or_default();
        let content = apply(before, &update)?;
        let version = VersionMeta {
            ver: update.ver,
            chain_ver: update.chain_ver,
            length: content.len() as u32,
            checksum: !crc32c::crc32c(&content),
            tag: update.tag,
        };
        let pending = PendingMeta { version, removes: matches!(update.kind, UpdateKind::Remove) };
        let entry = chunks.entry(ChunkId::new(id)).or_insert(Chunk {
            chunk_size: update.chunk_size,
            committed: None,
            pending: None,
        });
        entry.pending = Some((pending, content));
        Ok(pending)
    }

    /// Makes pending version `ver` the committed one, under `chain_ver`. `None`: the chunk is removed.
    pub async fn commit(
        self: &Arc<Self>,
        id: &[u8],
        ver: u32,
        chain_ver: u32,
    ) -> Result<Option<VersionMeta>> {
        let mut chunks = self.chunks.lock();
        let chunk = chunks.get_mut(id).ok_or_else(|| EngineError::NotFound(ChunkId::new(id)))?;
        let committed = chunk.committed.as_ref().map_or(0, |(v, _)| v.ver);
        let Some((pending, content)) = chunk.pending.take() else {
            return Err(EngineError::NothingPending { chunk: ChunkId::new(id), committed });
        };
        if pending.version.ver != ver {
            chunk.pending = Some((pending, content));
            return Err(EngineError::PendingMismatch {
                chunk: ChunkId::new(id),
                pending: pending.version.ver,
                asked: ver,
            });
        }
        if pending.removes {
            chunks.remove(id);
            return Ok(None);
        }
        let version = VersionMeta { chain_ver, ..pending.version };
        chunk.committed = Some((version, content));
        Ok(Some(version))
    }

    /// Forgets the pending version; a chunk that had no other is gone.
    pub async fn discard_pending(self: &Arc<Self>, id: &[u8]) -> Result<()> {
        let mut chunks = self.chunks.lock();
        let chunk = chunks.get_mut(id).ok_or_else(|| EngineError::NotFound(ChunkId::new(id)))?;
        let committed = chunk.committed.as_ref().map(|(v, _)| v.ver);
        if chunk.pending.take().is_none() {
            return Err(EngineError::NothingPending {
                chunk: ChunkId::new(id),
                committed: committed.unwrap_or(0),
            });
        }
        if committed.is_none() {
            chunks.remove(id);
        }
        Ok(())
    }

    /// Space used and left.
    pub async fn space(&self) -> Result<SpaceInfo> {
        let space = self.disk.space(&self.dir).await;
        let space = space.map_err(|e| EngineError::Io {
            op: "statfs",
            file: self.dir.clone(),
            source: Arc::new(e),
        })?;
        let chunks = self.chunks.lock();
        let bytes = |c: &Chunk| {
            c.committed.as_ref().map_or(0, |(_, b)| b.len()) + c.pending.as_ref().map_or(0, |(_, b)| b.len())
        };
        let used = chunks.values().map(|c| bytes(c) as u64).sum();
        Ok(SpaceInfo {
            capacity: space.capacity,
            available: space.available,
            used,
            chunks: chunks.len() as u64,
        })
    }

    /// Reads all of a chunk's versions from disk and verifies every checksum.
    pub async fn scrub(&self, id: &[u8]) -> Result<()> {
        self.read(id, 0, u32::MAX, true).await.map(|_| ())
    }

    /// Background work, for as long as the engine lives: folds patches, writes checkpoints, gives freed space back, finishes
    /// updates whose caller went away. Spawn it once.
    pub async fn maintain(self: Arc<Self>) {
        std::future::pending().await
    }

    /// Ends background work, finishes what is under way and syncs everything; later updates fail.
    pub async fn close(&self) -> Result<()> {
        Ok(())
    }
}

fn meta(id: &[u8], chunk: &Chunk) -> ChunkMeta {
    ChunkMeta {
        id: ChunkId::new(id),
        chunk_size: chunk.chunk_size,
        committed: chunk.committed.as_ref().map(|(v, _)| *v),
        pending: chunk.pending.as_ref().map(|(p, _)| *p),
    }
}

fn check(id: &[u8], old: &Chunk, update: &Update) -> Result<()> {
    let chunk = ChunkId::new(id);
    if old.chunk_size != update.chunk_size {
        return Err(EngineError::ChunkSizeMismatch {
            chunk,
            actual: old.chunk_size,
            asked: update.chunk_size,
        });
    }
    if matches!(update.kind, UpdateKind::Replace { .. }) {
        return Ok(());
    }
    match (&old.pending, &old.committed) {
        (Some((p, _)), _) if p.version.ver != update.ver => {
            Err(EngineError::PendingExists { chunk, pending: p.version.ver })
        }
        (_, Some((v, _))) if v.ver >= update.ver => {
            Err(EngineError::StaleVersion { chunk, committed: v.ver, asked: update.ver })
        }
        _ => Ok(()),
    }
}

fn apply(before: Bytes, update: &Update) -> Result<Bytes> {
    let joined = |data: &[Bytes], checksum: Option<u32>| {
        let data = data.concat();
        let actual = !crc32c::crc32c(&data);
        match checksum {
            Some(expected) if expected != actual => Err(EngineError::ChecksumMismatch { expected, actual }),
            _ => Ok(data),
        }
    };
    let mut content = BytesMut::from(&before[..]);
    match &update.kind {
        UpdateKind::Write { offset, data, checksum } => {
            let data = joined(data, *checksum)?;
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            if end > update.chunk_size as usize {
                return Err(EngineError::InvalidArg("write beyond the chunk's size"));
            }
            content.resize(content.len().max(end), 0);
            content[start..end].copy_from_slice(&data);
        }
        UpdateKind::Truncate { len } | UpdateKind::Extend { len } if *len > update.chunk_size => {
            return Err(EngineError::InvalidArg("length beyond the chunk's size"));
        }
        UpdateKind::Truncate { len } => content.resize(*len as usize, 0),
        UpdateKind::Extend { len } => content.resize(content.len().max(*len as usize), 0),
        UpdateKind::Remove => {}
        UpdateKind::Replace { data, checksum } => {
            let data = joined(data, *checksum)?;
            if data.len() > update.chunk_size as usize {
                return Err(EngineError::InvalidArg("content beyond the chunk's size"));
            }
            return Ok(data.into());
        }
    }
    Ok(content.freeze())
}
