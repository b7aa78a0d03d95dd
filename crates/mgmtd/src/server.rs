//! A running manager.

use crate::background;
use crate::config::{Config, ConfigSource};
use crate::data::{Data, to_stored};
use crate::error;
use crate::lease::{LeaseState, Now};
use crate::schema::Write;
use crate::snapshot::Snapshot;
use crate::store::Store;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{MutexGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use valor_env::Env;
use valor_kv::Database;
use valor_protocol::app::{ConfigStatus, FbsAppInfo};
use valor_protocol::mgmtd::{ConfigInfo, MgmtdLeaseInfo, NodeInfo, NodeStatus, NodeType, PersistentNodeInfo};
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_protocol::{NodeId, Status, UtcTime};
use valor_user::{Ttls, UserStore};

/// Longest time that stopping waits for the store.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Who a manager is.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Name of the cluster, the same in all its processes.
    pub cluster_id: String,
    /// Node id (not 0), host, where its services listen, and its release.
    pub app: FbsAppInfo,
}

/// Applies a configuration to the process.
pub type ApplyConfig = Arc<dyn Fn(&ConfigInfo) -> Result<(), Status> + Send + Sync>;

/// What a manager needs of the process around it.
#[derive(Clone)]
pub struct Hooks {
    /// Applies a configuration that was distributed to managers.
    pub apply_config: ApplyConfig,
    /// How the process stands towards the last one.
    pub config_status: Arc<dyn Fn() -> ConfigStatus + Send + Sync>,
}

impl Default for Hooks {
    /// Takes note of configurations without applying them.
    fn default() -> Self {
        Self { apply_config: Arc::new(|_| Ok(())), config_status: Arc::new(|| ConfigStatus::Normal) }
    }
}

/// A manager: primary or waiting to be. See the crate's documentation.
pub struct Mgmtd {
    env: Env,
    config: ConfigSource,
    cluster_id: String,
    own_id: NodeId,
    store: Store,
    users: UserStore,
    peers: Arc<valor_rpc::Client>,
    hooks: Hooks,
    data: RwLock<Data>,
    snapshot: Mutex<Snapshot>,
    /// Held by whoever reads state, stores a change of it and then applies that to memory.
    writer: tokio::sync::Mutex<()>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// The right to change stored state.
pub struct Writer<'a>(#[expect(dead_code, reason = "held, not used")] MutexGuard<'a, ()>);

impl Mgmtd {
    /// Starts a manager on the current runtime: it takes part in the election at once.
    ///
    /// `config` is a [`Live`](valor_config::Live) tree or a [`ConfigSource`]; `peers` reaches the other managers.
    ///
    /// # Errors
    /// 4 if the identity has no node id.
    pub fn start(
        env: Env,
        config: impl Into<ConfigSource>,
        identity: Identity,
        db: Database,
        peers: Arc<valor_rpc::Client>,
        hooks: Hooks,
    ) -> Result<Arc<Self>, Status> {
        if identity.app.node_id.0 == 0 {
            return Err(Status::new(code::INVALID_CONFIG, "a manager needs a node id other than 0"));
        }
        let config = config.into();
        let (stop, stopped) = watch::channel(false);
        let ttls = {
            let config = config.clone();
            move || {
                let cache = &config.get().user_cache;
                Ttls { exist: cache.exist_ttl.get(), inexist: cache.inexist_ttl.get() }
            }
        };
        let own = NodeInfo {
            app: identity.app.clone(),
            r#type: NodeType::Mgmtd,
            status: NodeStatus::PrimaryMgmtd,
            ..NodeInfo::default()
        };
        let mgmtd = Arc::new(Self {
            users: UserStore::new(env.clone(), db.clone(), ttls),
            store: Store::new(env.clone(), db, config.clone(), identity.app.node_id, stopped),
            env,
            config,
            cluster_id: identity.cluster_id,
            own_id: identity.app.node_id,
            peers,
            hooks,
            data: RwLock::new(Data::new(own)),
            snapshot: Mutex::default(),
            writer: tokio::sync::Mutex::default(),
            stop,
            tasks: Mutex::default(),
        });
        *mgmtd.tasks.lock() = background::spawn(&mgmtd);
        Ok(mgmtd)
    }

    /// Stops the background work and gives the lease up, so that another manager need not wait for its end. Requests
    /// are answered with 5000 afterwards. May be called again.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // A task that panicked has logged that; stopping goes on.
            let _ = task.await;
        }
        let lease = {
            let _writer = self.writer.lock().await;
            let mut data = self.data.write();
            std::mem::take(&mut data.lease)
        };
        if let LeaseState { lease: Some(lease), .. } = lease
            && lease.primary.node_id == self.own_id
        {
            match timeout(RELEASE_TIMEOUT, self.store.release_lease(&lease)).await {
                Ok(Ok(())) => {}
                Ok(Err(status)) => tracing::warn!(%status, "the lease is not given up; it ends by itself"),
                Err(_) => tracing::warn!("the lease is not given up in time; it ends by itself"),
            }
        }
    }

    /// Stops everything as if the process had died: the lease stays until it ends. For tests and simulations.
    pub fn abandon(&self) {
        self.stop.send_replace(true);
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        self.data.write().lease = LeaseState::default();
    }

    /// Whether this manager is primary and has loaded the cluster's state.
    pub fn is_primary(&self) -> bool {
        self.ensure_primary().is_ok()
    }

    /// Users and their tokens, as in the store.
    pub fn users(&self) -> &UserStore {
        &self.users
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.get()
    }

    pub(crate) fn own_id(&self) -> NodeId {
        self.own_id
    }

    pub(crate) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn data(&self) -> &RwLock<Data> {
        &self.data
    }

    pub(crate) fn snapshot(&self) -> &Mutex<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn peers(&self) -> &valor_rpc::Client {
        &self.peers
    }

    pub(crate) fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub(crate) fn utc_now(&self) -> UtcTime {
        UtcTime(self.env.utc_now().0)
    }

    /// This manager as the store has it.
    pub(crate) fn own_stored(&self) -> PersistentNodeInfo {
        to_stored(&self.data.read().own)
    }

    fn now(&self) -> Now {
        let config = self.config();
        Now {
            own: self.own_id,
            utc: self.utc_now(),
            steady: Instant::now(),
            length: config.lease_length.get(),
            margin: config.suspicious_lease_interval.get(),
        }
    }

    /// The lease, if it can be relied on.
    pub(crate) fn trusted_lease(&self) -> Option<MgmtdLeaseInfo> {
        let now = self.now();
        self.data.read().lease.trusted(&now).cloned()
    }

    /// Refuses what only the primary may do: 5000 with the primary's id if it is known.
    pub(crate) fn ensure_primary(&self) -> Result<(), Status> {
        let now = self.now();
        match self.data.read().lease.trusted(&now).map(|lease| lease.primary.node_id) {
            Some(id) if id == self.own_id => Ok(()),
            other => Err(error::not_primary(other)),
        }
    }

    pub(crate) fn check_cluster(&self, cluster_id: &str) -> Result<(), Status> {
        if cluster_id == self.cluster_id {
            return Ok(());
        }
        Err(Status::new(code::MGMTD_CLUSTER_ID_MISMATCH, "Cluster id mismatch"))
    }

    /// Refuses callers that are not administrators, if callers are checked at all.
    pub(crate) async fn check_admin(&self, user: &UserInfo) -> Result<(), Status> {
        if !self.config().authenticate {
            return Ok(());
        }
        let user = self.users.user_of_token(&user.token).await?;
        if !user.admin {
            return Err(Status::from(code::MGMTD_NOT_ADMIN));
        }
        tracing::info!(name = user.name, uid = user.uid, "acts as administrator");
        Ok(())
    }

    /// Waits for the right to change stored state; the manager is primary then.
    pub(crate) async fn writer(&self) -> Result<Writer<'_>, Status> {
        let guard = self.writer.lock().await;
        self.ensure_primary()?;
        Ok(Writer(guard))
    }

    /// The same without being primary.
    pub(crate) async fn any_writer(&self) -> Writer<'_> {
        Writer(self.writer.lock().await)
    }

    /// Stores changes of the routing information together with its next version, then applies them in memory.
    pub(crate) async fn publish(
        &self,
        _writer: &Writer<'_>,
        writes: &[Write],
        apply: impl FnOnce(&mut Data),
    ) -> Result<(), Status> {
        let next = self.data.read().routing.next_version();
        self.store.write(Some(next), writes).await?;
        let mut data = self.data.write();
        apply(&mut data);
        data.routing.bump();
        tracing::debug!(version = data.routing.version().0, "routing information has changed");
        Ok(())
    }

    /// Applies a configuration for managers to this process and takes note of its version.
    pub(crate) fn apply_config(&self, config: &ConfigInfo) {
        let version = config.config_version;
        if self.data.read().own.config_version >= version {
            return;
        }
        if let Err(status) = (self.hooks.apply_config)(config) {
            tracing::warn!(version = version.0, %status, "configuration is not applied");
            return;
        }
        let status = (self.hooks.config_status)();
        let mut data = self.data.write();
        data.own.config_version = version;
        data.own.config_status = status;
        let own_id = self.own_id;
        data.routing.edit_node(own_id, |node| {
            node.config_version = version;
            node.config_status = status;
        });
        tracing::info!(version = version.0, "configuration is applied");
    }
}

impl std::fmt::Debug for Mgmtd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mgmtd({})", self.own_id)
    }
}
