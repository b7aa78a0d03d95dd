//! `valor storage`: the storage service's process.

use super::mgmtd::{apply_pushed, config_status};
use super::{Process, Profile, ServeArgs};
use crate::overrides::Overrides;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use valor_client::mgmtd::{Identity, MgmtdClient, Role};
use valor_config::{Live, Part, Pushable, Tree};
use valor_daemon::BaseConfig;
use valor_protocol::NodeId;
use valor_protocol::app::FbsAppInfo;
use valor_protocol::mgmtd::NodeType;
use valor_storage::{HeartbeatBoard, Storage};

/// How long to wait for routing information at start.
const ROUTING_PATIENCE: Duration = Duration::from_secs(60);

/// How long stopping may take without a manager.
const LOST_GRACE: Duration = Duration::from_secs(10);

/// Main configuration (3FS `src/storage/service/Components.h`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Main {
    server: Sections,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Sections {
    base: BaseConfig,
    #[serde(flatten)]
    storage: valor_storage::Config,
}

impl Tree for Main {
    const COLD: &'static [&'static str] = &["server.base"];
    const IGNORED: &'static [&'static str] = super::IGNORED;
    const PARTS: &'static [Part] = &[Part::of::<valor_storage::Config>("server")];

    fn check(&self) -> Result<(), String> {
        self.server.storage.check()
    }
}

/// Runs until stopped.
///
/// # Errors
/// A message for the user.
pub async fn run(args: ServeArgs, overrides: Overrides) -> Result<(), String> {
    let process = Process::prepare("storage", args, overrides)?;
    let live = process.main_config(base(&process), Some(NodeType::Storage)).await?;
    let config = live.get();
    for path in &config.server.storage.targets.target_paths {
        std::fs::create_dir_all(path)
            .map_err(|error| format!("`server.targets.target_paths`: {}: {error}", path.display()))?;
    }
    let groups = process.bind(&config.server.base, "StorageSerde", 8000, 9000)?;
    let board = HeartbeatBoard::default();
    let mgmtd = start_mgmtd_client(&process, &live, process.app_info(&groups), &board)?;
    tokio::select! {
        ready = mgmtd.wait_ready(ROUTING_PATIENCE) => drop(ready.map_err(|status| format!("no routing information: {status}"))?),
        () = process.stop.triggered() => return Ok(()),
    }
    let identity = valor_storage::Identity { node_id: NodeId(process.app.node_id), board };
    let part = live.part(|main| main.server.storage.clone());
    let storage = Storage::start(
        process.env.clone(),
        part,
        identity,
        Arc::clone(&mgmtd) as Arc<dyn valor_storage::Cluster>,
        Arc::clone(&process.rpc),
    )
    .await
    .map_err(|status| format!("storage service: {status}"))?;
    let routers = storage.routers().into();
    let serving = process.serve_all(&groups, config.server.base.shards, routers, live).await?;
    mgmtd.start_heartbeat();
    let lost = tokio::select! {
        () = process.stop.triggered() => None,
        silence = storage.out_of_contact() => Some(silence),
    };
    let stop = async {
        storage.stop().await;
        mgmtd.stop().await;
        serving.stop().await;
    };
    let Some(silence) = lost else {
        stop.await;
        return Ok(());
    };
    // Without its manager it cannot say good-bye; what is left undone is what a crash would leave.
    let _ = tokio::time::timeout(LOST_GRACE, stop).await;
    Err(format!("no contact to mgmtd for {} s, so that this server ended", silence.as_secs()))
}

fn base(process: &Process) -> Main {
    let mut base = Main::default();
    if process.args.profile == Profile::Fast {
        base.server.storage = valor_storage::Config::fast();
    }
    let addresses = &mut base.server.storage.mgmtd.mgmtd_server_addresses;
    addresses.clone_from(&process.launcher.mgmtd_client.mgmtd_server_addresses);
    base
}

fn start_mgmtd_client(
    process: &Process,
    live: &Arc<Live<Main>>,
    app: FbsAppInfo,
    board: &HeartbeatBoard,
) -> Result<Arc<MgmtdClient>, String> {
    process.mgmtd_addresses()?;
    let role = Role::Server { app, detail: board.detail() };
    let mut identity = Identity::new(process.launcher.cluster_id.clone(), super::root_user(), role);
    let pushed = Arc::clone(live);
    identity.on_config = Some(Arc::new(move |config| apply_pushed(&*pushed, config).is_ok()));
    let status = Arc::clone(live) as Arc<dyn Pushable>;
    identity.config_status = Arc::new(move || config_status(&*status));
    let config = live.get().server.storage.mgmtd.clone();
    let client = MgmtdClient::start(process.env.clone(), Arc::clone(&process.rpc), config, identity);
    let follower = Arc::downgrade(&client);
    live.on_update(move |main| {
        if let Some(client) = follower.upgrade() {
            client.set_config(main.server.storage.mgmtd.clone());
        }
    });
    Ok(client)
}
