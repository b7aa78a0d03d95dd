//! Reads and writes along a chain, retries, resync.

use bytes::Bytes;
use valor_protocol::mgmtd::PublicTargetState;
use valor_protocol::status::code;
use valor_protocol::storage::*;
use valor_protocol::*;

use crate::harness::*;

#[tokio::test]
async fn writes_through_the_head_are_read_everywhere() {
    for nodes in [1, 2, 3] {
        let cluster = Cluster::start(nodes).await;
        let whole = pattern(1, CHUNK_SIZE as usize);
        let result = cluster.write(chunk(1), 0, whole.clone()).await;
        assert_eq!(
            (result.length_info, result.update_ver, result.commit_ver),
            (Ok(CHUNK_SIZE), ChunkVer(1), ChunkVer(1))
        );
        assert_eq!(result.checksum, crc(&whole));
        assert_eq!(result.commit_chain_ver, cluster.chain().chain_ver);

        let patch = pattern(2, 5000);
        let result = cluster.write(chunk(1), 10_001, patch.clone()).await;
        let mut expect = whole.to_vec();
        expect[10_001..15_001].copy_from_slice(&patch);
        assert_eq!((result.commit_ver, result.checksum), (ChunkVer(2), crc(&expect)));

        cluster.write(chunk(2), 100, pattern(3, 50)).await;
        let result = cluster.write(chunk(2), 150, pattern(4, 1000)).await;
        let gap: Vec<u8> = [&[0; 100], &pattern(3, 50)[..], &pattern(4, 1000)].concat();
        assert_eq!((result.length_info, result.checksum), (Ok(1000), crc(&gap)));
        for node in 0..nodes {
            assert_eq!(cluster.read(node, chunk(1)).await.unwrap(), expect, "node {node} of {nodes}");
            assert_eq!(cluster.read(node, chunk(2)).await.unwrap(), gap);
            assert_eq!(cluster.read(node, chunk(3)).await, None);
        }
        assert_eq!(cluster.assert_equal_replicas().await.len(), 2);
    }
}

#[tokio::test]
async fn batches_return_pieces_in_order() {
    let cluster = Cluster::start(2).await;
    let (a, b) = (pattern(1, 9000), pattern(2, 300));
    cluster.write(chunk(1), 0, a.clone()).await;
    cluster.write(chunk(2), 0, b.clone()).await;
    let pieces = [
        (chunk(1), 4000, 4500),
        (chunk(9), 0, 16),
        (chunk(2), 290, 100),
        (chunk(1), 20_000, 10),
        (chunk(2), 0, 300),
    ];
    let rsp = cluster.call::<methods::BatchRead>(1, &cluster.read_req(&pieces)).await.unwrap();
    let lengths: Vec<_> = rsp.results.iter().map(|r| r.length_info.clone().map_err(|s| s.code)).collect();
    assert_eq!(lengths, [Ok(4500), Err(4001), Ok(10), Ok(0), Ok(300)]);
    let expect = [&a[4000..8500], &b[290..], &b[..]].concat();
    assert_eq!(rsp.inlinebuf.data, expect);
    assert_eq!(rsp.results[0].checksum, crc(&a[4000..8500]));
    assert_eq!(rsp.results[2].checksum, crc(&b[290..]));
}

#[tokio::test]
async fn retried_update_is_applied_once() {
    let cluster = Cluster::start(3).await;
    let req = cluster.write_req(chunk(1), 0, pattern(1, 100));
    let first = cluster.send_write(0, &req).await;
    let mut retry = req.clone();
    retry.retry_count = 1;
    assert_eq!(cluster.send_write(0, &retry).await, first);

    let mut older = cluster.write_req(chunk(1), 0, pattern(2, 100));
    older.tag.channel = req.tag.channel;
    older.tag.channel.seqnum.0 -= 1;
    assert_eq!(code_of(&cluster.send_write(0, &older).await), code::STORAGE_CLIENT_DUPLICATE_UPDATE);
    let mut other = cluster.write_req(chunk(1), 0, pattern(2, 100));
    other.tag.channel = req.tag.channel;
    assert_eq!(code_of(&cluster.send_write(0, &other).await), code::STORAGE_CLIENT_FOUND_BUG);

    cluster.write(chunk(1), 0, pattern(3, 100)).await;
    assert_eq!(cluster.send_write(0, &retry).await, first);
    assert_eq!(cluster.read(2, chunk(1)).await.unwrap(), pattern(3, 100));
    assert_eq!(cluster.assert_equal_replicas().await[0].commit_ver, ChunkVer(2));
}

#[tokio::test]
async fn concurrent_writers_leave_equal_replicas() {
    let cluster = std::rc::Rc::new(Cluster::start(3).await);
    let local = tokio::task::LocalSet::new();
    for writer in 0..16u64 {
        let cluster = std::rc::Rc::clone(&cluster);
        local.spawn_local(async move {
            for round in 0..10 {
                let at = (writer * 1000 + round * 37) as u32;
                cluster.write(chunk(round as u32 % 3), at, pattern(writer * 100 + round, 2000)).await;
            }
        });
    }
    local.await;
    let metas = cluster.assert_equal_replicas().await;
    assert_eq!(metas.iter().map(|meta| meta.commit_ver.0).sum::<u32>(), 160);
}

#[tokio::test]
async fn returned_replica_catches_up_while_the_chain_serves() {
    let cluster = Cluster::start(3).await;
    for n in 0..20 {
        cluster.write(chunk(n), 0, pattern(u64::from(n), 3000)).await;
    }
    cluster.kill(2).await;
    cluster.notice(2);
    // Changed, new and removed while it is away.
    for n in 0..5 {
        cluster.write(chunk(n), 1000, pattern(100 + u64::from(n), 3000)).await;
        cluster.write(chunk(100 + n), 0, pattern(200 + u64::from(n), 50_000)).await;
    }
    let remove = RemoveChunksReq {
        payloads: vec![RemoveChunksOp {
            v_chain_id: cluster.chain(),
            chunk_id_range: ChunkIdRange {
                begin: chunk(10),
                end: chunk(15),
                max_num_chunk_ids_to_process: 0,
            },
            tag: cluster.tag(),
            retry_count: 0,
        }],
        ..Default::default()
    };
    let removed = cluster.call::<methods::RemoveChunks>(0, &remove).await.unwrap();
    assert_eq!(removed.results[0].num_chunks_removed, 5);

    cluster.start_node(2).await;
    // Writes go on while it is filled.
    let mut round = 0;
    eventually("filled", async || {
        round += 1;
        cluster.write(chunk(round % 8), (round * 97) % 5000, pattern(1000 + u64::from(round), 700)).await;
        cluster.members().iter().all(|(_, state)| *state == PublicTargetState::Serving).then_some(())
    })
    .await;
    cluster.settle().await;
    let metas = cluster.assert_equal_replicas().await;
    assert_eq!(metas.len(), 20);
    assert_eq!(cluster.read(2, chunk(12)).await, None);
    assert_eq!(cluster.read(2, chunk(104)).await.unwrap(), pattern(204, 50_000));
}

#[tokio::test]
async fn every_node_may_restart_in_turn() {
    let cluster = Cluster::start(3).await;
    for round in 0..6u32 {
        cluster.write(chunk(round), 0, pattern(u64::from(round), 2000)).await;
        let node = (round % 3) as usize;
        cluster.stop(node).await;
        cluster.write(chunk(100 + round), 0, pattern(50 + u64::from(round), 2000)).await;
        cluster.start_node(node).await;
        cluster.settle().await;
    }
    assert_eq!(cluster.assert_equal_replicas().await.len(), 12);
    for round in 0..6u32 {
        assert_eq!(
            cluster.read((round % 3) as usize, chunk(round)).await.unwrap(),
            pattern(u64::from(round), 2000)
        );
    }
}

#[tokio::test]
async fn single_replica_serves_again_after_a_restart() {
    let cluster = Cluster::start(1).await;
    let data = pattern(1, 40_000);
    cluster.write(chunk(1), 0, data.clone()).await;
    cluster.kill(0).await;
    cluster.start_node(0).await;
    cluster.settle().await;
    assert_eq!(cluster.read(0, chunk(1)).await.unwrap(), data);
    let result = cluster.write(chunk(1), 0, Bytes::from_static(b"again")).await;
    assert_eq!(result.commit_ver, ChunkVer(2));
}

#[tokio::test]
async fn shards_share_a_server() {
    let cluster = std::rc::Rc::new(Cluster::start(2).await);
    let entrances = [cluster.start_shard(0), cluster.start_shard(0), cluster.start_shard(0)];
    // Updates reach the tail through a shard of its own too.
    cluster.set_address(1, cluster.start_shard(1));
    let local = tokio::task::LocalSet::new();
    for writer in 0..12u64 {
        let cluster = std::rc::Rc::clone(&cluster);
        local.spawn_local(async move {
            for round in 0..20 {
                let at = (writer * 3000 + round * 100) as u32;
                let req = cluster.write_req(chunk(round as u32 % 2), at, pattern(writer * 100 + round, 300));
                let to = entrances[writer as usize % 3];
                let options = valor_rpc::CallOptions::timeout(std::time::Duration::from_secs(20));
                let rsp = cluster.rpc.call::<methods::Write>(to, &req, &options).await.unwrap();
                assert_eq!(rsp.result.length_info, Ok(300));
            }
        });
    }
    local.await;
    let metas = cluster.assert_equal_replicas().await;
    assert_eq!(metas.iter().map(|meta| meta.commit_ver.0).sum::<u32>(), 240);
}

#[tokio::test]
async fn on_a_real_disk() {
    let root = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_on_disk(2, root.path()).await;
    let data = pattern(1, CHUNK_SIZE as usize);
    cluster.write(chunk(1), 0, data.clone()).await;
    cluster.write(chunk(1), 70, pattern(2, 10)).await;
    cluster.stop(1).await;
    cluster.write(chunk(2), 0, pattern(3, 5000)).await;
    cluster.stop(0).await;
    cluster.start_node(0).await;
    cluster.start_node(1).await;
    cluster.settle().await;
    let mut expect = data.to_vec();
    expect[70..80].copy_from_slice(&pattern(2, 10));
    for node in 0..2 {
        assert_eq!(cluster.read(node, chunk(1)).await.unwrap(), expect);
        assert_eq!(cluster.read(node, chunk(2)).await.unwrap(), pattern(3, 5000));
    }
    assert_eq!(cluster.assert_equal_replicas().await.len(), 2);

    let create = CreateTargetReq { target_id: TargetId(50), chain_id: ChainId(50), ..Default::default() };
    cluster.call::<methods::CreateTarget>(0, &create).await.unwrap();
    let offline = OfflineTargetReq { target_id: TargetId(50), force: false };
    cluster.call::<methods::OfflineTarget>(0, &offline).await.unwrap();
    let remove = RemoveTargetReq { target_id: TargetId(50), force: false };
    eventually("target unused", async || cluster.call::<methods::RemoveTarget>(0, &remove).await.ok()).await;
    let left = walk(&root.path().join("disk0/50"));
    assert!(left.is_empty(), "{left:?}");
    cluster.call::<methods::CreateTarget>(0, &create).await.unwrap();
}

/// Files below a directory.
fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
