//! What callers ask for and what they are told about chunks.

use std::fmt;

use bytes::Bytes;

use crate::ChunkId;

/// Largest chunk size, 64 MiB.
pub const MAX_CHUNK_SIZE: u32 = 64 << 20;

/// Who made a version, kept for `queryChunk` (3FS `ChunkMetadata`'s `last*` fields).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tag {
    /// Request id of the message tag.
    pub request_id: u64,
    /// Client uuid.
    pub client: [u8; 16],
    /// Node which sent it.
    pub node_id: u16,
    /// When, in microseconds since 1970.
    pub timestamp_us: i64,
}

/// One step of a chunk from a version to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// What changes.
    pub kind: UpdateKind,
    /// Version the chunk has after it. At least 1.
    pub ver: u32,
    /// Chain version the update was made under.
    pub chain_ver: u32,
    /// The chunk's capacity in bytes; must be the same in all updates of a chunk.
    pub chunk_size: u32,
    /// Who asks.
    pub tag: Tag,
}

/// What an [`Update`] changes. Checksums are in 3FS's form: CRC-32C with start value 0xffffffff and without a final xor.
#[derive(Clone, PartialEq)]
pub enum UpdateKind {
    /// Write bytes at `offset`; a gap between the chunk's end and `offset` becomes zeros.
    Write {
        /// First byte.
        offset: u32,
        /// The bytes, in pieces that follow each other. They are not copied.
        data: Vec<Bytes>,
        /// Checksum over all of `data`, verified.
        checksum: Option<u32>,
    },
    /// Set the length, growing with zeros.
    Truncate {
        /// New length.
        len: u32,
    },
    /// Grow to at least `len` with zeros; a longer chunk keeps its length and gets the new version only.
    Extend {
        /// Least length.
        len: u32,
    },
    /// Remove the chunk when committed.
    Remove,
    /// Make `data` the whole content, whatever there was and whatever version is pending (resync).
    Replace {
        /// The whole content, in pieces.
        data: Vec<Bytes>,
        /// Checksum over all of `data`, verified.
        checksum: Option<u32>,
    },
}

/// Lengths in place of data.
impl fmt::Debug for UpdateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |data: &[Bytes]| data.iter().map(Bytes::len).sum::<usize>();
        match self {
            UpdateKind::Write { offset, data, .. } => {
                write!(f, "Write {{ {} bytes at {offset} }}", sum(data))
            }
            UpdateKind::Truncate { len } => write!(f, "Truncate {{ {len} }}"),
            UpdateKind::Extend { len } => write!(f, "Extend {{ {len} }}"),
            UpdateKind::Remove => write!(f, "Remove"),
            UpdateKind::Replace { data, .. } => write!(f, "Replace {{ {} bytes }}", sum(data)),
        }
    }
}

/// One version of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VersionMeta {
    /// Chunk version.
    pub ver: u32,
    /// Chain version it was made under (pending) or committed under.
    pub chain_ver: u32,
    /// Bytes.
    pub length: u32,
    /// Checksum of the whole content in 3FS's form (of no bytes: 0xffffffff).
    pub checksum: u32,
    /// Who made it.
    pub tag: Tag,
}

/// A version that is on disk but not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingMeta {
    /// The version; of a removal, length and checksum are those of the chunk to be removed.
    pub version: VersionMeta,
    /// Whether committing it removes the chunk.
    pub removes: bool,
}

/// A chunk and its versions, at least one of `committed` and `pending`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkMeta {
    /// The chunk.
    pub id: ChunkId,
    /// Its capacity in bytes.
    pub chunk_size: u32,
    /// The committed version; none while the first version is pending.
    pub committed: Option<VersionMeta>,
    /// The version which waits for its commit.
    pub pending: Option<PendingMeta>,
}

/// What [`crate::Engine::read`] returns.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOutput {
    /// The bytes, as many as asked for or up to the chunk's end.
    pub data: Bytes,
    /// Checksum of `data` in 3FS's form.
    pub checksum: u32,
    /// The version read.
    pub version: VersionMeta,
    /// The committed version at that moment (`version` itself unless a pending version was read).
    pub committed: Option<VersionMeta>,
    /// Whether a pending version existed at that moment.
    pub has_pending: bool,
}
