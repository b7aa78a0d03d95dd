//! Nodes that die, disks that fail, damage and fill up, a manager out of reach.

use valor_protocol::mgmtd::{LocalTargetState, PublicTargetState};
use valor_protocol::status::code;
use valor_protocol::storage::*;
use valor_protocol::*;

use crate::harness::*;

/// Kills a node while many writes are under way; what was acknowledged must be on all replicas in the end.
async fn death_mid_write(victim: usize) {
    let cluster = std::rc::Rc::new(Cluster::start(3).await);
    let local = tokio::task::LocalSet::new();
    let (done, mut finished) = tokio::sync::watch::channel(0);
    for writer in 0..8u32 {
        let (cluster, done) = (std::rc::Rc::clone(&cluster), done.clone());
        local.spawn_local(async move {
            for round in 0..20u64 {
                // Each writer has a chunk of its own, and its writes follow each other.
                let data = pattern(u64::from(writer) * 1000 + round, 1500);
                cluster.write(chunk(writer), round as u32 * 1500, data).await;
                done.send_modify(|count| *count += 1);
            }
        });
    }
    let killer = std::rc::Rc::clone(&cluster);
    local.spawn_local(async move {
        finished.wait_for(|count| *count >= 40).await.unwrap();
        // Requests under way are cut off in the middle.
        killer.kill(victim).await;
        killer.notice(victim);
        finished.wait_for(|count| *count >= 80).await.unwrap();
        killer.start_node(victim).await;
    });
    local.await;
    cluster.settle().await;
    cluster.assert_equal_replicas().await;
    for writer in 0..8u32 {
        let expect: Vec<u8> =
            (0..20u64).flat_map(|round| pattern(u64::from(writer) * 1000 + round, 1500)).collect();
        for node in 0..3 {
            assert_eq!(
                cluster.read(node, chunk(writer)).await.unwrap(),
                expect,
                "writer {writer} at node {node}"
            );
        }
    }
}

#[tokio::test]
async fn head_dies_mid_write() {
    death_mid_write(0).await;
}

#[tokio::test]
async fn middle_dies_mid_write() {
    death_mid_write(1).await;
}

#[tokio::test]
async fn tail_dies_mid_write() {
    death_mid_write(2).await;
}

#[tokio::test]
async fn whole_chain_dies_and_returns() {
    let cluster = Cluster::start(3).await;
    for n in 0..10 {
        cluster.write(chunk(n), 0, pattern(u64::from(n), 5000)).await;
    }
    for node in 0..3 {
        cluster.kill(node).await;
    }
    for node in 0..3 {
        cluster.notice(node);
    }
    assert_eq!(cluster.members()[0].1, PublicTargetState::Lastsrv);
    for node in [2, 1, 0] {
        cluster.start_node(node).await;
    }
    cluster.settle().await;
    assert_eq!(cluster.assert_equal_replicas().await.len(), 10);
    for n in 0..10 {
        assert_eq!(cluster.read(2, chunk(n)).await.unwrap(), pattern(u64::from(n), 5000));
    }
}

#[tokio::test]
async fn update_given_up_on_is_completed_later() {
    let cluster = Cluster::start_with(2, |config| {
        config.reliable_forwarding.retry_total_time = valor_config::Duration::from_millis(300);
    })
    .await;
    cluster.write(chunk(1), 0, pattern(1, 100)).await;
    cluster.kill(1).await;
    // Nobody notices: the head cannot forward and gives up.
    let req = cluster.write_req(chunk(1), 50, pattern(2, 100));
    let result = cluster.send_write(0, &req).await;
    assert!(result.length_info.is_err());
    let status = cluster.read_at(0, chunk(1)).await.unwrap_err();
    assert_eq!(status.code, code::STORAGE_CHUNK_NOT_COMMIT);
    let mut uncommitted = cluster.read_req(&[(chunk(1), 0, 1000)]);
    uncommitted.feature_flags = uncommitted.feature_flags | FeatureFlags::ALLOW_READ_UNCOMMITTED;
    let rsp = cluster.call::<methods::BatchRead>(0, &uncommitted).await.unwrap();
    assert_eq!((rsp.results[0].update_ver, rsp.results[0].commit_ver), (ChunkVer(2), ChunkVer(1)));
    // The chain changes: the server completes it by itself, and the retry finds it done.
    cluster.notice(1);
    let expect = [&pattern(1, 100)[..50], &pattern(2, 100)[..]].concat();
    assert_eq!(cluster.read(0, chunk(1)).await.unwrap(), expect);
    let mut retry = req.clone();
    retry.payload.key.v_chain_id = cluster.chain();
    let result = cluster.send_write(0, &retry).await;
    assert_eq!((result.length_info, result.commit_ver), (Ok(100), ChunkVer(2)));
}

#[tokio::test]
async fn damaged_data_are_never_returned() {
    let cluster = Cluster::start(2).await;
    let data = pattern(5, CHUNK_SIZE as usize);
    cluster.write(chunk(1), 0, data.clone()).await;
    cluster.write(chunk(2), 0, pattern(6, 9000)).await;
    assert!(cluster.damage(0, &data[20_000..20_064]) > 0);
    let status = cluster.read_at(0, chunk(1)).await.unwrap_err();
    // A code after which clients try another replica.
    assert_eq!(status.code, code::STORAGE_CHUNK_READ_FAILED);
    assert_eq!(valor_protocol::status::to_storage_client(status.code), code::STORAGE_CLIENT_REMOTE_IO_ERROR);
    assert_eq!(cluster.read(1, chunk(1)).await.unwrap(), data);
    // Blocks that are whole, and other chunks, are still served.
    let rsp = cluster.call::<methods::BatchRead>(0, &cluster.read_req(&[(chunk(1), 0, 4096)])).await.unwrap();
    assert_eq!(rsp.inlinebuf.data, data[..4096]);
    assert_eq!(cluster.read(0, chunk(2)).await.unwrap(), pattern(6, 9000));
    assert_eq!(cluster.target_info(0).await.unwrap().local_state, LocalTargetState::Uptodate);
}

#[tokio::test]
async fn full_disk_refuses_writes_and_serves_the_rest() {
    let cluster = Cluster::start_with(3, |config| {
        config.targets.reserve_bytes = valor_config::Size::new(0);
        config.check_worker.disk_reject_create_chunk_threshold = 1.0;
    })
    .await;
    let mut written = Vec::new();
    let used: u64 = cluster.disks[1].files().iter().map(|(_, _, bytes)| bytes).sum();
    // The middle of the chain fills up first.
    cluster.disks[1].set_capacity(used + (2 << 20));
    let status = loop {
        let n = written.len() as u32;
        let req = cluster.write_req(chunk(n), 0, pattern(u64::from(n), CHUNK_SIZE as usize));
        match cluster.send_write(0, &req).await.length_info {
            Ok(_) => written.push(n),
            Err(status) => break status,
        }
        assert!(written.len() < 1000, "the disk does not fill up");
    };
    assert_eq!(status.code, code::STORAGE_CLIENT_NO_SPACE);
    assert!(!written.is_empty());
    // The refused chunk is nowhere, not even pending.
    let refused = written.len() as u32;
    for node in 0..3 {
        let req = QueryChunkReq { chain_id: cluster.chain().chain_id, chunk_id: chunk(refused) };
        let meta = cluster.call::<methods::QueryChunk>(node, &req).await.unwrap().meta;
        assert_eq!(meta.unwrap_err().code, code::STORAGE_CHUNK_METADATA_NOT_FOUND, "node {node}");
        assert_eq!(cluster.target_info(node).await.unwrap().local_state, LocalTargetState::Uptodate);
    }
    for &n in &written {
        assert_eq!(cluster.read(1, chunk(n)).await.unwrap(), pattern(u64::from(n), CHUNK_SIZE as usize));
    }
    let op = RemoveChunksOp {
        v_chain_id: cluster.chain(),
        chunk_id_range: ChunkIdRange { begin: chunk(0), end: chunk(5), max_num_chunk_ids_to_process: 0 },
        tag: cluster.tag(),
        retry_count: 0,
    };
    let removed = cluster
        .call::<methods::RemoveChunks>(0, &RemoveChunksReq { payloads: vec![op], ..Default::default() })
        .await
        .unwrap();
    assert_eq!(removed.results[0].num_chunks_removed, 5);
    cluster.write(chunk(refused), 0, pattern(99, CHUNK_SIZE as usize)).await;
    cluster.assert_equal_replicas().await;
}

#[tokio::test]
async fn nearly_full_disk_takes_no_new_chunks() {
    let cluster = Cluster::start(1).await;
    cluster.write(chunk(1), 0, pattern(1, 100)).await;
    cluster
        .node(0)
        .config
        .hot_update("[check_worker]\ndisk_reject_create_chunk_threshold = 0.0", "test")
        .unwrap();
    let mut n = 1;
    eventually("new chunks are refused", async || {
        n += 1;
        let result = cluster.send_write(0, &cluster.write_req(chunk(n), 0, pattern(2, 100))).await;
        (code_of(&result) == code::STORAGE_CLIENT_NO_SPACE).then_some(())
    })
    .await;
    let result = cluster.send_write(0, &cluster.write_req(chunk(1), 0, pattern(3, 100))).await;
    assert_eq!(result.length_info, Ok(100));
}

#[tokio::test]
async fn failing_disk_leaves_the_chain() {
    let cluster = Cluster::start(3).await;
    cluster.write(chunk(1), 0, pattern(1, 5000)).await;
    let disk = cluster.disks[1].clone();
    disk.stop_at(disk.counts().changes);
    // The write waits for the chain to change, then succeeds.
    cluster.write(chunk(1), 0, pattern(2, 5000)).await;
    let info = eventually("target is offline", async || {
        let info = cluster.target_info(1).await;
        // Not found by its chain any more, or shown as offline.
        info.is_none().then_some(())
    });
    info.await;
    let states = cluster.members();
    assert_eq!(states[0].1, PublicTargetState::Serving);
    assert!(states.contains(&(target(1), PublicTargetState::Offline)), "{states:?}");
    assert_eq!(cluster.read(2, chunk(1)).await.unwrap(), pattern(2, 5000));
    // With a disk that works again it returns.
    cluster.kill(1).await;
    cluster.start_node(1).await;
    cluster.settle().await;
    assert_eq!(cluster.assert_equal_replicas().await.len(), 1);
}

#[tokio::test]
async fn server_without_its_manager_stops_serving() {
    let cluster = Cluster::start_with(2, |config| {
        config.fence_after = valor_config::Duration::from_millis(1200);
    })
    .await;
    cluster.write(chunk(1), 0, pattern(1, 100)).await;
    cluster.cut(0, true);
    let code = eventually("requests are refused", async || {
        cluster.read_at(0, chunk(1)).await.err().map(|status| status.code)
    })
    .await;
    assert_eq!(code, code::STORAGE_TARGET_OFFLINE);
    assert_eq!(cluster.read(1, chunk(1)).await.unwrap(), pattern(1, 100));
    let result = cluster.send_write(0, &cluster.write_req(chunk(1), 0, pattern(2, 100))).await;
    assert_eq!(code_of(&result), code::STORAGE_TARGET_OFFLINE);
    cluster.cut(0, false);
    eventually("requests are served again", async || cluster.read_at(0, chunk(1)).await.ok()).await;
}

#[tokio::test]
async fn restarted_server_is_silent_until_the_manager_knows() {
    let cluster = Cluster::start(2).await;
    cluster.write(chunk(1), 0, pattern(1, 100)).await;
    let before = cluster.chain().chain_ver;
    // Killed and back before anybody noticed: the chain must change all the same.
    cluster.kill(1).await;
    cluster.start_node(1).await;
    cluster.settle().await;
    assert!(cluster.chain().chain_ver.0 >= before.0 + 2);
    assert_eq!(cluster.assert_equal_replicas().await.len(), 1);
}

#[tokio::test]
async fn damaged_target_is_left_out_at_start() {
    let cluster = Cluster::start(2).await;
    cluster.write(chunk(1), 0, pattern(1, 100)).await;
    cluster.kill(1).await;
    cluster.disks[1].set_contents(&disk_path(1).join("2/target.toml"), b"not a target").unwrap();
    cluster.start_node(1).await;
    cluster.notice(1);
    cluster.write(chunk(2), 0, pattern(2, 100)).await;
    assert_eq!(cluster.read(0, chunk(2)).await.unwrap(), pattern(2, 100));
    // Nobody makes it anew over data that may still be wanted.
    let refused = cluster.create_target(1, true).await.unwrap_err();
    assert!(refused.message.contains("move it away"), "{refused}");
    cluster.disks[1].handle().remove_file(&disk_path(1).join("2/target.toml")).await.unwrap();
    cluster.create_target(1, true).await.unwrap();
    cluster.settle().await;
    cluster.assert_equal_replicas().await;
}

#[tokio::test]
async fn cut_off_replica_never_serves_old_data() {
    let cluster = Cluster::start_with(2, |config| {
        config.fence_after = valor_config::Duration::from_millis(1000);
    })
    .await;
    cluster.write(chunk(1), 0, pattern(1, 100)).await;
    let stale = cluster.read_req(&[(chunk(1), 0, 100)]);
    cluster.cut(1, true);
    eventually("the replica is silent", async || cluster.call::<methods::BatchRead>(1, &stale).await.err())
        .await;
    // Only then does the manager give it up, and the chain goes on.
    cluster.notice(1);
    cluster.write(chunk(1), 0, pattern(2, 100)).await;
    // A client that knows nothing of this either must not get the old content, whenever it asks.
    cluster.cut(1, false);
    eventually("the replica is back", async || {
        if let Ok(rsp) = cluster.call::<methods::BatchRead>(1, &stale).await {
            panic!("old data served: {:?}", rsp.results);
        }
        cluster.members().iter().all(|(_, state)| *state == PublicTargetState::Serving).then_some(())
    })
    .await;
    cluster.settle().await;
    assert_eq!(cluster.read(1, chunk(1)).await.unwrap(), pattern(2, 100));
}

/// A write is left pending at the head, which loses its place as the last one serving and returns. Meanwhile the write
/// counts, so another one follows it; when its client repeats it, it must not be applied again.
async fn repeated_after_the_last_serving_returns(cluster: Cluster, restart: Option<u64>) {
    cluster.write(chunk(1), 0, pattern(1, 1000)).await;
    cluster.kill(1).await;
    let mut first = cluster.write_req(chunk(1), 0, pattern(2, 1000));
    let lost = async {
        eventually("the write is pending at the head", async || {
            let metas = cluster.metas(0).await;
            metas.iter().any(|meta| meta.update_ver != meta.commit_ver).then_some(())
        })
        .await;
        if restart.is_some() {
            cluster.kill(0).await;
        }
        cluster.notice_all(&[0, 1]);
    };
    let (result, ()) = tokio::join!(cluster.send_write(0, &first), lost);
    assert!(result.length_info.is_err(), "{result:?}");
    if let Some(down) = restart {
        cluster.ahead.store(down, std::sync::atomic::Ordering::Relaxed);
        cluster.start_node(0).await;
    }
    // Whatever the first write became, this one comes after it.
    cluster.write(chunk(1), 0, pattern(3, 1000)).await;
    let repeated = eventually("the repeated write is answered", async || {
        first.payload.key.v_chain_id = cluster.chain();
        first.retry_count += 1;
        let result = cluster.send_write(0, &first).await;
        result.length_info.is_ok().then_some(result)
    })
    .await;
    assert_eq!(repeated.update_ver, ChunkVer(2));
    assert_eq!(cluster.read(0, chunk(1)).await.unwrap(), pattern(3, 1000));
}

#[tokio::test]
async fn repeated_write_is_applied_once_when_the_last_serving_target_loses_its_place() {
    repeated_after_the_last_serving_returns(Cluster::start(2).await, None).await;
}

/// A client waits for its chain as long as that is down.
#[tokio::test]
async fn repeated_write_is_applied_once_when_the_chain_was_down_for_long() {
    repeated_after_the_last_serving_returns(Cluster::start(2).await, Some(12 * 3600)).await;
}

/// What was written while the clock was ahead is no newer than what is written now.
#[tokio::test]
async fn repeated_write_is_applied_once_though_a_clock_was_ahead_before() {
    let cluster = Cluster::start(2).await;
    for ahead in [3600, 0] {
        cluster.ahead.store(ahead, std::sync::atomic::Ordering::Relaxed);
        for node in 0..2 {
            cluster.kill(node).await;
            cluster.notice(node);
            cluster.start_node(node).await;
            cluster.settle().await;
        }
        if ahead > 0 {
            cluster.write(chunk(2), 0, pattern(4, 1000)).await;
        }
    }
    repeated_after_the_last_serving_returns(cluster, Some(0)).await;
}

/// A write is pending at the head alone when the head ends. It is filled by the one that went on without it, so the write
/// is gone: its client, which repeats it, must not hear that it was done.
#[tokio::test]
async fn repeated_write_is_applied_if_filling_replaced_what_was_pending_at_a_restart() {
    let cluster = Cluster::start(2).await;
    cluster.write(chunk(1), 0, pattern(1, 2000)).await;
    cluster.kill(1).await;
    let mut lost = cluster.write_req(chunk(1), 0, pattern(2, 1000));
    let end = async {
        eventually("the write is pending at the head", async || {
            let metas = cluster.metas(0).await;
            metas.iter().any(|meta| meta.update_ver != meta.commit_ver).then_some(())
        })
        .await;
        cluster.kill(0).await;
        cluster.notice(0);
    };
    let (result, ()) = tokio::join!(cluster.send_write(0, &lost), end);
    assert!(result.length_info.is_err(), "{result:?}");
    cluster.start_node(1).await;
    let other = cluster.write(chunk(1), 1000, pattern(3, 1000)).await;
    assert_eq!(other.update_ver, ChunkVer(2), "the number of the lost write");
    cluster.start_node(0).await;
    cluster.settle().await;
    cluster.kill(1).await;
    cluster.notice(1);
    eventually("the repeated write is answered", async || {
        lost.payload.key.v_chain_id = cluster.chain();
        lost.retry_count += 1;
        cluster.send_write(0, &lost).await.length_info.ok()
    })
    .await;
    let expect = [pattern(2, 1000), pattern(3, 1000)].concat();
    assert_eq!(cluster.read(0, chunk(1)).await.unwrap(), expect);
}
