//! Writers that remember only what was acknowledged.

use crate::harness::Random;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const BLOCK: usize = 64 << 10;
const BLOCKS: u64 = 128;
/// Every so many updates a small file is written, synced and renamed.
const FILE_EVERY: u64 = 8;
/// Updates per second at most, so that a fast machine does not fill its disk.
const PAUSE: Duration = Duration::from_millis(5);

/// What must be there: names below the mount, not paths.
#[derive(Default)]
pub struct Known {
    name: String,
    /// Block number to the seed of its content.
    blocks: BTreeMap<u64, u64>,
    /// File name to the seed of its content.
    files: BTreeMap<String, u64>,
}

struct Shared {
    known: Mutex<Known>,
    count: AtomicU64,
    stop: AtomicBool,
    stall: Mutex<Stall>,
}

struct Stall {
    since: Instant,
    longest: Duration,
}

/// A thread that writes.
pub struct Writer {
    shared: Arc<Shared>,
    thread: std::thread::JoinHandle<()>,
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn file_len(seed: u64) -> usize {
    1 + (seed % 20_000) as usize
}

impl Writer {
    /// Begins to write below `dir`.
    pub fn start(dir: &Path, number: u64, seed: u64) -> Writer {
        let shared = Arc::new(Shared {
            known: Mutex::new(Known { name: format!("data-{number}"), ..Known::default() }),
            count: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            stall: Mutex::new(Stall { since: Instant::now(), longest: Duration::ZERO }),
        });
        let (dir, theirs) = (dir.to_path_buf(), Arc::clone(&shared));
        let thread = std::thread::spawn(move || write(&dir, number, seed, &theirs));
        Writer { shared, thread }
    }

    /// Updates that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        assert!(!self.thread.is_finished(), "a writer saw an error; its panic message is above");
        self.shared.count.load(Ordering::SeqCst)
    }

    /// Begins to measure stalls anew.
    pub fn forget_stall(&self) {
        *self.shared.stall.lock().expect("stall") = Stall { since: Instant::now(), longest: Duration::ZERO };
    }

    /// The longest time without an acknowledged update.
    pub fn longest_stall(&self) -> Duration {
        let stall = self.shared.stall.lock().expect("stall");
        stall.longest.max(stall.since.elapsed())
    }

    /// Ends it; returns what must be there.
    pub fn stop(self) -> Known {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the writer saw no error");
        std::mem::take(&mut *self.shared.known.lock().expect("known"))
    }
}

impl Shared {
    fn acknowledge(&self, note: impl FnOnce(&mut Known)) {
        note(&mut self.known.lock().expect("known"));
        self.count.fetch_add(1, Ordering::SeqCst);
        let mut stall = self.stall.lock().expect("stall");
        stall.longest = stall.longest.max(stall.since.elapsed());
        stall.since = Instant::now();
    }
}

fn write(dir: &Path, number: u64, seed: u64, shared: &Shared) {
    let path = dir.join(format!("data-{number}"));
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).expect("create");
    let mut random = Random::seeded(seed);
    for round in 1.. {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let (block, seed) = (random.below(BLOCKS), random.next());
        file.write_all_at(&content(seed, BLOCK), block * BLOCK as u64).expect("write");
        file.sync_all().expect("fsync");
        shared.acknowledge(|known| {
            known.blocks.insert(block, seed);
        });
        if round % FILE_EVERY == 0 {
            let name = format!("small-{number}-{}", random.below(50));
            let seed = random.next();
            write_small(&dir.join(format!("new-{number}-{round}")), &dir.join(&name), seed);
            shared.acknowledge(|known| {
                known.files.insert(name, seed);
            });
        }
        std::thread::sleep(PAUSE);
    }
}

fn write_small(temporary: &Path, path: &Path, seed: u64) {
    let file = File::create_new(temporary).expect("create a new file");
    file.write_all_at(&content(seed, file_len(seed)), 0).expect("write");
    file.sync_all().expect("fsync");
    std::fs::rename(temporary, path).expect("rename");
}

impl Known {
    /// Everything is there, as this mount sees it.
    pub fn check(&self, mount: &Path) {
        assert!(!self.blocks.is_empty() && !self.files.is_empty(), "nothing was written");
        let path: PathBuf = mount.join(&self.name);
        let file = File::open(&path).expect("open");
        let mut buffer = vec![0; BLOCK];
        for (block, seed) in &self.blocks {
            file.read_exact_at(&mut buffer, block * BLOCK as u64).expect("read");
            assert!(buffer == content(*seed, BLOCK), "{}: block {block} differs", path.display());
        }
        for (name, seed) in &self.files {
            let bytes = std::fs::read(mount.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(bytes == content(*seed, file_len(*seed)), "{name} differs");
        }
    }
}
