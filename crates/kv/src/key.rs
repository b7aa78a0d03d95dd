//! Keys, ranges of keys and the bounds on their sizes.

use bytes::Bytes;

use crate::{KvError, VERSIONSTAMP_LEN};

/// Longest key in bytes. FoundationDB's limit, so that a database can be moved there.
pub const MAX_KEY: usize = 10_000;
/// Longest value in bytes. FoundationDB's limit.
pub const MAX_VALUE: usize = 100_000;
/// Largest sum of keys, values and conflict ranges of one transaction in bytes. FoundationDB's limit.
pub const MAX_TRANSACTION: usize = 10_000_000;

/// Key whose value changes with what all clients cache: a versionstamp, only ever written by
/// [`crate::Transaction::set_versionstamped_value`] (3FS `kMetadataVersionKey`).
pub const METADATA_VERSION_KEY: &[u8] = b"\xff/metadataVersion";

/// First byte of keys that belong to the store. Reads and writes of [`METADATA_VERSION_KEY`] are the one exception.
pub(crate) const SYSTEM_PREFIX: u8 = 0xff;

/// The first key after `key`: the end of the range that holds `key` alone.
pub fn key_after(key: &[u8]) -> Bytes {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    after.into()
}

/// The first key after every key that starts with `prefix`; empty when there is none (`prefix` is all 0xff).
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff).map_or(0, |last| last + 1);
    let mut end = prefix[..kept].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// The keys from `begin` (inclusive) to `end` (exclusive), in byte order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    /// First key of the range.
    pub begin: Bytes,
    /// First key after the range.
    pub end: Bytes,
}

impl KeyRange {
    /// The range between two keys.
    pub fn new(begin: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        KeyRange { begin: begin.into(), end: end.into() }
    }

    /// The range that holds one key.
    pub fn single(key: &[u8]) -> Self {
        // One allocation serves both ends.
        let end = key_after(key);
        KeyRange { begin: end.slice(..key.len()), end }
    }

    /// All keys that start with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        KeyRange { begin: Bytes::copy_from_slice(prefix), end: prefix_end(prefix) }
    }

    /// Whether no key is in the range.
    pub fn is_empty(&self) -> bool {
        self.begin >= self.end
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.begin[..] && key < &self.end[..]
    }

    pub(crate) fn size(&self) -> usize {
        self.begin.len() + self.end.len()
    }
}

/// Sorts ranges and joins those that touch; drops empty ones.
pub(crate) fn coalesce(mut ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort();
    ranges.dedup_by(|next, kept| {
        let touches = next.begin <= kept.end;
        if touches && next.end > kept.end {
            kept.end = std::mem::take(&mut next.end);
        }
        touches
    });
    ranges
}

/// Checks a key to be read.
pub(crate) fn check_readable(key: &[u8]) -> Result<(), KvError> {
    if key.len() > MAX_KEY {
        return Err(KvError::TooLarge { what: "key", size: key.len(), limit: MAX_KEY });
    }
    if key.first() == Some(&SYSTEM_PREFIX) && key != METADATA_VERSION_KEY {
        return Err(KvError::illegal("keys from \\xff on belong to the store"));
    }
    Ok(())
}

/// Checks a key to be written by `set`, `clear` or a range of them.
pub(crate) fn check_writable(key: &[u8]) -> Result<(), KvError> {
    check_readable(key)?;
    if key.is_empty() {
        return Err(KvError::illegal("the empty key cannot be written"));
    }
    if key == METADATA_VERSION_KEY {
        return Err(KvError::illegal("the metadata version is only set as a versionstamp"));
    }
    Ok(())
}

/// Checks a value.
pub(crate) fn check_value(value: &[u8]) -> Result<(), KvError> {
    if value.len() > MAX_VALUE {
        return Err(KvError::TooLarge { what: "value", size: value.len(), limit: MAX_VALUE });
    }
    Ok(())
}

/// Checks a write of a versionstamp at `offset` of `value`.
pub(crate) fn check_stamped(key: &[u8], value: &[u8], offset: usize) -> Result<(), KvError> {
    if key != METADATA_VERSION_KEY {
        check_writable(key)?;
    }
    check_value(value)?;
    if offset.checked_add(VERSIONSTAMP_LEN).is_none_or(|end| end > value.len()) {
        return Err(KvError::illegal("a versionstamp does not fit into its value"));
    }
    Ok(())
}

/// Checks the ends of a range of ordinary keys. An end at `\xff` is the end of the database.
pub(crate) fn check_range(begin: &[u8], end: &[u8]) -> Result<(), KvError> {
    for (what, key) in [("range begin", begin), ("range end", end)] {
        // An end is often the successor of a longest key.
        if key.len() > MAX_KEY + 1 {
            return Err(KvError::TooLarge { what, size: key.len(), limit: MAX_KEY + 1 });
        }
        if key > &[SYSTEM_PREFIX][..] && !is_metadata_version_range(begin, end) {
            return Err(KvError::illegal("keys from \\xff on belong to the store"));
        }
    }
    if begin > end {
        return Err(KvError::illegal("a range's begin is after its end"));
    }
    Ok(())
}

fn is_metadata_version_range(begin: &[u8], end: &[u8]) -> bool {
    begin == METADATA_VERSION_KEY && end == &key_after(METADATA_VERSION_KEY)[..]
}

/// One entry of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successors() {
        assert_eq!(&key_after(b"a")[..], b"a\0");
        assert_eq!(&prefix_end(b"DENT")[..], b"DENU");
        assert_eq!(&prefix_end(b"a\xff\xff")[..], b"b");
        assert_eq!(&prefix_end(b"\xff")[..], b"");
    }

    #[test]
    fn coalescing_joins_what_touches() {
        let range = |begin: &'static str, end: &'static str| KeyRange::new(begin, end);
        let joined = coalesce(vec![
            range("m", "n"),
            range("a", "c"),
            range("b", "d"),
            range("d", "e"),
            range("x", "x"),
            range("aa", "ab"),
        ]);
        assert_eq!(joined, vec![range("a", "e"), range("m", "n")]);
    }

    #[test]
    fn reserved_keys() {
        assert!(check_writable(b"\xfe").is_ok());
        assert!(check_readable(METADATA_VERSION_KEY).is_ok());
        assert!(check_writable(METADATA_VERSION_KEY).is_err());
        assert!(check_readable(b"\xff").is_err());
        assert!(check_readable(b"").is_ok());
        assert!(check_writable(b"").is_err());
        assert!(check_range(b"", b"\xff").is_ok());
        assert!(check_range(b"", b"\xff\0").is_err());
        assert!(check_range(b"b", b"a").is_err());
        assert!(check_range(METADATA_VERSION_KEY, &key_after(METADATA_VERSION_KEY)).is_ok());
    }
}
