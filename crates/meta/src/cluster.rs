//! What the service asks of the rest of the cluster, as traits: the real ones live over `valor_client`, tests have
//! their own.

use std::future::Future;
use std::pin::Pin;

use valor_protocol::meta::Inode;
use valor_protocol::mgmtd::ListClientSessionsRsp;
use valor_protocol::{Address, ChainTableId, ChainTableVersion, NodeId};
use valor_wire::Status;

/// A boxed future of a trait method.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whether a chain can take files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainState {
    /// No such chain.
    Unknown,
    /// The chain has no targets.
    Empty,
    /// The chain has targets.
    Usable,
}

/// Routing information and client sessions, as mgmtd tells them.
pub trait Cluster: Send + Sync {
    /// The version (the newest for version 0) and the number of chains of a chain table.
    fn chain_table(
        &self,
        table: ChainTableId,
        version: ChainTableVersion,
    ) -> Option<(ChainTableVersion, usize)>;
    /// The chain that an index of a layout refers to.
    fn chain(&self, table: ChainTableId, version: ChainTableVersion, index: u32) -> ChainState;
    /// Metadata servers that mgmtd hears, ascending.
    fn meta_servers(&self) -> Vec<NodeId>;
    /// Where a metadata server takes requests.
    fn meta_address(&self, node: NodeId) -> Option<Address>;
    /// Asks mgmtd for newer routing information; false if there is none to be had.
    fn refresh(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }
    /// The clients mgmtd knows.
    fn client_sessions(&self) -> BoxFuture<'_, Result<ListClientSessionsRsp, Status>>;
}

/// Space of the whole cluster, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// All of it.
    pub capacity: u64,
    /// What can still be written.
    pub free: u64,
}

/// The chunks of files.
pub trait ChunkAccess: Send + Sync {
    /// The end of a file's last byte in storage. With `dyn_stripe` only the chains in use are asked
    /// (3019 if chunks are found beyond them, since the file is being extended).
    fn file_length<'a>(&'a self, inode: &'a Inode, dyn_stripe: bool) -> BoxFuture<'a, Result<u64, Status>>;
    /// Removes up to `batch` chunks on each chain of a file; gives their number and whether more are left.
    fn remove_chunks<'a>(
        &'a self,
        inode: &'a Inode,
        batch: u32,
        dyn_stripe: bool,
    ) -> BoxFuture<'a, Result<(u64, bool), Status>>;
    /// Space of all storage servers that answer.
    fn space(&self) -> BoxFuture<'_, Result<Space, Status>>;
}
