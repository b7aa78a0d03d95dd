//! FUSE over io_uring: one queue per possible CPU, each served by a thread pinned to that CPU.
//!
//! The kernel puts a request into the queue of the CPU that it was made on. Forgets, interrupts and notifications stay
//! on the device, which a classic channel serves beside the queues. Once every queue has an entry there is no way back
//! to classic, and a queue that nobody serves hangs every process on its CPU: hence the order of [`start`], and the end
//! of the whole connection when one queue fails.

#[cfg(test)]
mod bad_input;
pub(crate) mod choice;
mod entries;
mod help;
#[cfg(test)]
mod late_interrupts;
mod lent;
mod memory;
mod place;
mod queue;
pub(crate) mod start;

pub(crate) use lent::Lent;
pub(crate) use queue::{EntryRoom, Queue, Ticket};

use super::End;
use crate::buffer::RequestBuffer;
use crate::decode::DecodeError;
use crate::dispatch::{Lane, Port, RequestBytes, SMALL, Shared, dispatch, refuse};
use crate::fs::Filesystem;
use crate::wait::waiter::{Episode, Spun, Waiter};
use bytes::Bytes;
use help::Offered;
use queue::Arrived;
use rustix::fd::{AsRawFd, RawFd};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::runtime::Handle;

/// Completions handled in a row before other tasks of the thread get a turn.
const BURST: u32 = 32;
/// Bytes to transfer that are worth waking another thread.
const WORTH_HELP: usize = 256 << 10;
/// How long a reply may be kept back for others to be submitted with it.
const BATCH_TIME: Duration = Duration::from_micros(20);
/// How long the kernel may take to complete what it holds when the connection has ended.
const REAP: Duration = Duration::from_secs(2);

/// The ring as tokio registers it.
struct Watched(Arc<Queue>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.ring_fd()
    }
}

/// What a completion says.
enum Completed {
    Request(u16),
    /// The connection has ended.
    Gone,
}

/// Serves the requests of one queue until the connection ends. `Err` is a queue that does not work any more.
pub(crate) async fn serve<F: Filesystem>(
    shared: &Arc<Shared<F>>,
    lane: &Arc<Lane>,
    queue: &Arc<Queue>,
) -> io::Result<End> {
    // SAFETY: the ring is owned by the queue, which `Watched` keeps for as long as the registration exists, and
    // `as_raw_fd` always names that ring.
    let watch = unsafe { AsyncFd::register_with_interest(Watched(queue.clone()), Interest::READABLE) }
        .map_err(|error| error.into_parts().1)?;
    let mut waiter = Waiter::new(lane.wait.clone(), lane.stats.clone());
    let mut burst = 0;
    loop {
        // Requests that are here already form a batch that was found without waiting.
        let found = drain(shared, lane, queue, &mut burst).await?;
        let Some(found) = found else { return Ok(End::Gone) };
        if found > 0 {
            waiter.found(found);
            continue;
        }
        let mut episode = waiter.begin(lane.inflight.busy() == 0);
        if !try_spin(&mut waiter, &episode, queue) {
            block(&mut waiter, &mut episode, lane, queue, &watch).await?;
        }
        match drain(shared, lane, queue, &mut burst).await? {
            None => return Ok(End::Gone),
            Some(requests) => waiter.obtained(&episode, requests),
        }
    }
}

/// Handles all completions that are here; how many requests there were, or `None` at the end of the connection.
async fn drain<F: Filesystem>(
    shared: &Arc<Shared<F>>,
    lane: &Arc<Lane>,
    queue: &Arc<Queue>,
    burst: &mut u32,
) -> io::Result<Option<u64>> {
    let mut requests = 0;
    let mut began = Instant::now();
    queue.begin_batch();
    queue.answer_late();
    while let Some((index, result)) = queue.completion() {
        match completed(index, result)? {
            Completed::Gone => {
                queue.end_batch()?;
                return Ok(None);
            }
            Completed::Request(index) => {
                requests += 1;
                handle(shared, lane, queue, index).await?;
                queue.answer_late();
            }
        }
        let now = Instant::now();
        if now - began > BATCH_TIME {
            // A handler that computes must not delay those who have been answered.
            began = now;
            queue.end_batch()?;
            queue.begin_batch();
        }
        *burst += 1;
        if *burst >= BURST {
            *burst = 0;
            queue.end_batch()?;
            tokio::task::yield_now().await;
            queue.begin_batch();
        }
    }
    queue.end_batch()?;
    if queue.is_broken() {
        return Err(broken());
    }
    Ok(Some(requests))
}

fn broken() -> io::Error {
    io::Error::other("replies could not be submitted")
}

fn completed(index: u16, result: i32) -> io::Result<Completed> {
    match -result {
        error if error <= 0 => Ok(Completed::Request(index)),
        libc::ENOTCONN | libc::ECONNABORTED | libc::ENODEV => Ok(Completed::Gone),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

async fn handle<F: Filesystem>(
    shared: &Arc<Shared<F>>,
    lane: &Arc<Lane>,
    queue: &Arc<Queue>,
    index: u16,
) -> io::Result<()> {
    let arrived = match queue.arrived(index) {
        Ok(arrived) => arrived,
        Err((arrived, error)) => {
            refuse(lane, &queue.ticket(&arrived).into(), Some(arrived.unique()), arrived.len(), error);
            return Ok(());
        }
    };
    let read = queue.read_in(&arrived);
    queue.choose_place(read.as_ref());
    let transfers = read.map_or(arrived.payload_len(), |arg| arg.size as usize);
    let ticket = queue.ticket(&arrived);
    if arrived.len() > shared.pool.room() {
        refuse(lane, &ticket.into(), Some(arrived.unique()), arrived.len(), DecodeError::BadLength);
        return Ok(());
    }
    let lent = if arrived.is_write() && arrived.len() > SMALL { queue.lend(&arrived) } else { None };
    let request = if let Some(lent) = lent {
        RequestBytes::Lent(Bytes::from_owner(lent))
    } else if arrived.len() <= SMALL {
        let mut bytes = [0; SMALL];
        queue.copy(&arrived, &mut bytes[..arrived.len()]);
        RequestBytes::Small(bytes, arrived.len() as u16)
    } else {
        RequestBytes::Large(large(shared, queue, &arrived).await?.freeze())
    };
    let slot = match lane.inflight.try_acquire() {
        Some(slot) => slot,
        None => wait_for(queue, lane.inflight.acquire()).await?,
    };
    // Another thread may begin later, and interrupts look for it from now on.
    slot.assign(arrived.unique(), arrived.caller());
    let dispatch = {
        let (shared, lane) = (shared.clone(), lane.clone());
        move || dispatch(&shared, &lane, request, slot, ticket.into())
    };
    // The last that is here may as well be handled here.
    if transfers >= WORTH_HELP && queue.has_work() {
        ask_for_help(shared, queue, Box::new(dispatch));
    } else {
        dispatch();
    }
    Ok(())
}

/// Has another thread run a handler, or runs it.
fn ask_for_help<F>(shared: &Shared<F>, queue: &Arc<Queue>, job: help::Job) {
    let mut job = Some(job);
    for lane in &shared.lanes {
        let Port::Queue(other) = &lane.port else { continue };
        if Arc::ptr_eq(other, queue) {
            continue;
        }
        let Some(asked) = job.take() else { return };
        job = other.ask_for_help(asked);
    }
    if let Some(job) = job {
        job();
    }
}

async fn large<F: Filesystem>(
    shared: &Arc<Shared<F>>,
    queue: &Arc<Queue>,
    arrived: &Arrived,
) -> io::Result<RequestBuffer> {
    let mut buffer = match shared.pool.try_take()? {
        Some(buffer) => buffer,
        None => wait_for(queue, shared.pool.take()).await??,
    };
    queue.copy(arrived, &mut buffer.space()[..arrived.len()]);
    buffer.set_filled(arrived.len());
    Ok(buffer)
}

/// Waits for what may come only after others have got their answers.
async fn wait_for<T>(queue: &Queue, what: impl Future<Output = T>) -> io::Result<T> {
    queue.end_batch()?;
    let mut what = pin!(what);
    loop {
        tokio::select! {
            biased;
            value = &mut what => {
                queue.begin_batch();
                return Ok(value);
            }
            () = queue.changed() => queue.answer_late(),
        }
        if queue.is_broken() {
            return Err(broken());
        }
    }
}

/// Spins if the episode allows it and this thread is not on the CPU whose requests it serves; true if there is
/// something.
fn try_spin(waiter: &mut Waiter, episode: &Episode, queue: &Queue) -> bool {
    let same_cpu = rustix::thread::sched_getcpu() == usize::from(queue.qid());
    let window = waiter.window_ns(episode, same_cpu);
    if window == 0 {
        return false;
    }
    let spun = waiter.spin(episode, window, || {
        queue.poke();
        queue.has_work().then_some(())
    });
    matches!(spun, Spun::Hit(()))
}

/// Waits through the runtime, whose other tasks go on meanwhile.
async fn block(
    waiter: &mut Waiter,
    episode: &mut Episode,
    lane: &Lane,
    queue: &Queue,
    watch: &AsyncFd<Watched>,
) -> io::Result<()> {
    let mut blocked = Instant::now();
    loop {
        let until_idle = !episode.is_idle() && waiter.may_spin(episode);
        // Nothing else that this thread has to do may delay what it is asked for.
        let is_free = lane.inflight.busy() == 0 && Handle::current().metrics().num_alive_tasks() == 0;
        let help = is_free.then(|| queue.offer_help());
        let woken = tokio::select! {
            biased;
            ready = watch.readable() => Woken::Ready(ready?),
            () = queue.changed() => Woken::Changed,
            () = lane.inflight.idle(), if until_idle => Woken::Idle,
        };
        if let Some(job) = help.and_then(Offered::withdraw) {
            job();
        }
        match woken {
            // Before looking: what is completed after the look makes the ring ready again.
            Woken::Ready(mut ready) => ready.clear_ready(),
            Woken::Changed => {}
            Woken::Idle => {
                waiter.became_idle(episode);
                if try_spin(waiter, episode, queue) {
                    return Ok(());
                }
                blocked = Instant::now();
                continue;
            }
        }
        if queue.is_broken() {
            return Err(broken());
        }
        if queue.has_work() {
            waiter.woken(episode, blocked);
            return Ok(());
        }
        waiter.woken_in_vain();
    }
}

/// What ends a wait.
enum Woken<'a> {
    Ready(AsyncFdReadyGuard<'a, Watched>),
    /// Late answers, or the end.
    Changed,
    /// No handler is pending any more.
    Idle,
}

/// At the end of the serving thread.
pub(crate) fn finish(queue: &Queue) {
    queue.reap(REAP);
}
