//! Optimistic concurrency control: does a transaction's read set meet a write that committed after its read version?
//!
//! The resolver remembers, for every key, the version of its last write within a window: a step function over the key space,
//! one segment per run of keys with the same version. A commit asks for the highest version within its read ranges. Versions
//! below the window are forgotten; a transaction that read before the window is refused ([`KvError::TooOld`]).
//!
//! Pure: no store, no time. All local engines share it.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::KvError;
use crate::batch::Version;
use crate::key::KeyRange;

/// Estimated memory of a segment beside its key.
const SEGMENT_OVERHEAD: usize = 96;

/// Segments below this many bytes are never swept.
const SWEEP_FLOOR: usize = 256 << 10;

/// Recent writes by key.
#[derive(Debug)]
pub(crate) struct Resolver {
    /// Begin of a segment -> version of the last write to its keys. A segment ends where the next begins. Keys before the
    /// first segment were not written within the window.
    segments: BTreeMap<Bytes, Version>,
    /// Transactions that read before this version are refused.
    window_begin: Version,
    bytes: usize,
    sweep_at: usize,
    bytes_max: usize,
}

impl Resolver {
    /// A resolver that has seen nothing; reads before `window_begin` are refused. Its memory is bounded by `bytes_max`.
    pub(crate) fn new(window_begin: Version, bytes_max: usize) -> Self {
        Resolver {
            segments: BTreeMap::new(),
            window_begin,
            bytes: 0,
            sweep_at: SWEEP_FLOOR.min(bytes_max),
            bytes_max,
        }
    }

    /// Checks that no key of `ranges` was written after `read_version`.
    pub(crate) fn check(&self, read_version: Version, ranges: &[KeyRange]) -> Result<(), KvError> {
        if ranges.is_empty() {
            return Ok(());
        }
        if read_version < self.window_begin {
            return Err(KvError::TooOld);
        }
        if ranges.iter().any(|range| self.last_write_in(range) > read_version) {
            return Err(KvError::Conflict);
        }
        Ok(())
    }

    fn last_write_in(&self, range: &KeyRange) -> Version {
        if range.is_empty() {
            return 0;
        }
        let inside = self
            .segments
            .range::<[u8], _>((Bound::Excluded(&range.begin[..]), Bound::Excluded(&range.end[..])))
            .map(|(_, version)| *version)
            .max();
        self.version_at(&range.begin).max(inside.unwrap_or(0))
    }

    fn version_at(&self, key: &[u8]) -> Version {
        self.segments
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .map_or(0, |(_, version)| *version)
    }

    /// Remembers that `version`, higher than all before, wrote `ranges`. No transaction that is still running reads before
    /// `oldest_reader()`, which is only asked when memory is to be freed.
    pub(crate) fn record(
        &mut self,
        version: Version,
        ranges: &[KeyRange],
        oldest_reader: impl FnOnce() -> Version,
    ) {
        for range in ranges {
            self.record_range(version, range);
        }
        if self.bytes > self.sweep_at {
            self.sweep(oldest_reader());
            while self.bytes > self.bytes_max {
                self.sweep(self.median_version());
            }
            self.sweep_at = (self.bytes * 2).clamp(SWEEP_FLOOR, self.bytes_max.max(SWEEP_FLOOR));
        }
    }

    fn record_range(&mut self, version: Version, range: &KeyRange) {
        if range.is_empty() {
            return;
        }
        let after = self.version_at(&range.end);
        let covered: Vec<Bytes> = self
            .segments
            .range::<[u8], _>((Bound::Included(&range.begin[..]), Bound::Excluded(&range.end[..])))
            .map(|(begin, _)| begin.clone())
            .collect();
        for begin in covered {
            self.remove(&begin);
        }
        self.insert(range.begin.clone(), version);
        if !self.segments.contains_key(&range.end) {
            self.insert(range.end.clone(), after);
        }
    }

    fn insert(&mut self, begin: Bytes, version: Version) {
        self.bytes += begin.len() + SEGMENT_OVERHEAD;
        self.segments.insert(begin, version);
    }

    fn remove(&mut self, begin: &Bytes) {
        if self.segments.remove(begin).is_some() {
            self.bytes -= begin.len() + SEGMENT_OVERHEAD;
        }
    }

    /// Forgets writes up to and including `version`: reads from there on cannot meet them.
    fn sweep(&mut self, version: Version) {
        self.window_begin = self.window_begin.max(version);
        let floor = self.window_begin;
        let mut previous_old = true;
        let mut bytes = 0;
        self.segments.retain(|begin, last| {
            let old = *last <= floor;
            // Neighbouring segments that are both forgotten are one.
            let kept = !(old && previous_old);
            if old {
                *last = 0;
            }
            previous_old = old;
            if kept {
                bytes += begin.len() + SEGMENT_OVERHEAD;
            }
            kept
        });
        self.bytes = bytes;
    }

    /// A version such that forgetting up to it removes a good part of the segments.
    fn median_version(&self) -> Version {
        let mut versions: Vec<Version> =
            self.segments.values().copied().filter(|version| *version > 0).collect();
        let middle = versions.len() / 2;
        if versions.is_empty() {
            return self.window_begin;
        }
        *versions.select_nth_unstable(middle).1
    }

    #[cfg(test)]
    fn window_begin(&self) -> Version {
        self.window_begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn key(n: u64) -> Bytes {
        Bytes::from(format!("{n:03}"))
    }

    fn range(begin: u64, end: u64) -> KeyRange {
        KeyRange { begin: key(begin), end: key(end) }
    }

    fn resolver() -> Resolver {
        Resolver::new(0, 16 << 20)
    }

    #[test]
    fn a_read_meets_only_later_writes() {
        let mut r = resolver();
        r.record(10, &[range(5, 6)], || 0);
        assert_eq!(r.check(9, &[range(5, 6)]), Err(KvError::Conflict));
        assert_eq!(r.check(9, &[range(0, 9)]), Err(KvError::Conflict));
        assert_eq!(r.check(10, &[range(0, 9)]), Ok(()));
        assert_eq!(r.check(9, &[range(0, 5)]), Ok(()));
        assert_eq!(r.check(9, &[range(6, 9)]), Ok(()));
        assert_eq!(r.check(9, &[]), Ok(()));
    }

    #[test]
    fn nothing_before_the_window_is_accepted() {
        let r = Resolver::new(100, 1 << 20);
        assert_eq!(r.check(99, &[range(0, 1)]), Err(KvError::TooOld));
        assert_eq!(r.check(99, &[]), Ok(()));
        assert_eq!(r.check(100, &[range(0, 1)]), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_the_window_moves() {
        let mut r = Resolver::new(0, 512 << 10);
        for version in 1..=100_000u64 {
            let key = Bytes::from(version.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec());
            r.record(version, &[KeyRange::single(&key)], || 0);
            assert!(r.bytes <= (512 << 10) + 1000, "{} bytes", r.bytes);
        }
        assert!(r.window_begin() > 50_000);
        assert_eq!(r.check(1, &[range(0, 1)]), Err(KvError::TooOld));
        // What is within the window is still known exactly.
        let key = 100_000u64.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        assert_eq!(r.check(99_999, &[KeyRange::single(&key)]), Err(KvError::Conflict));
    }

    #[test]
    fn readers_that_still_run_are_not_forgotten() {
        let mut r = Resolver::new(0, 16 << 20);
        for version in 1..=50_000u64 {
            let key = Bytes::from(version.to_be_bytes().to_vec());
            r.record(version, &[KeyRange::single(&key)], || 25_000);
        }
        assert!(r.window_begin() <= 25_000);
        assert_eq!(r.check(25_000, &[KeyRange::single(&25_001u64.to_be_bytes())]), Err(KvError::Conflict));
        assert_eq!(r.check(25_000, &[KeyRange::single(&24_999u64.to_be_bytes())]), Ok(()));
    }

    /// Against one version per key.
    #[test]
    fn agrees_with_a_model() {
        let seed = crate::random::seed_from_env(0x5eed_0001);
        println!("seed {seed:#x} (KV_SEED)");
        let mut random = Random::new(seed);
        const KEYS: u64 = 60;
        let mut model = [0u64; KEYS as usize];
        let mut r = resolver();
        let mut floor = 0;
        for version in 1..20_000u64 {
            let ranges: Vec<KeyRange> = (0..random.below(3))
                .map(|_| {
                    let begin = random.below(KEYS);
                    let end = begin + 1 + random.below(KEYS - begin);
                    if random.below(4) == 0 { range(begin, end) } else { range(begin, begin + 1) }
                })
                .collect();
            for range in &ranges {
                let number = |key: &Bytes| std::str::from_utf8(key).unwrap().parse::<usize>().unwrap();
                model[number(&range.begin)..number(&range.end)].fill(version);
            }
            r.record(version, &ranges, || 0);
            if random.below(100) == 0 {
                floor = floor.max(version.saturating_sub(random.below(50)));
                r.sweep(floor);
            }
            let begin = random.below(KEYS);
            let end = begin + 1 + random.below(KEYS - begin);
            let read_version = version.saturating_sub(random.below(60));
            let expected = if read_version < floor {
                Err(KvError::TooOld)
            } else if model[begin as usize..end as usize].iter().any(|last| *last > read_version) {
                Err(KvError::Conflict)
            } else {
                Ok(())
            };
            assert_eq!(r.check(read_version, &[range(begin, end)]), expected, "version {version}");
        }
        assert!(r.segments.len() <= 2 * KEYS as usize);
    }
}
