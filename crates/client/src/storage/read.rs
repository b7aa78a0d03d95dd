//! Reading chunks.

use super::config::{ReadOptions, TargetSelectionMode};
use super::gate::Gate;
use super::send::{BatchCall, Sending, run_batches};
use super::{ReadDone, ReadOp, StorageClient, inline_buffer};
use bytes::Bytes;
use valor_env::Endpoint;
use valor_protocol::status::{code, with_message};
use valor_protocol::storage::methods::BatchRead;
use valor_protocol::storage::*;
use valor_protocol::user::UserInfo;
use valor_protocol::{ChainId, Status};
use valor_rpc::{CallOptions, Reply};

struct Read<'a> {
    user: &'a UserInfo,
    options: &'a ReadOptions,
    checksum: ChecksumType,
}

impl StorageClient {
    /// Reads pieces of chunks, in parallel. A result for each, in order: a chunk that does not exist is 7007, a piece
    /// beyond the chunk's end is short.
    pub async fn batch_read(
        &self,
        ops: &[ReadOp],
        user: &UserInfo,
        options: &ReadOptions,
    ) -> Vec<Result<ReadDone, Status>> {
        let checksum = if options.verify_checksum {
            self.config.load().chunk_checksum_type.kind()
        } else {
            ChecksumType::None
        };
        let call = Read { user, options, checksum };
        run_batches(self, &call, ops, &options.target_selection, &options.retry).await
    }
}

impl Read<'_> {
    fn request(
        &self,
        client: &StorageClient,
        to: Sending,
        ops: &[(&ReadOp, VersionedChainId)],
    ) -> BatchReadReq {
        let payload = |(op, v_chain_id): &(&ReadOp, VersionedChainId)| ReadIO {
            offset: op.offset,
            length: op.length,
            key: GlobalKey { v_chain_id: *v_chain_id, chunk_id: op.chunk_id.clone() },
            rdmabuf: inline_buffer(op.length),
        };
        let uncommitted = if self.options.allow_read_uncommitted {
            FeatureFlags::ALLOW_READ_UNCOMMITTED
        } else {
            FeatureFlags(0)
        };
        BatchReadReq {
            payloads: ops.iter().map(payload).collect(),
            tag: client.tag(UpdateChannel::default()),
            retry_count: to.retry_count,
            user_info: self.user.clone(),
            feature_flags: FeatureFlags::SEND_DATA_INLINE | uncommitted,
            checksum_type: self.checksum,
            debug_flags: DebugFlags::default(),
        }
    }
}

impl BatchCall for Read<'_> {
    type Op = ReadOp;
    type Done = ReadDone;
    const MODE: TargetSelectionMode = TargetSelectionMode::LoadBalance;

    fn chain(op: &ReadOp) -> ChainId {
        op.chain_id
    }

    fn bytes(op: &ReadOp) -> u64 {
        u64::from(op.length)
    }

    fn gate(client: &StorageClient) -> &Gate {
        &client.reads
    }

    async fn send(
        &self,
        client: &StorageClient,
        to: Sending,
        ops: &[(&ReadOp, VersionedChainId)],
    ) -> Result<Vec<Result<ReadDone, Status>>, Status> {
        let request = self.request(client, to, ops);
        let endpoint = Endpoint::Tcp(to.address.socket_addr().into());
        let options = CallOptions::timeout(to.deadline);
        let reply = client.rpc.call_detailed::<BatchRead>(&endpoint, &request, &options).await?;
        share_out(&reply, ops.iter().map(|(op, _)| op.length))
    }
}

/// Gives each piece its part of the data.
fn share_out(
    reply: &Reply<BatchReadRsp>,
    wanted: impl ExactSizeIterator<Item = u32>,
) -> Result<Vec<Result<ReadDone, Status>>, Status> {
    let results = &reply.value.results;
    let mut rest = reply.value.inlinebuf.data.clone();
    let bug = |message: String| with_message(code::STORAGE_CLIENT_FOUND_BUG, message);
    if results.len() != wanted.len() {
        return Err(bug(format!("{} results for {} reads", results.len(), wanted.len())));
    }
    let mut pieces = Vec::with_capacity(results.len());
    for (result, wanted) in results.iter().zip(wanted) {
        pieces.push(match &result.length_info {
            Ok(length) if *length > wanted || *length as usize > rest.len() => {
                return Err(bug(format!("{length} bytes read, {wanted} wanted, {} sent", rest.len())));
            }
            Ok(length) => {
                let data = rest.split_to(*length as usize);
                verified(reply, &data, result.checksum).map(|()| ReadDone {
                    data,
                    versions: result.into(),
                    checksum: result.checksum,
                })
            }
            Err(error) => Err(error.clone()),
        });
    }
    if !rest.is_empty() {
        return Err(bug(format!("{} bytes sent that no read asked for", rest.len())));
    }
    Ok(pieces)
}

/// Compares a piece with the server's checksum of it, if it sent one.
fn verified(reply: &Reply<BatchReadRsp>, data: &Bytes, checksum: ChecksumInfo) -> Result<(), Status> {
    let computed = match checksum.r#type {
        _ if data.is_empty() => return Ok(()),
        ChecksumType::None => return Ok(()),
        ChecksumType::Crc32c => reply.crc.storage_crc32c(data),
        ChecksumType::Crc32 => valor_wire::storage_crc32(data),
    };
    if computed == checksum.value {
        return Ok(());
    }
    let message = format!("checksum of data is {computed:08x}, the server's is {:08x}", checksum.value);
    Err(with_message(code::STORAGE_CLIENT_CHECKSUM_MISMATCH, message))
}
