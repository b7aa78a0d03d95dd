//! A cluster whose manager only hands out routing information.

use crate::net::Net;
use crate::servers::*;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use valor_client::MgmtdClient;
use valor_client::mgmtd::{Identity, MgmtdClientConfig};
use valor_protocol::app::FbsAppInfo;
use valor_protocol::mgmtd::methods::{GetPrimaryMgmtd, GetRoutingInfo, SERVICE, SERVICE_ID};
use valor_protocol::mgmtd::*;
use valor_protocol::user::UserInfo;
use valor_protocol::*;
use valor_rpc::Router;

pub struct Cluster {
    pub net: Net,
    info: Arc<Mutex<RoutingInfo>>,
    pub refreshes: Arc<Seen<GetRoutingInfo>>,
    manager: Running,
}

impl Cluster {
    pub fn new(seed: u64) -> Cluster {
        let net = Net::new(seed);
        let info = Arc::new(Mutex::new(RoutingInfo {
            routing_info_version: RoutingInfoVersion(1),
            ..RoutingInfo::default()
        }));
        let at = "127.0.0.1:999";
        let (router, _) = scripted::<GetPrimaryMgmtd>(Router::new(SERVICE_ID, SERVICE), move |_, _| {
            let service_groups = vec![group(SERVICE, at.parse().unwrap())];
            let primary = PersistentNodeInfo { node_id: NodeId(1), service_groups, ..Default::default() };
            Ok(GetPrimaryMgmtdRsp { primary: Some(primary) })
        });
        let served = info.clone();
        let (router, refreshes) = scripted::<GetRoutingInfo>(router, move |req, _| {
            let info = served.lock().clone();
            let newer = info.routing_info_version > req.routing_info_version;
            Ok(GetRoutingInfoRsp { info: newer.then_some(info) })
        });
        let manager = serve_at(&net, at, [router]);
        Cluster { net, info, refreshes, manager }
    }

    /// Changes the routing information and its version.
    pub fn change(&self, change: impl FnOnce(&mut RoutingInfo)) {
        let mut info = self.info.lock();
        info.routing_info_version.0 += 1;
        change(&mut info);
    }

    /// Adds a node with one service.
    pub fn add_node(&self, id: u32, r#type: NodeType, service: &str, address: Address) {
        let app = FbsAppInfo {
            node_id: NodeId(id),
            service_groups: vec![group(service, address)],
            ..FbsAppInfo::default()
        };
        let node = NodeInfo { app, r#type, status: NodeStatus::HeartbeatConnected, ..NodeInfo::default() };
        self.change(|info| drop(info.nodes.insert(NodeId(id), node)));
    }

    /// Sets a chain of serving targets, one on each node; a target's id is chain * 100 + node.
    pub fn set_chain(&self, chain: u32, version: u32, nodes: &[u32]) {
        let public_state = PublicTargetState::Serving;
        self.change(|info| {
            let mut targets = Vec::new();
            for &node in nodes {
                let target_id = TargetId(u64::from(chain * 100 + node));
                targets.push(ChainTargetInfo { target_id, public_state });
                let (chain_id, node_id) = (ChainId(chain), Some(NodeId(node)));
                let target =
                    TargetInfo { target_id, public_state, chain_id, node_id, ..TargetInfo::default() };
                info.targets.insert(target_id, target);
            }
            let (chain_id, chain_version) = (ChainId(chain), ChainVersion(version));
            let chain = ChainInfo { chain_id, chain_version, targets, ..ChainInfo::default() };
            info.chains.insert(chain_id, chain);
        });
    }

    /// Sets version 1 of chain table 1.
    pub fn set_table(&self, chains: &[u32]) {
        let table = ChainTable {
            chain_table_id: ChainTableId(1),
            chain_table_version: ChainTableVersion(1),
            chains: chains.iter().copied().map(ChainId).collect(),
            desc: String::new(),
        };
        self.change(|info| {
            info.chain_tables.entry(ChainTableId(1)).or_default().insert(ChainTableVersion(1), table);
        });
    }

    /// A manager client that refreshes only when asked to, and has the present information.
    pub async fn mgmtd(&self) -> Arc<MgmtdClient> {
        let config = MgmtdClientConfig {
            mgmtd_server_addresses: vec![self.manager.address.to_string()],
            enable_auto_refresh: false,
            ..MgmtdClientConfig::default()
        };
        let identity = Identity::observer("test", UserInfo::default());
        let client = MgmtdClient::start(self.net.env(), rpc_client(&self.net), config, identity);
        client.refresh_now().await.unwrap();
        client.wait_ready(Duration::ZERO).await.unwrap();
        client
    }
}
