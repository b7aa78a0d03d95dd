//! One io_uring per thread, reaped where it is filled.
//!
//! An operation is submitted and its ring looked at in the same breath: when the kernel could finish at once (page
//! cache) the result is returned without a future ever waiting. Otherwise a task of the thread's runtime watches the
//! ring's descriptor and wakes whoever waits. What the kernel uses belongs to the ring's slot until the kernel is done,
//! whatever becomes of the future.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use io_uring::{IoUring, opcode, squeue, types};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime;

use super::{Inner as FutureInner, IoFuture, files};
use crate::buffer::PooledBuf;

/// Entries of the submission queue; it is emptied at each submission.
const SUBMISSIONS: u32 = 64;
/// Operations under way per thread; more are done by plain calls.
const IN_FLIGHT_MAX: usize = 1024;

/// What the kernel is asked to do, with everything it touches meanwhile.
pub(super) enum Job {
    Read {
        file: Arc<File>,
        offset: u64,
        buf: PooledBuf,
        filled: usize,
    },
    Write {
        file: Arc<File>,
        offset: u64,
        data: Vec<Bytes>,
        pieces: Vec<libc::iovec>,
        written: usize,
        total: usize,
    },
    Sync {
        file: Arc<File>,
    },
    Allocate {
        file: Arc<File>,
        mode: i32,
        offset: u64,
        len: u64,
    },
    Nothing,
}

// SAFETY: the raw pointers are those in `Job::Write::pieces`, into the `data` beside them, which is never changed and
// moves along with them.
unsafe impl Send for Job {}

impl Job {
    pub(super) fn read(file: &Arc<File>, offset: u64, buf: PooledBuf, filled: usize) -> Self {
        Job::Read { file: Arc::clone(file), offset, buf, filled }
    }

    pub(super) fn write(file: &Arc<File>, offset: u64, data: &[Bytes], written: usize) -> Self {
        let total = data.iter().map(Bytes::len).sum();
        let data = data.to_vec();
        let pieces = files::iovecs(&data, written);
        Job::Write { file: Arc::clone(file), offset, data, pieces, written, total }
    }

    fn entry(&mut self) -> squeue::Entry {
        let fd = |file: &Arc<File>| types::Fd(file.as_raw_fd());
        match self {
            Job::Read { file, offset, buf, filled } => {
                let rest = &mut buf[*filled..];
                let len = rest.len().min(1 << 30) as u32;
                opcode::Read::new(fd(file), rest.as_mut_ptr(), len).offset(*offset + *filled as u64).build()
            }
            Job::Write { file, offset, pieces, written, .. } => {
                let at = *offset + *written as u64;
                opcode::Writev::new(fd(file), pieces.as_ptr(), pieces.len() as u32).offset(at).build()
            }
            Job::Sync { file } => opcode::Fsync::new(fd(file)).flags(types::FsyncFlags::DATASYNC).build(),
            Job::Allocate { file, mode, offset, len } => {
                opcode::Fallocate::new(fd(file), *len).offset(*offset).mode(*mode).build()
            }
            Job::Nothing => opcode::Nop::new().build(),
        }
    }

    /// Takes in the kernel's answer; `None` when there is more to do.
    fn advance(&mut self, result: i32) -> Option<io::Result<()>> {
        let Ok(moved) = usize::try_from(result) else {
            return match -result {
                libc::EINTR | libc::EAGAIN => None,
                libc::EOPNOTSUPP => Some(Err(io::ErrorKind::Unsupported.into())),
                errno => Some(Err(io::Error::from_raw_os_error(errno))),
            };
        };
        match self {
            Job::Read { buf, filled, .. } => {
                *filled += moved;
                if moved == 0 || *filled == buf.len() { Some(Ok(())) } else { None }
            }
            Job::Write { data, pieces, written, total, .. } => {
                *written += moved;
                if *written == *total {
                    return Some(Ok(()));
                }
                *pieces = files::iovecs(data, *written);
                if moved == 0 { Some(Err(io::ErrorKind::WriteZero.into())) } else { None }
            }
            Job::Sync { .. } | Job::Allocate { .. } | Job::Nothing => Some(Ok(())),
        }
    }
}

/// Result of a finished read.
pub(super) fn into_buffer(job: Job) -> PooledBuf {
    match job {
        Job::Read { mut buf, filled, .. } => {
            buf.resize(filled);
            buf
        }
        _ => unreachable!("only reads are finished this way"),
    }
}

/// Result of any other finished job.
pub(super) fn nothing(_: Job) {}

enum Slot {
    Free {
        next: usize,
    },
    Waiting {
        job: Job,
        waker: Option<Waker>,
    },
    /// Under way, its future gone.
    Abandoned {
        job: Job,
    },
    Done {
        job: Job,
        result: io::Result<()>,
    },
}

struct Shared {
    uring: IoUring,
    slots: Vec<Slot>,
    free: usize,
    in_flight: usize,
    /// The watching task is gone: waiters wait in the kernel themselves.
    unwatched: bool,
}

pub(super) struct Ring {
    shared: Mutex<Shared>,
}

/// A ring's descriptor, kept open by the ring beside it.
struct RingFd {
    ring: Arc<Ring>,
    fd: RawFd,
}

impl AsRawFd for RingFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

thread_local! {
    static CURRENT: RefCell<Option<(runtime::Id, Arc<Ring>)>> = const { RefCell::new(None) };
}

impl Ring {
    /// The ring of this thread and its runtime; `None` outside a runtime or where the kernel refuses.
    pub(super) fn current() -> Option<Arc<Ring>> {
        let runtime = runtime::Handle::try_current().ok()?;
        CURRENT.with_borrow_mut(|current| {
            if let Some((id, ring)) = current
                && *id == runtime.id()
            {
                return Some(Arc::clone(ring));
            }
            let ring = Ring::start(&runtime)
                .inspect_err(|e| tracing::warn!("io_uring is not available, disk calls will block: {e}"))
                .ok()?;
            *current = Some((runtime.id(), Arc::clone(&ring)));
            Some(ring)
        })
    }

    /// Whether the kernel lets this process have a ring.
    pub(super) fn available() -> bool {
        build().is_ok()
    }

    fn start(runtime: &runtime::Handle) -> io::Result<Arc<Ring>> {
        let uring = build()?;
        let fd = uring.as_raw_fd();
        let shared = Shared { uring, slots: Vec::new(), free: usize::MAX, in_flight: 0, unwatched: false };
        let ring = Arc::new(Ring { shared: Mutex::new(shared) });
        let fd = RingFd { ring: Arc::clone(&ring), fd };
        // SAFETY: the descriptor is open until the ring is dropped, which `RingFd` keeps from happening.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        let watch = Watch { fd };
        runtime.spawn(watch.run());
        Ok(ring)
    }

    /// Starts a job. The buffers it names stay with the ring until the kernel is done with them.
    pub(super) fn submit<T>(self: &Arc<Self>, job: Job, finish: fn(Job) -> T) -> Result<IoFuture<T>, Job> {
        let mut shared = self.shared.lock();
        if shared.in_flight >= IN_FLIGHT_MAX {
            return Err(job);
        }
        let slot = shared.insert(job);
        shared.push(slot);
        let mut woken = Vec::new();
        shared.enter(0, &mut woken);
        let finished = shared.take_done(slot);
        drop(shared);
        woken.into_iter().for_each(Waker::wake);
        Ok(match finished {
            Some((job, result)) => IoFuture::ready(result.map(|()| finish(job))),
            None => {
                IoFuture(FutureInner::Ring(Operation { ring: Arc::clone(self), slot, finish, over: false }))
            }
        })
    }

    fn reap(&self) {
        let mut woken = Vec::new();
        self.shared.lock().enter(0, &mut woken);
        woken.into_iter().for_each(Waker::wake);
    }
}

fn build() -> io::Result<IoUring> {
    let completions = IN_FLIGHT_MAX as u32;
    let modern = IoUring::builder().setup_cqsize(completions).setup_coop_taskrun().build(SUBMISSIONS);
    modern.or_else(|_| IoUring::builder().setup_cqsize(completions).build(SUBMISSIONS))
}

impl Shared {
    fn insert(&mut self, job: Job) -> usize {
        let slot = Slot::Waiting { job, waker: None };
        self.in_flight += 1;
        if let Some(Slot::Free { next }) = self.slots.get(self.free) {
            let index = self.free;
            self.free = *next;
            self.slots[index] = slot;
            return index;
        }
        self.slots.push(slot);
        self.slots.len() - 1
    }

    /// Takes a slot's contents out; the index stays reserved.
    fn take(&mut self, index: usize) -> Slot {
        std::mem::replace(&mut self.slots[index], Slot::Free { next: usize::MAX })
    }

    fn release(&mut self, index: usize) -> Slot {
        let slot = self.take(index);
        self.slots[index] = Slot::Free { next: self.free };
        self.free = index;
        slot
    }

    fn take_done(&mut self, index: usize) -> Option<(Job, io::Result<()>)> {
        if !matches!(self.slots[index], Slot::Done { .. }) {
            return None;
        }
        match self.release(index) {
            Slot::Done { job, result } => Some((job, result)),
            _ => None,
        }
    }

    fn push(&mut self, index: usize) {
        let (Slot::Waiting { job, .. } | Slot::Abandoned { job }) = &mut self.slots[index] else { return };
        let entry = job.entry().user_data(index as u64);
        loop {
            // SAFETY: everything the entry points to is owned by the slot's job, which is neither moved in memory it
            // points to nor dropped before the kernel's answer is taken in by `complete`.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            // The queue is full: hand it over. Errors here are dealt with by the next `enter`.
            let _ = self.uring.submit();
        }
    }

    /// Hands new entries to the kernel, waits for `want` answers, takes in all that are there.
    fn enter(&mut self, want: usize, woken: &mut Vec<Waker>) {
        loop {
            let entered = if want > 0 || !self.uring.submission().is_empty() {
                self.uring.submit_and_wait(want)
            } else {
                Ok(0)
            };
            while let Some((index, result)) = self.next_answer() {
                self.complete(index, result, woken);
            }
            if let Err(e) = entered {
                // Out of memory or too many answers outstanding: both pass.
                tracing::debug!("io_uring_enter: {e}");
                std::thread::yield_now();
            }
            if self.uring.submission().is_empty() {
                return;
            }
        }
    }

    fn next_answer(&mut self) -> Option<(usize, i32)> {
        let answer = self.uring.completion().next()?;
        Some((answer.user_data() as usize, answer.result()))
    }

    fn complete(&mut self, index: usize, result: i32, woken: &mut Vec<Waker>) {
        let (Slot::Waiting { job, .. } | Slot::Abandoned { job }) = &mut self.slots[index] else { return };
        let Some(result) = job.advance(result) else {
            self.push(index);
            return;
        };
        self.in_flight -= 1;
        match self.take(index) {
            Slot::Waiting { job, waker } => {
                self.slots[index] = Slot::Done { job, result };
                woken.extend(waker);
            }
            _ => drop(self.release(index)),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let shared = self.shared.get_mut();
        let mut woken = Vec::new();
        while shared.in_flight > 0 {
            shared.enter(1, &mut woken);
        }
    }
}

/// The task that watches a ring's descriptor for as long as the runtime lives.
struct Watch {
    fd: AsyncFd<RingFd>,
}

impl Watch {
    async fn run(self) {
        while let Ok(mut ready) = self.fd.readable().await {
            ready.get_inner().ring.reap();
            ready.clear_ready();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut shared = self.fd.get_ref().ring.shared.lock();
        shared.unwatched = true;
        let waiting = shared.slots.iter_mut().filter_map(|slot| match slot {
            Slot::Waiting { waker, .. } => waker.take(),
            _ => None,
        });
        let wakers: Vec<Waker> = waiting.collect();
        drop(shared);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A job under way.
pub(super) struct Operation<T> {
    ring: Arc<Ring>,
    slot: usize,
    finish: fn(Job) -> T,
    over: bool,
}

impl<T> Operation<T> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        assert!(!self.over, "a future is not polled after it was ready");
        let mut woken = Vec::new();
        let mut shared = self.ring.shared.lock();
        let (job, result) = loop {
            if let Some(done) = shared.take_done(self.slot) {
                break done;
            }
            if shared.unwatched {
                shared.enter(1, &mut woken);
                continue;
            }
            if let Slot::Waiting { waker, .. } = &mut shared.slots[self.slot] {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
            }
            return Poll::Pending;
        };
        drop(shared);
        self.over = true;
        woken.into_iter().for_each(Waker::wake);
        Poll::Ready(result.map(|()| (self.finish)(job)))
    }
}

impl<T> Drop for Operation<T> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut shared = self.ring.shared.lock();
        let dropped = match shared.take(self.slot) {
            Slot::Waiting { job, waker } => {
                shared.slots[self.slot] = Slot::Abandoned { job };
                Slot::Waiting { job: Job::Nothing, waker }
            }
            done => {
                shared.release(self.slot);
                done
            }
        };
        // Wakers and buffers run foreign code when dropped: not under the lock.
        drop(shared);
        drop(dropped);
    }
}
