//! One queue: its ring, its entries, and the commands that move requests and replies.

use super::entries::{Closed, Entries};
use super::help::{Help, Job, Offered};
use super::lent::Lent;
use super::memory::{Area, OP_IN_LEN};
use super::place::{LARGE, Place};
use crate::abi::{
    self, GetxattrIn, InHeader, Opcode, OutHeader, Pod, ReadIn, URING_CMD_COMMIT_AND_FETCH,
    URING_CMD_REGISTER, UringCmdReq,
};
use crate::decode::DecodeError;
use io_uring::{IoUring, cqueue, squeue};
use parking_lot::Mutex;
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long the kernel's thread of a ring looks for submissions before it sleeps, and how long it may take for one.
const POLL_IDLE_MS: u32 = 1;
const POLL_PATIENCE: Duration = Duration::from_secs(5);
/// Times a submission that the kernel has no room for is tried again.
const SUBMIT_TRIES: u32 = 1000;

/// A queue of the connection.
pub(crate) struct Queue {
    /// Dropped before the entries, so that the kernel has let go of their memory.
    ring: Mutex<Ring>,
    /// A thread of the kernel takes submissions from memory.
    polled: bool,
    device: Arc<OwnedFd>,
    qid: u16,
    ring_fd: RawFd,
    /// Where the serving thread runs.
    place: Mutex<Place>,
    server: ThreadId,
    help: Help,
    /// Empty until the connection's sizes are known.
    entries: Entries<Area, Answer>,
    /// Completions taken from the ring while registering further entries.
    early: Mutex<VecDeque<(u64, i32)>>,
    /// Answers that became possible elsewhere. Only the serving thread submits: what a thread submits, the kernel
    /// completes in that thread.
    late: Mutex<Vec<(u16, Answer)>>,
    /// Replies are collected and submitted together.
    batching: AtomicBool,
    /// A submission has failed: the kernel will not see a reply, so the connection must end.
    broken: AtomicBool,
    /// Tells the serving task of late answers and of failure.
    changed: Notify,
}

/// An answer that had to wait.
#[derive(Debug)]
struct Answer {
    commit_id: u64,
    header: OutHeader,
    payload: Vec<u8>,
}

type Ring = IoUring<squeue::Entry128, cqueue::Entry>;

fn ring_len(depth: u16) -> u32 {
    u32::from(depth.max(1)).next_power_of_two() * 2
}

fn ring(depth: u16) -> io::Result<Ring> {
    // Task work is then done when this thread enters the kernel or sleeps, without interrupting it, and the flag in the
    // ring's memory tells a spinning thread to enter.
    IoUring::builder().setup_submit_all().setup_coop_taskrun().setup_taskrun_flag().build(ring_len(depth))
}

fn polled_ring(depth: u16, cpu: u16) -> io::Result<Ring> {
    IoUring::builder()
        .setup_submit_all()
        .setup_sqpoll(POLL_IDLE_MS)
        .setup_sqpoll_cpu(cpu.into())
        .build(ring_len(depth))
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("qid", &self.qid).finish_non_exhaustive()
    }
}

/// One request in an entry, not yet copied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived {
    index: u16,
    commit_id: u64,
    header: InHeader,
    op_len: usize,
    payload_len: usize,
}

impl Queue {
    /// A ring for the queue of CPU `qid`, without entries. Must be called on the thread that will serve it.
    pub(super) fn new(device: Arc<OwnedFd>, qid: u16, depth: u16, place: Place) -> io::Result<Arc<Self>> {
        Ok(Self::with_ring(device, qid, ring(depth)?, place, false))
    }

    /// The same with a kernel thread on that CPU, which submits and completes without system calls of this side.
    pub(super) fn polled(device: Arc<OwnedFd>, qid: u16, depth: u16, place: Place) -> io::Result<Arc<Self>> {
        Ok(Self::with_ring(device, qid, polled_ring(depth, qid)?, place, true))
    }

    fn with_ring(device: Arc<OwnedFd>, qid: u16, ring: Ring, place: Place, polled: bool) -> Arc<Self> {
        let ring_fd = ring.as_raw_fd();
        Arc::new(Queue {
            ring: Mutex::new(ring),
            polled,
            device,
            qid,
            ring_fd,
            place: Mutex::new(place),
            server: std::thread::current().id(),
            help: Help::default(),
            entries: Entries::default(),
            early: Mutex::default(),
            late: Mutex::default(),
            batching: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// The CPU whose requests arrive here.
    pub(crate) fn qid(&self) -> u16 {
        self.qid
    }

    pub(crate) fn ring_fd(&self) -> RawFd {
        self.ring_fd
    }

    /// Whether the kernel polls for submissions.
    pub(crate) fn is_polled(&self) -> bool {
        self.polled
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Ends the service of this queue, and with it the connection.
    pub(crate) fn break_it(&self) {
        self.broken.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Completes when there are late answers, or the queue is broken.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn area(&self, index: u16) -> Option<Arc<Area>> {
        self.entries.area(index)
    }

    /// Whether a request has arrived and not been answered.
    pub(crate) fn is_unanswered(&self, unique: u64) -> bool {
        self.entries.is_open(unique)
    }

    /// Registers one more entry. An error is the kernel's refusal; success is not answered before a request comes.
    pub(super) fn register(&self, payload_len: usize) -> io::Result<()> {
        let area = Arc::new(Area::new(payload_len)?);
        let index = self.entries.add(area.clone());
        self.push(&command(&self.device, URING_CMD_REGISTER, self.qid, 0, Some(area.ranges()), index))?;
        // Without success nobody knows whose the entry is, and it stays the kernel's.
        self.flush().and_then(|()| self.wait_for_poller())?;
        // A refusal is answered at once.
        match self.refusal(index) {
            None => Ok(()),
            Some(error) => {
                self.entries.take_back(index);
                Err(error)
            }
        }
    }

    /// Waits until the kernel has seen all submissions.
    fn wait_for_poller(&self) -> io::Result<()> {
        let started = Instant::now();
        while !self.ring.lock().submission().is_empty() {
            if started.elapsed() > POLL_PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }

    /// The error completion of a registration, if there is one. Requests that came meanwhile are kept.
    fn refusal(&self, index: u16) -> Option<io::Error> {
        let mut refused = None;
        let mut early = self.early.lock();
        while let Some((data, result)) = self.next_completion() {
            if data == u64::from(index) && result < 0 {
                refused = Some(io::Error::from_raw_os_error(-result));
            } else {
                early.push_back((data, result));
            }
        }
        refused
    }

    fn next_completion(&self) -> Option<(u64, i32)> {
        let mut ring = self.ring.lock();
        let next = ring.completion().next();
        next.map(|done| (done.user_data(), done.result()))
    }

    /// Makes the kernel give up io_uring on this connection, if it has not begun: by a registration that cannot be
    /// right.
    pub(super) fn revoke(&self) -> io::Result<()> {
        self.push(&command(&self.device, URING_CMD_REGISTER, u16::MAX, 0, Some(0), u16::MAX))?;
        self.flush()?;
        self.wait_for_poller()
    }

    fn push(&self, entry: &squeue::Entry128) -> io::Result<()> {
        let mut ring = self.ring.lock();
        // SAFETY: the memory that the command names lives as long as the ring (`entries` is dropped after it, and
        // leaked while the kernel uses it), and the device descriptor as long as the queue.
        let pushed = unsafe { ring.submission().push(entry) };
        pushed.map_err(|_| io::Error::other("the submission queue is full"))
    }

    /// Submits what was pushed, all of it.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let result = self.submit_all();
        if result.is_err() {
            self.break_it();
        }
        result
    }

    fn submit_all(&self) -> io::Result<()> {
        let mut ring = self.ring.lock();
        let mut tries = 0;
        while !ring.submission().is_empty() {
            match ring.submit() {
                // The kernel's thread is awake and will see it.
                Ok(_) if self.polled => return Ok(()),
                Ok(count) if count > 0 => tries = 0,
                Err(error)
                    if !matches!(
                        error.raw_os_error(),
                        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM)
                    ) =>
                {
                    return Err(error);
                }
                _ => {
                    tries += 1;
                    if tries == SUBMIT_TRIES {
                        return Err(io::Error::other("the kernel takes no submissions"));
                    }
                    std::thread::yield_now();
                }
            }
        }
        Ok(())
    }

    /// Collects replies until [`Queue::end_batch`].
    pub(super) fn begin_batch(&self) {
        self.batching.store(true, Ordering::Relaxed);
    }

    /// Submits the collected replies.
    pub(super) fn end_batch(&self) -> io::Result<()> {
        self.batching.store(false, Ordering::Relaxed);
        self.flush()
    }

    /// Lets the kernel do its part of delivering requests, if it waits for that.
    pub(super) fn poke(&self) {
        let mut ring = self.ring.lock();
        if ring.submission().taskrun() {
            // Whatever goes wrong here shows in the next submission.
            let _ = ring.submit();
        }
    }

    /// Whether completions or late answers wait.
    pub(super) fn has_work(&self) -> bool {
        if !self.early.lock().is_empty() || !self.late.lock().is_empty() {
            return true;
        }
        let mut ring = self.ring.lock();
        let mut completions = ring.completion();
        completions.sync();
        !completions.is_empty()
    }

    /// The next completed command: entry and result. The entry's memory is then this side's.
    pub(super) fn completion(&self) -> Option<(u16, i32)> {
        loop {
            let early = self.early.lock().pop_front();
            let (data, result) = early.or_else(|| self.next_completion())?;
            let index = data as u16;
            if self.entries.take_back(index) || result < 0 {
                return Some((index, result));
            }
            // A request that nobody could answer: its entry's last one may still be with a handler.
            tracing::error!(qid = self.qid, index, "a completion of what is no operation");
        }
    }

    /// Reads where a request lies in its entry. A malformed one still tells how to answer it.
    pub(super) fn arrived(&self, index: u16) -> Result<Arrived, (Arrived, DecodeError)> {
        let bad = |arrived, error| Err((arrived, error));
        let empty = Arrived { index, commit_id: 0, header: InHeader::default(), op_len: 0, payload_len: 0 };
        let Some(area) = self.area(index) else { return bad(empty, DecodeError::Truncated) };
        let (header, entry) = (area.header(), area.entry());
        let mut arrived = Arrived { commit_id: entry.commit_id, header, ..empty };
        let payload_len = entry.payload_sz as usize;
        let Some(op_len) = argument_len(header.len as usize, payload_len, area.payload_len()) else {
            return bad(arrived, DecodeError::BadLength);
        };
        (arrived.op_len, arrived.payload_len) = (op_len, payload_len);
        Ok(arrived)
    }

    /// Copies a request into contiguous memory of [`Arrived::len`] bytes, as the device would have delivered it.
    pub(super) fn copy(&self, arrived: &Arrived, into: &mut [u8]) {
        let Some(area) = self.area(arrived.index) else { return };
        let (header, rest) = into.split_at_mut(size_of::<InHeader>());
        // What was checked, not what is in memory now.
        header.copy_from_slice(arrived.header.as_bytes());
        let (op_in, payload) = rest.split_at_mut(arrived.op_len);
        area.op_in(op_in);
        area.payload(&mut payload[..arrived.payload_len]);
    }

    /// Chooses the CPU of this thread by the requests it gets.
    pub(super) fn choose_place(&self, read: Option<&ReadIn>) {
        // Reads into the page cache do not name the owner of locks, those that a caller waits for do.
        let is_read_ahead =
            read.is_some_and(|arg| arg.size >= LARGE && arg.read_flags & abi::READ_LOCKOWNER == 0);
        self.place.lock().note(is_read_ahead);
    }

    /// The duty to answer a request.
    pub(super) fn ticket(self: &Arc<Self>, arrived: &Arrived) -> Ticket {
        let mut op_in = [0; OP_IN_LEN];
        let mut limit = 0;
        let Arrived { index, commit_id, header, .. } = *arrived;
        if let Some(area) = self.area(index) {
            area.op_in(&mut op_in[..arrived.op_len]);
            limit = reply_limit(header.opcode, &op_in[..arrived.op_len]).min(area.payload_len());
        }
        let one_way = Opcode::from_code(header.opcode).is_some_and(Opcode::is_one_way);
        self.entries.open(index, header.unique);
        Ticket { queue: self.clone(), index, commit_id, unique: header.unique, limit, one_way }
    }

    /// Lends a whole request, in one piece, to whoever handles it.
    pub(super) fn lend(self: &Arc<Self>, arrived: &Arrived) -> Option<Lent> {
        let area = self.entries.lend(arrived.index, arrived.unique(), true)?;
        let start = area.join(&arrived.header, arrived.op_len);
        Some(Lent::new(self.clone(), arrived.index, area, start, arrived.len()))
    }

    /// Lends the payload's memory for the answer to the request `unique`, if nothing else of the entry is lent.
    fn lend_room(self: &Arc<Self>, index: u16, unique: u64, len: usize) -> Option<Lent> {
        let area = self.entries.lend(index, unique, true)?;
        let len = len.min(area.payload_len());
        Some(Lent::new(self.clone(), index, area, Area::PAYLOAD, len))
    }

    /// What was lent is back.
    pub(super) fn reclaim(&self, index: u16) {
        if let Some(answer) = self.entries.reclaim(index) {
            self.answer_later(index, answer);
        }
    }

    /// Answers a request with an error, whatever its handler does: its own answer will come too late. Returns at once,
    /// and the answer goes out when nothing of the entry is lent any more. Nothing happens if it has been answered.
    pub(crate) fn let_go(&self, unique: u64, error: i32) {
        let Some(index) = self.entries.close_any(unique) else { return };
        let Some(area) = self.area(index) else { return };
        let header = OutHeader { len: size_of::<OutHeader>() as u32, error, unique };
        let answer = Answer { commit_id: area.entry().commit_id, header, payload: Vec::new() };
        if let Some(answer) = self.entries.owe(index, answer) {
            self.answer_later(index, answer);
        }
    }

    /// Submits an answer that is in the entry already, or leaves that to the serving thread.
    fn commit_here_or_there(
        &self,
        index: u16,
        commit_id: u64,
        area: &Area,
        header: OutHeader,
    ) -> io::Result<()> {
        if std::thread::current().id() == self.server {
            return self.commit(index, commit_id, area, &header);
        }
        self.answer_later(index, Answer { commit_id, header, payload: Vec::new() });
        Ok(())
    }

    /// This thread is about to wait, and may help others meanwhile.
    pub(super) fn offer_help(&self) -> Offered<'_> {
        self.help.offer()
    }

    /// Has the serving thread run a job, if it waits; else gives it back.
    pub(super) fn ask_for_help(&self, job: Job) -> Option<Job> {
        let refused = self.help.ask(job);
        if refused.is_none() {
            self.changed.notify_one();
        }
        refused
    }

    /// The argument of a READ.
    pub(super) fn read_in(&self, arrived: &Arrived) -> Option<ReadIn> {
        if arrived.header.opcode != Opcode::Read.code() {
            return None;
        }
        let mut op_in = [0; OP_IN_LEN];
        self.area(arrived.index)?.op_in(&mut op_in[..arrived.op_len]);
        ReadIn::read_from(&op_in[..arrived.op_len])
    }

    fn answer_later(&self, index: u16, answer: Answer) {
        self.late.lock().push((index, answer));
        self.changed.notify_one();
    }

    /// Answers what could not be answered before. Errors show in the queue.
    pub(super) fn answer_late(&self) {
        let late = std::mem::take(&mut *self.late.lock());
        for (index, answer) in late {
            let _ = self.answer(index, &answer);
        }
    }

    fn answer(&self, index: u16, answer: &Answer) -> io::Result<()> {
        let Some(area) = self.area(index) else { return Err(io::ErrorKind::NotFound.into()) };
        area.set_payload(0, &answer.payload);
        self.commit(index, answer.commit_id, &area, &answer.header)
    }

    /// Gives an entry with its answer to the kernel. Its payload is there already.
    fn commit(&self, index: u16, commit_id: u64, area: &Area, header: &OutHeader) -> io::Result<()> {
        area.set_reply(header, header.len as usize - size_of::<OutHeader>());
        self.entries.give(index);
        self.push(&command(&self.device, URING_CMD_COMMIT_AND_FETCH, self.qid, commit_id, None, index))
            .inspect_err(|_| self.break_it())?;
        if self.batching.load(Ordering::Relaxed) { Ok(()) } else { self.flush() }
    }

    /// Waits until the kernel has let go of all entries, for at most `patience`. To be called on the serving thread
    /// after the connection has ended.
    pub(super) fn reap(&self, patience: Duration) {
        let started = Instant::now();
        let _ = self.flush();
        while self.entries.with_kernel() > 0 && started.elapsed() < patience {
            while self.completion().is_some() {}
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
impl Queue {
    /// Adds an entry that is the kernel's, without telling the kernel.
    pub(super) fn add_entry(&self, payload_len: usize) -> (u16, Arc<Area>) {
        let area = Arc::new(Area::new(payload_len).expect("memory"));
        (self.entries.add(area.clone()), area)
    }

    /// As if the entry had been submitted.
    pub(super) fn give_back(&self, index: u16) {
        self.entries.give(index);
    }

    /// As if the kernel had completed the operation on an entry.
    pub(super) fn complete(&self, index: u16) {
        self.early.lock().push_back((u64::from(index), 0));
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let held = self.entries.with_kernel();
        if held > 0 {
            // The kernel may still write there: rather lose the memory.
            tracing::debug!(qid = self.qid, held, "entries were still the kernel's");
            self.entries.forget();
        }
    }
}

impl Arrived {
    pub(super) fn unique(&self) -> u64 {
        self.header.unique
    }

    /// The thread that asks.
    pub(super) fn caller(&self) -> u32 {
        self.header.pid
    }

    pub(super) fn payload_len(&self) -> usize {
        self.payload_len
    }

    pub(super) fn is_write(&self) -> bool {
        self.header.opcode == Opcode::Write.code()
    }

    /// Bytes of the request.
    pub(super) fn len(&self) -> usize {
        size_of::<InHeader>() + self.op_len + self.payload_len
    }
}

/// The right and duty to answer one request. Dropped without an answer it answers `EIO`, so that an entry is never lost.
#[derive(Debug)]
pub(crate) struct Ticket {
    queue: Arc<Queue>,
    index: u16,
    commit_id: u64,
    unique: u64,
    /// Bytes of the largest reply.
    limit: usize,
    one_way: bool,
}

impl Ticket {
    /// Answers. A reply that is too large is refused, as the device would, and can be replaced by another. While the
    /// handler is lent something of the entry, the reply waits.
    pub(crate) fn send(&self, error: i32, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let header = self.header(error, parts.iter().map(|part| part.len()).sum())?;
        match self.queue.entries.close(self.index, self.unique) {
            Closed::No => Err(too_late()),
            Closed::Free(area) => {
                let mut at = 0;
                for part in parts {
                    area.set_payload(at, part);
                    at += part.len();
                }
                self.queue.commit_here_or_there(self.index, self.commit_id, &area, header)
            }
            Closed::Lent => {
                let payload = parts.iter().flat_map(|part| part.iter().copied()).collect();
                let answer = Answer { commit_id: self.commit_id, header, payload };
                if let Some(answer) = self.queue.entries.owe(self.index, answer) {
                    self.queue.answer_later(self.index, answer);
                }
                Ok(())
            }
        }
    }

    /// Answers with the first `len` bytes of what is lent, which is given back. They stay where they are if that is this
    /// request's entry.
    pub(crate) fn send_lent(&self, lent: &Lent, len: usize) -> io::Result<()> {
        if !lent.is_payload_of(&self.queue, self.index) {
            return self.send(0, &[IoSlice::new(&lent.as_ref()[..len])]);
        }
        let header = self.header(0, len)?;
        // The duty first: with what is lent, the entry may go to who else has it.
        match self.queue.entries.close(self.index, self.unique) {
            Closed::No => Err(too_late()),
            Closed::Free(_) | Closed::Lent => {
                lent.give_back();
                let area = self.queue.area(self.index).ok_or(io::ErrorKind::NotFound)?;
                self.queue.commit_here_or_there(self.index, self.commit_id, &area, header)
            }
        }
    }

    /// Room for the reply in the entry itself, if nothing of it is in use.
    pub(crate) fn room(&self) -> EntryRoom {
        EntryRoom { queue: self.queue.clone(), index: self.index, unique: self.unique }
    }

    fn header(&self, error: i32, len: usize) -> io::Result<OutHeader> {
        if len > self.limit {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(OutHeader { len: (size_of::<OutHeader>() + len) as u32, error, unique: self.unique })
    }
}

/// As the device says it.
fn too_late() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

/// Where the reply to a request can be made.
#[derive(Debug)]
pub(crate) struct EntryRoom {
    queue: Arc<Queue>,
    index: u16,
    unique: u64,
}

impl EntryRoom {
    /// Memory for a reply of up to `len` bytes, or less if that is more than any reply.
    pub(crate) fn lend(&self, len: usize) -> Option<Lent> {
        self.queue.lend_room(self.index, self.unique, len)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let error = if self.one_way { 0 } else { -libc::EIO };
        // Usually it has been answered. Or the connection has ended, then nobody waits.
        let _ = self.send(error, &[]);
    }
}

/// Length of a request's first argument, if its lengths make sense.
fn argument_len(len: usize, payload_len: usize, room: usize) -> Option<usize> {
    let argument = len.checked_sub(size_of::<InHeader>())?.checked_sub(payload_len)?;
    (argument <= OP_IN_LEN && payload_len <= room).then_some(argument)
}

/// Largest reply that the caller of a request has room for.
fn reply_limit(opcode: u32, op_in: &[u8]) -> usize {
    match Opcode::from_code(opcode) {
        Some(Opcode::Read | Opcode::Readdir | Opcode::Readdirplus) => {
            ReadIn::read_from(op_in).map_or(0, |arg| arg.size as usize)
        }
        Some(Opcode::Getxattr | Opcode::Listxattr) => GetxattrIn::read_from(op_in)
            .map_or(0, |arg| (arg.size as usize).max(size_of::<abi::GetxattrOut>())),
        // The kernel checks the rest.
        _ => usize::MAX,
    }
}

/// Builds a submission. Written byte by byte after `struct io_uring_sqe`, since the crate has no setter for `addr` and
/// `len` of such a command.
fn command(
    device: &OwnedFd,
    operation: u32,
    qid: u16,
    commit_id: u64,
    ranges: Option<u64>,
    index: u16,
) -> squeue::Entry128 {
    const URING_CMD: u8 = 46;
    let mut sqe = [0; 128];
    sqe[0] = URING_CMD;
    sqe[4..8].copy_from_slice(&device.as_raw_fd().to_ne_bytes());
    sqe[8..12].copy_from_slice(&operation.to_ne_bytes());
    if let Some(ranges) = ranges {
        sqe[16..24].copy_from_slice(&ranges.to_ne_bytes());
        sqe[24..28].copy_from_slice(&2u32.to_ne_bytes());
    }
    sqe[32..40].copy_from_slice(&u64::from(index).to_ne_bytes());
    let request = UringCmdReq { flags: 0, commit_id, qid, padding: [0; 6] };
    sqe[48..48 + size_of::<UringCmdReq>()].copy_from_slice(request.as_bytes());
    // SAFETY: Entry128 is a repr(C) struct of 128 bytes that consists of integers, the kernel's `io_uring_sqe`.
    unsafe { std::mem::transmute::<[u8; 128], squeue::Entry128>(sqe) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_lengths_reach_beyond_an_entry(len in any::<u32>(), payload in any::<u32>(), room in 8192usize..1 << 21) {
            for (len, payload) in [(len as usize, payload as usize), (len as usize % 500, payload as usize % 500)] {
                if let Some(argument) = argument_len(len, payload, room) {
                    prop_assert!(argument <= OP_IN_LEN && payload <= room);
                    prop_assert_eq!(size_of::<InHeader>() + argument + payload, len);
                }
            }
        }
    }

    #[test]
    fn replies_are_limited_to_what_the_caller_has_room_for() {
        let read = ReadIn { size: 4096, ..Default::default() };
        assert_eq!(reply_limit(Opcode::Read.code(), read.as_bytes()), 4096);
        assert_eq!(reply_limit(Opcode::Read.code(), &[]), 0);
        let size = GetxattrIn { size: 0, padding: 0 };
        assert_eq!(reply_limit(Opcode::Getxattr.code(), size.as_bytes()), 8);
    }
}
