//! The cluster: real servers on simulated machines, and what can be done to them.
//!
//! Either one manager and one metadata server, each with a database of its own; or several of both on one database,
//! which a machine of its own serves to them, in the place of FoundationDB.

mod boot;
mod client;
mod replace;
mod servers;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use valor_client::MgmtdClient;
use valor_kv::{Database, SimulatedStorage};
use valor_protocol::{ChainTableId, NodeId};

use crate::check::Memory;
use crate::net::{End, Host, Life, Net};
use crate::rng::Rng;
use crate::trace::Trace;
use crate::world::Machine;
use servers::Wiring;

pub use boot::{ROOT, chain_id, describe};
pub use client::SimClient;
pub use servers::Running;

/// Name of the cluster.
pub const CLUSTER: &str = "sim";
/// The chain table of all files.
pub const TABLE: ChainTableId = ChainTableId(1);
/// Host of the first manager.
pub const MGMTD: Host = 1;
/// Host of the first metadata server.
pub const META: Host = 4;
/// Host of the database that managers and metadata servers share.
pub const KV: Host = 8;
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

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Managers.
    pub managers: u8,
    /// Metadata servers.
    pub metas: u8,
    /// Storage servers.
    pub storage: u8,
    /// Clients.
    pub clients: u8,
    /// Chains.
    pub chains: u8,
    /// Targets per chain.
    pub replicas: u8,
}

impl Shape {
    /// Whether managers and metadata servers use one database.
    pub fn shares_database(&self) -> bool {
        self.managers > 1 || self.metas > 1
    }
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A shared database.
    Kv,
    /// A manager.
    Mgmtd,
    /// A metadata server.
    Meta,
    /// A storage server.
    Storage,
}

/// Where a server is found while it runs.
pub type Slot = Arc<Mutex<Option<Running>>>;

/// One server's machine.
pub struct Node {
    /// What it does.
    pub kind: Kind,
    /// Machine.
    pub machine: Machine,
    kv: SimulatedStorage,
    life: Option<Arc<Life>>,
    running: Slot,
    wiring: Wiring,
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
    /// Servers: those of metadata and management first, then storage servers.
    pub nodes: Vec<Node>,
    /// Who sets the cluster up and looks at it.
    pub admin: SimClient,
    /// Clients.
    pub clients: Vec<SimClient>,
    /// Which storage servers know who was answered.
    pub memory: Arc<Memory>,
}

impl Cluster {
    /// Starts all servers and clients and creates targets, chains and the file system.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn start(shape: Shape, rng: &mut Rng, trace: Trace) -> Result<Self, String> {
        let net = Net::new(rng.next(), trace.clone());
        let several = |kind, first: Host, count| (0..count).map(move |index| (kind, first + index));
        let kinds = several(Kind::Kv, KV, u8::from(shape.shares_database()))
            .chain(several(Kind::Mgmtd, MGMTD, shape.managers))
            .chain(several(Kind::Meta, META, shape.metas))
            .chain(several(Kind::Storage, STORAGE, shape.storage));
        let wiring = Wiring { managers: shape.managers, shares_database: shape.shares_database() };
        let nodes = kinds.map(|(kind, host)| Node::new(kind, host, wiring, &net, rng.next())).collect();
        let admin = SimClient::start(Machine::new(ADMIN, "admin", &net, rng.next()), wiring);
        let mut cluster =
            Self { trace, net, shape, nodes, admin, clients: Vec::new(), memory: Arc::default() };
        for index in 0..cluster.nodes.len() {
            if cluster.nodes[index].kind != Kind::Meta {
                cluster.boot(index);
            }
        }
        cluster.create_chains().await?;
        for index in cluster.of(Kind::Meta) {
            cluster.boot(index);
        }
        for index in 0..shape.clients {
            let machine = Machine::new(CLIENT + index, format!("client{index}"), &cluster.net, rng.next());
            cluster.clients.push(SimClient::start(machine, wiring));
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
            self.memory.process_ended(self.nodes[index].id());
        }
    }

    /// Whether a node's process was started.
    pub fn is_up(&self, index: usize) -> bool {
        self.nodes[index].life.is_some()
    }

    /// Numbers of the servers of a kind.
    pub fn of(&self, kind: Kind) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].kind == kind).collect()
    }

    /// Numbers of the managers that are primary by their own account.
    pub fn primaries(&self) -> Vec<usize> {
        let mut managers = self.of(Kind::Mgmtd);
        managers.retain(|index| self.nodes[*index].running.lock().as_ref().is_some_and(Running::is_primary));
        managers
    }

    /// Hosts of the managers.
    pub fn managers(&self) -> Vec<Host> {
        self.of(Kind::Mgmtd).into_iter().map(|index| self.nodes[index].machine.host).collect()
    }

    /// The database with the file system's metadata, while it runs.
    pub fn meta_database(&self) -> Option<Database> {
        let slot = self.database_of(Kind::Meta)?;
        slot.lock().as_ref().and_then(|running| running.database().cloned())
    }

    /// Where the database of a kind of server is.
    pub fn database_of(&self, kind: Kind) -> Option<Slot> {
        let kind = if self.shape.shares_database() { Kind::Kv } else { kind };
        self.of(kind).first().map(|index| Arc::clone(&self.nodes[*index].running))
    }

    /// Names of the servers and where they are found.
    pub fn slots(&self) -> Vec<(String, Slot)> {
        self.nodes.iter().map(|node| (node.machine.name.clone(), Arc::clone(&node.running))).collect()
    }

    /// Clients of the manager in clients, with their names.
    pub fn observers(&self) -> Vec<(String, Arc<MgmtdClient>)> {
        let all = self.clients.iter().chain([&self.admin]);
        all.map(|client| (client.machine.name.clone(), Arc::clone(&client.mgmtd))).collect()
    }

    /// All hosts of servers and clients.
    pub fn hosts(&self) -> Vec<Host> {
        let servers = self.nodes.iter().map(|node| node.machine.host);
        servers.chain(self.clients.iter().map(|client| client.machine.host)).collect()
    }
}

impl Node {
    fn new(kind: Kind, host: Host, wiring: Wiring, net: &Net, seed: u64) -> Self {
        let name = match kind {
            Kind::Kv => "kv".to_owned(),
            Kind::Mgmtd => format!("mgmtd{}", host - MGMTD),
            Kind::Meta => format!("meta{}", host - META),
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
            wiring,
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
        let (kind, wiring, host, kv) = (self.kind, self.wiring, self.machine.host, self.kv.clone());
        let running = Arc::clone(&self.running);
        self.starting = Some(tokio::spawn(async move {
            loop {
                match wiring.start(kind, &env, host, &kv).await {
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
        if let Some(running) = self.running.lock().take() {
            running.abandon();
        }
    }
}
