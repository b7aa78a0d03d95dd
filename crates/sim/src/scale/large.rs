//! The large cluster: one manager and many small servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use valor_client::mgmtd::MgmtdClientConfig;
use valor_env::Env;
use valor_kv::{Database, Durability, SimulatedStorage};
use valor_mgmtd::{Config, Hooks, Identity, Mgmtd, RoutingReply};
use valor_protocol::app::FbsAppInfo;
use valor_protocol::mgmtd::{
    ChainSetting, ChainTargetSetting, GetRoutingInfoReq, GetRoutingInfoRsp, HeartbeatReq, PublicTargetState,
    RoutingInfo, SetChainTableReq, SetChainsReq,
};
use valor_protocol::{ChainId, ChainTableId, NodeId, TargetId};
use valor_rpc::{Client, ClientConfig};
use valor_wire::{KnownCrc, PacketHead, Status, UtcTime, Wire, encode_message, from_bytes, to_bytes};

use super::Scale;
use super::meter::{Meter, SERVERS, cpu_time};
use super::server::Server;
use crate::cluster::{CLUSTER, MGMTD, TABLE};
use crate::net::Net;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::world::Machine;

/// Node id of the first storage server.
const FIRST: u32 = 10_001;
/// Chains created by one request.
const BATCH: usize = 2000;
/// Chains of a table: its record is a value of the store, which has at most 100 000 bytes.
const TABLE_MAX: usize = 20_000;
/// Simulated time in which chains must be whole.
const RECOVERY: Duration = Duration::from_secs(900);
/// How often that, or an election, is looked at.
const POLL: Duration = Duration::from_secs(1);

const HEARTBEATS: &str = "heartbeats";
const CHANGED: &str = "routing information that has changed";
const UNCHANGED: &str = "routing information that has not changed";

/// Longest reply that says that nothing has changed.
const UNCHANGED_MAX: usize = 16;

/// The cluster.
pub struct Large {
    machine: Machine,
    storage: SimulatedStorage,
    config: Config,
    tasks: JoinSet<()>,
    /// What its tasks share.
    pub shared: Arc<Shared>,
}

/// What tasks share.
pub struct Shared {
    scale: Scale,
    mgmtd: Arc<Mgmtd>,
    env: Env,
    /// Silence after which a server has failed.
    pub silence: Duration,
    /// Where CPU time goes.
    pub meter: Meter,
    latest: Mutex<Arc<RoutingInfo>>,
    last_reply: Mutex<Bytes>,
    servers: Vec<Mutex<Server>>,
}

fn manager(
    machine: &mut Machine,
    storage: &SimulatedStorage,
    config: Config,
) -> Result<(Env, Arc<Mgmtd>), Status> {
    let (env, _) = machine.next_life();
    let db = Database::simulated(env.clone(), storage, Durability::Always);
    let rpc = Client::new(env.clone(), ClientConfig::default());
    let app = FbsAppInfo { node_id: NodeId(u32::from(MGMTD)), ..FbsAppInfo::default() };
    let identity = Identity { cluster_id: CLUSTER.into(), app };
    Ok((env.clone(), Mgmtd::start(env, config, identity, db, rpc, Hooks::default())?))
}

impl Large {
    /// Starts the manager.
    pub fn start(scale: Scale) -> Result<Self, Status> {
        let net = Net::new(scale.seed, Trace::new(false));
        let mut machine = Machine::new(MGMTD, "mgmtd", &net, scale.seed);
        let storage = SimulatedStorage::new();
        let config = if scale.fast { Config::fast() } else { Config::default() };
        let config = Config { allow_heartbeat_from_unregistered: true, ..config };
        let (env, mgmtd) = manager(&mut machine, &storage, config.clone())?;
        let shared = Shared {
            scale,
            mgmtd,
            env,
            silence: config.heartbeat_fail_interval.get(),
            meter: Meter::default(),
            latest: Mutex::default(),
            last_reply: Mutex::default(),
            servers: scale.servers(),
        };
        Ok(Self { machine, storage, config, tasks: JoinSet::new(), shared: Arc::new(shared) })
    }

    /// Creates all chains and their tables.
    pub async fn create_chains(&self) -> Result<(), Status> {
        let (scale, mgmtd) = (self.shared.scale, &self.shared.mgmtd);
        until_primary(mgmtd).await;
        let chains: Vec<ChainId> = (0..scale.chains).map(chain_id).collect();
        let setting = |chain: u32| ChainSetting {
            chain_id: chain_id(chain),
            targets: scale.targets(chain).map(|(_, target_id)| ChainTargetSetting { target_id }).collect(),
            set_preferred_target_order: true,
        };
        let settings: Vec<ChainSetting> = (0..scale.chains).map(setting).collect();
        for batch in settings.chunks(BATCH) {
            let chains = batch.to_vec();
            mgmtd
                .set_chains(SetChainsReq { cluster_id: CLUSTER.into(), chains, ..SetChainsReq::default() })
                .await?;
        }
        for (table, chains) in (TABLE.0..).map(ChainTableId).zip(chains.chunks(TABLE_MAX)) {
            let req = SetChainTableReq {
                cluster_id: CLUSTER.into(),
                chain_table_id: table,
                chains: chains.to_vec(),
                ..SetChainTableReq::default()
            };
            mgmtd.set_chain_table(req).await?;
        }
        Ok(())
    }

    /// Starts all servers, spread over their periods.
    pub fn start_servers(&mut self) {
        let config = MgmtdClientConfig::default();
        let config = if self.shared.scale.fast { config.fast() } else { config };
        let (beat, refresh) = (config.auto_heartbeat_interval.get(), config.auto_refresh_interval.get());
        for index in 0..self.shared.servers.len() {
            let share = f64::from(index as u32) / f64::from(self.shared.scale.nodes);
            let shared = Arc::clone(&self.shared);
            self.tasks.spawn(async move {
                sleep(refresh.mul_f64(share)).await;
                loop {
                    shared.refresh(index).await;
                    sleep(refresh).await;
                }
            });
            let shared = Arc::clone(&self.shared);
            self.tasks.spawn(async move {
                sleep(beat.mul_f64(share)).await;
                loop {
                    shared.heartbeat(index).await;
                    sleep(beat).await;
                }
            });
        }
    }

    /// Waits until all targets serve.
    pub async fn until_whole(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let latest = Arc::clone(&self.shared.latest.lock());
            let serves = |state: PublicTargetState| state == PublicTargetState::Serving;
            let broken = latest.chains.values().filter(|c| !c.targets.iter().all(|t| serves(t.public_state)));
            let broken = broken.count();
            if broken == 0 && latest.chains.len() == self.shared.scale.chains as usize {
                return Ok(());
            }
            if begun.elapsed() > RECOVERY {
                return Err(format!(
                    "{broken} of {} chains are not whole after {RECOVERY:?}",
                    latest.chains.len()
                ));
            }
            sleep(POLL).await;
        }
    }

    /// Ends everything and starts another manager; the CPU time until it is primary.
    pub async fn replace_manager(mut self) -> Result<Duration, Status> {
        self.tasks.shutdown().await;
        self.shared.mgmtd.abandon();
        let begun = cpu_time();
        let (_, mgmtd) = manager(&mut self.machine, &self.storage, self.config)?;
        until_primary(&mgmtd).await;
        Ok(cpu_time() - begun)
    }
}

async fn until_primary(mgmtd: &Mgmtd) {
    while !mgmtd.is_primary() {
        sleep(POLL).await;
    }
}

impl Scale {
    /// Servers and targets of a chain. Chains with the same first server differ in the others, so that many share the
    /// work when one fails.
    fn targets(self, chain: u32) -> impl Iterator<Item = (u32, TargetId)> {
        let widest = ((self.nodes - 1) / (self.replicas - 1).max(1)).max(1);
        let stride = 1 + chain / self.nodes % widest;
        (0..self.replicas).map(move |replica| {
            let server = (chain + replica * stride) % self.nodes;
            (
                server,
                TargetId(u64::from(FIRST + server) << 32 | u64::from(chain) << 8 | u64::from(replica + 1)),
            )
        })
    }

    fn servers(self) -> Vec<Mutex<Server>> {
        let mut targets: BTreeMap<u32, Vec<(TargetId, ChainId)>> = BTreeMap::new();
        for chain in 0..self.chains {
            for (server, target) in self.targets(chain) {
                targets.entry(server).or_default().push((target, chain_id(chain)));
            }
        }
        let server = |index| Server::new(NodeId(FIRST + index), targets.remove(&index).unwrap_or_default());
        (0..self.nodes).map(server).map(Mutex::new).collect()
    }
}

fn chain_id(index: u32) -> ChainId {
    ChainId(100_001 + index)
}

impl Shared {
    /// Version of the newest routing information that a server has seen.
    pub fn version(&self) -> u64 {
        self.latest.lock().routing_info_version.0
    }

    /// Bytes of the last reply with routing information.
    pub fn reply_bytes(&self) -> usize {
        self.last_reply.lock().len()
    }

    /// Lets servers fail for some time; how many did.
    pub async fn break_servers(&self, rng: &mut Rng, time: Duration) -> u64 {
        let end = Instant::now() + time;
        let mut failed = 0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return failed;
            }
            sleep(self.scale.failures.min(left)).await;
            let server = &self.servers[rng.index(self.servers.len())];
            self.meter.now(SERVERS, || server.lock().fail(self.silence * 2));
            failed += 1;
        }
    }

    async fn heartbeat(&self, index: usize) {
        let now = UtcTime(self.env.utc_now().0);
        let body = self.meter.now(SERVERS, || {
            let mut server = self.servers[index].lock();
            server.is_up().then(|| server.heartbeat(now))
        });
        let Some(body) = body else { return };
        let handled = async {
            let req = from_bytes::<HeartbeatReq>(body)?;
            let rsp = self.mgmtd.heartbeat(req).await;
            frame(&rsp, &[]);
            rsp
        };
        if let Err(status) = self.meter.within(|_| HEARTBEATS, handled).await {
            tracing::warn!(index, %status, "heartbeat refused");
        }
    }

    async fn refresh(&self, index: usize) {
        let body = self.meter.now(SERVERS, || {
            let server = self.servers[index].lock();
            let req = GetRoutingInfoReq {
                cluster_id: CLUSTER.into(),
                routing_info_version: server.known,
                ..GetRoutingInfoReq::default()
            };
            server.is_up().then(|| to_bytes(&req))
        });
        let Some(body) = body else { return };
        let handled = async {
            let req = from_bytes::<GetRoutingInfoReq>(body)?;
            let rsp = self.mgmtd.routing_reply(req).await?;
            frame(&Ok(rsp.value.clone()), &rsp.known);
            Ok(rsp.value)
        };
        let what = |rsp: &Result<RoutingReply, Status>| match rsp {
            Ok(rsp) if rsp.bytes().len() > UNCHANGED_MAX => CHANGED,
            _ => UNCHANGED,
        };
        match self.meter.within(what, handled).await {
            Ok(rsp) => self.meter.now(SERVERS, || self.learn(index, rsp.bytes())),
            Err(status) => tracing::warn!(index, %status, "routing information refused"),
        }
    }

    /// Servers that get the same reply share what it says.
    fn learn(&self, index: usize, reply: &Bytes) {
        let mut last = self.last_reply.lock();
        if last.as_ptr() != reply.as_ptr() {
            let Ok(GetRoutingInfoRsp { info: Some(info) }) = from_bytes(reply.clone()) else { return };
            *last = reply.clone();
            *self.latest.lock() = Arc::new(info);
        }
        let latest = Arc::clone(&self.latest.lock());
        self.servers[index].lock().learn(&latest);
    }
}

/// Makes the frame that would be sent.
fn frame<T: Wire>(result: &Result<T, Status>, known: &[KnownCrc]) {
    std::hint::black_box(encode_message(&PacketHead::default(), result, known, None));
}
