//! Client of the storage service: chooses replicas, batches per server, retries (`src/client/storage`).
//!
//! Data travels inside the messages: this client needs no RDMA and reaches servers over TCP, whatever kind of endpoint
//! they declare.

mod channel;
mod config;
mod gate;
mod ops;
mod query;
mod read;
mod remove;
mod retry;
mod select;
mod send;
mod update;

pub use config::*;
pub use ops::*;

use crate::mgmtd::MgmtdClient;
use arc_swap::ArcSwap;
use channel::Channels;
use gate::Gate;
use select::Selector;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use valor_env::Env;
use valor_protocol::app::ClientId;
use valor_protocol::mgmtd::NodeType;
use valor_protocol::status::{code, with_message};
use valor_protocol::storage::methods::{
    CreateTarget, OfflineTarget, QueryChunk, RemoveTarget, SERVICE, SpaceInfo,
};
use valor_protocol::storage::{
    CreateTargetReq, MessageTag, OfflineTargetReq, QueryChunkReq, QueryChunkRsp, RDMARemoteBuf,
    RemoveTargetReq, SpaceInfoReq, UpdateChannel,
};
use valor_protocol::{ChainId, Method, NodeId, RequestId, Status, TargetId, storage};
use valor_rpc::{CallOptions, Client};

/// Client of the storage service, shared by all shards of a process.
pub struct StorageClient {
    rpc: Arc<Client>,
    mgmtd: Arc<MgmtdClient>,
    config: ArcSwap<StorageClientConfig>,
    client_id: ClientId,
    next_request: AtomicU64,
    channels: Channels,
    selector: Selector,
    reads: Gate,
    writes: Gate,
    queries: Gate,
    removals: Gate,
    truncates: Gate,
}

impl StorageClient {
    /// A client that finds servers through `mgmtd`. `client_id` must be new for every process, since update channels
    /// begin anew.
    pub fn new(
        env: &Env,
        rpc: Arc<Client>,
        mgmtd: Arc<MgmtdClient>,
        config: StorageClientConfig,
        client_id: ClientId,
    ) -> Arc<StorageClient> {
        let traffic = &config.traffic_control;
        Arc::new(StorageClient {
            channels: Channels::new(traffic.max_update_channels),
            selector: Selector::new(env.random_u64()),
            reads: Gate::new(&traffic.read),
            writes: Gate::new(&traffic.write),
            queries: Gate::new(&traffic.query),
            removals: Gate::new(&traffic.remove),
            truncates: Gate::new(&traffic.truncate),
            next_request: AtomicU64::new(1),
            config: ArcSwap::from_pointee(config),
            rpc,
            mgmtd,
            client_id,
        })
    }

    /// Replaces the configuration; limits stay.
    pub fn set_config(&self, config: StorageClientConfig) {
        self.config.store(Arc::new(config));
    }

    /// The manager's client.
    pub fn mgmtd(&self) -> &Arc<MgmtdClient> {
        &self.mgmtd
    }

    /// Identity in requests.
    pub fn client_id(&self) -> &ClientId {
        &self.client_id
    }

    fn tag(&self, channel: UpdateChannel) -> MessageTag {
        let request_id = RequestId(self.next_request.fetch_add(1, Ordering::Relaxed));
        MessageTag { client_id: self.client_id.clone(), request_id, channel }
    }

    /// Calls a method of one server, without retry.
    ///
    /// # Errors
    /// 7004 for an unknown node, 7016 if it cannot be reached over TCP, else what the method failed with.
    pub async fn call_node<M: Method>(&self, node: NodeId, req: &M::Req) -> Result<M::Rsp, Status> {
        let routing = self.mgmtd.routing();
        let Some(address) = routing.node_endpoint(node, SERVICE) else {
            let known = routing.node(node).is_some();
            let code = if known {
                code::STORAGE_CLIENT_NO_RDMA_INTERFACE
            } else {
                code::STORAGE_CLIENT_ROUTING_ERROR
            };
            return Err(with_message(code, format!("node {node}")));
        };
        let timeout = self.config.load().retry.max_wait_time.get();
        self.rpc.call::<M>(address, req, &CallOptions::timeout(timeout)).await
    }

    /// Space of a server's disks. With `force`, past the server's cache.
    ///
    /// # Errors
    /// As [`StorageClient::call_node`].
    pub async fn space_info(&self, node: NodeId, force: bool) -> Result<Vec<storage::SpaceInfo>, Status> {
        let req = SpaceInfoReq { tag: self.tag(UpdateChannel::default()), force };
        Ok(self.call_node::<SpaceInfo>(node, &req).await?.space_infos)
    }

    /// Space of the disks of all storage servers that mgmtd hears, with what each server answered.
    pub async fn space_info_of_all(
        &self,
        force: bool,
    ) -> Vec<(NodeId, Result<Vec<storage::SpaceInfo>, Status>)> {
        let routing = self.mgmtd.routing();
        let nodes: Vec<NodeId> =
            routing.active_nodes(NodeType::Storage).map(|node| node.app.node_id).collect();
        let answers = crate::join::join_all(nodes.iter().map(|&node| self.space_info(node, force))).await;
        nodes.into_iter().zip(answers).collect()
    }

    /// Creates a target on a node's disk.
    ///
    /// # Errors
    /// As [`StorageClient::call_node`].
    pub async fn create_target(&self, node: NodeId, req: &CreateTargetReq) -> Result<(), Status> {
        self.call_node::<CreateTarget>(node, req).await.map(drop)
    }

    /// Takes a target offline.
    ///
    /// # Errors
    /// As [`StorageClient::call_node`].
    pub async fn offline_target(&self, node: NodeId, target_id: TargetId, force: bool) -> Result<(), Status> {
        self.call_node::<OfflineTarget>(node, &OfflineTargetReq { target_id, force }).await.map(drop)
    }

    /// Removes a target from its disk.
    ///
    /// # Errors
    /// As [`StorageClient::call_node`].
    pub async fn remove_target(&self, node: NodeId, target_id: TargetId, force: bool) -> Result<(), Status> {
        self.call_node::<RemoveTarget>(node, &RemoveTargetReq { target_id, force }).await.map(drop)
    }

    /// A chunk as each node of its chain has it, in the order of the chain, serving or not.
    ///
    /// # Errors
    /// 7004 for an unknown chain.
    pub async fn query_chunk(
        &self,
        chain_id: ChainId,
        chunk_id: &storage::ChunkId,
    ) -> Result<Vec<(TargetId, Result<QueryChunkRsp, Status>)>, Status> {
        let routing = self.mgmtd.routing();
        let unknown = || with_message(code::STORAGE_CLIENT_ROUTING_ERROR, format!("chain {chain_id}"));
        let chain = routing.info().chain(chain_id).ok_or_else(unknown)?;
        let req = QueryChunkReq { chain_id, chunk_id: chunk_id.clone() };
        let located = chain.targets.iter().map(|member| member.target_id);
        let located: Vec<(TargetId, NodeId)> =
            located.filter_map(|target| Some((target, routing.target(target)?.node_id?))).collect();
        let calls = located.iter().map(|&(_, node)| self.call_node::<QueryChunk>(node, &req));
        let answers = crate::join::join_all(calls).await;
        Ok(located.into_iter().map(|(target, _)| target).zip(answers).collect())
    }
}

/// The remote buffer of a request whose data travels in messages. Servers only look at its size; the address is not
/// used by anyone.
fn inline_buffer(size: u32) -> RDMARemoteBuf {
    const NOWHERE: u64 = 4096;
    RDMARemoteBuf { addr: NOWHERE, size: u64::from(size), rkeys: Vec::new() }
}
