//! Full disks.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rand::Rng;
use support::{Model, create, noise, open, perform, rng, small, write};
use valor_chunk_engine::{Engine, EngineError, Options, SyncMode, Tag, Update, UpdateKind};
use valor_env::disk::memory::{Fault, MemoryDisk, OpKind};
use valor_env::disk::{Disk, real};

/// Updates a model's engine until the disk is full, then shows that what needs no space still works, that removing
/// makes space again, and that nothing was lost.
async fn fill_and_recover(disk: Arc<dyn Disk>, dir: &Path, options: Options, seed: u64, rounds: usize) {
    let rng = &mut rng(seed);
    let mut model = Model::default();
    let mut engine = Engine::create(Arc::clone(&disk), dir, options.clone()).await.unwrap();
    for round in 0..rounds {
        let mut refused = 0;
        let mut next = 0u32;
        while refused < 40 {
            // New chunks, and overwrites of those there are.
            let exists = !model.chunks.is_empty() && rng.random_bool(0.5);
            let id = if exists {
                let skip = rng.random_range(0..model.chunks.len());
                model.chunks.keys().nth(skip).unwrap().clone()
            } else {
                next += 1;
                format!("{round}-{next}").into_bytes()
            };
            let chunk = model.chunks.get(&id).cloned().unwrap_or_default();
            let ver = chunk.committed.as_ref().map_or(1, |v| v.meta.ver + 1);
            let len = if exists { 4096 } else { rng.random_range(1..=65_536) };
            let step = support::Step::Prepare(id.clone(), write(0, noise(rng, len), ver, 65_536));
            if chunk.pending.is_none() {
                match perform(&engine, &step).await {
                    Ok(()) => model.apply(&step),
                    Err(EngineError::NoSpace(_)) => refused += 1,
                    Err(e) => panic!("{e}"),
                }
            }
            if rng.random_bool(0.8)
                && let Some((version, _)) = model.chunks.get(&id).and_then(|chunk| chunk.pending.clone())
            {
                // A commit is always possible.
                let step = support::Step::Commit(id, version.meta.ver, 1);
                perform(&engine, &step).await.unwrap();
                model.apply(&step);
            }
            if rng.random_bool(0.05) {
                match engine.work_off().await {
                    Ok(()) | Err(EngineError::NoSpace(_)) => {}
                    Err(e) => panic!("{e}"),
                }
            }
        }
        println!("full with {} chunks", model.chunks.len());
        model.check(&engine).await;
        if round % 2 == 0 {
            let closed = engine.close().await;
            assert!(closed.is_ok(), "{closed:?}");
            drop(engine);
            engine = Engine::open(Arc::clone(&disk), dir, options.clone()).await.unwrap();
            model.check(&engine).await;
        }
        let mut ids: Vec<Vec<u8>> = model.chunks.keys().cloned().collect();
        ids.retain(|_| rng.random_bool(0.7));
        for id in ids {
            let chunk = &model.chunks[&id];
            if let Some((version, _)) = &chunk.pending {
                let step = support::Step::Commit(id.clone(), version.meta.ver, 1);
                perform(&engine, &step).await.unwrap();
                model.apply(&step);
            }
            let ver = model.chunks[&id].committed.as_ref().unwrap().meta.ver + 1;
            let (kind, tag) = (UpdateKind::Remove, Tag::default());
            let update = Update { kind, ver, chain_ver: 1, chunk_size: 65_536, tag };
            for step in
                [support::Step::Prepare(id.clone(), update), support::Step::Commit(id.clone(), ver, 1)]
            {
                perform(&engine, &step).await.unwrap_or_else(|e| panic!("removal: {e}"));
                model.apply(&step);
            }
        }
        engine.work_off().await.unwrap();
        // There is space again.
        for i in 0..4 {
            let step =
                support::Step::Prepare(vec![b'n', round as u8, i], write(0, noise(rng, 65_536), 1, 65_536));
            perform(&engine, &step).await.unwrap();
            model.apply(&step);
        }
        model.check(&engine).await;
    }
}

#[tokio::test]
async fn a_full_disk_in_memory() {
    for (seed, sync) in [(1, SyncMode::Process), (2, SyncMode::Always), (3, SyncMode::Process)] {
        let disk = MemoryDisk::new(seed);
        disk.set_capacity(6 << 20);
        fill_and_recover(disk.handle(), &support::dir(), small(sync), seed, 4).await;
    }
}

#[tokio::test]
async fn the_reserve_is_left_alone() {
    let disk = MemoryDisk::new(1);
    disk.set_capacity(16 << 20);
    let options = Options { reserve_bytes: 8 << 20, ..small(SyncMode::Process) };
    fill_and_recover(disk.handle(), &support::dir(), options, 1, 3).await;
}

/// Each of an update's writes fails once for lack of space, or with an I/O error.
#[tokio::test]
async fn a_failing_write_loses_nothing_that_was_acknowledged() {
    for errno in [libc::ENOSPC, libc::EIO] {
        for sync in [SyncMode::Process, SyncMode::Always] {
            for seed in 0..150 {
                failing_write(seed, errno, sync).await;
            }
        }
    }
}

async fn failing_write(seed: u64, errno: i32, sync: SyncMode) {
    let rng = &mut <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let disk = MemoryDisk::new(seed);
    let engine = create(disk.handle(), small(sync)).await.unwrap();
    let mut model = Model::default();
    let kind = match rng.random_range(0..4) {
        0 => None,
        1 => Some(OpKind::Resize),
        _ => Some(OpKind::Write),
    };
    let name_contains = ["", "log", "data", "checkpoint"][rng.random_range(0..4)].to_owned();
    disk.inject(Fault { kind, name_contains, errno, after: rng.random_range(0..120), ..Fault::default() });
    let mut under_way = None;
    for _ in 0..120 {
        if rng.random_bool(0.1) {
            let _ = engine.work_off().await;
        }
        let step = model.random_step(rng, &[65_536]);
        match perform(&engine, &step).await {
            Ok(()) => model.apply(&step),
            Err(EngineError::NoSpace(_)) => assert_eq!(errno, libc::ENOSPC, "seed {seed}"),
            Err(EngineError::Io { .. } | EngineError::ReadOnly(_)) => {
                // Whether it happened is known after the next open.
                under_way.get_or_insert(step);
                break;
            }
            Err(e) => panic!("seed {seed}: {e}"),
        }
    }
    println!("seed {seed}, errno {errno}, {sync:?}, under way {under_way:?}");
    if under_way.is_none() {
        model.check(&engine).await;
    }
    println!("reopened");
    disk.restart();
    let engine = open(disk.handle(), small(sync)).await.unwrap();
    if engine.all_metas() != model.metas() {
        model.apply(&under_way.unwrap_or_else(|| panic!("seed {seed}")));
    }
    model.check(&engine).await;
}

/// A file system of its own, if this machine lets us make one.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&str], dir: &Path) -> Option<Mounted> {
        let done = Command::new("mount").args(arguments).arg(dir).output().ok()?;
        if !done.status.success() {
            println!("skipped, mount {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
            return None;
        }
        Some(Mounted(dir.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_tmpfs() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "-o", "size=12m", "tmpfs"], dir.path()) else {
        return;
    };
    for sync in [SyncMode::Process, SyncMode::Always] {
        let target = dir.path().join(format!("{sync:?}"));
        fill_and_recover(real(), &target, small(sync), 5, 3).await;
        std::fs::remove_dir_all(&target).unwrap();
    }
}

#[tokio::test]
async fn a_full_ext4() {
    let files = tempfile::tempdir().unwrap();
    let (image, dir) = (files.path().join("image"), files.path().join("mounted"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::File::create(&image).unwrap().set_len(24 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image).output();
    if !made.is_ok_and(|made| made.status.success()) {
        println!("skipped, no mkfs.ext4");
        return;
    }
    let Some(_mounted) = Mounted::new(&["-o", "loop", &image.to_string_lossy()], &dir) else { return };
    for sync in [SyncMode::Process, SyncMode::Always] {
        fill_and_recover(real(), &dir.join(format!("{sync:?}")), small(sync), 6, 2).await;
        std::fs::remove_dir_all(dir.join(format!("{sync:?}"))).unwrap();
    }
}
