//! Storage servers on loopback with disks in memory, a stand-in for the manager, and a plain client.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use valor_client::{Routing, RoutingCache};
use valor_config::Live;
use valor_env::disk::memory::MemoryDisk;
use valor_env::disk::{Disk, OpenOptions};
use valor_env::{Endpoint, Env, Listener, Stream, UtcMicros, World};
use valor_protocol::mgmtd::{LocalTargetState, NodeInfo, PublicTargetState};
use valor_protocol::status::code;
use valor_protocol::storage::methods;
use valor_protocol::storage::*;
use valor_protocol::valor::storage::{ListSyncProgress, ListSyncProgressReq, SyncProgress};
use valor_protocol::*;
use valor_rpc::{CallOptions, Client, ClientConfig, Server, ServerConfig, ServerHandle};
use valor_storage::{BoxFuture, Cluster as Membership, Config, HeartbeatBoard, Identity, Storage};

use crate::chain::{CHAIN, Manager};

pub const CHUNK_SIZE: u32 = 64 << 10;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The real world with a disk in memory.
struct TestWorld {
    real: Env,
    disk: MemoryDisk,
    /// Seconds by which its clock is ahead.
    ahead: u64,
}

impl World for TestWorld {
    fn utc_now(&self) -> UtcMicros {
        UtcMicros(self.real.utc_now().0 + self.ahead as i64 * 1_000_000)
    }
    fn fill_random(&self, buf: &mut [u8]) {
        self.real.fill_random(buf);
    }
    fn hostname(&self) -> String {
        "test".into()
    }
    fn connect(&self, to: Endpoint) -> valor_env::BoxFuture<io::Result<Stream>> {
        let real = self.real.clone();
        Box::pin(async move { real.connect(&to).await })
    }
    fn bind(&self, on: &Endpoint, reuse_port: bool) -> io::Result<Listener> {
        self.real.bind(on, reuse_port)
    }
    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.handle()
    }
}

/// The manager and who hears of its decisions.
#[derive(Default)]
struct Shared {
    manager: Option<Manager>,
    addresses: Vec<Option<Address>>,
    version: u64,
}

#[derive(Clone, Default)]
struct SharedManager {
    state: Arc<Mutex<Shared>>,
    caches: Arc<Mutex<Vec<Told>>>,
}

/// A server's routing information, and whether the server is cut off.
type Told = (Arc<RoutingCache>, Arc<AtomicBool>);

impl SharedManager {
    /// Lets the chain settle and tells everybody.
    fn publish(&self) {
        let mut state = self.state.lock();
        if let Some(manager) = &mut state.manager {
            manager.tick();
        }
        state.version += 1;
        let mut info = state.manager.as_ref().map(|manager| manager.routing()).unwrap_or_default();
        info.routing_info_version = RoutingInfoVersion(state.version);
        for (index, address) in state.addresses.iter().enumerate() {
            let mut node = NodeInfo::default();
            node.app.service_groups = vec![ServiceGroupInfo {
                services: ["StorageSerde".to_owned()].into(),
                endpoints: address.iter().copied().collect(),
            }];
            info.nodes.insert(NodeId(index as u32 + 1), node);
        }
        for (cache, cut) in self.caches.lock().iter() {
            if !cut.load(Ordering::Relaxed) {
                cache.store(Routing::new(info.clone()));
            }
        }
    }
}

/// One server's line to the manager.
struct Link {
    manager: SharedManager,
    cache: Arc<RoutingCache>,
    board: HeartbeatBoard,
    cut: Arc<AtomicBool>,
}

impl Link {
    fn check(&self) -> Result<(), Status> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(Status::new(code::RPC_TIMEOUT, "cut off"));
        }
        Ok(())
    }
}

impl Membership for Link {
    fn routing(&self) -> Arc<Routing> {
        self.cache.load()
    }
    fn watch(&self) -> watch::Receiver<Arc<Routing>> {
        self.cache.watch()
    }
    fn refresh(&self) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async { self.check() })
    }
    fn heartbeat(&self) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async {
            self.check()?;
            for report in self.board.read() {
                if let Some(manager) = &mut self.manager.state.lock().manager {
                    manager.heartbeat(&report);
                }
            }
            self.manager.publish();
            Ok(())
        })
    }
    fn active_clients(&self) -> BoxFuture<'_, Result<Option<HashSet<Uuid>>, Status>> {
        Box::pin(async { Ok(None) })
    }
}

pub struct Node {
    pub storage: Arc<Storage>,
    pub config: Arc<Live<Config>>,
    link: Arc<Link>,
    server: Mutex<Option<ServerHandle>>,
}

pub struct Cluster {
    manager: SharedManager,
    nodes: Vec<Mutex<Option<Arc<Node>>>>,
    pub disks: Vec<MemoryDisk>,
    pub rpc: Arc<Client>,
    tune: fn(&mut Config),
    /// Directory on the real disk, in place of disks in memory.
    root: Option<PathBuf>,
    next: AtomicU64,
    /// Seconds by which the clocks of servers are ahead that are started from now on.
    pub ahead: AtomicU64,
}

pub fn target(node: usize) -> TargetId {
    TargetId(node as u64 + 1)
}

pub fn disk_path(node: usize) -> PathBuf {
    PathBuf::from(format!("/disk{node}"))
}

pub fn chunk(n: u32) -> ChunkId {
    ChunkId::for_file(InodeId(7), 0, n)
}

/// Bytes that depend on every argument.
pub fn pattern(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(byte).collect::<Vec<u8>>().into()
}

pub fn crc(data: &[u8]) -> ChecksumInfo {
    ChecksumInfo { r#type: ChecksumType::Crc32c, value: valor_wire::storage_crc32c(data) }
}

/// Waits for a condition.
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "timed out: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

impl Cluster {
    /// Servers with one target each, chained in order, all serving.
    pub async fn start(nodes: usize) -> Cluster {
        Self::start_with(nodes, |_| {}).await
    }

    pub async fn start_with(nodes: usize, tune: fn(&mut Config)) -> Cluster {
        Self::start_in(nodes, tune, None).await
    }

    /// On the real disk, below a directory.
    pub async fn start_on_disk(nodes: usize, root: &Path) -> Cluster {
        Self::start_in(nodes, |config| config.sync = valor_storage::Sync::Always, Some(root.into())).await
    }

    async fn start_in(nodes: usize, tune: fn(&mut Config), root: Option<PathBuf>) -> Cluster {
        let cluster = Cluster {
            manager: SharedManager::default(),
            nodes: (0..nodes).map(|_| Mutex::default()).collect(),
            disks: (0..nodes).map(|n| MemoryDisk::new(n as u64)).collect(),
            rpc: Client::new(Env::real(), ClientConfig::default()),
            tune,
            root,
            next: AtomicU64::new(1),
            ahead: AtomicU64::new(0),
        };
        cluster.manager.state.lock().addresses = vec![None; nodes];
        for node in 0..nodes {
            cluster.start_node(node).await;
            cluster.create_target(node, true).await.unwrap();
        }
        cluster.manager.state.lock().manager = Some(Manager::new(nodes));
        cluster.manager.publish();
        cluster.settle().await;
        cluster
    }

    pub async fn start_node(&self, node: usize) {
        self.disks[node].restart();
        let mut config = Config::fast();
        let env = match &self.root {
            Some(root) => {
                config.targets.target_paths = vec![root.join(format!("disk{node}"))];
                Env::real()
            }
            None => {
                config.targets.target_paths = vec![disk_path(node)];
                let ahead = self.ahead.load(Ordering::Relaxed);
                Env::new(TestWorld { real: Env::real(), disk: self.disks[node].clone(), ahead })
            }
        };
        config.sync = valor_storage::Sync::Process;
        (self.tune)(&mut config);
        let config = Live::new(config);
        let board = HeartbeatBoard::default();
        let cache = Arc::new(RoutingCache::default());
        let cut = Arc::new(AtomicBool::new(false));
        self.manager.caches.lock().push((Arc::clone(&cache), Arc::clone(&cut)));
        let manager = self.manager.clone();
        let link = Arc::new(Link { manager, cache, board: board.clone(), cut });
        let identity = Identity { node_id: NodeId(node as u32 + 1), board };
        let rpc = Client::new(env.clone(), ClientConfig::default());
        let cluster = Arc::clone(&link) as Arc<dyn Membership>;
        let storage = Storage::start(env.clone(), Arc::clone(&config), identity, cluster, rpc).await.unwrap();
        let [router, own] = storage.routers();
        let server = Server::builder(env, ServerConfig::default())
            .service(router)
            .service(own)
            .listen(&[Endpoint::Tcp("127.0.0.1:0".parse().unwrap())])
            .unwrap();
        let Endpoint::Tcp(std::net::SocketAddr::V4(address)) = server.addresses()[0] else { panic!() };
        self.manager.state.lock().addresses[node] = Some(Address::tcp(address));
        let node_state = Node { storage, config, link, server: Mutex::new(Some(server)) };
        *self.nodes[node].lock() = Some(Arc::new(node_state));
        self.manager.publish();
    }

    /// As if the process were killed: nothing is said to anybody. The manager notices when [`Cluster::notice`] is called.
    pub async fn kill(&self, node: usize) {
        let killed = self.nodes[node].lock().take().unwrap();
        self.manager.caches.lock().retain(|(cache, _)| !Arc::ptr_eq(cache, &killed.link.cache));
        killed.storage.abandon();
        drop(killed.server.lock().take());
        // Whatever it still does to its disk after its end fails.
        self.disks[node].restart();
    }

    /// The manager finds out that a node is gone.
    pub fn notice(&self, node: usize) {
        self.notice_all(&[node]);
    }

    /// The manager finds out that nodes are gone, all at the same time.
    pub fn notice_all(&self, nodes: &[usize]) {
        if let Some(manager) = &mut self.manager.state.lock().manager {
            nodes.iter().for_each(|node| manager.lost(target(*node)));
        }
        self.manager.publish();
    }

    /// Stops a node in order.
    pub async fn stop(&self, node: usize) {
        let stopped = self.nodes[node].lock().take().unwrap();
        let server = stopped.server.lock().take();
        if let Some(server) = server {
            server.stop(Duration::from_secs(5)).await;
        }
        stopped.storage.stop().await;
        self.manager.caches.lock().retain(|(cache, _)| !Arc::ptr_eq(cache, &stopped.link.cache));
    }

    /// Tells everybody that a node is reached elsewhere.
    pub fn set_address(&self, node: usize, address: Address) {
        self.manager.state.lock().addresses[node] = Some(address);
        self.manager.publish();
    }

    pub fn cut(&self, node: usize, cut: bool) {
        self.node(node).link.cut.store(cut, Ordering::Relaxed);
    }

    pub fn node(&self, node: usize) -> Arc<Node> {
        self.nodes[node].lock().clone().expect("node runs")
    }

    pub fn runs(&self, node: usize) -> bool {
        self.nodes[node].lock().is_some()
    }

    pub fn members(&self) -> Vec<(TargetId, PublicTargetState)> {
        self.manager.state.lock().manager.as_ref().map(|manager| manager.members.clone()).unwrap_or_default()
    }

    /// Waits until all targets serve and know it.
    pub async fn settle(&self) {
        eventually("all targets serve", async || {
            let manager = self.manager.state.lock().manager.as_ref().is_some_and(Manager::all_serving);
            if !manager {
                self.manager.publish();
                return None;
            }
            for node in 0..self.nodes.len() {
                let info = self.target_info(node).await?;
                let known = info.v_chain_id == self.chain() && info.local_state == LocalTargetState::Uptodate;
                if !known {
                    self.manager.publish();
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    pub fn chain(&self) -> VersionedChainId {
        let state = self.manager.state.lock();
        let version = state.manager.as_ref().map_or(0, |manager| manager.version);
        VersionedChainId { chain_id: CHAIN, chain_ver: ChainVersion(version) }
    }

    /// Node of the chain's head.
    pub fn head(&self) -> usize {
        self.members()[0].0.0 as usize - 1
    }

    // Calls.

    pub async fn call<M: Method>(&self, node: usize, req: &M::Req) -> Result<M::Rsp, Status> {
        let address = self.manager.state.lock().addresses[node].expect("node has run");
        self.rpc.call::<M>(address, req, &CallOptions::timeout(Duration::from_secs(20))).await
    }

    pub async fn target_info(&self, node: usize) -> Option<Target> {
        let req = QueryChunkReq { chain_id: CHAIN, chunk_id: ChunkId::default() };
        self.call::<methods::QueryChunk>(node, &req).await.ok().map(|rsp| rsp.target)
    }

    pub async fn create_target(&self, node: usize, existing: bool) -> Result<(), Status> {
        let req = CreateTargetReq {
            target_id: target(node),
            chain_id: CHAIN,
            allow_existing_target: existing,
            only_chunk_engine: true,
            ..Default::default()
        };
        self.call::<methods::CreateTarget>(node, &req).await.map(drop)
    }

    /// A tag of its own channel.
    pub fn tag(&self) -> MessageTag {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut tag = MessageTag::default();
        tag.client_id.uuid = Uuid([9; 16]);
        tag.request_id = RequestId(number);
        tag.channel.id = ChannelId((number % 60_000) as u16 + 1);
        tag.channel.seqnum = ChannelSeqNum(number);
        tag
    }

    pub fn write_req(&self, chunk: ChunkId, offset: u32, data: Bytes) -> WriteReq {
        WriteReq {
            payload: UpdateIO {
                offset,
                length: data.len() as u32,
                chunk_size: CHUNK_SIZE,
                key: GlobalKey { v_chain_id: self.chain(), chunk_id: chunk },
                update_type: UpdateType::Write,
                checksum: crc(&data),
                inlinebuf: UInt8Vector { data },
                ..Default::default()
            },
            tag: self.tag(),
            feature_flags: FeatureFlags::SEND_DATA_INLINE,
            ..Default::default()
        }
    }

    /// Sends a write once.
    pub async fn send_write(&self, node: usize, req: &WriteReq) -> IOResult {
        match self.call::<methods::Write>(node, req).await {
            Ok(rsp) => {
                assert_eq!(rsp.tag, req.tag);
                rsp.result
            }
            Err(status) => IOResult { length_info: Err(status), ..IOResult::default() },
        }
    }

    /// Writes as a client does: tries again under the chain version of now until it is acknowledged.
    pub async fn write(&self, chunk: ChunkId, offset: u32, data: Bytes) -> IOResult {
        let mut req = self.write_req(chunk, offset, data);
        eventually("write acknowledged", async || {
            req.payload.key.v_chain_id = self.chain();
            let head = self.head();
            if !self.runs(head) {
                return None;
            }
            let result = self.send_write(head, &req).await;
            result.length_info.is_ok().then_some(result)
        })
        .await
    }

    pub fn read_req(&self, pieces: &[(ChunkId, u32, u32)]) -> BatchReadReq {
        let piece = |(chunk_id, offset, length): &(ChunkId, u32, u32)| ReadIO {
            offset: *offset,
            length: *length,
            key: GlobalKey { v_chain_id: self.chain(), chunk_id: chunk_id.clone() },
            rdmabuf: RDMARemoteBuf { size: u64::from(*length), ..Default::default() },
        };
        BatchReadReq {
            payloads: pieces.iter().map(piece).collect(),
            feature_flags: FeatureFlags::SEND_DATA_INLINE,
            checksum_type: ChecksumType::Crc32c,
            ..Default::default()
        }
    }

    /// Reads a whole chunk from one node once.
    pub async fn read_at(&self, node: usize, chunk: ChunkId) -> Result<(Bytes, IOResult), Status> {
        let rsp = self.call::<methods::BatchRead>(node, &self.read_req(&[(chunk, 0, CHUNK_SIZE)])).await?;
        let result = rsp.results[0].clone();
        result.length_info.clone()?;
        assert_eq!(result.checksum, crc(&rsp.inlinebuf.data));
        Ok((rsp.inlinebuf.data, result))
    }

    /// Reads a whole chunk, waiting for updates to be committed.
    pub async fn read(&self, node: usize, chunk: ChunkId) -> Option<Bytes> {
        eventually("read", async || match self.read_at(node, chunk.clone()).await {
            Ok((data, _)) => Some(Some(data)),
            Err(status) if status.code == code::STORAGE_CHUNK_METADATA_NOT_FOUND => Some(None),
            Err(_) => None,
        })
        .await
    }

    /// Another server for a node's storage, on a thread of its own; where it listens.
    pub fn start_shard(&self, node: usize) -> Address {
        let router = self.node(node).storage.router();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let server = Server::builder(Env::real(), ServerConfig::default())
                    .service(router)
                    .listen(&[Endpoint::Tcp("127.0.0.1:0".parse().unwrap())])
                    .unwrap();
                sender.send(server.addresses()[0].clone()).unwrap();
                std::future::pending::<()>().await;
            });
        });
        let Endpoint::Tcp(std::net::SocketAddr::V4(address)) = receiver.recv().unwrap() else { panic!() };
        Address::tcp(address)
    }

    /// How far a node is with filling its successor.
    pub async fn progress(&self, node: usize) -> Option<SyncProgress> {
        let req = ListSyncProgressReq { chain_ids: vec![CHAIN] };
        self.call::<ListSyncProgress>(node, &req).await.ok()?.progress.pop()
    }

    pub async fn metas(&self, node: usize) -> Vec<ChunkMeta> {
        let req = GetAllChunkMetadataReq { target_id: target(node) };
        self.call::<methods::GetAllChunkMetadata>(node, &req).await.unwrap().chunk_meta_vec
    }

    /// All replicas hold the same, and nothing is pending.
    pub async fn assert_equal_replicas(&self) -> Vec<ChunkMeta> {
        eventually("nothing is pending", async || {
            for node in 0..self.nodes.len() {
                if self.metas(node).await.iter().any(|meta| meta.chunk_state != ChunkState::Commit) {
                    return None;
                }
            }
            Some(())
        })
        .await;
        let first = self.metas(0).await;
        let strip = |metas: &[ChunkMeta]| -> Vec<_> {
            metas.iter().map(|m| (m.chunk_id.clone(), m.commit_ver, m.length, m.checksum)).collect()
        };
        for node in 1..self.nodes.len() {
            assert_eq!(strip(&self.metas(node).await), strip(&first), "node {node}");
        }
        first
    }

    // Disks.

    /// Changes a byte of the chunks' data wherever `content` lies on the node's disk.
    pub fn damage(&self, node: usize, content: &[u8]) -> usize {
        let mut hits = 0;
        for (path, ..) in self.disks[node].files() {
            let bytes = self.disks[node].contents(&path).unwrap();
            let found = bytes.windows(content.len()).enumerate().filter(|(_, window)| *window == content);
            let found: Vec<usize> = found.map(|(at, _)| at).collect();
            for at in found {
                assert!(self.disks[node].flip(&path, at as u64, 0x10).unwrap());
                hits += 1;
            }
        }
        hits
    }

    pub async fn exists(&self, node: usize, path: &Path) -> bool {
        self.disks[node].handle().open(path, OpenOptions::READ).await.is_ok()
    }
}

/// Status code of a failed update.
pub fn code_of(result: &IOResult) -> u16 {
    result.length_info.as_ref().err().map_or(0, |status| status.code)
}
