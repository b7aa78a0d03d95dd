//! `valor mount`: the FUSE process.

pub mod control;
mod end;
mod export;
pub mod report;
pub mod write_back;

use crate::overrides::Overrides;
use crate::serve::mgmtd::{apply_pushed, config_status};
use crate::serve::{Process, Profile, ServeArgs, root_user};
use end::Ending;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use valor_client::meta::MetaClient;
use valor_client::mgmtd::{Identity, MgmtdClient, Role};
use valor_client::storage::StorageClient;
use valor_config::{Live, Pushable};
use valor_fuse::{Clients, Config, FuseFs, MountParams};
use valor_protocol::app::ClientId;
use valor_protocol::mgmtd::{ClientSessionData, NodeType};
use valor_protocol::user::UserInfo;
use valor_wire::Uuid;
use xfuse::mount::{clear_stale, mounts};

/// Tries to establish the client session before mounting (3FS).
const SESSION_TRIES: u32 = 40;
/// How long operations wait for servers that are gone, unless configured otherwise.
const PATIENCE: valor_config::Duration = valor_config::Duration::from_secs(24 * 3600);
const ROUTING_PATIENCE: Duration = Duration::from_secs(60);
/// How long taking leave of mgmtd may last.
const FAREWELL: Duration = Duration::from_secs(2);

/// File system type of our mounts and of C++ 3FS's.
pub const FUSE_KIND: &str = "fuse.hf3fs";

/// A mount point that is ready to be mounted on: made if missing, freed if a dead daemon left a mount there.
///
/// # Errors
/// A message that says what is wrong with it and how to clear it.
pub fn prepare_mount_point(path: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    clear(path)?;
    std::fs::create_dir_all(path).map_err(|error| format!("mount point {shown}: {error}"))?;
    let real = path.canonicalize().map_err(|error| format!("mount point {shown}: {error}"))?;
    if !real.is_dir() {
        return Err(format!("mount point {shown} is not a directory"));
    }
    let list = mounts().map_err(|error| format!("cannot read the list of mounts: {error}"))?;
    if let Some(mount) = list.iter().rev().find(|mount| mount.mount_point == real) {
        return Err(format!(
            "mount point {shown} is busy: {} ({}) is mounted there; stop it with `valor down` or `umount {shown}`, or \
             choose another directory",
            mount.source.display(),
            mount.fstype
        ));
    }
    Ok(real)
}

/// Clears every mount of ours whose daemon is dead.
///
/// # Errors
/// When one cannot be unmounted.
pub fn clear_stale_mounts() -> Result<(), String> {
    let list = mounts().map_err(|error| format!("cannot read the list of mounts: {error}"))?;
    for mount in list.iter().filter(|mount| mount.fstype == FUSE_KIND) {
        clear(&mount.mount_point)?;
    }
    Ok(())
}

fn clear(path: &Path) -> Result<(), String> {
    let cleared = clear_stale(path).or_else(|error| match error.kind() {
        // What is not there is not mounted on.
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Ok(0),
        _ => Err(format!(
            "{0}: a dead mount is in the way and cannot be cleared ({error}); try `umount -l {0}` as root",
            path.display()
        )),
    })?;
    if cleared > 0 {
        eprintln!("{}: cleared a mount whose daemon was gone", path.display());
    }
    Ok(())
}

/// Flags of the mount's process, 3FS's names where it has them.
#[derive(clap::Args, Debug)]
pub struct MountArgs {
    /// Where to mount; otherwise `mountpoint` of the launcher file.
    pub mount_point: Option<PathBuf>,
    /// Mount the cluster of this machine that `valor up` started in this directory.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Node-local file with `cluster_id`, `mountpoint`, `token_file` and where mgmtd is.
    #[arg(long, alias = "launcher_cfg", value_name = "FILE")]
    pub launcher_cfg: Option<PathBuf>,
    /// Main configuration from a file, in place of the one that mgmtd distributes.
    #[arg(long, value_name = "FILE")]
    pub cfg: Option<PathBuf>,
    /// Main configuration from the defaults alone.
    #[arg(long, alias = "use_local_cfg")]
    pub use_local_cfg: bool,
    /// How requests travel between the kernel and this process: `uring` is FUSE over io_uring, which the kernel must have
    /// switched on; `auto` is that where it is to be had, else `classic`. [config: valor.transport]
    #[arg(long, value_name = "auto|classic|uring")]
    pub transport: Option<xfuse::Transport>,
    /// Over io_uring, let threads of the kernel look for answers: lower latency for more CPU time.
    /// [config: valor.sqpoll]
    #[arg(long)]
    pub sqpoll: bool,
    /// Share of requests waited for by blocking at once: 0 (spin first) to 1 (plain FUSE), or `auto`.
    /// [config: valor.mix]
    #[arg(long, value_name = "A")]
    pub mix: Option<xfuse::Mix>,
    /// Threads that take requests; 0 = one per CPU, at most 4. [config: valor.channels]
    #[arg(long, value_name = "N")]
    pub channels: Option<usize>,
    /// Longest spin for a request, in microseconds. [config: valor.max_window]
    #[arg(long, value_name = "US")]
    pub max_window: Option<u64>,
    /// Keep idle CPUs of the machine polling while mounted: lower latency, more power; needs root.
    /// [config: valor.pm_qos]
    #[arg(long)]
    pub pm_qos: bool,
    /// Directory for the log, and for the socket that `valor admin mount-stats` and `mount-set` talk to.
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// Timings and limits to start from.
    #[arg(long, value_enum, default_value_t)]
    pub profile: Profile,
    /// Serve Prometheus metrics on this address.
    #[arg(long, value_name = "IP:PORT")]
    pub metrics: Option<SocketAddr>,
    /// End when this process (the supervisor) ends.
    #[arg(long, hide = true)]
    pub follow_parent: Option<u32>,
    /// Log JSON objects.
    #[arg(long)]
    pub log_json: bool,
    /// Log filter, for example `info,valor_fuse=debug`.
    #[arg(long)]
    pub log: Option<String>,
}

/// Mounts and serves until unmounted or stopped.
///
/// # Errors
/// A message for the user.
pub async fn run(args: MountArgs, mut overrides: Overrides) -> Result<(), String> {
    if let Some(dir) = &args.data_dir {
        overrides.launcher.extend(local_launcher(dir)?);
    }
    overrides.main.extend(waiting_overrides(&args));
    let mount_point = args.mount_point.clone();
    let process = Process::prepare_client("mount", serve_args(args), overrides)?;
    let mount_point = mount_point.unwrap_or_else(|| PathBuf::from(&process.launcher.mountpoint));
    if mount_point.as_os_str().is_empty() {
        return Err("no mount point: name it, or set `mountpoint` in the launcher file".into());
    }
    let mount_point = prepare_mount_point(&mount_point)?;
    let live = process.main_config(base(&process), Some(NodeType::Fuse)).await?;
    let token = token(&process)?;
    let user = UserInfo { token: token.clone(), ..root_user() };
    let client_id = ClientId { uuid: Uuid(process.env.random_uuid()), hostname: process.env.hostname() };
    let mgmtd = start_mgmtd_client(&process, &live, &client_id, user)?;
    tokio::select! {
        ready = open_session(&mgmtd) => ready?,
        () = process.stop.triggered() => return Ok(()),
    }
    let fs = file_system(&process, &live, &mgmtd, client_id, token, &mount_point);
    let remains = fs.remains();
    // Without it the mount only cannot be asked.
    let listening = control::listen(&process.args.dir)
        .inspect_err(
            |error| tracing::warn!(%error, "no control socket: mount-stats and mount-set will not work"),
        )
        .ok();
    let session =
        valor_fuse::mount(fs).map_err(|error| format!("cannot mount {}: {error}", mount_point.display()))?;
    tracing::info!(mount_point = %mount_point.display(), transport = ?session.transport(), "mounted");
    let target = control::Target::new(&session, &mount_point);
    follow_config(&live, &session);
    let ending = Ending::new(session, remains, mount_point);
    if process.args.metrics.is_some() {
        tokio::spawn(export::publish(target.clone()));
    }
    let control = listening.map(|listening| listening.serve(target, Arc::clone(&live)));
    tokio::select! {
        () = ending.session().ended() => tracing::info!("unmounted from outside"),
        () = process.stop.triggered() => {}
    }
    drop(control);
    let ended = ending.end(live.get().valor.stop_patience.get(), &process.stop).await;
    match &ended {
        Ok(()) => tracing::info!("unmounted"),
        Err(message) => tracing::error!("{message}"),
    }
    let _ = tokio::time::timeout(FAREWELL, mgmtd.stop()).await;
    ended
}

/// Flags of waiting as settings, stronger than those of files.
fn waiting_overrides(args: &MountArgs) -> Vec<(String, String)> {
    let text = |text: String| format!("\"{text}\"");
    let settings = [
        ("transport", args.transport.map(|transport| text(transport.to_string()))),
        ("sqpoll", args.sqpoll.then(|| "true".to_owned())),
        ("mix", args.mix.map(|mix| text(mix.to_string()))),
        ("channels", args.channels.map(|count| count.to_string())),
        ("max_window", args.max_window.map(|micros| text(format!("{micros}us")))),
        ("pm_qos", args.pm_qos.then(|| "true".to_owned())),
    ];
    settings.into_iter().filter_map(|(key, value)| Some((format!("valor.{key}"), value?))).collect()
}

/// Changes of the configuration reach the running session, also those since it was started.
fn follow_config(live: &Arc<Live<Config>>, session: &xfuse::Session) {
    let handle = session.wait_handle();
    let follow = move |config: &Config| {
        let Ok(policy) = config.valor.wait_policy() else { return };
        // Setting the automatic mix again would make it start anew.
        if handle.mix() != policy.mix {
            handle.set_mix(policy.mix);
            tracing::info!(mix = %policy.mix, "the mix changed");
        }
        handle.set_max_window(policy.max_window);
    };
    live.on_update({
        let follow = follow.clone();
        move |config| follow(config)
    });
    follow(&live.get());
}

fn serve_args(args: MountArgs) -> ServeArgs {
    ServeArgs {
        app_cfg: None,
        launcher_cfg: args.launcher_cfg,
        cfg: args.cfg,
        use_local_cfg: args.use_local_cfg,
        dir: args.dir,
        profile: args.profile,
        sync: String::new(),
        metrics: args.metrics,
        init_root_layout: None,
        follow_parent: args.follow_parent,
        log_json: args.log_json,
        log: args.log,
    }
}

fn local_launcher(dir: &Path) -> Result<Vec<(String, String)>, String> {
    let (cluster_id, mgmtd) = crate::up::local_cluster(dir)?;
    let list: Vec<String> = mgmtd.iter().map(|address| format!("\"{address}\"")).collect();
    Ok(vec![
        ("cluster_id".into(), cluster_id),
        ("mgmtd_client.mgmtd_server_addresses".into(), format!("[{}]", list.join(","))),
    ])
}

fn base(process: &Process) -> Config {
    let mut base = Config::default();
    base.mgmtd.mgmtd_server_addresses.clone_from(&process.launcher.mgmtd_client.mgmtd_server_addresses);
    if process.args.profile == Profile::Fast {
        base.mgmtd = base.mgmtd.fast();
        base.storage.retry = valor_client::storage::RetryConfig::fast();
        base.meta.retry_default.retry_unclear_time =
            base.meta.clone().fast().retry_default.retry_unclear_time;
        base.time_granularity = valor_config::Duration::from_micros(1);
        // The profile's metadata servers keep POSIX times.
        base.valor.keep_cache = valor_fuse::KeepCache::Versioned;
    }
    // Programs see a stall, as of a local disk that does not answer, and not an error.
    base.storage.retry.wait_for_chain = PATIENCE;
    base.meta.retry_default.retry_total_time = PATIENCE;
    base
}

/// The mount's token: from the environment as it is, or from a file without surrounding blanks (3FS).
fn token(process: &Process) -> Result<String, String> {
    if let Ok(token) = std::env::var("HF3FS_FUSE_TOKEN") {
        return Ok(token);
    }
    let path = &process.launcher.token_file;
    if path.is_empty() {
        return Ok(String::new());
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("`token_file` {path}: {error}"))?;
    Ok(text.trim().to_owned())
}

fn start_mgmtd_client(
    process: &Process,
    live: &Arc<Live<Config>>,
    client_id: &ClientId,
    user: UserInfo,
) -> Result<Arc<MgmtdClient>, String> {
    process.mgmtd_addresses()?;
    let data = ClientSessionData {
        universal_id: process.env.hostname(),
        description: format!("fuse: {}", process.env.hostname()),
        release_version: valor_daemon::release_version(),
        ..Default::default()
    };
    let role = Role::Client { client_id: client_id.clone(), data, node_type: NodeType::Fuse };
    let mut identity = Identity::new(process.launcher.cluster_id.clone(), user, role);
    let pushed = Arc::clone(live);
    identity.on_config = Some(Arc::new(move |config| apply_pushed(&*pushed, config).is_ok()));
    let status = Arc::clone(live) as Arc<dyn Pushable>;
    identity.config_status = Arc::new(move || config_status(&*status));
    let config = live.get().mgmtd.clone();
    let client = MgmtdClient::start(process.env.clone(), Arc::clone(&process.rpc), config, identity);
    let follower = Arc::downgrade(&client);
    live.on_update(move |config| {
        if let Some(client) = follower.upgrade() {
            client.set_config(config.mgmtd.clone());
        }
    });
    Ok(client)
}

/// The client session must exist before files are opened, lest their sessions be taken for a dead client's.
async fn open_session(mgmtd: &Arc<MgmtdClient>) -> Result<(), String> {
    let mut pause = Duration::from_millis(10);
    let mut last = String::new();
    for _ in 0..SESSION_TRIES {
        match mgmtd.extend_session_now().await {
            Ok(()) => {
                let ready = mgmtd.wait_ready(ROUTING_PATIENCE).await;
                return ready.map(drop).map_err(|status| format!("no routing information: {status}"));
            }
            Err(status) => last = valor_protocol::status::describe(&status),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
    Err(format!("mgmtd does not take this client's session: {last}"))
}

fn file_system(
    process: &Process,
    live: &Arc<Live<Config>>,
    mgmtd: &Arc<MgmtdClient>,
    client_id: ClientId,
    token: String,
    mount_point: &Path,
) -> FuseFs<Clients> {
    let config = live.get();
    let rpc = || Arc::clone(&process.rpc);
    let storage =
        StorageClient::new(&process.env, rpc(), Arc::clone(mgmtd), config.storage.clone(), client_id.clone());
    let meta = MetaClient::start(
        process.env.clone(),
        rpc(),
        Arc::clone(mgmtd),
        Some(Arc::clone(&storage)),
        config.meta.clone(),
        client_id,
    );
    let (weak_meta, weak_storage) = (Arc::downgrade(&meta), Arc::downgrade(&storage));
    live.on_update(move |config| {
        if let (Some(meta), Some(storage)) = (weak_meta.upgrade(), weak_storage.upgrade()) {
            meta.set_config(config.meta.clone());
            storage.set_config(config.storage.clone());
        }
    });
    let params = MountParams {
        cluster_id: process.launcher.cluster_id.clone(),
        mount_point: mount_point.display().to_string(),
        token,
        allow_other: process.launcher.allow_other,
    };
    FuseFs::new(process.env.clone(), Clients::new(meta, storage, Arc::clone(live)), Arc::clone(live), params)
}
