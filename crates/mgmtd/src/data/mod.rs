//! What the primary keeps in memory. It is loaded from the store when the lease is new; what is not stored (who is
//! alive, clients) starts empty then and fills with what servers and clients report.

mod configs;
mod routing;
mod sessions;

pub use configs::Configs;
pub use routing::Routing;
pub use sessions::Sessions;

use crate::lease::LeaseState;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use valor_protocol::app::TagPair;
use valor_protocol::mgmtd::{ChainInfo, ChainTable, ConfigInfo, NodeInfo, NodeType, PersistentNodeInfo};
use valor_protocol::{RoutingInfoVersion, mgmtd::NodeStatus, mgmtd::TargetInfo};

use crate::tags;

/// All of it.
#[derive(Debug)]
pub struct Data {
    /// Who is primary.
    pub lease: LeaseState,
    /// When this manager became primary; nothing below means anything before.
    pub primary_since: Option<Instant>,
    /// Nodes, chains and targets.
    pub routing: Routing,
    /// Configurations, all versions.
    pub configs: Configs,
    /// Tags by universal id.
    pub universal_tags: BTreeMap<String, Vec<TagPair>>,
    /// Clients.
    pub sessions: Sessions,
    /// This manager.
    pub own: NodeInfo,
}

/// What is read from the store for a new lease.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The version the routing information has from now on.
    pub routing_version: RoutingInfoVersion,
    /// Nodes.
    pub nodes: Vec<PersistentNodeInfo>,
    /// Configurations.
    pub configs: Vec<(NodeType, ConfigInfo)>,
    /// Chain tables.
    pub chain_tables: Vec<ChainTable>,
    /// Chains.
    pub chains: Vec<ChainInfo>,
    /// Tags of universal ids.
    pub universal_tags: Vec<(String, Vec<TagPair>)>,
    /// Locations of targets.
    pub targets: Vec<TargetInfo>,
}

impl Data {
    /// Of a manager that has not seen the store yet.
    pub fn new(own: NodeInfo) -> Self {
        Self {
            lease: LeaseState::default(),
            primary_since: None,
            routing: Routing::default(),
            configs: Configs::default(),
            universal_tags: BTreeMap::new(),
            sessions: Sessions::default(),
            own,
        }
    }

    /// Starts over with what the store has: nobody is alive before it reports, and no chain is touched before its
    /// targets had time to. `own` is this manager's node with the stored tags.
    pub fn reset(&mut self, loaded: Loaded, own: NodeInfo, now: Instant) {
        let mut nodes: Vec<NodeInfo> = loaded.nodes.iter().map(to_node).collect();
        nodes.retain(|node| node.app.node_id != own.app.node_id);
        nodes.push(own.clone());
        self.own = own;
        self.routing = Routing::load(
            loaded.routing_version,
            nodes,
            loaded.chain_tables,
            loaded.chains,
            &loaded.targets,
            now,
        );
        self.configs = Configs::default();
        for (node_type, config) in loaded.configs {
            self.configs.insert(node_type, config);
        }
        self.universal_tags = loaded.universal_tags.into_iter().collect();
        self.sessions = Sessions::default();
        self.primary_since = Some(now);
        self.lease.loading = false;
    }

    /// Whether this manager is primary for so short that it may not know all clients.
    pub fn bootstrapping(&self, length: Duration) -> bool {
        self.primary_since.is_some_and(|since| since.elapsed() < length)
    }
}

/// A node as it is known from the store alone.
pub fn to_node(stored: &PersistentNodeInfo) -> NodeInfo {
    let mut node = NodeInfo { r#type: stored.r#type, tags: stored.tags.clone(), ..NodeInfo::default() };
    node.app.node_id = stored.node_id;
    node.app.hostname = stored.hostname.clone();
    node.app.service_groups = stored.service_groups.clone();
    if tags::disable(&stored.tags) {
        node.status = NodeStatus::Disabled;
    }
    node
}

/// The part of a node that is stored.
pub fn to_stored(node: &NodeInfo) -> PersistentNodeInfo {
    PersistentNodeInfo {
        node_id: node.app.node_id,
        r#type: node.r#type,
        service_groups: node.app.service_groups.clone(),
        tags: node.tags.clone(),
        hostname: node.app.hostname.clone(),
    }
}
