//! Chunks verified in the background: damage is repaired from another replica, and nothing else is touched.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use valor_config::Duration;
use valor_protocol::ChunkVer;
use valor_protocol::storage::*;

use crate::harness::*;

async fn scrubbed(nodes: usize) -> Cluster {
    Cluster::start_with(nodes, |config| {
        config.scrub.start_after = Duration::from_millis(0);
        config.scrub.pause = Duration::from_millis(50);
        config.scrub.max_bytes_per_second = valor_config::Size::new(0);
    })
    .await
}

#[tokio::test]
async fn a_damaged_replica_is_repaired_from_another_one() {
    let cluster = scrubbed(3).await;
    let data = pattern(5, CHUNK_SIZE as usize);
    cluster.write(chunk(1), 0, data.clone()).await;
    cluster.write(chunk(1), 100, data.slice(100..200)).await;
    cluster.write(chunk(2), 0, pattern(6, 9000)).await;
    let before = cluster.assert_equal_replicas().await;
    for victim in [0, 1, 2] {
        assert!(cluster.damage(victim, &data[20_000..20_064]) > 0);
        eventually("the damage is repaired", async || {
            let (read, result) = cluster.read_at(victim, chunk(1)).await.ok()?;
            assert_eq!((read, result.commit_ver), (data.clone(), result.update_ver));
            Some(())
        })
        .await;
    }
    // Versions, checksums and the other chunk are as they were.
    let after = cluster.assert_equal_replicas().await;
    let strip = |metas: &[ChunkMeta]| -> Vec<_> {
        metas.iter().map(|m| (m.chunk_id.clone(), m.commit_ver, m.chain_ver, m.length, m.checksum)).collect()
    };
    assert_eq!(strip(&before), strip(&after));
    assert_eq!(cluster.read(1, chunk(2)).await.unwrap(), pattern(6, 9000));
    // The chunk can be written as before.
    cluster.write(chunk(1), 50, pattern(7, 10)).await;
    cluster.assert_equal_replicas().await;
}

#[tokio::test]
async fn damage_everywhere_is_left_alone() {
    let cluster = scrubbed(2).await;
    let data = pattern(5, CHUNK_SIZE as usize);
    cluster.write(chunk(1), 0, data.clone()).await;
    cluster.write(chunk(2), 0, pattern(6, 9000)).await;
    // Both at once: neither may take the other's.
    assert!(cluster.damage(0, &data[20_000..20_064]) > 0);
    let other = cluster.damage(1, &data[40_000..40_064]);
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    // The first may have been repaired before the second was damaged, or the other way round; wrong bytes never come.
    for node in 0..2 {
        if let Ok((read, _)) = cluster.read_at(node, chunk(1)).await {
            assert_eq!(read, data, "node {node}");
        }
    }
    assert!(other > 0);
    assert_eq!(cluster.read(1, chunk(2)).await.unwrap(), pattern(6, 9000));
    // An overwrite of the whole chunk heals it.
    cluster.write(chunk(1), 0, pattern(8, CHUNK_SIZE as usize)).await;
    for node in 0..2 {
        assert_eq!(cluster.read(node, chunk(1)).await.unwrap(), pattern(8, CHUNK_SIZE as usize));
    }
}

#[tokio::test]
async fn verifying_goes_on_beside_writers() {
    let cluster = scrubbed(2).await;
    for round in 0..200u32 {
        let at = (round * 997) % 50_000;
        cluster.write(chunk(round % 4), at, pattern(u64::from(round), 3000)).await;
    }
    let metas = cluster.assert_equal_replicas().await;
    assert_eq!(metas.iter().map(|meta| meta.commit_ver.0).sum::<u32>(), 200);
}

/// Counts chunks about which replicas disagree, for this test's thread.
#[derive(Default)]
struct Disagreements(Arc<AtomicU64>);

impl metrics::Recorder for Disagreements {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.labels().any(|label| label.value() == "disagrees") {
            return Counter::from_arc(Arc::clone(&self.0));
        }
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn a_chunk_that_only_one_replica_has_is_noticed_whichever_it_is() {
    let disagreements = Disagreements::default();
    let _recorded = metrics::set_default_local_recorder(&disagreements);
    let cluster = scrubbed(2).await;
    cluster.write(chunk(1), 0, pattern(5, 9000)).await;
    cluster.assert_equal_replicas().await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(disagreements.0.load(Ordering::Relaxed), 0);
    // As a bug or a lost removal would leave it: the tail has a chunk that the head does not know.
    let WriteReq { mut payload, tag, feature_flags, .. } = cluster.write_req(chunk(2), 0, pattern(6, 9000));
    payload.update_ver = ChunkVer(1);
    let req = UpdateReq { payload, tag, feature_flags, ..UpdateReq::default() };
    cluster.call::<methods::Update>(1, &req).await.unwrap().result.length_info.unwrap();
    eventually("the chunk is noticed", async || (disagreements.0.load(Ordering::Relaxed) > 0).then_some(()))
        .await;
    // It is left alone.
    assert_eq!(cluster.metas(1).await.len(), 2);
}
