//! What tests stand on: a cluster and storage in memory, and a server over them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use valor_config::Live;
use valor_env::Env;
use valor_kv::Database;
use valor_protocol::app::ClientId;
use valor_protocol::meta::{Inode, Layout, PathAt, ReqBase, SessionInfo};
use valor_protocol::mgmtd::{ClientSession, ListClientSessionsRsp};
use valor_protocol::status::code;
use valor_protocol::user::{UserAttr, UserInfo};
use valor_protocol::{Address, ChainTableId, ChainTableVersion, InodeId, NodeId};
use valor_rpc::{Client, ClientConfig};
use valor_wire::{Status, UtcTime, Uuid};

use crate::cluster::{BoxFuture, ChainState, ChunkAccess, Cluster, Space};
use crate::config::Config;
use crate::error::status;
use crate::service::{Deps, Meta, init_fs};
use crate::users::Users;

/// Chain table 1 of version 1, and metadata servers at addresses.
#[derive(Default)]
pub(crate) struct TestCluster {
    chains: usize,
    pub(crate) servers: Mutex<BTreeMap<NodeId, Option<Address>>>,
    /// Clients with the time of their last sign of life.
    pub(crate) clients: Mutex<HashMap<Uuid, UtcTime>>,
    pub(crate) bootstrapping: AtomicBool,
}

impl TestCluster {
    pub(crate) fn with_chains(chains: usize) -> Self {
        Self { chains, ..Self::default() }
    }
}

impl Cluster for TestCluster {
    fn chain_table(
        &self,
        table: ChainTableId,
        version: ChainTableVersion,
    ) -> Option<(ChainTableVersion, usize)> {
        (table.0 == 1 && version.0 <= 1).then_some((ChainTableVersion(1), self.chains))
    }

    fn chain(&self, table: ChainTableId, version: ChainTableVersion, index: u32) -> ChainState {
        match (table.0, version.0) {
            (0, 0) if index as usize <= self.chains => ChainState::Usable,
            (1, 1) if index > 0 => ChainState::Usable,
            _ => ChainState::Unknown,
        }
    }

    fn meta_servers(&self) -> Vec<NodeId> {
        self.servers.lock().keys().copied().collect()
    }

    fn meta_address(&self, node: NodeId) -> Option<Address> {
        self.servers.lock().get(&node).copied().flatten()
    }

    fn client_sessions(&self) -> BoxFuture<'_, Result<ListClientSessionsRsp, Status>> {
        let session = |(uuid, time): (&Uuid, &UtcTime)| ClientSession {
            client_id: uuid.to_string(),
            last_extend: *time,
            ..ClientSession::default()
        };
        let rsp = ListClientSessionsRsp {
            bootstrapping: self.bootstrapping.load(Ordering::Relaxed),
            sessions: self.clients.lock().iter().map(session).collect(),
            ..ListClientSessionsRsp::default()
        };
        Box::pin(async { Ok(rsp) })
    }
}

/// Chunks as their ends: the length of each file in storage.
#[derive(Default)]
pub(crate) struct TestChunks {
    pub(crate) lengths: Mutex<HashMap<InodeId, u64>>,
    pub(crate) queries: AtomicU64,
    pub(crate) removals: AtomicU64,
    /// The code that all calls fail with; 0 for success.
    pub(crate) failure: AtomicU64,
}

impl TestChunks {
    fn result<T>(&self, value: T) -> Result<T, Status> {
        match self.failure.load(Ordering::Relaxed) {
            0 => Ok(value),
            failure => Err(status(failure as u16, "storage fails")),
        }
    }

    /// A client writes up to `length`.
    pub(crate) fn write(&self, inode: InodeId, length: u64) {
        let mut lengths = self.lengths.lock();
        let old = lengths.entry(inode).or_default();
        *old = length.max(*old);
    }
}

impl ChunkAccess for TestChunks {
    fn file_length<'a>(&'a self, inode: &'a Inode, _: bool) -> BoxFuture<'a, Result<u64, Status>> {
        Box::pin(async move {
            self.queries.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            self.result(self.lengths.lock().get(&inode.id).copied().unwrap_or(0))
        })
    }

    fn remove_chunks<'a>(
        &'a self,
        inode: &'a Inode,
        batch: u32,
        _: bool,
    ) -> BoxFuture<'a, Result<(u64, bool), Status>> {
        Box::pin(async move {
            self.removals.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            let chunk = u64::from(inode.data.as_file().map_or(1, |file| file.layout.chunk_size));
            let mut lengths = self.lengths.lock();
            let length = lengths.get(&inode.id).copied().unwrap_or(0);
            let removed = self.result(length.div_ceil(chunk).min(u64::from(batch)))?;
            let left = length.saturating_sub(removed * chunk);
            if left == 0 {
                lengths.remove(&inode.id);
            } else {
                lengths.insert(inode.id, left);
            }
            Ok((removed, left > 0))
        })
    }

    fn space(&self) -> BoxFuture<'_, Result<Space, Status>> {
        Box::pin(async { self.result(Space { capacity: 1000, free: 600 }) })
    }
}

/// Users by token; the token is the name.
#[derive(Default)]
pub(crate) struct TestUsers {
    pub(crate) users: Mutex<HashMap<u32, UserAttr>>,
    pub(crate) forgotten: Mutex<Vec<Option<u32>>>,
}

impl Users for TestUsers {
    fn authenticate<'a>(&'a self, user: &'a UserInfo) -> BoxFuture<'a, Result<UserInfo, Status>> {
        let users = self.users.lock();
        let found = users.values().find(|attr| attr.name == user.token);
        let result = found
            .map(|attr| UserInfo { groups: attr.groups.clone(), ..user.clone() })
            .ok_or_else(|| status(code::AUTHENTICATION_FAIL, "no such token"));
        Box::pin(async { result })
    }

    fn user(&self, uid: u32) -> BoxFuture<'_, Result<Option<UserAttr>, Status>> {
        let user = self.users.lock().get(&uid).cloned();
        Box::pin(async { Ok(user) })
    }

    fn forget(&self, uid: Option<u32>) {
        self.forgotten.lock().push(uid);
    }
}

/// A server over memory.
pub(crate) struct TestServer {
    pub(crate) meta: Arc<Meta>,
    pub(crate) db: Database,
    pub(crate) config: Arc<Live<Config>>,
    pub(crate) cluster: Arc<TestCluster>,
    pub(crate) chunks: Arc<TestChunks>,
    pub(crate) users: Arc<TestUsers>,
    requests: AtomicU64,
}

/// The configuration of most tests: C++ defaults with exact times, and tries that do not run out.
pub(crate) fn test_config() -> Config {
    Config { time_granularity: valor_config::Duration::from_micros(1), ..Config::default() }
}

/// The layout of the root directory in tests: that of the recorded file system.
pub(crate) fn test_layout() -> Layout {
    Layout::empty(ChainTableId(1), 512 << 10, 3)
}

impl TestServer {
    pub(crate) async fn start(config: Config) -> Self {
        let env = Env::real();
        let db = Database::memory(env.clone());
        init_fs(&db, test_layout(), UtcTime(env.utc_now().0)).await.unwrap();
        let cluster = Arc::new(TestCluster::with_chains(6));
        Self::join(config, db, cluster, Arc::default(), NodeId(50)).await
    }

    /// Another server of the same file system.
    pub(crate) async fn join(
        config: Config,
        db: Database,
        cluster: Arc<TestCluster>,
        chunks: Arc<TestChunks>,
        node: NodeId,
    ) -> Self {
        let env = Env::real();
        cluster.servers.lock().entry(node).or_default();
        let config = Live::new(config);
        let users = Arc::new(TestUsers::default());
        let deps = Deps {
            db: db.clone(),
            users: Arc::clone(&users) as Arc<dyn Users>,
            cluster: Arc::clone(&cluster) as Arc<dyn Cluster>,
            chunks: Arc::clone(&chunks) as Arc<dyn ChunkAccess>,
            rpc: Client::new(env.clone(), ClientConfig::default()),
        };
        let meta = Meta::start(env, Arc::clone(&config), node, deps).await.unwrap();
        Self { meta, db, config, cluster, chunks, users, requests: AtomicU64::new(1) }
    }

    /// Requests of `uid` with a uuid of their own.
    pub(crate) fn base(&self, uid: u32) -> ReqBase {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut uuid = [7; 16];
        uuid[0] = self.meta.core().node.0 as u8;
        uuid[8..].copy_from_slice(&number.to_le_bytes());
        ReqBase { user: user(uid), client: client(1), uuid: Uuid(uuid), ..ReqBase::default() }
    }
}

pub(crate) fn user(uid: u32) -> UserInfo {
    UserInfo { uid, gid: uid, ..UserInfo::default() }
}

pub(crate) fn client(number: u8) -> ClientId {
    ClientId { uuid: Uuid([number; 16]), hostname: format!("host{number}") }
}

pub(crate) fn session(client_number: u8, number: u8) -> Option<SessionInfo> {
    Some(SessionInfo { client: client(client_number), session: Uuid([number; 16]) })
}

/// A path from the root.
pub(crate) fn at(path: &str) -> PathAt {
    PathAt::at(InodeId::ROOT, path)
}

thread_local! {
    static INTERLEAVING: std::cell::Cell<u64> = const { std::cell::Cell::new(1) };
}

/// Starts the choices of [`interleave`] anew, so that a seed gives the same run.
pub(crate) fn seed_interleaving(seed: u64) {
    INTERLEAVING.set(seed.wrapping_mul(2).wrapping_add(1));
}

/// Lets other tasks run, in one of two cases.
pub(crate) async fn interleave() {
    let next =
        INTERLEAVING.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    INTERLEAVING.set(next);
    if next >> 63 == 1 {
        tokio::task::yield_now().await;
    }
}
