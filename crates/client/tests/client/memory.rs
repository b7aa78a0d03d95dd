//! A storage server that keeps chunks in memory.

use crate::servers::*;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use valor_protocol::status::{code, status};
use valor_protocol::storage::methods::{
    BatchRead, QueryLastChunk, RemoveChunks, SERVICE, SERVICE_ID, TruncateChunks, Write,
};
use valor_protocol::storage::*;
use valor_protocol::*;
use valor_rpc::Router;

type Chunks = BTreeMap<(ChainId, ChunkId), Vec<u8>>;

/// The chunks of any number of servers: chains tell them apart.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Chunks>>);

fn updated(length: u32) -> IOResult {
    IOResult { length_info: Ok(length), ..IOResult::default() }
}

impl Memory {
    /// Number of chunks of a file.
    pub fn count(&self, inode: InodeId) -> usize {
        self.0.lock().keys().filter(|(_, id)| id.parse_file().unwrap().0 == inode).count()
    }

    fn read(&self, req: &BatchReadReq) -> BatchReadRsp {
        let (chunks, mut rsp, mut data) = (self.0.lock(), BatchReadRsp::default(), Vec::new());
        for io in &req.payloads {
            let key = (io.key.v_chain_id.chain_id, io.key.chunk_id.clone());
            let Some(chunk) = chunks.get(&key) else {
                rsp.results.push(IOResult::error(code::STORAGE_CHUNK_METADATA_NOT_FOUND, ""));
                continue;
            };
            let start = chunk.len().min(io.offset as usize);
            let end = chunk.len().min((io.offset + io.length) as usize);
            let bytes = &chunk[start..end];
            data.extend_from_slice(bytes);
            let value = valor_wire::storage_crc32c(bytes);
            let checksum = ChecksumInfo { r#type: ChecksumType::Crc32c, value };
            rsp.results.push(IOResult { checksum, ..updated(bytes.len() as u32) });
        }
        rsp.inlinebuf.data = data.into();
        rsp
    }

    fn write(&self, io: &UpdateIO) -> IOResult {
        let mut chunks = self.0.lock();
        let chunk = chunks.entry((io.key.v_chain_id.chain_id, io.key.chunk_id.clone())).or_default();
        let (start, end) = (io.offset as usize, (io.offset + io.length) as usize);
        assert!(end <= io.chunk_size as usize && io.inlinebuf.data.len() == io.length as usize);
        assert_eq!(io.checksum.value, valor_wire::storage_crc32c(&io.inlinebuf.data));
        chunk.resize(chunk.len().max(end), 0);
        chunk[start..end].copy_from_slice(&io.inlinebuf.data);
        updated(io.length)
    }

    /// Ids of a range on a chain, the largest first, and whether there are more than the limit.
    fn range(chunks: &Chunks, chain: ChainId, range: &ChunkIdRange) -> (Vec<ChunkId>, bool) {
        let all: Vec<ChunkId> = chunks
            .range((chain, range.begin.clone())..(chain, range.end.clone()))
            .map(|((_, id), _)| id.clone())
            .rev()
            .collect();
        let limit = range.max_num_chunk_ids_to_process as usize;
        let more = all.len() > limit;
        (all.into_iter().take(limit).collect(), more)
    }

    fn query(&self, op: &QueryLastChunkOp) -> QueryLastChunkResult {
        let chunks = self.0.lock();
        let chain = op.v_chain_id.chain_id;
        let (ids, more) = Self::range(&chunks, chain, &op.chunk_id_range);
        let length = |id: &ChunkId| chunks[&(chain, id.clone())].len();
        QueryLastChunkResult {
            status_code: Ok(Void),
            last_chunk_id: ids.first().cloned().unwrap_or_default(),
            last_chunk_len: ids.first().map_or(0, length) as u32,
            total_chunk_len: ids.iter().map(length).sum::<usize>() as u64,
            total_num_chunks: ids.len() as u64,
            more_chunks_in_range: more,
        }
    }

    fn remove(&self, op: &RemoveChunksOp) -> RemoveChunksResult {
        let mut chunks = self.0.lock();
        let chain = op.v_chain_id.chain_id;
        let (ids, more_chunks_in_range) = Self::range(&chunks, chain, &op.chunk_id_range);
        let num_chunks_removed = ids.len() as u32;
        for id in ids {
            chunks.remove(&(chain, id));
        }
        RemoveChunksResult { status_code: Ok(Void), num_chunks_removed, more_chunks_in_range }
    }

    fn truncate(&self, op: &TruncateChunkOp) -> IOResult {
        let mut chunks = self.0.lock();
        let chunk = chunks.entry((op.v_chain_id.chain_id, op.chunk_id.clone())).or_default();
        let length = op.chunk_len as usize;
        if !op.only_extend_chunk || chunk.len() < length {
            chunk.resize(length, 0);
        }
        updated(chunk.len() as u32)
    }

    /// A server over the chunks. `fault` may refuse a request before it is executed.
    pub fn router(&self, fault: impl Fn() -> Option<u16> + Clone + Send + Sync + 'static) -> Router {
        let refuse = move || fault().map_or(Ok(()), |code| Err(status(code)));
        let router = Router::new(SERVICE_ID, SERVICE);
        let (memory, check) = (self.clone(), refuse.clone());
        let (router, _) = scripted::<BatchRead>(router, move |req, _| check().map(|()| memory.read(&req)));
        let (memory, check) = (self.clone(), refuse.clone());
        let (router, _) = scripted::<Write>(router, move |req, _| {
            check().map(|()| WriteRsp { tag: req.tag.clone(), result: memory.write(&req.payload) })
        });
        let (memory, check) = (self.clone(), refuse.clone());
        let (router, _) = scripted::<QueryLastChunk>(router, move |req, _| {
            check().map(|()| QueryLastChunkRsp {
                results: req.payloads.iter().map(|op| memory.query(op)).collect(),
            })
        });
        let (memory, check) = (self.clone(), refuse.clone());
        let (router, _) = scripted::<RemoveChunks>(router, move |req, _| {
            check().map(|()| RemoveChunksRsp {
                results: req.payloads.iter().map(|op| memory.remove(op)).collect(),
            })
        });
        let (memory, check) = (self.clone(), refuse);
        let (router, _) = scripted::<TruncateChunks>(router, move |req, _| {
            let run = |()| TruncateChunksRsp {
                results: req.payloads.iter().map(|op| memory.truncate(op)).collect(),
            };
            check().map(run)
        });
        router
    }
}
