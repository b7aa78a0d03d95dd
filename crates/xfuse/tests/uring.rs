//! The tests of operations and faults through FUSE over io_uring, and what is particular to it.

mod common;

#[path = "bodies/faults.rs"]
mod faults;
#[path = "bodies/in_place.rs"]
mod in_place;
#[path = "bodies/operations.rs"]
mod operations;

use common::memfs::{MemFs, Options};
use common::{can_mount, eventually};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};
use xfuse::abi::{InitFlags, Opcode};
use xfuse::request::{Getattr, Lookup, Open, Read};
use xfuse::stats::WaitStats;
use xfuse::{
    Attr, Context, Data, Entry, Errno, Filesystem, Mix, Opened, Session, SessionBuilder, Transport,
    WaitPolicy, abi,
};

fn builder(fs: impl Filesystem) -> SessionBuilder<impl Filesystem> {
    Session::builder(fs).transport(Transport::Uring)
}

fn end(session: &Session) {
    session.unmount().unwrap();
    eventually("the end of the session", || session.is_ended());
    session.wait();
}

#[test]
fn requests_use_the_queues_and_forgets_the_device() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let session = builder(MemFs::new(Options::default())).mount(dir.path()).unwrap();
    assert_eq!(session.transport().transport, Transport::Uring, "{:?}", session.transport());
    assert!(session.negotiated().flags.contains(InitFlags::OVER_IO_URING));
    for number in 0..200 {
        let path = dir.path().join(format!("f{number}"));
        fs::write(&path, vec![number as u8; 300_000]).unwrap();
        assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == number as u8));
        fs::remove_file(&path).unwrap();
    }
    let stats = session.stats().clone();
    eventually("forgets", || {
        let seen = stats.snapshot();
        seen.count(Opcode::Forget) + seen.count(Opcode::BatchForget) > 0
    });
    let waits = WaitStats::sum(&session.stats().snapshot().channels);
    assert!(waits.req_fuse + waits.req_xfuse > 1000, "{waits:?}");
    end(&session);
}

#[test]
fn every_cpu_is_served_and_no_pinned_queue_spins() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fs = MemFs::new(Options { direct_io: true, ..Options::default() });
    let wait = WaitPolicy { mix: Mix::XFUSE, cpu_budget: 1.0, ..WaitPolicy::default() };
    let session = builder(fs).wait(wait).mount(dir.path()).unwrap();
    fs::write(dir.path().join("f"), vec![1; 8192]).unwrap();
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    std::thread::scope(|scope| {
        for cpu in cpus {
            let path = dir.path().join("f");
            scope.spawn(move || {
                let mut set = rustix::thread::CpuSet::new();
                set.set(cpu);
                rustix::thread::sched_setaffinity(None, &set).unwrap();
                let file = fs::File::open(path).unwrap();
                let mut page = [0; 4096];
                for _ in 0..500 {
                    file.read_exact_at(&mut page, 4096).unwrap();
                }
            });
        }
    });
    let channels = session.stats().snapshot().channels;
    assert!(channels.iter().all(|channel| channel.req_xfuse > 0 || channels.len() > 2), "{channels:?}");
    assert_eq!(WaitStats::sum(&channels).spin_ns, 0, "the queues are on the CPUs of their callers");
    end(&session);
}

#[test]
fn a_failed_start_goes_on_with_classic() {
    if !can_mount() {
        return;
    }
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let session =
            builder(MemFs::new(Options::default())).channels(2).fail_queues().mount(dir.path()).unwrap();
        let used = session.transport();
        assert_eq!(used.transport, Transport::Classic);
        assert!(used.fallback.as_ref().is_some_and(|reason| reason.contains("test")), "{used:?}");
        assert!(!session.negotiated().flags.contains(InitFlags::OVER_IO_URING));
        fs::write(dir.path().join("f"), b"served").unwrap();
        assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"served");
        end(&session);
    }
}

#[test]
fn a_queue_that_fails_ends_the_mount_instead_of_hanging_it() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let session = builder(MemFs::new(Options::default())).mount(dir.path()).unwrap();
    fs::write(dir.path().join("f"), b"x").unwrap();
    session.break_queues();
    eventually("the end of the session", || session.is_ended());
    session.wait();
}

/// One long file. Notes how many CPUs its thread may use, and which threads read.
#[derive(Clone, Default)]
struct Long {
    cpus: Arc<AtomicUsize>,
    readers: Arc<Mutex<HashSet<ThreadId>>>,
    direct: bool,
}

impl Long {
    fn note(&self) {
        let set = rustix::thread::sched_getaffinity(None).unwrap();
        self.cpus.store(set.count() as usize, Ordering::SeqCst);
    }

    fn attr(ino: u64) -> abi::Attr {
        let mode = if ino == abi::ROOT_ID { libc::S_IFDIR | 0o755 } else { libc::S_IFREG | 0o644 };
        abi::Attr { ino, mode, nlink: 1, size: 256 << 20, ..Default::default() }
    }
}

impl Filesystem for Long {
    async fn lookup(&self, _: &Context, _: Lookup<'_>) -> Result<Entry, Errno> {
        Ok(Entry { nodeid: 2, attr: Long::attr(2), ..Entry::default() })
    }

    async fn getattr(&self, _: &Context, r: Getattr) -> Result<Attr, Errno> {
        self.note();
        Ok(Attr { valid: Duration::ZERO, attr: Long::attr(r.ino) })
    }

    async fn open(&self, _: &Context, _: Open) -> Result<Opened, Errno> {
        Ok(Opened { flags: if self.direct { abi::FOPEN_DIRECT_IO } else { 0 }, ..Opened::default() })
    }

    async fn read(&self, cx: &Context, r: Read) -> Result<Data, Errno> {
        self.note();
        self.readers.lock().unwrap().insert(std::thread::current().id());
        // So that those that are first do not also wait for it.
        tokio::task::yield_now().await;
        Ok(cx.room(r.size).filled(r.size as usize))
    }
}

#[test]
fn a_thread_leaves_its_cpu_to_the_reader_of_a_stream() {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap().count() as usize;
    if !can_mount() || allowed < 2 {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fs = Long::default();
    let cpus = fs.cpus.clone();
    let session = builder(fs).mount(dir.path()).unwrap();
    let path = dir.path().join("file");
    let reader = std::thread::spawn(move || {
        // All through one queue.
        let mut set = rustix::thread::CpuSet::new();
        set.set(rustix::thread::sched_getcpu());
        rustix::thread::sched_setaffinity(None, &set).unwrap();
        let file = fs::File::open(path).unwrap();
        let (mut at, mut block) = (0, vec![0; 256 << 10]);
        eventually("the thread to leave", || {
            file.read_exact_at(&mut block, at % (255 << 20)).unwrap();
            at += block.len() as u64;
            cpus.load(Ordering::SeqCst) == allowed
        });
        eventually("the thread to return", || {
            file.metadata().unwrap();
            cpus.load(Ordering::SeqCst) == 1
        });
    });
    reader.join().unwrap();
    end(&session);
}

#[test]
fn threads_that_wait_help_the_queue_of_a_crowd() {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap().count();
    if !can_mount() || allowed < 2 {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fs = Long { direct: true, ..Long::default() };
    let session = builder(fs.clone()).mount(dir.path()).unwrap();
    let mut set = rustix::thread::CpuSet::new();
    set.set(rustix::thread::sched_getcpu());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                // All through one queue.
                rustix::thread::sched_setaffinity(None, &set).unwrap();
                let file = fs::File::open(dir.path().join("file")).unwrap();
                let mut block = vec![0; 1 << 20];
                eventually("a second thread", || {
                    file.read_exact_at(&mut block, 1 << 20).unwrap();
                    fs.readers.lock().unwrap().len() > 1
                });
            });
        }
    });
    end(&session);
}

/// LOOKUP waits for ever, whatever happens to its caller.
struct Stuck {
    entered: Arc<AtomicBool>,
}

impl Filesystem for Stuck {
    async fn lookup(&self, _: &Context, _: Lookup<'_>) -> Result<Entry, Errno> {
        self.entered.store(true, Ordering::SeqCst);
        std::future::pending().await
    }

    async fn getattr(&self, _: &Context, r: Getattr) -> Result<Attr, Errno> {
        let attr = abi::Attr { ino: r.ino, mode: libc::S_IFDIR | 0o755, nlink: 2, ..Default::default() };
        Ok(Attr { valid: Duration::from_secs(60), attr })
    }
}

#[test]
fn a_handler_that_never_ends_does_not_keep_an_aborted_session() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let entered = Arc::new(AtomicBool::new(false));
    let fs = Stuck { entered: entered.clone() };
    let session = builder(fs).drain_timeout(Duration::from_millis(500)).mount(dir.path()).unwrap();
    let path = dir.path().join("x");
    let caller = std::thread::spawn(move || fs::metadata(path).map(drop));
    eventually("the stuck request", || entered.load(Ordering::SeqCst));
    let started = Instant::now();
    session.abort().unwrap();
    assert!(caller.join().unwrap().is_err());
    eventually("the end of the session", || session.is_ended());
    session.wait();
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn mounts_come_and_go_under_load() {
    if !can_mount() {
        return;
    }
    for round in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let session = builder(MemFs::new(Options::default())).mount(dir.path()).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (stop, dir) = (&stop, dir.path());
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        // Errors are expected from the abort on.
                        let _ = fs::write(dir.join(format!("w{worker}")), b"text");
                        let _ = fs::read_dir(dir).map(Iterator::count);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(30));
            if round % 2 == 0 {
                session.abort().unwrap();
            } else {
                session.unmount().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        eventually("the end of the session", || session.is_ended());
        session.wait();
    }
}
