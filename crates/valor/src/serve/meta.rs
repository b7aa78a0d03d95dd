//! `valor meta`: the metadata service's process.

use super::mgmtd::{apply_pushed, config_status};
use super::{Process, Profile, ServeArgs};
use crate::overrides::Overrides;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use valor_client::file::FileIo;
use valor_client::mgmtd::{Identity, MgmtdClient, MgmtdClientConfig, Role};
use valor_client::storage::{StorageClient, StorageClientConfig};
use valor_config::{Live, Part, Pushable, Tree};
use valor_daemon::{BaseConfig, KvEngineConfig};
use valor_kv::Database;
use valor_meta::{Deps, Meta};
use valor_protocol::app::ClientId;
use valor_protocol::meta::Layout;
use valor_protocol::mgmtd::{HeartbeatDetail, NodeType};
use valor_protocol::{ChainTableId, NodeId};
use valor_wire::{UtcTime, Uuid};

/// How long to wait for routing information at start.
const ROUTING_PATIENCE: Duration = Duration::from_secs(60);

/// Main configuration (3FS `src/meta/service/MetaServer.h`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Main {
    server: Sections,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Sections {
    base: BaseConfig,
    meta: valor_meta::Config,
    mgmtd_client: MgmtdClientConfig,
    storage_client: StorageClientConfig,
    kv_engine: KvEngineConfig,
}

impl Tree for Main {
    const COLD: &'static [&'static str] = &["server.base", "server.kv_engine"];
    const IGNORED: &'static [&'static str] = &[
        "common",
        "server.base.thread_pool",
        "server.base.independent_thread_pool",
        "server.background_client",
        "server.fdb",
        "server.use_memkv",
    ];
    const PARTS: &'static [Part] = &[
        Part::of::<valor_meta::Config>("server.meta"),
        Part::lists("server.mgmtd_client", MgmtdClientConfig::COLD, MgmtdClientConfig::IGNORED),
        Part::lists("server.kv_engine", &[], KvEngineConfig::IGNORED),
        Part::lists("server.storage_client", StorageClientConfig::COLD, StorageClientConfig::IGNORED),
    ];

    fn check(&self) -> Result<(), String> {
        self.server.meta.check()
    }
}

/// Runs until stopped.
///
/// # Errors
/// A message for the user.
pub async fn run(args: ServeArgs, overrides: Overrides) -> Result<(), String> {
    let process = Process::prepare("meta", args, overrides)?;
    let live = process.main_config(base(&process), Some(NodeType::Meta)).await?;
    let groups = process.bind(&live.get().server.base, "MetaSerde", 8000, 9000)?;
    let shared = live.get().server.kv_engine.clone();
    let (db, kv) = super::kv::database(&process, shared.shared())?;
    if let Some(text) = &process.args.init_root_layout {
        let layout = root_layout(text)?;
        let now = UtcTime(process.env.utc_now().0);
        valor_meta::init_fs(&db, layout, now)
            .await
            .map_err(|status| format!("making the root directory: {status}"))?;
    }
    let mgmtd = start_mgmtd_client(&process, &live, process.app_info(&groups))?;
    tokio::select! {
        ready = mgmtd.wait_ready(ROUTING_PATIENCE) => drop(ready.map_err(|status| format!("no routing information: {status}"))?),
        () = process.stop.triggered() => return Ok(()),
    }
    let part = live.part(|main| main.server.meta.clone());
    let deps = deps(&process, &live, &part, &mgmtd, db);
    let meta = Meta::start(process.env.clone(), part, NodeId(process.app.node_id), deps)
        .await
        .map_err(|status| format!("metadata service: {status}"))?;
    let serving =
        process.serve_all(&groups, live.get().server.base.shards, meta.routers().into(), live).await?;
    mgmtd.start_heartbeat();
    process.stop.triggered().await;
    meta.stop().await;
    mgmtd.stop().await;
    serving.stop().await;
    if let Some(kv) = kv {
        kv.stop(Duration::ZERO).await;
    }
    Ok(())
}

fn base(process: &Process) -> Main {
    let mut base = Main::default();
    base.server
        .mgmtd_client
        .mgmtd_server_addresses
        .clone_from(&process.launcher.mgmtd_client.mgmtd_server_addresses);
    if process.args.profile == Profile::Fast {
        base.server.meta = valor_meta::Config::fast();
        base.server.mgmtd_client = base.server.mgmtd_client.fast();
        base.server.storage_client.retry = valor_client::storage::RetryConfig::fast();
    }
    base
}

fn start_mgmtd_client(
    process: &Process,
    live: &Arc<Live<Main>>,
    app: valor_protocol::app::FbsAppInfo,
) -> Result<Arc<MgmtdClient>, String> {
    process.mgmtd_addresses()?;
    let role =
        Role::Server { app, detail: Box::new(|| HeartbeatDetail::MetaHeartbeatInfo(Default::default())) };
    let mut identity = Identity::new(process.launcher.cluster_id.clone(), super::root_user(), role);
    let pushed = Arc::clone(live);
    identity.on_config = Some(Arc::new(move |config| apply_pushed(&*pushed, config).is_ok()));
    let status = Arc::clone(live) as Arc<dyn Pushable>;
    identity.config_status = Arc::new(move || config_status(&*status));
    let config = live.get().server.mgmtd_client.clone();
    let client = MgmtdClient::start(process.env.clone(), Arc::clone(&process.rpc), config, identity);
    let follower = Arc::downgrade(&client);
    live.on_update(move |main| {
        if let Some(client) = follower.upgrade() {
            client.set_config(main.server.mgmtd_client.clone());
        }
    });
    Ok(client)
}

fn deps(
    process: &Process,
    live: &Arc<Live<Main>>,
    part: &Arc<Live<valor_meta::Config>>,
    mgmtd: &Arc<MgmtdClient>,
    db: Database,
) -> Deps {
    let client_id = ClientId { uuid: Uuid(process.env.random_uuid()), hostname: process.env.hostname() };
    let config = live.get().server.storage_client.clone();
    let storage =
        StorageClient::new(&process.env, Arc::clone(&process.rpc), Arc::clone(mgmtd), config, client_id);
    let follower = Arc::downgrade(&storage);
    live.on_update(move |main| {
        if let Some(client) = follower.upgrade() {
            client.set_config(main.server.storage_client.clone());
        }
    });
    let users = valor_meta::user_store(process.env.clone(), users_database(process, live, &db), part);
    Deps {
        db,
        users,
        cluster: Arc::clone(mgmtd) as Arc<dyn valor_meta::Cluster>,
        chunks: Arc::new(FileIo::new(storage)),
        rpc: Arc::clone(&process.rpc),
    }
}

/// Users are in mgmtd's database; on one machine that is reached through its socket beside our directory.
fn users_database(process: &Process, live: &Live<Main>, own: &Database) -> Database {
    let socket = process.args.dir.join("../mgmtd/kv.sock");
    if live.get().server.kv_engine.shared().is_some() || !socket.exists() {
        return own.clone();
    }
    super::kv::remote(process, &socket)
}

fn root_layout(text: &str) -> Result<Layout, String> {
    let numbers: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
    match numbers.as_deref() {
        Ok([table, chunk_size, stripe]) => Ok(Layout::empty(ChainTableId(*table), *chunk_size, *stripe)),
        _ => Err(format!("--init-root-layout `{text}` is not TABLE,CHUNK,STRIPE")),
    }
}
