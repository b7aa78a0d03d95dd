//! Conversations recorded from C++ 3FS's storage servers, held again with ours.
//!
//! The recordings belong to `valor-protocol` (`tests/golden`). Requests are sent with our chain and target ids in place of
//! the recorded ones; replies are compared as values, without what depends on the moment or the disk.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use valor_env::{Endpoint, Env};
use valor_protocol::status::code;
use valor_protocol::storage::methods::*;
use valor_protocol::storage::*;
use valor_protocol::*;
use valor_rpc::{Router, Server, ServerConfig};
use valor_wire::{FrameHeader, HEADER_LEN, MessagePacket, Wire, from_bytes, open_body};

use crate::chain::CHAIN;
use crate::harness::*;

struct Pair {
    name: String,
    request: Bytes,
    response: Bytes,
}

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/golden").join(name);
    let compressed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    zstd::decode_all(&compressed[..]).unwrap()
}

/// The storage service's conversations of a set.
fn load(set: &str) -> Vec<Pair> {
    let text = String::from_utf8(file(&format!("{set}.jsonl.zst"))).unwrap();
    let mut blob = Bytes::from(file(&format!("{set}.bin.zst")));
    let mut message = |side: &Value| blob.split_to(side["size"].as_u64().unwrap() as usize);
    let mut pairs = Vec::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let (request, response) = (message(&line["request"]), message(&line["response"]));
        if let Some(name) = line["name"].as_str().unwrap().strip_prefix("StorageSerde.") {
            pairs.push(Pair { name: name.to_owned(), request, response });
        }
    }
    pairs
}

fn payload<T: Wire>(message: &Bytes) -> T {
    let header = FrameHeader::parse(message[..HEADER_LEN].try_into().unwrap()).unwrap();
    let (body, _) = open_body(header, message.slice(HEADER_LEN..)).unwrap();
    from_bytes(from_bytes::<MessagePacket>(body).unwrap().payload).unwrap()
}

impl Pair {
    fn request<T: Wire>(&self) -> T {
        payload(&self.request)
    }

    fn response<T: Wire>(&self) -> Result<T, Status> {
        payload(&self.response)
    }
}

/// Sends a recorded request and gives both replies.
async fn replay<M: Method>(
    cluster: &Cluster,
    pair: &Pair,
    change: impl FnOnce(&mut M::Req),
) -> (Result<M::Rsp, Status>, Result<M::Rsp, Status>) {
    let mut request: M::Req = pair.request();
    change(&mut request);
    (cluster.call::<M>(0, &request).await, pair.response())
}

/// Our chain in place of the recorded one, at the same version.
fn ours(chain: &mut VersionedChainId) {
    chain.chain_id = CHAIN;
}

fn same_result(name: &str, ours: &IOResult, recorded: &IOResult) {
    let strip = |result: &IOResult| IOResult {
        length_info: result.length_info.clone().map_err(|status| Status::new(status.code, "")),
        ..result.clone()
    };
    assert_eq!(strip(ours), strip(recorded), "{name}");
}

#[tokio::test]
async fn one_call_of_every_method() {
    let cluster = Cluster::start(1).await;
    assert_eq!(cluster.chain().chain_ver, ChainVersion(1));
    let mut replayed = 0;
    for pair in load("3_rpc") {
        let name = pair.name.as_str();
        replayed += 1;
        match name.split_once('.').unwrap().0 {
            "write" => {
                let (ours, theirs) =
                    replay::<Write>(&cluster, &pair, |r| ours(&mut r.payload.key.v_chain_id)).await;
                let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
                assert_eq!(ours.tag, theirs.tag, "{name}");
                same_result(name, &ours.result, &theirs.result);
            }
            "batchRead" => {
                let chain =
                    |r: &mut BatchReadReq| r.payloads.iter_mut().for_each(|io| ours(&mut io.key.v_chain_id));
                match replay::<BatchRead>(&cluster, &pair, chain).await {
                    (Ok(ours), Ok(theirs)) => {
                        assert_eq!(ours.inlinebuf, theirs.inlinebuf, "{name}");
                        assert_eq!(ours.results, theirs.results, "{name}");
                    }
                    (ours, theirs) => assert_eq!(ours.unwrap_err(), theirs.unwrap_err(), "{name}"),
                }
            }
            "queryLastChunk" => {
                let chain =
                    |r: &mut QueryLastChunkReq| r.payloads.iter_mut().for_each(|op| ours(&mut op.v_chain_id));
                let (ours, theirs) = replay::<QueryLastChunk>(&cluster, &pair, chain).await;
                assert_eq!(ours, theirs, "{name}");
            }
            "truncateChunks" => {
                let chain =
                    |r: &mut TruncateChunksReq| r.payloads.iter_mut().for_each(|op| ours(&mut op.v_chain_id));
                let (ours, theirs) = replay::<TruncateChunks>(&cluster, &pair, chain).await;
                assert_eq!(ours, theirs, "{name}");
            }
            "removeChunks" => {
                let chain =
                    |r: &mut RemoveChunksReq| r.payloads.iter_mut().for_each(|op| ours(&mut op.v_chain_id));
                let (ours, theirs) = replay::<RemoveChunks>(&cluster, &pair, chain).await;
                assert_eq!(ours, theirs, "{name}");
            }
            "queryChunk" => query_chunk(&cluster, &pair).await,
            "getAllChunkMetadata" => {
                let id = |r: &mut GetAllChunkMetadataReq| r.target_id = target(0);
                let (ours, theirs) = replay::<GetAllChunkMetadata>(&cluster, &pair, id).await;
                assert_eq!(ours, theirs, "{name}");
            }
            "spaceInfo" => {
                let (ours, theirs) = replay::<methods::SpaceInfo>(&cluster, &pair, |_| {}).await;
                assert!(ours.is_ok() && theirs.is_ok());
            }
            "createTarget" => {
                let (ours, theirs) = replay::<CreateTarget>(&cluster, &pair, |_| {}).await;
                assert_eq!(ours, theirs, "{name}");
            }
            "offlineTarget" => {
                let (ours, theirs) = replay::<OfflineTarget>(&cluster, &pair, |_| {}).await;
                assert_eq!(ours, theirs, "{name}");
            }
            "removeTarget" => {
                let removed = eventually("target unused", async || {
                    let (ours, theirs) = replay::<RemoveTarget>(&cluster, &pair, |_| {}).await;
                    (ours.is_ok() == theirs.is_ok()).then_some(ours)
                });
                removed.await.unwrap();
            }
            other => panic!("{other} is not replayed"),
        }
    }
    assert_eq!(replayed, 21);
}

async fn query_chunk(cluster: &Cluster, pair: &Pair) {
    let (ours, theirs) = replay::<QueryChunk>(cluster, pair, |r| r.chain_id = CHAIN).await;
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    let (mut meta, recorded) = (ours.meta.unwrap(), theirs.meta.unwrap());
    // Where it lies is the engine's business.
    meta.inner_offset = recorded.inner_offset;
    meta.inner_file_id = recorded.inner_file_id;
    meta.timestamp = recorded.timestamp;
    assert_eq!(meta, recorded);
    let recorded = theirs.target;
    let expect = Target {
        target_id: ours.target.target_id,
        path: ours.target.path.clone(),
        v_chain_id: VersionedChainId { chain_id: CHAIN, ..recorded.v_chain_id },
        chain_id: CHAIN,
        ..recorded
    };
    assert_eq!(ours.target, expect);
}

/// A server that writes down the updates it gets and answers as recorded.
async fn scripted_successor(
    result: IOResult,
) -> (Arc<Mutex<Vec<UpdateReq>>>, Address, valor_rpc::ServerHandle) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let router = Router::new(SERVICE_ID, SERVICE).method::<Update, _, _>(move |_, req: UpdateReq| {
        let rsp = UpdateRsp { tag: req.tag.clone(), result: result.clone() };
        log.lock().push(req);
        async move { Ok(rsp) }
    });
    let server = Server::builder(Env::real(), ServerConfig::default())
        .service(router)
        .listen(&[Endpoint::Tcp("127.0.0.1:0".parse().unwrap())])
        .unwrap();
    let Endpoint::Tcp(std::net::SocketAddr::V4(address)) = server.addresses()[0] else { panic!() };
    (seen, Address::tcp(address), server)
}

#[tokio::test]
async fn updates_are_forwarded_as_recorded() {
    let pairs = load("5_replica2");
    let pair = pairs.iter().find(|pair| pair.name == "update.000").unwrap();
    let mut recorded: UpdateReq = pair.request();
    ours(&mut recorded.payload.key.v_chain_id);
    let reply: UpdateRsp = pair.response().unwrap();
    let client = WriteReq {
        payload: UpdateIO { update_ver: ChunkVer(0), ..recorded.payload.clone() },
        tag: recorded.tag.clone(),
        feature_flags: recorded.feature_flags,
        user_info: recorded.user_info.clone(),
        ..Default::default()
    };

    // What the head makes of the client's write is what C++ 3FS's head sent.
    let cluster = Cluster::start(2).await;
    let (seen, address, _server) = scripted_successor(reply.result.clone()).await;
    cluster.set_address(1, address);
    let result = cluster.send_write(0, &client).await;
    assert_eq!(result, reply.result);
    let mut sent = seen.lock().remove(0);
    assert!(sent.payload.inlinebuf == recorded.payload.inlinebuf);
    sent.payload.inlinebuf = UInt8Vector::default();
    let payload = UpdateIO { inlinebuf: UInt8Vector::default(), ..recorded.payload.clone() };
    assert_eq!(sent, UpdateReq { payload, ..recorded.clone() });

    // And the tail answers as C++ 3FS's tail did.
    let cluster = Cluster::start(2).await;
    assert_eq!(cluster.call::<Update>(1, &recorded).await.unwrap(), reply);
    let mut checksum = recorded.clone();
    checksum.payload.checksum.value ^= 1;
    checksum.tag.channel.seqnum.0 += 1;
    let refused = cluster.call::<Update>(1, &checksum).await.unwrap();
    assert_eq!(code_of(&refused.result), code::STORAGE_CHECKSUM_MISMATCH);
}

#[tokio::test]
async fn syncing_answers_as_recorded() {
    let cluster = Cluster::start(1).await;
    let mut replayed = 0;
    for pair in load("5_replica2") {
        if !pair.name.starts_with("syncStart") {
            continue;
        }
        // The first two came before the successor knew the chain's version.
        if let Err(recorded) = pair.response::<TargetSyncInfo>() {
            replayed += 1;
            let request: SyncStartReq = pair.request();
            let chain = VersionedChainId { chain_id: CHAIN, ..request.v_chain_id };
            let status = cluster.call::<SyncStart>(0, &SyncStartReq { v_chain_id: chain }).await.unwrap_err();
            assert_eq!(status.code, recorded.code);
            let ours = status.message.replace("ChainId(1)", "").replace("ChainVersion(1)", "ChainVersion(2)");
            let theirs = recorded.message.replace(&format!("ChainId({})", request.v_chain_id.chain_id), "");
            assert_eq!(ours, theirs);
        }
    }
    assert_eq!(replayed, 2);
}
