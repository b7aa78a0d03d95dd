//! Joining a cluster as a FUSE client (`src/fuse/FuseClients.cc`, `init`).

use crate::clients::Clients;
use crate::config::Config;
use std::sync::Arc;
use std::time::Duration;
use valor_client::meta::MetaClient;
use valor_client::mgmtd::{Identity, MgmtdClient, Role};
use valor_client::storage::StorageClient;
use valor_config::{Live, PushStatus, Pushable};
use valor_env::Env;
use valor_protocol::ConfigVersion;
use valor_protocol::app::{ClientId, ConfigStatus, ReleaseVersion};
use valor_protocol::mgmtd::{ClientSessionData, NodeType};
use valor_protocol::user::UserInfo;
use valor_rpc::Client;
use valor_wire::{Status, Uuid};

/// Attempts to establish the session, and pauses between them.
const TRIES: u32 = 40;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long routing information may take to arrive.
const ROUTING_TIMEOUT: Duration = Duration::from_secs(30);

/// Who joins.
#[derive(Debug, Clone, Default)]
pub struct Joining {
    /// Name of the cluster.
    pub cluster_id: String,
    /// Token of the mount, empty without authentication.
    pub token: String,
    /// Physical host name.
    pub physical_host: String,
    /// Host name inside a container.
    pub container_host: String,
    /// Version of this software.
    pub release_version: ReleaseVersion,
    /// Version of the configuration the process started with.
    pub config_version: ConfigVersion,
    /// Take configurations that the manager distributes.
    pub takes_pushed_config: bool,
}

/// The clients of a mount. Their background tasks run on the runtime that joined.
pub struct Connection {
    mgmtd: Arc<MgmtdClient>,
    meta: Arc<MetaClient>,
    storage: Arc<StorageClient>,
    config: Arc<Live<Config>>,
}

impl Connection {
    /// Starts the clients, establishes the session with the manager and waits for routing information.
    ///
    /// # Errors
    /// The manager's refusal, or its absence.
    pub async fn open(
        env: Env,
        rpc: Arc<Client>,
        config: Arc<Live<Config>>,
        who: Joining,
    ) -> Result<Connection, Status> {
        let client_id = ClientId { uuid: Uuid(env.random_uuid()), hostname: who.physical_host.clone() };
        let current = config.get();
        let mgmtd = MgmtdClient::start(
            env.clone(),
            rpc.clone(),
            current.mgmtd.clone(),
            identity(&who, client_id.clone(), &config),
        );
        establish(&mgmtd).await?;
        mgmtd.wait_ready(ROUTING_TIMEOUT).await?;
        let storage =
            StorageClient::new(&env, rpc.clone(), mgmtd.clone(), current.storage.clone(), client_id.clone());
        let meta = MetaClient::start(
            env,
            rpc,
            mgmtd.clone(),
            Some(storage.clone()),
            current.meta.clone(),
            client_id,
        );
        Ok(Connection { mgmtd, meta, storage, config })
    }

    /// The cluster for a file system.
    pub fn clients(&self) -> Clients {
        Clients::new(self.meta.clone(), self.storage.clone(), self.config.clone())
    }

    /// The manager's client.
    pub fn mgmtd(&self) -> &Arc<MgmtdClient> {
        &self.mgmtd
    }

    /// Ends the background tasks, after those that must not be lost had some time.
    pub async fn close(&self, patience: Duration) {
        let done = async {
            while self.meta.background_tasks() > 0 {
                tokio::time::sleep(FIRST_PAUSE).await;
            }
        };
        if tokio::time::timeout(patience, done).await.is_err() {
            let left = self.meta.background_tasks();
            tracing::warn!(left, "sessions stay open until the manager misses this client");
        }
        self.meta.stop();
        self.mgmtd.stop().await;
    }
}

fn identity(who: &Joining, client_id: ClientId, config: &Arc<Live<Config>>) -> Identity {
    let data = ClientSessionData {
        universal_id: who.physical_host.clone(),
        description: format!("fuse: {}", who.container_host),
        service_groups: Vec::new(),
        release_version: who.release_version.clone(),
    };
    let user = UserInfo { token: who.token.clone(), ..UserInfo::default() };
    let role = Role::Client { client_id, data, node_type: NodeType::Fuse };
    let (shown, taken) = (config.clone(), config.clone());
    let mut identity = Identity::new(who.cluster_id.clone(), user, role);
    identity.config_version = who.config_version;
    identity.config_status = Arc::new(move || match shown.status() {
        PushStatus::Normal => ConfigStatus::Normal,
        PushStatus::Dirty => ConfigStatus::Dirty,
        PushStatus::Failed => ConfigStatus::Failed,
    });
    if who.takes_pushed_config {
        identity.on_config = Some(Arc::new(move |info| match taken.push(&info.content, &info.desc) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(version = %info.config_version, %error, "distributed configuration refused");
                false
            }
        }));
    }
    identity
}

async fn establish(mgmtd: &MgmtdClient) -> Result<(), Status> {
    let mut pause = FIRST_PAUSE;
    for left in (0..TRIES).rev() {
        match mgmtd.extend_session_now().await {
            Ok(()) => return Ok(()),
            Err(status) if left == 0 => return Err(status),
            Err(status) => tracing::info!(%status, "no session with the manager yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}
