//! Requests recorded from C++ 3FS, byte for byte over a connection, and the replies its manager gave.
//!
//! The recordings belong to `valor-protocol` (`tests/golden`, see its README). Replies are compared as values, without
//! what depends on the moment: clocks, versions that count heartbeats, process ids.

use crate::cluster::*;
use bytes::{Bytes, BytesMut};
use serde_json::Value;
use std::fmt::Debug;
use std::path::Path;
use valor_env::{Endpoint, Stream};
use valor_mgmtd::{Config, Hooks, Identity, Mgmtd, offline};
use valor_protocol::mgmtd::*;
use valor_protocol::*;
use valor_rpc::{Client, ClientConfig, Server, ServerConfig};
use valor_wire::{FrameHeader, HEADER_LEN, MessagePacket, Wire, from_bytes, open_body};

struct Pair {
    name: String,
    method: u16,
    request: Bytes,
    response: Bytes,
}

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/golden").join(name);
    let compressed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    zstd::decode_all(&compressed[..]).unwrap()
}

fn lines(name: &str) -> Vec<Value> {
    let text = String::from_utf8(file(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The manager's conversations of a set.
fn load(set: &str) -> Vec<Pair> {
    let mut blob = Bytes::from(file(&format!("{set}.bin.zst")));
    let mut message = |side: &Value| blob.split_to(side["size"].as_u64().unwrap() as usize);
    let mut pairs = Vec::new();
    for line in lines(&format!("{set}.jsonl.zst")) {
        let (request, response) = (message(&line["request"]), message(&line["response"]));
        if line["service_id"] == methods::SERVICE_ID {
            let name = format!("{set}/{}", line["name"].as_str().unwrap());
            let method = line["method_id"].as_u64().unwrap() as u16;
            pairs.push(Pair { name, method, request, response });
        }
    }
    pairs
}

/// The encoding of a single struct.
pub fn single(name: &str) -> Bytes {
    let mut blob = Bytes::from(file("structs.bin.zst"));
    for line in lines("structs.jsonl.zst") {
        let bytes = blob.split_to(line["size"].as_u64().unwrap() as usize);
        if line["name"] == name {
            return bytes;
        }
    }
    panic!("no struct {name}");
}

fn payload(message: &Bytes) -> Bytes {
    let header = FrameHeader::parse(message[..HEADER_LEN].try_into().unwrap()).unwrap();
    let (body, _) = open_body(header, message.slice(HEADER_LEN..)).unwrap();
    from_bytes::<MessagePacket>(body).unwrap().payload
}

fn reply<T: Wire>(message: &Bytes) -> Result<T, Status> {
    from_bytes(payload(message)).unwrap()
}

/// The first reply of a method in a set.
fn first<T: Wire>(pairs: &[Pair], method: u16) -> T {
    let pair = pairs.iter().find(|pair| pair.method == method).unwrap();
    reply(&pair.response).unwrap()
}

async fn exchange(stream: &Stream, request: &Bytes) -> Bytes {
    let mut rest: &[u8] = request;
    while !rest.is_empty() {
        stream.writable().await.unwrap();
        let sent = stream.try_write_vectored(&[std::io::IoSlice::new(rest)]).unwrap();
        rest = &rest[sent..];
    }
    let mut message = BytesMut::zeroed(HEADER_LEN);
    read_exact(stream, &mut message[..]).await;
    let size = u32::from_le_bytes(message[4..8].try_into().unwrap()) as usize;
    message.resize(HEADER_LEN + size, 0);
    read_exact(stream, &mut message[HEADER_LEN..]).await;
    message.freeze()
}

async fn read_exact(stream: &Stream, mut buf: &mut [u8]) {
    while !buf.is_empty() {
        let count = stream.read(buf).await.unwrap();
        assert!(count > 0, "the connection was closed");
        buf = &mut buf[count..];
    }
}

fn mask_nodes<'a>(nodes: impl Iterator<Item = &'a mut NodeInfo>) {
    for node in nodes {
        node.last_heartbeat_ts = UtcTime(0);
        node.config_version = ConfigVersion(0);
    }
}

/// Masks what depends on the moment.
trait Mask: Wire + PartialEq + Debug {
    fn mask(&mut self) {}
}

impl Mask for GetPrimaryMgmtdRsp {}
impl Mask for HeartbeatRsp {}
impl Mask for RegisterNodeRsp {}
impl Mask for SetConfigRsp {}
impl Mask for GetConfigRsp {}
impl Mask for SetChainTableRsp {}
impl Mask for EnableNodeRsp {}
impl Mask for DisableNodeRsp {}
impl Mask for ExtendClientSessionRsp {}
impl Mask for UnregisterNodeRsp {}
impl Mask for SetChainsRsp {}
impl Mask for SetUniversalTagsRsp {}
impl Mask for GetUniversalTagsRsp {}
impl Mask for GetConfigVersionsRsp {}
impl Mask for RotateLastSrvRsp {}
impl Mask for ListOrphanTargetsRsp {}
impl Mask for SetPreferredTargetOrderRsp {}
impl Mask for RotateAsPreferredOrderRsp {}
impl Mask for UpdateChainRsp {}

impl Mask for SetNodeTagsRsp {
    fn mask(&mut self) {
        mask_nodes([&mut self.info].into_iter());
    }
}

impl Mask for GetRoutingInfoRsp {
    fn mask(&mut self) {
        // Whether it is there depends on the version, which counts what happened before.
        let Some(info) = &mut self.info else { return };
        info.routing_info_version = RoutingInfoVersion(0);
        mask_nodes(info.nodes.values_mut());
    }
}

impl Mask for ListClientSessionsRsp {
    fn mask(&mut self) {
        self.sessions.iter_mut().for_each(mask_session);
        self.sessions.sort_by(|a, b| a.client_id.cmp(&b.client_id));
    }
}

impl Mask for GetClientSessionRsp {
    fn mask(&mut self) {
        self.session.iter_mut().for_each(mask_session);
    }
}

fn mask_session(session: &mut ClientSession) {
    session.start = UtcTime(0);
    session.last_extend = UtcTime(0);
}

fn compare_as<T: Mask>(pair: &Pair, got: &Bytes) {
    let masked = |message: &Bytes| {
        let mut reply: Result<T, Status> = reply(message);
        reply.iter_mut().for_each(Mask::mask);
        reply
    };
    assert_eq!(masked(got), masked(&pair.response), "{}", pair.name);
}

fn compare(pair: &Pair, got: &Bytes) {
    macro_rules! by_method {
        ($($id:literal $type:ident),* $(,)?) => {
            match pair.method {
                $($id => compare_as::<$type>(pair, got),)*
                other => panic!("{}: method {other}", pair.name),
            }
        };
    }
    by_method! {
        1 GetPrimaryMgmtdRsp, 3 HeartbeatRsp, 4 RegisterNodeRsp, 5 GetRoutingInfoRsp, 6 SetConfigRsp,
        7 GetConfigRsp, 8 SetChainTableRsp, 9 EnableNodeRsp, 10 DisableNodeRsp, 11 ExtendClientSessionRsp,
        12 ListClientSessionsRsp, 13 SetNodeTagsRsp, 14 UnregisterNodeRsp, 15 SetChainsRsp,
        16 SetUniversalTagsRsp, 17 GetUniversalTagsRsp, 18 GetConfigVersionsRsp, 19 GetClientSessionRsp,
        20 RotateLastSrvRsp, 21 ListOrphanTargetsRsp, 22 SetPreferredTargetOrderRsp,
        23 RotateAsPreferredOrderRsp, 24 UpdateChainRsp,
    }
}

/// The manager of the recordings: its identity and the configurations it was set up with.
async fn recorded_manager(cluster: &Cluster, pairs: &[Pair]) -> (std::sync::Arc<Mgmtd>, Endpoint) {
    let routing: GetRoutingInfoRsp = first(pairs, 5);
    let own = routing.info.unwrap().nodes[&NodeId(1)].clone();
    let meta: HeartbeatRsp = first(pairs, 3);
    let fuse: GetConfigRsp = first(pairs, 7);
    let configs = [
        (NodeType::Mgmtd, String::new()),
        (NodeType::Meta, meta.config.unwrap().content),
        (NodeType::Fuse, fuse.info.unwrap().content),
    ];
    for (node_type, content) in configs {
        let version = offline::init_config(&cluster.db, node_type, &content, false).await.unwrap();
        assert_eq!(version, ConfigVersion(1));
    }
    // The recorded clocks are not ours.
    let config = Config {
        allow_heartbeat_from_unregistered: true,
        heartbeat_timestamp_valid_window: Default::default(),
        ..Config::default()
    };
    let identity = Identity { cluster_id: "peer".into(), app: own.app };
    let peers = Client::new(cluster.env.clone(), ClientConfig::default());
    let (env, db) = (cluster.env.clone(), cluster.db.clone());
    let mgmtd = Mgmtd::start(env, config, identity, db, peers, Hooks::default()).unwrap();
    let endpoint: Endpoint = "127.0.0.1:12501".parse().unwrap();
    let server = Server::builder(cluster.env.clone(), ServerConfig::default()).service(mgmtd.router());
    // It serves as long as the test's runtime lives.
    std::mem::forget(server.listen(std::slice::from_ref(&endpoint)).unwrap());
    until(|| mgmtd.is_primary()).await;
    (mgmtd, endpoint)
}

#[tokio::test(start_paused = true)]
async fn answers_as_the_original_did() {
    let cluster = Cluster::new();
    let set_up = load("1_init");
    let (_mgmtd, endpoint) = recorded_manager(&cluster, &set_up).await;
    let stream = cluster.env.connect(&endpoint).await.unwrap();
    for pair in &set_up {
        let got = exchange(&stream, &pair.request).await;
        if pair.method != 5 {
            compare(pair, &got);
        }
    }

    let calls = load("3_rpc");
    let mut compared = 0;
    for pair in &calls {
        let got = exchange(&stream, &pair.request).await;
        match pair.method {
            // Answers that depend on how many heartbeats there were, or on a client of which only the last words
            // were recorded.
            5 if reply::<GetRoutingInfoRsp>(&pair.response).is_ok_and(|rsp| rsp.info.is_none()) => continue,
            12 => {}
            _ => compare(pair, &got),
        }
        compared += 1;
    }
    assert!(compared > 25, "{compared}");
}
