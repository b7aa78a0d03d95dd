//! A transaction's own writes, as its later reads see them (read your writes).
//!
//! Pure: no store, no time. The order of calls is kept by construction: a range clear removes the point writes in the range,
//! a later point write stands above the cleared range. At commit, ranges are cleared first and point writes follow.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::batch::Mutation;
use crate::key::{KeyRange, KeyValue, key_after};
use crate::{KvError, VERSIONSTAMP_LEN};

/// The last write of the transaction to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Write {
    Value(Bytes),
    Cleared,
    /// The commit's versionstamp goes to `offset` of the value; nobody can read it before.
    Stamped {
        value: Bytes,
        offset: usize,
    },
}

/// What the transaction's own writes say about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Not written: the store decides.
    Unknown,
    /// Written by this transaction; `None` when cleared.
    Known(Option<Bytes>),
    /// Holds a versionstamp that is only known after commit.
    Unreadable,
}

/// The writes of a transaction.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    points: BTreeMap<Bytes, Write>,
    /// Cleared ranges by begin, disjoint and not touching.
    cleared: BTreeMap<Bytes, Bytes>,
}

impl Overlay {
    pub(crate) fn is_empty(&self) -> bool {
        self.points.is_empty() && self.cleared.is_empty()
    }

    pub(crate) fn set(&mut self, key: Bytes, value: Bytes) {
        self.points.insert(key, Write::Value(value));
    }

    pub(crate) fn clear(&mut self, key: Bytes) {
        self.points.insert(key, Write::Cleared);
    }

    /// The caller has checked that the stamp fits at `offset`.
    pub(crate) fn set_stamped(&mut self, key: Bytes, value: Bytes, offset: usize) {
        debug_assert!(offset + VERSIONSTAMP_LEN <= value.len());
        self.points.insert(key, Write::Stamped { value, offset });
    }

    pub(crate) fn clear_range(&mut self, range: KeyRange) {
        if range.is_empty() {
            return;
        }
        let covered: Vec<Bytes> = self.points_in(&range).map(|(key, _)| key.clone()).collect();
        for key in covered {
            self.points.remove(&key);
        }
        let KeyRange { mut begin, mut end } = range;
        // Swallow the ranges that overlap or touch.
        while let Some((found, found_end)) = self.cleared.range(..=end.clone()).next_back() {
            if *found_end < begin {
                break;
            }
            let (found, found_end) = (found.clone(), found_end.clone());
            self.cleared.remove(&found);
            begin = begin.min(found);
            end = end.max(found_end);
        }
        self.cleared.insert(begin, end);
    }

    /// What the transaction's writes say about `key`.
    pub(crate) fn lookup(&self, key: &[u8]) -> Lookup {
        match self.points.get(key) {
            Some(Write::Value(value)) => Lookup::Known(Some(value.clone())),
            Some(Write::Cleared) => Lookup::Known(None),
            Some(Write::Stamped { .. }) => Lookup::Unreadable,
            None if self.is_range_cleared(key) => Lookup::Known(None),
            None => Lookup::Unknown,
        }
    }

    fn is_range_cleared(&self, key: &[u8]) -> bool {
        self.cleared
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .is_some_and(|(_, end)| key < &end[..])
    }

    fn points_in(&self, range: &KeyRange) -> impl DoubleEndedIterator<Item = (&Bytes, &Write)> {
        // `BTreeMap::range` panics on an inverted range; the callers' ranges are checked, an empty one is not inverted.
        self.points.range::<[u8], _>((Bound::Included(&range.begin[..]), Bound::Excluded(&range.end[..])))
    }

    /// Lays the writes over what the store holds in `range`, which the caller read completely, in ascending order or, with
    /// `reverse`, in descending order. The result is in the same order.
    pub(crate) fn merge(
        &self,
        stored: Vec<KeyValue>,
        range: &KeyRange,
        reverse: bool,
    ) -> Result<Vec<KeyValue>, KvError> {
        if range.is_empty() || self.is_empty() {
            return Ok(stored);
        }
        let mut merged = Vec::with_capacity(stored.len());
        let mut stored = stored.into_iter().filter(|entry| !self.is_range_cleared(&entry.key)).peekable();
        let writes: Box<dyn Iterator<Item = _>> =
            if reverse { Box::new(self.points_in(range).rev()) } else { Box::new(self.points_in(range)) };
        for (key, write) in writes {
            let goes_first = |entry: &KeyValue| if reverse { entry.key > *key } else { entry.key < *key };
            while let Some(entry) = stored.next_if(goes_first) {
                merged.push(entry);
            }
            stored.next_if(|entry| entry.key == *key);
            match write {
                Write::Value(value) => merged.push(KeyValue { key: key.clone(), value: value.clone() }),
                Write::Cleared => {}
                Write::Stamped { .. } => return Err(unreadable()),
            }
        }
        merged.extend(stored);
        Ok(merged)
    }

    /// The writes as the store applies them: cleared ranges first.
    pub(crate) fn mutations(&self) -> Vec<Mutation> {
        let ranges = self
            .cleared
            .iter()
            .map(|(begin, end)| Mutation::ClearRange(KeyRange { begin: begin.clone(), end: end.clone() }));
        let points = self.points.iter().map(|(key, write)| match write {
            Write::Value(value) => Mutation::Set { key: key.clone(), value: value.clone() },
            Write::Cleared => Mutation::Clear { key: key.clone() },
            Write::Stamped { value, offset } => {
                Mutation::SetVersionstamped { key: key.clone(), value: value.clone(), offset: *offset }
            }
        });
        ranges.chain(points).collect()
    }
}

/// The error of reading a key whose value will hold the versionstamp.
pub(crate) fn unreadable() -> KvError {
    KvError::illegal("value holds a versionstamp that is unknown before commit")
}

/// The part of `range` that remains after reading up to and including `last`.
pub(crate) fn rest_after(range: &KeyRange, last: &Bytes, reverse: bool) -> KeyRange {
    if reverse {
        KeyRange { begin: range.begin.clone(), end: last.clone() }
    } else {
        KeyRange { begin: key_after(last), end: range.end.clone() }
    }
}

/// The part of `range` that reading up to and including `last` covered.
pub(crate) fn covered_to(range: &KeyRange, last: &Bytes, reverse: bool) -> KeyRange {
    if reverse {
        KeyRange { begin: last.clone(), end: range.end.clone() }
    } else {
        KeyRange { begin: range.begin.clone(), end: key_after(last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn range(begin: &str, end: &str) -> KeyRange {
        KeyRange::new(b(begin), b(end))
    }

    fn entries(text: &str) -> Vec<KeyValue> {
        text.split_whitespace()
            .map(|pair| {
                let (key, value) = pair.split_once('=').expect("key=value");
                KeyValue { key: b(key), value: b(value) }
            })
            .collect()
    }

    #[test]
    fn a_point_write_stands_above_an_earlier_range_clear() {
        let mut overlay = Overlay::default();
        overlay.set(b("b"), b("1"));
        overlay.clear_range(range("a", "d"));
        overlay.set(b("c"), b("2"));
        assert_eq!(overlay.lookup(b"b"), Lookup::Known(None));
        assert_eq!(overlay.lookup(b"c"), Lookup::Known(Some(b("2"))));
        assert_eq!(overlay.lookup(b"d"), Lookup::Unknown);
        let merged = overlay.merge(entries("a=0 b=0 d=0"), &range("a", "z"), false).unwrap();
        assert_eq!(merged, entries("c=2 d=0"));
    }

    #[test]
    fn merging_keeps_either_order() {
        let mut overlay = Overlay::default();
        overlay.set(b("a"), b("1"));
        overlay.set(b("c"), b("1"));
        overlay.clear(b("d"));
        overlay.set(b("f"), b("1"));
        let forward = overlay.merge(entries("b=0 c=0 d=0 e=0"), &range("a", "f"), false).unwrap();
        assert_eq!(forward, entries("a=1 b=0 c=1 e=0"));
        let reverse = overlay.merge(entries("e=0 d=0 c=0 b=0"), &range("a", "f"), true).unwrap();
        assert_eq!(reverse, entries("e=0 c=1 b=0 a=1"));
    }

    #[test]
    fn cleared_ranges_join() {
        let mut overlay = Overlay::default();
        overlay.clear_range(range("a", "b"));
        overlay.clear_range(range("d", "e"));
        overlay.clear_range(range("g", "h"));
        overlay.clear_range(range("b", "d"));
        assert_eq!(overlay.cleared.len(), 2);
        assert_eq!(overlay.cleared.get(&b("a")), Some(&b("e")));
        overlay.clear_range(range("aa", "ab"));
        overlay.clear_range(range("", "z"));
        assert_eq!(overlay.mutations(), vec![Mutation::ClearRange(range("", "z"))]);
    }

    #[test]
    fn a_stamped_value_cannot_be_read() {
        let mut overlay = Overlay::default();
        overlay.set_stamped(b("k"), b("0123456789"), 0);
        assert_eq!(overlay.lookup(b"k"), Lookup::Unreadable);
        assert!(overlay.merge(vec![], &range("a", "z"), false).is_err());
        assert!(overlay.merge(vec![], &range("l", "z"), false).is_ok());
        overlay.set(b("k"), b("v"));
        assert_eq!(overlay.lookup(b"k"), Lookup::Known(Some(b("v"))));
    }
}
