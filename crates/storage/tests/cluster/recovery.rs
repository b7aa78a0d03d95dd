//! Filling successors: its limit, its progress, and going on after a death.

use valor_protocol::ChunkVer;
use valor_protocol::storage::{IOResult, WriteReq};

use crate::harness::*;

const CHUNKS: u32 = 40;

/// A chain of three whose tail has missed everything, being filled slowly by the middle one.
async fn being_filled() -> Cluster {
    let cluster = Cluster::start_with(3, |config| {
        config.sync_worker.max_bytes_per_second = valor_config::Size::new(4 * u64::from(CHUNK_SIZE));
    })
    .await;
    cluster.kill(2).await;
    cluster.notice(2);
    for n in 0..CHUNKS {
        cluster.write(chunk(n), 0, pattern(u64::from(n), CHUNK_SIZE as usize)).await;
    }
    cluster.start_node(2).await;
    let progress = eventually("a part is filled", async || {
        cluster.progress(1).await.filter(|progress| progress.chunks_done >= 8)
    })
    .await;
    assert_eq!(progress.target_id, target(2));
    assert_eq!((progress.chunks, progress.bytes), (u64::from(CHUNKS), u64::from(CHUNKS * CHUNK_SIZE)));
    assert_eq!(progress.bytes_done, progress.chunks_done * u64::from(CHUNK_SIZE));
    cluster
}

/// The filling goes on from `filler` with no more than what is missing, faster once the limit is lifted.
async fn goes_on(cluster: &Cluster, filler: usize) {
    let chain = cluster.chain();
    let again = eventually("filled again", async || {
        let progress = cluster.progress(filler).await?;
        (progress.chain_ver >= chain.chain_ver && progress.chunks > 0).then_some(progress)
    })
    .await;
    assert!(again.chunks <= u64::from(CHUNKS) - 8, "begins anew: {again:?}");
    for node in (0..3).filter(|node| cluster.runs(*node)) {
        let update = "[sync_worker]\nmax_bytes_per_second = 0";
        cluster.node(node).config.hot_update(update, "test").unwrap();
    }
}

async fn is_whole(cluster: &Cluster) {
    cluster.settle().await;
    assert_eq!(cluster.assert_equal_replicas().await.len(), CHUNKS as usize);
    for n in 0..CHUNKS {
        assert_eq!(
            cluster.read(2, chunk(n)).await.unwrap(),
            pattern(u64::from(n), CHUNK_SIZE as usize),
            "{n}"
        );
    }
    assert_eq!(cluster.progress(0).await, None);
}

#[tokio::test]
async fn filling_goes_on_after_the_death_of_the_one_that_is_filled() {
    let cluster = being_filled().await;
    cluster.kill(2).await;
    cluster.notice(2);
    cluster.start_node(2).await;
    goes_on(&cluster, 1).await;
    is_whole(&cluster).await;
}

#[tokio::test]
async fn filling_goes_on_after_the_death_of_the_one_that_fills() {
    let cluster = being_filled().await;
    cluster.kill(1).await;
    cluster.notice(1);
    goes_on(&cluster, 0).await;
    cluster.start_node(1).await;
    is_whole(&cluster).await;
}

#[tokio::test]
async fn updates_go_on_while_a_chunk_waits_for_its_turn() {
    let cluster = being_filled().await;
    // Every chunk is written in part: the successor gets it whole with the update, whatever the limit.
    for n in 0..CHUNKS {
        cluster.write(chunk(n), 100, pattern(1000 + u64::from(n), 300)).await;
    }
    let progress = cluster.progress(1).await;
    for node in 0..3 {
        let update = "[sync_worker]\nmax_bytes_per_second = 0";
        cluster.node(node).config.hot_update(update, "test").unwrap();
    }
    cluster.settle().await;
    assert!(progress.is_none_or(|progress| progress.chunks_done <= progress.chunks));
    assert_eq!(cluster.assert_equal_replicas().await.len(), CHUNKS as usize);
    for n in 0..CHUNKS {
        let mut expect = pattern(u64::from(n), CHUNK_SIZE as usize).to_vec();
        expect[100..400].copy_from_slice(&pattern(1000 + u64::from(n), 300));
        assert_eq!(cluster.read(2, chunk(n)).await.unwrap(), expect, "{n}");
    }
}

/// The answers to two writes are lost. The one that was answered is repeated towards a replica that was away then and was
/// filled since, when nobody else is left: it must not undo what came after it.
#[tokio::test]
async fn filled_replica_knows_who_was_answered() {
    let cluster = Cluster::start(2).await;
    cluster.kill(1).await;
    cluster.notice(1);
    let mut req = cluster.write_req(chunk(1), 0, pattern(1, 1000));
    let mut first = None;
    eventually("written", async || {
        req.payload.key.v_chain_id = cluster.chain();
        first = Some(cluster.send_write(0, &req).await);
        first.as_ref()?.length_info.is_ok().then_some(())
    })
    .await;
    cluster.write(chunk(1), 0, pattern(2, 1000)).await;
    cluster.start_node(1).await;
    cluster.settle().await;
    cluster.kill(0).await;
    cluster.notice(0);
    assert_eq!(repeat(&cluster, 1, req).await, first.unwrap());
    assert_eq!(cluster.read(1, chunk(1)).await.unwrap(), pattern(2, 1000));
}

/// The same with a write that was given up on while it was pending, and that reached the filled replica as a part of the
/// chunk.
#[tokio::test]
async fn filled_replica_knows_the_update_that_was_pending() {
    let cluster = Cluster::start_with(2, |config| {
        config.reliable_forwarding.retry_total_time = valor_config::Duration::from_millis(300);
    })
    .await;
    cluster.write(chunk(1), 0, pattern(9, 1000)).await;
    cluster.kill(1).await;
    let req = cluster.write_req(chunk(1), 0, pattern(1, 1000));
    let given_up = cluster.send_write(0, &req).await;
    assert!(given_up.length_info.is_err(), "{given_up:?}");
    // It comes back at once, and is filled while the version is pending at its predecessor.
    cluster.start_node(1).await;
    cluster.settle().await;
    assert_eq!(cluster.read(1, chunk(1)).await.unwrap(), pattern(1, 1000));
    cluster.write(chunk(1), 0, pattern(2, 1000)).await;
    cluster.kill(0).await;
    cluster.notice(0);
    assert_eq!(repeat(&cluster, 1, req).await.update_ver, ChunkVer(2));
    assert_eq!(cluster.read(1, chunk(1)).await.unwrap(), pattern(2, 1000));
}

/// Repeats a write until it is answered.
async fn repeat(cluster: &Cluster, node: usize, mut req: WriteReq) -> IOResult {
    eventually("the repeated write is answered", async || {
        req.payload.key.v_chain_id = cluster.chain();
        req.retry_count += 1;
        let result = cluster.send_write(node, &req).await;
        result.length_info.is_ok().then_some(result)
    })
    .await
}
