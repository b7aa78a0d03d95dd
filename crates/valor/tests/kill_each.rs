//! kill -9 of each kind of process while writers run: everything acknowledged (fsync returned) is there afterwards.

mod harness;

use harness::{Cluster, Random, wait_until};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const BLOCK: usize = 64 << 10;
const FILES: u64 = 4;

#[test]
fn acknowledged_bytes_survive_kill_of_each_server() {
    let mut random = Random::new("kill_each");
    let mut cluster = Cluster::start(&[]);
    let writers: Vec<Writer> =
        (0..FILES).map(|n| Writer::start(&cluster.mount(), n, random.next())).collect();
    for kind in ["storage", "meta", "mgmtd", "storage", "storage"] {
        let before: Vec<u64> = writers.iter().map(Writer::acknowledged).collect();
        let pid = cluster.kill_one(kind, random.below(3) as usize);
        wait_until("the killed process to be replaced", || {
            let now = cluster.processes();
            now.len() == 6 && !now.iter().any(|(_, p)| *p == pid)
        });
        wait_until("every writer to go on after the kill", || {
            writers.iter().zip(&before).all(|(writer, before)| writer.acknowledged() > before + 5)
        });
    }
    for writer in writers {
        writer.stop_and_check();
    }
    cluster.down();
}

#[test]
fn a_killed_mount_loses_nothing_that_was_synced() {
    let mut random = Random::new("kill_mount");
    let mut cluster = Cluster::start(&[]);
    let path = cluster.mount().join("log");
    let data = random.bytes(3 << 20);
    let mut file = File::create(&path).expect("create");
    file.write_all(&data).expect("write");
    file.sync_all().expect("fsync");
    file.write_all(b"not acknowledged").expect("write");
    let pid = cluster.kill_one("mount", 0);
    drop(file);
    wait_until("the mount to come back", || {
        cluster.processes().iter().any(|(kind, p)| kind == "mount" && *p != pid)
            && std::fs::metadata(&path).is_ok()
    });
    let read = std::fs::read(&path).expect("read");
    assert!(read.starts_with(&data), "{} bytes", read.len());
    cluster.down();
}

#[test]
fn who_waits_for_a_server_can_be_killed() {
    let mut cluster = Cluster::start(&[]);
    let mount = cluster.mount();
    let meta = cluster.processes().into_iter().find(|(kind, _)| kind == "meta").expect("a meta process").1;
    let signal = |name: &str| harness::run("kill", &[name, &meta.to_string()]);
    signal("-STOP");
    let mut waits = std::process::Command::new("mkdir").arg(mount.join("dir")).spawn().expect("mkdir");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(waits.try_wait().expect("wait").is_none(), "it waits for the stopped server");
    waits.kill().expect("kill");
    wait_until("the killed process to end", || waits.try_wait().expect("wait").is_some());
    signal("-CONT");
    std::fs::create_dir(mount.join("another")).expect("the server answers again");
    cluster.down();
}

/// Writes random blocks at random places of one file, fsyncs, and only then remembers them.
struct Writer {
    path: PathBuf,
    known: Arc<Mutex<BTreeMap<u64, Vec<u8>>>>,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Writer {
    fn start(dir: &Path, number: u64, seed: u64) -> Self {
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

    fn acknowledged(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn stop_and_check(self) {
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
