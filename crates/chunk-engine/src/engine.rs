//! The engine: chunks of one storage target.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::ChunkId;
use crate::drive::Orphans;
use crate::error::{EngineError, Result, io_error};
use crate::files::DataFiles;
use crate::geometry::blocks;
use crate::log::{Log, Place};
use crate::maintain::Checkpoints;
use crate::options::Options;
use crate::place::SpaceLeft;
use crate::read::{Reader, View};
use crate::record::Body;
use crate::signal::Signal;
use crate::state::State;
use crate::tables::Tables;
use crate::update::ChunkMeta;

/// Bytes used and free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceInfo {
    /// Size of the file system.
    pub capacity: u64,
    /// Bytes the file system has available, plus what the engine can reuse.
    pub available: u64,
    /// Bytes of freed slots which will be used again or given back, at most.
    pub reusable: u64,
    /// Bytes of committed and pending chunk content.
    pub used: u64,
    /// Number of chunks.
    pub chunks: u64,
}

/// Chunks of one storage target. Cheap to share; calls may come from several threads. At most one update (prepare,
/// commit, discard) of a chunk may be under way at a time; a second gets [`EngineError::Busy`].
pub struct Engine {
    pub(crate) place: Place,
    pub(crate) options: Options,
    pub(crate) state: Mutex<State>,
    pub(crate) log: Log,
    pub(crate) files: DataFiles,
    pub(crate) tables: Tables,
    pub(crate) orphans: Orphans,
    pub(crate) checkpoints: Mutex<Checkpoints>,
    /// Told when a checkpoint was written.
    pub(crate) checkpointed: Signal,
    pub(crate) space_left: Mutex<SpaceLeft>,
    /// Told when there may be background work.
    pub(crate) work: Arc<Signal>,
    /// Machine's boot and count of the present open.
    pub(crate) boot_id: [u8; 16],
    pub(crate) opens: u32,
    /// Uses of slots since then.
    pub(crate) uses: AtomicU32,
}

impl Engine {
    /// The chunk's versions.
    pub fn get_meta(&self, id: &[u8]) -> Option<ChunkMeta> {
        let state = self.state.lock();
        state.chunks.get_key_value(id).map(|(id, entry)| entry.meta(id))
    }

    /// Up to `limit` chunks with `begin <= id < end`, largest id first, and whether there are more. Includes chunks
    /// which have only a pending version and chunks with a pending removal.
    pub fn query_descending(&self, begin: &[u8], end: &[u8], limit: usize) -> (Vec<ChunkMeta>, bool) {
        if begin >= end {
            return (Vec::new(), false);
        }
        let state = self.state.lock();
        let mut range = state.chunks.range::<[u8], _>((Bound::Included(begin), Bound::Excluded(end))).rev();
        let page = range.by_ref().take(limit).map(|(id, entry)| entry.meta(id)).collect();
        (page, range.next().is_some())
    }

    /// Up to `limit` chunks with an id above `after` (from the first with `None`), smallest first.
    pub fn page_ascending(&self, after: Option<&[u8]>, limit: usize) -> Vec<ChunkMeta> {
        let state = self.state.lock();
        let low = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = state.chunks.range::<[u8], _>((low, Bound::Unbounded));
        range.take(limit).map(|(id, entry)| entry.meta(id)).collect()
    }

    /// All chunks, smallest id first. Updates may happen in between: the metadata are taken in pages.
    pub fn all_metas(&self) -> Vec<ChunkMeta> {
        const PAGE: usize = 1024;
        let mut all: Vec<ChunkMeta> = Vec::new();
        loop {
            let page = self.page_ascending(all.last().map(|meta| meta.id.as_bytes()), PAGE);
            let complete = page.len() < PAGE;
            all.extend(page);
            if complete {
                return all;
            }
        }
    }

    /// Chunks which have a pending version, smallest id first.
    pub fn pending(&self) -> Vec<ChunkMeta> {
        self.all_metas().into_iter().filter(|meta| meta.pending.is_some()).collect()
    }

    /// Space used and left.
    ///
    /// # Errors
    /// `Io`.
    pub async fn space(&self) -> Result<SpaceInfo> {
        let dir = &self.place.dir;
        let space = self.place.disk.space(dir).await.map_err(|e| io_error("statfs", dir, e))?;
        let state = self.state.lock();
        Ok(SpaceInfo {
            capacity: space.capacity,
            available: space.available + state.slots.reusable(),
            reusable: state.slots.reusable(),
            used: state.content_bytes,
            chunks: state.chunks.len() as u64,
        })
    }

    /// Reads all of a chunk's versions from disk, past cached checksums, and verifies them.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Io`.
    pub async fn scrub(&self, id: &[u8]) -> Result<()> {
        let (views, _reader) = {
            let mut state = self.state.lock();
            let entry = state.chunks.get(id).ok_or_else(|| EngineError::NotFound(ChunkId::new(id)))?;
            let mut views: Vec<View> = View::of(entry, false, 0..usize::MAX).into_iter().collect();
            if entry.pending().is_some_and(|pending| pending.body != Body::Remove) {
                views.extend(View::of(entry, true, 0..usize::MAX));
            }
            (views, Reader::new(self, state.readers.enter()))
        };
        for view in views {
            self.scrub_view(id, &view).await?;
        }
        Ok(())
    }

    async fn scrub_view(&self, id: &[u8], view: &View) -> Result<()> {
        let len = view.content.len as usize;
        self.tables.forget(view.at, crate::tables::pages(0, blocks(len)));
        if len == 0 {
            return Ok(());
        }
        let (_, crc) = self.read_range(id, view, 0..len).await?;
        if crc == view.content.crc {
            Ok(())
        } else {
            Err(self.corrupt_slot(view, id, "checksum of the whole chunk"))
        }
    }

    /// A number that sets one use of a slot apart from others.
    pub(crate) fn next_salt(&self) -> u32 {
        let uses = self.uses.fetch_add(1, Ordering::Relaxed);
        let mut x = (u64::from(self.opens) << 32 | u64::from(uses)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        // A mixing function of which no two inputs give the same 64 bits.
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) as u32
    }

    /// Statistics for tests and benchmarks.
    #[doc(hidden)]
    pub fn internals(&self) -> HashMap<&'static str, u64> {
        let state = self.state.lock();
        HashMap::from([
            ("patched", state.chunks.values().filter(|entry| !entry.patches().is_empty()).count() as u64),
            ("busy", state.busy.len() as u64),
            (
                "entry_bytes",
                (std::mem::size_of::<crate::state::Entry>() + std::mem::size_of::<ChunkId>()) as u64,
            ),
        ])
    }
}
