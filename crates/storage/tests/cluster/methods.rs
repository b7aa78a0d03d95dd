//! Every method and its errors.

use bytes::Bytes;
use valor_protocol::status::code;
use valor_protocol::storage::*;
use valor_protocol::*;

use crate::harness::*;

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> u16 {
    result.expect_err("must fail").code
}

#[tokio::test]
async fn wrong_writes_are_refused_with_their_codes() {
    let cluster = Cluster::start(2).await;
    let good = || cluster.write_req(chunk(1), 0, pattern(1, 100));
    let send = async |node, change: fn(&mut WriteReq)| {
        let mut req = good();
        change(&mut req);
        code_of(&cluster.send_write(node, &req).await)
    };
    assert_eq!(send(1, |_| {}).await, code::STORAGE_CLIENT_ROUTING_ERROR);
    assert_eq!(
        send(0, |r| r.payload.key.v_chain_id.chain_ver.0 += 1).await,
        code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH
    );
    assert_eq!(
        send(0, |r| r.payload.key.v_chain_id.chain_id.0 += 1).await,
        code::STORAGE_CLIENT_ROUTING_ERROR
    );
    assert_eq!(send(0, |r| r.tag.channel.id.0 = 0).await, code::STORAGE_CLIENT_FOUND_BUG);
    assert_eq!(send(0, |r| r.payload.length = 99).await, code::STORAGE_CLIENT_FOUND_BUG);
    assert_eq!(send(0, |r| r.feature_flags = FeatureFlags(0)).await, code::INVALID_ARG);
    assert_eq!(send(0, |r| r.payload.key.chunk_id = ChunkId::default()).await, code::INVALID_ARG);
    assert_eq!(send(0, |r| r.payload.offset = CHUNK_SIZE - 99).await, code::INVALID_ARG);
    assert_eq!(send(0, |r| r.payload.chunk_size = 50).await, code::INVALID_ARG);
    assert_eq!(send(0, |r| r.payload.update_type = UpdateType::Commit).await, code::INVALID_ARG);
    assert_eq!(send(0, |r| r.payload.checksum.value ^= 1).await, code::STORAGE_CHECKSUM_MISMATCH);
    assert!(cluster.metas(0).await.is_empty() && cluster.metas(1).await.is_empty());

    assert_eq!(send(0, |r| r.payload.checksum = ChecksumInfo::default()).await, 0);
    let ieee = |r: &mut WriteReq| {
        let value = valor_wire::storage_crc32(&r.payload.inlinebuf.data);
        r.payload.checksum = ChecksumInfo { r#type: ChecksumType::Crc32, value };
    };
    assert_eq!(send(0, ieee).await, 0);
    assert_eq!(send(0, |r| r.payload.chunk_size = 2 * CHUNK_SIZE).await, code::STORAGE_CHUNK_SIZE_MISMATCH);

    cluster.node(0).config.hot_update("[storage]\nread_only = true", "test").unwrap();
    assert_eq!(send(0, |_| {}).await, code::READ_ONLY_MODE);
}

#[tokio::test]
async fn wrong_reads_are_refused_with_their_codes() {
    let cluster = Cluster::start(1).await;
    cluster.write(chunk(1), 0, pattern(1, 100)).await;
    let send = async |change: fn(&mut BatchReadReq)| {
        let mut req = cluster.read_req(&[(chunk(1), 0, 100), (chunk(1), 0, 50)]);
        change(&mut req);
        code(cluster.call::<methods::BatchRead>(0, &req).await)
    };
    assert_eq!(send(|r| r.feature_flags = FeatureFlags(0)).await, code::INVALID_ARG);
    assert_eq!(send(|r| r.payloads[1].rdmabuf.size = 49).await, code::INVALID_ARG);
    assert_eq!(
        send(|r| r.payloads[1].key.v_chain_id.chain_ver.0 += 1).await,
        code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH
    );
    assert_eq!(
        send(|r| r.payloads[1].key.v_chain_id.chain_id.0 += 1).await,
        code::STORAGE_CLIENT_ROUTING_ERROR
    );
    let too_much = |r: &mut BatchReadReq| {
        r.payloads[1].length = u32::MAX;
        r.payloads[1].rdmabuf.size = u64::MAX;
    };
    assert_eq!(send(too_much).await, code::INVALID_ARG);
    let mut without = cluster.read_req(&[(chunk(1), 0, 100)]);
    without.checksum_type = ChecksumType::None;
    let rsp = cluster.call::<methods::BatchRead>(0, &without).await.unwrap();
    assert_eq!(rsp.results[0].checksum, ChecksumInfo::default());
    cluster.node(0).config.hot_update("[storage]\nbatch_read_ignore_chain_version = true", "test").unwrap();
    let mut old = cluster.read_req(&[(chunk(1), 0, 100)]);
    old.payloads[0].key.v_chain_id.chain_ver.0 += 7;
    assert!(cluster.call::<methods::BatchRead>(0, &old).await.is_ok());
}

fn range(from: u32, to: u32, max: u32) -> ChunkIdRange {
    ChunkIdRange { begin: chunk(from), end: chunk(to), max_num_chunk_ids_to_process: max }
}

async fn last(cluster: &Cluster, ranges: &[ChunkIdRange]) -> Vec<QueryLastChunkResult> {
    let v_chain_id = cluster.chain();
    let op = |range: &ChunkIdRange| QueryLastChunkOp { v_chain_id, chunk_id_range: range.clone() };
    let req = QueryLastChunkReq { payloads: ranges.iter().map(op).collect(), ..Default::default() };
    cluster.call::<methods::QueryLastChunk>(0, &req).await.unwrap().results
}

#[tokio::test]
async fn ranges_are_walked_from_the_largest_id() {
    let cluster = Cluster::start(2).await;
    cluster.node(0).config.hot_update("[storage]\nmax_num_results_per_query = 3", "test").unwrap();
    for n in [0, 1, 3, 4, 5, 6, 7, 8] {
        cluster.write(chunk(n), 0, pattern(u64::from(n), 100 + n as usize)).await;
    }
    let results =
        last(&cluster, &[range(0, 9, 1), range(0, 9, 0), range(1, 5, 8), range(2, 3, 1), range(0, 9, 8)])
            .await;
    let summary: Vec<_> = results
        .iter()
        .map(|r| {
            assert!(r.status_code.is_ok());
            (
                r.last_chunk_id.parse_file().map(|(_, _, n)| n),
                r.last_chunk_len,
                r.total_chunk_len,
                r.total_num_chunks,
                r.more_chunks_in_range,
            )
        })
        .collect();
    assert_eq!(summary[0], (Some(8), 108, 108, 1, true));
    assert_eq!(summary[1], (Some(8), 108, 834, 8, false));
    assert_eq!(summary[2], (Some(4), 104, 308, 3, false));
    assert_eq!(summary[3], (None, 0, 0, 0, false));
    assert_eq!(summary[4], (Some(8), 108, 834, 8, false));

    let mut tag = cluster.tag();
    let remove = async |range: ChunkIdRange, tag: &MessageTag| {
        let op = RemoveChunksOp {
            v_chain_id: cluster.chain(),
            chunk_id_range: range,
            tag: tag.clone(),
            retry_count: 0,
        };
        let req = RemoveChunksReq { payloads: vec![op], ..Default::default() };
        cluster.call::<methods::RemoveChunks>(0, &req).await.unwrap().results.remove(0)
    };
    let first = remove(range(0, 9, 5), &tag).await;
    assert_eq!(
        (first.status_code, first.num_chunks_removed, first.more_chunks_in_range),
        (Ok(Void), 5, true)
    );
    // Five sequence numbers are used up, the last one by another request id.
    tag.channel.seqnum.0 += 4;
    tag.request_id.0 += 1_000_000;
    assert_eq!(code(remove(range(0, 9, 5), &tag).await.status_code), code::STORAGE_CLIENT_FOUND_BUG);
    tag.channel.seqnum.0 += 1;
    let second = remove(range(0, 9, 5), &tag).await;
    assert_eq!((second.num_chunks_removed, second.more_chunks_in_range), (3, false));
    assert_eq!(remove(range(0, 9, 5), &cluster.tag()).await.num_chunks_removed, 0);
    assert!(cluster.assert_equal_replicas().await.is_empty());
}

#[tokio::test]
async fn truncation_and_extension() {
    let cluster = Cluster::start(3).await;
    let data = pattern(1, 10_000);
    cluster.write(chunk(1), 0, data.clone()).await;
    let resize = async |n: u32, chunk_len: u32, only_extend_chunk: bool| {
        let op = TruncateChunkOp {
            v_chain_id: cluster.chain(),
            chunk_id: chunk(n),
            chunk_len,
            chunk_size: CHUNK_SIZE,
            only_extend_chunk,
            tag: cluster.tag(),
            retry_count: 0,
        };
        let req = TruncateChunksReq { payloads: vec![op], ..Default::default() };
        cluster.call::<methods::TruncateChunks>(0, &req).await.unwrap().results.remove(0)
    };
    assert_eq!(resize(1, 5000, true).await.length_info, Ok(10_000));
    let cut = resize(1, 5000, false).await;
    assert_eq!((cut.length_info, cut.commit_ver, cut.checksum), (Ok(5000), ChunkVer(3), crc(&data[..5000])));
    assert_eq!(resize(1, 6000, true).await.length_info, Ok(6000));
    let mut expect = data[..5000].to_vec();
    expect.resize(6000, 0);
    let created = resize(2, 777, true).await;
    assert_eq!(
        (created.length_info, created.commit_ver, created.checksum),
        (Ok(777), ChunkVer(1), crc(&[0; 777]))
    );
    assert_eq!(resize(3, 0, false).await.length_info, Ok(0));
    assert_eq!(code_of(&resize(1, CHUNK_SIZE + 1, false).await), code::INVALID_ARG);
    for node in 0..3 {
        assert_eq!(cluster.read(node, chunk(1)).await.unwrap(), expect);
        assert_eq!(cluster.read(node, chunk(2)).await.unwrap(), vec![0; 777]);
        assert_eq!(cluster.read(node, chunk(3)).await.unwrap(), Bytes::new());
    }
    cluster.assert_equal_replicas().await;
}

#[tokio::test]
async fn chunks_are_shown_to_administrators() {
    let cluster = Cluster::start(2).await;
    let data = pattern(1, 3000);
    let req = cluster.write_req(chunk(1), 0, data.clone());
    cluster.send_write(0, &req).await.length_info.unwrap();
    let query = async |node, chunk_id| {
        let req = QueryChunkReq { chain_id: cluster.chain().chain_id, chunk_id };
        cluster.call::<methods::QueryChunk>(node, &req).await.unwrap()
    };
    let rsp = query(1, chunk(1)).await;
    let meta = rsp.meta.unwrap();
    assert_eq!((meta.commit_ver, meta.update_ver, meta.size), (ChunkVer(1), ChunkVer(1), 3000));
    assert_eq!((meta.checksum_type, meta.checksum_value), (ChecksumType::Crc32c, crc(&data).value));
    assert_eq!((meta.last_request_id, meta.last_client_uuid), (req.tag.request_id, req.tag.client_id.uuid));
    assert_eq!(meta.inner_file_id.chunk_size, CHUNK_SIZE);
    assert!(meta.timestamp.0 > 0);
    assert_eq!((rsp.target.target_id, rsp.target.is_head, rsp.target.is_tail), (target(1), false, true));
    assert!(rsp.target.use_chunk_engine && rsp.target.successor.is_none());
    let head = query(0, chunk(2)).await;
    assert_eq!(code(head.meta), code::STORAGE_CHUNK_METADATA_NOT_FOUND);
    assert_eq!(head.target.successor.unwrap().target_info.target_id, target(1));
    let unknown = QueryChunkReq { chain_id: ChainId(99), chunk_id: chunk(1) };
    assert_eq!(
        code(cluster.call::<methods::QueryChunk>(0, &unknown).await),
        code::STORAGE_CLIENT_ROUTING_ERROR
    );

    let metas = cluster.metas(0).await;
    assert_eq!((metas.len(), metas[0].length, metas[0].chunk_state), (1, 3000, ChunkState::Commit));
    let unknown = GetAllChunkMetadataReq { target_id: TargetId(99) };
    assert_eq!(
        code(cluster.call::<methods::GetAllChunkMetadata>(0, &unknown).await),
        code::STORAGE_CLIENT_ROUTING_ERROR
    );

    let space = cluster
        .call::<methods::SpaceInfo>(0, &SpaceInfoReq { force: true, ..Default::default() })
        .await
        .unwrap();
    let [info] = &space.space_infos[..] else { panic!("{space:?}") };
    assert_eq!((info.path.to_string(), &info.target_ids[..]), ("/disk0".to_owned(), &[target(0)][..]));
    assert!(info.capacity >= info.free && info.free > 0);

    let start = SyncStartReq { v_chain_id: cluster.chain() };
    assert_eq!(code(cluster.call::<methods::SyncStart>(1, &start).await), code::STORAGE_SYNC_START_FAILED);
    let done =
        SyncDoneReq { v_chain_id: VersionedChainId { chain_ver: ChainVersion(77), ..cluster.chain() } };
    assert_eq!(
        code(cluster.call::<methods::SyncDone>(1, &done).await),
        code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH
    );
}

#[tokio::test]
async fn targets_are_created_and_removed() {
    let cluster = Cluster::start(1).await;
    let create = async |change: fn(&mut CreateTargetReq)| {
        let mut req =
            CreateTargetReq { target_id: TargetId(50), chain_id: ChainId(50), ..Default::default() };
        change(&mut req);
        cluster.call::<methods::CreateTarget>(0, &req).await
    };
    let failed = code::STORAGE_STORAGE_INIT_FAILED;
    assert_eq!(code(create(|r| r.disk_index = 1).await), failed);
    assert_eq!(code(create(|r| r.chain_id = ChainId(0)).await), failed);
    assert_eq!(code(create(|r| r.chain_id = ChainId(1)).await), failed);
    assert_eq!(code(create(|r| r.add_chunk_size = true).await), failed);
    create(|_| {}).await.unwrap();
    create(|_| {}).await.unwrap();
    assert_eq!(code(create(|r| r.allow_existing_target = false).await), failed);
    assert_eq!(code(create(|r| r.chain_id = ChainId(51)).await), failed);
    assert!(cluster.exists(0, &disk_path(0).join("50/target.toml")).await);

    let offline = async |id, force| {
        cluster.call::<methods::OfflineTarget>(0, &OfflineTargetReq { target_id: TargetId(id), force }).await
    };
    let remove = async |id, force| {
        cluster.call::<methods::RemoveTarget>(0, &RemoveTargetReq { target_id: TargetId(id), force }).await
    };
    assert_eq!(code(remove(50, true).await), code::STORAGE_TARGET_STATE_INVALID);
    assert_eq!(code(offline(99, true).await), code::STORAGE_CLIENT_ROUTING_ERROR);
    offline(50, false).await.unwrap();
    assert_eq!(code(offline(50, false).await), code::STORAGE_TARGET_OFFLINE);
    eventually("nobody uses the target", async || remove(50, false).await.ok()).await;
    assert!(!cluster.exists(0, &disk_path(0).join("50/target.toml")).await);
    assert_eq!(code(remove(50, true).await), code::STORAGE_CLIENT_ROUTING_ERROR);
    create(|_| {}).await.unwrap();

    // The only target of its chain goes only by force.
    assert_eq!(code(offline(1, false).await), code::STORAGE_TARGET_STATE_INVALID);
    offline(1, true).await.unwrap();
    let result = cluster.send_write(0, &cluster.write_req(chunk(1), 0, pattern(1, 10))).await;
    assert_eq!(code_of(&result), code::STORAGE_TARGET_OFFLINE);
    assert_eq!(code(remove(1, false).await), code::STORAGE_TARGET_STATE_INVALID);
    eventually("nobody uses the target", async || remove(1, true).await.ok()).await;
}
