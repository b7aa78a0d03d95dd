//! The disk stops in the middle of a change; the process, or the whole machine, starts again.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use support::{Chunk, Model, Step, checksum, create, dir, noise, open, perform, pieces, rng, small};
use valor_chunk_engine::{Engine, EngineError, Options, SyncMode, Tag, Update, UpdateKind};
use valor_env::disk::memory::MemoryDisk;

const SIZES: [u32; 2] = [65_536, 131_072];

/// How things go on after the disk has stopped.
#[derive(Debug, Clone, Copy)]
enum After {
    /// The process was killed; the page cache is complete.
    Restart,
    /// The machine lost power; each unsynced page survived with this probability.
    PowerLoss(f64),
}

fn revive(disk: &MemoryDisk, after: After) {
    match after {
        After::Restart => disk.restart(),
        After::PowerLoss(keep) => disk.lose_power(keep),
    }
}

/// Models that are allowed after a crash: without and with the step that was under way.
struct Outcome {
    before: Model,
    under_way: Option<Step>,
}

impl Outcome {
    fn allowed(&self) -> Vec<Model> {
        let mut with = self.before.clone();
        if let Some(step) = &self.under_way {
            with.apply(step);
        }
        vec![self.before.clone(), with]
    }
}

/// Random steps on a new engine until the disk stops or they are done.
async fn work(disk: &MemoryDisk, options: &Options, rng: &mut StdRng, steps: usize) -> Outcome {
    let mut outcome = Outcome { before: Model::default(), under_way: None };
    let Ok(engine) = create(disk.handle(), options.clone()).await else {
        assert!(disk.stopped());
        return outcome;
    };
    go_on(disk, &engine, &mut outcome, rng, steps).await;
    outcome
}

async fn go_on(
    disk: &MemoryDisk,
    engine: &Arc<Engine>,
    outcome: &mut Outcome,
    rng: &mut StdRng,
    steps: usize,
) {
    for _ in 0..steps {
        let done = match rng.random_range(0..20) {
            0 => engine.work_off().await,
            1 if rng.random_bool(0.1) => engine.settle().await,
            _ => {
                let step = outcome.before.random_step(rng, &SIZES);
                outcome.under_way = Some(step.clone());
                let done = perform(engine, &step).await;
                if done.is_ok() {
                    outcome.before.apply(&step);
                    outcome.under_way = None;
                }
                done
            }
        };
        if let Err(e) = done {
            assert!(disk.stopped(), "{e}");
            return;
        }
    }
    let closed = engine.close().await;
    assert!(closed.is_ok() || disk.stopped());
}

/// Opens after a crash and checks that what was acknowledged is there.
async fn check_after(
    disk: &MemoryDisk,
    options: &Options,
    outcome: &Outcome,
) -> Option<(Arc<Engine>, Model)> {
    let allowed = outcome.allowed();
    if !Engine::exists(&disk.handle(), &dir()).await.unwrap() {
        assert!(outcome.before.chunks.is_empty());
        create(disk.handle(), options.clone()).await.unwrap();
        return None;
    }
    let engine = open(disk.handle(), options.clone()).await.unwrap_or_else(|e| panic!("open: {e}"));
    let found = engine.all_metas();
    let model = allowed.into_iter().find(|model| model.metas() == found);
    let model = model.unwrap_or_else(|| {
        panic!("found {found:#?}\nexpected {:#?}\nunder way {:?}", outcome.before.metas(), outcome.under_way)
    });
    model.check(&engine).await;
    Some((engine, model))
}

/// Stops the disk at a change, lets it come back, checks; then works on and crashes while recovering, too.
async fn crash_at(seed: u64, stop: u64, steps: usize, options: &Options, after: After) -> bool {
    let rng = &mut <StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let disk = MemoryDisk::new(seed ^ stop);
    if matches!(after, After::PowerLoss(_)) {
        disk.set_write_back(0.1);
    }
    disk.stop_at(stop);
    let outcome = work(&disk, options, rng, steps).await;
    if !disk.stopped() {
        return false;
    }
    revive(&disk, after);
    // Recovery may be interrupted as well.
    for recovery_stop in 0..3 {
        disk.stop_at(disk.counts().changes + recovery_stop * 3 + stop % 3);
        if open(disk.handle(), options.clone()).await.is_ok() && !disk.stopped() {
            break;
        }
        revive(&disk, after);
    }
    revive(&disk, After::Restart);
    let Some((engine, model)) = check_after(&disk, options, &outcome).await else { return true };
    // What is recovered can be worked with, and is there after the next open.
    let mut outcome = Outcome { before: model, under_way: None };
    disk.stop_at(disk.counts().changes + stop % 50);
    go_on(&disk, &engine, &mut outcome, rng, 20).await;
    revive(&disk, after);
    check_after(&disk, options, &outcome).await;
    true
}

async fn crash_everywhere(seeds: std::ops::Range<u64>, steps: usize, options: Options, afters: &[After]) {
    for seed in seeds {
        println!("seed {seed}");
        let mut stop = 0;
        loop {
            let after = afters[(stop as usize + seed as usize) % afters.len()];
            let context = format!("seed {seed}, stop {stop}, {after:?}");
            let context = Context(&context);
            if !crash_at(seed, stop, steps, &options, after).await {
                break;
            }
            std::mem::forget(context);
            stop += 1;
        }
        println!("{stop} crash points");
    }
}

/// Says where a panic happened.
struct Context<'a>(&'a str);

impl Drop for Context<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("at {}", self.0);
        }
    }
}

fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let get = |name: &str, default| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let first = get("VALOR_SEED", first);
    first..first + get("VALOR_SEEDS", count)
}

#[tokio::test]
async fn acknowledged_updates_survive_a_kill() {
    crash_everywhere(seeds(1, 6), 100, small(SyncMode::Process), &[After::Restart]).await;
}

#[tokio::test]
async fn acknowledged_updates_survive_power_loss_with_sync_always() {
    let afters = [After::PowerLoss(0.0), After::PowerLoss(0.5), After::PowerLoss(0.9), After::Restart];
    crash_everywhere(seeds(1, 4), 100, small(SyncMode::Always), &afters).await;
}

/// All contents a chunk ever had under a version.
type History = HashMap<(Vec<u8>, u32), Vec<bytes::Bytes>>;

/// With sync to the process only, a power loss may take updates back and damage chunks, but what is read is what was
/// once written, or an error.
#[tokio::test]
async fn power_loss_without_sync_is_noticed_where_it_hurts() {
    let (mut damaged, mut intact, mut taken_back) = (0, 0, 0);
    for seed in seeds(1, 40) {
        let rng = &mut rng(seed);
        let disk = MemoryDisk::new(seed);
        disk.set_write_back(0.2);
        let options = small(SyncMode::Process);
        let engine = create(disk.handle(), options.clone()).await.unwrap();
        let (mut model, mut history) = (Model::default(), History::new());
        for _ in 0..rng.random_range(50..400) {
            if rng.random_bool(0.1) {
                engine.work_off().await.unwrap();
            }
            let step = model.random_step(rng, &SIZES);
            perform(&engine, &step).await.unwrap();
            model.apply(&step);
            if let Some(Chunk { committed, pending, .. }) = model.chunks.get(step.id()) {
                for version in committed.iter().chain(pending.iter().map(|(version, _)| version)) {
                    let known = history.entry((step.id().to_vec(), version.meta.ver)).or_default();
                    if !known.contains(&version.data) {
                        known.push(version.data.clone());
                    }
                }
            }
        }
        for (crash, keep) in [0.0, 0.5, 0.5, 0.9].into_iter().enumerate() {
            let disk = disk.snapshot(seed * 10 + crash as u64);
            disk.lose_power(keep);
            let engine =
                open(disk.handle(), options.clone()).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            taken_back += usize::from(engine.all_metas() != model.metas());
            for meta in engine.all_metas() {
                let id = meta.id.as_bytes();
                let committed = meta.committed.map(|version| (version, false));
                let pending = meta.pending.filter(|p| !p.removes).map(|p| (p.version, true));
                for (version, uncommitted) in committed.into_iter().chain(pending) {
                    for offset in (0..version.length).step_by(4096) {
                        // Parts, too, are of that version: here no checksum of the whole helps.
                        let Ok(read) = engine.read(id, offset, 4096, uncommitted).await else { continue };
                        let known = &history[&(id.to_vec(), version.ver)];
                        let at = offset as usize..offset as usize + read.data.len();
                        let same = |data: &bytes::Bytes| data.get(at.clone()) == Some(&read.data[..]);
                        assert!(known.iter().any(same), "seed {seed}, chunk {}, {at:?}", meta.id);
                    }
                    match engine.read(id, 0, u32::MAX, uncommitted).await {
                        Ok(read) => {
                            assert_eq!(read.checksum, version.checksum);
                            let known = &history[&(id.to_vec(), version.ver)];
                            assert!(known.contains(&read.data), "seed {seed}, chunk {}", meta.id);
                            intact += 1;
                        }
                        Err(EngineError::Corrupt { .. }) => damaged += 1,
                        Err(e) => panic!("seed {seed}: {e}"),
                    }
                }
                // A copy from another replica repairs it.
                let data = noise(rng, 10_000);
                let kind = UpdateKind::Replace { checksum: Some(checksum(&data)), data: pieces(rng, &data) };
                let (chunk_size, tag) = (meta.chunk_size, Tag::default());
                engine.prepare(id, Update { kind, ver: 77, chain_ver: 2, chunk_size, tag }).await.unwrap();
                engine.commit(id, 77, 2).await.unwrap();
                engine.scrub(id).await.unwrap();
            }
        }
    }
    println!("{intact} intact, {damaged} damaged, {taken_back} of {} taken back", seeds(1, 40).count() * 4);
    assert!(intact > damaged && damaged > 0 && taken_back > 0);
}

/// One chunk's state for certain, and the step under way.
type Ledger = Arc<Mutex<BTreeMap<Vec<u8>, (Model, Option<Step>)>>>;

/// Updates one chunk until the disk stops.
async fn update_one(engine: Arc<Engine>, disk: MemoryDisk, id: u8, seed: u64, steps: usize, ledger: Ledger) {
    let rng = &mut <StdRng as rand::SeedableRng>::seed_from_u64(seed * 100 + u64::from(id));
    let mut model = ledger.lock().get(&vec![b'c', id]).map(|(model, _)| model.clone()).unwrap_or_default();
    for _ in 0..steps {
        let step = model.random_step_of(id, rng, &SIZES);
        ledger.lock().insert(vec![b'c', id], (model.clone(), Some(step.clone())));
        if let Err(e) = perform(&engine, &step).await {
            assert!(disk.stopped(), "chunk {id}: {e}");
            return;
        }
        model.apply(&step);
        ledger.lock().insert(vec![b'c', id], (model.clone(), None));
        let read = engine.read(step.id(), 0, u32::MAX, false).await;
        let committed = model.chunks.get(step.id()).and_then(|chunk| chunk.committed.as_ref());
        match (read, committed) {
            (Ok(read), Some(version)) => assert!(read.data == version.data),
            (Err(EngineError::NotFound(_)), None) => {}
            (Err(_), _) if disk.stopped() => return,
            (read, _) => panic!("{read:?}"),
        }
    }
}

async fn concurrent(seed: u64, options: Options, after: After) {
    let disk = MemoryDisk::new(seed);
    let engine = create(disk.handle(), options.clone()).await.unwrap();
    drop(engine);
    disk.restart();
    disk.set_polls(4);
    let ledger = Ledger::default();
    for round in 0..6 {
        let context = format!("seed {seed}, round {round}, {after:?}");
        let context = Context(&context);
        disk.set_polls(0);
        let engine = open(disk.handle(), options.clone()).await.unwrap_or_else(|e| panic!("open: {e}"));
        let mut merged = Model::default();
        for (id, (before, under_way)) in &mut *ledger.lock() {
            let found = engine.get_meta(id);
            let outcome = Outcome { before: before.clone(), under_way: under_way.take() };
            let mut allowed = outcome.allowed().into_iter();
            let model = allowed.find(|model| model.metas().into_iter().next() == found);
            *before =
                model.unwrap_or_else(|| panic!("found {found:#?}, expected {:#?}", outcome.before.metas()));
            merged.chunks.append(&mut before.chunks.clone());
        }
        merged.check(&engine).await;
        disk.set_polls(4);
        // In every third round soon after the open, while traces of the last crash may still be there.
        let distance = if round % 3 == 2 { seed % 12 } else { seed % 97 + round * 61 };
        disk.stop_at(disk.counts().changes + distance);
        let maintained = tokio::spawn(Arc::clone(&engine).maintain());
        let tasks: Vec<_> = (0..8)
            .map(|id| {
                let (engine, disk, ledger) = (Arc::clone(&engine), disk.clone(), Arc::clone(&ledger));
                tokio::spawn(update_one(engine, disk, id, seed + round, 60, ledger))
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        maintained.abort();
        // What a power loss left behind must not confuse what a kill leaves later.
        revive(&disk, if round % 3 == 2 { After::Restart } else { after });
        std::mem::forget(context);
    }
}

#[tokio::test]
async fn concurrent_updates_survive_crashes() {
    for seed in seeds(1, 10) {
        concurrent(seed, small(SyncMode::Process), After::Restart).await;
        concurrent(seed, small(SyncMode::Always), After::PowerLoss(0.5)).await;
        concurrent(seed, small(SyncMode::Always), After::PowerLoss(0.0)).await;
    }
}

/// A checkpoint is written while chunks change, and refers to nothing that a power loss can take back: the engine
/// opens whatever was lost.
#[tokio::test]
async fn checkpoints_during_updates_do_not_outlive_the_log() {
    for seed in seeds(1, 60) {
        let disk = MemoryDisk::new(seed);
        let options = small(SyncMode::Process);
        let engine = create(disk.handle(), options.clone()).await.unwrap();
        disk.set_polls(6);
        disk.set_write_back(0.05);
        disk.stop_at(disk.counts().changes + 20 + seed * 7);
        let ledger = Ledger::default();
        let tasks: Vec<_> = (0..6)
            .map(|id| tokio::spawn(update_one(engine.clone(), disk.clone(), id, seed, 100, ledger.clone())))
            .collect();
        while !disk.stopped() && tasks.iter().any(|task| !task.is_finished()) {
            let settled = engine.settle().await;
            assert!(settled.is_ok() || disk.stopped(), "seed {seed}: {settled:?}");
        }
        for task in tasks {
            task.await.unwrap();
        }
        disk.set_polls(0);
        disk.lose_power(if seed % 2 == 0 { 0.0 } else { 0.5 });
        let engine = open(disk.handle(), options).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        for meta in engine.all_metas() {
            let scrubbed = engine.scrub(meta.id.as_bytes()).await;
            assert!(
                matches!(scrubbed, Ok(()) | Err(EngineError::Corrupt { .. })),
                "seed {seed}: {scrubbed:?}"
            );
        }
    }
}
