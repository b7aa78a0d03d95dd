//! Client of the metadata service: one method per call, with server selection and 3FS's retry rules
//! (`src/client/meta/MetaClient.cc`).

mod background;
mod call;
mod config;
mod errors;
mod messages;
mod names;
mod open;
mod servers;
mod truncate;

pub use config::*;
pub use messages::{MetaRequest, MetaResponse};
pub use names::Permissions;
pub use open::FileChange;

use crate::file::FileIo;
use crate::mgmtd::MgmtdClient;
use crate::storage::StorageClient;
use arc_swap::ArcSwap;
use background::Background;
use servers::Servers;
use std::sync::{Arc, Weak};
use tokio::sync::Semaphore;
use valor_env::Env;
use valor_protocol::Uuid;
use valor_protocol::app::ClientId;
use valor_protocol::meta::{AtFlags, ReqBase, SessionInfo};
use valor_protocol::user::UserInfo;
use valor_rpc::Client;

/// Client of the metadata service, shared by all shards of a process. Its background tasks run on the runtime that
/// started it, and end with [`MetaClient::stop`] or the last reference.
pub struct MetaClient {
    env: Env,
    rpc: Arc<Client>,
    mgmtd: Arc<MgmtdClient>,
    files: Option<FileIo>,
    config: ArcSwap<MetaClientConfig>,
    client_id: ClientId,
    servers: Servers,
    requests: Semaphore,
    background: Background,
    /// For tasks that outlive a call.
    this: Weak<MetaClient>,
}

impl MetaClient {
    /// Makes the client and starts to check servers that failed. Without a storage client files cannot be truncated.
    pub fn start(
        env: Env,
        rpc: Arc<Client>,
        mgmtd: Arc<MgmtdClient>,
        storage: Option<Arc<StorageClient>>,
        config: MetaClientConfig,
        client_id: ClientId,
    ) -> Arc<MetaClient> {
        let client = Arc::new_cyclic(|this| MetaClient {
            servers: Servers::new(env.random_uuid()),
            requests: Semaphore::new(config.max_concurrent_requests),
            background: Background::new(&config.background_closer),
            files: storage.map(FileIo::new),
            config: ArcSwap::from_pointee(config),
            env,
            rpc,
            mgmtd,
            client_id,
            this: this.clone(),
        });
        client.start_background();
        client
    }

    /// Replaces the configuration; limits stay.
    pub fn set_config(&self, config: MetaClientConfig) {
        self.config.store(Arc::new(config));
    }

    /// The manager's client.
    pub fn mgmtd(&self) -> &Arc<MgmtdClient> {
        &self.mgmtd
    }

    /// Files as bytes, if there is a storage client.
    pub fn files(&self) -> Option<&FileIo> {
        self.files.as_ref()
    }

    /// Identity in requests.
    pub fn client_id(&self) -> &ClientId {
        &self.client_id
    }

    /// The part that every request carries.
    fn base(&self, user: &UserInfo) -> ReqBase {
        ReqBase { user: user.clone(), client: self.client_id.clone(), ..ReqBase::default() }
    }

    /// The same with a name, so that servers recognise repetitions.
    fn named_base(&self, user: &UserInfo) -> ReqBase {
        ReqBase { uuid: Uuid(self.env.random_uuid()), ..self.base(user) }
    }

    fn session(&self, session: Uuid) -> SessionInfo {
        SessionInfo { client: self.client_id.clone(), session }
    }
}

/// Flags of a lookup.
fn at_flags(follow_last_symlink: bool) -> AtFlags {
    if follow_last_symlink { AtFlags::SYMLINK_FOLLOW } else { AtFlags::SYMLINK_NOFOLLOW }
}
