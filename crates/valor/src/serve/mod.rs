//! The server processes. What they share: flags, node-local files, the process lock, listening, stopping.

pub mod kv;
pub mod meta;
pub mod mgmtd;
pub mod storage;

use crate::overrides::{self, Overrides};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use valor_config::{Live, Pushable, Tree};
use valor_daemon::{
    AppConfig, BaseConfig, BoundGroup, LauncherConfig, LogOptions, NetworkType, Shards, Stop,
};
use valor_env::{Endpoint, Env};
use valor_protocol::Method;
use valor_protocol::NodeId;
use valor_protocol::address::Address;
use valor_protocol::app::FbsAppInfo;
use valor_protocol::mgmtd::{self as messages, ConfigInfo, NodeType, methods};
use valor_protocol::user::UserInfo;
use valor_rpc::{CallOptions, Client, ClientConfig, Router, Server, ServerConfig, ServerHandle};
use valor_wire::Status;

/// What main configurations of C++ 3FS have beside the sections of their service.
const IGNORED: &[&str] = &["common", "server.base.thread_pool", "server.base.independent_thread_pool"];
/// How long running requests may go on when a process stops.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Asking for the configuration at start: tries and their longest pause (3FS: 20 tries, 10 ms doubling to 1 s).
const CONFIG_TRIES: u32 = 20;
const CONFIG_MAX_PAUSE: Duration = Duration::from_secs(1);

/// Timings and limits to start from, below the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Profile {
    /// 3FS's defaults.
    #[default]
    Standard,
    /// For a cluster on one machine: failures are noticed within seconds.
    Fast,
}

/// Flags of a server process, 3FS's names where it has them.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct ServeArgs {
    /// Node-local file with `node_id`.
    #[arg(long, alias = "app_cfg", value_name = "FILE")]
    pub app_cfg: Option<PathBuf>,
    /// Node-local file with `cluster_id` and where mgmtd is.
    #[arg(long, alias = "launcher_cfg", value_name = "FILE")]
    pub launcher_cfg: Option<PathBuf>,
    /// Main configuration from a file, in place of the one that mgmtd distributes.
    #[arg(long, value_name = "FILE")]
    pub cfg: Option<PathBuf>,
    /// Main configuration from the defaults alone.
    #[arg(long, alias = "use_local_cfg")]
    pub use_local_cfg: bool,
    /// Directory for this process's database, log and lock.
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// Timings and limits to start from.
    #[arg(long, value_enum, default_value_t)]
    pub profile: Profile,
    /// What the embedded database has on disk before a commit is acknowledged: `always` or `process`.
    #[arg(long, default_value = "always")]
    pub sync: String,
    /// Serve Prometheus metrics on this address.
    #[arg(long, value_name = "IP:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Layout of the root directory when the file system is made: chain table, chunk size, stripe size.
    #[arg(long, hide = true)]
    pub init_root_layout: Option<String>,
    /// End when this process (the supervisor) ends.
    #[arg(long, hide = true)]
    pub follow_parent: Option<u32>,
    /// Log JSON objects.
    #[arg(long)]
    pub log_json: bool,
    /// Log filter, for example `info,valor_meta=debug`.
    #[arg(long)]
    pub log: Option<String>,
}

/// What a process knows about itself after reading its files.
pub struct Process {
    pub env: Env,
    pub args: ServeArgs,
    pub overrides: Overrides,
    pub app: AppConfig,
    pub launcher: LauncherConfig,
    pub rpc: Arc<Client>,
    pub stop: Stop,
    _lock: File,
}

impl Process {
    /// Reads files, takes the process lock, starts logs, signals and metrics.
    ///
    /// # Errors
    /// A message for the user.
    pub fn prepare(name: &str, args: ServeArgs, overrides: Overrides) -> Result<Self, String> {
        let app = read(AppConfig::default(), args.app_cfg.as_deref(), &overrides.app, "app_config")?;
        if app.node_id == 0 {
            return Err("`node_id` is not set: give --app_cfg FILE or --app_config.node_id=NUMBER".into());
        }
        let launcher = launcher(&args, &overrides)?;
        Self::prepare_with(name, args, overrides, app, launcher)
    }

    /// The same for a process that is no node.
    ///
    /// # Errors
    /// A message for the user.
    pub fn prepare_client(name: &str, args: ServeArgs, overrides: Overrides) -> Result<Self, String> {
        let launcher = launcher(&args, &overrides)?;
        Self::prepare_with(name, args, overrides, AppConfig::default(), launcher)
    }

    /// The same for a process that knows no cluster.
    ///
    /// # Errors
    /// A message for the user.
    pub fn prepare_store(name: &str, args: ServeArgs) -> Result<Self, String> {
        let (app, launcher) = (AppConfig::default(), LauncherConfig::default());
        Self::prepare_with(name, args, Overrides::default(), app, launcher)
    }

    fn prepare_with(
        name: &str,
        args: ServeArgs,
        overrides: Overrides,
        app: AppConfig,
        launcher: LauncherConfig,
    ) -> Result<Self, String> {
        create_dir(&args.dir).map_err(|error| format!("--dir {}: {error}", args.dir.display()))?;
        let lock = try_lock_file(&args.dir.join("process.lock"))?;
        raise_file_limit();
        let options = LogOptions { filter: args.log.clone(), json: args.log_json };
        valor_daemon::init_logging(Some(&args.dir.join(format!("{name}.log"))), &options)
            .map_err(|error| format!("log in {}: {error}", args.dir.display()))?;
        contain_panics();
        if let Some(parent) = args.follow_parent {
            valor_daemon::follow_parent(parent).map_err(|error| error.to_string())?;
        }
        let stop = Stop::default();
        stop.on_signals().map_err(|error| format!("signals: {error}"))?;
        valor_daemon::serve_metrics(args.metrics).map_err(|error| error.to_string())?;
        let env = Env::real();
        let rpc = Client::new(env.clone(), ClientConfig::default());
        tracing::info!(
            name,
            node = app.node_id,
            cluster = launcher.cluster_id,
            pid = std::process::id(),
            "starting"
        );
        Ok(Self { env, args, overrides, app, launcher, rpc, stop, _lock: lock })
    }

    /// Whether mgmtd's configurations apply to this process.
    pub fn takes_pushed_config(&self) -> bool {
        self.args.cfg.is_none() && !self.args.use_local_cfg
    }

    /// The main configuration: `base`, then a file or what mgmtd distributes, then overrides.
    ///
    /// # Errors
    /// A message naming the file and the key.
    pub async fn main_config<T: Tree>(
        &self,
        base: T,
        remote: Option<NodeType>,
    ) -> Result<Arc<Live<T>>, String> {
        let live = Live::new(base);
        if let Some(path) = &self.args.cfg {
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            live.apply(&text, &path.display().to_string()).map_err(|error| error.to_string())?;
        } else if let (Some(kind), true) = (remote, self.takes_pushed_config())
            && let Some(config) = self.fetch_config(kind).await?
        {
            let origin =
                format!("configuration {} version {} from mgmtd", kind.name(), config.config_version);
            live.apply(&config.content, &origin).map_err(|error| error.to_string())?;
        }
        overrides::apply(&live, &self.overrides.main, "config").map_err(|error| error.to_string())?;
        if !self.takes_pushed_config() {
            live.refuse_push();
        }
        Ok(live)
    }

    async fn fetch_config(&self, kind: NodeType) -> Result<Option<ConfigInfo>, String> {
        let addresses = self.mgmtd_addresses()?;
        let request = messages::GetConfigReq {
            cluster_id: self.launcher.cluster_id.clone(),
            node_type: kind,
            ..Default::default()
        };
        let mut pause = Duration::from_millis(10);
        let mut last = String::new();
        for _ in 0..CONFIG_TRIES {
            for address in &addresses {
                match call::<methods::GetConfig>(&self.rpc, *address, &request).await {
                    Ok(reply) => return Ok(reply.info.filter(|info| !info.content.is_empty())),
                    Err(status) if status.code == valor_protocol::status::code::MGMTD_CLUSTER_ID_MISMATCH => {
                        return Err(format!(
                            "mgmtd at {address} belongs to another cluster than `cluster_id` \"{}\" of this process: {status}",
                            self.launcher.cluster_id
                        ));
                    }
                    Err(status) => last = format!("{address}: {status}"),
                }
            }
            tokio::select! {
                () = self.stop.triggered() => return Err("stopped while starting".into()),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(CONFIG_MAX_PAUSE),
            }
        }
        Err(format!(
            "cannot get the configuration from mgmtd ({last}); is it running, are `mgmtd_server_addresses` right?"
        ))
    }

    /// Addresses of the managers from the launcher file.
    ///
    /// # Errors
    /// A message naming the key.
    pub fn mgmtd_addresses(&self) -> Result<Vec<Address>, String> {
        parse_addresses(&self.launcher.mgmtd_client.mgmtd_server_addresses)
    }

    /// Who this process is, listening on `groups`.
    pub fn app_info(&self, groups: &[BoundGroup]) -> FbsAppInfo {
        FbsAppInfo {
            node_id: NodeId(self.app.node_id),
            hostname: self.env.hostname(),
            pid: std::process::id(),
            service_groups: valor_daemon::service_group_infos(groups),
            release_version: valor_daemon::release_version(),
            podname: self.env.hostname(),
        }
    }

    /// Resolves the two groups of a server: its service and Core.
    ///
    /// # Errors
    /// A message naming the configuration key.
    pub fn bind(
        &self,
        base: &BaseConfig,
        service: &str,
        port: u16,
        core_port: u16,
    ) -> Result<Vec<BoundGroup>, String> {
        let defaults = [(service, NetworkType::RDMA, port), ("Core", NetworkType::TCP, core_port)];
        valor_daemon::bind_groups(base, &defaults).map_err(|error| error.to_string())
    }

    /// Serves one service; see [`Process::serve_all`].
    ///
    /// # Errors
    /// When a port cannot be listened on.
    pub async fn serve(
        &self,
        groups: &[BoundGroup],
        shards: u32,
        service: Router,
        config: Arc<dyn Pushable>,
    ) -> Result<Serving, String> {
        self.serve_all(groups, shards, vec![service], config).await
    }

    /// Serves `services` on the first group and Core on all, on this thread and `shards - 1` others, until stopped.
    ///
    /// # Errors
    /// When a port cannot be listened on.
    pub async fn serve_all(
        &self,
        groups: &[BoundGroup],
        shards: u32,
        services: Vec<Router>,
        config: Arc<dyn Pushable>,
    ) -> Result<Serving, String> {
        let core = valor_daemon::core_router(self.env.clone(), config, self.stop.clone());
        let all: Vec<Router> = services.into_iter().chain([core.clone()]).collect();
        let mut serving = Serving { handles: Vec::new(), shards: None };
        let others = shards.saturating_sub(1) as usize;
        if others > 0 {
            let pool = Shards::start("shard", others).map_err(|error| format!("shard threads: {error}"))?;
            for shard in pool.all() {
                let (env, routers, group) = (self.env.clone(), all.clone(), groups[0].clone());
                let started = shard.run(async move { listen(&env, routers, &group) }).await;
                serving.handles.push(started.map_err(|error| format!("shard: {error}"))??);
            }
            serving.shards = Some(pool);
        }
        serving.handles.push(listen(&self.env, all, &groups[0])?);
        for group in &groups[1..] {
            serving.handles.push(listen(&self.env, vec![core.clone()], group)?);
        }
        tracing::info!(?groups, "serving");
        Ok(serving)
    }
}

fn listen(env: &Env, routers: Vec<Router>, group: &BoundGroup) -> Result<ServerHandle, String> {
    let endpoints: Vec<Endpoint> = group.listen.iter().copied().map(Endpoint::Tcp).collect();
    let builder = Server::builder(env.clone(), ServerConfig::default());
    routers
        .into_iter()
        .fold(builder, |builder, router| builder.service(router))
        .listen(&endpoints)
        .map_err(|error| format!("cannot listen on {:?}: {error}", group.listen))
}

/// Running listeners.
pub struct Serving {
    handles: Vec<ServerHandle>,
    shards: Option<Shards>,
}

impl Serving {
    /// Finishes running requests and closes.
    pub async fn stop(self) {
        for handle in self.handles {
            handle.stop(STOP_GRACE).await;
        }
        if let Some(shards) = self.shards {
            shards.join();
        }
    }
}

/// One call to a manager.
///
/// # Errors
/// The reply's or the connection's status.
pub async fn call<M: Method>(rpc: &Client, address: Address, request: &M::Req) -> Result<M::Rsp, Status> {
    rpc.call::<M>(address, request, &CallOptions::timeout(Duration::from_secs(2))).await
}

/// Parses `mgmtd_server_addresses`.
///
/// # Errors
/// A message naming the key.
pub fn parse_addresses(texts: &[String]) -> Result<Vec<Address>, String> {
    if texts.is_empty() {
        return Err(
            "`mgmtd_client.mgmtd_server_addresses` is empty; set it to for example [\"TCP://10.0.0.1:8000\"]"
                .into(),
        );
    }
    texts
        .iter()
        .map(|text| {
            text.parse().map_err(|_| {
                format!("`mgmtd_server_addresses`: `{text}` is not an address like TCP://10.0.0.1:8000")
            })
        })
        .collect()
}

/// The user that a process acts as towards mgmtd.
pub fn root_user() -> UserInfo {
    UserInfo::default()
}

fn launcher(args: &ServeArgs, overrides: &Overrides) -> Result<LauncherConfig, String> {
    let (path, list) = (args.launcher_cfg.as_deref(), &overrides.launcher);
    let launcher = read(LauncherConfig::default(), path, list, "launcher_config")?;
    if launcher.cluster_id.is_empty() {
        return Err(
            "`cluster_id` is not set: give --launcher_cfg FILE or --launcher_config.cluster_id=NAME".into()
        );
    }
    Ok(launcher)
}

fn read<T: Tree>(base: T, path: Option<&Path>, list: &[(String, String)], flag: &str) -> Result<T, String> {
    let tree = valor_daemon::read_config_file(base, path).map_err(|error| error.to_string())?;
    let live = Live::new(tree);
    overrides::apply(&live, list, flag).map_err(|error| error.to_string())?;
    Ok((*live.get()).clone())
}

/// Makes a directory that nobody else can write, whatever the umask.
///
/// # Errors
/// As `mkdir`.
pub fn create_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Takes a lock file for as long as the returned handle lives.
///
/// # Errors
/// A message when another process has it.
pub fn try_lock_file(path: &Path) -> Result<File, String> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| format!("another process uses {} (it holds {})", parent(path), path.display()))?;
    Ok(file)
}

fn parent(path: &Path) -> String {
    path.parent().unwrap_or(path).display().to_string()
}

/// Lock files of the processes of a local cluster.
pub fn process_locks(data_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(data_dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path().join("process.lock")).filter(|path| path.exists()).collect()
}

/// Thousands of connections and files need more descriptors than the usual soft limit.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(1 << 20, |maximum| maximum.min(1 << 20));
    // Refused limits stay as they are; accepting sheds connections at the limit.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
}

/// Logs panics with their place; a panicking request handler has been contained by then.
fn contain_panics() {
    std::panic::set_hook(Box::new(|info| tracing::error!(panic = %info, "panic")));
}
