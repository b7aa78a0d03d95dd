//! Ranges of chunks: last chunks, removals, truncations (`StorageOperator.cc`).

use std::sync::Arc;

use valor_chunk_engine::ChunkMeta as EngineMeta;
use valor_protocol::status::code;
use valor_protocol::storage::IOResult;
use valor_protocol::storage::{
    ChunkId, ChunkIdRange, GlobalKey, QueryLastChunkOp, QueryLastChunkReq, QueryLastChunkResult,
    QueryLastChunkRsp, RemoveChunksOp, RemoveChunksReq, RemoveChunksResult, RemoveChunksRsp, TruncateChunkOp,
    TruncateChunksReq, TruncateChunksRsp, UpdateIO, UpdateType, VersionedChainId,
};
use valor_protocol::{Status, Void};

use crate::storage::Storage;
use crate::update::{Incoming, from_client};

/// Walks a range of chunks from the largest id downwards.
struct Walk {
    chain: VersionedChainId,
    begin: ChunkId,
    end: ChunkId,
    /// Chunks that may still be handed out; then one more is looked for.
    left: u64,
    page: u32,
    /// Also chunks whose first version or removal is pending: such a removal is not in all replicas yet, and lost if this
    /// one is.
    uncommitted: bool,
    finished: bool,
    more: bool,
}

impl Walk {
    fn new(chain: VersionedChainId, range: &ChunkIdRange, page: u32) -> Walk {
        let left = match range.max_num_chunk_ids_to_process {
            0 => u64::MAX,
            max => u64::from(max),
        };
        let (begin, end) = (range.begin.clone(), range.end.clone());
        Walk { chain, begin, end, left, page, uncommitted: false, finished: false, more: false }
    }

    /// The next chunks; empty at the end.
    fn next(&mut self, storage: &Storage) -> Result<Vec<EngineMeta>, Status> {
        while !self.finished {
            let limit = self.left.saturating_add(1).min(u64::from(self.page)) as usize;
            let target = storage.lookup(self.chain, false)?;
            let Some(open) = &target.store else {
                return Err(Status::new(code::STORAGE_TARGET_OFFLINE, "target is offline"));
            };
            let (page, more) =
                open.engine().query_descending(self.begin.as_slice(), self.end.as_slice(), limit);
            match page.last() {
                Some(last) if more => self.end = ChunkId::from_slice(last.id.as_bytes()),
                _ => self.finished = true,
            }
            let removing = |meta: &EngineMeta| meta.pending.is_some_and(|pending| pending.removes);
            let wanted =
                |meta: &EngineMeta| self.uncommitted || (meta.committed.is_some() && !removing(meta));
            let mut found: Vec<_> = page.into_iter().filter(wanted).collect();
            if found.len() as u64 > self.left {
                self.more = true;
                self.finished = true;
                found.truncate(self.left as usize);
            }
            self.left -= found.len() as u64;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }
}

impl Storage {
    fn walk(&self, chain: VersionedChainId, range: &ChunkIdRange) -> Walk {
        Walk::new(chain, range, self.config.get().storage.max_num_results_per_query)
    }

    pub(crate) fn query_last_chunk(&self, req: &QueryLastChunkReq) -> QueryLastChunkRsp {
        QueryLastChunkRsp { results: req.payloads.iter().map(|op| self.query_last(op)).collect() }
    }

    fn query_last(&self, op: &QueryLastChunkOp) -> QueryLastChunkResult {
        let mut result = QueryLastChunkResult { status_code: Ok(Void), ..QueryLastChunkResult::default() };
        let mut walk = self.walk(op.v_chain_id, &op.chunk_id_range);
        loop {
            let found = match walk.next(self) {
                Ok(found) if found.is_empty() => break,
                Ok(found) => found,
                Err(status) => {
                    result.status_code = Err(status);
                    return result;
                }
            };
            for meta in found {
                let length = meta.committed.map_or(0, |version| version.length);
                if result.total_num_chunks == 0 {
                    result.last_chunk_id = ChunkId::from_slice(meta.id.as_bytes());
                    result.last_chunk_len = length;
                }
                result.total_chunk_len += u64::from(length);
                result.total_num_chunks += 1;
            }
        }
        result.more_chunks_in_range = walk.more;
        result
    }

    pub(crate) async fn remove_chunks(self: &Arc<Self>, req: &RemoveChunksReq) -> RemoveChunksRsp {
        let mut results = Vec::with_capacity(req.payloads.len());
        for op in &req.payloads {
            let mut result = RemoveChunksResult { status_code: Ok(Void), ..RemoveChunksResult::default() };
            if let Err(status) = self.remove_range(op, req, &mut result).await {
                result.status_code = Err(status);
            }
            results.push(result);
        }
        RemoveChunksRsp { results }
    }

    /// Removes chunk by chunk, each with the next sequence number of the channel.
    async fn remove_range(
        self: &Arc<Self>,
        op: &RemoveChunksOp,
        req: &RemoveChunksReq,
        result: &mut RemoveChunksResult,
    ) -> Result<(), Status> {
        let walk = self.walk(op.v_chain_id, &op.chunk_id_range);
        let mut walk = Walk { uncommitted: true, ..walk };
        let mut tag = op.tag.clone();
        loop {
            let found = walk.next(self)?;
            if found.is_empty() {
                break;
            }
            for meta in found {
                let chunk_id = ChunkId::from_slice(meta.id.as_bytes());
                let payload = UpdateIO {
                    key: GlobalKey { v_chain_id: op.v_chain_id, chunk_id },
                    update_type: UpdateType::Remove,
                    ..UpdateIO::default()
                };
                let update = from_client(payload, tag.clone(), &req.feature_flags);
                match self.reliable_update(Incoming::without_data(update)).await.length_info {
                    Ok(_) => result.num_chunks_removed += 1,
                    Err(status) if status.code == code::STORAGE_CHUNK_METADATA_NOT_FOUND => {}
                    Err(status) => return Err(status),
                }
                tag.channel.seqnum.0 += 1;
            }
        }
        result.more_chunks_in_range = walk.more;
        Ok(())
    }

    pub(crate) async fn truncate_chunks(self: &Arc<Self>, req: &TruncateChunksReq) -> TruncateChunksRsp {
        let mut results = Vec::with_capacity(req.payloads.len());
        for op in &req.payloads {
            results.push(self.truncate_chunk(op, req).await);
        }
        TruncateChunksRsp { results }
    }

    async fn truncate_chunk(self: &Arc<Self>, op: &TruncateChunkOp, req: &TruncateChunksReq) -> IOResult {
        let payload = UpdateIO {
            length: op.chunk_len,
            chunk_size: op.chunk_size,
            key: GlobalKey { v_chain_id: op.v_chain_id, chunk_id: op.chunk_id.clone() },
            update_type: if op.only_extend_chunk { UpdateType::Extend } else { UpdateType::Truncate },
            ..UpdateIO::default()
        };
        let update = from_client(payload, op.tag.clone(), &req.feature_flags);
        self.reliable_update(Incoming::without_data(update)).await
    }
}
