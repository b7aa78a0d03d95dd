//! What the metadata service asks of storage, mgmtd and the user store, over their real clients.

use std::sync::Arc;
use valor_client::file::{FileIo, FileMap};
use valor_client::mgmtd::MgmtdClient;
use valor_client::storage::RetryOptions;
use valor_meta::{BoxFuture, ChainState, ChunkAccess, Cluster, Space, Users};
use valor_protocol::meta::Inode;
use valor_protocol::mgmtd::{self, ListClientSessionsReq, ListClientSessionsRsp, NodeType};
use valor_protocol::status::{self, code};
use valor_protocol::user::{UserAttr, UserInfo};
use valor_protocol::{Address, ChainTableId, ChainTableVersion, NodeId};
use valor_user::UserStore;
use valor_wire::Status;

/// Routing information and client sessions.
pub struct MgmtdView(pub Arc<MgmtdClient>);

impl Cluster for MgmtdView {
    fn chain_table(
        &self,
        table: ChainTableId,
        version: ChainTableVersion,
    ) -> Option<(ChainTableVersion, usize)> {
        let routing = self.0.routing();
        let found = routing.info().chain_table(table, version)?;
        Some((found.chain_table_version, found.chains.len()))
    }

    fn chain(&self, table: ChainTableId, version: ChainTableVersion, index: u32) -> ChainState {
        let routing = self.0.routing();
        let chain = routing.chain_id(table, version, index).and_then(|id| routing.info().chain(id));
        match chain {
            None => ChainState::Unknown,
            Some(chain) if chain.targets.is_empty() => ChainState::Empty,
            Some(_) => ChainState::Usable,
        }
    }

    fn meta_servers(&self) -> Vec<NodeId> {
        self.0.routing().active_nodes(NodeType::Meta).map(|node| node.app.node_id).collect()
    }

    fn meta_address(&self, node: NodeId) -> Option<Address> {
        self.0.routing().node_endpoint(node, "MetaSerde")
    }

    fn client_sessions(&self) -> BoxFuture<'_, Result<ListClientSessionsRsp, Status>> {
        Box::pin(async move {
            let request =
                ListClientSessionsReq { cluster_id: self.0.cluster_id().to_owned(), ..Default::default() };
            self.0.call::<mgmtd::methods::ListClientSessions>(&request).await
        })
    }
}

/// Files' chunks, found by their layouts.
pub struct StorageChunks(pub FileIo);

fn dyn_stripe_of(inode: &Inode, dyn_stripe: bool) -> u32 {
    inode.data.as_file().filter(|_| dyn_stripe).map_or(0, |file| file.dyn_stripe)
}

impl ChunkAccess for StorageChunks {
    fn file_length<'a>(&'a self, inode: &'a Inode, dyn_stripe: bool) -> BoxFuture<'a, Result<u64, Status>> {
        Box::pin(async move {
            let map = FileMap::of(inode)?;
            self.0.length(&UserInfo::default(), &map, dyn_stripe_of(inode, dyn_stripe)).await
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
            let stripe = dyn_stripe_of(inode, dyn_stripe);
            self.0.remove_chunks(&UserInfo::default(), &map, 0, batch, stripe, RetryOptions::default()).await
        })
    }

    fn space(&self) -> BoxFuture<'_, Result<Space, Status>> {
        Box::pin(async move {
            let mut space = Space::default();
            let mut answered = false;
            let mut last =
                status::with_message(code::STORAGE_CLIENT_NOT_AVAILABLE, "no storage server is connected");
            for (_, answer) in self.0.storage().space_info_of_all(false).await {
                match answer {
                    Ok(disks) => {
                        answered = true;
                        for disk in disks {
                            space.capacity += disk.capacity;
                            space.free += disk.available;
                        }
                    }
                    Err(status) => last = status,
                }
            }
            if answered { Ok(space) } else { Err(last) }
        })
    }
}

/// Users of the database that mgmtd owns.
pub struct StoredUsers(pub UserStore);

impl Users for StoredUsers {
    fn authenticate<'a>(&'a self, user: &'a UserInfo) -> BoxFuture<'a, Result<UserInfo, Status>> {
        Box::pin(async move {
            let mut caller = user.clone();
            self.0.authenticate(&mut caller).await?;
            Ok(caller)
        })
    }

    fn user(&self, uid: u32) -> BoxFuture<'_, Result<Option<UserAttr>, Status>> {
        Box::pin(async move {
            match self.0.user(uid).await {
                Ok(user) => Ok(Some(user)),
                Err(status)
                    if status.code == code::META_NOT_FOUND || status.code == code::AUTHENTICATION_FAIL =>
                {
                    Ok(None)
                }
                Err(status) => Err(status),
            }
        })
    }

    fn forget(&self, uid: Option<u32>) {
        self.0.drop_cached(uid);
    }
}
