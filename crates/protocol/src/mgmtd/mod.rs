//! The cluster manager's types (`src/fbs/mgmtd`).

mod rpc;

pub use rpc::*;

use crate::address::ServiceGroupInfo;
use crate::app::{ConfigStatus, FbsAppInfo, ReleaseVersion, TagPair};
use crate::id::*;
use std::collections::BTreeMap;
use valor_wire::{UtcTime, Void, Wire};

/// A target's state in its chain, decided by mgmtd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
#[repr(u8)]
pub enum PublicTargetState {
    /// None.
    #[default]
    Invalid = 0,
    /// Has all data, serves reads and writes.
    Serving = 1,
    /// Is down and was the last one serving: nothing may serve before it is back.
    Lastsrv = 2,
    /// Takes writes and is being filled.
    Syncing = 4,
    /// Is up and waits to be filled.
    Waiting = 8,
    /// Is down.
    Offline = 16,
}

/// A target's state as its own server reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
#[repr(u8)]
pub enum LocalTargetState {
    /// None.
    #[default]
    Invalid = 0,
    /// Up, with all data.
    Uptodate = 1,
    /// Up.
    Online = 2,
    /// Down.
    Offline = 4,
}

/// A node's state, decided by mgmtd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
#[repr(u8)]
pub enum NodeStatus {
    /// The primary manager.
    PrimaryMgmtd = 0,
    /// Alive.
    HeartbeatConnected = 1,
    /// Expected.
    #[default]
    HeartbeatConnecting = 2,
    /// Not heard for too long.
    HeartbeatFailed = 3,
    /// Disabled by an administrator.
    Disabled = 4,
}

/// What a process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
#[repr(u8)]
pub enum NodeType {
    /// Cluster manager.
    #[default]
    Mgmtd = 0,
    /// Metadata server.
    Meta = 1,
    /// Storage server.
    Storage = 2,
    /// Client.
    Client = 3,
    /// FUSE client.
    Fuse = 4,
}

impl NodeType {
    /// Every type.
    pub const ALL: [NodeType; 5] = [Self::Mgmtd, Self::Meta, Self::Storage, Self::Client, Self::Fuse];

    /// 3FS's name, as used in keys and replies.
    pub fn name(self) -> &'static str {
        match self {
            NodeType::Mgmtd => "MGMTD",
            NodeType::Meta => "META",
            NodeType::Storage => "STORAGE",
            NodeType::Client => "CLIENT",
            NodeType::Fuse => "FUSE",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<NodeType> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
}

/// How a request changes tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
#[repr(u8)]
pub enum SetTagMode {
    /// Exactly the given ones stay.
    #[default]
    Replace = 0,
    /// The given ones are added or changed.
    Upsert = 1,
    /// The given keys go.
    Remove = 2,
}

/// How a request changes a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
#[repr(u8)]
pub enum UpdateChainMode {
    /// Adds a target.
    #[default]
    Add = 0,
    /// Removes a target.
    Remove = 1,
}

/// What mgmtd keeps of a node in its store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct PersistentNodeInfo {
    /// Node.
    pub node_id: NodeId,
    /// What it is.
    pub r#type: NodeType,
    /// Services and where they listen.
    pub service_groups: Vec<ServiceGroupInfo>,
    /// Tags.
    pub tags: Vec<TagPair>,
    /// Host name.
    pub hostname: String,
}

/// What is known of a node.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct NodeInfo {
    /// What it tells about itself.
    pub app: FbsAppInfo,
    /// What it is.
    pub r#type: NodeType,
    /// Whether it is alive.
    pub status: NodeStatus,
    /// When it was last heard.
    pub last_heartbeat_ts: UtcTime,
    /// Tags.
    pub tags: Vec<TagPair>,
    /// Configuration it has.
    pub config_version: ConfigVersion,
    /// How it stands towards it.
    pub config_status: ConfigStatus,
}

/// What is known of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct TargetInfo {
    /// Target.
    pub target_id: TargetId,
    /// State in the chain.
    pub public_state: PublicTargetState,
    /// State reported by its server.
    pub local_state: LocalTargetState,
    /// Chain it belongs to.
    pub chain_id: ChainId,
    /// Node it is on, once that node reported it.
    pub node_id: Option<NodeId>,
    /// Disk of that node.
    pub disk_index: Option<u32>,
    /// Bytes used.
    pub used_size: u64,
}

/// A chain's member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct ChainTargetInfo {
    /// Target.
    pub target_id: TargetId,
    /// Its state.
    pub public_state: PublicTargetState,
}

/// A replication chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct ChainInfo {
    /// Chain.
    pub chain_id: ChainId,
    /// Raised with every change.
    pub chain_version: ChainVersion,
    /// Members in replication order, head first.
    pub targets: Vec<ChainTargetInfo>,
    /// Order an administrator wishes; may be empty.
    pub preferred_target_order: Vec<TargetId>,
}

/// A table of chains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct ChainTable {
    /// Table.
    pub chain_table_id: ChainTableId,
    /// Version.
    pub chain_table_version: ChainTableVersion,
    /// Chains in order.
    pub chains: Vec<ChainId>,
    /// For people.
    pub desc: String,
}

/// A chain's member in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Wire)]
pub struct ChainTargetSetting {
    /// Target.
    pub target_id: TargetId,
}

/// A chain in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct ChainSetting {
    /// Chain.
    pub chain_id: ChainId,
    /// Members in order.
    pub targets: Vec<ChainTargetSetting>,
    /// Their order is also the preferred one.
    pub set_preferred_target_order: bool,
}

/// A target in a storage server's heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct LocalTargetInfo {
    /// Target.
    pub target_id: TargetId,
    /// State.
    pub local_state: LocalTargetState,
    /// Disk.
    pub disk_index: Option<u32>,
    /// Bytes used.
    pub used_size: u64,
    /// Chain version the state belongs to; 0 = unknown.
    pub chain_version: ChainVersion,
    /// Little space is left.
    pub low_space: bool,
}

/// A metadata server's part of a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct MetaHeartbeatInfo {
    /// Nothing.
    pub dummy: Void,
}

/// A storage server's part of a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct StorageHeartbeatInfo {
    /// Its targets.
    pub targets: Vec<LocalTargetInfo>,
}

/// A manager's part of a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct MgmtdHeartbeatInfo {
    /// Nothing.
    pub dummy: Void,
}

/// The part of a heartbeat that depends on the kind of server.
#[derive(Clone, Debug, PartialEq, Eq, Wire)]
#[wire(variant)]
pub enum HeartbeatDetail {
    /// Metadata server.
    MetaHeartbeatInfo(MetaHeartbeatInfo),
    /// Storage server.
    StorageHeartbeatInfo(StorageHeartbeatInfo),
    /// Manager.
    MgmtdHeartbeatInfo(MgmtdHeartbeatInfo),
}

impl Default for HeartbeatDetail {
    fn default() -> Self {
        HeartbeatDetail::MetaHeartbeatInfo(MetaHeartbeatInfo::default())
    }
}

impl HeartbeatDetail {
    /// The node type that sends this part.
    pub fn node_type(&self) -> NodeType {
        match self {
            HeartbeatDetail::MetaHeartbeatInfo(_) => NodeType::Meta,
            HeartbeatDetail::StorageHeartbeatInfo(_) => NodeType::Storage,
            HeartbeatDetail::MgmtdHeartbeatInfo(_) => NodeType::Mgmtd,
        }
    }
}

/// A server's heartbeat.
#[derive(Clone, Debug, PartialEq, Wire)]
pub struct HeartbeatInfo {
    /// Part that depends on the kind of server.
    pub info: HeartbeatDetail,
    /// What the server tells about itself.
    pub app: FbsAppInfo,
    /// Grows with every heartbeat, else 5009.
    pub hb_version: HeartbeatVersion,
    /// Configuration it has.
    pub config_version: ConfigVersion,
    /// How it stands towards it.
    pub config_status: ConfigStatus,
}

impl Default for HeartbeatInfo {
    fn default() -> Self {
        HeartbeatInfo {
            info: HeartbeatDetail::default(),
            app: FbsAppInfo::default(),
            hb_version: HeartbeatVersion(1),
            config_version: ConfigVersion::default(),
            config_status: ConfigStatus::default(),
        }
    }
}

/// A configuration that mgmtd distributes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct ConfigInfo {
    /// Version.
    pub config_version: ConfigVersion,
    /// TOML text.
    pub content: String,
    /// For people.
    pub desc: String,
}

/// What a client tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct ClientSessionData {
    /// Name of the machine or container that outlives restarts.
    pub universal_id: String,
    /// For people.
    pub description: String,
    /// Services it offers.
    pub service_groups: Vec<ServiceGroupInfo>,
    /// Software version.
    pub release_version: ReleaseVersion,
}

/// A client as mgmtd knows it.
#[derive(Clone, Debug, PartialEq, Eq, Wire)]
pub struct ClientSession {
    /// The client's uuid as text.
    pub client_id: String,
    /// Configuration it has.
    pub config_version: ConfigVersion,
    /// First heard.
    pub start: UtcTime,
    /// Last heard.
    pub last_extend: UtcTime,
    /// Name of its machine or container.
    pub universal_id: String,
    /// For people.
    pub description: String,
    /// Services it offers.
    pub service_groups: Vec<ServiceGroupInfo>,
    /// Software version.
    pub release_version: ReleaseVersion,
    /// How it stands towards its configuration.
    pub config_status: ConfigStatus,
    /// CLIENT or FUSE.
    pub r#type: NodeType,
    /// When it started, by its clock.
    pub client_start: UtcTime,
}

impl Default for ClientSession {
    fn default() -> Self {
        ClientSession {
            client_id: String::new(),
            config_version: ConfigVersion::default(),
            start: UtcTime::default(),
            last_extend: UtcTime::default(),
            universal_id: String::new(),
            description: String::new(),
            service_groups: Vec::new(),
            release_version: ReleaseVersion::default(),
            config_status: ConfigStatus::default(),
            r#type: NodeType::Client,
            client_start: UtcTime::default(),
        }
    }
}

/// The primary manager's lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct MgmtdLeaseInfo {
    /// Who has it.
    pub primary: PersistentNodeInfo,
    /// Since when.
    pub lease_start: UtcTime,
    /// Until when.
    pub lease_end: UtcTime,
    /// Software of the primary.
    pub release_version: ReleaseVersion,
}

/// A node's state and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct NodeStatusChange {
    /// State.
    pub status: NodeStatus,
    /// Since when.
    pub time: UtcTime,
}

/// Everything a client needs to find servers and data.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct RoutingInfo {
    /// Version.
    pub routing_info_version: RoutingInfoVersion,
    /// The primary is new; node states may be incomplete.
    pub bootstrapping: bool,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// Chain tables with all their versions.
    pub chain_tables: BTreeMap<ChainTableId, BTreeMap<ChainTableVersion, ChainTable>>,
    /// Chains.
    pub chains: BTreeMap<ChainId, ChainInfo>,
    /// Targets.
    pub targets: BTreeMap<TargetId, TargetInfo>,
}
