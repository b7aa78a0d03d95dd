//! Requests, replies and methods of the storage service (`src/fbs/storage/Common.h`, `Service.h`).

use super::*;
use crate::user::UserInfo;

/// Request of `batchRead`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct BatchReadReq {
    /// Pieces.
    pub payloads: Vec<ReadIO>,
    /// Who and which.
    pub tag: MessageTag,
    /// Times it was sent before.
    pub retry_count: u32,
    /// Whom it acts for; not checked.
    pub user_info: UserInfo,
    /// How data travels.
    pub feature_flags: FeatureFlags,
    /// Checksum wanted with each result.
    pub checksum_type: ChecksumType,
    /// Fault injection.
    pub debug_flags: DebugFlags,
}

/// Reply of `batchRead`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct BatchReadRsp {
    /// Not filled; a random uuid from C++ servers.
    pub tag: MessageTag,
    /// In the request's order.
    pub results: Vec<IOResult>,
    /// Bytes of the successful pieces one after the other, if they travel in the message.
    pub inlinebuf: UInt8Vector,
}

/// Request of `write`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct WriteReq {
    /// The update.
    pub payload: UpdateIO,
    /// Who and which.
    pub tag: MessageTag,
    /// Times it was sent before.
    pub retry_count: u32,
    /// Whom it acts for; not checked.
    pub user_info: UserInfo,
    /// How data travels.
    pub feature_flags: FeatureFlags,
    /// Fault injection.
    pub debug_flags: DebugFlags,
}

/// Reply of `write`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct WriteRsp {
    /// Who and which.
    pub tag: MessageTag,
    /// Its result.
    pub result: IOResult,
}

/// Request of `update`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct UpdateReq {
    /// The update.
    pub payload: UpdateIO,
    /// How it is applied.
    pub options: UpdateOptions,
    /// Who and which.
    pub tag: MessageTag,
    /// Times it was sent before.
    pub retry_count: u32,
    /// Whom it acts for; not checked.
    pub user_info: UserInfo,
    /// How data travels.
    pub feature_flags: FeatureFlags,
    /// Fault injection.
    pub debug_flags: DebugFlags,
}

/// Reply of `update`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct UpdateRsp {
    /// Who and which.
    pub tag: MessageTag,
    /// Its result.
    pub result: IOResult,
}

/// Request of `queryLastChunk`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct QueryLastChunkReq {
    /// Ranges.
    pub payloads: Vec<QueryLastChunkOp>,
    /// Who and which.
    pub tag: MessageTag,
    /// Times it was sent before.
    pub retry_count: u32,
    /// Whom it acts for; not checked.
    pub user_info: UserInfo,
    /// How data travels.
    pub feature_flags: FeatureFlags,
    /// Fault injection.
    pub debug_flags: DebugFlags,
}

/// Reply of `queryLastChunk`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct QueryLastChunkRsp {
    /// In the request's order.
    pub results: Vec<QueryLastChunkResult>,
}

/// Request of `truncateChunks`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct TruncateChunksReq {
    /// Chunks.
    pub payloads: Vec<TruncateChunkOp>,
    /// Whom it acts for; not checked.
    pub user_info: UserInfo,
    /// How data travels.
    pub feature_flags: FeatureFlags,
    /// Fault injection.
    pub debug_flags: DebugFlags,
}

/// Reply of `truncateChunks`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct TruncateChunksRsp {
    /// In the request's order.
    pub results: Vec<IOResult>,
}

/// Request of `removeChunks`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RemoveChunksReq {
    /// Ranges.
    pub payloads: Vec<RemoveChunksOp>,
    /// Whom it acts for; not checked.
    pub user_info: UserInfo,
    /// How data travels.
    pub feature_flags: FeatureFlags,
    /// Fault injection.
    pub debug_flags: DebugFlags,
}

/// Reply of `removeChunks`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RemoveChunksRsp {
    /// In the request's order.
    pub results: Vec<RemoveChunksResult>,
}

/// Request of `syncStart`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SyncStartReq {
    /// Chain.
    pub v_chain_id: VersionedChainId,
}

/// Reply of `syncStart`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct TargetSyncInfo {
    /// All its chunks.
    pub metas: Vec<ChunkMeta>,
}

/// Request of `syncDone`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SyncDoneReq {
    /// Chain.
    pub v_chain_id: VersionedChainId,
}

/// Reply of `syncDone`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SyncDoneRsp {
    /// Success or why not.
    pub result: IOResult,
}

/// Request of `spaceInfo`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SpaceInfoReq {
    /// Who and which.
    pub tag: MessageTag,
    /// Past the server's cache.
    pub force: bool,
}

/// Reply of `spaceInfo`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SpaceInfoRsp {
    /// Disks.
    pub space_infos: Vec<SpaceInfo>,
}

/// Request of `createTarget`.
#[derive(Clone, Debug, PartialEq, Eq, Wire)]
pub struct CreateTargetReq {
    /// Target.
    pub target_id: TargetId,
    /// Disk.
    pub disk_index: u32,
    /// Data files per chunk size (old store).
    pub physical_file_count: u32,
    /// Chunk sizes.
    pub chunk_size_list: Vec<u64>,
    /// Not an error if it exists.
    pub allow_existing_target: bool,
    /// Chain it belongs to.
    pub chain_id: ChainId,
    /// Add chunk sizes to an existing target.
    pub add_chunk_size: bool,
    /// Only the new chunk engine.
    pub only_chunk_engine: bool,
}

impl Default for CreateTargetReq {
    fn default() -> Self {
        const KIB: u64 = 1 << 10;
        CreateTargetReq {
            target_id: TargetId::default(),
            disk_index: 0,
            physical_file_count: 256,
            chunk_size_list: [512, 1024, 2048, 4096, 16384, 65536].map(|n| n * KIB).to_vec(),
            allow_existing_target: true,
            chain_id: ChainId::default(),
            add_chunk_size: false,
            only_chunk_engine: false,
        }
    }
}

/// Reply of `createTarget`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct CreateTargetRsp {
    /// Nothing.
    pub dummy: Void,
}

/// Request of `queryChunk`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct QueryChunkReq {
    /// Chain.
    pub chain_id: ChainId,
    /// Chunk.
    pub chunk_id: ChunkId,
}

/// Reply of `queryChunk`.
#[derive(Clone, Debug, PartialEq, Wire)]
pub struct QueryChunkRsp {
    /// The target that answered.
    pub target: Target,
    /// The chunk, or why not.
    pub meta: Result<ChunkMetadata, Status>,
}

impl Default for QueryChunkRsp {
    fn default() -> Self {
        QueryChunkRsp { target: Target::default(), meta: Ok(ChunkMetadata::default()) }
    }
}

/// Request of `getAllChunkMetadata`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetAllChunkMetadataReq {
    /// Target.
    pub target_id: TargetId,
}

/// Reply of `getAllChunkMetadata`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetAllChunkMetadataRsp {
    /// Chunks.
    pub chunk_meta_vec: Vec<ChunkMeta>,
}

/// Request of `offlineTarget`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct OfflineTargetReq {
    /// Target.
    pub target_id: TargetId,
    /// Even if that is unwise.
    pub force: bool,
}

/// Reply of `offlineTarget`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct OfflineTargetRsp {
    /// Nothing.
    pub dummy: Void,
}

/// Request of `removeTarget`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RemoveTargetReq {
    /// Target.
    pub target_id: TargetId,
    /// Even if that is unwise.
    pub force: bool,
}

/// Reply of `removeTarget`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RemoveTargetRsp {
    /// Nothing.
    pub dummy: Void,
}

/// Methods of the storage service.
pub mod methods {
    use super::*;
    crate::method::methods! { "StorageSerde", 3;
        /// Reads pieces of chunks.
        BatchRead = 1 "batchRead" (BatchReadReq) -> BatchReadRsp;
        /// Updates a chunk; from a client to the head.
        Write = 2 "write" (WriteReq) -> WriteRsp;
        /// Updates a chunk; from a server to its successor.
        Update = 3 "update" (UpdateReq) -> UpdateRsp;
        /// Last chunks of ranges.
        QueryLastChunk = 5 "queryLastChunk" (QueryLastChunkReq) -> QueryLastChunkRsp;
        /// Changes lengths of chunks.
        TruncateChunks = 6 "truncateChunks" (TruncateChunksReq) -> TruncateChunksRsp;
        /// Removes ranges of chunks.
        RemoveChunks = 7 "removeChunks" (RemoveChunksReq) -> RemoveChunksRsp;
        /// Begins to fill a target; from its predecessor.
        SyncStart = 8 "syncStart" (SyncStartReq) -> TargetSyncInfo;
        /// A target is filled; from its predecessor.
        SyncDone = 9 "syncDone" (SyncDoneReq) -> SyncDoneRsp;
        /// Space of a server's disks.
        SpaceInfo = 10 "spaceInfo" (SpaceInfoReq) -> SpaceInfoRsp;
        /// Creates a target on a disk.
        CreateTarget = 11 "createTarget" (CreateTargetReq) -> CreateTargetRsp;
        /// A chunk as one target has it.
        QueryChunk = 12 "queryChunk" (QueryChunkReq) -> QueryChunkRsp;
        /// All chunks of a target.
        GetAllChunkMetadata = 13 "getAllChunkMetadata" (GetAllChunkMetadataReq) -> GetAllChunkMetadataRsp;
        /// Takes a target offline.
        OfflineTarget = 16 "offlineTarget" (OfflineTargetReq) -> OfflineTargetRsp;
        /// Removes a target from its disk.
        RemoveTarget = 17 "removeTarget" (RemoveTargetReq) -> RemoveTargetRsp;
    }
}
