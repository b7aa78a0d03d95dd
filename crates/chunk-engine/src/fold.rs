//! Folding: bringing patches into the slot they belong to.
//!
//! Order matters, since a crash may happen anywhere. First the log is synced, so that the patches are durable before
//! anything in the slot changes; then blocks and table entries are written and synced; then a record says that the
//! patches are no longer needed. Until then the patches hide those blocks, whatever state they are in.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::ChunkId;
use crate::crc;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::files::DataFile;
use crate::geometry::{BLOCK, ENTRIES_PER_PAGE, blocks};
use crate::log::Lsn;
use crate::patch::Source;
use crate::place::{padding, zeros};
use crate::read::{Reader, View};
use crate::record::Record;
use crate::tables;

/// Most bytes folded at a time.
const STEP: usize = 4 << 20;
/// A run of zero blocks this long is made a hole.
const HOLE: usize = 16;

/// A chunk whose patches are being folded.
struct Folding {
    id: ChunkId,
    view: View,
    upto: Lsn,
}

/// Takes the mark away that a chunk is being folded.
struct Marked<'a> {
    engine: &'a Engine,
    ids: Vec<ChunkId>,
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        let mut state = self.engine.state.lock();
        for id in &self.ids {
            state.folding.remove(id);
        }
    }
}

impl Engine {
    /// Folds the committed patches of chunks. Chunks that have none, or are being folded, are left out. A chunk whose
    /// patches cannot be read keeps them, and reading it says why.
    pub(crate) async fn fold(&self, ids: Vec<ChunkId>) -> Result<()> {
        let mut marked = Marked { engine: self, ids: Vec::new() };
        let (foldings, _reader) = {
            let mut state = self.state.lock();
            let mut foldings = Vec::new();
            for id in ids {
                let Some(entry) = state.chunks.get(&id) else { continue };
                let Some(upto) = entry.patches().last().map(|patch| patch.lsn) else { continue };
                let Some(view) = View::of(entry, false, 0..usize::MAX) else { continue };
                if state.folding.insert(id.clone()) {
                    marked.ids.push(id.clone());
                    foldings.push(Folding { id, view, upto });
                }
            }
            (foldings, Reader::new(self, state.readers.enter()))
        };
        if foldings.is_empty() {
            return Ok(());
        }
        self.log.sync().await?;
        let mut files: BTreeMap<(u8, u32), Arc<DataFile>> = BTreeMap::new();
        let mut done = Vec::with_capacity(foldings.len());
        for folding in foldings {
            let slot = folding.view.at.slot;
            let file = self.files.of(slot).await?;
            match self.fold_into_slot(&file, &folding).await {
                Ok(()) => done.push(folding),
                Err(error @ EngineError::Corrupt { .. }) => {
                    tracing::error!(chunk = %folding.id, %error, "overwritten data cannot be read");
                    continue;
                }
                Err(error) => return Err(error),
            }
            files.insert((slot.class, slot.file()), file);
        }
        for file in files.values() {
            file.sync().await.inspect_err(|error| self.log.stop(error))?;
        }
        for Folding { id, view, upto } in done {
            let pages = tables::pages(0, blocks(view.content.len as usize));
            self.tables.forget(view.at, pages);
            self.log.append(&self.state, Record::Fold { id, salt: view.at.salt, upto }, Vec::new()).await?;
        }
        Ok(())
    }

    async fn fold_into_slot(&self, file: &DataFile, folding: &Folding) -> Result<()> {
        let Folding { id, view, .. } = folding;
        let end = blocks(view.content.len as usize);
        let mut block = 0;
        let mut folded: Vec<(usize, u32)> = Vec::new();
        while block < end {
            let Some(patch) = view.patch(block) else {
                // Jump to the next patch.
                let next =
                    view.patches.iter().map(|patch| patch.first()).filter(|first| *first > block).min();
                block = next.unwrap_or(end);
                continue;
            };
            let kind = std::mem::discriminant(&patch.source);
            let limit = end.min(block + STEP / BLOCK);
            let same = |b: &usize| view.patch(*b).is_some_and(|p| std::mem::discriminant(&p.source) == kind);
            let run_end = (block..limit).find(|b| !same(b)).unwrap_or(limit);
            let run = block..run_end;
            let crcs: Vec<u32> = match patch.source {
                Source::Base { .. } => {
                    run.clone().map(|b| view.patch(b).map_or(0, |p| p.block_crc(b))).collect()
                }
                Source::Zero { .. } => self.fold_zeros(file, view, run.clone()).await?,
                Source::Log { .. } => self.fold_logged(file, id, view, run.clone()).await?,
            };
            folded.extend(run.zip(crcs));
            block = run_end;
        }
        for page in folded.chunk_by(|a, b| a.0 / ENTRIES_PER_PAGE == b.0 / ENTRIES_PER_PAGE) {
            self.write_entries(file, view, page).await?;
        }
        Ok(())
    }

    async fn fold_zeros(&self, file: &DataFile, view: &View, run: Range<usize>) -> Result<Vec<u32>> {
        let offset = view.at.slot.content() + (run.start * BLOCK) as u64;
        let punched = run.len() >= HOLE && file.punch(offset, (run.len() * BLOCK) as u64).await?;
        if !punched {
            let pieces = vec![zeros(BLOCK); run.len()];
            file.write(offset, &pieces).await?;
        }
        Ok(vec![crc::zeros(BLOCK); run.len()])
    }

    async fn fold_logged(
        &self,
        file: &DataFile,
        id: &ChunkId,
        view: &View,
        run: Range<usize>,
    ) -> Result<Vec<u32>> {
        let span = self.read_blocks(id.as_bytes(), view, run.clone()).await?;
        let offset = view.at.slot.content() + (run.start * BLOCK) as u64;
        let len = span.data.len();
        file.write(offset, &[span.data, padding(len)]).await?;
        Ok(span.crcs)
    }

    /// Sets table entries, all in one page. Nobody else writes the table of a slot whose chunk is being folded.
    async fn write_entries(&self, file: &DataFile, view: &View, changed: &[(usize, u32)]) -> Result<()> {
        let Some(number) = changed.first().map(|(block, _)| block / ENTRIES_PER_PAGE) else { return Ok(()) };
        // From disk: what readers cached meanwhile may be older than the last fold.
        let old = file.read(view.at.slot.table_page(number), BLOCK).finish().await?;
        let mut entries = tables::decode(&old, view.at).to_vec();
        for (block, crc) in changed {
            if let Some(entry) = entries.get_mut(block % ENTRIES_PER_PAGE) {
                *entry = *crc;
            }
        }
        let page: Bytes = tables::encode(&entries, view.at);
        file.write(view.at.slot.table_page(number), &[page]).await
    }
}
