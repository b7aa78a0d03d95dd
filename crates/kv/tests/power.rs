//! Power failures: a disk that keeps what was synced and may lose everything else.
//!
//! This test program has its own `fsync` and `fdatasync`, which the standard library calls. They note what a synced file held and
//! what a synced directory named. From that, [`Disk::image`] makes a directory as a power failure could leave it: of every file
//! either what was last synced or what was written since, of every directory the entries that were last synced.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{c_int, c_long};
use std::fs::{self, File, Metadata};
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tempfile::TempDir;
use valor_env::Env;
use valor_kv::{Database, Durability, EmbeddedOptions, KvError, LocalOptions};

#[path = "../src/random.rs"]
#[allow(dead_code)]
mod random;

use random::{Random, seed_from_env};

/// A file, whatever its name; inode numbers are used again.
type Id = (u64, Option<SystemTime>);

fn id(metadata: &Metadata) -> Id {
    (metadata.ino(), metadata.created().ok())
}

/// What was synced so far, of all files of this program.
#[derive(Default)]
struct Disk {
    contents: HashMap<Id, Vec<u8>>,
    directories: HashMap<Id, BTreeMap<PathBuf, (Id, bool)>>,
    syncs: u64,
}

static DISK: Mutex<Option<Disk>> = Mutex::new(None);

fn disk() -> MutexGuard<'static, Option<Disk>> {
    DISK.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// The C library's function, with notes taken.
///
/// # Safety
/// As the C library's: none beyond passing a descriptor.
#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    note_sync(fd);
    // SAFETY: fsync (74 on x86-64, 82 on arm64) takes a descriptor and touches no memory.
    (unsafe { syscall(if cfg!(target_arch = "x86_64") { 74 } else { 82 }, fd) }) as c_int
}

/// The C library's function, with notes taken.
///
/// # Safety
/// As the C library's: none beyond passing a descriptor.
#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    note_sync(fd);
    // SAFETY: fdatasync (75 on x86-64, 83 on arm64) takes a descriptor and touches no memory.
    (unsafe { syscall(if cfg!(target_arch = "x86_64") { 75 } else { 83 }, fd) }) as c_int
}

/// Notes what is being synced: what is written during the sync is not promised.
fn note_sync(fd: RawFd) {
    let path = PathBuf::from(format!("/proc/self/fd/{fd}"));
    let (Ok(metadata), mut disk) = (fs::metadata(&path), disk()) else { return };
    let disk = disk.get_or_insert_default();
    disk.syncs += 1;
    if metadata.is_dir() {
        let entries = fs::read_dir(&path).into_iter().flatten().flatten().filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some((entry.file_name().into(), (id(&metadata), metadata.is_dir())))
        });
        disk.directories.insert(id(&metadata), entries.collect());
    } else if let Ok(content) = fs::read(&path) {
        disk.contents.insert(id(&metadata), content);
    }
}

impl Disk {
    /// Writes to `to` what a power failure could leave of the directory `from`.
    fn image(&self, from: &Path, to: &Path, random: &mut Random) {
        let Ok(metadata) = fs::metadata(from) else { return };
        for (name, (file, is_dir)) in self.directories.get(&id(&metadata)).into_iter().flatten() {
            let (source, target) = (from.join(name), to.join(name));
            if *is_dir {
                fs::create_dir_all(&target).unwrap();
                self.image(&source, &target, random);
                continue;
            }
            let synced = self.contents.get(file).cloned().unwrap_or_default();
            let now =
                fs::read(&source).ok().filter(|_| fs::metadata(&source).is_ok_and(|now| id(&now) == *file));
            let content = match now {
                Some(now) if random.below(2) == 0 => {
                    // Written back without being asked for, perhaps not all of it.
                    let from = synced.len().min(now.len()) as u64;
                    let grown = now.len() as u64 - from;
                    let end = if random.below(2) == 0 { grown } else { random.below(grown + 1) };
                    now[..(from + end) as usize].to_vec()
                }
                _ => synced,
            };
            fs::write(target, content).unwrap();
        }
    }
}

fn image_of(dir: &Path, random: &mut Random) -> TempDir {
    let image = TempDir::new().unwrap();
    disk().as_ref().expect("something was synced").image(dir, image.path(), random);
    reboot(image.path());
    image
}

fn sync_all(path: &Path) {
    File::open(path).and_then(|file| file.sync_all()).unwrap();
    for entry in fs::read_dir(path).into_iter().flatten() {
        sync_all(&entry.unwrap().path());
    }
}

/// A power failure is followed by a boot, which the state file tells apart.
fn reboot(dir: &Path) {
    let path = dir.join("STATE");
    let Ok(mut state) = fs::read(&path) else { return };
    if state.len() == 64 {
        state[8..24].fill(0xab);
        let crc = crc32c::crc32c(&state[..56]);
        state[56..60].copy_from_slice(&crc.to_le_bytes());
        fs::write(path, state).unwrap();
    }
}

fn open(dir: &Path, durability: Durability) -> Result<Database, KvError> {
    // Small memtables, so that failures also meet tables being written and merged.
    let options = EmbeddedOptions { memtable_bytes: 30 << 10, ..EmbeddedOptions::default() };
    Database::open_with(Env::real(), dir, durability, &options, &LocalOptions::default())
}

const WRITERS: usize = 3;
const ROWS: u64 = 10;

fn row(n: u64) -> Vec<u8> {
    n.to_be_bytes().repeat(if n.is_multiple_of(29) { 1000 } else { 30 })
}

/// Commits of one writer until it is told to stop; tells how far it is.
async fn write(db: Database, writer: usize, acked: Arc<[AtomicU64; WRITERS]>, stop: Arc<AtomicU64>) {
    let mut n = acked[writer].load(Ordering::Acquire);
    while stop.load(Ordering::Relaxed) == 0 {
        n += 1;
        let tx = db.begin();
        tx.set(format!("{writer}/count"), n.to_be_bytes());
        tx.set(format!("{writer}/row/{n:09}"), row(n));
        tx.clear(format!("{writer}/row/{:09}", n.saturating_sub(ROWS)));
        tx.commit().await.unwrap();
        acked[writer].store(n, Ordering::Release);
        tokio::task::yield_now().await;
    }
}

/// Checks that each writer's commits are there up to one of them, and not after; returns up to which.
async fn counts(db: &Database) -> [u64; WRITERS] {
    let tx = db.begin();
    let mut counts = [0; WRITERS];
    for (writer, count) in counts.iter_mut().enumerate() {
        let stored = tx.get(format!("{writer}/count")).await.unwrap();
        *count = stored.map_or(0, |value| u64::from_be_bytes(value[..].try_into().unwrap()));
        let items = tx.get_prefix(format!("{writer}/row/"), 1000).await.unwrap().items;
        let expected = (count.saturating_sub(ROWS) + 1..=*count).filter(|n| *n > 0);
        let rows: Vec<_> = items.iter().map(|entry| (entry.key.to_vec(), entry.value.to_vec())).collect();
        let expected: Vec<_> =
            expected.map(|n| (format!("{writer}/row/{n:09}").into_bytes(), row(n))).collect();
        assert!(rows == expected, "writer {writer}: rows differ at commit {count}");
    }
    counts
}

async fn lose_power_often(durability: Durability) {
    let seed = seed_from_env(0x5eed_0007);
    println!("seed {seed:#x} (KV_SEED)");
    let mut random = Random::new(seed);
    let mut dir = TempDir::new().unwrap();
    let mut failures_with_loss = 0;
    for round in 0..6 {
        let db = open(dir.path(), durability).unwrap();
        let acked = Arc::new(counts(&db).await.map(AtomicU64::new));
        let stop = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (db, acked, stop) = (db.clone(), acked.clone(), stop.clone());
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(write(db, writer, acked, stop));
                })
            })
            .collect();
        let mut next_dir = None;
        for failure in 0..12 {
            let until = acked[0].load(Ordering::Acquire) + random.below(60);
            while acked[0].load(Ordering::Acquire) < until {
                std::thread::yield_now();
            }
            let promised = acked.each_ref().map(|count| count.load(Ordering::Acquire));
            let image = image_of(dir.path(), &mut random);
            let what = format!("round {round}, failure {failure}");
            let survivor = open(image.path(), durability).unwrap_or_else(|error| panic!("{what}: {error}"));
            let found = counts(&survivor).await;
            let lost = found.iter().zip(&promised).any(|(found, promised)| found < promised);
            failures_with_loss += usize::from(lost);
            assert!(!lost || durability == Durability::Process, "{what}: {found:?} left of {promised:?}");
            survivor.verify().await.unwrap();
            drop(survivor);
            next_dir = Some(image);
        }
        stop.store(1, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
        drop(db);
        // The next round goes on from a survivor, which is on the disk since it was read from there.
        dir = next_dir.expect("there were failures");
        sync_all(dir.path());
    }
    // Otherwise the disk would lose nothing, and the test show nothing.
    assert_eq!(failures_with_loss > 0, durability == Durability::Process);
}

#[tokio::test]
async fn synced_commits_survive_power_failures() {
    lose_power_often(Durability::Always).await;
}

#[tokio::test]
async fn unsynced_commits_are_lost_from_the_end_and_as_a_whole() {
    lose_power_often(Durability::Process).await;
}

#[tokio::test]
async fn a_power_failure_during_creation_leaves_a_database_or_none() {
    let mut random = Random::new(1);
    for _ in 0..30 {
        let dir = TempDir::new().unwrap();
        let target = dir.path().to_owned();
        let creating = std::thread::spawn(move || drop(open(&target, Durability::Always).unwrap()));
        while !creating.is_finished() {
            let image = image_of_any(dir.path(), &mut random);
            let db = open(image.path(), Durability::Always).unwrap();
            assert_eq!(counts(&db).await, [0; WRITERS]);
        }
        creating.join().unwrap();
    }
}

/// Like [`image_of`], of a directory of which nothing may have been synced.
fn image_of_any(dir: &Path, random: &mut Random) -> TempDir {
    File::open(dir).and_then(|dir| dir.sync_all()).unwrap();
    image_of(dir, random)
}
