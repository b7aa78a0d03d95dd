//! Writing chunks and changing their lengths: one request per operation, on an update channel that it keeps until it
//! succeeds or is given up, so that a server recognises repetitions.

use super::config::WriteOptions;
use super::send::{Sending, run_one};
use super::{StorageClient, TruncateOp, UpdateDone, WriteOp, inline_buffer};
use crate::join::join_all;
use std::collections::HashMap;
use valor_protocol::Status;
use valor_protocol::status::{code, with_message};
use valor_protocol::storage::methods::{TruncateChunks, Write};
use valor_protocol::storage::*;
use valor_protocol::user::UserInfo;
use valor_rpc::{CallOptions, KnownCrc};

fn done(result: IOResult) -> Result<UpdateDone, Status> {
    let versions = (&result).into();
    Ok(UpdateDone { length: result.length_info?, versions, checksum: result.checksum })
}

fn invalid(message: impl Into<String>) -> Status {
    with_message(code::STORAGE_CLIENT_INVALID_ARG, message)
}

/// Numbers of operations on the same chunk, in order, for all chunks.
fn by_chunk<'a, T>(ops: &'a [T], chunk: impl Fn(&'a T) -> &'a ChunkId) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::with_capacity(ops.len());
    let mut known = HashMap::with_capacity(ops.len());
    for (index, op) in ops.iter().enumerate() {
        match known.entry(chunk(op)) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(groups.len());
                groups.push(vec![index]);
            }
            std::collections::hash_map::Entry::Occupied(entry) => {
                if let Some(group) = groups.get_mut(*entry.get()) {
                    group.push(index);
                }
            }
        }
    }
    groups
}

/// Runs operations on different chunks in parallel, those on the same chunk in order; after a failure, the chunk's
/// later operations fail alike.
///
/// `run` is a plain closure, since futures over async closures are not recognised as `Send`.
async fn run_ordered<'a, T, R>(
    ops: &'a [T],
    chunk: impl Fn(&'a T) -> &'a ChunkId,
    run: impl Fn(&'a T) -> R,
) -> Vec<Result<UpdateDone, Status>>
where
    R: Future<Output = Result<UpdateDone, Status>>,
{
    let groups = by_chunk(ops, chunk);
    let ran = join_all(groups.iter().map(|group| async {
        let mut results: Vec<Result<UpdateDone, Status>> = Vec::with_capacity(group.len());
        for op in group.iter().filter_map(|&index| ops.get(index)) {
            let result = match results.last() {
                Some(Err(error)) => Err(error.clone()),
                _ => run(op).await,
            };
            results.push(result);
        }
        results
    }))
    .await;
    let mut all: Vec<(usize, Result<UpdateDone, Status>)> =
        groups.into_iter().flatten().zip(ran.into_iter().flatten()).collect();
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}

impl StorageClient {
    /// Writes pieces of chunks. A result for each, in order. Pieces of different chunks are written in parallel, pieces
    /// of the same chunk one after the other.
    pub async fn batch_write(
        &self,
        ops: &[WriteOp],
        user: &UserInfo,
        options: &WriteOptions,
    ) -> Vec<Result<UpdateDone, Status>> {
        run_ordered(ops, |op| &op.chunk_id, |op| self.write(op, user, options)).await
    }

    /// Writes a piece of a chunk.
    ///
    /// # Errors
    /// A storage client code (7xxx): 7002 if the piece does not fit the chunk, 7021 without space, and others.
    pub async fn write(
        &self,
        op: &WriteOp,
        user: &UserInfo,
        options: &WriteOptions,
    ) -> Result<UpdateDone, Status> {
        let length = u32::try_from(op.data.len()).map_err(|_| invalid("data is too large"))?;
        if op.chunk_size == 0 || op.offset.checked_add(length).is_none_or(|end| end > op.chunk_size) {
            return Err(invalid(format!("{length} bytes at {} of a chunk of {}", op.offset, op.chunk_size)));
        }
        let checksum = self.checksum_of(&op.data, options);
        let known = match checksum.r#type {
            ChecksumType::Crc32c => vec![KnownCrc { data: op.data.clone(), crc: checksum.value }],
            ChecksumType::None | ChecksumType::Crc32 => Vec::new(),
        };
        let held = self.channels.acquire(1).await;
        let channel = held.first().map(|channel| channel.next(1)).unwrap_or_default();
        let tag = self.tag(channel);
        let send = |to: Sending, v_chain_id| {
            let request = WriteReq {
                payload: UpdateIO {
                    offset: op.offset,
                    length,
                    chunk_size: op.chunk_size,
                    key: GlobalKey { v_chain_id, chunk_id: op.chunk_id.clone() },
                    rdmabuf: inline_buffer(length),
                    update_ver: Default::default(),
                    update_type: UpdateType::Write,
                    checksum,
                    inlinebuf: UInt8Vector { data: op.data.clone() },
                },
                tag: tag.clone(),
                retry_count: to.retry_count,
                user_info: user.clone(),
                feature_flags: FeatureFlags::SEND_DATA_INLINE,
                debug_flags: DebugFlags::default(),
            };
            let mut options = CallOptions::timeout(to.deadline);
            options.bulk_crc = known.clone();
            async move { done(self.rpc.call::<Write>(to.address, &request, &options).await?.result) }
        };
        run_one(self, &self.writes, op.chain_id, &options.target_selection, &options.retry, send).await
    }

    fn checksum_of(&self, data: &[u8], options: &WriteOptions) -> ChecksumInfo {
        let kind =
            if options.checksum { self.config.load().chunk_checksum_type.kind() } else { ChecksumType::None };
        let value = match kind {
            ChecksumType::None => 0,
            ChecksumType::Crc32c => valor_wire::storage_crc32c(data),
            ChecksumType::Crc32 => valor_wire::storage_crc32(data),
        };
        ChecksumInfo { r#type: kind, value }
    }

    /// Changes lengths of chunks. A result for each, in order.
    pub async fn truncate_chunks(
        &self,
        ops: &[TruncateOp],
        user: &UserInfo,
        options: &WriteOptions,
    ) -> Vec<Result<UpdateDone, Status>> {
        run_ordered(ops, |op| &op.chunk_id, |op| self.truncate_chunk(op, user, options)).await
    }

    /// Changes the length of a chunk, creating it if need be.
    ///
    /// # Errors
    /// A storage client code (7xxx): 7002 if the length exceeds the chunk's size, and others.
    pub async fn truncate_chunk(
        &self,
        op: &TruncateOp,
        user: &UserInfo,
        options: &WriteOptions,
    ) -> Result<UpdateDone, Status> {
        if op.chunk_len > op.chunk_size {
            return Err(invalid(format!("length {} of a chunk of {}", op.chunk_len, op.chunk_size)));
        }
        let held = self.channels.acquire(1).await;
        let channel = held.first().map(|channel| channel.next(1)).unwrap_or_default();
        let tag = self.tag(channel);
        let send = |to: Sending, v_chain_id| {
            let payload = TruncateChunkOp {
                v_chain_id,
                chunk_id: op.chunk_id.clone(),
                chunk_len: op.chunk_len,
                chunk_size: op.chunk_size,
                only_extend_chunk: op.only_extend,
                tag: tag.clone(),
                retry_count: to.retry_count,
            };
            let request = TruncateChunksReq {
                payloads: vec![payload],
                user_info: user.clone(),
                feature_flags: FeatureFlags::default(),
                debug_flags: DebugFlags::default(),
            };
            async move {
                let options = CallOptions::timeout(to.deadline);
                let mut reply = self.rpc.call::<TruncateChunks>(to.address, &request, &options).await?;
                match (reply.results.pop(), reply.results.is_empty()) {
                    (Some(result), true) => done(result),
                    _ => Err(with_message(code::STORAGE_CLIENT_FOUND_BUG, "not one result for one truncate")),
                }
            }
        };
        run_one(self, &self.truncates, op.chain_id, &options.target_selection, &options.retry, send).await
    }
}
