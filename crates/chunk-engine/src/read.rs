//! Reading versions of chunks, every block verified.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use valor_env::buffer::{Pool, PooledBuf};
use valor_env::disk::IoFuture;
use valor_env::mutation::{Mutation, broken};

use crate::ChunkId;
use crate::crc;
use crate::engine::Engine;
use crate::error::{EngineError, Result, io_error};
use crate::files::{DataFile, Reading};
use crate::geometry::{BLOCK, ENTRIES_PER_PAGE, blocks};
use crate::patch::{Patch, Source};
use crate::record::{Body, Content};
use crate::state::Entry;
use crate::tables::{self, Page, Use};
use crate::update::{ReadOutput, VersionMeta};

/// Tries before bytes that do not have their checksum are reported: what is read may be replaced meanwhile, and cached
/// checksums may be old.
const TRIES: usize = 3;

/// Where a version's bytes are.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) at: Use,
    pub(crate) content: Content,
    pub(crate) patches: Vec<Patch>,
}

/// Keeps what a view refers to from being reused.
pub(crate) struct Reader<'a> {
    engine: &'a Engine,
    began: u64,
}

impl<'a> Reader<'a> {
    /// To be called with the state's `enter` just done.
    pub(crate) fn new(engine: &'a Engine, began: u64) -> Self {
        Reader { engine, began }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.engine.state.lock().leave(self.began);
    }
}

impl View {
    /// The committed version, or the pending one if wanted and there is one with content. Only patches that touch the
    /// given blocks are taken along.
    pub(crate) fn of(entry: &Entry, pending: bool, range: Range<usize>) -> Option<View> {
        let touching = |patches: &[Patch]| -> Vec<Patch> {
            let hit = |patch: &&Patch| patch.first() < range.end && range.start < patch.end();
            patches.iter().filter(hit).cloned().collect()
        };
        let committed = (entry.ver != 0)
            .then(|| (Use { slot: entry.committed_slot(), salt: entry.salt }, touching(entry.patches())));
        match entry.pending().filter(|_| pending).map(|pending| (pending.content, &pending.body)) {
            Some((content, Body::Fresh { slot, salt, patches })) => {
                let at = Use { slot: *slot, salt: *salt };
                Some(View { at, content, patches: touching(patches) })
            }
            Some((content, Body::Same { patches: more, .. })) => {
                let (at, mut patches) = committed?;
                // Blocks beyond the end of a shortened version are not read.
                patches.extend(touching(more));
                Some(View { at, content, patches })
            }
            Some((_, Body::Remove)) | None => {
                let (at, patches) = committed?;
                Some(View { at, content: entry.content, patches })
            }
        }
    }

    /// Bytes of the version in a block.
    fn block_len(&self, block: usize) -> usize {
        (self.content.len as usize - block * BLOCK).min(BLOCK)
    }

    /// The patch that holds for a block.
    pub(crate) fn patch(&self, block: usize) -> Option<&Patch> {
        self.patches.iter().rev().find(|patch| patch.covers(block))
    }
}

/// Blocks of a version.
pub(crate) struct Span {
    /// Their bytes, up to the version's end.
    pub(crate) data: Bytes,
    /// Checksum of each block's bytes.
    pub(crate) crcs: Vec<u32>,
}

impl Engine {
    /// Reads up to `len` bytes at `offset`: of the pending version if there is one and `allow_uncommitted`, else of
    /// the committed one. A pending removal is read as the committed version. Beyond the end there is nothing. Every
    /// block touched is verified against its checksum.
    ///
    /// # Errors
    /// `NotFound`, also for a chunk which has only a pending version that was not asked for; `Corrupt`; `Io`.
    pub async fn read(
        &self,
        id: &[u8],
        offset: u32,
        len: u32,
        allow_uncommitted: bool,
    ) -> Result<ReadOutput> {
        let mut tries = 1;
        loop {
            match self.try_read(id, offset, len, allow_uncommitted).await {
                Err(EngineError::Corrupt { .. }) if tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    async fn try_read(
        &self,
        id: &[u8],
        offset: u32,
        len: u32,
        allow_uncommitted: bool,
    ) -> Result<ReadOutput> {
        let (view, _reader, version, committed, has_pending) = {
            let mut state = self.state.lock();
            let entry = state.chunks.get(id).ok_or_else(|| EngineError::NotFound(ChunkId::new(id)))?;
            let range = offset as usize / BLOCK..blocks(offset.saturating_add(len) as usize);
            let view = View::of(entry, allow_uncommitted, range);
            let view = view.ok_or_else(|| EngineError::NotFound(ChunkId::new(id)))?;
            let meta = (read_version(entry, allow_uncommitted), entry.committed(), entry.pending().is_some());
            let reader = Reader::new(self, state.readers.enter());
            (view, reader, meta.0, meta.1, meta.2)
        };
        let total = view.content.len as usize;
        let start = total.min(offset as usize);
        let end = total.min(start + len as usize);
        let (data, crc) =
            if start == end { (Bytes::new(), 0) } else { self.read_range(id, &view, start..end).await? };
        if start == 0 && end == total && crc != view.content.crc && !broken(Mutation::SkipReadChecksum) {
            return Err(self.corrupt_slot(&view, id, "checksum of the whole chunk"));
        }
        Ok(ReadOutput { data, checksum: crc::wire_form(crc), version, committed, has_pending })
    }

    /// Bytes of a range within the version, not empty, and their checksum.
    pub(crate) async fn read_range(
        &self,
        id: &[u8],
        view: &View,
        range: Range<usize>,
    ) -> Result<(Bytes, u32)> {
        let first = range.start / BLOCK;
        let span = self.read_blocks(id, view, first..blocks(range.end)).await?;
        let base = first * BLOCK;
        let data = span.data.slice(range.start - base..range.end - base);
        let mut whole = 0;
        for (i, crc) in span.crcs.iter().enumerate() {
            let block = base + i * BLOCK..base + i * BLOCK + view.block_len(first + i);
            let part = block.start.max(range.start)..block.end.min(range.end);
            let crc = if part == block {
                *crc
            } else {
                crc32c::crc32c(&span.data[part.start - base..part.end - base])
            };
            whole = crc::combine(whole, crc, part.len());
        }
        Ok((data, whole))
    }

    /// Whole blocks of a version, within its end.
    pub(crate) async fn read_blocks(&self, id: &[u8], view: &View, range: Range<usize>) -> Result<Span> {
        let file = self.files.of(view.at.slot).await?;
        let base = Base::start(self, &file, view, &range);
        let logged = self.start_log_reads(view, &range)?;
        let base = base.finish(self, view.at).await?;
        let overlaid = view.patches.iter().any(|patch| !matches!(patch.source, Source::Base { .. }));
        if overlaid {
            return self.overlay(id, view, &file, range, base, logged).await;
        }
        let mut crcs = Vec::with_capacity(range.len());
        for block in range.clone() {
            let at = (block - range.start) * BLOCK;
            let bytes = &base.data[at..at + view.block_len(block)];
            crcs.push(self.verify(id, view, &file, block, bytes, &base.pages)?);
        }
        Ok(Span { data: base.data, crcs })
    }

    /// Puts blocks together from the slot, the log and nothing.
    async fn overlay(
        &self,
        id: &[u8],
        view: &View,
        file: &DataFile,
        range: Range<usize>,
        base: BaseRead,
        mut logged: Vec<LogRun>,
    ) -> Result<Span> {
        let start = range.start * BLOCK;
        let end = (range.end * BLOCK).min(view.content.len as usize);
        let mut out = match logged.pop_if(|run| run.blocks == range) {
            Some(run) => {
                let mut bytes = run.finish(id, view).await?;
                bytes.resize(end - start);
                bytes
            }
            None => Pool::global().take(end - start),
        };
        for block in base.blocks.clone() {
            let at = (block - base.blocks.start) * BLOCK;
            let target = (block - range.start) * BLOCK;
            let len = view.block_len(block);
            out[target..target + len].copy_from_slice(&base.data[at..at + len]);
        }
        for run in logged {
            let target = (run.blocks.start - range.start) * BLOCK;
            let bytes = run.finish(id, view).await?;
            let len = bytes.len().min(out.len() - target);
            out[target..target + len].copy_from_slice(&bytes[..len]);
        }
        let mut crcs = Vec::with_capacity(range.len());
        for block in range.clone() {
            let target = (block - range.start) * BLOCK;
            let bytes = &mut out[target..target + view.block_len(block)];
            crcs.push(match view.patch(block) {
                Some(Patch { source: Source::Zero { .. }, .. }) => {
                    bytes.fill(0);
                    crc::zeros(bytes.len())
                }
                Some(patch) if matches!(patch.source, Source::Log { .. }) => {
                    // Verified with its run; the version may end earlier.
                    let whole = patch.block_len(block) == bytes.len();
                    if whole { patch.block_crc(block) } else { crc32c::crc32c(bytes) }
                }
                _ => self.verify(id, view, file, block, bytes, &base.pages)?,
            });
        }
        Ok(Span { data: out.freeze(), crcs })
    }

    /// Checks a block read from the slot; returns its checksum.
    fn verify(
        &self,
        id: &[u8],
        view: &View,
        file: &DataFile,
        block: usize,
        bytes: &[u8],
        pages: &Pages,
    ) -> Result<u32> {
        let expected = match view.patch(block) {
            _ if bytes.len() < BLOCK => view.content.tail_crc,
            Some(patch) => patch.block_crc(block),
            None => pages.get(block),
        };
        let actual = crc32c::crc32c(bytes);
        if actual == expected {
            return Ok(actual);
        }
        self.tables.forget(view.at, tables::pages(block, block + 1));
        let offset = view.at.slot.content() + (block * BLOCK) as u64;
        let (file, chunk) = (file.path.clone(), Some(ChunkId::new(id)));
        if broken(Mutation::SkipReadChecksum) {
            return Ok(actual);
        }
        Err(EngineError::Corrupt { file, offset, chunk, what: "checksum of a block" })
    }

    pub(crate) fn corrupt_slot(&self, view: &View, id: &[u8], what: &'static str) -> EngineError {
        let slot = view.at.slot;
        let pages = tables::pages(0, blocks(view.content.len as usize));
        self.tables.forget(view.at, pages);
        let file = crate::files::path(&self.place.dir, slot.class, slot.file());
        EngineError::Corrupt { file, offset: slot.start(), chunk: Some(ChunkId::new(id)), what }
    }

    /// Starts reading what patches have in the log.
    fn start_log_reads(&self, view: &View, range: &Range<usize>) -> Result<Vec<LogRun>> {
        let mut runs = Vec::new();
        let mut block = range.start;
        while block < range.end && !view.patches.is_empty() {
            let Some(patch) = view.patch(block) else {
                block += 1;
                continue;
            };
            let same = |other: &Patch| std::ptr::eq(other, patch);
            let end = (block..range.end).find(|b| !view.patch(*b).is_some_and(same)).unwrap_or(range.end);
            if let Source::Log { offset, len, .. } = patch.source {
                let skip = (block - patch.first()) * BLOCK;
                let wanted = ((end - block) * BLOCK).min(len as usize - skip);
                runs.push(self.start_log_read(patch, block..end, u64::from(offset) + skip as u64, wanted)?);
            }
            block = end;
        }
        Ok(runs)
    }

    fn start_log_read(&self, patch: &Patch, blocks: Range<usize>, offset: u64, len: usize) -> Result<LogRun> {
        let number = patch.lsn.segment();
        let segment = self.log.segment(number).ok_or_else(|| {
            EngineError::corrupt(
                &crate::log::segment_path(&self.place.dir, number),
                offset,
                "missing log segment",
            )
        })?;
        let read = segment.file.read_at(offset, len);
        Ok(LogRun { patch: patch.clone(), blocks, offset, len, path: segment.path, read })
    }

    /// Checksums of whole blocks of a version, from patches and tables; of its last block over the bytes it has.
    pub(crate) async fn block_crcs(&self, view: &View, range: Range<usize>) -> Result<Vec<u32>> {
        let mut crcs = Vec::with_capacity(range.len());
        let mut page: Option<(usize, Page)> = None;
        for block in range {
            let crc = match view.patch(block) {
                _ if view.block_len(block) < BLOCK => view.content.tail_crc,
                Some(patch) => patch.block_crc(block),
                None => {
                    let number = block / ENTRIES_PER_PAGE;
                    let entries = match page.take().filter(|(loaded, _)| *loaded == number) {
                        Some((_, entries)) => entries,
                        None => {
                            let file = self.files.of(view.at.slot).await?;
                            self.tables.load(&file, view.at, number).await?
                        }
                    };
                    let crc = entry(&entries, block);
                    page = Some((number, entries));
                    crc
                }
            };
            crcs.push(crc);
        }
        Ok(crcs)
    }
}

/// The version a read is of.
fn read_version(entry: &Entry, allow_uncommitted: bool) -> VersionMeta {
    let pending = entry.pending().filter(|pending| allow_uncommitted && pending.body != Body::Remove);
    match pending {
        Some(pending) => crate::state::pending_meta(pending).version,
        None => entry.committed().unwrap_or_default(),
    }
}

fn entry(page: &Page, block: usize) -> u32 {
    // A page always has as many entries as its slot has blocks; a shorter one could only be wrong.
    page.get(block % ENTRIES_PER_PAGE).copied().unwrap_or_default()
}

/// Table pages of a read.
#[derive(Default)]
struct Pages {
    first: usize,
    pages: Vec<Page>,
}

impl Pages {
    fn get(&self, block: usize) -> u32 {
        self.pages
            .get((block / ENTRIES_PER_PAGE).wrapping_sub(self.first))
            .map_or(0, |page| entry(page, block))
    }
}

/// A read from a slot under way.
struct Base<'a> {
    blocks: Range<usize>,
    data: Option<Reading<'a>>,
    /// Table pages that come before the data in the same read.
    joined: Range<usize>,
    pages: Vec<(usize, Option<Page>, Option<Reading<'a>>)>,
}

struct BaseRead {
    blocks: Range<usize>,
    data: Bytes,
    pages: Pages,
}

impl<'a> Base<'a> {
    /// Starts reading the blocks whose bytes are in the slot, and what is needed of its table.
    fn start(engine: &Engine, file: &'a Arc<DataFile>, view: &View, range: &Range<usize>) -> Base<'a> {
        let (mut wanted, mut listed) = (range.clone(), range.clone());
        if !view.patches.is_empty() {
            let in_slot = |block: &usize| {
                !view
                    .patch(*block)
                    .is_some_and(|p| matches!(p.source, Source::Zero { .. } | Source::Log { .. }))
            };
            wanted = hull(range.clone().filter(in_slot));
            listed = hull(range.clone().filter(|block| view.patch(*block).is_none()));
        }
        if !(view.content.len as usize).is_multiple_of(BLOCK)
            && listed.end == blocks(view.content.len as usize)
        {
            // The last block's checksum is with the version.
            listed.end -= usize::from(listed.end > listed.start);
        }
        let numbers = if listed.is_empty() { 0..0 } else { tables::pages(listed.start, listed.end) };
        let mut pages: Vec<_> =
            numbers.clone().map(|number| (number, engine.tables.get(view.at, number), None)).collect();
        let mut joined = 0..0;
        if wanted.start == 0 && numbers.start == 0 && pages.iter().any(|(_, page, _)| page.is_none()) {
            joined = numbers;
        } else {
            for (number, page, reading) in &mut pages {
                if page.is_none() {
                    *reading = Some(file.read(view.at.slot.table_page(*number), BLOCK));
                }
            }
        }
        let data = (!wanted.is_empty()).then(|| {
            let end = (wanted.end * BLOCK).min(view.content.len as usize);
            let before = joined.len() * BLOCK;
            let offset = view.at.slot.content() + (wanted.start * BLOCK) as u64 - before as u64;
            file.read(offset, before + end - wanted.start * BLOCK)
        });
        Base { blocks: wanted, data, joined, pages }
    }

    async fn finish(self, engine: &Engine, at: Use) -> Result<BaseRead> {
        let mut found =
            Pages { first: self.pages.first().map_or(0, |(number, ..)| *number), pages: Vec::new() };
        let mut data = match self.data {
            Some(reading) => reading.finish().await?.freeze(),
            None => Bytes::new(),
        };
        let tables = data.split_to(self.joined.len() * BLOCK);
        for (number, cached, reading) in self.pages {
            let page = match (cached, reading) {
                _ if self.joined.contains(&number) => {
                    let start = tables.len() - (number + 1) * BLOCK;
                    tables::decode(&tables[start..start + BLOCK], at)
                }
                (_, Some(reading)) => tables::decode(&reading.finish().await?, at),
                (Some(page), None) => {
                    found.pages.push(page);
                    continue;
                }
                (None, None) => continue,
            };
            engine.tables.insert(at, number, Arc::clone(&page));
            found.pages.push(page);
        }
        Ok(BaseRead { blocks: self.blocks, data, pages: found })
    }
}

/// The smallest range that contains all.
fn hull(blocks: impl Iterator<Item = usize>) -> Range<usize> {
    let mut hull = 0..0;
    for block in blocks {
        if hull.is_empty() {
            hull = block..block + 1;
        }
        hull.end = block + 1;
    }
    hull
}

/// A read of a patch's blocks under way.
struct LogRun {
    patch: Patch,
    blocks: Range<usize>,
    offset: u64,
    len: usize,
    path: Arc<Path>,
    read: IoFuture<PooledBuf>,
}

impl LogRun {
    /// The blocks' bytes, verified.
    async fn finish(self, id: &[u8], view: &View) -> Result<PooledBuf> {
        let bytes = self.read.await.map_err(|e| io_error("read", &self.path, e))?;
        let corrupt = |offset: u64, what| EngineError::Corrupt {
            file: self.path.to_path_buf(),
            offset,
            chunk: Some(ChunkId::new(id)),
            what,
        };
        if bytes.len() < self.len {
            return Err(corrupt(self.offset, "log segment cut short"));
        }
        for (i, block) in self.blocks.clone().enumerate() {
            let (at, len) = (i * BLOCK, self.patch.block_len(block));
            if len < view.block_len(block) {
                return Err(corrupt(self.offset + at as u64, "patch shorter than its block"));
            }
            if crc32c::crc32c(&bytes[at..at + len]) != self.patch.block_crc(block) {
                return Err(corrupt(self.offset + at as u64, "checksum of a block in the log"));
            }
        }
        Ok(bytes)
    }
}
