//! Recorded requests, damaged, through the decoders and through a session that takes a socket for its device: each gets
//! the answer it deserves, is counted, and harms no other.

#[path = "bodies/requests.rs"]
mod requests;

use requests::{Random, Verdict, mutated, real, recorded, request, set_unique, verdict};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use std::collections::BTreeMap;
use xfuse::abi::{self, InitFlags, Opcode, Pod};
use xfuse::decode::Shape;
use xfuse::stats::Snapshot;
use xfuse::{Filesystem, InitConfig, Session};

/// Offers no operation: whatever can be decoded is answered with ENOSYS.
struct Nothing;

impl Filesystem for Nothing {}

const SHAPE: Shape = Shape { setxattr_ext: true };
/// Requests for the decoders.
const ROUNDS: u32 = if cfg!(miri) { 600 } else { 60_000 };
/// The last request of a batch.
const LAST: u64 = 2;

#[test]
fn recordings_are_of_every_operation_and_all_good() {
    let mut seen: Vec<Opcode> = Vec::new();
    for bytes in real() {
        let header = abi::InHeader::read_from(&bytes).unwrap();
        assert_eq!(verdict(&bytes, SHAPE), Verdict::Good, "{header:?}");
        seen.push(Opcode::from_code(header.opcode).expect("an operation we know"));
    }
    let missing: Vec<_> = Opcode::ALL.iter().filter(|opcode| !seen.contains(opcode)).collect();
    assert_eq!(missing, [] as [&Opcode; 0]);
    assert!(recorded().len() > 50);
}

#[test]
fn decoders_survive_what_is_left_of_requests() {
    let mut random = Random::from_env();
    let real = real();
    let mut counts = BTreeMap::<_, u32>::new();
    for _ in 0..ROUNDS {
        let bytes = mutated(&real, &mut random);
        for setxattr_ext in [true, false] {
            *counts.entry(format!("{:?}", verdict(&bytes, Shape { setxattr_ext }))).or_default() += 1;
        }
    }
    println!("{counts:?}");
    let enough = ROUNDS / 60;
    assert!(counts.len() == 4 && counts.values().all(|count| *count > enough), "{counts:?}");
}

/// Each request cut off at each length, with the length field as it was, and made right.
#[test]
fn decoders_survive_cut_requests() {
    for bytes in real() {
        for len in (0..bytes.len().min(400)).step_by(if cfg!(miri) { 7 } else { 1 }) {
            let mut cut = bytes[..len].to_vec();
            assert_eq!(verdict(&cut, SHAPE), Verdict::Unreadable);
            if len >= 4 {
                cut[..4].copy_from_slice(&(len as u32).to_ne_bytes());
                verdict(&cut, SHAPE);
            }
        }
    }
}

struct Kernel {
    socket: OwnedFd,
    session: Session,
}

impl Kernel {
    fn new(fs: impl Filesystem) -> Self {
        let (socket, device) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let flags = InitFlags::INIT_EXT | InitFlags::SETXATTR_EXT;
        let init = abi::InitIn { major: 7, minor: 45, flags: flags.0 as u32, ..Default::default() };
        rustix::io::write(&socket, &request(Opcode::Init.code(), 4, init.as_bytes())).unwrap();
        let config = InitConfig { max_write: 64 << 10, ..InitConfig::default() };
        let session = Session::builder(fs).init(config).channels(1).buffers(4).attach(device).unwrap();
        let kernel = Kernel { socket, session };
        assert_eq!(kernel.reply().error, 0);
        kernel
    }

    fn reply(&self) -> abi::OutHeader {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let wait = Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(
            poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&wait)).unwrap(),
            1,
            "no reply"
        );
        let mut bytes = [0; 4096];
        let len = rustix::io::read(self.socket.as_fd(), &mut bytes[..]).unwrap();
        let header = abi::OutHeader::read_from(&bytes[..len]).expect("a whole header");
        assert_eq!(header.len as usize, len);
        header
    }

    /// Sends the requests and one more; the errors of all answers up to that one's, by id.
    fn answers(&self, batch: &[Vec<u8>]) -> BTreeMap<u64, Vec<i32>> {
        for bytes in batch.iter().chain([&request(Opcode::Statfs.code(), LAST, &[])]) {
            rustix::io::write(&self.socket, bytes).unwrap();
        }
        let mut answers = BTreeMap::<u64, Vec<i32>>::new();
        loop {
            let header = self.reply();
            if header.unique == LAST {
                return answers;
            }
            answers.entry(header.unique).or_default().push(header.error);
        }
    }

    fn end(self) -> Snapshot {
        let stats = self.session.stats().clone();
        shutdown(&self.socket, Shutdown::Both).unwrap();
        self.session.wait();
        stats.snapshot()
    }
}

/// The answer to a request, if there is to be one.
fn deserved(bytes: &[u8]) -> Option<i32> {
    let header = abi::InHeader::read_from(bytes)?;
    let opcode = Opcode::from_code(header.opcode);
    match (verdict(bytes, SHAPE), opcode) {
        (Verdict::Unreadable, _) => Some(-libc::EIO),
        (Verdict::Unknown, _) => Some(-libc::ENOSYS),
        (_, Some(Opcode::Forget | Opcode::BatchForget | Opcode::NotifyReply | Opcode::Interrupt)) => None,
        (Verdict::Malformed, _) => Some(-libc::EINVAL),
        (Verdict::Good, Some(Opcode::Init | Opcode::CuseInit)) => Some(-libc::EIO),
        (Verdict::Good, Some(Opcode::Destroy)) => Some(0),
        (Verdict::Good, _) => Some(-libc::ENOSYS),
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs sockets")]
fn sessions_answer_each_request_as_it_deserves() {
    let mut random = Random::from_env();
    let real = real();
    let kernel = Kernel::new(Nothing);
    let (mut malformed, mut unknown) = (0, 0);
    for round in 0..400 {
        let mut batch = Vec::new();
        for index in 0..16 {
            let mut bytes = mutated(&real, &mut random);
            // A packet without bytes is the end of a socket.
            bytes.resize(bytes.len().max(1), 0);
            // Ids are even; an interrupt's own id is odd.
            set_unique(&mut bytes, 1000 + 2 * (16 * round + index));
            batch.push(bytes);
        }
        let mut answers = kernel.answers(&batch);
        // Interrupts of nobody are answered late, and only to be repeated.
        answers.values_mut().for_each(|errors| errors.retain(|error| *error != -libc::EAGAIN));
        for (index, bytes) in batch.iter().enumerate() {
            let unique = 1000 + 2 * (16 * round + index as u64);
            let expected: Vec<i32> = deserved(bytes).into_iter().collect();
            assert_eq!(answers.remove(&unique).unwrap_or_default(), expected, "{bytes:?}");
            let verdict = verdict(bytes, SHAPE);
            malformed += u64::from(matches!(verdict, Verdict::Unreadable | Verdict::Malformed));
            unknown += u64::from(verdict == Verdict::Unknown);
        }
        answers.retain(|_, errors| !errors.is_empty());
        assert_eq!(answers, BTreeMap::new(), "answers to nobody");
    }
    let seen = kernel.end();
    assert_eq!((seen.malformed, seen.unknown, seen.panics), (malformed, unknown, 0));
    assert!(malformed > 1000 && unknown > 100, "{malformed} malformed, {unknown} unknown");
    assert_eq!((seen.in_flight, seen.refused_replies), (0, 0));
}

/// Only a broken kernel interrupts the request with the id 0, which is that of no request.
#[test]
#[cfg_attr(miri, ignore = "needs sockets")]
fn interrupts_of_no_request_leave_nothing_behind() {
    let kernel = Kernel::new(Nothing);
    for target in [0, 1, u64::MAX] {
        let interrupt = request(Opcode::Interrupt.code(), 0, &target.to_ne_bytes());
        let lookup = request(Opcode::Lookup.code(), 10, b"name\0");
        let answers = kernel.answers(&[interrupt, lookup]);
        assert_eq!(answers.get(&10), Some(&vec![-libc::ENOSYS]));
    }
    assert_eq!(kernel.end().in_flight, 0);
}

#[test]
#[ignore = "writes fuzz/corpus/request"]
fn corpus() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/request");
    std::fs::create_dir_all(dir).unwrap();
    for (number, bytes) in real().into_iter().enumerate() {
        // The target's options come first.
        std::fs::write(format!("{dir}/real-{number}"), [&[0][..], &bytes].concat()).unwrap();
    }
}
