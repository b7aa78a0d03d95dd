//! Removing ranges of chunks. Each attempt takes new sequence numbers, one for every chunk it may remove.

use super::config::{TargetSelectionMode, WriteOptions};
use super::gate::Gate;
use super::query::check_ranges;
use super::send::{BatchCall, Sending, run_batches};
use super::{RangeOp, RemoveDone, StorageClient};
use valor_protocol::storage::methods::RemoveChunks;
use valor_protocol::storage::*;
use valor_protocol::user::UserInfo;
use valor_protocol::{ChainId, Status};
use valor_rpc::CallOptions;

struct Remove<'a> {
    user: &'a UserInfo,
}

impl StorageClient {
    /// Removes chunks of ranges, the largest ids first. A result for each range, in order.
    pub async fn remove_chunks(
        &self,
        ops: &[RangeOp],
        user: &UserInfo,
        options: &WriteOptions,
    ) -> Vec<Result<RemoveDone, Status>> {
        if let Err(error) = check_ranges(ops) {
            return ops.iter().map(|_| Err(error.clone())).collect();
        }
        run_batches(self, &Remove { user }, ops, &options.target_selection, &options.retry).await
    }
}

impl BatchCall for Remove<'_> {
    type Op = RangeOp;
    type Done = RemoveDone;
    const MODE: TargetSelectionMode = TargetSelectionMode::HeadTarget;

    fn chain(op: &RangeOp) -> ChainId {
        op.chain_id
    }

    fn gate(client: &StorageClient) -> &Gate {
        &client.removals
    }

    async fn send(
        &self,
        client: &StorageClient,
        to: Sending,
        ops: &[(&RangeOp, VersionedChainId)],
    ) -> Result<Vec<Result<RemoveDone, Status>>, Status> {
        let mut results = Vec::with_capacity(ops.len());
        // One request, unless there are fewer channels than operations.
        for part in ops.chunks(client.channels.count()) {
            let channels = client.channels.acquire(part.len()).await;
            let payload = |(&(op, v_chain_id), channel): (
                &(&RangeOp, VersionedChainId),
                &super::channel::Channel<'_>,
            )| {
                RemoveChunksOp {
                    v_chain_id,
                    chunk_id_range: op.range.clone(),
                    tag: client.tag(channel.next(op.range.max_num_chunk_ids_to_process)),
                    retry_count: to.retry_count,
                }
            };
            let request = RemoveChunksReq {
                payloads: part.iter().zip(&channels).map(payload).collect(),
                user_info: self.user.clone(),
                feature_flags: FeatureFlags::default(),
                debug_flags: DebugFlags::default(),
            };
            let options = CallOptions::timeout(to.deadline);
            let reply = client.rpc.call::<RemoveChunks>(to.address, &request, &options).await?;
            results.extend(reply.results.into_iter().map(|result| {
                result.status_code?;
                Ok(RemoveDone { removed: result.num_chunks_removed, more: result.more_chunks_in_range })
            }));
        }
        Ok(results)
    }
}
