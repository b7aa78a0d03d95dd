//! Servers as their processes put them together.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use valor_client::MgmtdClient;
use valor_client::file::FileIo;
use valor_client::mgmtd::{Identity, MgmtdClientConfig, Role};
use valor_client::storage::{StorageClient, StorageClientConfig};
use valor_config::{Live, Size};
use valor_env::{Endpoint, Env};
use valor_kv::{Database, Durability, SimulatedStorage};
use valor_meta::{Deps, Meta};
use valor_mgmtd::{Hooks, Mgmtd};
use valor_protocol::NodeId;
use valor_protocol::address::{Address, ServiceGroupInfo};
use valor_protocol::app::{ClientId, FbsAppInfo};
use valor_protocol::meta::Layout;
use valor_protocol::mgmtd::HeartbeatDetail;
use valor_protocol::user::UserInfo;
use valor_rpc::{Client, ClientConfig, Router, Server, ServerConfig, ServerHandle};
use valor_storage::{HeartbeatBoard, Storage};
use valor_wire::{Status, UtcTime, Uuid};

use super::{CHUNK_SIZE, CLUSTER, KV, Kind, MGMTD, TABLE};
use crate::net::{Host, Net};

/// How long a process waits for routing information.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that runs.
pub struct Running {
    service: Service,
    /// Its database, unless it is another process's.
    db: Option<Database>,
    mgmtd: Option<Arc<MgmtdClient>>,
    _listener: ServerHandle,
}

enum Service {
    Kv,
    Mgmtd(Arc<Mgmtd>),
    Meta(#[expect(dead_code, reason = "lives as long as the process")] Arc<Meta>),
    Storage(Arc<Storage>),
}

impl Running {
    /// Whether this is a manager that believes to be primary.
    pub fn is_primary(&self) -> bool {
        matches!(&self.service, Service::Mgmtd(mgmtd) if mgmtd.is_primary())
    }

    /// The server's own database.
    pub fn database(&self) -> Option<&Database> {
        self.db.as_ref()
    }

    /// The server's client of the manager.
    pub fn mgmtd(&self) -> Option<&Arc<MgmtdClient>> {
        self.mgmtd.as_ref()
    }

    /// Ends what would go on without its process.
    pub(super) fn abandon(&self) {
        match &self.service {
            Service::Kv | Service::Meta(_) => {}
            Service::Mgmtd(mgmtd) => mgmtd.abandon(),
            Service::Storage(storage) => storage.abandon(),
        }
    }
}

/// How processes find each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wiring {
    pub managers: u8,
    pub shares_database: bool,
}

impl Wiring {
    /// Starts a process.
    pub async fn start(
        self,
        kind: Kind,
        env: &Env,
        host: Host,
        kv: &SimulatedStorage,
    ) -> Result<Running, Status> {
        match kind {
            Kind::Kv => start_kv(env, host, kv),
            Kind::Mgmtd => self.start_mgmtd(env, host, kv),
            Kind::Meta => self.start_meta(env, host, kv).await,
            Kind::Storage => self.start_storage(env, host).await,
        }
    }

    /// Addresses of the managers.
    pub fn mgmtd_addresses(self) -> Vec<String> {
        (0..self.managers).map(|index| address(MGMTD + index).to_string()).collect()
    }

    fn mgmtd_config(self) -> MgmtdClientConfig {
        let mgmtd_server_addresses = self.mgmtd_addresses();
        MgmtdClientConfig { mgmtd_server_addresses, ..MgmtdClientConfig::default().fast() }
    }

    /// The process's own database or a connection to the shared one; the former also as that.
    fn database(self, env: &Env, rpc: &Arc<Client>, kv: &SimulatedStorage) -> (Database, Option<Database>) {
        if self.shares_database {
            let at = Endpoint::Tcp(Net::address(KV));
            return (Database::remote(env.clone(), Arc::clone(rpc), at), None);
        }
        let own = Database::simulated(env.clone(), kv, Durability::Always);
        (own.clone(), Some(own))
    }

    fn start_mgmtd(self, env: &Env, host: Host, kv: &SimulatedStorage) -> Result<Running, Status> {
        let rpc = Client::new(env.clone(), ClientConfig::default());
        let (db, own) = self.database(env, &rpc, kv);
        let identity = valor_mgmtd::Identity { cluster_id: CLUSTER.into(), app: app(env, host, "Mgmtd") };
        let config = valor_mgmtd::Config::fast();
        let mgmtd = Mgmtd::start(env.clone(), config, identity, db, rpc, Hooks::default())?;
        let listener = listen(env, host, vec![mgmtd.router()])?;
        Ok(Running { service: Service::Mgmtd(mgmtd), db: own, mgmtd: None, _listener: listener })
    }

    fn server_client(
        self,
        env: &Env,
        rpc: &Arc<Client>,
        app: FbsAppInfo,
        detail: Box<dyn Fn() -> HeartbeatDetail + Send + Sync>,
    ) -> Arc<MgmtdClient> {
        let identity = Identity::new(CLUSTER, UserInfo::default(), Role::Server { app, detail });
        MgmtdClient::start(env.clone(), Arc::clone(rpc), self.mgmtd_config(), identity)
    }

    async fn start_meta(self, env: &Env, host: Host, kv: &SimulatedStorage) -> Result<Running, Status> {
        let rpc = Client::new(env.clone(), ClientConfig::default());
        let (db, own) = self.database(env, &rpc, kv);
        let layout = Layout::empty(TABLE, CHUNK_SIZE, 2);
        valor_meta::init_fs(&db, layout, UtcTime(env.utc_now().0)).await?;
        let detail = Box::new(|| HeartbeatDetail::MetaHeartbeatInfo(Default::default()));
        let mgmtd = self.server_client(env, &rpc, app(env, host, "MetaSerde"), detail);
        mgmtd.wait_ready(PATIENCE).await?;
        let live = Live::new(meta_config());
        let client = ClientId { uuid: Uuid(env.random_uuid()), hostname: env.hostname() };
        let config = StorageClientConfig::default().fast();
        let storage = StorageClient::new(env, Arc::clone(&rpc), Arc::clone(&mgmtd), config, client);
        let deps = Deps {
            users: valor_meta::user_store(env.clone(), db.clone(), &live),
            db,
            cluster: Arc::clone(&mgmtd) as Arc<dyn valor_meta::Cluster>,
            chunks: Arc::new(FileIo::new(storage)),
            rpc,
        };
        let meta = Meta::start(env.clone(), live, NodeId(u32::from(host)), deps).await?;
        let listener = listen(env, host, meta.routers().into())?;
        mgmtd.start_heartbeat();
        Ok(Running { service: Service::Meta(meta), db: own, mgmtd: Some(mgmtd), _listener: listener })
    }

    async fn start_storage(self, env: &Env, host: Host) -> Result<Running, Status> {
        let rpc = Client::new(env.clone(), ClientConfig::default());
        let board = HeartbeatBoard::default();
        let mgmtd = self.server_client(env, &rpc, app(env, host, "StorageSerde"), board.detail());
        mgmtd.wait_ready(PATIENCE).await?;
        let mut config = valor_storage::Config::fast();
        config.mgmtd = self.mgmtd_config();
        config.targets.target_paths = vec![PathBuf::from("/data")];
        config.targets.reserve_bytes = Size::new(1 << 20);
        let identity = valor_storage::Identity { node_id: NodeId(u32::from(host)), board };
        let cluster = Arc::clone(&mgmtd) as Arc<dyn valor_storage::Cluster>;
        let storage = Storage::start(env.clone(), Live::new(config), identity, cluster, rpc).await?;
        let listener = listen(env, host, storage.routers().into())?;
        mgmtd.start_heartbeat();
        Ok(Running { service: Service::Storage(storage), db: None, mgmtd: Some(mgmtd), _listener: listener })
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

fn listen(env: &Env, host: Host, routers: Vec<Router>) -> Result<ServerHandle, Status> {
    let builder = Server::builder(env.clone(), ServerConfig::default());
    let builder = routers.into_iter().fold(builder, |builder, router| builder.service(router));
    builder
        .listen(&[Endpoint::Tcp(Net::address(host))])
        .map_err(|error| Status { code: 1, message: error.to_string() })
}

/// A database that others use, in the place of FoundationDB.
fn start_kv(env: &Env, host: Host, kv: &SimulatedStorage) -> Result<Running, Status> {
    let db = Database::simulated(env.clone(), kv, Durability::Always);
    let listener = listen(env, host, vec![valor_kv::remote::router(db.clone())])?;
    Ok(Running { service: Service::Kv, db: Some(db), mgmtd: None, _listener: listener })
}

fn meta_config() -> valor_meta::Config {
    let mut config = valor_meta::Config::fast();
    config.gc.gc_file_delay = valor_config::Duration::from_secs(2);
    config.session_manager.scan_interval = valor_config::Duration::from_secs(10);
    config
}
