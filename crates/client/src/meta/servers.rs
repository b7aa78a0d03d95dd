//! Which metadata server is asked (`src/client/meta/ServerSelectionStrategy.cc`).

use super::config::ServerSelectionMode;
use crate::routing::Routing;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use valor_protocol::meta::methods::SERVICE;
use valor_protocol::mgmtd::NodeType;
use valor_protocol::status::{code, with_message};
use valor_protocol::{Address, NodeId, RoutingInfoVersion, Status};

/// A metadata server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MetaServer {
    pub node: NodeId,
    pub address: Address,
}

/// Servers in this client's own order of preference, and those that failed.
pub(super) struct Servers {
    /// Random, so that clients spread over the servers.
    token: [u8; 16],
    counter: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    version: Option<RoutingInfoVersion>,
    preferred: Vec<MetaServer>,
    failed: BTreeSet<NodeId>,
}

impl Servers {
    pub(super) fn new(token: [u8; 16]) -> Servers {
        let seed = u64::from_le_bytes(token.first_chunk().copied().unwrap_or_default());
        Servers { token, counter: AtomicU64::new(seed), state: Mutex::default() }
    }

    /// Weight of a server for this client: the largest is preferred.
    fn weight(&self, node: NodeId) -> [[u8; 8]; 2] {
        let mut key = [0; 24];
        key[..8].copy_from_slice(&u64::from(node.0).to_le_bytes());
        key[8..].copy_from_slice(&self.token);
        // Compared as the bytes of the hash, not as numbers.
        valor_wire::murmur3_x64_128(&key, 0).map(u64::to_le_bytes)
    }

    /// Takes servers over from routing information, unless it knows none while we do.
    fn update(&self, state: &mut State, routing: &Routing) {
        if state.version == Some(routing.version()) {
            return;
        }
        state.version = Some(routing.version());
        let mut servers: Vec<MetaServer> = routing
            .active_nodes(NodeType::Meta)
            .filter_map(|node| {
                let node = node.app.node_id;
                Some(MetaServer { node, address: routing.node_endpoint(node, SERVICE)? })
            })
            .collect();
        if servers.is_empty() && !state.preferred.is_empty() {
            tracing::warn!(
                version = routing.version().0,
                "routing information without metadata servers ignored"
            );
            return;
        }
        servers.sort_by_key(|server| std::cmp::Reverse(self.weight(server.node)));
        state.preferred = servers;
    }

    /// Chooses a server; one that failed only if all did.
    ///
    /// # Errors
    /// 6002 if there is none.
    pub(super) fn choose(&self, routing: &Routing, mode: ServerSelectionMode) -> Result<MetaServer, Status> {
        let mut state = self.state.lock();
        self.update(&mut state, routing);
        let working: Vec<MetaServer> =
            state.preferred.iter().filter(|server| !state.failed.contains(&server.node)).copied().collect();
        let all_failed = working.is_empty();
        let candidates = if all_failed { &state.preferred } else { &working };
        let turn = self.counter.fetch_add(1, Ordering::Relaxed);
        let below = candidates.len().max(1) as u64;
        let index = match mode {
            ServerSelectionMode::RandomFollow if !all_failed => 0,
            ServerSelectionMode::RandomFollow | ServerSelectionMode::RoundRobin => turn % below,
            ServerSelectionMode::UniformRandom => turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % below,
        };
        candidates.get(index as usize).copied().ok_or_else(|| {
            with_message(code::MGMTD_CLIENT_META_SERVICE_NOT_AVAILABLE, "no metadata server is known")
        })
    }

    pub(super) fn mark_failed(&self, node: NodeId) {
        self.state.lock().failed.insert(node);
    }

    pub(super) fn mark_working(&self, node: NodeId) {
        let mut state = self.state.lock();
        if !state.failed.is_empty() {
            state.failed.remove(&node);
        }
    }

    /// Servers that failed and still exist; the others are forgotten.
    pub(super) fn failed(&self, routing: &Routing) -> Vec<MetaServer> {
        let mut state = self.state.lock();
        self.update(&mut state, routing);
        let State { preferred, failed, .. } = &mut *state;
        failed.retain(|node| preferred.iter().any(|server| server.node == *node));
        preferred.iter().filter(|server| failed.contains(&server.node)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use valor_protocol::ServiceGroupInfo;
    use valor_protocol::app::FbsAppInfo;
    use valor_protocol::mgmtd::{NodeInfo, NodeStatus, RoutingInfo};

    fn routing(version: u64, nodes: &[u32]) -> Routing {
        let node = |&id: &u32| {
            let endpoints = vec![format!("TCP://10.0.0.{id}:8001").parse().unwrap()];
            let service_groups = vec![ServiceGroupInfo { services: [SERVICE.to_owned()].into(), endpoints }];
            let app = FbsAppInfo { node_id: NodeId(id), service_groups, ..FbsAppInfo::default() };
            let status = NodeStatus::HeartbeatConnected;
            (NodeId(id), NodeInfo { app, status, r#type: NodeType::Meta, ..NodeInfo::default() })
        };
        Routing::new(RoutingInfo {
            routing_info_version: RoutingInfoVersion(version),
            nodes: nodes.iter().map(node).collect(),
            ..RoutingInfo::default()
        })
    }

    #[test]
    fn follows_one_server_while_it_works() {
        let servers = Servers::new([3; 16]);
        let routing = routing(1, &[1, 2, 3]);
        let choose = || servers.choose(&routing, ServerSelectionMode::RandomFollow).unwrap().node;
        let first = choose();
        assert!((0..10).all(|_| choose() == first));
        servers.mark_failed(first);
        let second = choose();
        assert_ne!(second, first);
        servers.mark_failed(second);
        let third = choose();
        servers.mark_failed(third);
        let any: BTreeSet<NodeId> = (0..10).map(|_| choose()).collect();
        assert_eq!(any.len(), 3, "all failed: each is tried");
        assert_eq!(servers.failed(&routing).len(), 3);
        servers.mark_working(first);
        assert_eq!(choose(), first);
    }

    #[test]
    fn clients_spread_over_servers() {
        let routing = routing(1, &[1, 2, 3]);
        let mut counts = BTreeMap::new();
        for token in 0..90u8 {
            let chosen =
                Servers::new([token; 16]).choose(&routing, ServerSelectionMode::RandomFollow).unwrap();
            *counts.entry(chosen.node).or_insert(0) += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|&count| count > 15), "{counts:?}");
    }

    #[test]
    fn other_modes_use_all() {
        let routing = routing(1, &[1, 2, 3]);
        for mode in [ServerSelectionMode::RoundRobin, ServerSelectionMode::UniformRandom] {
            let servers = Servers::new([3; 16]);
            let all: BTreeSet<NodeId> =
                (0..30).map(|_| servers.choose(&routing, mode).unwrap().node).collect();
            assert_eq!(all.len(), 3, "{mode:?}");
        }
    }

    #[test]
    fn information_without_servers_is_ignored() {
        let servers = Servers::new([3; 16]);
        let mode = ServerSelectionMode::RandomFollow;
        assert_eq!(servers.choose(&routing(1, &[]), mode).unwrap_err().code, 6002);
        let one = servers.choose(&routing(2, &[1]), mode).unwrap();
        assert_eq!(servers.choose(&routing(3, &[]), mode), Ok(one));
        assert_eq!(servers.choose(&routing(4, &[2]), mode).unwrap().node, NodeId(2));
        servers.mark_failed(NodeId(1));
        assert!(servers.failed(&routing(4, &[2])).is_empty());
    }
}
