//! Requests in entries, damaged: what is read of them, what they are answered, and that it happens once. No kernel has a
//! part in it but for the ring.

#[path = "../../../tests/bodies/requests.rs"]
mod requests;

use super::memory::{Area, OP_IN_LEN};
use super::place::Place;
use super::{Queue, handle};
use crate::abi::{InHeader, Opcode, OutHeader, Pod, UringEntInOut};
use crate::buffer::Pool;
use crate::decode::Shape;
use crate::dispatch::{Lane, Port, Shared};
use crate::fs::Filesystem;
use crate::inflight::Inflight;
use crate::notify;
use crate::stats::ChannelStats;
use crate::wait::{WaitPolicy, WaitState};
use requests::{Random, Verdict, mutated, real, set_unique, verdict};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const HEADER: usize = size_of::<InHeader>();
const SHAPE: Shape = Shape { setxattr_ext: true };
/// Larger than any buffer of the pool, so that lengths can be right and still too much.
const PAYLOAD: usize = 256 << 10;

/// Offers no operation: whatever can be decoded is answered with ENOSYS.
pub(super) struct Nothing;

impl Filesystem for Nothing {}

pub(super) struct Served {
    pub(super) shared: Arc<Shared<Nothing>>,
    pub(super) lane: Arc<Lane>,
    pub(super) queue: Arc<Queue>,
    pub(super) index: u16,
    pub(super) area: Arc<Area>,
}

impl Served {
    /// A queue whose device completes every command at once; nothing if there is no io_uring here.
    pub(super) fn new() -> Option<Self> {
        let null = |flags| rustix::fs::open("/dev/null", flags | OFlags::CLOEXEC, Mode::empty());
        let device: Arc<OwnedFd> = Arc::new(null(OFlags::RDWR).unwrap());
        let queue = Queue::new(device.clone(), 0, 1, Place::pin(u16::MAX))
            .inspect_err(|error| eprintln!("skipped: io_uring: {error}"))
            .ok()?;
        let (index, area) = queue.add_entry(PAYLOAD);
        let lane = Arc::new(Lane {
            fd: device.clone(),
            port: Port::Queue(queue.clone()),
            stats: Arc::new(ChannelStats::new()),
            inflight: Inflight::new(2),
            wait: WaitState::new(&WaitPolicy::default(), Vec::new()),
        });
        let shared = Shared {
            fs: Nothing,
            shape: SHAPE,
            pool: Pool::new(0, 2),
            notify: notify::Inner::start(device, 1).unwrap(),
            lanes: vec![lane.clone()],
        };
        Some(Served { shared: Arc::new(shared), lane, queue, index, area })
    }

    /// Serves what lies in the entry, and returns the reply, which must be the only one.
    async fn serve(&self) -> (OutHeader, usize) {
        self.queue.complete(self.index);
        let completed = self.queue.completion();
        assert_eq!(completed, Some((self.index, 0)));
        handle(&self.shared, &self.lane, &self.queue, self.index).await.unwrap();
        assert!(!self.queue.is_broken());
        let reply = OutHeader::read_from(self.area.header().as_bytes()).unwrap();
        let payload_len = self.area.entry().payload_sz as usize;
        // The device completes whatever is submitted, with success or not. Then the entry is here again, as it is
        // after a real request.
        let committed = self.queue.completion().expect("a reply was submitted");
        assert_eq!(committed.0, self.index);
        assert_eq!(self.queue.completion(), None, "answered twice");
        self.queue.give_back(self.index);
        (reply, payload_len)
    }
}

/// A request as it lies in an entry.
struct Planted {
    header: Vec<u8>,
    op_in: [u8; OP_IN_LEN],
    payload: Vec<u8>,
    payload_sz: u32,
}

impl Planted {
    /// Puts the bytes into the parts of an entry, with the border anywhere.
    fn new(mut bytes: Vec<u8>, random: &mut Random) -> Self {
        bytes.resize(bytes.len().max(HEADER), 0);
        let (header, body) = bytes.split_at(HEADER);
        let (first, payload) = body.split_at(random.below(body.len().min(OP_IN_LEN) + 1));
        let mut op_in = [0; OP_IN_LEN];
        op_in[..first.len()].copy_from_slice(first);
        let payload_sz = match random.below(12) {
            0 => random.next() as u32,
            1 => random.below(2 * PAYLOAD) as u32,
            _ => payload.len() as u32,
        };
        let mut planted = Planted { header: header.to_vec(), op_in, payload: payload.to_vec(), payload_sz };
        if random.below(12) == 0 {
            // Lengths that agree, of more than there is.
            let len = (HEADER + random.below(OP_IN_LEN + 1)) as u32;
            planted.header[..4].copy_from_slice(&len.wrapping_add(payload_sz).to_ne_bytes());
        }
        planted
    }

    /// The request that the lengths describe, if they make sense.
    fn described(&self, area: &Area) -> Option<Vec<u8>> {
        let header = InHeader::read_from(&self.header)?;
        let payload_len = self.payload_sz as usize;
        let op_len = (header.len as usize).checked_sub(HEADER)?.checked_sub(payload_len)?;
        if op_len > OP_IN_LEN || payload_len > PAYLOAD || header.len as usize > Pool::new(0, 1).room() {
            return None;
        }
        let mut payload = vec![0; payload_len];
        area.payload(&mut payload);
        Some([&self.header[..], &self.op_in[..op_len], &payload].concat())
    }
}

fn deserved(verdict: Verdict, opcode: Option<Opcode>) -> i32 {
    match (verdict, opcode) {
        (Verdict::Unreadable, _) => -libc::EIO,
        (Verdict::Unknown, _) => -libc::ENOSYS,
        // The kernel sends these to the device alone; an entry must come back all the same.
        (_, Some(Opcode::Forget | Opcode::BatchForget | Opcode::NotifyReply | Opcode::Destroy)) => 0,
        (_, Some(Opcode::Interrupt)) => -libc::EIO,
        (Verdict::Malformed, _) => -libc::EINVAL,
        (Verdict::Good, Some(Opcode::Init | Opcode::CuseInit)) => -libc::EIO,
        (Verdict::Good, _) => -libc::ENOSYS,
    }
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs io_uring")]
async fn entries_are_answered_once_and_as_they_deserve() {
    let Some(served) = Served::new() else { return };
    let mut random = Random::from_env();
    let real = real();
    let (mut malformed, mut unknown) = (0, 0);
    for round in 0..6000u64 {
        let mut bytes = mutated(&real, &mut random);
        set_unique(&mut bytes, 1000 + 2 * round);
        let planted = Planted::new(bytes, &mut random);
        let entry = UringEntInOut { commit_id: round, payload_sz: planted.payload_sz, ..Default::default() };
        served.area.set_request(&planted.header, &planted.op_in, &planted.payload, &entry);
        let described = planted.described(&served.area);
        let verdict = described.map_or(Verdict::Unreadable, |bytes| verdict(&bytes, SHAPE));
        let header = InHeader::read_from(&planted.header).unwrap();
        let (reply, payload_len) = served.serve().await;
        let expected = deserved(verdict, Opcode::from_code(header.opcode));
        let expected =
            OutHeader { len: size_of::<OutHeader>() as u32, error: expected, unique: header.unique };
        assert_eq!((reply, payload_len), (expected, 0), "{verdict:?} {header:?} {}", planted.payload_sz);
        malformed += u64::from(matches!(verdict, Verdict::Unreadable | Verdict::Malformed));
        unknown += u64::from(verdict == Verdict::Unknown);
    }
    let stats = &served.lane.stats;
    assert_eq!((stats.malformed.load(Relaxed), stats.unknown.load(Relaxed)), (malformed, unknown));
    assert!(malformed > 1000 && unknown > 100, "{malformed} malformed, {unknown} unknown");
    assert_eq!((served.lane.inflight.busy(), stats.panics.load(Relaxed)), (0, 0));
}

/// A completion that nobody waits for, or of an entry that is not there, is no request.
#[tokio::test]
#[cfg_attr(miri, ignore = "needs io_uring")]
async fn completions_of_nothing_are_skipped() {
    let Some(served) = Served::new() else { return };
    served.queue.complete(served.index);
    served.queue.complete(served.index);
    served.queue.complete(99);
    assert_eq!(served.queue.completion(), Some((served.index, 0)));
    assert_eq!(served.queue.completion(), None);
}
