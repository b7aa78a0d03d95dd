//! Operations on chunks and their results.

use bytes::Bytes;
use valor_protocol::storage::{ChecksumInfo, ChunkId, ChunkIdRange, IOResult};
use valor_protocol::{ChainId, ChainVersion, ChunkVer};

/// Reads a piece of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOp {
    /// Chain.
    pub chain_id: ChainId,
    /// Chunk.
    pub chunk_id: ChunkId,
    /// Offset in the chunk, in bytes.
    pub offset: u32,
    /// Bytes wanted.
    pub length: u32,
}

/// A piece that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadDone {
    /// The bytes; fewer than wanted at the chunk's end. A slice of the response's memory.
    pub data: Bytes,
    /// Versions.
    pub versions: Versions,
    /// Checksum of the bytes, if asked for.
    pub checksum: ChecksumInfo,
}

/// Writes a piece of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOp {
    /// Chain.
    pub chain_id: ChainId,
    /// Chunk.
    pub chunk_id: ChunkId,
    /// Offset in the chunk, in bytes.
    pub offset: u32,
    /// Full size of the chunk, in bytes.
    pub chunk_size: u32,
    /// The bytes; sent without being copied.
    pub data: Bytes,
}

/// A piece that was written, or a chunk whose length was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateDone {
    /// Bytes written, or the length.
    pub length: u32,
    /// Versions.
    pub versions: Versions,
    /// Checksum of the chunk afterwards.
    pub checksum: ChecksumInfo,
}

/// Versions of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// Committed.
    pub commit: ChunkVer,
    /// Newest.
    pub update: ChunkVer,
    /// Chain version of the commit.
    pub commit_chain: ChainVersion,
}

impl From<&IOResult> for Versions {
    fn from(result: &IOResult) -> Self {
        Versions {
            commit: result.commit_ver,
            update: result.update_ver,
            commit_chain: result.commit_chain_ver,
        }
    }
}

/// Changes the length of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TruncateOp {
    /// Chain.
    pub chain_id: ChainId,
    /// Chunk.
    pub chunk_id: ChunkId,
    /// New length, in bytes.
    pub chunk_len: u32,
    /// Full size of the chunk, in bytes.
    pub chunk_size: u32,
    /// Never shorten it.
    pub only_extend: bool,
}

/// Works on a range of chunks of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeOp {
    /// Chain.
    pub chain_id: ChainId,
    /// Chunks; the largest come first. At most `max_num_chunk_ids_to_process`, which must not be 0.
    pub range: ChunkIdRange,
}

/// What was found in a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryDone {
    /// The chunk with the largest id, and its length; none if the range is empty.
    pub last: Option<(ChunkId, u32)>,
    /// Sum of the lengths of the chunks processed.
    pub total_len: u64,
    /// Number of chunks processed.
    pub total_chunks: u64,
    /// Not all of the range was processed.
    pub more: bool,
}

/// What was removed from a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoveDone {
    /// Number of chunks removed.
    pub removed: u32,
    /// There are more.
    pub more: bool,
}
