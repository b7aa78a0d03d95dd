//! What a read may see of a chunk (`src/storage/store/ChunkReplica.cc`, aioPrepareRead).

use super::version::{LocalChunk, Version};
use valor_protocol::status::code;

/// Which content a read gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The committed version.
    Committed(Version),
    /// The pending version, for a reader that asked for it.
    Pending(Version),
}

impl Source {
    /// The version read.
    pub fn version(&self) -> Version {
        match self {
            Source::Committed(version) | Source::Pending(version) => *version,
        }
    }
}

/// Chooses the content, or gives the status code to answer with: 4001 if there is no chunk, 4004 while a version is
/// pending and the reader wants committed data only.
pub fn source(chunk: &LocalChunk, uncommitted: bool) -> Result<Source, u16> {
    match (chunk.committed, chunk.pending) {
        (None, None) => Err(code::STORAGE_CHUNK_METADATA_NOT_FOUND),
        (Some(version), None) => Ok(Source::Committed(version)),
        (_, Some(_)) if !uncommitted => Err(code::STORAGE_CHUNK_NOT_COMMIT),
        (_, Some(pending)) if !pending.remove => Ok(Source::Pending(pending.version)),
        (Some(version), Some(_)) => Ok(Source::Committed(version)),
        (None, Some(_)) => Err(code::STORAGE_CHUNK_METADATA_NOT_FOUND),
    }
}

/// The part of `offset..offset + length` that lies within a chunk of `chunk_length` bytes; may be empty.
pub fn clip(offset: u32, length: u32, chunk_length: u32) -> u32 {
    chunk_length.saturating_sub(offset).min(length)
}

#[cfg(test)]
mod tests {
    use super::super::version::Pending;
    use super::*;
    use valor_protocol::ChunkVer;

    fn version(ver: u32) -> Version {
        Version { ver: ChunkVer(ver), ..Default::default() }
    }

    #[test]
    fn pending_version_hides_the_chunk_from_ordinary_reads() {
        let pending = |remove| Some(Pending { version: version(2), remove });
        let chunk =
            |committed: Option<u32>, pending| LocalChunk { committed: committed.map(version), pending };
        assert_eq!(source(&chunk(None, None), true), Err(code::STORAGE_CHUNK_METADATA_NOT_FOUND));
        assert_eq!(source(&chunk(Some(1), None), false), Ok(Source::Committed(version(1))));
        assert_eq!(source(&chunk(Some(1), pending(false)), false), Err(code::STORAGE_CHUNK_NOT_COMMIT));
        assert_eq!(source(&chunk(None, pending(false)), false), Err(code::STORAGE_CHUNK_NOT_COMMIT));
        assert_eq!(source(&chunk(Some(1), pending(true)), false), Err(code::STORAGE_CHUNK_NOT_COMMIT));
        assert_eq!(source(&chunk(Some(1), pending(false)), true), Ok(Source::Pending(version(2))));
        assert_eq!(source(&chunk(None, pending(false)), true), Ok(Source::Pending(version(2))));
        assert_eq!(source(&chunk(Some(1), pending(true)), true), Ok(Source::Committed(version(1))));
    }

    #[test]
    fn reads_end_at_the_chunk() {
        assert_eq!(clip(0, 10, 10), 10);
        assert_eq!(clip(9, 10, 10), 1);
        assert_eq!(clip(10, 10, 10), 0);
        assert_eq!(clip(u32::MAX, u32::MAX, 10), 0);
        assert_eq!(clip(0, 0, 10), 0);
    }
}
