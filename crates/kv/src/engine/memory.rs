//! The memory engine: all versions that are still read, in one ordered map.
//!
//! A snapshot costs nothing, since it is only a version number; values that no snapshot needs any more are dropped from the
//! front of a queue of replaced ones.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use super::{AckAfter, ApplyError, Engine, Scan};
use crate::KvError;
use crate::batch::{Batch, Version};
use crate::key::{KeyRange, KeyValue};
use crate::snapshots::Snapshots;

/// Values in memory only.
pub(crate) struct MemoryEngine {
    map: RwLock<VersionedMap>,
    last_version: AtomicU64,
    snapshots: Arc<Snapshots>,
}

impl MemoryEngine {
    /// An empty engine; versions begin above the registry's.
    pub(crate) fn new(snapshots: Arc<Snapshots>) -> Self {
        let last_version = AtomicU64::new(snapshots.published());
        MemoryEngine { map: RwLock::default(), last_version, snapshots }
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8], at: Version) -> Result<Option<Bytes>, KvError> {
        Ok(self.map.read().get(key, at))
    }

    fn scan(&self, range: &KeyRange, at: Version, reverse: bool, limit: usize) -> Result<Scan, KvError> {
        Ok(self.map.read().scan(range, at, reverse, limit))
    }

    fn next_version(&self) -> Version {
        self.last_version.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn apply(&self, batch: &Batch) -> Result<(), ApplyError> {
        let oldest = self.snapshots.oldest();
        self.map.write().apply(batch, oldest);
        Ok(())
    }

    fn ack_after(&self) -> AckAfter {
        AckAfter::Apply
    }

    fn sync(&self) -> Result<Version, KvError> {
        Ok(self.last_version.load(Ordering::Acquire))
    }

    fn close(&self) -> Result<(), KvError> {
        Ok(())
    }
}

/// Keys with the versions of their values that somebody may read.
#[derive(Debug, Default)]
pub(crate) struct VersionedMap {
    keys: BTreeMap<Bytes, Vec<Versioned>>,
    /// Keys by the version that replaced or removed an older value, which is dropped once nobody reads before it.
    superseded: VecDeque<(Version, Bytes)>,
}

#[derive(Debug, Clone)]
struct Versioned {
    from: Version,
    value: Option<Bytes>,
}

/// The newest value not above `at`; `versions` ascend.
fn visible(versions: &[Versioned], at: Version) -> Option<&Bytes> {
    versions.iter().rev().find(|versioned| versioned.from <= at)?.value.as_ref()
}

impl VersionedMap {
    pub(crate) fn get(&self, key: &[u8], at: Version) -> Option<Bytes> {
        visible(self.keys.get(key)?, at).cloned()
    }

    pub(crate) fn scan(&self, range: &KeyRange, at: Version, reverse: bool, limit: usize) -> Scan {
        if range.is_empty() || limit == 0 {
            return Scan::default();
        }
        let found =
            self.keys.range::<[u8], _>((Bound::Included(&range.begin[..]), Bound::Excluded(&range.end[..])));
        let live = |(key, versions): (&Bytes, &Vec<Versioned>)| {
            visible(versions, at).map(|value| KeyValue { key: key.clone(), value: value.clone() })
        };
        let entries: Vec<KeyValue> = if reverse {
            found.rev().filter_map(live).take(limit).collect()
        } else {
            found.filter_map(live).take(limit).collect()
        };
        Scan { more: entries.len() == limit, entries }
    }

    /// Adds a batch; drops what nobody reads at `oldest` or later.
    pub(crate) fn apply(&mut self, batch: &Batch, oldest: Version) {
        for op in &batch.ops {
            let versions = self.keys.entry(op.key.clone()).or_default();
            versions.push(Versioned { from: batch.version, value: op.value.clone() });
            if versions.len() > 1 || op.value.is_none() {
                self.superseded.push_back((batch.version, op.key.clone()));
            }
        }
        while self.superseded.front().is_some_and(|(version, _)| *version <= oldest) {
            let Some((_, key)) = self.superseded.pop_front() else { break };
            self.drop_unread(&key, oldest);
        }
    }

    fn drop_unread(&mut self, key: &Bytes, oldest: Version) {
        let Some(versions) = self.keys.get_mut(key) else { return };
        let needed = versions.iter().rposition(|versioned| versioned.from <= oldest).unwrap_or(0);
        versions.drain(..needed);
        if versions.len() == 1 && versions[0].value.is_none() && versions[0].from <= oldest {
            self.keys.remove(key);
        } else {
            versions.shrink_to(1);
        }
    }

    #[cfg(test)]
    fn stored_versions(&self) -> usize {
        self.keys.values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Op;

    fn batch(version: Version, ops: &[(&'static str, Option<&'static str>)]) -> Batch {
        let ops =
            ops.iter().map(|(key, value)| Op { key: (*key).into(), value: value.map(Into::into) }).collect();
        Batch { version, ops }
    }

    #[test]
    fn every_live_version_reads_its_own_values() {
        let mut map = VersionedMap::default();
        map.apply(&batch(1, &[("a", Some("1")), ("b", Some("1"))]), 0);
        map.apply(&batch(2, &[("a", Some("2")), ("b", None)]), 1);
        map.apply(&batch(3, &[("a", None), ("c", Some("3"))]), 1);
        let at = |version| {
            let all = KeyRange::new("", "z");
            let text =
                |entry: KeyValue| format!("{}", String::from_utf8_lossy(&[entry.key, entry.value].concat()));
            map.scan(&all, version, false, 10).entries.into_iter().map(text).collect::<Vec<_>>().join(" ")
        };
        assert_eq!((at(0), at(1), at(2), at(3)), ("".into(), "a1 b1".into(), "a2".into(), "c3".into()));
        assert_eq!(map.get(b"b", 1), Some("1".into()));
        assert_eq!(map.get(b"b", 2), None);
    }

    #[test]
    fn versions_nobody_reads_are_dropped() {
        let mut map = VersionedMap::default();
        for version in 1..=1000 {
            map.apply(&batch(version, &[("a", Some("x"))]), version - 1);
        }
        assert_eq!(map.stored_versions(), 2);
        map.apply(&batch(1001, &[("a", None)]), 1000);
        map.apply(&batch(1002, &[("b", Some("x"))]), 1001);
        assert_eq!(map.stored_versions(), 1);
    }

    #[test]
    fn a_removed_key_written_again_stays() {
        let mut map = VersionedMap::default();
        map.apply(&batch(1, &[("a", Some("x"))]), 0);
        map.apply(&batch(2, &[("a", None)]), 0);
        map.apply(&batch(3, &[("a", Some("y"))]), 0);
        map.apply(&batch(4, &[("b", Some("y"))]), 3);
        assert_eq!(map.get(b"a", 3), Some("y".into()));
        assert_eq!(map.get(b"a", 4), Some("y".into()));
    }

    #[test]
    fn scans_stop_at_the_limit() {
        let mut map = VersionedMap::default();
        map.apply(&batch(1, &[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))]), 0);
        let range = KeyRange::new("a", "c");
        let scan = map.scan(&range, 1, true, 1);
        assert_eq!((scan.entries[0].key.clone(), scan.more), ("b".into(), true));
        let scan = map.scan(&range, 1, false, 3);
        assert_eq!((scan.entries.len(), scan.more), (2, false));
    }
}
