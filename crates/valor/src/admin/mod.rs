//! `valor admin`: looks at a cluster and changes it. Command names and arguments are those of 3FS's `admin_cli`.

mod chains;
mod cluster;
mod config;
mod content;
mod dump;
mod files;
mod mount;
mod plan;
mod table;
mod users;

use crate::serve::{parse_addresses, try_lock_file};
use crate::up;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use valor_client::mgmtd::{Identity, MgmtdClient, MgmtdClientConfig};
use valor_env::{Endpoint, Env};
use valor_kv::Database;
use valor_protocol::Method;
use valor_protocol::address::Address;
use valor_protocol::mgmtd::{self, RoutingInfo, methods};
use valor_protocol::status;
use valor_protocol::user::UserInfo;
use valor_protocol::{NodeId, RoutingInfoVersion};
use valor_rpc::{CallOptions, Client, ClientConfig};
use valor_wire::Status;

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `valor admin`.
#[derive(clap::Args, Debug)]
pub struct AdminArgs {
    /// A cluster of this machine: the directory given to `valor up`.
    #[arg(long, global = true, default_value_os_t = up::default_data_dir())]
    pub data_dir: PathBuf,
    /// Another cluster: the address of a manager, for example TCP://10.0.0.1:8000 (with --cluster-id). May be given
    /// several times; the primary is found from any of them.
    #[arg(long, global = true, requires = "cluster_id")]
    pub mgmtd: Vec<String>,
    /// Name of the other cluster.
    #[arg(long, global = true)]
    pub cluster_id: Option<String>,
    /// Token of an administrator, if the cluster authenticates.
    #[arg(long, global = true, env = "VALOR_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    #[command(flatten)]
    Cluster(cluster::Command),
    #[command(flatten)]
    Chains(chains::Command),
    #[command(flatten)]
    Config(config::Command),
    #[command(flatten)]
    Plan(plan::Command),
    #[command(flatten)]
    Files(files::Command),
    #[command(flatten)]
    Users(users::Command),
    #[command(flatten)]
    Dump(dump::Command),
    #[command(flatten)]
    Mount(mount::Command),
}

/// Runs one command.
///
/// # Errors
/// A message for the user.
pub async fn run(args: AdminArgs) -> Result<(), String> {
    if matches!(args.command, Command::Mount(_)) {
        // A mount of this machine is asked directly, whatever its cluster does.
        let Command::Mount(command) = args.command else { return Ok(()) };
        return mount::run(&args.data_dir, args.json, command).await;
    }
    if let Command::Plan(command) = &args.command {
        return plan::run(&args, command).await;
    }
    let admin = Admin::connect(&args)?;
    match args.command {
        Command::Plan(_) => Ok(()),
        Command::Cluster(command) => cluster::run(&admin, command).await,
        Command::Chains(command) => chains::run(&admin, command).await,
        Command::Config(command) => config::run(&admin, command).await,
        Command::Files(command) => files::run(&admin, command).await,
        Command::Users(command) => users::run(&admin, command).await,
        Command::Dump(command) => dump::run(&admin, command).await,
        Command::Mount(_) => Ok(()),
    }
}

/// A connection to one cluster.
pub struct Admin {
    pub env: Env,
    pub rpc: Arc<Client>,
    pub cluster_id: String,
    pub mgmtd: Vec<Address>,
    managers: Arc<MgmtdClient>,
    pub user: UserInfo,
    pub json: bool,
    /// Data directory of a cluster on this machine.
    local: Option<PathBuf>,
}

impl Admin {
    fn connect(args: &AdminArgs) -> Result<Self, String> {
        let env = Env::real();
        let rpc = Client::new(env.clone(), ClientConfig::default());
        let (cluster_id, mgmtd, local) = match &args.cluster_id {
            Some(id) => (id.clone(), parse_addresses(&args.mgmtd)?, None),
            None => {
                let (id, addresses) = up::local_cluster(&args.data_dir)?;
                (id, addresses, Some(args.data_dir.clone()))
            }
        };
        let user = UserInfo {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            token: args.token.clone().unwrap_or_default(),
            ..UserInfo::default()
        };
        let config = MgmtdClientConfig {
            mgmtd_server_addresses: mgmtd.iter().map(ToString::to_string).collect(),
            enable_auto_refresh: false,
            rpc_timeout: valor_config::Duration::new(CALL_TIMEOUT),
            ..MgmtdClientConfig::for_admin()
        };
        let identity = Identity::observer(cluster_id.clone(), user.clone());
        let managers = MgmtdClient::start(env.clone(), Arc::clone(&rpc), config, identity);
        Ok(Self { env, rpc, cluster_id, mgmtd, managers, user, json: args.json, local })
    }

    /// A call to the primary manager, whichever it is.
    ///
    /// # Errors
    /// A message for the user.
    pub async fn manager<M: Method>(&self, request: &M::Req) -> Result<M::Rsp, String> {
        use status::code::{MGMTD_CLIENT_PRIMARY_MGMTD_NOT_FOUND, MGMTD_NOT_PRIMARY};
        self.managers.call::<M>(request).await.map_err(|status| {
            let unreached = status::is_rpc(status.code)
                || [MGMTD_CLIENT_PRIMARY_MGMTD_NOT_FOUND, MGMTD_NOT_PRIMARY].contains(&status.code);
            let hint = if unreached { "; is the cluster running?" } else { "" };
            format!("{}: {}{hint}", M::NAME, status::describe(&status))
        })
    }

    /// The same for what must not be done twice.
    ///
    /// # Errors
    /// A message for the user.
    pub async fn manager_once<M: Method>(&self, request: &M::Req) -> Result<M::Rsp, String> {
        self.managers.call_once::<M>(request).await.map_err(|status| {
            let lost = status.code == status::code::RPC_TIMEOUT;
            let hint = if lost { "; whether it was done is not known: see list-chains" } else { "" };
            format!("{}: {}{hint}", M::NAME, status::describe(&status))
        })
    }

    /// What the managers say of nodes, chains and targets.
    ///
    /// # Errors
    /// A message for the user.
    pub async fn routing(&self) -> Result<RoutingInfo, String> {
        let request = mgmtd::GetRoutingInfoReq {
            cluster_id: self.cluster_id.clone(),
            routing_info_version: RoutingInfoVersion(0),
            user: self.user.clone(),
        };
        Ok(self.manager::<methods::GetRoutingInfo>(&request).await?.info.unwrap_or_default())
    }

    /// Where a node serves `service`.
    ///
    /// # Errors
    /// A message for the user.
    pub fn endpoint(&self, routing: &RoutingInfo, node: NodeId, service: &str) -> Result<Address, String> {
        let info = routing
            .nodes
            .get(&node)
            .ok_or_else(|| format!("no node {node}; see `valor admin list-nodes`"))?;
        let groups = info.app.service_groups.iter().filter(|group| group.services.contains(service));
        groups
            .flat_map(|group| group.endpoints.first())
            .next()
            .copied()
            .ok_or_else(|| format!("node {node} ({}) does not serve {service}", info.r#type.name()))
    }

    /// A call to one address.
    ///
    /// # Errors
    /// A message for the user.
    pub async fn call<M: Method>(&self, address: Address, request: &M::Req) -> Result<M::Rsp, String> {
        self.rpc
            .call::<M>(address, request, &CallOptions::timeout(CALL_TIMEOUT))
            .await
            .map_err(|status: Status| format!("{} at {address}: {}", M::NAME, status::describe(&status)))
    }

    /// The database with the metadata of this machine's cluster.
    ///
    /// # Errors
    /// A message for the user.
    pub fn metadata(&self) -> Result<Database, String> {
        self.database(|stores| stores.metadata)
    }

    /// The database with the users of this machine's cluster.
    ///
    /// # Errors
    /// A message for the user.
    pub fn users(&self) -> Result<Database, String> {
        self.database(|stores| stores.manager)
    }

    fn database(&self, which: impl Fn(&up::Stores) -> &'static str) -> Result<Database, String> {
        let dir =
            self.local.as_ref().ok_or("this command works on a cluster of this machine only (--data-dir)")?;
        let process = which(&up::local_stores(dir)?);
        let socket = dir.join(process).join("kv.sock");
        if !running(&dir.join(process)) {
            return Err(format!(
                "{process} does not run in {}; start the cluster with `valor up`",
                dir.display()
            ));
        }
        Ok(Database::remote(self.env.clone(), Arc::clone(&self.rpc), Endpoint::Unix(socket)))
    }
}

fn running(dir: &Path) -> bool {
    try_lock_file(&dir.join("process.lock")).is_err()
}
