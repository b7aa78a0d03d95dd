//! Contents of one file: what the page cache has and what the medium has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use rand::Rng;

/// Unit of caching.
pub(super) const PAGE: usize = 4096;
/// What the medium writes all or nothing.
const SECTOR: usize = 512;

type Page = Arc<[u8; PAGE]>;

/// A file's bytes and length at one level.
#[derive(Clone, Default)]
struct Image {
    len: u64,
    pages: BTreeMap<u64, Page>,
}

#[derive(Clone, Default)]
pub(super) struct Inode {
    /// What reads see.
    cached: Image,
    /// What survives a loss of power for certain.
    durable: Image,
    /// Pages which differ, or may.
    dirty: BTreeSet<u64>,
}

impl Inode {
    pub(super) fn len(&self) -> u64 {
        self.cached.len
    }

    /// Pages which take space.
    pub(super) fn pages(&self) -> u64 {
        self.cached.pages.len() as u64
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let len = (buf.len() as u64).min(self.cached.len.saturating_sub(offset)) as usize;
        for (page, within, part) in parts(offset, len) {
            let target = &mut buf[part.clone()];
            match self.cached.pages.get(&page) {
                Some(bytes) => target.copy_from_slice(&bytes[within..within + part.len()]),
                None => target.fill(0),
            }
        }
        len
    }

    /// Writes as far as `room` more pages reach; returns how many bytes.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], mut room: u64) -> usize {
        let mut written = 0;
        for (page, within, part) in parts(offset, data.len()) {
            let known = self.cached.pages.contains_key(&page);
            if !known && room == 0 {
                break;
            }
            room -= u64::from(!known);
            let bytes = self.cached.pages.entry(page).or_insert_with(zeros);
            Arc::make_mut(bytes)[within..within + part.len()].copy_from_slice(&data[part.clone()]);
            self.dirty.insert(page);
            written = part.end;
        }
        self.cached.len = self.cached.len.max(offset + written as u64);
        written
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.cached.len {
            let first = len.div_ceil(PAGE as u64);
            let gone: Vec<u64> = self.cached.pages.range(first..).map(|(page, _)| *page).collect();
            self.remove(&gone);
            self.zero(len, first * PAGE as u64 - len);
        }
        self.cached.len = len;
    }

    pub(super) fn allocate(&mut self, offset: u64, len: u64, room: u64) -> bool {
        let pages = offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64);
        let missing: Vec<u64> = pages.filter(|page| !self.cached.pages.contains_key(page)).collect();
        if missing.len() as u64 > room {
            return false;
        }
        self.dirty.extend(&missing);
        self.cached.pages.extend(missing.into_iter().map(|page| (page, zeros())));
        self.cached.len = self.cached.len.max(offset + len);
        true
    }

    pub(super) fn zero_range(&mut self, offset: u64, len: u64, room: u64) -> bool {
        let done = self.allocate(offset, len, room);
        if done {
            self.zero(offset, len);
        }
        done
    }

    pub(super) fn punch_hole(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let (first, last) = (offset.div_ceil(PAGE as u64), end / PAGE as u64);
        if first >= last {
            self.zero(offset, len);
            return;
        }
        let gone: Vec<u64> = self.cached.pages.range(first..last).map(|(page, _)| *page).collect();
        self.remove(&gone);
        self.zero(offset, first * PAGE as u64 - offset);
        self.zero(last * PAGE as u64, end - last * PAGE as u64);
    }

    fn remove(&mut self, pages: &[u64]) {
        for page in pages {
            self.cached.pages.remove(page);
            self.dirty.insert(*page);
        }
    }

    fn zero(&mut self, offset: u64, len: u64) {
        for (page, within, part) in parts(offset, len as usize) {
            if let Some(bytes) = self.cached.pages.get_mut(&page) {
                Arc::make_mut(bytes)[within..within + part.len()].fill(0);
                self.dirty.insert(page);
            }
        }
    }

    pub(super) fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            self.persist(page);
        }
        self.durable.len = self.cached.len;
    }

    fn persist(&mut self, page: u64) {
        match self.cached.pages.get(&page) {
            Some(bytes) => self.durable.pages.insert(page, Arc::clone(bytes)),
            None => self.durable.pages.remove(&page),
        };
    }

    /// The kernel writes some pages back on its own account.
    pub(super) fn write_back(&mut self, rng: &mut impl Rng) {
        let chosen: Vec<u64> = self.dirty.iter().copied().filter(|_| rng.random_bool(0.3)).collect();
        for page in chosen {
            self.persist(page);
            self.dirty.remove(&page);
        }
        if self.dirty.is_empty() {
            self.durable.len = self.cached.len;
        }
    }

    /// The power goes: of what was not synced, `keep` of the pages (0 none, 1 all) made it to the medium; in between,
    /// some only by sectors.
    pub(super) fn lose_power(&mut self, keep: f64, rng: &mut impl Rng) {
        for page in std::mem::take(&mut self.dirty) {
            if rng.random_bool(keep) {
                self.persist(page);
            } else if keep > 0.0 && rng.random_bool(0.3) {
                self.tear(page, rng);
            }
        }
        if self.cached.len != self.durable.len && rng.random_bool(keep) {
            self.durable.len = self.cached.len;
        }
        self.cached = self.durable.clone();
        let len = self.cached.len;
        // Bytes beyond the length which reached the medium are cut off with the length.
        self.cached.len = u64::MAX;
        self.set_len(len);
        self.sync();
    }

    fn tear(&mut self, page: u64, rng: &mut impl Rng) {
        let new = self.cached.pages.get(&page).cloned().unwrap_or_else(zeros);
        let mut mixed = self.durable.pages.get(&page).cloned().unwrap_or_else(zeros);
        let bytes = Arc::make_mut(&mut mixed);
        for start in (0..PAGE).step_by(SECTOR).filter(|_| rng.random_bool(0.5)) {
            bytes[start..start + SECTOR].copy_from_slice(&new[start..start + SECTOR]);
        }
        self.durable.pages.insert(page, mixed);
    }
}

/// A page of zeros; all share one until they are written, since files are reserved in large pieces.
fn zeros() -> Page {
    static ZEROS: LazyLock<Page> = LazyLock::new(|| Arc::new([0; PAGE]));
    Arc::clone(&ZEROS)
}

/// Splits a range by pages: page number, offset within the page, range within the buffer.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % PAGE as u64) as usize;
        let end = len.min(done + PAGE - within);
        let part = done..end;
        done = end;
        Some((at / PAGE as u64, within, part))
    })
}
