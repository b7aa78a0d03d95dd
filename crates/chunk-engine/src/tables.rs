//! Checksum tables of slots, and a cache of them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::Result;
use crate::files::DataFile;
use crate::geometry::{BLOCK, ENTRIES_PER_PAGE, Slot, entry_in_page};

/// A page of a table: checksums of up to 1024 blocks.
pub(crate) type Page = Arc<[u32]>;

/// A slot in one of its uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Use {
    pub(crate) slot: Slot,
    pub(crate) salt: u32,
}

/// Recently used table pages. Two generations: a page asked for is in the younger one; when that is full, the older
/// one is forgotten.
pub(crate) struct Tables {
    cached: Mutex<Generations>,
    /// Bytes per generation.
    limit: usize,
}

#[derive(Default)]
struct Generations {
    young: HashMap<(Use, u32), Page>,
    old: HashMap<(Use, u32), Page>,
    young_bytes: usize,
}

/// What a cached page takes besides its entries.
const OVERHEAD: usize = 80;

/// Pages with the entries of blocks `start..end`.
pub(crate) fn pages(start: usize, end: usize) -> std::ops::Range<usize> {
    start / ENTRIES_PER_PAGE..end.div_ceil(ENTRIES_PER_PAGE).max(start / ENTRIES_PER_PAGE)
}

impl Tables {
    pub(crate) fn new(limit: usize) -> Self {
        Tables { cached: Mutex::default(), limit: limit / 2 }
    }

    pub(crate) fn get(&self, of: Use, page: usize) -> Option<Page> {
        let key = (of, page as u32);
        let mut cached = self.cached.lock();
        if let Some(found) = cached.young.get(&key) {
            return Some(Arc::clone(found));
        }
        let found = cached.old.remove(&key)?;
        self.insert_locked(&mut cached, key, Arc::clone(&found));
        Some(found)
    }

    pub(crate) fn insert(&self, of: Use, page: usize, entries: Page) {
        self.insert_locked(&mut self.cached.lock(), (of, page as u32), entries);
    }

    fn insert_locked(&self, cached: &mut Generations, key: (Use, u32), entries: Page) {
        let bytes = entries.len() * 4 + OVERHEAD;
        if cached.young_bytes + bytes > self.limit {
            cached.old = std::mem::take(&mut cached.young);
            cached.young_bytes = 0;
        }
        if bytes <= self.limit && cached.young.insert(key, entries).is_none() {
            cached.young_bytes += bytes;
        }
    }

    /// Forgets a slot's pages; true if there were any.
    pub(crate) fn forget(&self, of: Use, pages: std::ops::Range<usize>) -> bool {
        let mut cached = self.cached.lock();
        let mut any = false;
        for page in pages {
            let key = (of, page as u32);
            if let Some(entries) = cached.young.remove(&key) {
                cached.young_bytes -= entries.len() * 4 + OVERHEAD;
                any = true;
            }
            any |= cached.old.remove(&key).is_some();
        }
        any
    }

    /// A page from the cache or from disk.
    pub(crate) async fn load(&self, file: &DataFile, of: Use, page: usize) -> Result<Page> {
        if let Some(found) = self.get(of, page) {
            return Ok(found);
        }
        let bytes = file.read(of.slot.table_page(page), BLOCK).finish().await?;
        let entries = decode(&bytes, of);
        self.insert(of, page, Arc::clone(&entries));
        Ok(entries)
    }
}

/// Blocks per page in slots of this class.
fn entries(of: Use) -> usize {
    let blocks = crate::geometry::capacity(of.slot.class) as usize / BLOCK;
    blocks.min(ENTRIES_PER_PAGE)
}

/// Checksums in a page's bytes.
pub(crate) fn decode(page: &[u8], of: Use) -> Page {
    let count = entries(of);
    let stored = page.rchunks_exact(4).take(count);
    stored.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) ^ of.salt).collect()
}

/// Bytes of a page.
pub(crate) fn encode(entries: &[u32], of: Use) -> Bytes {
    let mut page = vec![0; BLOCK];
    for (block, crc) in entries.iter().enumerate() {
        page[entry_in_page(block)].copy_from_slice(&(crc ^ of.salt).to_le_bytes());
    }
    page.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(index: u32) -> Use {
        Use { slot: Slot { class: 4, index }, salt: 0xabcd_0123 }
    }

    #[test]
    fn pages_there_and_back() {
        let crcs: Vec<u32> = (0..256).map(|i| i * 77).collect();
        let bytes = encode(&crcs, of(1));
        assert_eq!(&decode(&bytes, of(1))[..], &crcs[..]);
        assert_eq!(bytes[4092..], (crcs[0] ^ 0xabcd_0123).to_le_bytes());
        assert_eq!((pages(0, 1), pages(5, 1024), pages(1023, 1025), pages(3, 3)), (0..1, 0..1, 0..2, 0..1));
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let page: Page = vec![0; 256].into();
        let tables = Tables::new(20 * (1024 + OVERHEAD));
        for index in 0..1000 {
            tables.insert(of(index), 0, Arc::clone(&page));
            assert!(tables.get(of(0), 0).is_some());
        }
        let kept = (0..1000).filter(|index| tables.get(of(*index), 0).is_some()).count();
        assert!((5..=20).contains(&kept), "{kept}");
        assert!(tables.forget(of(999), 0..1) && !tables.forget(of(999), 0..1));
    }
}
