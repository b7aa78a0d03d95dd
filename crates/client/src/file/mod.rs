//! Files as bytes: striping over chunks, holes, lengths.

mod assemble;
mod chunks;
mod map;

pub use assemble::{FileData, Holes};
pub use chunks::FileChunks;
pub use map::{FileMap, Piece};

use crate::storage::{ReadOp, ReadOptions, StorageClient, WriteOp, WriteOptions};
use assemble::{join_read, join_write};
use bytes::Bytes;
use std::sync::Arc;
use valor_protocol::Status;
use valor_protocol::status::{code, status};
use valor_protocol::user::UserInfo;

/// Reads and writes files over their layouts. Knows nothing of lengths recorded in metadata.
#[derive(Clone)]
pub struct FileIo {
    storage: Arc<StorageClient>,
}

/// How files are read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileReadOptions {
    /// What to do about holes.
    pub holes: Holes,
    /// Largest piece that a request asks for, in bytes; 0 = a chunk.
    pub max_piece: u32,
    /// How chunks are read.
    pub storage: ReadOptions,
}

/// How files are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileWriteOptions {
    /// Largest piece that a request carries, in bytes; 0 = a chunk.
    pub max_piece: u32,
    /// How chunks are written.
    pub storage: WriteOptions,
}

/// A range of a file to read.
#[derive(Clone, Copy, Debug)]
pub struct FileRead<'a> {
    /// File.
    pub map: &'a FileMap,
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u32,
    /// The file's length, if known: bytes missing before it are a hole. Without it, as in 3FS, a read that ends in a
    /// hole is short.
    pub file_length: Option<u64>,
}

/// Bytes of a file to write.
#[derive(Clone, Debug)]
pub struct FileWrite<'a> {
    /// File.
    pub map: &'a FileMap,
    /// Offset in bytes.
    pub offset: u64,
    /// The bytes; sent without being copied.
    pub data: Bytes,
}

impl FileIo {
    /// Over a storage client.
    pub fn new(storage: Arc<StorageClient>) -> FileIo {
        FileIo { storage }
    }

    /// The storage client.
    pub fn storage(&self) -> &Arc<StorageClient> {
        &self.storage
    }

    /// Reads a range of a file. Short at the end of the file.
    ///
    /// # Errors
    /// 8001 for a hole that is not wanted, else the first piece's failure.
    pub async fn read(
        &self,
        user: &UserInfo,
        read: FileRead<'_>,
        options: &FileReadOptions,
    ) -> Result<FileData, Status> {
        let results = self.read_many(user, &[read], options).await;
        results.into_iter().next().unwrap_or_else(|| Err(status(code::FOUND_BUG)))
    }

    /// Reads many ranges with as few requests as possible. A result for each, in order.
    pub async fn read_many(
        &self,
        user: &UserInfo,
        reads: &[FileRead<'_>],
        options: &FileReadOptions,
    ) -> Vec<Result<FileData, Status>> {
        let mut ops = Vec::with_capacity(reads.len());
        let mut cut = Vec::with_capacity(reads.len());
        for read in reads {
            let pieces = self.located(read.map, read.offset, u64::from(read.length), options.max_piece).await;
            cut.push(pieces.map(|pieces| {
                let count = pieces.len();
                ops.extend(pieces.into_iter().map(|(piece, chain_id)| ReadOp {
                    chain_id,
                    chunk_id: read.map.chunk_id(piece.chunk_index),
                    offset: piece.offset,
                    length: piece.length,
                }));
                count
            }));
        }
        let results = self.storage.batch_read(&ops, user, &options.storage).await;
        let mut results = ops.iter().map(|op| op.length).zip(results);
        let join = |(read, count): (&FileRead<'_>, Result<usize, Status>)| {
            let known = read.file_length.map_or(0, |length| length.saturating_sub(read.offset));
            // All pieces are taken, also after an error, so that the next read finds its own.
            let pieces: Vec<_> = results.by_ref().take(count?).collect();
            join_read(pieces, options.holes, known)
        };
        reads.iter().zip(cut).map(join).collect()
    }

    /// Writes bytes to a file. Gives the number written, which may be short.
    ///
    /// # Errors
    /// The first piece's failure; other pieces may be written.
    pub async fn write(
        &self,
        user: &UserInfo,
        write: FileWrite<'_>,
        options: &FileWriteOptions,
    ) -> Result<u64, Status> {
        let results = self.write_many(user, &[write], options).await;
        results.into_iter().next().unwrap_or_else(|| Err(status(code::FOUND_BUG)))
    }

    /// Writes many ranges in parallel. A result for each, in order. Ranges that touch the same chunk are written in
    /// order.
    pub async fn write_many(
        &self,
        user: &UserInfo,
        writes: &[FileWrite<'_>],
        options: &FileWriteOptions,
    ) -> Vec<Result<u64, Status>> {
        let mut ops = Vec::with_capacity(writes.len());
        let mut cut = Vec::with_capacity(writes.len());
        for write in writes {
            let length = write.data.len() as u64;
            let pieces = self.located(write.map, write.offset, length, options.max_piece).await;
            cut.push(pieces.map(|pieces| {
                let count = pieces.len();
                let mut rest = write.data.clone();
                ops.extend(pieces.into_iter().map(|(piece, chain_id)| WriteOp {
                    chain_id,
                    chunk_id: write.map.chunk_id(piece.chunk_index),
                    offset: piece.offset,
                    chunk_size: write.map.chunk_size(),
                    data: rest.split_to(piece.length as usize),
                }));
                count
            }));
        }
        let results = self.storage.batch_write(&ops, user, &options.storage).await;
        let mut results = ops.iter().map(|op| op.data.len() as u32).zip(results);
        let join = |count: Result<usize, Status>| {
            let pieces: Vec<_> = results.by_ref().take(count?).collect();
            join_write(pieces)
        };
        cut.into_iter().map(join).collect()
    }

    /// Cuts a range into pieces and finds their chains.
    async fn located(
        &self,
        map: &FileMap,
        offset: u64,
        length: u64,
        max_piece: u32,
    ) -> Result<Vec<(Piece, valor_protocol::ChainId)>, Status> {
        let pieces = map.pieces(offset, length, max_piece)?;
        self.routed(|routing| {
            pieces.iter().map(|piece| Ok((*piece, map.chain_of(routing, piece.chunk_index)?))).collect()
        })
        .await
    }
}
