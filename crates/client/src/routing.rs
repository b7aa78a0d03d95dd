//! Routing information as clients use it: an immutable snapshot with indexes, and the cell that holds the newest.

use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;
use valor_protocol::app::TAG_TRAFFIC_ZONE;
use valor_protocol::mgmtd::{
    ChainInfo, NodeInfo, NodeStatus, NodeType, PublicTargetState, RoutingInfo, TargetInfo,
};
use valor_protocol::status::code;
use valor_protocol::*;

/// A replica that serves a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Target.
    pub target_id: TargetId,
    /// Node it is on.
    pub node_id: NodeId,
}

/// A chain as clients see it.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Version that requests carry.
    pub version: ChainVersion,
    /// Serving replicas from the head on, up to the first that does not serve or has no node; or the code of an
    /// inconsistency: 7004 for an unknown target or node, 7005 for a target that does not serve after all.
    pub serving: Result<Box<[Replica]>, u16>,
}

/// Routing information of one version, with indexes. Never changes.
#[derive(Debug, Default)]
pub struct Routing {
    info: RoutingInfo,
    chains: HashMap<ChainId, Chain>,
    endpoints: HashMap<NodeId, HashMap<String, Address>>,
}

/// Where a service of a node is reached over TCP. Endpoints declared as RDMA also accept TCP at the same port.
pub fn endpoint(groups: &[ServiceGroupInfo], service: &str) -> Option<Address> {
    endpoints(groups, service).into_iter().next()
}

/// All endpoints of a service that can be reached over TCP, plain TCP ones first.
pub fn endpoints(groups: &[ServiceGroupInfo], service: &str) -> Vec<Address> {
    let mut found: Vec<Address> = groups
        .iter()
        .filter(|group| group.services.contains(service))
        .flat_map(|group| &group.endpoints)
        .copied()
        .filter(|address| !matches!(address.kind, AddressType::Unix | AddressType::Other(_)))
        .collect();
    found.sort_by_key(|address| address.kind == AddressType::Rdma);
    let mut endpoints: Vec<Address> = Vec::with_capacity(found.len());
    for address in found.into_iter().map(dialled) {
        if !endpoints.contains(&address) {
            endpoints.push(address);
        }
    }
    endpoints
}

/// The address to connect to: RDMA endpoints are dialled as TCP.
pub fn dialled(address: Address) -> Address {
    if address.kind == AddressType::Rdma { Address { kind: AddressType::Tcp, ..address } } else { address }
}

impl Routing {
    /// Indexes routing information.
    pub fn new(info: RoutingInfo) -> Routing {
        let chains = info.chains.iter().map(|(&id, chain)| (id, index_chain(&info, chain))).collect();
        let endpoints = info.nodes.iter().map(|(&id, node)| (id, index_endpoints(node))).collect();
        Routing { info, chains, endpoints }
    }

    /// The information itself.
    pub fn info(&self) -> &RoutingInfo {
        &self.info
    }

    /// Version; 0 before any information arrived.
    pub fn version(&self) -> RoutingInfoVersion {
        self.info.routing_info_version
    }

    /// A chain's version and serving replicas.
    pub fn chain(&self, id: ChainId) -> Option<&Chain> {
        self.chains.get(&id)
    }

    /// A target.
    pub fn target(&self, id: TargetId) -> Option<&TargetInfo> {
        self.info.target(id)
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&NodeInfo> {
        self.info.node(id)
    }

    /// The chain behind a layout's chain reference.
    pub fn chain_id(&self, table: ChainTableId, version: ChainTableVersion, index: u32) -> Option<ChainId> {
        self.info.chain_id(table, version, index)
    }

    /// Where a node's service is reached.
    pub fn node_endpoint(&self, node: NodeId, service: &str) -> Option<Address> {
        self.endpoints.get(&node)?.get(service).copied()
    }

    /// Nodes of a type that mgmtd hears.
    pub fn active_nodes(&self, node_type: NodeType) -> impl Iterator<Item = &NodeInfo> {
        self.info.nodes.values().filter(move |node| {
            let active = matches!(node.status, NodeStatus::HeartbeatConnected | NodeStatus::PrimaryMgmtd);
            node.r#type == node_type && active
        })
    }

    /// True if a node is in one of the traffic zones; always, if there are none.
    pub fn in_zones(&self, node: NodeId, zones: &[String]) -> bool {
        zones.is_empty()
            || self.node(node).is_some_and(|node| {
                node.tags.iter().any(|tag| tag.key == TAG_TRAFFIC_ZONE && zones.contains(&tag.value))
            })
    }
}

fn index_chain(info: &RoutingInfo, chain: &ChainInfo) -> Chain {
    Chain { version: chain.chain_version, serving: serving_replicas(info, chain) }
}

fn serving_replicas(info: &RoutingInfo, chain: &ChainInfo) -> Result<Box<[Replica]>, u16> {
    let mut replicas = Vec::with_capacity(chain.targets.len());
    for member in &chain.targets {
        if member.public_state != PublicTargetState::Serving {
            break;
        }
        let target = info.target(member.target_id).ok_or(code::STORAGE_CLIENT_ROUTING_ERROR)?;
        if target.public_state != PublicTargetState::Serving {
            return Err(code::STORAGE_CLIENT_NOT_AVAILABLE);
        }
        let Some(node_id) = target.node_id else { break };
        info.node(node_id).ok_or(code::STORAGE_CLIENT_ROUTING_ERROR)?;
        replicas.push(Replica { target_id: member.target_id, node_id });
    }
    Ok(replicas.into())
}

fn index_endpoints(node: &NodeInfo) -> HashMap<String, Address> {
    let groups = &node.app.service_groups;
    groups
        .iter()
        .flat_map(|group| &group.services)
        .filter_map(|service| Some((service.clone(), endpoint(groups, service)?)))
        .collect()
}

/// The newest routing information: read without locking, watched for changes.
#[derive(Debug)]
pub struct RoutingCache {
    current: ArcSwap<Routing>,
    changes: watch::Sender<Arc<Routing>>,
}

impl Default for RoutingCache {
    fn default() -> Self {
        let empty = Arc::new(Routing::default());
        RoutingCache { current: ArcSwap::new(empty.clone()), changes: watch::Sender::new(empty) }
    }
}

impl RoutingCache {
    /// The newest snapshot; one of version 0 before any arrived.
    pub fn load(&self) -> Arc<Routing> {
        self.current.load_full()
    }

    /// Borrows the newest snapshot for a short time.
    pub fn peek<T>(&self, look: impl FnOnce(&Routing) -> T) -> T {
        look(&self.current.load())
    }

    /// Replaces the snapshot and wakes watchers.
    pub fn store(&self, routing: Routing) {
        let routing = Arc::new(routing);
        self.current.store(routing.clone());
        self.changes.send_replace(routing);
    }

    /// Sees every later change (the newest, if several happened).
    pub fn watch(&self) -> watch::Receiver<Arc<Routing>> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::app::{FbsAppInfo, TagPair};
    use valor_protocol::mgmtd::ChainTargetInfo;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn group(services: &[&str], endpoints: &[&str]) -> ServiceGroupInfo {
        ServiceGroupInfo {
            services: services.iter().map(|s| s.to_string()).collect(),
            endpoints: endpoints.iter().map(|e| address(e)).collect(),
        }
    }

    #[test]
    fn endpoints_prefer_tcp_and_dial_rdma_as_tcp() {
        let groups = [
            group(&["StorageSerde"], &["RDMA://10.0.0.1:8000", "TCP://10.0.0.2:8000", "TCP://10.0.0.1:8000"]),
            group(&["Core"], &["TCP://10.0.0.1:9000"]),
        ];
        let found = endpoints(&groups, "StorageSerde");
        assert_eq!(found, [address("TCP://10.0.0.2:8000"), address("TCP://10.0.0.1:8000")]);
        assert_eq!(endpoint(&groups, "Core"), Some(address("10.0.0.1:9000")));
        assert_eq!(endpoint(&groups, "MetaSerde"), None);
        let rdma_only = [group(&["StorageSerde"], &["RDMA://10.0.0.1:8000"])];
        assert_eq!(endpoint(&rdma_only, "StorageSerde"), Some(address("TCP://10.0.0.1:8000")));
    }

    fn sample(states: &[(u64, PublicTargetState, PublicTargetState, Option<u32>)]) -> Routing {
        let mut info = RoutingInfo { routing_info_version: RoutingInfoVersion(3), ..RoutingInfo::default() };
        let mut chain =
            ChainInfo { chain_id: ChainId(1), chain_version: ChainVersion(7), ..ChainInfo::default() };
        for &(id, in_chain, in_target, node) in states {
            let target_id = TargetId(id);
            chain.targets.push(ChainTargetInfo { target_id, public_state: in_chain });
            let node_id = node.map(NodeId);
            let target = TargetInfo { target_id, public_state: in_target, node_id, ..TargetInfo::default() };
            info.targets.insert(target_id, target);
        }
        let node = NodeInfo {
            app: FbsAppInfo { service_groups: vec![group(&["S"], &["1.2.3.4:5"])], ..FbsAppInfo::default() },
            tags: vec![TagPair { key: TAG_TRAFFIC_ZONE.into(), value: "east".into() }],
            ..NodeInfo::default()
        };
        info.nodes.insert(NodeId(9), node);
        info.chains.insert(ChainId(1), chain);
        Routing::new(info)
    }

    #[test]
    fn serving_prefix() {
        use PublicTargetState::*;
        let targets = |routing: &Routing| {
            let chain = routing.chain(ChainId(1)).unwrap();
            chain.serving.clone().map(|all| all.iter().map(|r| r.target_id.0).collect::<Vec<_>>())
        };
        let n = Some(9);
        assert_eq!(targets(&sample(&[(1, Serving, Serving, n), (2, Syncing, Syncing, n)])), Ok(vec![1]));
        let hole = [(1, Serving, Serving, n), (2, Offline, Offline, n), (3, Serving, Serving, n)];
        assert_eq!(targets(&sample(&hole)), Ok(vec![1]));
        assert_eq!(targets(&sample(&[(1, Serving, Serving, None)])), Ok(vec![]));
        assert_eq!(targets(&sample(&[(1, Serving, Offline, n)])), Err(7005));
        assert_eq!(targets(&sample(&[(1, Serving, Serving, Some(8))])), Err(7004));
        let routing = sample(&[]);
        assert_eq!(routing.chain(ChainId(1)).unwrap().version, ChainVersion(7));
        assert_eq!(routing.node_endpoint(NodeId(9), "S"), Some(address("1.2.3.4:5")));
        assert!(routing.in_zones(NodeId(9), &["west".into(), "east".into()]));
        assert!(!routing.in_zones(NodeId(9), &["west".into()]));
        assert!(routing.in_zones(NodeId(8), &[]));
    }

    #[tokio::test]
    async fn the_cache_wakes_watchers() {
        let cache = RoutingCache::default();
        let mut watch = cache.watch();
        assert_eq!(cache.load().version(), RoutingInfoVersion(0));
        cache.store(sample(&[]));
        watch.changed().await.unwrap();
        assert_eq!(watch.borrow().version(), RoutingInfoVersion(3));
        assert_eq!(cache.peek(|routing| routing.version()), RoutingInfoVersion(3));
    }
}
