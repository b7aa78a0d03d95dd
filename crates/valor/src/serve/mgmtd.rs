//! `valor mgmtd`: the cluster manager's process.

use super::{Process, Profile, ServeArgs};
use crate::overrides::Overrides;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use valor_config::{Part, PushStatus, Pushable, Tree};
use valor_daemon::BaseConfig;
use valor_mgmtd::{Hooks, Identity, Mgmtd};
use valor_protocol::app::ConfigStatus;
use valor_protocol::mgmtd::{ConfigInfo, NodeType};
use valor_wire::Status;

/// Main configuration (3FS `src/mgmtd/MgmtdServer.h`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Main {
    server: Sections,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Sections {
    base: BaseConfig,
    service: valor_mgmtd::Config,
}

impl Tree for Main {
    const COLD: &'static [&'static str] = &["server.base"];
    const IGNORED: &'static [&'static str] = super::IGNORED;
    const PARTS: &'static [Part] = &[Part::of::<valor_mgmtd::Config>("server.service")];

    fn check(&self) -> Result<(), String> {
        self.server.service.check()
    }
}

/// Runs until stopped.
///
/// # Errors
/// A message for the user.
pub async fn run(args: ServeArgs, overrides: Overrides) -> Result<(), String> {
    let process = Process::prepare("mgmtd", args, overrides)?;
    let (db, kv) = super::kv::database(&process, process.launcher.kv_engine.shared())?;
    let stored = valor_mgmtd::offline::latest_config(&db, NodeType::Mgmtd)
        .await
        .map_err(|status| format!("stored configuration: {status}"))?;
    let mut base = Main::default();
    if process.args.profile == Profile::Fast {
        base.server.service = valor_mgmtd::Config::fast();
    }
    let live = process.main_config(base, None).await?;
    if let (Some(config), true) = (stored, process.takes_pushed_config()) {
        live.apply(&config.content, &format!("stored configuration MGMTD version {}", config.config_version))
            .map_err(|error| error.to_string())?;
    }
    let groups = process.bind(&live.get().server.base, "Mgmtd", 8000, 9000)?;
    let identity =
        Identity { cluster_id: process.launcher.cluster_id.clone(), app: process.app_info(&groups) };
    let source = {
        let live = Arc::clone(&live);
        valor_mgmtd::ConfigSource::new(move || Arc::new(live.get().server.service.clone()))
    };
    let mgmtd = Mgmtd::start(
        process.env.clone(),
        source,
        identity,
        db,
        Arc::clone(&process.rpc),
        hooks(Arc::clone(&live) as Arc<dyn Pushable>),
    )
    .map_err(|status| status.to_string())?;
    let serving = process.serve(&groups, 1, mgmtd.router(), live).await?;
    process.stop.triggered().await;
    serving.stop().await;
    mgmtd.stop().await;
    if let Some(kv) = kv {
        kv.stop(std::time::Duration::ZERO).await;
    }
    Ok(())
}

fn hooks(live: Arc<dyn Pushable>) -> Hooks {
    let apply = Arc::clone(&live);
    Hooks {
        apply_config: Arc::new(move |config: &ConfigInfo| apply_pushed(&*apply, config)),
        config_status: Arc::new(move || config_status(&*live)),
    }
}

/// Applies a configuration that mgmtd distributed.
///
/// # Errors
/// The status that is reported back.
pub fn apply_pushed(live: &dyn Pushable, config: &ConfigInfo) -> Result<(), Status> {
    let description = format!("version {} {}", config.config_version, config.desc);
    live.push(&config.content, &description).map_err(|error| {
        tracing::warn!(version = %config.config_version, %error, "distributed configuration not applied");
        Status { code: error.code(), message: error.to_string() }
    })
}

/// How the running configuration stands to the distributed one.
pub fn config_status(live: &dyn Pushable) -> ConfigStatus {
    match live.status() {
        PushStatus::Normal => ConfigStatus::Normal,
        PushStatus::Dirty => ConfigStatus::Dirty,
        PushStatus::Failed => ConfigStatus::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_config::Live;

    #[test]
    fn files_of_3fs_are_accepted() {
        let live = Live::new(Main::default());
        let text = "[common.log]\n[[server.base.groups]]\nnetwork_type = 'RDMA'\nservices = ['Mgmtd']\n\
                    [server.base.groups.listener]\nlisten_port = 8000\n[server.base.thread_pool]\nnum_io_threads = 2\n\
                    [server.service]\nheartbeat_fail_interval = '60s'\n";
        live.apply(text, "mgmtd_main.toml").expect("accepted");
    }
}
