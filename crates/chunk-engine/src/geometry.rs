//! Where things lie in data files: size classes, slots, blocks and their checksum tables.

use std::fmt;
use std::ops::Range;

use crate::update::MAX_CHUNK_SIZE;

/// Unit of checksums and of overwriting.
pub(crate) const BLOCK: usize = 4096;
/// Chunk size of class 0.
const SMALLEST: u32 = 64 << 10;
/// Number of classes: 64 KiB to 64 MiB by powers of two.
pub(crate) const CLASSES: usize = (MAX_CHUNK_SIZE / SMALLEST).ilog2() as usize + 1;
/// Data files per class. Slots are dealt out to them in turn, so that writers seldom meet at a file's lock.
pub(crate) const FILES_PER_CLASS: u32 = 8;
/// Header of a data file.
pub(crate) const FILE_HEADER: u64 = BLOCK as u64;
/// Table entries per block of table.
pub(crate) const ENTRIES_PER_PAGE: usize = BLOCK / 4;

/// A place for one chunk's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Slot {
    /// Size class.
    pub(crate) class: u8,
    /// Number within the class.
    pub(crate) index: u32,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.class, self.index)
    }
}

/// The smallest class that holds a chunk of this size; `size` must not exceed [`MAX_CHUNK_SIZE`].
pub(crate) fn class_of(size: u32) -> u8 {
    (size.max(SMALLEST).next_power_of_two() / SMALLEST).ilog2() as u8
}

/// Bytes of content a slot holds.
pub(crate) fn capacity(class: u8) -> u64 {
    u64::from(SMALLEST) << class
}

/// Bytes of a slot's checksum table.
pub(crate) fn table_len(class: u8) -> u64 {
    (capacity(class) / BLOCK as u64 * 4).next_multiple_of(BLOCK as u64)
}

/// Bytes of a slot, table and content.
pub(crate) fn stride(class: u8) -> u64 {
    table_len(class) + capacity(class)
}

impl Slot {
    /// Which of the class's files holds it.
    pub(crate) fn file(self) -> u32 {
        self.index % FILES_PER_CLASS
    }

    /// Where it begins in its file, with its table.
    pub(crate) fn start(self) -> u64 {
        FILE_HEADER + u64::from(self.index / FILES_PER_CLASS) * stride(self.class)
    }

    /// Where its content begins in its file.
    pub(crate) fn content(self) -> u64 {
        self.start() + table_len(self.class)
    }

    /// Where a page of its table lies. Pages and entries run backwards from the content: entries of the first blocks
    /// are next to it, so that they are written and read together.
    pub(crate) fn table_page(self, page: usize) -> u64 {
        self.content() - (page as u64 + 1) * BLOCK as u64
    }
}

/// Position of a block's entry within its table page.
pub(crate) fn entry_in_page(block: usize) -> Range<usize> {
    let end = BLOCK - block % ENTRIES_PER_PAGE * 4;
    end - 4..end
}

/// Blocks that bytes `0..len` take.
pub(crate) fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        assert_eq!(CLASSES, 11);
        assert_eq!([1, 65_536, 65_537, 1 << 20, MAX_CHUNK_SIZE].map(class_of), [0, 0, 1, 4, 10]);
        assert_eq!([0, 4, 6, 7, 10].map(table_len), [4096, 4096, 4096, 8192, 65_536]);
        assert_eq!(capacity(10), 64 << 20);
    }

    #[test]
    fn slots_do_not_overlap_and_tables_lie_before_content() {
        let slots = (0..40).map(|index| Slot { class: 7, index });
        let mut starts: Vec<(u32, u64)> = slots.map(|slot| (slot.file(), slot.start())).collect();
        starts.sort_unstable();
        for pair in starts.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            assert_eq!(pair[1].1 - pair[0].1, stride(7));
        }
        let slot = Slot { class: 7, index: 9 };
        assert_eq!(slot.table_page(1), slot.start());
        assert_eq!(slot.table_page(0) + BLOCK as u64, slot.content());
        assert_eq!(entry_in_page(0), 4092..4096);
        assert_eq!(entry_in_page(1023), 0..4);
        assert_eq!(entry_in_page(1024), 4092..4096);
    }
}
