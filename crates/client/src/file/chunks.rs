//! Whole-file operations on chunks: length, removal, truncation, punching (`src/fbs/meta/FileOperation.cc`).

use super::{FileIo, FileMap};
use crate::routing::Routing;
use crate::storage::{RangeOp, ReadOptions, RetryOptions, TruncateOp, WriteOptions};
use valor_protocol::Status;
use valor_protocol::status::{code, with_message};
use valor_protocol::storage::{ChunkId, ChunkIdRange};
use valor_protocol::user::UserInfo;

/// What storage knows of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileChunks {
    /// End of the last chunk.
    pub length: u64,
    /// Sum of the lengths of all chunks that were counted.
    pub total_len: u64,
    /// Number of chunks that were counted.
    pub total_chunks: u64,
}

fn corrupt(message: String) -> Status {
    with_message(code::DATA_CORRUPTION, message)
}

impl FileIo {
    /// Asks storage for the end of a file. `dyn_stripe` is the number of chains in use, 0 for all of them; `count_all`
    /// also counts the chunks.
    ///
    /// # Errors
    /// 3019 if there are chunks beyond the chains in use, which means that the file is being extended; 2 for chunks that
    /// are none of the file; else what storage failed with.
    pub async fn chunks(
        &self,
        user: &UserInfo,
        map: &FileMap,
        dyn_stripe: u32,
        count_all: bool,
    ) -> Result<FileChunks, Status> {
        let stripe = stripe_in_use(map, dyn_stripe);
        let chains = self.routed(|routing| map.chains(routing, stripe)).await?;
        let (begin, end) = ChunkId::file_range(map.inode(), 0);
        let max_num_chunk_ids_to_process = if count_all { u32::MAX } else { 1 };
        let range = ChunkIdRange { begin, end, max_num_chunk_ids_to_process };
        let ops: Vec<RangeOp> =
            chains.into_iter().map(|chain_id| RangeOp { chain_id, range: range.clone() }).collect();
        let results = self.storage.query_last_chunk(&ops, user, &ReadOptions::default()).await;
        let mut all = FileChunks::default();
        for result in results {
            let found = result?;
            let Some((id, length)) = found.last else { continue };
            let Some((inode, _, index)) = id.parse_file().filter(|(inode, ..)| *inode == map.inode()) else {
                return Err(corrupt(format!("chunk {id} is none of inode {}", map.inode())));
            };
            if stripe < map.stripe_size() && index >= stripe {
                let message = format!("inode {inode} has chunk {index} beyond its {stripe} chains in use");
                return Err(with_message(code::META_BUSY, message));
            }
            all.length = all.length.max(u64::from(index) * u64::from(map.chunk_size()) + u64::from(length));
            all.total_len += found.total_len;
            all.total_chunks += found.total_chunks;
        }
        Ok(all)
    }

    /// The end of a file as storage knows it. See [`FileIo::chunks`].
    ///
    /// # Errors
    /// As [`FileIo::chunks`].
    pub async fn length(&self, user: &UserInfo, map: &FileMap, dyn_stripe: u32) -> Result<u64, Status> {
        Ok(self.chunks(user, map, dyn_stripe, false).await?.length)
    }

    /// Removes up to `batch` chunks of each chain that lie wholly behind `length`. Gives the number removed and whether
    /// more are left.
    ///
    /// # Errors
    /// What storage failed with; some chunks may be removed then.
    pub async fn remove_chunks(
        &self,
        user: &UserInfo,
        map: &FileMap,
        length: u64,
        batch: u32,
        dyn_stripe: u32,
        retry: RetryOptions,
    ) -> Result<(u64, bool), Status> {
        let Ok(first) = u32::try_from(length.div_ceil(u64::from(map.chunk_size()))) else {
            return Ok((0, false));
        };
        let (begin, end) = ChunkId::file_range(map.inode(), first);
        let range = ChunkIdRange { begin, end, max_num_chunk_ids_to_process: batch };
        self.remove_range(user, map, range, stripe_in_use(map, dyn_stripe), retry).await
    }

    async fn remove_range(
        &self,
        user: &UserInfo,
        map: &FileMap,
        range: ChunkIdRange,
        stripe: u32,
        retry: RetryOptions,
    ) -> Result<(u64, bool), Status> {
        let chains = self.routed(|routing| map.chains(routing, stripe)).await?;
        let ops: Vec<RangeOp> =
            chains.into_iter().map(|chain_id| RangeOp { chain_id, range: range.clone() }).collect();
        let options = WriteOptions { retry, ..WriteOptions::default() };
        let (mut removed, mut more) = (0, false);
        for result in self.storage.remove_chunks(&ops, user, &options).await {
            let done = result?;
            removed += u64::from(done.removed);
            more |= done.more;
        }
        Ok((removed, more))
    }

    /// Gives the chunk in which a file of `length` bytes ends its length, creating it if need be; with `only_extend` it
    /// is left as it is where it is longer. Nothing for length 0.
    ///
    /// # Errors
    /// 3102 beyond the largest possible file, else what storage failed with.
    pub async fn truncate_last_chunk(
        &self,
        user: &UserInfo,
        map: &FileMap,
        length: u64,
        only_extend: bool,
    ) -> Result<(), Status> {
        let Some(last_byte) = length.checked_sub(1) else { return Ok(()) };
        let Some(piece) = map.pieces(last_byte, 1, 0)?.pop() else { return Ok(()) };
        let op = TruncateOp {
            chain_id: self.routed(|routing| map.chain_of(routing, piece.chunk_index)).await?,
            chunk_id: map.chunk_id(piece.chunk_index),
            chunk_len: piece.offset + 1,
            chunk_size: map.chunk_size(),
            only_extend,
        };
        self.storage.truncate_chunk(&op, user, &WriteOptions::default()).await.map(drop)
    }

    /// Removes the chunks of `start..end`, which must be multiples of the chunk size: the range reads as zeros. The
    /// file's length stays as recorded.
    ///
    /// # Errors
    /// 3 for a range that is not made of chunks, else what storage failed with.
    pub async fn punch(&self, user: &UserInfo, map: &FileMap, start: u64, end: u64) -> Result<u64, Status> {
        let size = u64::from(map.chunk_size());
        if !start.is_multiple_of(size) || !end.is_multiple_of(size) || start > end {
            return Err(with_message(
                code::INVALID_ARG,
                format!("{start}..{end} is not made of chunks of {size}"),
            ));
        }
        let (Ok(first), count) = (u32::try_from(start / size), (end - start) / size) else { return Ok(0) };
        let begin = map.chunk_id(first);
        let end = u32::try_from(end / size)
            .map_or_else(|_| ChunkId::for_file(map.inode(), 1, 0), |end| map.chunk_id(end));
        let limit = u32::try_from(count).unwrap_or(u32::MAX);
        if limit == 0 {
            return Ok(0);
        }
        let range = ChunkIdRange { begin, end, max_num_chunk_ids_to_process: limit };
        let (removed, _) =
            self.remove_range(user, map, range, map.stripe_size(), RetryOptions::default()).await?;
        Ok(removed)
    }

    /// Looks something up in the routing information; a second time after a refresh if it is not there.
    pub(super) async fn routed<T>(&self, look: impl Fn(&Routing) -> Result<T, Status>) -> Result<T, Status> {
        let mgmtd = self.storage.mgmtd();
        match look(&mgmtd.routing()) {
            Err(error) if error.code == code::MGMTD_CLIENT_ROUTING_INFO_NOT_READY => {
                // Success or not: what is known then decides.
                let _ = mgmtd.refresh_now().await;
                look(&mgmtd.routing())
            }
            result => result,
        }
    }
}

fn stripe_in_use(map: &FileMap, dyn_stripe: u32) -> u32 {
    if dyn_stripe == 0 { map.stripe_size() } else { dyn_stripe.min(map.stripe_size()) }
}
