//! Writers that remember only what was acknowledged.

use crate::harness::Random;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const BLOCK: usize = 64 << 10;
const BLOCKS: u64 = 128;
/// Every so many updates a small file is written, synced and renamed.
const FILE_EVERY: u64 = 8;
const DIR: &str = "REAL_FAULTS_DIR";
const NUMBER: &str = "REAL_FAULTS_NUMBER";
const SEED: &str = "REAL_FAULTS_SEED";
const BLOCK_WORD: &str = "block";
const FILE_WORD: &str = "file";
/// Between updates, so that a fast machine does not fill its disk.
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
    stall: Mutex<Stall>,
}

struct Stall {
    since: Instant,
    longest: Duration,
}

/// A process that writes and says what was acknowledged. The test's own process must hold no file of the mounts: a
/// child that it starts would close it before it becomes another program, and wait for servers that it shall become.
pub struct Writer {
    shared: Arc<Shared>,
    child: Mutex<Child>,
    reader: std::thread::JoinHandle<()>,
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
            known: Mutex::new(Known { name: name(number), ..Known::default() }),
            count: AtomicU64::new(0),
            stall: Mutex::new(Stall { since: Instant::now(), longest: Duration::ZERO }),
        });
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["writer_process", "--exact", "--nocapture"])
            .env(DIR, dir)
            .env(NUMBER, number.to_string())
            .env(SEED, seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a writer");
        let (lines, theirs) = (BufReader::new(child.stdout.take().expect("piped")), Arc::clone(&shared));
        let reader = std::thread::spawn(move || {
            for line in lines.lines() {
                theirs.take(&line.expect("a writer's words"));
            }
        });
        Writer { shared, child: Mutex::new(child), reader }
    }

    /// Updates that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        let ended = self.child.lock().expect("child").try_wait().expect("wait");
        assert!(ended.is_none(), "a writer saw an error and ended ({ended:?}); its message is above");
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
        let mut child = self.child.into_inner().expect("child");
        drop(child.stdin.take());
        self.reader.join().expect("reader");
        let status = child.wait().expect("wait");
        assert!(status.success(), "a writer ended with {status}; its message is above");
        std::mem::take(&mut *self.shared.known.lock().expect("known"))
    }
}

impl Shared {
    /// One line of a writer: what was acknowledged, or the test program's own words.
    fn take(&self, line: &str) {
        let mut words = line.split(' ');
        let (kind, what, seed) =
            (words.next(), words.next(), words.next().and_then(|seed| seed.parse().ok()));
        let (Some(kind), Some(what), Some(seed)) = (kind, what, seed) else { return };
        match kind {
            BLOCK_WORD => {
                let block = what.parse().expect("number of a block");
                self.known.lock().expect("known").blocks.insert(block, seed);
            }
            FILE_WORD => {
                self.known.lock().expect("known").files.insert(what.to_owned(), seed);
            }
            _ => return,
        }
        self.count.fetch_add(1, Ordering::SeqCst);
        let mut stall = self.stall.lock().expect("stall");
        stall.longest = stall.longest.max(stall.since.elapsed());
        stall.since = Instant::now();
    }
}

fn name(number: u64) -> String {
    format!("data-{number}")
}

/// The writer's process: works until its input ends. Does nothing unless it was started as one.
pub fn work_if_asked() {
    let number = |key| std::env::var(key).ok().and_then(|text| text.parse::<u64>().ok());
    let (Some(dir), Some(number), Some(seed)) = (std::env::var_os(DIR), number(NUMBER), number(SEED)) else {
        return;
    };
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::SeqCst);
    });
    write(Path::new(&dir), number, seed, &stop);
}

fn acknowledge(kind: &str, what: &str, seed: u64) {
    let mut out = std::io::stdout().lock();
    // A leading line break, since the test program may be in the middle of a line of its own.
    out.write_all(format!("\n{kind} {what} {seed}\n").as_bytes()).expect("output");
    out.flush().expect("output");
}

fn write(dir: &Path, number: u64, seed: u64, stop: &AtomicBool) {
    let path = dir.join(name(number));
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).expect("create");
    let mut random = Random::seeded(seed);
    for round in 1.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let (block, seed) = (random.below(BLOCKS), random.next());
        file.write_all_at(&content(seed, BLOCK), block * BLOCK as u64).expect("write");
        file.sync_all().expect("fsync");
        acknowledge(BLOCK_WORD, &block.to_string(), seed);
        if round % FILE_EVERY == 0 {
            let name = format!("small-{number}-{}", random.below(50));
            let seed = random.next();
            write_small(&dir.join(format!("new-{number}-{round}")), &dir.join(&name), seed);
            acknowledge(FILE_WORD, &name, seed);
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
