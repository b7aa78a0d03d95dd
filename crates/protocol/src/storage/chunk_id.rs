//! Chunk ids: any bytes to the storage service, 16 bytes when metadata makes them.

use crate::id::InodeId;
use bytes::Bytes;
use valor_wire::{DecodeError, Decoder, Encoder, Wire};

/// Longest id kept without an allocation.
const INLINE: usize = 30;

#[derive(Clone)]
enum Repr {
    Inline(u8, [u8; INLINE]),
    Shared(Bytes),
}

/// Name of a chunk within its chain. Compared bytewise.
///
/// Ids of files are 16 bytes: two zero bytes, inode, track and chunk index, all big-endian
/// (`src/fbs/meta/Schema.h`), so that a file's chunks sort by index.
#[derive(Clone)]
pub struct ChunkId(Repr);

impl ChunkId {
    /// Length of the ids of files.
    pub const FILE_ID_LEN: usize = 16;

    /// An id of these bytes.
    pub fn from_slice(bytes: &[u8]) -> ChunkId {
        if bytes.len() <= INLINE {
            let mut inline = [0; INLINE];
            inline[..bytes.len()].copy_from_slice(bytes);
            ChunkId(Repr::Inline(bytes.len() as u8, inline))
        } else {
            ChunkId(Repr::Shared(Bytes::copy_from_slice(bytes)))
        }
    }

    /// Chunk `index` of a file. `track` is 0 for all present files.
    pub fn for_file(inode: InodeId, track: u16, index: u32) -> ChunkId {
        let mut id = [0; Self::FILE_ID_LEN];
        id[2..10].copy_from_slice(&inode.0.to_be_bytes());
        id[10..12].copy_from_slice(&track.to_be_bytes());
        id[12..16].copy_from_slice(&index.to_be_bytes());
        Self::from_slice(&id)
    }

    /// Begin and end of a file's chunks from `first_index` on.
    pub fn file_range(inode: InodeId, first_index: u32) -> (ChunkId, ChunkId) {
        (Self::for_file(inode, 0, first_index), Self::for_file(inode, 1, 0))
    }

    /// Inode, track and chunk index, if the id has a file's form.
    pub fn parse_file(&self) -> Option<(InodeId, u16, u32)> {
        let id: &[u8; Self::FILE_ID_LEN] = self.as_slice().try_into().ok()?;
        let [_, _, a, b, c, d, e, f, g, h, t0, t1, i0, i1, i2, i3] = *id;
        Some((
            InodeId(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            u16::from_be_bytes([t0, t1]),
            u32::from_be_bytes([i0, i1, i2, i3]),
        ))
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// True for the id of no bytes, which names no chunk.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }
}

impl Default for ChunkId {
    fn default() -> Self {
        ChunkId(Repr::Inline(0, [0; INLINE]))
    }
}

impl PartialEq for ChunkId {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for ChunkId {}

impl PartialOrd for ChunkId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ChunkId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl std::hash::Hash for ChunkId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl From<&[u8]> for ChunkId {
    fn from(bytes: &[u8]) -> Self {
        Self::from_slice(bytes)
    }
}

impl std::fmt::Display for ChunkId {
    /// Hex in four groups of four bytes, as 3FS prints ids.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, byte) in self.as_slice().iter().enumerate() {
            if i > 0 && i % 4 == 0 {
                f.write_str("-")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChunkId({self})")
    }
}

impl Wire for ChunkId {
    const MIN_SIZE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        match &self.0 {
            Repr::Inline(len, bytes) => out.put_string(&bytes[..usize::from(*len)]),
            Repr::Shared(bytes) => bytes.encode(out),
        }
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        let len = input.length()?;
        if len <= INLINE {
            Ok(Self::from_slice(input.take(len)?))
        } else {
            // A copy, so that an id kept in a map does not keep a whole message alive.
            Ok(ChunkId(Repr::Shared(Bytes::copy_from_slice(input.take(len)?))))
        }
    }
}
