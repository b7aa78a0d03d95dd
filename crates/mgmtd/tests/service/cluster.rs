//! Managers on one database, and servers made of nothing but heartbeats.

use crate::world::Hub;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use valor_env::{Endpoint, Env};
use valor_kv::Database;
use valor_mgmtd::{Config, ConfigSource, Hooks, Identity, Mgmtd, schema};
use valor_protocol::address::{Address, ServiceGroupInfo};
use valor_protocol::app::{FbsAppInfo, ReleaseVersion};
use valor_protocol::mgmtd::*;
use valor_protocol::status::code;
use valor_protocol::{
    ChainId, ChainVersion, HeartbeatVersion, NodeId, RoutingInfoVersion, Status, TargetId, UtcTime,
};
use valor_rpc::{Client, ClientConfig, Server, ServerConfig, ServerHandle};

pub const CLUSTER: &str = "test";

pub struct Cluster {
    pub hub: Hub,
    pub env: Env,
    pub db: Database,
}

pub struct Manager {
    pub mgmtd: Arc<Mgmtd>,
    pub skew: Arc<AtomicI64>,
    server: ServerHandle,
}

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn socket(id: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9000 + id as u16)
}

pub fn app(id: u32, service: &str) -> FbsAppInfo {
    let group =
        ServiceGroupInfo { services: [service.to_owned()].into(), endpoints: vec![Address::tcp(socket(id))] };
    FbsAppInfo {
        node_id: NodeId(id),
        hostname: format!("host{id}"),
        pid: 1,
        service_groups: vec![group],
        ..FbsAppInfo::default()
    }
}

impl Cluster {
    pub fn new() -> Self {
        let hub = Hub::new(7);
        let (env, _) = hub.machine();
        let db = Database::memory(env.clone());
        Self { hub, env, db }
    }

    pub async fn start(&self, id: u32, config: Config) -> Manager {
        self.start_with(id, config, ReleaseVersion::default(), self.db.clone(), Hooks::default())
    }

    pub fn start_with(
        &self,
        id: u32,
        config: impl Into<ConfigSource>,
        release: ReleaseVersion,
        db: Database,
        hooks: Hooks,
    ) -> Manager {
        let (env, skew) = self.hub.machine();
        let app = FbsAppInfo { release_version: release, ..app(id, "Mgmtd") };
        let identity = Identity { cluster_id: CLUSTER.into(), app };
        let peers = Client::new(env.clone(), ClientConfig::default());
        let mgmtd = Mgmtd::start(env.clone(), config, identity, db, peers, hooks).unwrap();
        let on = Endpoint::Tcp(socket(id).into());
        let server = Server::builder(env, ServerConfig::default()).service(mgmtd.router()).listen(&[on]);
        Manager { mgmtd, skew, server: server.unwrap() }
    }

    /// A manager that is primary, with the default configuration except that it admits nodes by themselves.
    pub async fn primary(&self) -> Manager {
        let config = Config { allow_heartbeat_from_unregistered: true, ..Config::default() };
        let manager = self.start(1, config).await;
        until(|| manager.mgmtd.is_primary()).await;
        manager
    }

    /// A primary with the fast profile.
    pub async fn fast(&self) -> Manager {
        let manager = self.start(1, Config::fast()).await;
        until(|| manager.mgmtd.is_primary()).await;
        manager
    }

    /// Writes a lease of another manager over the stored one, as no manager would.
    pub async fn give_lease_to(&self, id: u32) {
        let tx = self.db.begin();
        let stored = tx.get(schema::LEASE_KEY).await.unwrap().unwrap();
        let mut lease = schema::read_lease(stored).unwrap();
        lease.primary.node_id = NodeId(id);
        let schema::Write::Put(key, value) = schema::put_lease(&lease) else { panic!("it is written") };
        tx.set(key, value);
        tx.commit().await.unwrap();
    }

    pub fn client(&self) -> Arc<Client> {
        Client::new(self.env.clone(), ClientConfig::default())
    }

    pub fn utc_now(&self) -> UtcTime {
        UtcTime(self.env.utc_now().0)
    }
}

impl Manager {
    /// As if the process had been killed: nothing is said to anyone.
    pub async fn kill(self) {
        self.mgmtd.abandon();
        self.server.stop(Duration::ZERO).await;
    }

    pub async fn stop(self) {
        self.mgmtd.stop().await;
        self.server.stop(seconds(1)).await;
    }

    pub async fn routing(&self) -> RoutingInfo {
        let req = GetRoutingInfoReq { cluster_id: CLUSTER.into(), ..GetRoutingInfoReq::default() };
        self.mgmtd.get_routing_info(req).await.unwrap().info.unwrap()
    }

    pub async fn version(&self) -> RoutingInfoVersion {
        self.routing().await.routing_info_version
    }

    pub async fn chain(&self, id: u32) -> ChainInfo {
        self.routing().await.chains[&ChainId(id)].clone()
    }

    /// A chain as `id:STATE` in order.
    pub async fn states(&self, chain: u32) -> String {
        describe(&self.chain(chain).await)
    }

    pub async fn set_chains(&self, chains: &[(u32, &[u64])]) -> Result<(), Status> {
        let setting = |(id, targets): &(u32, &[u64])| ChainSetting {
            chain_id: ChainId(*id),
            targets: targets.iter().map(|t| ChainTargetSetting { target_id: TargetId(*t) }).collect(),
            set_preferred_target_order: false,
        };
        let chains = chains.iter().map(setting).collect();
        let req = SetChainsReq { cluster_id: CLUSTER.into(), chains, ..SetChainsReq::default() };
        self.mgmtd.set_chains(req).await.map(drop)
    }

    pub async fn node_status(&self, id: u32) -> NodeStatus {
        self.routing().await.nodes[&NodeId(id)].status
    }
}

pub fn describe(chain: &ChainInfo) -> String {
    let target = |t: &ChainTargetInfo| format!("{}:{:?}", t.target_id, t.public_state);
    chain.targets.iter().map(target).collect::<Vec<_>>().join(" ")
}

/// Waits for a condition on the paused clock; panics after an hour of it.
pub async fn until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < seconds(3600), "never came true");
        sleep(millis(10)).await;
    }
}

/// Waits for what an asynchronous question answers; panics after an hour of the paused clock.
pub async fn until_async(mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < seconds(3600), "never came true");
        sleep(millis(10)).await;
    }
    start.elapsed()
}

/// A server: what it would say in its next heartbeat.
pub struct Node {
    env: Env,
    pub app: FbsAppInfo,
    pub hb_version: u64,
    /// Of a storage server.
    pub targets: Option<BTreeMap<TargetId, LocalTargetInfo>>,
}

impl Node {
    pub fn meta(cluster: &Cluster, id: u32) -> Self {
        Self { env: cluster.env.clone(), app: app(id, "MetaSerde"), hb_version: 0, targets: None }
    }

    pub fn storage(cluster: &Cluster, id: u32, targets: &[u64]) -> Self {
        let online = |id: &u64| {
            let target_id = TargetId(*id);
            let local_state = LocalTargetState::Online;
            (target_id, LocalTargetInfo { target_id, local_state, ..LocalTargetInfo::default() })
        };
        let targets = Some(targets.iter().map(online).collect());
        Self { env: cluster.env.clone(), app: app(id, "StorageSerde"), hb_version: 0, targets }
    }

    pub fn request(&mut self) -> HeartbeatReq {
        self.hb_version += 1;
        let info = match &self.targets {
            None => HeartbeatDetail::MetaHeartbeatInfo(MetaHeartbeatInfo::default()),
            Some(targets) => {
                let targets = targets.values().cloned().collect();
                HeartbeatDetail::StorageHeartbeatInfo(StorageHeartbeatInfo { targets })
            }
        };
        HeartbeatReq {
            cluster_id: CLUSTER.into(),
            info: HeartbeatInfo {
                info,
                app: self.app.clone(),
                hb_version: HeartbeatVersion(self.hb_version),
                ..HeartbeatInfo::default()
            },
            timestamp: UtcTime(self.env.utc_now().0),
            ..HeartbeatReq::default()
        }
    }

    /// One heartbeat; repeated with the right number if the manager knows a later one.
    pub async fn beat(&mut self, manager: &Manager) -> Result<HeartbeatRsp, Status> {
        match manager.mgmtd.heartbeat(self.request()).await {
            Err(status) if status.code == code::MGMTD_HEARTBEAT_VERSION_STALE => {
                self.hb_version = status.message.parse().unwrap();
                manager.mgmtd.heartbeat(self.request()).await
            }
            result => result,
        }
    }

    /// Does what a storage server does with new routing information (semantics.md C.2), and fills its targets at once
    /// when they are to be filled.
    pub fn learn(&mut self, routing: &RoutingInfo) {
        for (id, report) in self.targets.iter_mut().flatten() {
            let Some(chain) = routing.targets.get(id).and_then(|target| routing.chain(target.chain_id))
            else {
                continue;
            };
            let state = chain.targets.iter().find(|t| t.target_id == *id).unwrap().public_state;
            use {LocalTargetState as Local, PublicTargetState as Public};
            report.chain_version = chain.chain_version;
            report.local_state = match (state, report.local_state) {
                (Public::Serving | Public::Syncing, _) => Local::Uptodate,
                (_, Local::Uptodate) => Local::Offline,
                (_, Local::Offline) => Local::Online,
                (_, other) => other,
            };
        }
    }

    pub fn set(&mut self, target: u64, local_state: LocalTargetState) {
        self.report(target).local_state = local_state;
    }

    pub fn set_version(&mut self, target: u64, version: u32) {
        self.report(target).chain_version = ChainVersion(version);
    }

    fn report(&mut self, target: u64) -> &mut LocalTargetInfo {
        self.targets.as_mut().unwrap().get_mut(&TargetId(target)).unwrap()
    }

    /// A process that starts: it counts from 1 and knows no chain.
    pub fn restart(&mut self) {
        self.hb_version = 0;
        for report in self.targets.iter_mut().flat_map(|targets| targets.values_mut()) {
            report.local_state = LocalTargetState::Online;
            report.chain_version = ChainVersion(0);
        }
    }
}
