//! Names of chunks.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

/// Ids up to this many bytes are kept in place. 3FS's chunk ids have 16.
const INLINE: usize = 22;

/// Longest id the engine accepts.
pub const MAX_ID_LEN: usize = 255;

/// A chunk's name: any bytes, ordered as bytes. 24 bytes of memory for ids of up to 22 bytes.
#[derive(Clone)]
pub struct ChunkId(Repr);

#[derive(Clone)]
enum Repr {
    Inline(u8, [u8; INLINE]),
    Heap(Box<[u8]>),
}

impl ChunkId {
    /// The id made of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        if bytes.len() > INLINE {
            return ChunkId(Repr::Heap(bytes.into()));
        }
        let mut inline = [0; INLINE];
        inline[..bytes.len()].copy_from_slice(bytes);
        ChunkId(Repr::Inline(bytes.len() as u8, inline))
    }

    /// The id's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Repr::Heap(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for ChunkId {
    fn from(bytes: &[u8]) -> Self {
        ChunkId::new(bytes)
    }
}

impl AsRef<[u8]> for ChunkId {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Borrow<[u8]> for ChunkId {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for ChunkId {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for ChunkId {}

impl PartialOrd for ChunkId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ChunkId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl std::hash::Hash for ChunkId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// Hexadecimal, as `query-chunk` and `dump-chunkmeta` write ids.
impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02X}"))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_ordered_as_bytes_and_equal_across_forms() {
        assert_eq!(std::mem::size_of::<ChunkId>(), 24);
        let ids: Vec<Vec<u8>> =
            vec![vec![], vec![0], vec![0, 0], vec![1; 22], vec![1; 23], vec![1; 200], vec![2]];
        for a in &ids {
            assert_eq!(ChunkId::new(a).as_bytes(), &a[..]);
            for b in &ids {
                assert_eq!(ChunkId::new(a).cmp(&ChunkId::new(b)), a.cmp(b));
            }
        }
        assert_eq!(ChunkId::new(&[0xab, 1]).to_string(), "AB01");
    }
}
