//! Requests that checks make by hand, past the client.

use bytes::Bytes;
use valor_protocol::storage::{
    ChunkId, FeatureFlags, GlobalKey, UInt8Vector, UpdateIO, UpdateType, VersionedChainId, WriteReq,
};
use valor_protocol::{ChannelId, ChannelSeqNum};

use crate::cluster::{CHUNK_SIZE, Cluster};

/// A write of a few bytes to the begin of a chunk, in the name of the administrator's client, on a channel that it does
/// not use.
pub(super) fn write(
    cluster: &Cluster,
    v_chain_id: VersionedChainId,
    chunk: &[u8],
    data: Bytes,
    (channel, seqnum): (u16, u64),
) -> WriteReq {
    let mut req = WriteReq {
        payload: UpdateIO {
            length: data.len() as u32,
            chunk_size: CHUNK_SIZE,
            key: GlobalKey { v_chain_id, chunk_id: ChunkId::from_slice(chunk) },
            update_type: UpdateType::Write,
            inlinebuf: UInt8Vector { data },
            ..UpdateIO::default()
        },
        feature_flags: FeatureFlags::SEND_DATA_INLINE,
        ..WriteReq::default()
    };
    req.tag.client_id = cluster.admin.storage.client_id().clone();
    req.tag.channel.id = ChannelId(channel);
    req.tag.channel.seqnum = ChannelSeqNum(seqnum);
    req
}
