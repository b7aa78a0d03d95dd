//! A socket instead of the device: arbitrary bytes as requests, and the exact bytes of replies.

use proptest::prelude::*;
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use xfuse::abi::{self, InitFlags, Opcode, Pod};
use xfuse::decode::{self, Body, Decode, Shape};
use xfuse::request::*;
use xfuse::*;

/// Answers a few operations from what it was given, so that reading beyond a request would show.
#[derive(Default)]
struct Echo {
    written: Arc<AtomicU64>,
}

impl Filesystem for Echo {
    async fn lookup(&self, _: &Context, r: Lookup<'_>) -> Result<Entry, Errno> {
        if r.name.len() > 255 {
            Err(Errno::ENAMETOOLONG)
        } else {
            Ok(Entry::negative(Duration::from_secs(1)))
        }
    }
    async fn write(&self, _: &Context, r: Write) -> Result<Written, Errno> {
        self.written.fetch_add(r.data.iter().map(|b| u64::from(*b)).sum(), Ordering::Relaxed);
        Ok(Written(r.data.len() as u32))
    }
    async fn setxattr(&self, _: &Context, r: Setxattr<'_>) -> Result<(), Errno> {
        if r.value.len() + r.name.len() > 1 << 17 { Err(Errno::E2BIG) } else { Ok(()) }
    }
    async fn ioctl(&self, _: &Context, r: Ioctl<'_>) -> Result<IoctlReply, Errno> {
        Ok(IoctlReply::Done { result: 0, output: bytes::Bytes::copy_from_slice(r.input) })
    }
    async fn read(&self, _: &Context, r: Read) -> Result<Data, Errno> {
        Ok(Data::from(vec![bytes::Bytes::from_static(b"abc"); (r.size % 200) as usize]))
    }
}

struct Kernel {
    socket: OwnedFd,
    session: Option<Session>,
}

fn request(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
    let len = (size_of::<abi::InHeader>() + body.len()) as u32;
    let header = abi::InHeader { len, opcode, unique, nodeid: 1, ..Default::default() };
    [header.as_bytes(), body].concat()
}

impl Kernel {
    fn start(fs: impl Filesystem) -> Self {
        let (socket, device) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let init =
            abi::InitIn { major: 7, minor: 45, flags: u32::MAX, flags2: u32::MAX, ..Default::default() };
        rustix::io::write(&socket, &request(Opcode::Init.code(), 2, init.as_bytes())).unwrap();
        let session = Session::builder(fs).channels(1).buffers(4).attach(device).unwrap();
        let kernel = Kernel { socket, session: Some(session) };
        let (header, body) = kernel.reply();
        assert_eq!((header.unique, header.error, body.len()), (2, 0, size_of::<abi::InitOut>()));
        kernel
    }

    fn send(&self, bytes: &[u8]) {
        rustix::io::write(&self.socket, bytes).unwrap();
    }

    fn reply(&self) -> (abi::OutHeader, Vec<u8>) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let wait = Timespec { tv_sec: 20, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&wait)).unwrap();
        assert_eq!(ready, 1, "no reply");
        let mut bytes = vec![0; 1 << 20];
        let len = rustix::io::read(self.socket.as_fd(), &mut bytes[..]).unwrap();
        let header = abi::OutHeader::read_from(&bytes[..len]).expect("a whole header");
        assert_eq!(header.len as usize, len, "length field");
        (header, bytes[16..len].to_vec())
    }

    fn call(&self, opcode: Opcode, body: &[u8]) -> (i32, Vec<u8>) {
        self.send(&request(opcode.code(), 64, body));
        let (header, body) = self.reply();
        assert_eq!(header.unique, 64);
        (header.error, body)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let session = self.session.take().unwrap();
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).unwrap();
        session.wait();
    }
}

#[test]
fn replies_have_the_kernels_form() {
    let kernel = Kernel::start(Echo::default());
    let (error, body) = kernel.call(Opcode::Lookup, b"name\0");
    assert_eq!((error, body.len()), (0, size_of::<abi::EntryOut>()));
    assert_eq!(kernel.call(Opcode::Lookup, b"name").0, -libc::EINVAL, "no NUL");
    assert_eq!(kernel.call(Opcode::Lookup, b"\0").0, -libc::EINVAL, "empty name");
    assert_eq!(kernel.call(Opcode::Getattr, &[0; 16]).0, -libc::ENOSYS);
    assert_eq!(kernel.call(Opcode::Getattr, &[0; 15]).0, -libc::EINVAL, "truncated");
    // In one piece, and in several.
    for size in [5, 79, 80, 81, 90] {
        let read = abi::ReadIn { size, ..Default::default() };
        assert_eq!(kernel.call(Opcode::Read, read.as_bytes()), (0, b"abc".repeat(size as usize)));
    }
    let read = abi::ReadIn { size: 150, ..Default::default() };
    let (error, body) = kernel.call(Opcode::Read, read.as_bytes());
    assert_eq!((error, body), (0, b"abc".repeat(150)), "more segments than one writev takes");
    let write = abi::WriteIn { size: 5000, ..Default::default() };
    let (error, body) = kernel.call(Opcode::Write, &[write.as_bytes(), &[1; 5000]].concat());
    assert_eq!((error, abi::WriteOut::read_from(&body).unwrap().size), (0, 5000));
    let (error, _) = kernel.call(Opcode::Write, &[write.as_bytes(), &[1; 4999]].concat());
    assert_eq!(error, -libc::EINVAL, "shorter than it claims");
    kernel.send(&request(4711, 8, &[]));
    assert_eq!(kernel.reply().0.error, -libc::ENOSYS, "unknown operation");
    let stats = kernel.session.as_ref().unwrap().stats().snapshot();
    assert_eq!((stats.unknown, stats.malformed), (1, 4));
}

#[test]
fn old_kernels_send_the_short_setxattr() {
    let body = [&3u32.to_ne_bytes()[..], &0u32.to_ne_bytes(), b"user.a\0abc"].concat();
    let header = abi::InHeader::default();
    let short = Setxattr::decode(&header, &mut Body::new(&body), Shape::new(InitFlags::NONE)).unwrap();
    assert_eq!((short.name.to_str(), short.value), (Some("user.a"), &b"abc"[..]));
    let long = [&body[..8], &1u32.to_ne_bytes(), &[0; 4], &body[8..]].concat();
    let shape = Shape::new(InitFlags::SETXATTR_EXT);
    let long = Setxattr::decode(&header, &mut Body::new(&long), shape).unwrap();
    assert!(long.kill_sgid && long.value == b"abc");
}

#[test]
fn supplementary_groups_are_read_from_extensions() {
    let groups = [24u32, 32, 3, 10, 20, 30].map(u32::to_ne_bytes).concat();
    let other = [16u32, 1, 0, 0].map(u32::to_ne_bytes).concat();
    let list = [&other[..], &groups].concat();
    assert_eq!(decode::supplementary_groups(&list).unwrap(), [10, 20, 30]);
    assert!(decode::supplementary_groups(&groups[..16]).is_err());
    assert_eq!(decode::supplementary_groups(&[]).unwrap(), []);
}

/// Runs every decoder on the bytes; none may panic or return more than it was given.
fn decode_all(header: &abi::InHeader, body: &[u8], shape: Shape) {
    macro_rules! each {
        ($($type:ty),*) => { $(let _ = <$type>::decode(header, &mut Body::new(body), shape);)* };
    }
    each!(
        Lookup,
        Getattr,
        Statx,
        Setattr,
        Readlink,
        Symlink,
        Mknod,
        Mkdir,
        Unlink,
        Rmdir,
        Rename,
        Link,
        Open,
        Create,
        Tmpfile,
        Read,
        Statfs,
        Flush,
        Release,
        Fsync,
        Getxattr,
        Listxattr,
        Removexattr,
        Readdir,
        Lk,
        Access,
        Bmap,
        Poll,
        Fallocate,
        Lseek,
        CopyFileRange,
        Setupmapping,
        Removemapping,
        Syncfs
    );
    if let Ok(write) = Write::decode(header, &mut Body::new(body), shape) {
        assert!(write.data.len() + size_of::<abi::WriteIn>() <= body.len());
    }
    if let Ok(set) = Setxattr::decode(header, &mut Body::new(body), shape) {
        assert!(set.value.len() + set.name.len() < body.len());
    }
    if let Ok(ioctl) = Ioctl::decode(header, &mut Body::new(body), shape) {
        assert!(ioctl.input.len() + size_of::<abi::IoctlIn>() <= body.len());
    }
}

/// Bytes that often look like requests: small numbers and NULs are common.
fn plausible(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![3 => Just(0u8), 2 => 1u8..8, 1 => any::<u8>()], 0..len)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoders_survive_arbitrary_bytes(bytes in plausible(600), opcode in any::<u32>(), ext in any::<bool>()) {
        let header = abi::InHeader { opcode, ..Default::default() };
        decode_all(&header, &bytes, Shape { setxattr_ext: ext });
        let _ = decode::split(&bytes);
        let _ = decode::supplementary_groups(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever arrives, each request with a reply gets exactly one, and the session goes on.
    #[test]
    fn sessions_survive_arbitrary_requests(
        requests in prop::collection::vec((1u32..56, plausible(400), 0u16..3, any::<bool>()), 1..40)
    ) {
        let kernel = Kernel::start(Echo::default());
        for (index, (opcode, body, ext, honest)) in requests.into_iter().enumerate() {
            let unique = 100 + 2 * index as u64;
            let mut bytes = request(opcode, unique, &body);
            bytes[36..38].copy_from_slice(&ext.to_ne_bytes());
            if !honest {
                bytes[0] ^= 1;
            }
            kernel.send(&bytes);
            let one_way = Opcode::from_code(opcode).is_some_and(Opcode::is_one_way);
            let well_formed = decode::split(&bytes).is_ok_and(|(_, _, e)| decode::supplementary_groups(e).is_ok());
            let interrupt = opcode == Opcode::Interrupt.code();
            if well_formed && (one_way || interrupt) {
                // Interrupts of unknown requests are answered with EAGAIN, malformed ones not at all.
                continue;
            }
            let answer = std::iter::repeat_with(|| kernel.reply().0).find(|header| header.error != -libc::EAGAIN);
            prop_assert_eq!(answer.map(|header| header.unique), Some(unique));
        }
        // The session still serves.
        kernel.send(&request(Opcode::Lookup.code(), 4, b"x\0"));
        let served = std::iter::repeat_with(|| kernel.reply().0).find(|header| header.error != -libc::EAGAIN);
        prop_assert_eq!(served.map(|header| (header.unique, header.error)), Some((4, 0)));
    }
}

/// A well-formed request of each operation that has arguments.
fn real_requests() -> Vec<(Opcode, Vec<u8>)> {
    fn args(pod: &impl Pod, rest: &[&[u8]]) -> Vec<u8> {
        let mut bytes = pod.as_bytes().to_vec();
        rest.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }
    let write = abi::WriteIn { size: 3000, offset: 7, ..Default::default() };
    let setxattr = abi::SetxattrIn { size: 5, ..Default::default() };
    let ioctl = abi::IoctlIn { in_size: 8, out_size: 8, ..Default::default() };
    let two = abi::BatchForgetIn { count: 2, ..Default::default() };
    let one = abi::ForgetOne { nodeid: 9, nlookup: 1 };
    vec![
        (Opcode::Lookup, b"name\0".to_vec()),
        (Opcode::Getattr, args(&abi::GetattrIn::default(), &[])),
        (Opcode::Setattr, args(&abi::SetattrIn { valid: u32::MAX, ..Default::default() }, &[])),
        (Opcode::Symlink, b"name\0target\0".to_vec()),
        (Opcode::Mknod, args(&abi::MknodIn::default(), &[b"node\0"])),
        (Opcode::Mkdir, args(&abi::MkdirIn::default(), &[b"dir\0"])),
        (Opcode::Rename2, args(&abi::Rename2In::default(), &[b"old\0new\0"])),
        (Opcode::Link, args(&abi::LinkIn::default(), &[b"link\0"])),
        (Opcode::Create, args(&abi::CreateIn::default(), &[b"file\0"])),
        (Opcode::Read, args(&abi::ReadIn { size: 50, ..Default::default() }, &[])),
        (Opcode::Write, args(&write, &[&[5; 3000]])),
        (Opcode::Setxattr, args(&setxattr, &[b"user.x\0value"])),
        (Opcode::Getxattr, args(&abi::GetxattrIn::default(), &[b"user.x\0"])),
        (Opcode::Ioctl, args(&ioctl, &[&[1; 8]])),
        (Opcode::BatchForget, args(&two, &[one.as_bytes(), one.as_bytes()])),
        (Opcode::Interrupt, args(&abi::InterruptIn { unique: 4 }, &[])),
        (Opcode::Setlk, args(&abi::LkIn::default(), &[])),
        (Opcode::CopyFileRange, args(&abi::CopyFileRangeIn::default(), &[])),
        (Opcode::Statx, args(&abi::StatxIn::default(), &[])),
        (Opcode::Removemapping, args(&abi::RemovemappingIn { count: 1 }, &[&[0; 16]])),
        (Opcode::NotifyReply, args(&abi::NotifyRetrieveIn { size: 4, ..Default::default() }, &[b"page"])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Real requests with bytes changed, cut off, or put in between. Each gets at most one answer of its own, and the
    /// session goes on.
    #[test]
    fn sessions_survive_mutated_requests(
        picks in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
             prop::option::of(any::<prop::sample::Index>()), any::<bool>()),
            1..30,
        )
    ) {
        let kernel = Kernel::start(Echo::default());
        let real = real_requests();
        for (index, (which, changes, cut, fix_length)) in picks.into_iter().enumerate() {
            let (opcode, body) = &real[which.index(real.len())];
            let unique = 100 + 2 * index as u64;
            let mut bytes = request(opcode.code(), unique, body);
            for (at, value) in changes {
                // The id stays, so that answers can be told apart.
                let at = at.index(bytes.len());
                if !(8..16).contains(&at) {
                    bytes[at] = value;
                }
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()).max(1));
            }
            if fix_length && bytes.len() >= 4 {
                let len = (bytes.len() as u32).to_ne_bytes();
                bytes[..4].copy_from_slice(&len);
            }
            kernel.send(&bytes);
        }
        kernel.send(&request(Opcode::Lookup.code(), 4, b"x\0"));
        let mut answered = std::collections::BTreeSet::new();
        loop {
            let header = kernel.reply().0;
            if header.error == -libc::EAGAIN {
                continue;
            }
            prop_assert!(answered.insert(header.unique), "two answers to {}", header.unique);
            if header.unique == 4 {
                prop_assert_eq!(header.error, 0);
                break;
            }
        }
    }
}

/// Hands its runtime to others, and answers late if asked to.
struct Runtimes {
    seen: Arc<parking_lot::Mutex<Option<(tokio::runtime::Handle, i32)>>>,
}

impl Filesystem for Runtimes {
    async fn lookup(&self, _: &Context, r: Lookup<'_>) -> Result<Entry, Errno> {
        if r.name == "late" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        *self.seen.lock() = Some((tokio::runtime::Handle::current(), thread));
        Ok(Entry::negative(Duration::ZERO))
    }
}

/// The number of the system call that a thread of this process waits in.
fn waits_in(thread: i32) -> Option<i64> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_channel_whose_handlers_answer_at_once_stands_in_read() {
    let seen = Arc::default();
    let kernel = Kernel::start(Runtimes { seen: Arc::clone(&seen) });
    let call = |name: &[u8]| assert_eq!(kernel.call(Opcode::Lookup, name).0, 0);
    for _round in 0..3 {
        let started = std::time::Instant::now();
        let (runtime, thread) = loop {
            (0..1000).for_each(|_| call(b"soon\0"));
            let (runtime, thread) = seen.lock().clone().unwrap();
            // It may be still on its way there.
            std::thread::sleep(Duration::from_millis(1));
            if waits_in(thread) == Some(libc::SYS_read) {
                break (runtime, thread);
            }
            assert!(started.elapsed() < Duration::from_secs(20), "it waits in {:?}", waits_in(thread));
        };
        // What others start in its runtime goes on meanwhile, timers included.
        let (done, outcome) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            done.send(tokio::spawn(async { 7 }).await.unwrap()).unwrap();
        });
        assert_eq!(outcome.recv_timeout(Duration::from_secs(20)), Ok(7));
        assert_eq!(waits_in(thread), Some(libc::SYS_read), "and left it alone");
        // So do handlers that need longer, more than one at a time.
        (0..3).for_each(|index| kernel.send(&request(Opcode::Lookup.code(), 64 + 2 * index, b"late\0")));
        let mut answered: Vec<_> = (0..3).map(|_| kernel.reply().0.unique).collect();
        answered.sort_unstable();
        assert_eq!(answered, [64, 66, 68]);
    }
    // The end of the connection ends the wait; dropping the kernel waits for that.
}
