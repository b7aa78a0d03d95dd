//! The cluster: real servers on simulated machines, and what can be done to them.

mod boot;
mod client;
mod replace;

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use valor_client::MgmtdClient;
use valor_client::file::FileIo;
use valor_client::mgmtd::{Identity, MgmtdClientConfig, Role};
use valor_client::storage::{StorageClient, StorageClientConfig};
use valor_config::{Live, Size};
use valor_env::{Endpoint, Env};
use valor_kv::{Database, Durability, SimulatedStorage};
use valor_meta::{Deps, Meta};
use valor_mgmtd::{Hooks, Mgmtd};
use valor_protocol::address::{Address, ServiceGroupInfo};
use valor_protocol::app::{ClientId, FbsAppInfo};
use valor_protocol::meta::Layout;
use valor_protocol::mgmtd::HeartbeatDetail;
use valor_protocol::user::UserInfo;
use valor_protocol::{ChainTableId, NodeId};
use valor_rpc::{Client, ClientConfig, Router, Server, ServerConfig, ServerHandle};
use valor_storage::{HeartbeatBoard, Storage};
use valor_wire::{Status, UtcTime, Uuid};

use crate::net::{End, Host, Life, Net};
use crate::rng::Rng;
use crate::trace::Trace;
use crate::world::Machine;

pub use boot::{ROOT, chain_id, describe};
pub use client::SimClient;

/// Name of the cluster.
pub const CLUSTER: &str = "sim";
/// The chain table of all files.
pub const TABLE: ChainTableId = ChainTableId(1);
/// Host of the manager.
pub const MGMTD: Host = 1;
/// Host of the metadata server.
pub const META: Host = 2;
/// Host of the administrator, who is never hindered.
pub const ADMIN: Host = 9;
/// Host of the first storage server.
pub const STORAGE: Host = 11;
/// Host of the first client.
pub const CLIENT: Host = 31;

/// Smallest chunk size there is.
pub const CHUNK_SIZE: u32 = 64 << 10;
/// Disk space of a storage server: a good deal more than its log segments reserve.
pub const DISK: u64 = 1 << 30;
/// Pause before a process that could not start tries again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long a process waits for routing information.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Storage servers.
    pub storage: u8,
    /// Clients.
    pub clients: u8,
    /// Chains.
    pub chains: u8,
    /// Targets per chain.
    pub replicas: u8,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The manager.
    Mgmtd,
    /// The metadata server.
    Meta,
    /// A storage server.
    Storage,
}

/// A server that runs.
struct Running {
    service: Service,
    db: Option<Database>,
    _mgmtd: Option<Arc<MgmtdClient>>,
    _listener: ServerHandle,
}

enum Service {
    Mgmtd(Arc<Mgmtd>),
    Meta(#[expect(dead_code, reason = "lives as long as the process")] Arc<Meta>),
    Storage(Arc<Storage>),
}

/// One server's machine.
pub struct Node {
    /// What it does.
    pub kind: Kind,
    /// Machine.
    pub machine: Machine,
    kv: SimulatedStorage,
    life: Option<Arc<Life>>,
    running: Arc<Mutex<Option<Running>>>,
    starting: Option<JoinHandle<()>>,
}

/// The cluster.
pub struct Cluster {
    /// Trace of the run.
    pub trace: Trace,
    /// Network.
    pub net: Net,
    /// Shape.
    pub shape: Shape,
    /// Servers: the manager, the metadata server, storage servers.
    pub nodes: Vec<Node>,
    /// Who sets the cluster up and looks at it.
    pub admin: SimClient,
    /// Clients.
    pub clients: Vec<SimClient>,
    /// Counts storage processes that ended and replicas that were filled: those do not know who was answered before.
    pub renewed: Arc<AtomicU64>,
}

impl Cluster {
    /// Starts all servers and clients and creates targets, chains and the file system.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn start(shape: Shape, rng: &mut Rng, trace: Trace) -> Result<Self, String> {
        let net = Net::new(rng.next(), trace.clone());
        let kinds = [(Kind::Mgmtd, MGMTD), (Kind::Meta, META)]
            .into_iter()
            .chain((0..shape.storage).map(|index| (Kind::Storage, STORAGE + index)));
        let nodes = kinds.map(|(kind, host)| Node::new(kind, host, &net, rng.next())).collect();
        let admin = SimClient::start(Machine::new(ADMIN, "admin", &net, rng.next()));
        let mut cluster =
            Self { trace, net, shape, nodes, admin, clients: Vec::new(), renewed: Arc::default() };
        for index in 0..cluster.nodes.len() {
            if cluster.nodes[index].kind != Kind::Meta {
                cluster.boot(index);
            }
        }
        cluster.create_chains().await?;
        for index in 0..cluster.nodes.len() {
            if cluster.nodes[index].kind == Kind::Meta {
                cluster.boot(index);
            }
        }
        for index in 0..shape.clients {
            let machine = Machine::new(CLIENT + index, format!("client{index}"), &cluster.net, rng.next());
            cluster.clients.push(SimClient::start(machine));
        }
        cluster.wait_for_service().await?;
        Ok(cluster)
    }

    /// Starts a node's process.
    pub fn boot(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        self.net.boot(node.machine.host);
        self.trace.event(format_args!("start {}", node.machine.name));
        node.boot();
    }

    /// Ends a node's process as `kill -9` does: what it wrote stays in the page cache.
    pub fn kill(&mut self, index: usize) {
        self.trace.event(format_args!("kill {}", self.nodes[index].machine.name));
        self.count_end(index);
        self.nodes[index].end(&self.net, End::Closed);
        self.nodes[index].machine.disk.restart();
    }

    /// Takes a node's power: what was not synced is lost or torn.
    pub fn cut_power(&mut self, index: usize, keep: f64) {
        self.trace.event(format_args!("power of {} cut, {keep} kept", self.nodes[index].machine.name));
        self.count_end(index);
        let node = &mut self.nodes[index];
        node.end(&self.net, End::Silent);
        node.machine.disk.lose_power(keep);
        let (env, _) = node.machine.next_life();
        node.kv.lose_power(&env);
    }

    fn count_end(&self, index: usize) {
        if self.nodes[index].kind == Kind::Storage {
            self.renewed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a node's process was started.
    pub fn is_up(&self, index: usize) -> bool {
        self.nodes[index].life.is_some()
    }

    /// Numbers of the storage servers.
    pub fn storage_nodes(&self) -> std::ops::Range<usize> {
        2..2 + usize::from(self.shape.storage)
    }

    /// The metadata server's database, while it runs.
    pub fn meta_database(&self) -> Option<Database> {
        self.nodes[1].running.lock().as_ref().and_then(|running| running.db.clone())
    }

    /// All hosts of servers and clients.
    pub fn hosts(&self) -> Vec<Host> {
        let servers = self.nodes.iter().map(|node| node.machine.host);
        servers.chain(self.clients.iter().map(|client| client.machine.host)).collect()
    }
}

impl Node {
    fn new(kind: Kind, host: Host, net: &Net, seed: u64) -> Self {
        let name = match kind {
            Kind::Mgmtd => "mgmtd".to_owned(),
            Kind::Meta => "meta".to_owned(),
            Kind::Storage => format!("storage{}", host - STORAGE),
        };
        let machine = Machine::new(host, name, net, seed);
        machine.disk.set_capacity(DISK);
        Self {
            kind,
            machine,
            kv: SimulatedStorage::new(),
            life: None,
            running: Arc::default(),
            starting: None,
        }
    }

    /// Node id, which is the host's number.
    pub fn id(&self) -> NodeId {
        NodeId(u32::from(self.machine.host))
    }

    fn boot(&mut self) {
        let (env, life) = self.machine.next_life();
        self.life = Some(life);
        let (kind, host, kv) = (self.kind, self.machine.host, self.kv.clone());
        let running = Arc::clone(&self.running);
        self.starting = Some(tokio::spawn(async move {
            loop {
                let started = match kind {
                    Kind::Mgmtd => start_mgmtd(&env, host, &kv),
                    Kind::Meta => start_meta(&env, host, &kv).await,
                    Kind::Storage => start_storage(&env, host).await,
                };
                match started {
                    Ok(server) => {
                        *running.lock() = Some(server);
                        return;
                    }
                    Err(status) => tracing::warn!(host, %status, "process does not start"),
                }
                sleep(RESTART_PAUSE).await;
            }
        }));
    }

    fn end(&mut self, net: &Net, how: End) {
        if let Some(starting) = self.starting.take() {
            starting.abort();
        }
        let Some(life) = self.life.take() else { return };
        net.kill(self.machine.host, &life, how);
        let Some(running) = self.running.lock().take() else { return };
        match &running.service {
            Service::Mgmtd(mgmtd) => mgmtd.abandon(),
            Service::Meta(_) => {}
            Service::Storage(storage) => storage.abandon(),
        }
    }
}

/// The address that a host publishes.
fn address(host: Host) -> Address {
    Address::tcp(SocketAddrV4::new([10, 0, 0, host].into(), 8000))
}

fn app(env: &Env, host: Host, service: &str) -> FbsAppInfo {
    let group = ServiceGroupInfo { services: [service.to_owned()].into(), endpoints: vec![address(host)] };
    FbsAppInfo {
        node_id: NodeId(u32::from(host)),
        hostname: env.hostname(),
        pid: 1,
        service_groups: vec![group],
        ..FbsAppInfo::default()
    }
}

fn mgmtd_addresses() -> Vec<String> {
    vec![address(MGMTD).to_string()]
}

fn mgmtd_config() -> MgmtdClientConfig {
    MgmtdClientConfig { mgmtd_server_addresses: mgmtd_addresses(), ..MgmtdClientConfig::default().fast() }
}

fn listen(env: &Env, host: Host, routers: Vec<Router>) -> Result<ServerHandle, Status> {
    let builder = Server::builder(env.clone(), ServerConfig::default());
    let builder = routers.into_iter().fold(builder, |builder, router| builder.service(router));
    builder
        .listen(&[Endpoint::Tcp(Net::address(host))])
        .map_err(|error| Status { code: 1, message: error.to_string() })
}

fn start_mgmtd(env: &Env, host: Host, kv: &SimulatedStorage) -> Result<Running, Status> {
    let db = Database::simulated(env.clone(), kv, Durability::Always);
    let rpc = Client::new(env.clone(), ClientConfig::default());
    let identity = valor_mgmtd::Identity { cluster_id: CLUSTER.into(), app: app(env, host, "Mgmtd") };
    let config = valor_mgmtd::Config::fast();
    let mgmtd = Mgmtd::start(env.clone(), config, identity, db.clone(), rpc, Hooks::default())?;
    let listener = listen(env, host, vec![mgmtd.router()])?;
    Ok(Running { service: Service::Mgmtd(mgmtd), db: Some(db), _mgmtd: None, _listener: listener })
}

fn server_client(
    env: &Env,
    rpc: &Arc<Client>,
    app: FbsAppInfo,
    detail: Box<dyn Fn() -> HeartbeatDetail + Send + Sync>,
) -> Arc<MgmtdClient> {
    let identity = Identity::new(CLUSTER, UserInfo::default(), Role::Server { app, detail });
    MgmtdClient::start(env.clone(), Arc::clone(rpc), mgmtd_config(), identity)
}

async fn start_meta(env: &Env, host: Host, kv: &SimulatedStorage) -> Result<Running, Status> {
    let db = Database::simulated(env.clone(), kv, Durability::Always);
    let layout = Layout::empty(TABLE, CHUNK_SIZE, 2);
    valor_meta::init_fs(&db, layout, UtcTime(env.utc_now().0)).await?;
    let rpc = Client::new(env.clone(), ClientConfig::default());
    let detail = Box::new(|| HeartbeatDetail::MetaHeartbeatInfo(Default::default()));
    let mgmtd = server_client(env, &rpc, app(env, host, "MetaSerde"), detail);
    mgmtd.wait_ready(PATIENCE).await?;
    let live = Live::new(meta_config());
    let client = ClientId { uuid: Uuid(env.random_uuid()), hostname: env.hostname() };
    let config = StorageClientConfig::default().fast();
    let storage = StorageClient::new(env, Arc::clone(&rpc), Arc::clone(&mgmtd), config, client);
    let deps = Deps {
        db: db.clone(),
        users: valor_meta::user_store(env.clone(), db.clone(), &live),
        cluster: Arc::clone(&mgmtd) as Arc<dyn valor_meta::Cluster>,
        chunks: Arc::new(FileIo::new(storage)),
        rpc,
    };
    let meta = Meta::start(env.clone(), live, NodeId(u32::from(host)), deps).await?;
    let listener = listen(env, host, meta.routers().into())?;
    mgmtd.start_heartbeat();
    Ok(Running { service: Service::Meta(meta), db: Some(db), _mgmtd: Some(mgmtd), _listener: listener })
}

fn meta_config() -> valor_meta::Config {
    let mut config = valor_meta::Config::fast();
    config.gc.gc_file_delay = valor_config::Duration::from_secs(2);
    config.session_manager.scan_interval = valor_config::Duration::from_secs(10);
    config
}

async fn start_storage(env: &Env, host: Host) -> Result<Running, Status> {
    let rpc = Client::new(env.clone(), ClientConfig::default());
    let board = HeartbeatBoard::default();
    let mgmtd = server_client(env, &rpc, app(env, host, "StorageSerde"), board.detail());
    mgmtd.wait_ready(PATIENCE).await?;
    let mut config = valor_storage::Config::fast();
    config.mgmtd = mgmtd_config();
    config.targets.target_paths = vec![PathBuf::from("/data")];
    config.targets.reserve_bytes = Size::new(1 << 20);
    let identity = valor_storage::Identity { node_id: NodeId(u32::from(host)), board };
    let cluster = Arc::clone(&mgmtd) as Arc<dyn valor_storage::Cluster>;
    let storage = Storage::start(env.clone(), Live::new(config), identity, cluster, rpc).await?;
    let listener = listen(env, host, vec![storage.router()])?;
    mgmtd.start_heartbeat();
    Ok(Running { service: Service::Storage(storage), db: None, _mgmtd: Some(mgmtd), _listener: listener })
}
