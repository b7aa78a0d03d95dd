//! The rest of the cluster, as the clients of mgmtd and storage and the user store show it.

use std::sync::Arc;

use valor_client::file::FileMap;
use valor_client::storage::RetryOptions;
use valor_client::{FileIo, MgmtdClient};
use valor_config::Live;
use valor_env::Env;
use valor_kv::Database;
use valor_protocol::meta::{Inode, methods};
use valor_protocol::mgmtd::{ListClientSessionsRsp, NodeType};
use valor_protocol::status::code;
use valor_protocol::user::{UserAttr, UserInfo};
use valor_protocol::{Address, ChainTableId, ChainTableVersion, NodeId};
use valor_user::{Ttls, UserStore};
use valor_wire::Status;

use crate::cluster::{BoxFuture, ChainState, ChunkAccess, Cluster, Space};
use crate::config::Config;
use crate::error::status;
use crate::users::Users;

impl Cluster for MgmtdClient {
    fn chain_table(
        &self,
        table: ChainTableId,
        version: ChainTableVersion,
    ) -> Option<(ChainTableVersion, usize)> {
        let routing = self.routing();
        let table = routing.info().chain_table(table, version)?;
        Some((table.chain_table_version, table.chains.len()))
    }

    fn chain(&self, table: ChainTableId, version: ChainTableVersion, index: u32) -> ChainState {
        let routing = self.routing();
        let chain = routing.chain_id(table, version, index).and_then(|id| routing.info().chain(id));
        match chain {
            None => ChainState::Unknown,
            Some(chain) if chain.targets.is_empty() => ChainState::Empty,
            Some(_) => ChainState::Usable,
        }
    }

    fn meta_servers(&self) -> Vec<NodeId> {
        let mut servers: Vec<_> =
            self.routing().active_nodes(NodeType::Meta).map(|node| node.app.node_id).collect();
        servers.sort_unstable();
        servers
    }

    fn meta_address(&self, node: NodeId) -> Option<Address> {
        self.routing().node_endpoint(node, methods::SERVICE)
    }

    fn refresh(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { self.refresh_now().await.is_ok() })
    }

    fn client_sessions(&self) -> BoxFuture<'_, Result<ListClientSessionsRsp, Status>> {
        Box::pin(self.list_client_sessions())
    }
}

/// The stripe argument of the client: 0 asks all chains.
fn chains_in_use(inode: &Inode, dyn_stripe: bool) -> u32 {
    match inode.data.as_file() {
        Some(file) if dyn_stripe => file.dyn_stripe,
        _ => 0,
    }
}

impl ChunkAccess for FileIo {
    fn file_length<'a>(&'a self, inode: &'a Inode, dyn_stripe: bool) -> BoxFuture<'a, Result<u64, Status>> {
        Box::pin(async move {
            let map = FileMap::of(inode)?;
            self.length(&UserInfo::default(), &map, chains_in_use(inode, dyn_stripe)).await
        })
    }

    fn remove_chunks<'a>(
        &'a self,
        inode: &'a Inode,
        batch: u32,
        dyn_stripe: bool,
    ) -> BoxFuture<'a, Result<(u64, bool), Status>> {
        Box::pin(async move {
            let map = FileMap::of(inode)?;
            let (user, stripe) = (UserInfo::default(), chains_in_use(inode, dyn_stripe));
            FileIo::remove_chunks(self, &user, &map, 0, batch, stripe, RetryOptions::default()).await
        })
    }

    fn space(&self) -> BoxFuture<'_, Result<Space, Status>> {
        Box::pin(async move {
            let answers = self.storage().space_info_of_all(false).await;
            let mut space = Space::default();
            let mut answered = false;
            for (node, answer) in answers {
                match answer {
                    Ok(disks) => {
                        answered = true;
                        space.capacity += disks.iter().map(|disk| disk.capacity).sum::<u64>();
                        space.free += disks.iter().map(|disk| disk.free.min(disk.capacity)).sum::<u64>();
                    }
                    Err(error) => tracing::warn!(%node, %error, "storage server does not tell its space"),
                }
            }
            let none = || status(code::STORAGE_CLIENT_NOT_AVAILABLE, "no storage server tells its space");
            answered.then_some(space).ok_or_else(none)
        })
    }
}

/// The users in `db`, remembered as long as the configuration says.
#[must_use]
pub fn user_store(env: Env, db: Database, config: &Arc<Live<Config>>) -> Arc<UserStore> {
    let config = Arc::clone(config);
    Arc::new(UserStore::new(env, db, move || {
        let ttl = &config.get().user_cache;
        Ttls { exist: ttl.exist_ttl.get(), inexist: ttl.inexist_ttl.get() }
    }))
}

impl Users for UserStore {
    fn authenticate<'a>(&'a self, user: &'a UserInfo) -> BoxFuture<'a, Result<UserInfo, Status>> {
        Box::pin(async move {
            let mut user = user.clone();
            UserStore::authenticate(self, &mut user).await?;
            Ok(user)
        })
    }

    fn user(&self, uid: u32) -> BoxFuture<'_, Result<Option<UserAttr>, Status>> {
        Box::pin(async move {
            match UserStore::user(self, uid).await {
                Err(error) if error.code == code::AUTHENTICATION_FAIL => Ok(None),
                result => result.map(Some),
            }
        })
    }

    fn forget(&self, uid: Option<u32>) {
        self.drop_cached(uid);
    }
}
