//! From bytes of a file to pieces of chunks.

use crate::routing::Routing;
use std::sync::Arc;
use valor_protocol::meta::{Inode, Layout};
use valor_protocol::status::{code, with_message};
use valor_protocol::storage::ChunkId;
use valor_protocol::{ChainId, ChainTableId, ChainTableVersion, InodeId, Status};

/// Where a file's bytes are. Cheap to clone; worth keeping while a file is open, since making one shuffles its chains.
#[derive(Clone, Debug)]
pub struct FileMap {
    inode: InodeId,
    table_id: ChainTableId,
    table_version: ChainTableVersion,
    chunk_size: u32,
    chains: Arc<[u32]>,
}

/// A piece of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Number of the chunk in the file.
    pub chunk_index: u32,
    /// Offset in the chunk, in bytes.
    pub offset: u32,
    /// Length, in bytes.
    pub length: u32,
}

impl FileMap {
    /// The map of a file with this layout.
    ///
    /// # Errors
    /// 3013 for a layout without chains or otherwise invalid.
    pub fn new(inode: InodeId, layout: &Layout) -> Result<FileMap, Status> {
        layout.valid(false)?;
        Ok(FileMap {
            inode,
            table_id: layout.table_id,
            table_version: layout.table_version,
            chunk_size: layout.chunk_size,
            chains: layout.chain_index_list()?.into(),
        })
    }

    /// The map of a file.
    ///
    /// # Errors
    /// 3010 if the inode is no file, else as [`FileMap::new`].
    pub fn of(inode: &Inode) -> Result<FileMap, Status> {
        let file = inode.data.as_file().ok_or_else(|| with_message(code::META_NOT_FILE, "not a file"))?;
        FileMap::new(inode.id, &file.layout)
    }

    /// The file.
    pub fn inode(&self) -> InodeId {
        self.inode
    }

    /// Bytes per chunk.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Chains of the file.
    pub fn stripe_size(&self) -> u32 {
        self.chains.len() as u32
    }

    /// Id of a chunk.
    pub fn chunk_id(&self, index: u32) -> ChunkId {
        ChunkId::for_file(self.inode, 0, index)
    }

    /// Chain of a chunk.
    ///
    /// # Errors
    /// 6004 if the routing information does not know the file's chain table.
    pub fn chain_of(&self, routing: &Routing, chunk_index: u32) -> Result<ChainId, Status> {
        self.chain_at(routing, chunk_index % self.stripe_size().max(1))
    }

    /// Chain at a position of the stripe.
    ///
    /// # Errors
    /// As [`FileMap::chain_of`].
    pub fn chain_at(&self, routing: &Routing, position: u32) -> Result<ChainId, Status> {
        let index = self.chains.get(position as usize).copied();
        index.and_then(|index| routing.chain_id(self.table_id, self.table_version, index)).ok_or_else(|| {
            let (table, version) = (self.table_id, self.table_version);
            let message = format!("chain table {table} version {version} is not known, or lacks an index");
            with_message(code::MGMTD_CLIENT_ROUTING_INFO_NOT_READY, message)
        })
    }

    /// Chains of the first `stripe` positions, each once: a stripe longer than its table meets chains again.
    ///
    /// # Errors
    /// As [`FileMap::chain_of`].
    pub fn chains(&self, routing: &Routing, stripe: u32) -> Result<Vec<ChainId>, Status> {
        let positions = 0..stripe.min(self.stripe_size());
        let mut chains: Vec<ChainId> =
            positions.map(|position| self.chain_at(routing, position)).collect::<Result<_, _>>()?;
        chains.sort_unstable();
        chains.dedup();
        Ok(chains)
    }

    /// Cuts a range at chunk boundaries, and pieces to `max_piece` bytes unless that is 0.
    ///
    /// # Errors
    /// 3102 for a range beyond the largest possible file.
    pub fn pieces(&self, offset: u64, length: u64, max_piece: u32) -> Result<Vec<Piece>, Status> {
        let size = u64::from(self.chunk_size);
        let too_large = || {
            with_message(
                code::META_FILE_TOO_LARGE,
                format!("{length} bytes at {offset} are beyond chunk 2^32"),
            )
        };
        let end = offset.checked_add(length).filter(|&end| end <= size << 32).ok_or_else(too_large)?;
        let limit = if max_piece == 0 { size } else { u64::from(max_piece) };
        let mut pieces = Vec::with_capacity(length.div_ceil(size) as usize + 1);
        let mut at = offset;
        while at < end {
            let in_chunk = at % size;
            let length = (size - in_chunk).min(end - at).min(limit);
            let chunk_index = u32::try_from(at / size).map_err(|_| too_large())?;
            pieces.push(Piece { chunk_index, offset: in_chunk as u32, length: length as u32 });
            at += length;
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::meta::{ChainList, Chains};

    fn map(chunk_size: u32, chains: &[u32]) -> FileMap {
        let layout = Layout {
            chunk_size,
            stripe_size: chains.len() as u32,
            chains: Chains::ChainList(ChainList { chain_indexes: chains.to_vec() }),
            ..Layout::default()
        };
        FileMap::new(InodeId(5), &layout).unwrap()
    }

    fn cut(offset: u64, length: u64, limit: u32) -> Vec<(u32, u32, u32)> {
        let pieces = map(8, &[1, 2]).pieces(offset, length, limit).unwrap();
        pieces.iter().map(|piece| (piece.chunk_index, piece.offset, piece.length)).collect()
    }

    #[test]
    fn pieces_end_at_chunks_and_limits() {
        assert_eq!(cut(3, 4, 0), [(0, 3, 4)]);
        assert_eq!(cut(3, 5, 0), [(0, 3, 5)]);
        assert_eq!(cut(3, 22, 0), [(0, 3, 5), (1, 0, 8), (2, 0, 8), (3, 0, 1)]);
        assert_eq!(cut(3, 8, 3), [(0, 3, 3), (0, 6, 2), (1, 0, 3)]);
        assert_eq!(cut(3, 0, 0), []);
    }

    #[test]
    fn the_last_chunk_is_the_end() {
        let map = map(8, &[1]);
        let end = 8u64 << 32;
        assert_eq!(
            map.pieces(end - 3, 3, 0).unwrap(),
            [Piece { chunk_index: u32::MAX, offset: 5, length: 3 }]
        );
        assert_eq!(map.pieces(end - 3, 4, 0).unwrap_err().code, 3102);
        assert_eq!(map.pieces(u64::MAX, 4, 0).unwrap_err().code, 3102);
    }

    #[test]
    fn chains_wrap_and_repeat() {
        let map = map(8, &[7, 9, 7]);
        let routing = Routing::default();
        let chain = |index| map.chain_of(&routing, index).unwrap().0;
        assert_eq!([0, 1, 2, 3].map(chain), [7, 9, 7, 7]);
        assert_eq!(map.chains(&routing, 3).unwrap(), [ChainId(7), ChainId(9)]);
        assert_eq!(map.chains(&routing, 1).unwrap(), [ChainId(7)]);
        assert_eq!(map.chains(&routing, 99).unwrap().len(), 2);
    }

    #[test]
    fn unknown_tables_and_bad_layouts() {
        let layout = Layout {
            table_id: ChainTableId(1),
            table_version: ChainTableVersion(1),
            chunk_size: 8,
            stripe_size: 1,
            chains: Chains::ChainList(ChainList { chain_indexes: vec![1] }),
        };
        let map = FileMap::new(InodeId(5), &layout).unwrap();
        assert_eq!(map.chain_of(&Routing::default(), 0).unwrap_err().code, 6004);
        assert_eq!(FileMap::new(InodeId(5), &Layout::default()).unwrap_err().code, 3013);
        assert_eq!(FileMap::new(InodeId(5), &Layout { chunk_size: 9, ..layout }).unwrap_err().code, 3013);
    }
}
