//! Random updates, compared with a reference after each.

mod support;

use rand::Rng;
use support::{Model, check_read, create, open, perform, rng, small};
use valor_chunk_engine::{Engine, SyncMode};
use valor_env::disk::memory::MemoryDisk;

/// Runs steps on an engine and the model; reopens it in between.
async fn run(seed: u64, steps: usize, sync: SyncMode, sizes: &[u32]) {
    let rng = &mut rng(seed);
    let disk = MemoryDisk::new(seed);
    let mut model = Model::default();
    let mut engine = create(disk.handle(), small(sync)).await.unwrap();
    for step in 0..steps {
        match rng.random_range(0..1000) {
            0..5 => {
                engine.close().await.unwrap();
                disk.restart();
                engine = open(disk.handle(), small(sync)).await.unwrap();
                model.check(&engine).await;
            }
            5..15 => {
                disk.restart();
                engine = open(disk.handle(), small(sync)).await.unwrap();
                model.check(&engine).await;
            }
            15..25 if sync == SyncMode::Always => {
                disk.lose_power(if rng.random() { 0.0 } else { 0.5 });
                engine = open(disk.handle(), small(sync)).await.unwrap();
                model.check(&engine).await;
            }
            25..125 => engine.work_off().await.unwrap(),
            125..130 => engine.settle().await.unwrap(),
            130..140 => model.check(&engine).await,
            140..150 => {
                let (begin, end) = (vec![b'c', rng.random_range(0..9)], vec![b'c', rng.random_range(0..9)]);
                let limit = rng.random_range(0..9);
                let metas = model.metas();
                let mut expected: Vec<_> = metas
                    .into_iter()
                    .filter(|m| m.id.as_bytes() >= &begin[..] && m.id.as_bytes() < &end[..])
                    .collect();
                expected.reverse();
                let more = expected.len() > limit;
                expected.truncate(limit);
                assert_eq!(engine.query_descending(&begin, &end, limit), (expected, more));
            }
            _ => {
                let step = model.random_step(rng, sizes);
                perform(&engine, &step).await.unwrap_or_else(|e| panic!("{step:?}: {e}"));
                model.apply(&step);
                let id = step.id();
                let chunk = model.chunks.get(id);
                assert_eq!(engine.get_meta(id).is_some(), chunk.is_some());
                let Some(chunk) = chunk else { continue };
                for (version, uncommitted) in [
                    (chunk.committed.as_ref(), false),
                    (chunk.pending.as_ref().filter(|(_, removes)| !removes).map(|(v, _)| v), true),
                ] {
                    let Some(version) = version else { continue };
                    let offset = rng.random_range(0..=chunk.chunk_size);
                    let len = rng.random_range(0..=chunk.chunk_size - offset);
                    check_read(&engine, id, offset, len, uncommitted, version).await;
                    check_read(&engine, id, 0, u32::MAX, uncommitted, version).await;
                }
            }
        }
        let _ = step;
    }
    model.check(&engine).await;
    assert_eq!(engine.internals()["busy"], 0);
    assert!(Engine::exists(&disk.handle(), &support::dir()).await.unwrap());
}

fn seeds() -> (u64, u64) {
    let get = |name: &str, default| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    (get("VALOR_SEED", 1), get("VALOR_SEEDS", 12))
}

#[tokio::test]
async fn small_chunks_with_process_sync() {
    let (first, count) = seeds();
    for seed in first..first + count {
        run(seed, 1500, SyncMode::Process, &[65_536]).await;
    }
}

#[tokio::test]
async fn small_chunks_with_sync_always_and_power_loss() {
    let (first, count) = seeds();
    for seed in first..first + count {
        run(1000 + seed, 1500, SyncMode::Always, &[65_536]).await;
    }
}

#[tokio::test]
async fn mixed_sizes() {
    let (first, count) = seeds();
    for seed in first..first + count.div_ceil(3) {
        run(2000 + seed, 600, SyncMode::Process, &[65_536, 4096, 70_000, 262_144, 8 << 20]).await;
    }
}
