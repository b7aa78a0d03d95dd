//! Writers whose every block is synced before it counts.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const BLOCK: usize = 64 << 10;

/// Writes random blocks at random places of one file, fsyncs, and only then remembers them.
pub struct Writer {
    path: PathBuf,
    known: Arc<Mutex<BTreeMap<u64, Vec<u8>>>>,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Writer {
    /// Starts with a file of its own in `dir`.
    pub fn start(dir: &Path, number: u64, seed: u64) -> Self {
        let path = dir.join(format!("file-{number}"));
        let known = Arc::new(Mutex::new(BTreeMap::new()));
        let count = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (path, known, count, stop) =
                (path.clone(), Arc::clone(&known), Arc::clone(&count), Arc::clone(&stop));
            move || write_until(&path, seed, &known, &count, &stop)
        });
        Self { path, known, count, stop, thread }
    }

    /// Blocks that are there for good.
    pub fn acknowledged(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    pub fn stop_and_check(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the writer saw no error");
        let mut file = File::open(&self.path).expect("open");
        let known = self.known.lock().expect("not poisoned");
        assert!(!known.is_empty());
        let mut buffer = vec![0; BLOCK];
        for (offset, data) in known.iter() {
            file.seek(SeekFrom::Start(*offset)).expect("seek");
            file.read_exact(&mut buffer).expect("read");
            assert!(buffer == *data, "{}: block at {offset} differs", self.path.display());
        }
    }
}

fn write_until(
    path: &Path,
    seed: u64,
    known: &Mutex<BTreeMap<u64, Vec<u8>>>,
    count: &AtomicU64,
    stop: &AtomicBool,
) {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path).expect("create");
    let mut state = seed;
    while !stop.load(Ordering::SeqCst) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let offset = (state >> 33) % 256 * BLOCK as u64;
        let data: Vec<u8> =
            (0..BLOCK as u64).map(|i| (state.wrapping_add(i.wrapping_mul(i | 1)) >> 13) as u8).collect();
        file.write_all_at(&data, offset).expect("write");
        file.sync_all().expect("fsync");
        known.lock().expect("not poisoned").insert(offset, data);
        count.fetch_add(1, Ordering::SeqCst);
    }
}
