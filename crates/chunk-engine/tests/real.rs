//! On the machine's own disk: large chunks, threads, and a process that is killed.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::{Model, check_read, checksum, noise, perform, rng, small, write};
use valor_chunk_engine::{Engine, EngineError, Options, SyncMode};
use valor_env::disk::{Backend, real, real_with};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test]
async fn the_model_holds_on_both_backends() {
    for backend in [Backend::IoUring, Backend::Blocking] {
        for sync in [SyncMode::Process, SyncMode::Always] {
            let rng = &mut rng(3);
            let dir = tempfile::tempdir().unwrap();
            let mut engine = Engine::create(real_with(backend), dir.path(), small(sync)).await.unwrap();
            let mut model = Model::default();
            for i in 1..=300 {
                let step = model.random_step(rng, &[65_536, 262_144]);
                perform(&engine, &step).await.unwrap();
                model.apply(&step);
                if i % 25 == 0 {
                    engine.work_off().await.unwrap();
                }
                if i % 100 == 0 {
                    drop(engine);
                    engine = Engine::open(real_with(backend), dir.path(), small(sync)).await.unwrap();
                    model.check(&engine).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn chunks_of_64_mib() {
    const SIZE: u32 = 64 << 20;
    let rng = &mut rng(1);
    let dir = tempfile::tempdir().unwrap();
    let options = Options { reserve_bytes: 0, ..Options::new(7) };
    let engine = Engine::create(real(), dir.path(), options.clone()).await.unwrap();
    let mut model = Model::default();
    let mut ver = 0;
    // The whole, a block, pieces of all sizes, the largest that is still kept apart, appends after a cut.
    for (offset, len) in [
        (0, SIZE as usize),
        (4096, 4096),
        (12_345, 77),
        (1 << 20, 1 << 20),
        (40_000_001, 3_000_000),
        (8192, (32 << 20) - 8192),
        (0, 40 << 20),
    ] {
        ver += 1;
        for step in [
            support::Step::Prepare(b"big".to_vec(), write(offset, noise(rng, len), ver, SIZE)),
            support::Step::Commit(b"big".to_vec(), ver, 1),
        ] {
            perform(&engine, &step).await.unwrap();
            model.apply(&step);
        }
        let version = model.chunks[&b"big"[..]].committed.clone().unwrap();
        check_read(&engine, b"big", offset, len as u32, false, &version).await;
        check_read(&engine, b"big", offset.saturating_sub(10_000), 30_000, false, &version).await;
    }
    model.check(&engine).await;
    engine.work_off().await.unwrap();
    engine.settle().await.unwrap();
    engine.close().await.unwrap();
    let engine = Engine::open(real(), dir.path(), options).await.unwrap();
    model.check(&engine).await;
}

/// Threads update chunks of their own and read those of others, while another folds and checkpoints.
#[test]
fn threads_share_an_engine() {
    const THREADS: u64 = 4;
    let dir = tempfile::tempdir().unwrap();
    let options =
        Options { log_segment_bytes: 1 << 20, checkpoint_log_bytes: 2 << 20, ..small(SyncMode::Process) };
    let engine = runtime().block_on(Engine::create(real(), dir.path(), options.clone())).unwrap();
    let stop = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    let models: Mutex<Vec<Model>> = Mutex::default();
    std::thread::scope(|scope| {
        scope.spawn(|| runtime().block_on(Arc::clone(&engine).maintain()));
        let updaters: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (engine, models) = (&engine, &models);
                scope.spawn(move || {
                    runtime().block_on(async {
                        let rng = &mut StdRng::seed_from_u64(thread);
                        let mut model = Model::default();
                        for _ in 0..600 {
                            let id = thread as u8 * 2 + rng.random_range(0..2);
                            let step = model.random_step_of(id, rng, &[65_536, 131_072]);
                            perform(engine, &step).await.unwrap();
                            model.apply(&step);
                        }
                        models.lock().push(model);
                    })
                })
            })
            .collect();
        for thread in 0..2 {
            let (engine, stop, reads) = (&engine, &stop, &reads);
            scope.spawn(move || {
                runtime().block_on(async {
                    let rng = &mut StdRng::seed_from_u64(100 + thread);
                    while !stop.load(Ordering::Relaxed) {
                        let id = [b'c', rng.random_range(0..8)];
                        match engine.read(&id, 0, u32::MAX, rng.random()).await {
                            Ok(read) => assert_eq!(checksum(&read.data), read.version.checksum),
                            Err(EngineError::NotFound(_)) => {}
                            Err(e) => panic!("{e}"),
                        }
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                })
            });
        }
        let results: Vec<_> = updaters.into_iter().map(|updater| updater.join()).collect();
        stop.store(true, Ordering::Relaxed);
        runtime().block_on(engine.close()).unwrap();
        results.into_iter().for_each(|result| result.unwrap());
    });
    println!("{} reads", reads.load(Ordering::Relaxed));
    let mut all = Model::default();
    models.lock().iter().for_each(|model| all.chunks.extend(model.chunks.clone()));
    drop(engine);
    runtime().block_on(async {
        let engine = Engine::open(real(), dir.path(), options).await.unwrap();
        all.check(&engine).await;
    });
}

const CHILD_DIR: &str = "VALOR_TEST_CHILD_DIR";
const CHILD_SEED: &str = "VALOR_TEST_CHILD_SEED";

fn child_options() -> Options {
    Options { log_segment_bytes: 256 << 10, checkpoint_log_bytes: 512 << 10, ..small(SyncMode::Process) }
}

/// Not a test: the process that [`a_killed_process_loses_nothing`] kills. Updates chunks for ever and says after each
/// update which chunk it was.
#[test]
#[ignore = "run by another test"]
fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let seed: u64 = std::env::var(CHILD_SEED).unwrap().parse().unwrap();
    runtime().block_on(async {
        let engine = Engine::create(real(), Path::new(&dir), child_options()).await.unwrap();
        tokio::spawn(Arc::clone(&engine).maintain());
        let tasks: Vec<_> =
            (0..8).map(|id| tokio::spawn(update_for_ever(Arc::clone(&engine), seed, id))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn update_for_ever(engine: Arc<Engine>, seed: u64, id: u8) {
    let mut steps = Steps::new(seed, id);
    loop {
        let step = steps.next();
        perform(&engine, &step).await.unwrap();
        steps.model.apply(&step);
        say(format!("done {id}\n"));
        tokio::task::yield_now().await;
    }
}

fn say(line: String) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The updates of a chunk, the same for the same seed.
struct Steps {
    model: Model,
    rng: StdRng,
    id: u8,
}

impl Steps {
    fn new(seed: u64, id: u8) -> Self {
        Steps { model: Model::default(), rng: StdRng::seed_from_u64(seed * 10 + u64::from(id)), id }
    }

    fn next(&mut self) -> support::Step {
        self.model.random_step_of(self.id, &mut self.rng, &[65_536, 131_072])
    }
}

#[test]
fn a_killed_process_loses_nothing() {
    let mut total = 0;
    for seed in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(CHILD_DIR, &target)
            .env(CHILD_SEED, seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Reads until so many updates are acknowledged, kills, reads what else was acknowledged.
        let mut done = [0u32; 8];
        let wanted = 100 + seed as u32 * 150;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // The test harness begins the first line.
            let id = line.rsplit_once("done ").and_then(|(_, id)| id.parse::<usize>().ok());
            let Some(id) = id else { continue };
            done[id] += 1;
            if done.iter().sum::<u32>() == wanted {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        total += done.iter().sum::<u32>();
        runtime().block_on(check_killed(&target, seed, &done));
    }
    println!("{total} updates");
}

async fn check_killed(target: &Path, seed: u64, done: &[u32; 8]) {
    let engine = Engine::open(real(), target, child_options()).await.unwrap();
    let mut all = Model::default();
    for (id, count) in done.iter().enumerate() {
        let mut steps = Steps::new(seed, id as u8);
        for _ in 0..*count {
            let step = steps.next();
            steps.model.apply(&step);
        }
        let name = [b'c', id as u8];
        let found = engine.get_meta(&name);
        // The update under way may have happened, and with it nothing else.
        if steps.model.metas().into_iter().next() != found {
            let step = steps.next();
            steps.model.apply(&step);
        }
        assert_eq!(steps.model.metas().into_iter().next(), found, "seed {seed}, chunk {id}");
        all.chunks.append(&mut steps.model.chunks);
    }
    all.check(&engine).await;
}

#[tokio::test]
async fn data_are_handed_out_without_copies_of_the_callers() {
    let dir = tempfile::tempdir().unwrap();
    let engine =
        Engine::create(real(), dir.path(), Options { reserve_bytes: 0, ..Options::new(1) }).await.unwrap();
    let data = Bytes::from(vec![7; 1 << 20]);
    engine.prepare(b"x", write(0, data.clone(), 1, 1 << 20)).await.unwrap();
    engine.commit(b"x", 1, 1).await.unwrap();
    let read = engine.read(b"x", 0, 1 << 20, false).await.unwrap();
    assert!(read.data == data);
    // Behind the table, in the middle of a page-aligned buffer.
    assert_eq!(read.data.as_ptr() as usize % 4096, 0);
}
