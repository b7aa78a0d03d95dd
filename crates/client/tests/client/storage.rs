//! The storage client's choice of replicas, batching and retry rules.

use crate::cluster::Cluster;
use crate::servers::*;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use valor_client::StorageClient;
use valor_client::storage::*;
use valor_protocol::app::ClientId;
use valor_protocol::mgmtd::NodeType;
use valor_protocol::status::{code, status};
use valor_protocol::storage::methods::{
    BatchRead, QueryLastChunk, RemoveChunks, SERVICE, SERVICE_ID, SpaceInfo, TruncateChunks, Write,
};
use valor_protocol::storage::*;
use valor_protocol::user::UserInfo;
use valor_protocol::*;
use valor_rpc::Router;

fn router() -> Router {
    Router::new(SERVICE_ID, SERVICE)
}

fn client_id() -> ClientId {
    ClientId { uuid: Uuid([9; 16]), hostname: "h".into() }
}

async fn client(cluster: &Cluster) -> Arc<StorageClient> {
    let (env, rpc) = (cluster.net.env(), rpc_client(&cluster.net));
    StorageClient::new(&env, rpc, cluster.mgmtd().await, StorageClientConfig::default(), client_id())
}

fn add(cluster: &Cluster, id: u32, router: Router) -> Running {
    let server = serve(&cluster.net, [router]);
    // Declared as RDMA, as C++ servers do.
    let address = Address { kind: AddressType::Rdma, ..server.rpc_address() };
    cluster.add_node(id, NodeType::Storage, SERVICE, address);
    server
}

fn user() -> UserInfo {
    UserInfo { uid: 1000, gid: 100, ..UserInfo::default() }
}

fn chunk(index: u32) -> ChunkId {
    ChunkId::for_file(InodeId(7), 0, index)
}

fn ok(length: u32) -> IOResult {
    IOResult { length_info: Ok(length), commit_ver: ChunkVer(3), ..IOResult::default() }
}

/// The content of every chunk: its index in every byte.
fn content(id: &ChunkId, length: u32) -> Bytes {
    vec![id.parse_file().unwrap().2 as u8; length as usize].into()
}

/// A server that reads whole pieces, and nothing of chunks from index 100 on.
fn answer_read(req: BatchReadReq) -> Result<BatchReadRsp, Status> {
    let mut rsp = BatchReadRsp::default();
    let mut data = Vec::new();
    for io in &req.payloads {
        assert_eq!(io.rdmabuf.size, u64::from(io.length));
        if io.key.chunk_id.parse_file().unwrap().2 >= 100 {
            rsp.results.push(IOResult::error(code::STORAGE_CHUNK_METADATA_NOT_FOUND, ""));
            continue;
        }
        let bytes = content(&io.key.chunk_id, io.length);
        let checksum = ChecksumInfo { r#type: req.checksum_type, value: valor_wire::storage_crc32c(&bytes) };
        rsp.results.push(IOResult { checksum, ..ok(io.length) });
        data.extend_from_slice(&bytes);
    }
    rsp.inlinebuf.data = data.into();
    Ok(rsp)
}

fn read_op(chain: u32, index: u32, length: u32) -> ReadOp {
    ReadOp { chain_id: ChainId(chain), chunk_id: chunk(index), offset: 0, length }
}

fn write_op(chain: u32, index: u32, length: usize) -> WriteOp {
    WriteOp {
        chain_id: ChainId(chain),
        chunk_id: chunk(index),
        offset: 0,
        chunk_size: 1 << 20,
        data: vec![index as u8; length].into(),
    }
}

#[tokio::test(start_paused = true)]
async fn reads_are_batched_per_server() {
    let cluster = Cluster::new(1);
    let (one, first) = scripted::<BatchRead>(router(), |req, _| answer_read(req));
    let (two, second) = scripted::<BatchRead>(router(), |req, _| answer_read(req));
    let _servers = [add(&cluster, 1, one), add(&cluster, 2, two)];
    cluster.set_chain(1, 5, &[1]);
    cluster.set_chain(2, 6, &[2]);
    let client = client(&cluster).await;
    let ops = [read_op(1, 0, 10_000), read_op(2, 1, 300), read_op(1, 200, 50), read_op(1, 3, 20)];
    let (spawned, options) = (client.clone(), ReadOptions::default());
    let results =
        tokio::spawn(async move { spawned.batch_read(&ops, &user(), &options).await }).await.unwrap();
    assert_eq!(results[0].as_ref().unwrap().data, content(&chunk(0), 10_000));
    assert_eq!(results[0].as_ref().unwrap().versions.commit, ChunkVer(3));
    assert_eq!(results[1].as_ref().unwrap().data, content(&chunk(1), 300));
    assert_eq!(results[2].as_ref().unwrap_err().code, code::STORAGE_CLIENT_CHUNK_NOT_FOUND);
    assert_eq!(results[3].as_ref().unwrap().data, content(&chunk(3), 20));
    let (first, second) = (first.all(), second.all());
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(first[0].payloads.len(), 3);
    let req = &first[0];
    assert_eq!(req.payloads[0].key.v_chain_id.chain_ver, ChainVersion(5));
    assert_eq!(req.feature_flags, FeatureFlags::SEND_DATA_INLINE);
    assert_eq!((req.user_info.uid, req.tag.client_id.clone()), (1000, client_id()));
    assert_eq!(req.checksum_type, ChecksumType::Crc32c);
    assert_ne!(req.tag.request_id, second[0].tag.request_id);
}

#[tokio::test(start_paused = true)]
async fn damaged_data_is_noticed() {
    let cluster = Cluster::new(2);
    let (one, seen) = scripted::<BatchRead>(router(), |req, _| {
        let mut rsp = answer_read(req)?;
        rsp.results[0].checksum.value ^= 1;
        Ok(rsp)
    });
    let _server = add(&cluster, 1, one);
    cluster.set_chain(1, 1, &[1]);
    let client = client(&cluster).await;
    let ops = [read_op(1, 0, 100), read_op(1, 1, 100)];
    let results = client.batch_read(&ops, &user(), &ReadOptions::default()).await;
    assert_eq!(results[0].as_ref().unwrap_err().code, code::STORAGE_CLIENT_CHECKSUM_MISMATCH);
    assert!(results[1].is_ok());
    assert_eq!(seen.count(), 1, "7015 is not repeated");
    let trusting = ReadOptions { verify_checksum: false, ..ReadOptions::default() };
    let results = client.batch_read(&ops, &user(), &trusting).await;
    assert!(results[0].is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_sends_too_much_is_not_believed() {
    let cluster = Cluster::new(3);
    let (one, _) = scripted::<BatchRead>(router(), |req, count| {
        let mut rsp = answer_read(req)?;
        match count {
            0 => rsp.results[0].length_info = Ok(101),
            1 => rsp.inlinebuf.data = vec![0; 150].into(),
            2 => rsp.inlinebuf.data = vec![0; 50].into(),
            _ => rsp.results.clear(),
        }
        Ok(rsp)
    });
    let _server = add(&cluster, 1, one);
    cluster.set_chain(1, 1, &[1]);
    let client = client(&cluster).await;
    for _ in 0..4 {
        let results = client.batch_read(&[read_op(1, 0, 100)], &user(), &ReadOptions::default()).await;
        assert_eq!(results[0].as_ref().unwrap_err().code, code::STORAGE_CLIENT_FOUND_BUG);
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_chain_is_followed_at_once() {
    let cluster = Arc::new(Cluster::new(4));
    let (one, _) =
        scripted::<BatchRead>(router(), |req, _| match req.payloads[0].key.v_chain_id.chain_ver.0 {
            2 => answer_read(req),
            _ => Err(status(code::STORAGE_CHAIN_VERSION_MISMATCH)),
        });
    let _server = add(&cluster, 1, one);
    cluster.set_chain(1, 1, &[1]);
    let client = client(&cluster).await;
    cluster.set_chain(1, 2, &[1]);
    let start = Instant::now();
    let results = client.batch_read(&[read_op(1, 0, 100)], &user(), &ReadOptions::default()).await;
    assert!(results[0].is_ok());
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    assert_eq!(cluster.refreshes.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_chain_without_replicas_is_waited_for() {
    let cluster = Arc::new(Cluster::new(5));
    let (one, _) = scripted::<BatchRead>(router(), |req, _| answer_read(req));
    let _server = add(&cluster, 1, one);
    cluster.set_chain(1, 1, &[]);
    let client = client(&cluster).await;
    let later = cluster.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        later.set_chain(1, 2, &[1]);
    });
    let start = Instant::now();
    let results = client.batch_read(&[read_op(1, 0, 100)], &user(), &ReadOptions::default()).await;
    assert!(results[0].is_ok());
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn unreachable_replicas_are_avoided() {
    let cluster = Cluster::new(6);
    let servers: Vec<Running> = (1..=2)
        .map(|id| add(&cluster, id, scripted::<BatchRead>(router(), |req, _| answer_read(req)).0))
        .collect();
    cluster.set_chain(1, 1, &[1, 2]);
    let client = client(&cluster).await;
    cluster.net.silence(servers[0].address);
    for _ in 0..10 {
        let start = Instant::now();
        let results = client.batch_read(&[read_op(1, 0, 100)], &user(), &ReadOptions::default()).await;
        assert!(results[0].is_ok());
        assert!(start.elapsed() <= Duration::from_secs(11), "one deadline at most: {:?}", start.elapsed());
    }
}

/// A replica that has an answer for nobody leaves its chain while it is asked: the others are asked then, not at the
/// deadline of 10 s.
#[tokio::test(start_paused = true)]
async fn a_replica_that_has_left_is_not_waited_for() {
    let cluster = Arc::new(Cluster::new(17));
    let silent = router()
        .method::<Write, _, _>(|_, _| std::future::pending())
        .method::<BatchRead, _, _>(|_, _| std::future::pending());
    let (good, written) =
        scripted::<Write>(router(), |req, _| Ok(WriteRsp { tag: req.tag, result: ok(req.payload.length) }));
    let (good, read) = scripted::<BatchRead>(good, |req, _| answer_read(req));
    let _servers = [add(&cluster, 1, silent), add(&cluster, 2, good)];
    cluster.set_chain(1, 1, &[1]);
    let mgmtd = cluster.mgmtd().await;
    let (env, rpc) = (cluster.net.env(), rpc_client(&cluster.net));
    let client = StorageClient::new(&env, rpc, mgmtd.clone(), StorageClientConfig::default(), client_id());
    let later = cluster.clone();
    tokio::spawn(async move {
        // What changes elsewhere, or adds replicas, does not disturb.
        for (pause, chain, version, nodes) in
            [(300, 2, 1, vec![1]), (600, 1, 2, vec![1, 2]), (900, 1, 3, vec![2])]
        {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            later.set_chain(chain, version, &nodes);
            mgmtd.refresh_now().await.unwrap();
        }
    });
    let start = Instant::now();
    let op = write_op(1, 4, 10_000);
    let ops = [read_op(1, 0, 100)];
    let (write_options, read_options) = (WriteOptions::default(), ReadOptions::default());
    let user = user();
    let (write, results) =
        tokio::join!(client.write(&op, &user, &write_options), client.batch_read(&ops, &user, &read_options));
    write.unwrap();
    assert!(results[0].is_ok());
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1700) && took < Duration::from_millis(2500), "{took:?}");
    assert_eq!((written.count(), read.count()), (1, 1));
    assert_eq!(written.all()[0].payload.key.v_chain_id.chain_ver, ChainVersion(3));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_back_is_found_quickly() {
    let cluster = Arc::new(Cluster::new(7));
    let (one, _) = scripted::<Write>(router(), |req, _| Ok(WriteRsp { tag: req.tag, result: ok(10) }));
    let server = add(&cluster, 1, one);
    let address = server.address;
    cluster.set_chain(1, 1, &[1]);
    let client = client(&cluster).await;
    server.handle.stop(Duration::ZERO).await;
    let net = cluster.net.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (one, _) = scripted::<Write>(router(), |req, _| Ok(WriteRsp { tag: req.tag, result: ok(10) }));
        let again = serve_at(&net, &address.to_string(), [one]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(again);
    });
    let start = Instant::now();
    client.write(&write_op(1, 0, 10), &user(), &WriteOptions::default()).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(3500), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn writes_keep_channel_and_request_over_attempts() {
    let cluster = Cluster::new(8);
    let (one, seen) = scripted::<Write>(router(), |req, count| {
        let result = match count {
            0 => return Err(status(code::STORAGE_CHAIN_VERSION_MISMATCH)),
            1 => IOResult::error(code::STORAGE_CHANNEL_IS_LOCKED, ""),
            _ => ok(req.payload.length),
        };
        Ok(WriteRsp { tag: req.tag, result })
    });
    let _server = add(&cluster, 1, one);
    cluster.set_chain(1, 1, &[1]);
    let client = client(&cluster).await;
    let op = write_op(1, 4, 10_000);
    let done = client.write(&op, &user(), &WriteOptions::default()).await.unwrap();
    assert_eq!((done.length, done.versions.commit), (10_000, ChunkVer(3)));
    client.write(&write_op(1, 4, 5), &user(), &WriteOptions::default()).await.unwrap();
    let all = seen.all();
    assert_eq!(all.iter().map(|req| req.retry_count).collect::<Vec<_>>(), [0, 1, 2, 0]);
    assert!(all[..3].iter().all(|req| req.tag == all[0].tag));
    assert_eq!(all[0].tag.channel, UpdateChannel { id: ChannelId(1), seqnum: ChannelSeqNum(1) });
    assert_eq!(all[3].tag.channel, UpdateChannel { id: ChannelId(1), seqnum: ChannelSeqNum(2) });
    let payload = &all[0].payload;
    assert_eq!(payload.inlinebuf.data, op.data);
    assert_eq!(payload.checksum.value, valor_wire::storage_crc32c(&op.data));
    assert_eq!((payload.update_type, payload.update_ver), (UpdateType::Write, ChunkVer(0)));
    assert_eq!((payload.length, payload.chunk_size), (10_000, 1 << 20));
    assert_eq!(all[0].feature_flags, FeatureFlags::SEND_DATA_INLINE);
}

#[tokio::test(start_paused = true)]
async fn writes_of_a_chunk_are_ordered_and_others_parallel() {
    let cluster = Cluster::new(9);
    let running = Arc::new(AtomicUsize::new(0));
    let peak = Arc::new(AtomicUsize::new(0));
    let (running_now, highest) = (running.clone(), peak.clone());
    let router = router().method::<Write, _, _>(move |_, req| {
        highest.fetch_max(running_now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let running = running_now.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            let fails = req.payload.length == 13;
            let result = if fails {
                IOResult::error(code::STORAGE_CLIENT_NO_SPACE, "")
            } else {
                ok(req.payload.length)
            };
            Ok(WriteRsp { tag: req.tag, result })
        }
    });
    let _server = add(&cluster, 1, router);
    cluster.set_chain(1, 1, &[1]);
    let client = client(&cluster).await;
    let ops: Vec<WriteOp> = (0..20).map(|index| write_op(1, index, 10)).collect();
    let start = Instant::now();
    let results = client.batch_write(&ops, &user(), &WriteOptions::default()).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(peak.load(Ordering::SeqCst), 8, "the limit per server");
    assert_eq!(start.elapsed(), Duration::from_millis(300));
    // Three on one chunk, the second of which fails.
    let ops = [write_op(1, 0, 10), write_op(1, 1, 5), write_op(1, 0, 13), write_op(1, 0, 12)];
    let results = client.batch_write(&ops, &user(), &WriteOptions::default()).await;
    let codes: Vec<u16> =
        results.iter().map(|result| result.as_ref().map_or_else(|e| e.code, |_| 0)).collect();
    assert_eq!(codes, [0, 0, code::STORAGE_CLIENT_NO_SPACE, code::STORAGE_CLIENT_NO_SPACE]);
    assert_eq!(running.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn removals_take_new_sequence_numbers() {
    let cluster = Cluster::new(10);
    let (one, seen) = scripted::<RemoveChunks>(router(), |req, count| {
        let result = |_: &RemoveChunksOp| match count {
            0 => RemoveChunksResult {
                status_code: Err(status(code::STORAGE_CHANNEL_IS_LOCKED)),
                ..Default::default()
            },
            _ => RemoveChunksResult {
                status_code: Ok(Void),
                num_chunks_removed: 3,
                more_chunks_in_range: true,
            },
        };
        Ok(RemoveChunksRsp { results: req.payloads.iter().map(result).collect() })
    });
    let _server = add(&cluster, 1, one);
    cluster.set_chain(1, 1, &[1]);
    cluster.set_chain(2, 1, &[1]);
    let client = client(&cluster).await;
    let (begin, end) = ChunkId::file_range(InodeId(7), 2);
    let op = |chain| RangeOp {
        chain_id: ChainId(chain),
        range: ChunkIdRange { begin: begin.clone(), end: end.clone(), max_num_chunk_ids_to_process: 32 },
    };
    let results = client.remove_chunks(&[op(1), op(2)], &user(), &WriteOptions::default()).await;
    assert_eq!(results[1], Ok(RemoveDone { removed: 3, more: true }));
    let channels: Vec<Vec<(u16, u64)>> = seen
        .all()
        .iter()
        .map(|req| req.payloads.iter().map(|op| (op.tag.channel.id.0, op.tag.channel.seqnum.0)).collect())
        .collect();
    assert_eq!(channels, [[(1, 1), (2, 33)], [(2, 65), (1, 97)]]);
    assert_eq!(seen.all()[1].payloads[0].retry_count, 1);
    let mut unlimited = op(1);
    unlimited.range.max_num_chunk_ids_to_process = 0;
    let results = client.remove_chunks(&[unlimited], &user(), &WriteOptions::default()).await;
    assert_eq!(results[0].as_ref().unwrap_err().code, code::STORAGE_CLIENT_INVALID_ARG);
}

#[tokio::test(start_paused = true)]
async fn truncates_and_queries() {
    let cluster = Cluster::new(11);
    let (one, truncated) = scripted::<TruncateChunks>(router(), |req, count| {
        let result = if count == 0 { IOResult::error(code::STORAGE_TARGET_OFFLINE, "") } else { ok(77) };
        Ok(TruncateChunksRsp { results: vec![result; req.payloads.len()] })
    });
    let (one, _) = scripted::<QueryLastChunk>(one, |req, _| {
        let result = |op: &QueryLastChunkOp| match op.v_chain_id.chain_id.0 {
            1 => QueryLastChunkResult {
                status_code: Ok(Void),
                last_chunk_id: chunk(9),
                last_chunk_len: 5,
                total_num_chunks: 1,
                ..Default::default()
            },
            _ => QueryLastChunkResult {
                status_code: Err(status(code::STORAGE_CHUNK_METADATA_NOT_FOUND)),
                ..Default::default()
            },
        };
        Ok(QueryLastChunkRsp { results: req.payloads.iter().map(result).collect() })
    });
    let _server = add(&cluster, 1, one);
    cluster.set_chain(1, 1, &[1]);
    cluster.set_chain(2, 1, &[1]);
    let client = client(&cluster).await;
    let op = TruncateOp {
        chain_id: ChainId(1),
        chunk_id: chunk(0),
        chunk_len: 77,
        chunk_size: 100,
        only_extend: true,
    };
    let results = client.truncate_chunks(std::slice::from_ref(&op), &user(), &WriteOptions::default()).await;
    assert_eq!(results[0].as_ref().unwrap().length, 77);
    let all = truncated.all();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].payloads[0].tag, all[1].payloads[0].tag);
    assert!(all[0].payloads[0].only_extend_chunk);
    let too_long = TruncateOp { chunk_len: 101, ..op };
    let error = client.truncate_chunk(&too_long, &user(), &WriteOptions::default()).await.unwrap_err();
    assert_eq!(error.code, code::STORAGE_CLIENT_INVALID_ARG);

    let range = ChunkIdRange { begin: chunk(0), end: chunk(99), max_num_chunk_ids_to_process: 1 };
    let ops = [1, 2].map(|chain| RangeOp { chain_id: ChainId(chain), range: range.clone() });
    let results = client.query_last_chunk(&ops, &user(), &ReadOptions::default()).await;
    assert_eq!(results[0].as_ref().unwrap().last, Some((chunk(9), 5)));
    assert_eq!(results[1], Ok(QueryDone::default()));
}

#[tokio::test(start_paused = true)]
async fn gives_up_when_time_is_over() {
    let cluster = Cluster::new(12);
    let (one, seen) = scripted::<Write>(router(), |req, _| {
        Ok(WriteRsp { tag: req.tag, result: IOResult::error(code::STORAGE_TARGET_OFFLINE, "gone") })
    });
    let _server = add(&cluster, 1, one);
    cluster.set_chain(1, 1, &[1]);
    let client = client(&cluster).await;
    let start = Instant::now();
    let error = client.write(&write_op(1, 0, 1), &user(), &WriteOptions::default()).await.unwrap_err();
    assert_eq!(error.code, code::STORAGE_CLIENT_SERVER_ERROR);
    assert!(error.message.contains("4030") && error.message.contains("gone"), "{error}");
    let elapsed = start.elapsed().as_secs();
    assert!((49..=52).contains(&elapsed), "{elapsed} s");
    assert!((50..70).contains(&seen.count()), "{} attempts", seen.count());

    let options =
        WriteOptions { retry: RetryOptions::within(Duration::from_secs(3)), ..WriteOptions::default() };
    let start = Instant::now();
    let before = seen.count();
    client.write(&write_op(1, 0, 1), &user(), &options).await.unwrap_err();
    assert!((2..=3).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!(seen.count() > before + 5, "{} attempts", seen.count() - before);
}

#[tokio::test(start_paused = true)]
async fn permanent_errors_are_not_repeated() {
    let cluster = Cluster::new(13);
    let (one, seen) = scripted::<Write>(router(), |_, _| Err(status(code::READ_ONLY_MODE)));
    let _server = add(&cluster, 1, one);
    cluster.set_chain(1, 1, &[1]);
    let client = client(&cluster).await;
    let error = client.write(&write_op(1, 0, 1), &user(), &WriteOptions::default()).await.unwrap_err();
    assert_eq!((error.code, seen.count()), (code::STORAGE_CLIENT_READ_ONLY_SERVER, 1));
    let mut outside = write_op(1, 0, 10);
    outside.offset = (1 << 20) - 9;
    let error = client.write(&outside, &user(), &WriteOptions::default()).await.unwrap_err();
    assert_eq!((error.code, seen.count()), (code::STORAGE_CLIENT_INVALID_ARG, 1));
    let options =
        WriteOptions { retry: RetryOptions::within(Duration::from_millis(500)), ..WriteOptions::default() };
    let error = client.write(&write_op(9, 0, 1), &user(), &options).await.unwrap_err();
    assert_eq!(error.code, code::STORAGE_CLIENT_ROUTING_ERROR, "unknown chain");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_write_gives_its_channel_back() {
    let cluster = Cluster::new(14);
    let held = Arc::new(Mutex::new(true));
    let hold = held.clone();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let router = router().method::<Write, _, _>(move |_, req| {
        record.lock().push(req.tag.channel);
        let hold = *hold.lock();
        async move {
            if hold {
                std::future::pending::<()>().await;
            }
            Ok(WriteRsp { tag: req.tag, result: ok(1) })
        }
    });
    let _server = add(&cluster, 1, router);
    cluster.set_chain(1, 1, &[1]);
    let client = client(&cluster).await;
    let (op, writer, options) = (write_op(1, 0, 1), user(), WriteOptions::default());
    let write = client.write(&op, &writer, &options);
    assert!(tokio::time::timeout(Duration::from_secs(1), write).await.is_err());
    *held.lock() = false;
    client.write(&op, &writer, &options).await.unwrap();
    let channels: Vec<(u16, u64)> =
        seen.lock().iter().map(|channel| (channel.id.0, channel.seqnum.0)).collect();
    assert_eq!(channels, [(1, 1), (1, 2)]);
}

#[tokio::test(start_paused = true)]
async fn space_of_all_servers() {
    let cluster = Cluster::new(15);
    let space = storage::SpaceInfo { capacity: 10, ..storage::SpaceInfo::default() };
    let (one, _) =
        scripted::<SpaceInfo>(router(), move |_, _| Ok(SpaceInfoRsp { space_infos: vec![space.clone()] }));
    let _server = add(&cluster, 1, one);
    cluster.add_node(2, NodeType::Storage, SERVICE, "127.0.0.1:5".parse().unwrap());
    cluster.add_node(3, NodeType::Meta, "MetaSerde", "127.0.0.1:6".parse().unwrap());
    let client = client(&cluster).await;
    let all = client.space_info_of_all(false).await;
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].1.as_ref().unwrap()[0].capacity, 10);
    assert!(all[1].1.is_err());
    assert_eq!(
        client.space_info(NodeId(77), true).await.unwrap_err().code,
        code::STORAGE_CLIENT_ROUTING_ERROR
    );
}
