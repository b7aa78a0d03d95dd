//! Slots for new content: taken, written, and given back when that fails.

use std::sync::Arc;

use bytes::Bytes;

use crate::crc;
use crate::engine::Engine;
use crate::error::{EngineError, Result, io_error};
use crate::geometry::{BLOCK, ENTRIES_PER_PAGE, capacity};
use crate::options::SyncMode;
use crate::signal::yield_now;
use crate::slots::Freed;
use crate::tables::{self, Use};

/// Space seen last, and taken since.
#[derive(Default)]
pub(crate) struct SpaceLeft {
    available: u64,
    taken: u64,
}

/// Bytes that may be taken before the file system is asked again.
const ASK_AGAIN: u64 = 64 << 20;

/// Content for a slot, from a block on.
pub(crate) struct Blocks {
    /// First block.
    pub(crate) start: usize,
    /// The bytes, in pieces.
    pub(crate) pieces: Vec<Bytes>,
    /// Checksum of each block over the bytes it has.
    pub(crate) crcs: Vec<u32>,
    /// Bytes in all.
    pub(crate) len: usize,
}

impl Blocks {
    /// Data at an offset, completed by `head` before and `tail` after them so that they begin at a block and end at
    /// one, or at the chunk's end.
    pub(crate) fn new(offset: usize, data: Vec<Bytes>, parts: crc::Parts, head: Bytes, tail: Bytes) -> Self {
        debug_assert_eq!(head.len(), offset % BLOCK);
        let data_len: usize = data.iter().map(Bytes::len).sum();
        let last_len = parts.last_len();
        let mut crcs = parts.crcs;
        if !tail.is_empty()
            && let Some(last) = crcs.last_mut()
        {
            *last = crc::combine(*last, crc32c::crc32c(&tail), tail.len());
        }
        if !head.is_empty() {
            let first_len = if crcs.len() > 1 { BLOCK - head.len() } else { last_len + tail.len() };
            match crcs.first_mut() {
                Some(first) => *first = crc::combine(crc32c::crc32c(&head), *first, first_len),
                None => crcs.push(crc32c::crc32c(&head)),
            }
        }
        let len = head.len() + data_len + tail.len();
        let pieces = [head].into_iter().chain(data).chain([tail]).filter(|piece| !piece.is_empty()).collect();
        Blocks { start: offset / BLOCK, pieces, crcs, len }
    }

    /// Blocks that are full.
    pub(crate) fn full(&self) -> usize {
        self.len / BLOCK
    }

    /// Checksum of all.
    pub(crate) fn whole(&self) -> u32 {
        let last = self.len - self.crcs.len().saturating_sub(1) * BLOCK;
        let len = |i: usize| if i + 1 == self.crcs.len() { last } else { BLOCK };
        self.crcs.iter().enumerate().fold(0, |whole, (i, crc)| crc::combine(whole, *crc, len(i)))
    }

    /// Checksum of the last block if that is not full.
    pub(crate) fn tail_crc(&self) -> u32 {
        if self.len.is_multiple_of(BLOCK) { 0 } else { self.crcs.last().copied().unwrap_or_default() }
    }
}

/// Zeros, up to a block of them.
pub(crate) fn zeros(len: usize) -> Bytes {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    Bytes::from_static(&ZEROS[..len])
}

/// Zeros that fill the last block of `len` bytes up: a page written as a whole need not be read before.
pub(crate) fn padding(len: usize) -> Bytes {
    zeros(len.next_multiple_of(BLOCK) - len)
}

impl Engine {
    /// Takes a slot and writes blocks to it. If the disk is full, freed space is given back and tried once more.
    pub(crate) async fn write_fresh(&self, class: u8, blocks: &Blocks) -> Result<Use> {
        match self.try_write_fresh(class, blocks).await {
            Err(EngineError::NoSpace(_)) if self.give_space_back(0).await? => {
                self.try_write_fresh(class, blocks).await
            }
            result => result,
        }
    }

    async fn try_write_fresh(&self, class: u8, blocks: &Blocks) -> Result<Use> {
        let at = self.take_slot(class, blocks.len as u64).await?;
        if blocks.len == 0 {
            return Ok(at);
        }
        let written = self.write_slot(at, blocks).await;
        if let Err(EngineError::NoSpace(_)) = written {
            // What was written of it takes space which others may use.
            let emptied = self.files.empty(at.slot).await;
            let mut state = self.state.lock();
            if matches!(emptied, Ok(true)) {
                state.slots.emptied(at.slot);
            } else {
                state.slots.free(Freed { slot: at.slot, len: blocks.len as u32 });
            }
        }
        // After any other failure the slot stays out of use: what it will contain is not known.
        written.map(|()| at)
    }

    async fn take_slot(&self, class: u8, len: u64) -> Result<Use> {
        let reusable = self.state.lock().slots.has_reusable(class);
        if !reusable {
            self.take_space(len + BLOCK as u64).await?;
        }
        let slot = self.state.lock().slots.allocate(class);
        let slot = slot.ok_or_else(|| EngineError::NoSpace(self.place.dir.clone()))?;
        Ok(Use { slot, salt: self.next_salt() })
    }

    /// Notes that space is needed; fails when the reserve would be touched.
    pub(crate) async fn take_space(&self, bytes: u64) -> Result<()> {
        let reserve = self.options.reserve_bytes;
        {
            let mut left = self.space_left.lock();
            let after = left.taken + bytes;
            if after <= ASK_AGAIN && left.available >= after + reserve + ASK_AGAIN {
                left.taken = after;
                return Ok(());
            }
        }
        let dir = &self.place.dir;
        let space = self.place.disk.space(dir).await.map_err(|e| io_error("statfs", dir, e))?;
        *self.space_left.lock() = SpaceLeft { available: space.available, taken: bytes };
        if space.available < bytes + reserve { Err(EngineError::NoSpace(dir.clone())) } else { Ok(()) }
    }

    async fn write_slot(&self, at: Use, blocks: &Blocks) -> Result<()> {
        let file = self.files.of(at.slot).await?;
        let (mut pages, numbers) = table_pages(at, blocks.start, &blocks.crcs[..blocks.full()]);
        let mut pieces = Vec::with_capacity(pages.len() + blocks.pieces.len() + 1);
        let content = at.slot.content() + (blocks.start * BLOCK) as u64;
        if blocks.start == 0 {
            // The table's first pages lie right before the content.
            let before = (pages.len() * BLOCK) as u64;
            pieces.extend(pages.iter().rev().map(|(bytes, _)| bytes.clone()));
            pieces.extend(blocks.pieces.iter().cloned());
            pieces.push(padding(blocks.len));
            file.write(content - before, &pieces).await?;
        } else {
            pieces.extend(blocks.pieces.iter().cloned());
            pieces.push(padding(blocks.len));
            let data = file.write(content, &pieces);
            let tables: Vec<Bytes> = pages.iter().rev().map(|(bytes, _)| bytes.clone()).collect();
            if let Some(last) = numbers.clone().last() {
                file.write(at.slot.table_page(last), &tables).await?;
            }
            data.await?;
        }
        for (number, (_, entries)) in numbers.zip(pages.drain(..)) {
            self.tables.insert(at, number, entries);
        }
        if self.options.sync == SyncMode::Always {
            file.sync().await?;
        }
        Ok(())
    }

    /// Gives back a slot that was written for nothing.
    pub(crate) fn abandon(&self, at: Use, len: u32) {
        self.state.lock().release(vec![Freed { slot: at.slot, len }]);
    }

    /// Gives the space of free slots back to the file system until about `keep` bytes of them are left; true if there
    /// was something to give back.
    pub(crate) async fn give_space_back(&self, keep: u64) -> Result<bool> {
        let mut any = false;
        loop {
            let Some(slot) = self.state.lock().slots.take_reusable(keep) else { return Ok(any) };
            let emptied = self.files.empty(slot).await;
            if !matches!(emptied, Ok(true)) {
                self.state.lock().slots.free(Freed { slot, len: 0 });
                return emptied.map(|_| any);
            }
            self.state.lock().slots.emptied(slot);
            any = true;
            yield_now().await;
        }
    }
}

/// Pages of a table with the entries of consecutive blocks, and their numbers.
fn table_pages(at: Use, start: usize, crcs: &[u32]) -> (Vec<(Bytes, tables::Page)>, std::ops::Range<usize>) {
    if crcs.is_empty() {
        return (Vec::new(), 0..0);
    }
    let numbers = tables::pages(start, start + crcs.len());
    let per_page = ENTRIES_PER_PAGE.min(capacity(at.slot.class) as usize / BLOCK);
    let page = |number: usize| {
        let entries: tables::Page = (0..per_page)
            .map(|i| {
                (number * ENTRIES_PER_PAGE + i)
                    .checked_sub(start)
                    .and_then(|i| crcs.get(i))
                    .copied()
                    .unwrap_or(0)
            })
            .collect();
        (tables::encode(&entries, at), Arc::clone(&entries))
    };
    (numbers.clone().map(page).collect(), numbers)
}
