//! Updates: a new version is put on disk beside the committed one, and committed or discarded.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use crate::ChunkId;
use crate::crc;
use crate::drive::Driven;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::geometry::{BLOCK, blocks, class_of};
use crate::id::MAX_ID_LEN;
use crate::log::Lsn;
use crate::options::SyncMode;
use crate::patch::{Crcs, Patch, Source};
use crate::place::{Blocks, padding, zeros};
use crate::read::{Reader, View};
use crate::record::{Body, Content, Pending, Record};
use crate::state::{Entry, pending_meta};
use crate::tables::Use;
use crate::update::{MAX_CHUNK_SIZE, PendingMeta, Update, UpdateKind, VersionMeta};

/// Patches of a chunk at which an update folds them first: the background does not keep up.
const CROWDED: usize = 1024;

/// [`Record::prepare`] or [`Record::put`].
type RecordKind = fn(ChunkId, u32, Pending) -> Record;

/// What an update starts from.
struct Before<'a> {
    /// The committed version, if there is one.
    view: Option<View>,
    /// Whether bytes may be written into the slot beyond the committed end.
    in_place: bool,
    _reader: Reader<'a>,
}

/// Marks a chunk as being updated. The mark is taken away by [`Busy::finish`] only: of an update that was dropped
/// half-way it is not known what the kernel still writes.
struct Busy<'a> {
    engine: &'a Engine,
    id: ChunkId,
}

impl Busy<'_> {
    fn finish(self) {
        self.engine.state.lock().busy.remove(&self.id);
    }
}

/// A version to be recorded.
struct Planned {
    content: Content,
    body: Body,
    /// Bytes for the log.
    data: Vec<Bytes>,
}

impl Planned {
    fn same(content: Content) -> Self {
        Planned { content, body: Body::Same { patches: Vec::new(), in_place: false }, data: Vec::new() }
    }
}

impl Engine {
    /// Puts a version on disk beside the committed one. Its `ver` must be above the committed version (any with
    /// [`UpdateKind::Replace`]); a pending version is replaced if it has the same number (or by `Replace`). The
    /// committed version stays as it is and readable.
    ///
    /// An update whose future is dropped goes on in [`Engine::maintain`]; until its end the chunk is busy.
    ///
    /// # Errors
    /// `InvalidArg`, `ChunkSizeMismatch`, `PendingExists`, `StaleVersion`, `Busy`, `NotFound` (removing nothing),
    /// `ChecksumMismatch`, `NoSpace`, `Corrupt` (of old bytes the update had to read), `Io`, `ReadOnly`, `Closed`.
    pub fn prepare(
        self: &Arc<Self>,
        id: &[u8],
        update: Update,
    ) -> impl Future<Output = Result<PendingMeta>> + Send + use<> {
        let (engine, id) = (Arc::clone(self), id.to_vec());
        Driven::new(self, async move { engine.prepare_inner(&id, update, Record::prepare).await })
    }

    /// Like [`Engine::prepare`] and [`Engine::commit`] under the update's chain version in one: one record in the log
    /// instead of two. For a replica that nobody comes after, whose version is committed as soon as it is on disk.
    ///
    /// # Errors
    /// As [`Engine::prepare`].
    pub fn put(
        self: &Arc<Self>,
        id: &[u8],
        update: Update,
    ) -> impl Future<Output = Result<PendingMeta>> + Send + use<> {
        let (engine, id) = (Arc::clone(self), id.to_vec());
        Driven::new(self, async move { engine.prepare_inner(&id, update, Record::put).await })
    }

    /// Makes pending version `ver` the committed one, under `chain_ver`. `None`: the chunk is removed.
    ///
    /// # Errors
    /// `NotFound`, `NothingPending`, `PendingMismatch`, `Busy`, `Io`, `ReadOnly`, `Closed`.
    pub fn commit(
        self: &Arc<Self>,
        id: &[u8],
        ver: u32,
        chain_ver: u32,
    ) -> impl Future<Output = Result<Option<VersionMeta>>> + Send + use<> {
        let (engine, id) = (Arc::clone(self), ChunkId::new(id));
        Driven::new(self, async move {
            let (pending, busy) = engine.begin_end(&id, Some(ver))?;
            let record = Record::Commit { id, ver, chain_ver };
            let appended = engine.log.append(&engine.state, record, Vec::new()).await;
            busy.finish();
            appended?;
            Ok((!pending.removes).then_some(VersionMeta { chain_ver, ..pending.version }))
        })
    }

    /// Forgets the pending version; a chunk that had no other is gone.
    ///
    /// # Errors
    /// `NotFound`, `NothingPending`, `Busy`, `Io`, `ReadOnly`, `Closed`.
    pub fn discard_pending(self: &Arc<Self>, id: &[u8]) -> impl Future<Output = Result<()>> + Send + use<> {
        let (engine, id) = (Arc::clone(self), ChunkId::new(id));
        Driven::new(self, async move {
            let (pending, busy) = engine.begin_end(&id, None)?;
            let record = Record::Discard { id, ver: pending.version.ver };
            let appended = engine.log.append(&engine.state, record, Vec::new()).await;
            busy.finish();
            appended
        })
    }

    /// Marks a chunk busy to end the life of its pending version, which must be `ver` if that is given.
    fn begin_end(&self, id: &ChunkId, ver: Option<u32>) -> Result<(PendingMeta, Busy<'_>)> {
        let mut state = self.state.lock();
        let entry = state.chunks.get(id).ok_or_else(|| EngineError::NotFound(id.clone()))?;
        let Some(pending) = entry.pending().map(pending_meta) else {
            return Err(EngineError::NothingPending { chunk: id.clone(), committed: entry.ver });
        };
        if let Some(asked) = ver.filter(|ver| *ver != pending.version.ver) {
            let pending = pending.version.ver;
            return Err(EngineError::PendingMismatch { chunk: id.clone(), pending, asked });
        }
        if !state.busy.insert(id.clone()) {
            return Err(EngineError::Busy(id.clone()));
        }
        Ok((pending, Busy { engine: self, id: id.clone() }))
    }

    async fn prepare_inner(&self, id: &[u8], update: Update, kind: RecordKind) -> Result<PendingMeta> {
        check_arguments(id, &update)?;
        if self.state.lock().chunks.get(id).is_some_and(|entry| entry.patches().len() >= CROWDED) {
            self.fold(vec![ChunkId::new(id)]).await?;
        }
        let (before, busy) = self.begin(id, &update)?;
        let result = self.record(id, &before, update, kind).await;
        drop(before);
        busy.finish();
        result
    }

    async fn record(
        &self,
        id: &[u8],
        before: &Before<'_>,
        update: Update,
        kind_of_record: RecordKind,
    ) -> Result<PendingMeta> {
        let Update { kind, ver, chain_ver, chunk_size, tag } = update;
        let planned = self.plan(id, before, kind, chunk_size).await?;
        let fresh = match &planned.body {
            Body::Fresh { slot, salt, .. } => Some(Use { slot: *slot, salt: *salt }),
            _ => None,
        };
        let pending = Pending { ver, chain_ver, content: planned.content, tag, body: planned.body };
        let meta = pending_meta(&pending);
        let record = kind_of_record(ChunkId::new(id), chunk_size, pending);
        let appended = self.log.append(&self.state, record, planned.data).await;
        if let (Err(EngineError::NoSpace(_)), Some(at)) = (&appended, fresh) {
            self.abandon(at, meta.version.length);
        }
        appended.map(|()| meta)
    }

    /// Checks that the update may follow what there is, and marks the chunk busy.
    fn begin(&self, id: &[u8], update: &Update) -> Result<(Before<'_>, Busy<'_>)> {
        let mut state = self.state.lock();
        if state.busy.contains(id) {
            return Err(EngineError::Busy(ChunkId::new(id)));
        }
        if let Some(stopped) = self.log.stopped() {
            return Err(stopped);
        }
        let folding = state.folding.contains(id);
        let (view, in_place) = match state.chunks.get(id) {
            Some(entry) => {
                check_versions(id, entry, update)?;
                let used =
                    entry.pending().is_some_and(|p| matches!(p.body, Body::Same { in_place: true, .. }));
                (View::of(entry, false, 0..usize::MAX), !used && !folding)
            }
            None if matches!(update.kind, UpdateKind::Remove) => {
                return Err(EngineError::NotFound(ChunkId::new(id)));
            }
            None => (None, false),
        };
        let id = ChunkId::new(id);
        state.busy.insert(id.clone());
        let reader = Reader::new(self, state.readers.enter());
        drop(state);
        Ok((Before { view, in_place, _reader: reader }, Busy { engine: self, id }))
    }

    async fn plan(
        &self,
        id: &[u8],
        before: &Before<'_>,
        kind: UpdateKind,
        chunk_size: u32,
    ) -> Result<Planned> {
        let old = before.view.as_ref().map_or(0, |view| view.content.len as usize);
        match kind {
            UpdateKind::Remove => {
                let content = before.view.as_ref().map(|view| view.content).unwrap_or_default();
                Ok(Planned { content, body: Body::Remove, data: Vec::new() })
            }
            UpdateKind::Replace { data, checksum } => {
                let parts = checked(0, &data, checksum)?;
                self.plan_fresh(chunk_size, Blocks::new(0, data, parts, Bytes::new(), Bytes::new())).await
            }
            UpdateKind::Truncate { len } if (len as usize) < old => {
                let view = before.view.as_ref().ok_or(EngineError::InvalidArg("nothing to shorten"))?;
                self.plan_shorter(id, view, len as usize).await
            }
            UpdateKind::Truncate { len } | UpdateKind::Extend { len } => {
                self.plan_longer(id, before, len as usize, chunk_size).await
            }
            UpdateKind::Write { offset, data, checksum } => {
                let offset = offset as usize;
                let parts = checked(offset, &data, checksum)?;
                let len: usize = data.iter().map(Bytes::len).sum();
                if len == 0 {
                    return self.plan_longer(id, before, offset, chunk_size).await;
                }
                self.plan_write(id, before, offset, len, data, parts, chunk_size).await
            }
        }
    }

    /// A slot of its own with content from its start.
    async fn plan_fresh(&self, chunk_size: u32, blocks: Blocks) -> Result<Planned> {
        let content = Content { len: blocks.len as u32, crc: blocks.whole(), tail_crc: blocks.tail_crc() };
        let at = self.write_fresh(class_of(chunk_size), &blocks).await?;
        Ok(Planned {
            content,
            body: Body::Fresh { slot: at.slot, salt: at.salt, patches: Vec::new() },
            data: Vec::new(),
        })
    }

    #[allow(clippy::too_many_arguments)]
    async fn plan_write(
        &self,
        id: &[u8],
        before: &Before<'_>,
        offset: usize,
        len: usize,
        data: Vec<Bytes>,
        parts: crc::Parts,
        chunk_size: u32,
    ) -> Result<Planned> {
        let Some(view) = &before.view else {
            return self.plan_first(offset, data, parts, chunk_size).await;
        };
        let old = view.content.len as usize;
        if offset == 0 && len >= old {
            return self
                .plan_fresh(chunk_size, Blocks::new(0, data, parts, Bytes::new(), Bytes::new()))
                .await;
        }
        let tail_in_slot = old.is_multiple_of(BLOCK)
            || view.patch(old / BLOCK).is_none_or(|patch| matches!(patch.source, Source::Base { .. }));
        let through_log = self.options.sync == SyncMode::Always && len <= self.options.logged_append_max;
        if offset == old && before.in_place && tail_in_slot && !through_log {
            return self.plan_append(view, len, data, parts).await;
        }
        // An overwrite through the log is written twice, a fresh slot takes all of the content once.
        let new = old.max(offset + len);
        if len * 2 < new {
            let (head, tail) = self.edges(id, view, offset, offset + len).await?;
            let region = Blocks::new(offset, data, parts, head, tail);
            let mut overlay = Overlay::new(view.content);
            overlay.grow(self, id, view, region.start * BLOCK).await?;
            self.take_space(region.len as u64).await?;
            overlay.put(self, view, region).await?;
            return Ok(overlay.finish());
        }
        let mut whole = Vec::with_capacity(data.len() + 3);
        if offset > 0 {
            whole.push(self.read_range(id, view, 0..offset.min(old)).await?.0);
        }
        whole.extend(gap(old, offset));
        whole.extend(data);
        if offset + len < old {
            whole.push(self.read_range(id, view, offset + len..old).await?.0);
        }
        let parts = crc::parts(0, &whole);
        self.plan_fresh(chunk_size, Blocks::new(0, whole, parts, Bytes::new(), Bytes::new())).await
    }

    /// The first bytes of a chunk, perhaps not at its start.
    async fn plan_first(
        &self,
        offset: usize,
        data: Vec<Bytes>,
        parts: crc::Parts,
        chunk_size: u32,
    ) -> Result<Planned> {
        let head = zeros(offset % BLOCK);
        let blocks = Blocks::new(offset, data, parts, head, Bytes::new());
        let before = blocks.start * BLOCK;
        let content = Content {
            len: (before + blocks.len) as u32,
            crc: crc::combine(crc::zeros(before), blocks.whole(), blocks.len),
            tail_crc: blocks.tail_crc(),
        };
        let at = self.write_fresh(class_of(chunk_size), &blocks).await?;
        let patches = zero_patch(0, blocks.start).into_iter().collect();
        Ok(Planned { content, body: Body::Fresh { slot: at.slot, salt: at.salt, patches }, data: Vec::new() })
    }

    /// Bytes right behind the committed end, in place.
    async fn plan_append(
        &self,
        view: &View,
        len: usize,
        data: Vec<Bytes>,
        parts: crc::Parts,
    ) -> Result<Planned> {
        let old = view.content.len as usize;
        let new = old + len;
        let (mut crcs, whole, last_len) = (parts.crcs.clone(), parts.whole, parts.last_len());
        if !old.is_multiple_of(BLOCK) {
            let first_len = if crcs.len() > 1 { BLOCK - old % BLOCK } else { last_len };
            crcs[0] = crc::combine(view.content.tail_crc, crcs[0], first_len);
        }
        let tail_crc = if new.is_multiple_of(BLOCK) { 0 } else { crcs.pop().unwrap_or_default() };
        let patches = if crcs.is_empty() {
            Vec::new()
        } else {
            let source = Source::Base { crcs: Crcs::from(&crcs[..]) };
            vec![Patch { lsn: Lsn::default(), start: (old / BLOCK) as u32, source }]
        };
        self.take_space(len as u64).await?;
        let file = self.files.of(view.at.slot).await?;
        let mut pieces = data;
        pieces.push(padding(new));
        file.write(view.at.slot.content() + old as u64, &pieces).await?;
        if self.options.sync == SyncMode::Always {
            file.sync().await?;
        }
        let content = Content { len: new as u32, crc: crc::combine(view.content.crc, whole, len), tail_crc };
        Ok(Planned { content, body: Body::Same { patches, in_place: true }, data: Vec::new() })
    }

    /// The old bytes that share the first and last block with `start..end`.
    async fn edges(&self, id: &[u8], view: &View, start: usize, end: usize) -> Result<(Bytes, Bytes)> {
        let old = view.content.len as usize;
        let first = start - start % BLOCK;
        let head = if first < start.min(old) {
            let kept = self.read_range(id, view, first..start.min(old)).await?.0;
            // A gap within the block.
            if start > old { [kept, zeros(start - old)].concat().into() } else { kept }
        } else {
            zeros(start - first)
        };
        let last = end.next_multiple_of(BLOCK).min(old);
        let tail = if end < last { self.read_range(id, view, end..last).await?.0 } else { Bytes::new() };
        Ok((head, tail))
    }

    /// Grows to `len` with zeros, if that is longer.
    async fn plan_longer(
        &self,
        id: &[u8],
        before: &Before<'_>,
        len: usize,
        chunk_size: u32,
    ) -> Result<Planned> {
        let Some(view) = &before.view else {
            let none = Blocks::new(0, Vec::new(), crc::parts(0, &[]), Bytes::new(), Bytes::new());
            let at = self.write_fresh(class_of(chunk_size), &none).await?;
            let patches = zero_patch(0, blocks(len)).into_iter().collect();
            let content =
                Content { len: len as u32, crc: crc::zeros(len), tail_crc: crc::zeros(len % BLOCK) };
            return Ok(Planned {
                content,
                body: Body::Fresh { slot: at.slot, salt: at.salt, patches },
                data: Vec::new(),
            });
        };
        let mut overlay = Overlay::new(view.content);
        overlay.grow(self, id, view, len).await?;
        Ok(overlay.finish())
    }

    async fn plan_shorter(&self, id: &[u8], view: &View, len: usize) -> Result<Planned> {
        let full = len / BLOCK;
        let crcs = self.block_crcs(view, 0..full).await?;
        let whole = crcs.iter().fold(0, |whole, crc| crc::combine(whole, *crc, BLOCK));
        let within = len % BLOCK;
        let tail_crc = match within {
            0 => 0,
            _ => self.read_range(id, view, full * BLOCK..len).await?.1,
        };
        let crc = crc::combine(whole, tail_crc, within);
        Ok(Planned::same(Content { len: len as u32, crc, tail_crc }))
    }
}

/// Patches being put on a version.
struct Overlay {
    /// The version with the patches so far.
    content: Content,
    patches: Vec<Patch>,
    data: Vec<Bytes>,
    data_len: usize,
}

impl Overlay {
    fn new(content: Content) -> Self {
        Overlay { content, patches: Vec::new(), data: Vec::new(), data_len: 0 }
    }

    /// Grows to `len` with zeros, unless it is as long.
    async fn grow(&mut self, engine: &Engine, id: &[u8], view: &View, len: usize) -> Result<()> {
        let old = self.content.len as usize;
        if len <= old {
            return Ok(());
        }
        let within = old % BLOCK;
        let mut tail_crc = crc::zeros(len % BLOCK);
        if within != 0 {
            let tail = engine.read_range(id, view, old - within..old).await?.0;
            let end = old.next_multiple_of(BLOCK).min(len);
            let crc = crc::combine(self.content.tail_crc, crc::zeros(end - old), end - old);
            self.log(old / BLOCK, vec![tail, zeros(end - old)], within + end - old, &[crc]);
            if end == len && !len.is_multiple_of(BLOCK) {
                tail_crc = crc;
            }
        }
        self.patches.extend(zero_patch(blocks(old), blocks(len)));
        let crc = crc::combine(self.content.crc, crc::zeros(len - old), len - old);
        self.content = Content { len: len as u32, crc, tail_crc };
        Ok(())
    }

    /// Replaces blocks, perhaps beyond the end; they must not begin beyond it.
    async fn put(&mut self, engine: &Engine, view: &View, region: Blocks) -> Result<()> {
        let (old, start) = (self.content.len as usize, region.start * BLOCK);
        let end = start + region.len;
        let replaced_end = end.min(old);
        let mut replaced = 0;
        if start < replaced_end {
            let crcs = engine.block_crcs(view, region.start..blocks(replaced_end)).await?;
            for (i, crc) in crcs.iter().enumerate() {
                let len = (replaced_end - start - i * BLOCK).min(BLOCK);
                replaced = crc::combine(replaced, *crc, len);
            }
        }
        let whole = region.whole();
        let crc = if end < old {
            self.content.crc ^ crc::shift(replaced ^ whole, old - end)
        } else {
            crc::shift(self.content.crc ^ replaced, end - old) ^ whole
        };
        let tail_crc = if end < old { self.content.tail_crc } else { region.tail_crc() };
        self.content = Content { len: end.max(old) as u32, crc, tail_crc };
        self.log(region.start, region.pieces, region.len, &region.crcs);
        Ok(())
    }

    fn log(&mut self, start: usize, pieces: Vec<Bytes>, len: usize, crcs: &[u32]) {
        let source = Source::Log { offset: self.data_len as u32, len: len as u32, crcs: Crcs::from(crcs) };
        self.patches.push(Patch { lsn: Lsn::default(), start: start as u32, source });
        self.data.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
        self.data_len += len;
    }

    fn finish(self) -> Planned {
        Planned {
            content: self.content,
            body: Body::Same { patches: self.patches, in_place: false },
            data: self.data,
        }
    }
}

/// Blocks `start..end` as zeros.
fn zero_patch(start: usize, end: usize) -> Option<Patch> {
    let count = end.checked_sub(start).filter(|count| *count > 0)? as u32;
    Some(Patch { lsn: Lsn::default(), start: start as u32, source: Source::Zero { count } })
}

/// Zeros between the end of what there is and an offset, in pieces.
fn gap(end: usize, offset: usize) -> impl Iterator<Item = Bytes> {
    let mut left = offset.saturating_sub(end);
    std::iter::from_fn(move || {
        let len = left.min(BLOCK);
        left -= len;
        (len > 0).then(|| zeros(len))
    })
}

/// Checksums of data for an offset, after comparing them with what the caller says.
fn checked(offset: usize, data: &[Bytes], checksum: Option<u32>) -> Result<crc::Parts> {
    let parts = crc::parts(offset, data);
    let actual = crc::wire_form(parts.whole);
    match checksum {
        Some(expected) if expected != actual => Err(EngineError::ChecksumMismatch { expected, actual }),
        _ => Ok(parts),
    }
}

fn check_arguments(id: &[u8], update: &Update) -> Result<()> {
    if id.is_empty() || id.len() > MAX_ID_LEN {
        return Err(EngineError::InvalidArg("length of the chunk id"));
    }
    if update.chunk_size == 0 || update.chunk_size > MAX_CHUNK_SIZE {
        return Err(EngineError::InvalidArg("chunk size"));
    }
    if update.ver == 0 {
        return Err(EngineError::InvalidArg("chunk version 0"));
    }
    let sum = |data: &[Bytes]| data.iter().map(|piece| piece.len() as u64).sum::<u64>();
    let end = match &update.kind {
        UpdateKind::Write { offset, data, .. } => u64::from(*offset) + sum(data),
        UpdateKind::Replace { data, .. } => sum(data),
        UpdateKind::Truncate { len } | UpdateKind::Extend { len } => u64::from(*len),
        UpdateKind::Remove => 0,
    };
    if end > u64::from(update.chunk_size) {
        Err(EngineError::InvalidArg("beyond the chunk's size"))
    } else {
        Ok(())
    }
}

fn check_versions(id: &[u8], entry: &Entry, update: &Update) -> Result<()> {
    let chunk = || ChunkId::new(id);
    if entry.chunk_size != update.chunk_size {
        let (actual, asked) = (entry.chunk_size, update.chunk_size);
        return Err(EngineError::ChunkSizeMismatch { chunk: chunk(), actual, asked });
    }
    if matches!(update.kind, UpdateKind::Replace { .. }) {
        return Ok(());
    }
    if let Some(pending) = entry.pending().filter(|pending| pending.ver != update.ver) {
        return Err(EngineError::PendingExists { chunk: chunk(), pending: pending.ver });
    }
    if update.ver <= entry.ver {
        return Err(EngineError::StaleVersion { chunk: chunk(), committed: entry.ver, asked: update.ver });
    }
    Ok(())
}
