//! Records what a real kernel sends, into `tests/golden/requests.bin`: one request after the other, as read from the
//! device. A session serves a socket, and the device is at the socket's other end.
//!
//! `cargo test -p xfuse --test recording -- --ignored record` writes the file anew.

mod common;

use common::memfs::{MemFs, Options, wanted_flags};
use common::{can_mount, eventually};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use xfuse::abi::{self, InitFlags, Opcode, Pod};
use xfuse::{InitConfig, Session};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/requests.bin");
/// Requests of one operation that are kept.
const EACH: usize = 3;
const LOCKED: &str = "XFUSE_TEST_LOCK";

/// A mount whose requests pass by here.
struct Tap {
    dir: tempfile::TempDir,
    session: Session,
    recorded: Arc<Mutex<Vec<Vec<u8>>>>,
    /// While it is held the kernel is not asked for requests.
    paused: Arc<Mutex<()>>,
}

impl Tap {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let data = std::ffi::CString::new(data).unwrap();
        rustix::mount::mount("xfuse-record", dir.path(), "fuse", MountFlags::empty(), data.as_c_str())
            .unwrap();
        let (here, there) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let (device, here) = (Arc::new(device), Arc::new(here));
        let (recorded, paused) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(())));
        std::thread::spawn({
            let (device, here, recorded, paused) =
                (device.clone(), here.clone(), recorded.clone(), paused.clone());
            move || to_session(&device, &here, &recorded, &paused)
        });
        std::thread::spawn(move || to_kernel(&here, &device));
        let mut init = InitConfig { max_write: 16 << 10, ..InitConfig::default() };
        init.want |= wanted_flags() | InitFlags::CREATE_SUPP_GROUP;
        let fs = MemFs::new(Options { direct_io: false, ttl: Duration::ZERO });
        let session = Session::builder(fs).init(init).channels(1).attach(there).unwrap();
        Tap { dir, session, recorded, paused }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn has(&self, opcode: Opcode) -> bool {
        self.recorded.lock().unwrap().iter().any(|request| code(request) == opcode.code())
    }

    fn end(&self) -> Vec<Vec<u8>> {
        rustix::mount::unmount(self.dir.path(), UnmountFlags::empty()).unwrap();
        self.session.wait();
        std::mem::take(&mut self.recorded.lock().unwrap())
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // Only after a failure is it still mounted.
        let _ = rustix::mount::unmount(self.dir.path(), UnmountFlags::DETACH);
    }
}

fn code(request: &[u8]) -> u32 {
    abi::InHeader::read_from(request).unwrap().opcode
}

fn to_session(device: &OwnedFd, socket: &OwnedFd, recorded: &Mutex<Vec<Vec<u8>>>, paused: &Mutex<()>) {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut buffer = vec![0; 1 << 20];
    loop {
        poll(&mut [PollFd::new(device, PollFlags::IN)], None).unwrap();
        drop(paused.lock().unwrap());
        let Ok(len) = rustix::io::read(device.as_fd(), &mut buffer[..]) else { break };
        recorded.lock().unwrap().push(buffer[..len].to_vec());
        rustix::io::write(socket, &buffer[..len]).unwrap();
    }
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

fn to_kernel(socket: &OwnedFd, device: &OwnedFd) {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match rustix::io::read(socket.as_fd(), &mut buffer[..]) {
            Ok(len) if len > 0 => drop(rustix::io::write(device, &buffer[..len])),
            _ => return,
        }
    }
}

fn files(tap: &Tap) {
    let path = tap.path("file");
    fs::write(&path, vec![7; 3000]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    file.write_all_at(b"written at an offset", 4000).unwrap();
    file.read_exact_at(&mut [0; 100], 10).unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    file.set_len(9000).unwrap();
    file.metadata().unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 10_000).unwrap();
    rustix::fs::seek(&file, SeekFrom::Data(5)).unwrap();
    rustix::fs::seek(&file, SeekFrom::Hole(5)).unwrap();
    let copy = File::create(tap.path("copy")).unwrap();
    rustix::fs::copy_file_range(&file, Some(&mut 0), &copy, Some(&mut 0), 500).unwrap();
    let mut value = 0u32;
    for command in [0xc004_5501u32, 0x5555] {
        // SAFETY: the commands read and write at most one u32 at the given address.
        unsafe { libc::ioctl(file.as_raw_fd(), u64::from(command) as _, &raw mut value) };
    }
    rustix::event::poll(&mut [rustix::event::PollFd::new(&file, rustix::event::PollFlags::IN)], None)
        .unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    rustix::fs::statvfs(&path).unwrap();
    rustix::fs::accessat(CWD, &path, rustix::fs::Access::READ_OK, AtFlags::empty()).unwrap();
}

fn names(tap: &Tap) {
    let dir = tap.path("dir");
    fs::create_dir(&dir).unwrap();
    symlink("where it leads", tap.path("link")).unwrap();
    fs::read_link(tap.path("link")).unwrap();
    let fifo = tap.path("fifo");
    rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::from(0o600), 0).unwrap();
    fs::hard_link(tap.path("copy"), tap.path("dir/name")).unwrap();
    fs::rename(tap.path("dir/name"), tap.path("renamed")).unwrap();
    let _ = rustix::fs::renameat_with(CWD, tap.path("copy"), CWD, tap.path("new"), RenameFlags::NOREPLACE);
    assert!(fs::read_dir(tap.dir.path()).unwrap().count() > 3);
    File::open(&dir).unwrap().sync_all().unwrap();
    fs::remove_dir(&dir).unwrap();
    fs::remove_file(&fifo).unwrap();
    drop(rustix::fs::open(tap.dir.path(), OFlags::TMPFILE | OFlags::RDWR, Mode::from(0o600)).unwrap());
    let file = tap.path("file");
    rustix::fs::setxattr(&file, "user.name", b"value", XattrFlags::CREATE).unwrap();
    rustix::fs::getxattr(&file, "user.name", &mut [0u8; 100][..]).unwrap();
    rustix::fs::listxattr(&file, &mut [0u8; 1000][..]).unwrap();
    rustix::fs::removexattr(&file, "user.name").unwrap();
}

/// A request with an extension: the parent's group is one of the caller's.
fn groups(tap: &Tap) {
    let dir = tap.path("group");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, None, Some(4711)).unwrap();
    std::thread::spawn(move || {
        rustix::thread::set_thread_groups(&[rustix::process::Gid::from_raw(4711)]).unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        File::create(dir.join("file")).unwrap();
    })
    .join()
    .unwrap();
}

fn lock(file: &File, command: i32, kind: i32) -> i32 {
    // SAFETY: an all-zero flock is valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    // SAFETY: the command reads and writes the given flock.
    unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) }
}

fn locks_and_an_interrupt(tap: &Tap) {
    let path = tap.path("file");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    assert_eq!(lock(&file, libc::F_OFD_SETLK, libc::F_WRLCK), 0);
    lock(&file, libc::F_OFD_GETLK, libc::F_RDLCK);
    let mut waiter = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "wait_for_a_lock", "--ignored"])
        .env(LOCKED, &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the waiting lock", || tap.has(Opcode::Setlkw));
    waiter.kill().unwrap();
    waiter.wait().unwrap();
    eventually("the interrupt", || tap.has(Opcode::Interrupt));
}

#[test]
#[ignore = "a part of `record`"]
fn wait_for_a_lock() {
    if let Some(path) = std::env::var_os(LOCKED) {
        let file = File::options().write(true).open(Path::new(&path)).unwrap();
        lock(&file, libc::F_OFD_SETLKW, libc::F_WRLCK);
    }
}

fn pages_and_forgets(tap: &Tap) {
    let ino = std::os::unix::fs::MetadataExt::ino(&fs::metadata(tap.path("file")).unwrap());
    fs::read(tap.path("file")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pages = runtime.block_on(tap.session.notifier().retrieve(ino, 0, 100)).unwrap();
    assert_eq!(pages.data.len(), 100);
    // Inodes that end together: descriptors that are not open for the file system keep them until then.
    let hold = |n: u32| {
        let path = tap.path(&format!("gone{n}"));
        File::create(&path).unwrap();
        let held = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        fs::remove_file(&path).unwrap();
        held
    };
    let held: Vec<_> = (0..3).map(hold).collect();
    let paused = tap.paused.lock().unwrap();
    drop(held);
    drop(paused);
    eventually("forgets", || tap.has(Opcode::Forget) && tap.has(Opcode::BatchForget));
}

#[test]
#[ignore = "writes tests/golden/requests.bin"]
fn record() {
    assert!(can_mount());
    let tap = Tap::new();
    files(&tap);
    names(&tap);
    groups(&tap);
    locks_and_an_interrupt(&tap);
    pages_and_forgets(&tap);
    let mut kept = BTreeMap::<u32, Vec<Vec<u8>>>::new();
    for request in tap.end() {
        let list = kept.entry(code(&request)).or_default();
        if list.len() < EACH && list.iter().all(|other| other.len() != request.len()) {
            list.push(request);
        }
    }
    let mut bytes = Vec::new();
    for (code, list) in &kept {
        let lengths: Vec<_> = list.iter().map(Vec::len).collect();
        println!("{}: {lengths:?}", Opcode::from_code(*code).map_or("?", Opcode::name));
        list.iter().for_each(|request| bytes.extend_from_slice(request));
    }
    fs::write(FILE, bytes).unwrap();
}
