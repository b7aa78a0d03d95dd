//! The storage service's types (`src/fbs/storage/Common.h`).

mod chunk_id;
mod rpc;

pub use chunk_id::ChunkId;
pub use rpc::*;

use crate::app::ClientId;
use crate::id::*;
use crate::mgmtd::{LocalTargetState, NodeInfo, PublicTargetState, TargetInfo};
use crate::status::code;
use bstr::BString;
use bytes::Bytes;
use valor_wire::{DecodeError, Decoder, Encoder, Status, UtcTime, Uuid, Void, Wire};

/// What an update does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
#[repr(u8)]
pub enum UpdateType {
    /// Nothing.
    #[default]
    Invalid = 0,
    /// Writes bytes.
    Write = 1,
    /// Removes the chunk.
    Remove = 2,
    /// Sets the chunk's length.
    Truncate = 4,
    /// Grows the chunk to a length.
    Extend = 8,
    /// Commits.
    Commit = 16,
}

/// State of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
#[repr(u8)]
pub enum ChunkState {
    /// Committed.
    #[default]
    Commit = 0,
    /// Data is being written.
    Dirty = 1,
    /// Data is written, not committed.
    Clean = 2,
}

/// How a checksum is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
#[repr(u8)]
pub enum ChecksumType {
    /// Not at all.
    #[default]
    None = 0,
    /// CRC-32C, start 0xffffffff, no final inversion.
    Crc32c = 1,
    /// CRC-32 (IEEE), start 0xffffffff, no final inversion.
    Crc32 = 2,
}

/// How far a chunk's removal has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
#[repr(u8)]
pub enum RecycleState {
    /// Not being removed.
    #[default]
    Normal = 0,
    /// Being removed.
    RemovalInProgress = 1,
    /// Being removed again after a failure.
    RemovalInRetrying = 2,
}

/// Flags of a storage request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct FeatureFlags(pub u32);

impl FeatureFlags {
    /// No disk access (benchmarks).
    pub const BYPASS_DISKIO: FeatureFlags = FeatureFlags(1);
    /// No data transfer (benchmarks).
    pub const BYPASS_RDMAXMIT: FeatureFlags = FeatureFlags(2);
    /// Data travels in the message.
    pub const SEND_DATA_INLINE: FeatureFlags = FeatureFlags(4);
    /// Reads may return a version that is not committed yet.
    pub const ALLOW_READ_UNCOMMITTED: FeatureFlags = FeatureFlags(8);

    /// True if all bits of `other` are set.
    pub const fn contains(self, other: FeatureFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for FeatureFlags {
    type Output = FeatureFlags;
    fn bitor(self, other: FeatureFlags) -> FeatureFlags {
        FeatureFlags(self.0 | other.0)
    }
}

/// A checksum and its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct ChecksumInfo {
    /// Kind.
    pub r#type: ChecksumType,
    /// Value; 0 for kind NONE.
    pub value: u32,
}

/// Remote memory for RDMA: base, size and one key per device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RDMARemoteBuf {
    /// Address in the owner.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// Keys, at most [`RDMARemoteBuf::MAX_RKEYS`].
    pub rkeys: Vec<RemoteKey>,
}

/// Key of remote memory on one of the owner's devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RemoteKey {
    /// Key.
    pub rkey: u32,
    /// The owner's device.
    pub dev_id: i32,
}

impl RDMARemoteBuf {
    /// Most devices a buffer can be registered on.
    pub const MAX_RKEYS: usize = 4;
}

impl Wire for RDMARemoteBuf {
    const MIN_SIZE: usize = 17;

    fn encode(&self, out: &mut Encoder) {
        let keys = &self.rkeys[..self.rkeys.len().min(Self::MAX_RKEYS)];
        for key in keys.iter().rev() {
            key.dev_id.encode(out);
            key.rkey.encode(out);
        }
        (keys.len() as u8).encode(out);
        self.size.encode(out);
        self.addr.encode(out);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        let (addr, size, n) = (u64::decode(input)?, u64::decode(input)?, u8::decode(input)?);
        if usize::from(n) > Self::MAX_RKEYS {
            return Err(DecodeError::InvalidValue { what: "number of keys of a remote buffer" });
        }
        let mut rkeys = Vec::with_capacity(usize::from(n));
        for _ in 0..n {
            rkeys.push(RemoteKey { rkey: u32::decode(input)?, dev_id: i32::decode(input)? });
        }
        Ok(RDMARemoteBuf { addr, size, rkeys })
    }
}

/// Result of one read, write or truncate.
#[derive(Clone, Debug, PartialEq, Wire)]
pub struct IOResult {
    /// Bytes read or written, or why not.
    pub length_info: Result<u32, Status>,
    /// Committed version.
    pub commit_ver: ChunkVer,
    /// Newest version.
    pub update_ver: ChunkVer,
    /// Checksum of the bytes read, or of the chunk after an update.
    pub checksum: ChecksumInfo,
    /// Chain version at the commit.
    pub commit_chain_ver: ChainVersion,
}

impl Default for IOResult {
    fn default() -> Self {
        IOResult::error(code::STORAGE_CLIENT_NOT_INITIALIZED, String::new())
    }
}

impl IOResult {
    /// A failure.
    pub fn error(code: u16, message: impl Into<String>) -> Self {
        IOResult {
            length_info: Err(Status { code, message: message.into() }),
            commit_ver: ChunkVer::default(),
            update_ver: ChunkVer::default(),
            checksum: ChecksumInfo::default(),
            commit_chain_ver: ChainVersion::default(),
        }
    }
}

/// A chain at a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
pub struct VersionedChainId {
    /// Chain.
    pub chain_id: ChainId,
    /// Version.
    pub chain_ver: ChainVersion,
}

/// A chunk on a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct GlobalKey {
    /// Chain.
    pub v_chain_id: VersionedChainId,
    /// Chunk.
    pub chunk_id: ChunkId,
}

/// A client's stream of updates, within which order and repetition are recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct UpdateChannel {
    /// Channel.
    pub id: ChannelId,
    /// Position in it.
    pub seqnum: ChannelSeqNum,
}

/// Who sent a request and which one it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct MessageTag {
    /// Client.
    pub client_id: ClientId,
    /// Number among its requests.
    pub request_id: RequestId,
    /// Channel, for updates.
    pub channel: UpdateChannel,
}

/// Fault injection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Wire)]
pub struct DebugFlags {
    /// Errors at the server.
    pub inject_random_server_error: bool,
    /// Errors at the client.
    pub inject_random_client_error: bool,
    /// Points to pass before failing.
    pub num_of_inject_pts_before_fail: u16,
}

/// One read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct ReadIO {
    /// Offset in the chunk.
    pub offset: u32,
    /// Bytes wanted.
    pub length: u32,
    /// Chunk.
    pub key: GlobalKey,
    /// Where the data goes; its size must not be below `length` even when the data comes inline.
    pub rdmabuf: RDMARemoteBuf,
}

/// Bytes in a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct UInt8Vector {
    /// The bytes.
    pub data: Bytes,
}

/// One update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct UpdateIO {
    /// Offset in the chunk.
    pub offset: u32,
    /// Bytes to write, or the new length.
    pub length: u32,
    /// Full size of the chunk.
    pub chunk_size: u32,
    /// Chunk.
    pub key: GlobalKey,
    /// Where the data is.
    pub rdmabuf: RDMARemoteBuf,
    /// Version to make; 0 = the head assigns it.
    pub update_ver: ChunkVer,
    /// What to do.
    pub update_type: UpdateType,
    /// Checksum of the data.
    pub checksum: ChecksumInfo,
    /// The data, when it travels in the message.
    pub inlinebuf: UInt8Vector,
}

/// How an update is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Wire)]
pub struct UpdateOptions {
    /// Part of filling a target.
    pub is_syncing: bool,
    /// Straight from a client.
    pub from_client: bool,
    /// Chain version to commit with.
    pub commit_chain_ver: ChainVersion,
}

/// A commit; never sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct CommitIO {
    /// Chunk.
    pub key: GlobalKey,
    /// Version.
    pub commit_ver: ChunkVer,
    /// Part of filling a target.
    pub is_syncing: bool,
    /// Chain version to commit with.
    pub commit_chain_ver: ChainVersion,
    /// The update was a removal.
    pub is_remove: bool,
    /// Whatever the state.
    pub is_force: bool,
}

/// A range of chunk ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct ChunkIdRange {
    /// First.
    pub begin: ChunkId,
    /// Behind the last.
    pub end: ChunkId,
    /// Stop after so many, counted from the largest id downwards; 0 = never.
    pub max_num_chunk_ids_to_process: u32,
}

/// One query for the last chunk of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct QueryLastChunkOp {
    /// Chain.
    pub v_chain_id: VersionedChainId,
    /// Range.
    pub chunk_id_range: ChunkIdRange,
}

/// A status without a value, as a result that defaults to "not initialised".
fn not_initialized() -> Result<Void, Status> {
    Err(Status { code: code::STORAGE_CLIENT_NOT_INITIALIZED, message: String::new() })
}

/// Result of one query for the last chunk.
#[derive(Clone, Debug, PartialEq, Wire)]
pub struct QueryLastChunkResult {
    /// Success, or why not.
    pub status_code: Result<Void, Status>,
    /// Largest chunk id found; empty = none.
    pub last_chunk_id: ChunkId,
    /// Its length.
    pub last_chunk_len: u32,
    /// Sum of the lengths of the chunks processed.
    pub total_chunk_len: u64,
    /// Number of chunks processed.
    pub total_num_chunks: u64,
    /// Not all of the range was processed.
    pub more_chunks_in_range: bool,
}

impl Default for QueryLastChunkResult {
    fn default() -> Self {
        QueryLastChunkResult {
            status_code: not_initialized(),
            last_chunk_id: ChunkId::default(),
            last_chunk_len: 0,
            total_chunk_len: 0,
            total_num_chunks: 0,
            more_chunks_in_range: false,
        }
    }
}

/// One removal of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct RemoveChunksOp {
    /// Chain.
    pub v_chain_id: VersionedChainId,
    /// Range.
    pub chunk_id_range: ChunkIdRange,
    /// Who and which; the channel's sequence number grows by one per chunk removed.
    pub tag: MessageTag,
    /// Times it was sent before.
    pub retry_count: u32,
}

/// Result of one removal of a range.
#[derive(Clone, Debug, PartialEq, Wire)]
pub struct RemoveChunksResult {
    /// Success, or why not.
    pub status_code: Result<Void, Status>,
    /// Chunks removed.
    pub num_chunks_removed: u32,
    /// There are more.
    pub more_chunks_in_range: bool,
}

impl Default for RemoveChunksResult {
    fn default() -> Self {
        RemoveChunksResult {
            status_code: not_initialized(),
            num_chunks_removed: 0,
            more_chunks_in_range: false,
        }
    }
}

/// One change of a chunk's length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct TruncateChunkOp {
    /// Chain.
    pub v_chain_id: VersionedChainId,
    /// Chunk.
    pub chunk_id: ChunkId,
    /// New length.
    pub chunk_len: u32,
    /// Full size of the chunk.
    pub chunk_size: u32,
    /// Never shorten it.
    pub only_extend_chunk: bool,
    /// Who and which.
    pub tag: MessageTag,
    /// Times it was sent before.
    pub retry_count: u32,
}

/// A chunk as replicas compare it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct ChunkMeta {
    /// Chunk.
    pub chunk_id: ChunkId,
    /// Newest version.
    pub update_ver: ChunkVer,
    /// Committed version.
    pub commit_ver: ChunkVer,
    /// Chain version at the last commit.
    pub chain_ver: ChainVersion,
    /// State.
    pub chunk_state: ChunkState,
    /// Checksum of the content.
    pub checksum: ChecksumInfo,
    /// Length.
    pub length: u32,
}

/// Space of one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct SpaceInfo {
    /// Path of the disk.
    pub path: String,
    /// Bytes in all.
    pub capacity: u64,
    /// Bytes free, counting what may be reused.
    pub free: u64,
    /// Bytes free in the file system.
    pub available: u64,
    /// Targets on it.
    pub target_ids: Vec<TargetId>,
    /// Disk model.
    pub manufacturer: String,
}

/// Where a chunk is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Wire)]
pub struct ChunkFileId {
    /// Size class.
    pub chunk_size: u32,
    /// File.
    pub chunk_idx: u32,
}

/// All that is known of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct ChunkMetadata {
    /// Committed version.
    pub commit_ver: ChunkVer,
    /// Newest version.
    pub update_ver: ChunkVer,
    /// Chain version at the last commit.
    pub chain_ver: ChainVersion,
    /// Length.
    pub size: u32,
    /// State.
    pub chunk_state: ChunkState,
    /// Removal.
    pub recycle_state: RecycleState,
    /// Checksum kind.
    pub checksum_type: ChecksumType,
    /// Checksum.
    pub checksum_value: u32,
    /// Unused.
    pub last_node_id: u16,
    /// Request that changed it last.
    pub last_request_id: RequestId,
    /// Offset in its file.
    pub inner_offset: u64,
    /// File it is in.
    pub inner_file_id: ChunkFileId,
    /// Client that changed it last.
    pub last_client_uuid: Uuid,
    /// Time of the last change.
    pub timestamp: UtcTime,
}

/// The next target of a chain.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct Successor {
    /// Its node.
    pub node_info: NodeInfo,
    /// The target.
    pub target_info: TargetInfo,
}

/// A target as its server sees it.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct Target {
    /// Target.
    pub target_id: TargetId,
    /// Directory.
    pub path: BString,
    /// The disk failed.
    pub disk_error: bool,
    /// Little space is left.
    pub low_space: bool,
    /// No new chunks.
    pub reject_create_chunk: bool,
    /// First of its chain.
    pub is_head: bool,
    /// Last of its chain.
    pub is_tail: bool,
    /// Chain and version.
    pub v_chain_id: VersionedChainId,
    /// State.
    pub local_state: LocalTargetState,
    /// State in the chain.
    pub public_state: PublicTargetState,
    /// Next target.
    pub successor: Option<Successor>,
    /// Disk.
    pub disk_index: u32,
    /// Chain.
    pub chain_id: ChainId,
    /// Taken offline by an administrator.
    pub offline_upon_user_request: bool,
    /// Chunks are in the new chunk engine.
    pub use_chunk_engine: bool,
}
