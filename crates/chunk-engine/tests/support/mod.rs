//! What the tests share: a reference model of the engine, and random updates.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use valor_chunk_engine::{
    ChunkMeta, Engine, EngineError, Options, PendingMeta, Result, SyncMode, Tag, Update, UpdateKind,
    VersionMeta,
};
use valor_env::disk::Disk;

pub const DIR: &str = "/disk/target";

/// Small limits, so that everything happens often.
pub fn small(sync: SyncMode) -> Options {
    Options {
        sync,
        reserve_bytes: 0,
        log_segment_bytes: 128 << 10,
        checkpoint_log_bytes: 256 << 10,
        table_cache_bytes: 3000,
        reusable_bytes_max: 300 << 10,
        patches_per_chunk_max: 6,
        patched_chunks_max: 3,
        logged_append_max: 2000,
        ..Options::new(7)
    }
}

/// Checksum in 3FS's form.
pub fn checksum(data: &[u8]) -> u32 {
    !crc32c::crc32c(data)
}

/// Cuts data into pieces at random places.
pub fn pieces(rng: &mut StdRng, data: &[u8]) -> Vec<Bytes> {
    let mut rest = Bytes::copy_from_slice(data);
    let mut pieces = Vec::new();
    while !rest.is_empty() && rng.random_bool(0.4) {
        pieces.push(rest.split_to(rng.random_range(0..=rest.len())));
    }
    pieces.push(rest);
    pieces
}

/// Bytes that differ from others in every 512 of them. Cheaper than random ones.
pub fn noise(rng: &mut StdRng, len: usize) -> Vec<u8> {
    static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut pool = vec![0; 1 << 20];
        StdRng::seed_from_u64(0).fill_bytes(&mut pool);
        pool
    });
    let mut data = Vec::with_capacity(len);
    while data.len() < len {
        let start = rng.random_range(0..POOL.len() / 2);
        data.extend_from_slice(&POOL[start..POOL.len().min(start + len - data.len())]);
    }
    let stamp = rng.random::<u64>().to_le_bytes();
    for part in data.chunks_mut(512) {
        let len = part.len().min(8);
        part[..len].copy_from_slice(&stamp[..len]);
    }
    data
}

pub fn rng(seed: u64) -> StdRng {
    println!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

/// A version and its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    pub meta: VersionMeta,
    pub data: Bytes,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chunk {
    pub chunk_size: u32,
    pub committed: Option<Version>,
    /// With whether it removes the chunk.
    pub pending: Option<(Version, bool)>,
}

/// What an engine should contain.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    pub chunks: BTreeMap<Vec<u8>, Chunk>,
}

/// An update or the end of one.
#[derive(Debug, Clone)]
pub enum Step {
    Prepare(Vec<u8>, Update),
    Put(Vec<u8>, Update),
    Commit(Vec<u8>, u32, u32),
    Discard(Vec<u8>),
}

impl Step {
    pub fn id(&self) -> &[u8] {
        let (Step::Prepare(id, _) | Step::Put(id, _) | Step::Commit(id, _, _) | Step::Discard(id)) = self;
        id
    }
}

impl Model {
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::Prepare(id, update) => self.prepare(id, update),
            Step::Put(id, update) => {
                self.prepare(id, update);
                self.apply(&Step::Commit(id.clone(), update.ver, update.chain_ver));
            }
            Step::Commit(id, _, chain_ver) => {
                let chunk = self.chunks.get_mut(id).unwrap();
                let (mut version, removes) = chunk.pending.take().unwrap();
                version.meta.chain_ver = *chain_ver;
                if removes {
                    self.chunks.remove(id);
                } else {
                    chunk.committed = Some(version);
                }
            }
            Step::Discard(id) => {
                let chunk = self.chunks.get_mut(id).unwrap();
                chunk.pending = None;
                if chunk.committed.is_none() {
                    self.chunks.remove(id);
                }
            }
        }
    }

    fn prepare(&mut self, id: &[u8], update: &Update) {
        let chunk = self.chunks.entry(id.to_vec()).or_default();
        chunk.chunk_size = update.chunk_size;
        let mut data = chunk.committed.as_ref().map(|v| v.data.to_vec()).unwrap_or_default();
        let mut removes = false;
        match &update.kind {
            UpdateKind::Write { offset, data: new, .. } => {
                let new = new.concat();
                let end = *offset as usize + new.len();
                data.resize(data.len().max(end), 0);
                data[*offset as usize..end].copy_from_slice(&new);
            }
            UpdateKind::Truncate { len } => data.resize(*len as usize, 0),
            UpdateKind::Extend { len } => data.resize(data.len().max(*len as usize), 0),
            UpdateKind::Remove => removes = true,
            UpdateKind::Replace { data: new, .. } => data = new.concat(),
        }
        let meta = VersionMeta {
            ver: update.ver,
            chain_ver: update.chain_ver,
            length: data.len() as u32,
            checksum: checksum(&data),
            tag: update.tag,
        };
        chunk.pending = Some((Version { meta, data: data.into() }, removes));
    }

    pub fn metas(&self) -> Vec<ChunkMeta> {
        let meta = |(id, chunk): (&Vec<u8>, &Chunk)| ChunkMeta {
            id: id[..].into(),
            chunk_size: chunk.chunk_size,
            committed: chunk.committed.as_ref().map(|v| v.meta),
            pending: chunk
                .pending
                .as_ref()
                .map(|(v, removes)| PendingMeta { version: v.meta, removes: *removes }),
        };
        self.chunks.iter().map(meta).collect()
    }

    /// Compares everything.
    pub async fn check(&self, engine: &Engine) {
        assert_eq!(engine.all_metas(), self.metas());
        for (id, chunk) in &self.chunks {
            if let Some(version) = &chunk.committed {
                check_read(engine, id, 0, u32::MAX, false, version).await;
            } else {
                assert!(matches!(engine.read(id, 0, 1, false).await, Err(EngineError::NotFound(_))));
            }
            if let Some((version, false)) = &chunk.pending {
                check_read(engine, id, 0, u32::MAX, true, version).await;
            }
            engine.scrub(id).await.unwrap();
        }
    }

    /// A random update that is allowed.
    pub fn random_step(&self, rng: &mut StdRng, sizes: &[u32]) -> Step {
        let id = rng.random_range(0..8u8);
        self.random_step_of(id, rng, sizes)
    }

    /// A random update of one of the chunks.
    pub fn random_step_of(&self, id: u8, rng: &mut StdRng, sizes: &[u32]) -> Step {
        let id = vec![b'c', id];
        // An id always has the same chunk size.
        let chunk_size = sizes[usize::from(id[1]) % sizes.len()];
        let chunk = self.chunks.get(&id).cloned().unwrap_or_default();
        if let Some((version, _)) = &chunk.pending {
            match rng.random_range(0..10) {
                0..7 => return Step::Commit(id, version.meta.ver, rng.random_range(1..9)),
                7 => return Step::Discard(id),
                _ => {}
            }
        }
        let committed = chunk.committed.as_ref().map_or(0, |v| v.meta.ver);
        let ver = chunk.pending.as_ref().map_or(committed + 1, |(v, _)| v.meta.ver);
        let old = chunk.committed.as_ref().map_or(0, |v| v.data.len());
        let kind = random_kind(rng, chunk_size as usize, old, self.chunks.contains_key(&id));
        if ver <= committed && !matches!(kind, UpdateKind::Replace { .. }) {
            return Step::Discard(id);
        }
        let ver = if matches!(kind, UpdateKind::Replace { .. }) { rng.random_range(1..20) } else { ver };
        let tag = Tag {
            request_id: rng.random(),
            client: rng.random(),
            node_id: rng.random(),
            timestamp_us: rng.random(),
        };
        let update = Update { kind, ver, chain_ver: rng.random_range(1..9), chunk_size, tag };
        if rng.random_range(0..3) == 0 { Step::Put(id, update) } else { Step::Prepare(id, update) }
    }
}

fn random_kind(rng: &mut StdRng, size: usize, old: usize, exists: bool) -> UpdateKind {
    let any_len = |rng: &mut StdRng| match rng.random_range(0..4) {
        0 => rng.random_range(0..=size),
        1 => rng.random_range(0..=size / 4096) * 4096,
        2 => rng.random_range(0..=old),
        _ => (old + rng.random_range(0..5000)).min(size),
    } as u32;
    let (offset, len) = match rng.random_range(0..24) {
        // A block.
        0..6 => (rng.random_range(0..size / 4096) * 4096, 4096),
        // A few bytes anywhere.
        6..9 => {
            let offset = rng.random_range(0..size);
            (offset, rng.random_range(0..=(size - offset).min(100)))
        }
        // Anything.
        9..12 => {
            let offset = rng.random_range(0..size);
            (offset, rng.random_range(0..=size - offset))
        }
        // At the end.
        12..16 => (old, rng.random_range(0..=(size - old).min(9000))),
        // From the start.
        16 | 17 => (0, rng.random_range(0..=size)),
        18 => return UpdateKind::Truncate { len: any_len(rng) },
        19 => return UpdateKind::Extend { len: any_len(rng) },
        20 if exists => return UpdateKind::Remove,
        21 => {
            let len = rng.random_range(0..=size);
            let data = noise(rng, len);
            return UpdateKind::Replace { checksum: Some(checksum(&data)), data: pieces(rng, &data) };
        }
        // Inside.
        _ => {
            let offset = rng.random_range(0..=old.min(size - 1));
            (offset, rng.random_range(0..=(size - offset).min(8192)))
        }
    };
    let data = noise(rng, len);
    let checksum = rng.random_bool(0.7).then(|| checksum(&data));
    UpdateKind::Write { offset: offset as u32, checksum, data: pieces(rng, &data) }
}

/// Reads and compares a range.
pub async fn check_read(
    engine: &Engine,
    id: &[u8],
    offset: u32,
    len: u32,
    uncommitted: bool,
    version: &Version,
) {
    let read = engine.read(id, offset, len, uncommitted).await.unwrap();
    let start = version.data.len().min(offset as usize);
    let end = version.data.len().min(start + len as usize);
    assert!(read.data == version.data[start..end], "bytes {start}..{end} of {}", version.data.len());
    assert_eq!(read.checksum, checksum(&version.data[start..end]));
    assert_eq!(read.version, version.meta);
}

/// Performs a step on the engine.
pub async fn perform(engine: &Arc<Engine>, step: &Step) -> Result<()> {
    match step.clone() {
        Step::Prepare(id, update) => engine.prepare(&id, update).await.map(|_| ()),
        Step::Put(id, update) => engine.put(&id, update).await.map(|_| ()),
        Step::Commit(id, ver, chain_ver) => engine.commit(&id, ver, chain_ver).await.map(|_| ()),
        Step::Discard(id) => engine.discard_pending(&id).await,
    }
}

pub fn dir() -> PathBuf {
    Path::new(DIR).to_path_buf()
}

pub async fn open(disk: Arc<dyn Disk>, options: Options) -> Result<Arc<Engine>> {
    Engine::open(disk, Path::new(DIR), options).await
}

pub async fn create(disk: Arc<dyn Disk>, options: Options) -> Result<Arc<Engine>> {
    Engine::create(disk, Path::new(DIR), options).await
}

pub fn write(offset: u32, data: impl Into<Bytes>, ver: u32, chunk_size: u32) -> Update {
    let kind = UpdateKind::Write { offset, data: vec![data.into()], checksum: None };
    Update { kind, ver, chain_ver: 1, chunk_size, tag: Tag::default() }
}
