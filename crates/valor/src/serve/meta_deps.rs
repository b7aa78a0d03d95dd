//! What the metadata service asks of storage, mgmtd and the user store, over their real clients.

use std::sync::Arc;
use valor_client::mgmtd::MgmtdClient;
use valor_client::storage::{RangeOp, ReadOptions, StorageClient, WriteOptions};
use valor_meta::{BoxFuture, ChainState, ChunkAccess, Cluster, Space, Users};
use valor_protocol::meta::{File, Inode};
use valor_protocol::mgmtd::{self, ListClientSessionsReq, ListClientSessionsRsp, NodeType};
use valor_protocol::status::{self, code};
use valor_protocol::storage::{ChunkId, ChunkIdRange};
use valor_protocol::user::{UserAttr, UserInfo};
use valor_protocol::{Address, ChainId, ChainTableId, ChainTableVersion, NodeId};
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
pub struct StorageChunks(pub Arc<StorageClient>);

impl StorageChunks {
    /// One range per chain that may hold chunks of the file.
    fn ranges(&self, inode: &Inode, limit: u32, dyn_stripe: bool) -> Result<Vec<RangeOp>, Status> {
        let Some(file) = inode.data.as_file() else {
            return Err(status::with_message(
                code::META_NOT_FILE,
                format!("inode {} is not a file", inode.id),
            ));
        };
        let used = if dyn_stripe && file.dyn_stripe > 0 { file.dyn_stripe as usize } else { usize::MAX };
        let chains = self.chains(file)?;
        let (begin, end) = ChunkId::file_range(inode.id, 0);
        let range =
            || ChunkIdRange { begin: begin.clone(), end: end.clone(), max_num_chunk_ids_to_process: limit };
        Ok(chains.into_iter().take(used).map(|chain_id| RangeOp { chain_id, range: range() }).collect())
    }

    fn chains(&self, file: &File) -> Result<Vec<ChainId>, Status> {
        let routing = self.0.mgmtd().routing();
        let layout = &file.layout;
        let mut chains: Vec<ChainId> = Vec::new();
        for index in layout.chain_index_list()? {
            let id = routing.chain_id(layout.table_id, layout.table_version, index).ok_or_else(|| {
                status::with_message(code::META_INVALID_FILE_LAYOUT, format!("no chain at index {index}"))
            })?;
            // A stripe wider than the table uses a chain more than once.
            if !chains.contains(&id) {
                chains.push(id);
            }
        }
        Ok(chains)
    }
}

impl ChunkAccess for StorageChunks {
    fn file_length<'a>(&'a self, inode: &'a Inode, dyn_stripe: bool) -> BoxFuture<'a, Result<u64, Status>> {
        Box::pin(async move {
            let ops = self.ranges(inode, 1, dyn_stripe)?;
            let answers = self.0.query_last_chunk(&ops, &UserInfo::default(), &ReadOptions::default()).await;
            let file = inode.data.as_file();
            let chunk_size = file.map_or(0, |file| u64::from(file.layout.chunk_size));
            let stripe = file.filter(|_| dyn_stripe).map_or(0, |file| file.dyn_stripe);
            let mut length = 0;
            for answer in answers {
                let Some((id, len)) = answer?.last else { continue };
                let (_, _, index) = id.parse_file().ok_or_else(|| {
                    status::with_message(code::META_INCONSISTENT, format!("chunk {id} is not a file's"))
                })?;
                if stripe > 0 && index >= stripe {
                    return Err(status::with_message(code::META_BUSY, "the file's stripe is being extended"));
                }
                length = length.max(u64::from(index) * chunk_size + u64::from(len));
            }
            Ok(length)
        })
    }

    fn remove_chunks<'a>(
        &'a self,
        inode: &'a Inode,
        batch: u32,
        dyn_stripe: bool,
    ) -> BoxFuture<'a, Result<(u64, bool), Status>> {
        Box::pin(async move {
            let ops = self.ranges(inode, batch.max(1), dyn_stripe)?;
            let answers = self.0.remove_chunks(&ops, &UserInfo::default(), &WriteOptions::default()).await;
            let mut removed = 0;
            let mut more = false;
            for answer in answers {
                let done = answer?;
                removed += u64::from(done.removed);
                more |= done.more;
            }
            Ok((removed, more))
        })
    }

    fn space(&self) -> BoxFuture<'_, Result<Space, Status>> {
        Box::pin(async move {
            let mut space = Space::default();
            let mut answered = false;
            let mut last =
                status::with_message(code::STORAGE_CLIENT_NOT_AVAILABLE, "no storage server is connected");
            for (_, answer) in self.0.space_info_of_all(false).await {
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
