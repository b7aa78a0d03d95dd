//! What happens when handlers, callers or daemons misbehave.

use crate::common::memfs::{MemFs, Options};
use crate::common::{can_mount, eventually, mount_with};
use bytes::Bytes;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use xfuse::mount::{MountState, clear_stale, state};
use xfuse::request::*;
use xfuse::*;

/// Files whose operations go wrong on purpose.
const FILES: [&str; 12] = [
    "panic",
    "late-panic",
    "slow",
    "stuck",
    "oversized",
    "plain",
    "bad-errno",
    "wild-errno",
    "never",
    "never-direct",
    "slow-open",
    "slow-lookup",
];
const SIZE: u64 = 1 << 16;

#[derive(Default)]
struct Faulty {
    gate: Arc<Notify>,
    cancelled: Arc<AtomicU64>,
    /// READs that wait in the handler.
    waiting: Arc<AtomicU64>,
    info: Arc<OnceLock<SessionInfo>>,
    /// Handles released, and inodes forgotten, with that name.
    given_back: Arc<[AtomicU64; 2]>,
}

/// Handle of an open file that is opened slowly.
const SLOW_HANDLE: u64 = 77;

fn attributes(ino: u64) -> abi::Attr {
    let mode = if ino == abi::ROOT_ID { libc::S_IFDIR | 0o755 } else { libc::S_IFREG | 0o644 };
    abi::Attr { ino, mode, nlink: 1, size: SIZE, ..Default::default() }
}

impl Filesystem for Faulty {
    fn init(&self, info: &SessionInfo) -> Result<(), Errno> {
        self.info.set(info.clone()).map_err(|_| Errno::EBUSY)
    }

    async fn lookup(&self, _: &Context, r: Lookup<'_>) -> Result<Entry, Errno> {
        let index = FILES.iter().position(|name| OsStr::new(name) == r.name).ok_or(Errno::ENOENT)?;
        let nodeid = index as u64 + 2;
        if FILES[index] == "slow-lookup" {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.gate.notified().await;
        }
        let day = Duration::from_secs(86400);
        Ok(Entry { nodeid, generation: 0, entry_valid: day, attr_valid: day, attr: attributes(nodeid) })
    }

    async fn getattr(&self, _: &Context, r: Getattr) -> Result<Attr, Errno> {
        Ok(Attr { valid: Duration::ZERO, attr: attributes(r.ino) })
    }

    fn forget(&self, ino: u64, nlookup: u64) {
        if ino >= 2 && FILES[ino as usize - 2] == "slow-lookup" {
            self.given_back[1].fetch_add(nlookup, Ordering::SeqCst);
        }
    }

    async fn release(&self, _: &Context, r: Release) -> Result<(), Errno> {
        if r.fh == SLOW_HANDLE {
            self.given_back[0].fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn open(&self, _: &Context, r: Open) -> Result<Opened, Errno> {
        if FILES[r.ino as usize - 2] == "slow-open" {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.gate.notified().await;
            return Ok(Opened { fh: SLOW_HANDLE, ..Opened::default() });
        }
        // Reads into the page cache are the kernel's own; only direct ones belong to a caller who can be interrupted.
        let direct = ["stuck", "never-direct"].contains(&FILES[r.ino as usize - 2]);
        Ok(Opened { flags: if direct { abi::FOPEN_DIRECT_IO } else { 0 }, ..Opened::default() })
    }

    async fn read(&self, cx: &Context, r: Read) -> Result<Data, Errno> {
        match FILES[r.ino as usize - 2] {
            "panic" => panic!("a handler panics on purpose"),
            "late-panic" => {
                tokio::task::yield_now().await;
                panic!("a handler panics on purpose, later")
            }
            "slow" => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                self.gate.notified().await;
            }
            "stuck" => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                cx.interrupted().await;
                self.cancelled.fetch_add(1, Ordering::SeqCst);
                return Err(Errno::EINTR);
            }
            "bad-errno" => return Err(Errno(100_000)),
            "wild-errno" => return Err(Errno(i32::MIN)),
            "never" | "never-direct" => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                std::future::pending().await
            }
            "oversized" => return Ok(vec![0; r.size as usize + 1].into()),
            _ => {}
        }
        Ok(vec![1; (r.size as usize).min(SIZE.saturating_sub(r.offset) as usize)].into())
    }
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

#[test]
fn panics_become_eio_and_serving_goes_on() {
    if !can_mount() {
        return;
    }
    let m = mount_with(Faulty::default(), 1);
    for name in ["panic", "late-panic", "panic"] {
        assert_eq!(errno(fs::read(m.path(name))), Some(libc::EIO), "{name}");
    }
    assert_eq!(fs::read(m.path("plain")).unwrap().len(), SIZE as usize);
    assert!(m.session().stats().snapshot().panics >= 3);
    m.close();
}

#[test]
fn an_oversized_reply_becomes_eio() {
    if !can_mount() {
        return;
    }
    let m = mount_with(Faulty::default(), 1);
    assert_eq!(errno(fs::read(m.path("oversized"))), Some(libc::EIO));
    assert!(m.session().stats().snapshot().refused_replies >= 1);
    m.close();
}

#[test]
fn numbers_that_are_no_errno_become_eio() {
    if !can_mount() {
        return;
    }
    let m = mount_with(Faulty::default(), 1);
    for name in ["bad-errno", "wild-errno"] {
        assert_eq!(errno(fs::read(m.path(name))), Some(libc::EIO), "{name}");
    }
    assert_eq!(fs::read(m.path("plain")).unwrap().len(), SIZE as usize);
    assert!(m.session().stats().snapshot().bad_errnos >= 2);
    m.close();
}

#[test]
fn handlers_that_never_answer_keep_only_their_callers() {
    if !can_mount() {
        return;
    }
    let fs = Faulty::default();
    let waiting = fs.waiting.clone();
    let m = mount_with(fs, 1);
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let path = m.path("never");
            std::thread::spawn(move || std::fs::read(path))
        })
        .collect();
    eventually("a read that is never answered", || waiting.load(Ordering::SeqCst) > 0);
    for _ in 0..20 {
        assert_eq!(std::fs::metadata(m.path("plain")).unwrap().len(), SIZE);
        assert_eq!(std::fs::read(m.path("plain")).unwrap().len(), SIZE as usize);
    }
    m.session().abort().unwrap();
    for caller in callers {
        assert!(caller.join().unwrap().is_err());
    }
}

#[test]
fn a_slow_handler_does_not_delay_others() {
    if !can_mount() {
        return;
    }
    let fs = Faulty::default();
    let (gate, waiting) = (fs.gate.clone(), fs.waiting.clone());
    let m = mount_with(fs, 1);
    let slow = m.path("slow");
    let reader = std::thread::spawn(move || std::fs::read(slow));
    eventually("the slow read", || waiting.load(Ordering::SeqCst) > 0);
    assert_eq!(std::fs::read(m.path("plain")).unwrap().len(), SIZE as usize);
    assert!(!reader.is_finished());
    while !reader.is_finished() {
        gate.notify_one();
        std::thread::yield_now();
    }
    assert_eq!(reader.join().unwrap().unwrap().len(), SIZE as usize);
    m.close();
}

#[test]
fn interrupts_reach_the_handler() {
    if !can_mount() {
        return;
    }
    let fs = Faulty::default();
    let (cancelled, waiting) = (fs.cancelled.clone(), fs.waiting.clone());
    // Two channels: the interrupt may arrive on the other one.
    let m = mount_with(fs, 2);
    let mut cat = Command::new("cat").arg(m.path("stuck")).stderr(Stdio::null()).spawn().unwrap();
    eventually("the stuck read", || waiting.load(Ordering::SeqCst) > 0);
    let pid = rustix::process::Pid::from_child(&cat);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(!cat.wait().unwrap().success());
    eventually("the cancellation", || cancelled.load(Ordering::SeqCst) > 0);
    eventually("the end of the request", || m.session().stats().snapshot().in_flight == 0);
    assert!(m.session().stats().snapshot().interrupts > 0);
    m.close();
}

#[test]
fn a_killed_caller_need_not_wait_for_the_handler() {
    if !can_mount() {
        return;
    }
    let fs = Faulty::default();
    let waiting = fs.waiting.clone();
    let m = mount_with(fs, 2);
    let start = || Command::new("cat").arg(m.path("never-direct")).stderr(Stdio::null()).spawn().unwrap();
    let (mut killed, mut signalled) = (start(), start());
    eventually("both reads", || waiting.load(Ordering::SeqCst) == 2);
    let send = |child: &Child, signal| {
        rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
    };
    // A signal that does nothing leaves the caller waiting.
    send(&signalled, rustix::process::Signal::CHILD);
    send(&killed, rustix::process::Signal::TERM);
    assert!(!killed.wait().unwrap().success());
    assert!(signalled.try_wait().unwrap().is_none());
    // The kernel sends the end of the killed caller's file beside it.
    eventually("both handlers, and nothing else", || m.session().stats().snapshot().in_flight == 2);
    send(&signalled, rustix::process::Signal::KILL);
    signalled.wait().unwrap();
    m.session().abort().unwrap();
}

#[test]
fn what_comes_too_late_for_a_killed_caller_is_taken_back() {
    if !can_mount() {
        return;
    }
    let fs = Faulty::default();
    let (gate, waiting, given_back) = (fs.gate.clone(), fs.waiting.clone(), fs.given_back.clone());
    let m = mount_with(fs, 2);
    let callers: Vec<Child> = ["slow-open", "slow-lookup"]
        .map(|name| Command::new("cat").arg(m.path(name)).stderr(Stdio::null()).spawn().unwrap())
        .into();
    eventually("both callers", || waiting.load(Ordering::SeqCst) == 2);
    for mut caller in callers {
        caller.kill().unwrap();
        caller.wait().unwrap();
    }
    let count = |index: usize| given_back[index].load(Ordering::SeqCst);
    assert_eq!((count(0), count(1)), (0, 0));
    gate.notify_waiters();
    eventually("the handle to be released", || count(0) == 1);
    eventually("the inode to be forgotten", || count(1) == 1);
    assert_eq!(m.session().stats().snapshot().late_replies, 2);
    m.close();
}

#[test]
fn abort_fails_what_is_waiting() {
    if !can_mount() {
        return;
    }
    let fs = Faulty::default();
    let (gate, waiting) = (fs.gate.clone(), fs.waiting.clone());
    let m = mount_with(fs, 2);
    let slow = m.path("slow");
    let reader = std::thread::spawn(move || std::fs::read(slow));
    eventually("the slow read", || waiting.load(Ordering::SeqCst) > 0);
    m.session().abort().unwrap();
    assert!(matches!(errno(reader.join().unwrap()), Some(libc::ECONNABORTED | libc::ENOTCONN)));
    assert!(!m.session().is_ended(), "a session ends only after its requests");
    gate.notify_one();
    m.session().wait();
    assert!(m.session().is_ended());
}

#[test]
fn an_ended_session_touches_no_later_mount() {
    if !can_mount() {
        return;
    }
    for by_abort in [false, true] {
        let mut m = mount_with(Faulty::default(), 2);
        let first = m.session.take().unwrap();
        if by_abort {
            first.abort().unwrap();
        } else {
            assert_eq!(first.unmount().unwrap(), Unmounted::Clean);
        }
        eventually("the end of the connection", || first.is_gone());
        eventually("the end of the session", || first.is_ended());
        first.wait();
        // It has the path, and most likely the number, that the first connection had.
        let second = xfuse::Session::builder(Faulty::default()).mount(m.dir.path()).unwrap();
        assert_eq!(first.abort().unwrap_err().kind(), std::io::ErrorKind::NotFound);
        assert_eq!(first.unmount().unwrap_err().raw_os_error(), Some(libc::EINVAL));
        drop(first);
        assert!(!second.is_gone());
        assert_eq!(fs::read(m.path("plain")).unwrap().len(), SIZE as usize);
        second.unmount().unwrap();
        eventually("the end of the second session", || second.is_ended());
        second.wait();
    }
}

#[test]
fn a_busy_mount_is_detached_and_ends_with_its_last_user() {
    if !can_mount() {
        return;
    }
    let m = mount_with(Faulty::default(), 2);
    let file = fs::File::open(m.path("plain")).unwrap();
    assert_eq!(m.session().unmount().unwrap(), Unmounted::Detached);
    assert_eq!(state(m.dir.path()).unwrap(), MountState::None);
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 5).unwrap();
    assert!(!m.session().is_ended());
    drop(file);
    m.session().wait();
}

#[test]
fn a_detached_mount_can_be_aborted() {
    if !can_mount() {
        return;
    }
    let m = mount_with(Faulty::default(), 2);
    let file = fs::File::open(m.path("plain")).unwrap();
    assert_eq!(m.session().unmount().unwrap(), Unmounted::Detached);
    // What is mounted in its place is somebody else's.
    let other = xfuse::Session::builder(Faulty::default()).mount(m.dir.path()).unwrap();
    m.session().abort().unwrap();
    m.session().wait();
    let mut byte = [0];
    let read = std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, SIZE - 1);
    assert!(matches!(errno(read), Some(libc::ECONNABORTED | libc::ENOTCONN)));
    assert_eq!(std::fs::read(m.path("plain")).unwrap().len(), SIZE as usize);
    other.close().unwrap();
}

#[test]
fn notifications() {
    if !can_mount() {
        return;
    }
    let fs = Faulty::default();
    let info = fs.info.clone();
    let m = mount_with(fs, 2);
    let notifier = info.get().unwrap().notifier.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let path = m.path("plain");
    let ino = 2 + FILES.iter().position(|name| *name == "plain").unwrap() as u64;
    let counter = |opcode| m.session().stats().snapshot().count(opcode);
    let file = fs::File::open(&path).unwrap();
    let mut page = [0; 4096];
    let mut read = |offset| {
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut page, offset).unwrap();
        page[0]
    };
    assert_eq!(read(0), 1);
    runtime.block_on(async {
        notifier.store(ino, 8192, Bytes::from(vec![9; 4096])).sent().await.unwrap();
        assert_eq!(read(8192), 9, "STORE filled the page cache");
        let retrieved = notifier.retrieve(ino, 8192, 4096).await.unwrap();
        assert_eq!((retrieved.offset, &retrieved.data[..]), (8192, &[9; 4096][..]));
        notifier.inval_inode(ino, 0, 0).sent().await.unwrap();
        assert_eq!(read(8192), 1, "INVAL_INODE dropped the stored page");
        let looked_up = counter(abi::Opcode::Lookup);
        std::fs::metadata(&path).unwrap();
        assert_eq!(counter(abi::Opcode::Lookup), looked_up, "the name is cached");
        notifier.inval_entry(abi::ROOT_ID, OsStr::new("plain")).sent().await.unwrap();
        std::fs::metadata(&path).unwrap();
        assert_eq!(counter(abi::Opcode::Lookup), looked_up + 1);
        notifier.expire_entry(abi::ROOT_ID, OsStr::new("plain")).sent().await.unwrap();
        std::fs::metadata(&path).unwrap();
        assert_eq!(counter(abi::Opcode::Lookup), looked_up + 2);
        let unknown = notifier.inval_entry(abi::ROOT_ID, OsStr::new("nothing")).sent().await;
        assert_eq!(errno(unknown), Some(libc::ENOENT));
        let missing = notifier.inval_inode(4711, 0, 0).sent().await;
        assert_eq!(errno(missing), Some(libc::ENOENT));
        let _ = notifier.poll(1);
        notifier.resend().unwrap();
        if m.session().negotiated().minor >= 44 {
            notifier.inc_epoch().unwrap();
            std::fs::metadata(&path).unwrap();
            assert_eq!(counter(abi::Opcode::Lookup), looked_up + 3);
        }
        if m.session().negotiated().minor >= 45 {
            notifier.prune(&[ino]).sent().await.unwrap();
        }
    });
    drop(file);
    runtime.block_on(async {
        let deleted = notifier.delete(abi::ROOT_ID, ino, OsStr::new("plain")).sent().await;
        assert!(deleted.is_ok() || errno(deleted) == Some(libc::ENOENT));
    });
    m.close();
    let gone = runtime.block_on(notifier.inval_attr(ino).sent());
    assert_eq!(errno(gone), Some(libc::ENOTCONN));
}

#[test]
fn the_helper_program_mounts_and_unmounts() {
    let helper = Path::new("/usr/bin/fusermount3");
    if !can_mount() || !helper.exists() {
        eprintln!("skipped: needs fusermount3");
        return;
    }
    for auto_unmount in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let options = MountOptions {
            fsname: "xfuse,comma".into(),
            subtype: Some("xfuse".into()),
            method: MountMethod::Helper,
            auto_unmount,
            ..Default::default()
        };
        let session = Session::builder(MemFs::new(Options::default()))
            .mount_options(options)
            .mount(dir.path())
            .unwrap();
        let table = xfuse::mount::mounts().unwrap();
        let entry = table.iter().find(|entry| entry.mount_point == dir.path()).unwrap();
        assert_eq!((entry.fstype.as_str(), entry.source.to_str()), ("fuse.xfuse", Some("xfuse,comma")));
        fs::write(dir.path().join("f"), b"x").unwrap();
        session.unmount().unwrap();
        eventually("the end of the session", || session.is_ended());
        session.wait();
    }
    let dir = tempfile::tempdir().unwrap();
    let options = MountOptions { method: MountMethod::Helper, fsname: "\n".into(), ..Default::default() };
    let missing = dir.path().join("missing");
    assert!(Session::builder(Faulty::default()).mount_options(options).mount(missing).is_err());
}

const CHILD: &str = "XFUSE_TEST_DAEMON";

/// Not a test by itself: the daemon of the next one, in a process of its own.
#[test]
fn daemon_in_a_child_process() {
    let Some(mountpoint) = std::env::var_os(CHILD) else { return };
    Session::builder(MemFs::new(Options::default())).mount(mountpoint).unwrap().wait();
}

fn start_daemon(mountpoint: &Path) -> Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["faults::daemon_in_a_child_process", "--exact"])
        .env(CHILD, mountpoint)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Another file system than that of the directory below; a dead one has no metadata.
    let below = fs::metadata(mountpoint.parent().unwrap()).unwrap().dev();
    eventually("the daemon", || fs::metadata(mountpoint).is_ok_and(|top| top.dev() != below));
    assert_eq!(state(mountpoint).unwrap(), MountState::Alive);
    child
}

#[test]
fn a_killed_daemons_mount_is_recognised_and_cleared() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut first = start_daemon(dir.path());
    fs::write(dir.path().join("f"), b"lost").unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(state(dir.path()).unwrap(), MountState::Stale);
    assert_eq!(errno(fs::metadata(dir.path())), Some(libc::ENOTCONN));
    let mut second = start_daemon_over_stale(dir.path());
    assert!(!dir.path().join("f").exists());
    fs::write(dir.path().join("g"), b"served").unwrap();
    second.kill().unwrap();
    second.wait().unwrap();
    assert_eq!(clear_stale(dir.path()).unwrap(), 1);
    assert_eq!(state(dir.path()).unwrap(), MountState::None);
    assert_eq!(clear_stale(dir.path()).unwrap(), 0);
}

/// A new daemon on a stale mount point clears it before mounting.
fn start_daemon_over_stale(mountpoint: &Path) -> Child {
    let started = Instant::now();
    let child = start_daemon(mountpoint);
    eventually("the new daemon", || fs::metadata(mountpoint).is_ok());
    assert!(started.elapsed() < Duration::from_secs(20));
    child
}

#[test]
fn mount_errors_say_what_is_wrong() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = |path: &Path| match Session::builder(Faulty::default()).mount(path) {
        Ok(_) => panic!("mounted"),
        Err(error) => error.to_string(),
    };
    let missing = error(&dir.path().join("missing"));
    assert!(missing.contains("missing") && missing.contains("No such file"), "{missing}");
    let not_dir = error(&file);
    assert!(not_dir.contains("not a directory"), "{not_dir}");
    let refused = {
        let fs = Faulty::default();
        let occupied = SessionInfo {
            negotiated: init::negotiate(
                &init::Offer { major: 7, minor: 45, max_readahead: 0, flags: abi::InitFlags::NONE },
                &InitConfig::default(),
                256,
            )
            .unwrap()
            .0,
            notifier: Notifier::disconnected(),
            channels: 1,
        };
        fs.info.set(occupied).unwrap();
        Session::builder(fs).mount(dir.path()).err().unwrap().to_string()
    };
    assert!(refused.contains("EBUSY"), "{refused}");
    assert_eq!(state(dir.path()).unwrap(), MountState::None, "a failed start leaves no mount");
}
