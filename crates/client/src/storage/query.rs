//! Asking for the last chunks of ranges.

use super::config::{ReadOptions, TargetSelectionMode};
use super::gate::Gate;
use super::send::{BatchCall, Sending, run_batches};
use super::{QueryDone, RangeOp, StorageClient};
use valor_protocol::status::{code, with_message};
use valor_protocol::storage::methods::QueryLastChunk;
use valor_protocol::storage::*;
use valor_protocol::user::UserInfo;
use valor_protocol::{ChainId, Status};
use valor_rpc::CallOptions;

struct Query<'a> {
    user: &'a UserInfo,
}

/// Refuses ranges that servers would misunderstand: a limit of 0 means none to them.
pub(super) fn check_ranges(ops: &[RangeOp]) -> Result<(), Status> {
    let wrong = |op: &&RangeOp| op.range.begin > op.range.end || op.range.max_num_chunk_ids_to_process == 0;
    match ops.iter().find(wrong) {
        Some(op) => {
            let message = format!("range {} to {} without limit or reversed", op.range.begin, op.range.end);
            Err(with_message(code::STORAGE_CLIENT_INVALID_ARG, message))
        }
        None => Ok(()),
    }
}

impl StorageClient {
    /// Finds the last chunks of ranges. A result for each range, in order.
    pub async fn query_last_chunk(
        &self,
        ops: &[RangeOp],
        user: &UserInfo,
        options: &ReadOptions,
    ) -> Vec<Result<QueryDone, Status>> {
        if let Err(error) = check_ranges(ops) {
            return ops.iter().map(|_| Err(error.clone())).collect();
        }
        run_batches(self, &Query { user }, ops, &options.target_selection, &options.retry).await
    }
}

impl BatchCall for Query<'_> {
    type Op = RangeOp;
    type Done = QueryDone;
    const MODE: TargetSelectionMode = TargetSelectionMode::HeadTarget;

    fn chain(op: &RangeOp) -> ChainId {
        op.chain_id
    }

    fn gate(client: &StorageClient) -> &Gate {
        &client.queries
    }

    async fn send(
        &self,
        client: &StorageClient,
        to: Sending,
        ops: &[(&RangeOp, VersionedChainId)],
    ) -> Result<Vec<Result<QueryDone, Status>>, Status> {
        let payload = |&(op, v_chain_id): &(&RangeOp, VersionedChainId)| QueryLastChunkOp {
            v_chain_id,
            chunk_id_range: op.range.clone(),
        };
        let request = QueryLastChunkReq {
            payloads: ops.iter().map(payload).collect(),
            tag: client.tag(UpdateChannel::default()),
            retry_count: to.retry_count,
            user_info: self.user.clone(),
            feature_flags: FeatureFlags::default(),
            debug_flags: DebugFlags::default(),
        };
        let options = CallOptions::timeout(to.deadline);
        let reply = client.rpc.call::<QueryLastChunk>(to.address, &request, &options).await?;
        Ok(reply.results.into_iter().map(done).collect())
    }
}

fn done(result: QueryLastChunkResult) -> Result<QueryDone, Status> {
    match result.status_code {
        Ok(_) => {}
        Err(error) if error.code == code::STORAGE_CHUNK_METADATA_NOT_FOUND => return Ok(QueryDone::default()),
        Err(error) => return Err(error),
    }
    let found = result.total_num_chunks > 0;
    Ok(QueryDone {
        last: found.then_some((result.last_chunk_id, result.last_chunk_len)),
        total_len: result.total_chunk_len,
        total_chunks: result.total_num_chunks,
        more: result.more_chunks_in_range,
    })
}
