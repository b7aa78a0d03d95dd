//! A client process: the clients of manager, metadata and storage as a mount puts them together.

use std::sync::Arc;

use valor_client::file::FileIo;
use valor_client::meta::{MetaClient, MetaClientConfig};
use valor_client::mgmtd::{Identity, MgmtdClient, MgmtdClientConfig, Role};
use valor_client::storage::{StorageClient, StorageClientConfig};
use valor_env::Env;
use valor_protocol::app::ClientId;
use valor_protocol::mgmtd::{ClientSessionData, NodeType};
use valor_protocol::user::UserInfo;
use valor_rpc::{Client, ClientConfig};
use valor_wire::Uuid;

use super::CLUSTER;
use super::servers::Wiring;
use crate::net::Life;
use crate::world::Machine;

/// A client process and its machine.
pub struct SimClient {
    /// Machine.
    pub machine: Machine,
    /// The process's world.
    pub env: Env,
    /// Connections.
    pub rpc: Arc<Client>,
    /// Manager.
    pub mgmtd: Arc<MgmtdClient>,
    /// Chunks.
    pub storage: Arc<StorageClient>,
    /// Names.
    pub meta: Arc<MetaClient>,
    /// Files.
    pub files: FileIo,
    _life: Arc<Life>,
}

impl SimClient {
    /// Starts the process.
    pub(super) fn start(mut machine: Machine, wiring: Wiring) -> Self {
        let (env, life) = machine.next_life();
        let rpc = Client::new(env.clone(), ClientConfig::default());
        let client_id = ClientId { uuid: Uuid(env.random_uuid()), hostname: env.hostname() };
        let data = ClientSessionData {
            universal_id: env.hostname(),
            description: "simulated".into(),
            ..ClientSessionData::default()
        };
        let role = Role::Client { client_id: client_id.clone(), data, node_type: NodeType::Fuse };
        let config = MgmtdClientConfig {
            mgmtd_server_addresses: wiring.mgmtd_addresses(),
            ..MgmtdClientConfig::for_client().fast()
        };
        let identity = Identity::new(CLUSTER, UserInfo::default(), role);
        let mgmtd = MgmtdClient::start(env.clone(), Arc::clone(&rpc), config, identity);
        let config = StorageClientConfig::default().fast();
        let storage =
            StorageClient::new(&env, Arc::clone(&rpc), Arc::clone(&mgmtd), config, client_id.clone());
        let meta = MetaClient::start(
            env.clone(),
            Arc::clone(&rpc),
            Arc::clone(&mgmtd),
            Some(Arc::clone(&storage)),
            MetaClientConfig::default(),
            client_id,
        );
        let files = FileIo::new(Arc::clone(&storage));
        Self { machine, env, rpc, mgmtd, storage, meta, files, _life: life }
    }
}
