//! Requests, replies and methods of the cluster manager (`src/fbs/mgmtd/Rpc.h`, `MgmtdServiceDef.h`).

use super::*;
use crate::app::{ConfigStatus, TagPair};
use crate::id::*;
use crate::user::UserInfo;
use std::collections::BTreeMap;
use valor_wire::{UtcTime, Void, Wire};

/// Request of `getPrimaryMgmtd`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetPrimaryMgmtdReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `getPrimaryMgmtd`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetPrimaryMgmtdRsp {
    /// Absent if none is known.
    pub primary: Option<PersistentNodeInfo>,
}

/// Request of `heartbeat`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct HeartbeatReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// State of the server.
    pub info: HeartbeatInfo,
    /// Its clock.
    pub timestamp: UtcTime,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `heartbeat`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct HeartbeatRsp {
    /// Present if newer than `info.config_version`.
    pub config: Option<ConfigInfo>,
}

/// Request of `registerNode`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RegisterNodeReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The node.
    pub node_id: NodeId,
    /// What it is.
    pub r#type: NodeType,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `registerNode`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RegisterNodeRsp {
    /// Nothing.
    pub dummy: Void,
}

/// Request of `getRoutingInfo`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetRoutingInfoReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// What the caller has; 0 = nothing.
    pub routing_info_version: RoutingInfoVersion,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `getRoutingInfo`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetRoutingInfoRsp {
    /// Absent = unchanged.
    pub info: Option<RoutingInfo>,
}

/// Request of `setConfig`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetConfigReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// For which nodes.
    pub node_type: NodeType,
    /// TOML text.
    pub content: String,
    /// For people.
    pub desc: String,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `setConfig`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetConfigRsp {
    /// Its version.
    pub config_version: ConfigVersion,
}

/// Request of `getConfig`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetConfigReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// For which nodes.
    pub node_type: NodeType,
    /// What the caller has, or wants.
    pub config_version: ConfigVersion,
    /// Exactly that version is wanted.
    pub exact_version: bool,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `getConfig`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetConfigRsp {
    /// Absent = unchanged or unknown.
    pub info: Option<ConfigInfo>,
}

/// Request of `setChainTable`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetChainTableReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The table.
    pub chain_table_id: ChainTableId,
    /// Its chains in order.
    pub chains: Vec<ChainId>,
    /// For people.
    pub desc: String,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `setChainTable`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetChainTableRsp {
    /// Its version.
    pub chain_table_version: ChainTableVersion,
}

/// Request of `enableNode`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct EnableNodeReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The node.
    pub node_id: NodeId,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `enableNode`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct EnableNodeRsp {
    /// Nothing.
    pub dummy: Void,
}

/// Request of `disableNode`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct DisableNodeReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The node.
    pub node_id: NodeId,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `disableNode`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct DisableNodeRsp {
    /// Nothing.
    pub dummy: Void,
}

/// Request of `extendClientSession`.
#[derive(Clone, Debug, PartialEq, Wire)]
pub struct ExtendClientSessionReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The client's uuid as text.
    pub client_id: String,
    /// Grows with every call, else 5010.
    pub client_session_version: ClientSessionVersion,
    /// Configuration the client has.
    pub config_version: ConfigVersion,
    /// What the client tells about itself; fixed for a session.
    pub data: ClientSessionData,
    /// How it stands towards its configuration.
    pub config_status: ConfigStatus,
    /// CLIENT or FUSE.
    pub r#type: NodeType,
    /// Who asks.
    pub user: UserInfo,
    /// When the client started.
    pub client_start: UtcTime,
}

impl Default for ExtendClientSessionReq {
    fn default() -> Self {
        ExtendClientSessionReq {
            cluster_id: String::new(),
            client_id: String::new(),
            client_session_version: ClientSessionVersion(1),
            config_version: ConfigVersion::default(),
            data: ClientSessionData::default(),
            config_status: ConfigStatus::default(),
            r#type: NodeType::Client,
            user: UserInfo::default(),
            client_start: UtcTime::default(),
        }
    }
}

/// Reply of `extendClientSession`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct ExtendClientSessionRsp {
    /// Present if newer than the client's.
    pub config: Option<ConfigInfo>,
    /// Universal tags of the client's universal id.
    pub tags: Vec<TagPair>,
}

/// Request of `listClientSessions`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct ListClientSessionsReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `listClientSessions`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct ListClientSessionsRsp {
    /// The primary is new; the list may be incomplete.
    pub bootstrapping: bool,
    /// Sessions.
    pub sessions: Vec<ClientSession>,
    /// Universal id to its tags.
    pub referenced_tags: BTreeMap<String, Vec<TagPair>>,
}

/// Request of `setNodeTags`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetNodeTagsReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The node.
    pub node_id: NodeId,
    /// Tags.
    pub tags: Vec<TagPair>,
    /// How.
    pub mode: SetTagMode,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `setNodeTags`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetNodeTagsRsp {
    /// The node afterwards.
    pub info: NodeInfo,
}

/// Request of `unregisterNode`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct UnregisterNodeReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The node.
    pub node_id: NodeId,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `unregisterNode`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct UnregisterNodeRsp {
    /// Nothing.
    pub dummy: Void,
}

/// Request of `setChains`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetChainsReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// Chains.
    pub chains: Vec<ChainSetting>,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `setChains`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetChainsRsp {
    /// Nothing.
    pub dummy: Void,
}

/// Request of `setUniversalTags`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetUniversalTagsReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The universal id.
    pub universal_id: String,
    /// Tags.
    pub tags: Vec<TagPair>,
    /// How.
    pub mode: SetTagMode,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `setUniversalTags`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetUniversalTagsRsp {
    /// Tags afterwards.
    pub tags: Vec<TagPair>,
}

/// Request of `getUniversalTags`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetUniversalTagsReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The universal id.
    pub universal_id: String,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `getUniversalTags`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetUniversalTagsRsp {
    /// Tags.
    pub tags: Vec<TagPair>,
}

/// Request of `getConfigVersions`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetConfigVersionsReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `getConfigVersions`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetConfigVersionsRsp {
    /// Node type name to version.
    pub versions: BTreeMap<String, ConfigVersion>,
}

/// Request of `getClientSession`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetClientSessionReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The client's uuid as text.
    pub client_id: String,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `getClientSession`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetClientSessionRsp {
    /// The primary is new; the list may be incomplete.
    pub bootstrapping: bool,
    /// Absent if unknown.
    pub session: Option<ClientSession>,
    /// Tags of its universal id.
    pub referenced_tags: Vec<TagPair>,
}

/// Request of `rotateLastSrv`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RotateLastSrvReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The chain.
    pub chain_id: ChainId,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `rotateLastSrv`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RotateLastSrvRsp {
    /// The chain afterwards.
    pub chain: ChainInfo,
}

/// Request of `listOrphanTargets`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct ListOrphanTargetsReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `listOrphanTargets`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct ListOrphanTargetsRsp {
    /// Targets.
    pub targets: Vec<TargetInfo>,
}

/// Request of `setPreferredTargetOrder`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetPreferredTargetOrderReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The chain.
    pub chain_id: ChainId,
    /// Targets in order.
    pub preferred_target_order: Vec<TargetId>,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `setPreferredTargetOrder`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct SetPreferredTargetOrderRsp {
    /// The chain afterwards.
    pub chain: ChainInfo,
}

/// Request of `rotateAsPreferredOrder`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RotateAsPreferredOrderReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// The chain.
    pub chain_id: ChainId,
    /// Who asks.
    pub user: UserInfo,
}

/// Reply of `rotateAsPreferredOrder`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RotateAsPreferredOrderRsp {
    /// The chain afterwards.
    pub chain: ChainInfo,
}

/// Request of `updateChain`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct UpdateChainReq {
    /// Name of the cluster; another one's is refused with 5003.
    pub cluster_id: String,
    /// Who asks.
    pub user: UserInfo,
    /// The chain.
    pub chain_id: ChainId,
    /// The target.
    pub target_id: TargetId,
    /// What to do.
    pub mode: UpdateChainMode,
}

/// Reply of `updateChain`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct UpdateChainRsp {
    /// The chain afterwards.
    pub chain: ChainInfo,
}

/// Methods of the cluster manager.
pub mod methods {
    use super::*;
    crate::method::methods! { "Mgmtd", 217;
        /// Who is the primary manager.
        GetPrimaryMgmtd = 1 "getPrimaryMgmtd" (GetPrimaryMgmtdReq) -> GetPrimaryMgmtdRsp;
        /// A server is alive.
        Heartbeat = 3 "heartbeat" (HeartbeatReq) -> HeartbeatRsp;
        /// Admits a node. Administrators only.
        RegisterNode = 4 "registerNode" (RegisterNodeReq) -> RegisterNodeRsp;
        /// Routing information, if newer.
        GetRoutingInfo = 5 "getRoutingInfo" (GetRoutingInfoReq) -> GetRoutingInfoRsp;
        /// Stores a node type's configuration. Administrators only.
        SetConfig = 6 "setConfig" (SetConfigReq) -> SetConfigRsp;
        /// A node type's configuration.
        GetConfig = 7 "getConfig" (GetConfigReq) -> GetConfigRsp;
        /// Stores a chain table. Administrators only.
        SetChainTable = 8 "setChainTable" (SetChainTableReq) -> SetChainTableRsp;
        /// Enables a node. Administrators only.
        EnableNode = 9 "enableNode" (EnableNodeReq) -> EnableNodeRsp;
        /// Disables a node. Administrators only.
        DisableNode = 10 "disableNode" (DisableNodeReq) -> DisableNodeRsp;
        /// A client is alive.
        ExtendClientSession = 11 "extendClientSession" (ExtendClientSessionReq) -> ExtendClientSessionRsp;
        /// Clients that are alive.
        ListClientSessions = 12 "listClientSessions" (ListClientSessionsReq) -> ListClientSessionsRsp;
        /// Changes a node's tags. Administrators only.
        SetNodeTags = 13 "setNodeTags" (SetNodeTagsReq) -> SetNodeTagsRsp;
        /// Forgets a node. Administrators only.
        UnregisterNode = 14 "unregisterNode" (UnregisterNodeReq) -> UnregisterNodeRsp;
        /// Creates chains. Administrators only.
        SetChains = 15 "setChains" (SetChainsReq) -> SetChainsRsp;
        /// Changes the tags of a universal id. Administrators only.
        SetUniversalTags = 16 "setUniversalTags" (SetUniversalTagsReq) -> SetUniversalTagsRsp;
        /// Tags of a universal id.
        GetUniversalTags = 17 "getUniversalTags" (GetUniversalTagsReq) -> GetUniversalTagsRsp;
        /// Newest configuration version per node type.
        GetConfigVersions = 18 "getConfigVersions" (GetConfigVersionsReq) -> GetConfigVersionsRsp;
        /// One client's session.
        GetClientSession = 19 "getClientSession" (GetClientSessionReq) -> GetClientSessionRsp;
        /// Moves a chain's LASTSRV target to the end. Administrators only.
        RotateLastSrv = 20 "rotateLastSrv" (RotateLastSrvReq) -> RotateLastSrvRsp;
        /// Targets that are in no chain.
        ListOrphanTargets = 21 "listOrphanTargets" (ListOrphanTargetsReq) -> ListOrphanTargetsRsp;
        /// Stores a chain's preferred order. Administrators only.
        SetPreferredTargetOrder = 22 "setPreferredTargetOrder" (SetPreferredTargetOrderReq) -> SetPreferredTargetOrderRsp;
        /// One step towards the preferred order. Administrators only.
        RotateAsPreferredOrder = 23 "rotateAsPreferredOrder" (RotateAsPreferredOrderReq) -> RotateAsPreferredOrderRsp;
        /// Adds or removes a chain's target. Administrators only.
        UpdateChain = 24 "updateChain" (UpdateChainReq) -> UpdateChainRsp;
    }
}
