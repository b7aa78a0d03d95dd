//! Client of the cluster manager: finds the primary, keeps routing information fresh, sends heartbeats (servers) or
//! extends the session (clients), and calls every method (`src/client/mgmtd/MgmtdClient.cc`).

mod admin;
mod config;
mod heartbeat;
mod primary;
mod refresh;
mod session;

pub use config::MgmtdClientConfig;

use crate::routing::{Routing, RoutingCache};
use arc_swap::ArcSwap;
use heartbeat::HeartbeatState;
use parking_lot::Mutex;
use primary::{Asked, Manager, Primary};
use refresh::RefreshState;
use session::SessionState;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use valor_env::Env;
use valor_protocol::app::{ClientId, ConfigStatus, FbsAppInfo};
use valor_protocol::mgmtd::methods::GetPrimaryMgmtd;
use valor_protocol::mgmtd::*;
use valor_protocol::status::{self, code};
use valor_protocol::user::UserInfo;
use valor_protocol::*;
use valor_rpc::{CallOptions, Client};

/// Takes a configuration that the manager distributes; false if it could not be applied, so that it is offered again.
pub type OnConfig = Arc<dyn Fn(&ConfigInfo) -> bool + Send + Sync>;

/// What a process is to the manager.
pub enum Role {
    /// A server that sends heartbeats.
    Server {
        /// What it tells about itself.
        app: FbsAppInfo,
        /// The part that depends on the kind of server, asked for with every heartbeat.
        detail: Box<dyn Fn() -> HeartbeatDetail + Send + Sync>,
    },
    /// A client with a session.
    Client {
        /// Its identity.
        client_id: ClientId,
        /// What it tells about itself; must not change while the session lasts.
        data: ClientSessionData,
        /// CLIENT or FUSE.
        node_type: NodeType,
    },
    /// Neither: reads routing information and calls methods.
    Observer,
}

/// Everything about a process that a [`MgmtdClient`] needs to know besides its configuration.
pub struct Identity {
    /// Name of the cluster.
    pub cluster_id: String,
    /// Whom calls act for; matters to administrative methods.
    pub user: UserInfo,
    /// What the process is.
    pub role: Role,
    /// Version of the configuration the process started with.
    pub config_version: ConfigVersion,
    /// How the process stands towards its configuration.
    pub config_status: Arc<dyn Fn() -> ConfigStatus + Send + Sync>,
    /// Takes new configurations.
    pub on_config: Option<OnConfig>,
}

impl Identity {
    /// A process that only observes.
    pub fn observer(cluster_id: impl Into<String>, user: UserInfo) -> Identity {
        Identity::new(cluster_id, user, Role::Observer)
    }

    /// A process without distributed configuration.
    pub fn new(cluster_id: impl Into<String>, user: UserInfo, role: Role) -> Identity {
        Identity {
            cluster_id: cluster_id.into(),
            user,
            role,
            config_version: ConfigVersion::default(),
            config_status: Arc::new(|| ConfigStatus::Normal),
            on_config: None,
        }
    }
}

/// Client of the cluster manager, shared by all shards of a process. Its background tasks run on the runtime that
/// started it, and end with [`MgmtdClient::stop`] or the last reference.
pub struct MgmtdClient {
    env: Env,
    rpc: Arc<Client>,
    config: ArcSwap<MgmtdClientConfig>,
    identity: Identity,
    routing: RoutingCache,
    primary: Primary,
    refresh: RefreshState,
    heartbeat: HeartbeatState,
    session: SessionState,
    /// Wakes the heartbeat task before its time.
    heartbeat_wanted: Arc<Notify>,
    started: UtcTime,
    stopping: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Longest time for a manager to say who is primary: it knows that at once, or stands still.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a manager that answers so, or is not reached like that, has not done what it was asked for.
fn surely_not_done(code: u16) -> bool {
    matches!(
        code,
        code::RPC_CONNECT_FAILED
            | code::RPC_SEND_FAILED
            | code::RPC_REQUEST_REFUSED
            | code::MGMTD_NOT_PRIMARY
    )
}

/// True for errors after which another address is tried.
fn is_network_error(code: u16) -> bool {
    status::is_rpc(code)
}

impl MgmtdClient {
    /// Makes the client and starts to fetch routing information, and to extend the session of a client. Servers call
    /// [`MgmtdClient::start_heartbeat`] when they are ready.
    pub fn start(
        env: Env,
        rpc: Arc<Client>,
        config: MgmtdClientConfig,
        identity: Identity,
    ) -> Arc<MgmtdClient> {
        let addresses = config.mgmtd_server_addresses.iter().filter_map(|text| match text.parse() {
            Ok(address) => Some(address),
            Err(error) => {
                tracing::error!(%error, "manager address ignored");
                None
            }
        });
        let client = Arc::new(MgmtdClient {
            primary: Primary::new(addresses),
            routing: RoutingCache::default(),
            refresh: RefreshState::default(),
            heartbeat: HeartbeatState::new(identity.config_version),
            session: SessionState::new(identity.config_version),
            heartbeat_wanted: Arc::default(),
            started: UtcTime(env.utc_now().0),
            stopping: watch::Sender::new(false),
            tasks: Mutex::default(),
            config: ArcSwap::from_pointee(config),
            env,
            rpc,
            identity,
        });
        client.spawn(refresh::keep_fresh);
        if matches!(client.identity.role, Role::Client { .. }) {
            client.spawn(session::keep_session);
        }
        client
    }

    /// Starts to send heartbeats (servers). The first goes out at once.
    pub fn start_heartbeat(self: &Arc<Self>) {
        self.spawn(heartbeat::keep_beating);
    }

    /// Runs a background task that holds no reference, until the client stops or goes.
    fn spawn<F>(self: &Arc<Self>, task: fn(Weak<MgmtdClient>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut stopping = self.stopping.subscribe();
        let task = task(Arc::downgrade(self));
        let handle = tokio::spawn(async move {
            tokio::select! {
                // Also ends when the sender is gone.
                _ = stopping.wait_for(|stopping| *stopping) => {}
                () = task => {}
            }
        });
        self.tasks.lock().push(handle);
    }

    /// Ends the background tasks. Calls still work, so that a last heartbeat can be sent.
    pub async fn stop(&self) {
        self.stopping.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // A task that panicked has ended too.
            let _ = task.await;
        }
    }

    /// Replaces the configuration; addresses of managers stay.
    pub fn set_config(&self, config: MgmtdClientConfig) {
        self.config.store(Arc::new(config));
    }

    /// The newest routing information; of version 0 before any arrived.
    pub fn routing(&self) -> Arc<Routing> {
        self.routing.load()
    }

    /// The cell with the newest routing information.
    pub fn routing_cache(&self) -> &RoutingCache {
        &self.routing
    }

    /// Sees every later change of the routing information.
    pub fn watch(&self) -> watch::Receiver<Arc<Routing>> {
        self.routing.watch()
    }

    /// Waits until there is routing information.
    ///
    /// # Errors
    /// 6004 after `timeout`, with what the last attempt failed with.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<Arc<Routing>, Status> {
        let mut watch = self.watch();
        let ready = watch.wait_for(|routing| routing.version().0 != 0);
        match tokio::time::timeout(timeout, ready).await {
            Ok(Ok(routing)) => Ok(routing.clone()),
            Ok(Err(_)) | Err(_) => Err(status::with_message(
                code::MGMTD_CLIENT_ROUTING_INFO_NOT_READY,
                self.refresh.last_error().unwrap_or_else(|| "no answer from any manager".into()),
            )),
        }
    }

    /// Name of the cluster.
    pub fn cluster_id(&self) -> &str {
        &self.identity.cluster_id
    }

    /// Node id of the primary manager as last known.
    pub fn primary_node(&self) -> Option<NodeId> {
        self.primary.current().map(|manager| manager.node)
    }

    /// Calls a method of the primary manager. On a failure of the network the node's next address is tried, else the
    /// primary is looked for; a manager that is not primary is asked who is. One retry in all.
    ///
    /// # Errors
    /// 6000 if no primary is found, else what the method failed with.
    pub async fn call<M: Method>(&self, req: &M::Req) -> Result<M::Rsp, Status> {
        self.call_while::<M>(req, |_| true).await
    }

    /// The same for what must not be done twice: repeated only if it surely was not done. After other failures of the
    /// network the caller has to look.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_once<M: Method>(&self, req: &M::Req) -> Result<M::Rsp, Status> {
        self.call_while::<M>(req, surely_not_done).await
    }

    async fn call_while<M: Method>(
        &self,
        req: &M::Req,
        repeats_after: impl Fn(u16) -> bool,
    ) -> Result<M::Rsp, Status> {
        let mut asked = Asked::new();
        let first = match self.primary.current() {
            Some(manager) => manager,
            None => self.find_primary(&mut asked).await?,
        };
        let error = match self.call_at::<M>(first.address, req).await {
            Ok(rsp) => return Ok(rsp),
            Err(error) if repeats_after(error.code) => error,
            Err(error) => return Err(error),
        };
        let second = self.manager_after(first, &error, &mut asked).await?;
        tracing::info!(method = M::NAME, %error, from = %first.address, to = %second.address, "manager call repeated");
        self.call_at::<M>(second.address, req).await
    }

    async fn manager_after(
        &self,
        failed: Manager,
        error: &Status,
        asked: &mut Asked,
    ) -> Result<Manager, Status> {
        if is_network_error(error.code) {
            if let Some(other) = self.primary.other_address(failed, asked) {
                return Ok(other);
            }
        } else if error.code == code::MGMTD_NOT_PRIMARY {
            self.primary.not_primary(failed, error, asked);
        } else {
            return Err(error.clone());
        }
        self.find_primary(asked).await.map_err(|mut not_found| {
            not_found.message = format!("{}; {}: {error}", not_found.message, failed.address);
            not_found
        })
    }

    async fn find_primary(&self, asked: &mut Asked) -> Result<Manager, Status> {
        let req = GetPrimaryMgmtdReq {
            cluster_id: self.identity.cluster_id.clone(),
            user: self.identity.user.clone(),
        };
        let ask = |address| {
            let req = &req;
            let options = CallOptions::timeout(SEARCH_TIMEOUT.min(self.config.load().rpc_timeout.get()));
            async move { Ok(self.rpc.call::<GetPrimaryMgmtd>(address, req, &options).await?.primary) }
        };
        let found = self.primary.find(asked, ask).await?;
        tracing::info!(node = %found.node, address = %found.address, "primary manager found");
        Ok(found)
    }

    async fn call_at<M: Method>(&self, address: Address, req: &M::Req) -> Result<M::Rsp, Status> {
        let timeout = self.config.load().rpc_timeout.get();
        self.rpc.call::<M>(address, req, &CallOptions::timeout(timeout)).await
    }
}
