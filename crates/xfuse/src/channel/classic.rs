//! A channel over read(2) and writev(2) of its own descriptor of the device.
//!
//! A channel waits in one of two ways. It *watches* the device with epoll(7), through the runtime of its thread, whose
//! tasks go on meanwhile. Where handlers have answered at once for a while and left no tasks behind, it *stands* in
//! read(2) instead, which takes two system calls less for each request; a [`Deputy`] then sees to the runtime.
//!
//! Of the channels that stand the kernel wakes one for each request. Of those that watch it wakes all, so one of them
//! serves alone where requests come one at a time. Once one stands the others join it: two threads that take turns keep a
//! single caller waiting less than one, which has to be waited for while it goes to sleep.

use super::End;
use super::deputy::Deputy;
use crate::buffer::RequestBuffer;
use crate::device;
use crate::dispatch::{Lane, RequestBytes, Route, SMALL, Shared, dispatch_at};
use crate::fs::Filesystem;
use crate::inflight::SlotGuard;
use crate::wait::WaitState;
use crate::wait::waiter::{Episode, Spun, Waiter};
use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Instant;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::RuntimeMetrics;

/// Requests handled in a row before other tasks of the thread get a turn.
const BURST: u32 = 32;
/// Requests found in a row without waiting that show work for more than one channel.
const BACKLOG: u32 = 8;
/// Requests waited for in a row, each alone, that show work for one channel only.
const ALONE: u32 = 16;
/// Requests answered at once in a row before a channel stands in read(2), at least and at most.
const MIN_RUN: u32 = 16;
const MAX_RUN: u32 = 1 << 14;

/// A gone kernel shows as an error condition only, without being readable.
const WATCH: Interest = Interest::READABLE.add(Interest::ERROR);

/// The device descriptor as tokio registers it.
struct Device(Arc<OwnedFd>);

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// One read of the device.
enum Step {
    Request(usize),
    Gone,
    Empty,
}

/// What came of waiting for a request.
enum Received {
    Request(usize),
    Gone,
    /// Others stand in read(2), and this channel is to join them.
    Join,
}

/// What a channel does next.
enum Next {
    Watch,
    Stand,
    End,
}

/// Serves requests until the kernel is gone. `Err` is a device that cannot be read any more.
pub(crate) fn serve<F: Filesystem>(
    index: usize,
    shared: &Arc<Shared<F>>,
    lane: &Arc<Lane>,
    mut deputy: Deputy,
) -> io::Result<End> {
    let mut channel = Channel {
        index,
        shared,
        lane,
        waiter: Waiter::new(lane.wait.clone(), lane.stats.clone()),
        state: &lane.wait,
        buffer: RequestBuffer::empty(&shared.pool),
        tasks: deputy.runtime().metrics(),
        watch: None,
        found_in_row: 0,
        waited_in_row: 0,
        settled: false,
        answered_in_row: 0,
        until_stand: MIN_RUN,
    };
    let mut next = Next::Watch;
    loop {
        next = match next {
            Next::Watch => deputy.runtime().block_on(channel.watch())?,
            Next::Stand => match deputy.while_driving(|| channel.stand()) {
                Ok(next) => next?,
                Err(error) => {
                    tracing::warn!(%error, "a channel has no thread for its tasks, and so waits with epoll");
                    channel.until_stand = u32::MAX;
                    Next::Watch
                }
            },
            Next::End => return Ok(End::Gone),
        }
    }
}

impl<F: Filesystem> Channel<'_, F> {
    /// Serves while waiting through the runtime.
    async fn watch(&mut self) -> io::Result<Next> {
        let (shared, lane) = (self.shared, self.lane);
        self.answered_in_row = 0;
        let mut burst = 0;
        loop {
            // Requests that hold all buffers or slots may never end, but the connection may.
            if self.buffer.is_empty() {
                self.buffer = match shared.pool.try_take()? {
                    Some(buffer) => buffer,
                    None => tokio::select! {
                        buffer = shared.pool.take() => buffer?,
                        gone = self.gone() => return gone,
                    },
                };
            }
            let slot = match lane.inflight.try_acquire() {
                Some(slot) => slot,
                None => tokio::select! {
                    slot = lane.inflight.acquire() => slot,
                    gone = self.gone() => return gone,
                },
            };
            let len = match self.receive().await? {
                Received::Request(len) => len,
                Received::Gone => return Ok(Next::End),
                Received::Join => return Ok(Next::Stand),
            };
            self.dispatch(len, slot, Instant::now())?;
            self.answered_in_row = if self.is_at_rest() { self.answered_in_row + 1 } else { 0 };
            if self.answered_in_row >= self.until_stand && !self.state.hot.is_other(self.index) {
                return Ok(Next::Stand);
            }
            burst += 1;
            if burst == BURST {
                burst = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Serves while waiting in read(2), as long as nothing is left behind and nothing is to be spun for.
    fn stand(&mut self) -> io::Result<Next> {
        // Its readiness would wake the deputy for every request.
        self.watch = None;
        device::set_nonblocking(&self.lane.fd, false)?;
        self.state.standing.fetch_add(1, Relaxed);
        self.state.hot.leave(self.index);
        (self.waited_in_row, self.settled) = (0, false);
        let mut served = 0u32;
        let next = self.stand_while_at_rest(&mut served);
        self.state.standing.fetch_sub(1, Relaxed);
        device::set_nonblocking(&self.lane.fd, true)?;
        // Standing down costs more than a request, so it must not become a habit.
        self.until_stand = match served / MIN_RUN {
            few if few < self.until_stand => (2 * self.until_stand).min(MAX_RUN),
            _ => MIN_RUN,
        };
        next
    }

    fn stand_while_at_rest(&mut self, served: &mut u32) -> io::Result<Next> {
        while !self.buffer.is_empty() && self.is_at_rest() && !self.state.hot.is_other(self.index) {
            let episode = self.waiter.begin(true);
            if self.waiter.window_ns(&episode, false) > 0 {
                return Ok(Next::Watch);
            }
            let Some(slot) = self.lane.inflight.try_acquire() else { return Ok(Next::Watch) };
            let len = match read(&self.lane.fd, &mut self.buffer)? {
                Step::Request(len) => len,
                Step::Gone => return Ok(Next::End),
                // Someone else has set the descriptor to return at once.
                Step::Empty => return Ok(Next::Watch),
            };
            let now = Instant::now();
            if self.waiter.returned(&episode, now, len) {
                self.found_in_row = 0;
            } else {
                self.note_found();
            }
            self.waiter.obtained(&episode, 1);
            self.dispatch(len, slot, now)?;
            *served = served.saturating_add(1);
        }
        Ok(Next::Watch)
    }

    /// Whether this channel is to stand in read(2) because others do, and it has not had to give that up.
    fn may_join(&self) -> bool {
        self.until_stand == MIN_RUN
            && self.state.standing.load(Relaxed) > 0
            && self.is_at_rest()
            && !self.state.hot.is_other(self.index)
    }

    /// Whether nothing that this channel has begun is unfinished.
    fn is_at_rest(&self) -> bool {
        self.lane.inflight.busy() == 0 && self.tasks.num_alive_tasks() == 0
    }

    /// Handles the request in the buffer, which came at `started`, and sees to it that there is another buffer, if there is one.
    fn dispatch(&mut self, len: usize, slot: SlotGuard, started: Instant) -> io::Result<()> {
        let (shared, lane, started) = (self.shared, self.lane, Some(started.into()));
        self.buffer.set_filled(len);
        self.waiter.look_at_caller(caller(self.buffer.request()));
        if len <= SMALL {
            let request = RequestBytes::small(self.buffer.request());
            dispatch_at(started, shared, lane, request, slot, Route::Device);
            return Ok(());
        }
        // The payload may stay in use for long; take the next buffer only once this one is on its way.
        let full = std::mem::replace(&mut self.buffer, RequestBuffer::empty(&shared.pool));
        dispatch_at(started, shared, lane, RequestBytes::Large(full.freeze()), slot, Route::Device);
        if let Some(buffer) = shared.pool.try_take()? {
            self.buffer = buffer;
        }
        Ok(())
    }
}

/// The process that sent a request.
fn caller(request: &[u8]) -> u32 {
    <crate::abi::InHeader as crate::abi::Pod>::read_from(request).map_or(0, |header| header.pid)
}

struct Channel<'a, F> {
    index: usize,
    shared: &'a Arc<Shared<F>>,
    lane: &'a Arc<Lane>,
    waiter: Waiter,
    state: &'a WaitState,
    /// Where the next request goes; empty while there is none to be had.
    buffer: RequestBuffer,
    /// What tasks the thread's runtime has.
    tasks: RuntimeMetrics,
    /// The registration with the runtime; none while another channel serves alone.
    watch: Option<AsyncFd<Device>>,
    found_in_row: u32,
    waited_in_row: u32,
    /// This channel has served alone, as far as it knows.
    settled: bool,
    /// Requests answered at once in a row, without a spin and with nothing left behind.
    answered_in_row: u32,
    /// How many of them it takes before the channel stands in read(2).
    until_stand: u32,
}

impl<F: Filesystem> Channel<'_, F> {
    /// Waits for the next request.
    async fn receive(&mut self) -> io::Result<Received> {
        match self.take_known().await? {
            Step::Request(len) => {
                self.waiter.found(1);
                self.note_found();
                return Ok(Received::Request(len));
            }
            Step::Gone => return Ok(Received::Gone),
            Step::Empty => {}
        }
        self.found_in_row = 0;
        let idle = self.lane.inflight.busy() == 0;
        let mut episode = self.waiter.begin(idle);
        if let Some(received) = self.try_spin(&mut episode)? {
            return Ok(received);
        }
        self.block(&mut episode).await
    }

    /// A request was found without waiting. After a number of such, there is work for others.
    fn note_found(&mut self) {
        self.found_in_row += 1;
        self.waited_in_row = 0;
        if self.found_in_row == BACKLOG {
            self.state.hot.leave(self.index);
        }
    }

    /// Waits for the end of the connection, and for nothing else.
    async fn gone(&mut self) -> io::Result<Next> {
        let watch = match &self.watch {
            Some(watch) => watch,
            None => self.watch.insert(register(&self.lane.fd)?),
        };
        loop {
            let mut ready = watch.ready(Interest::ERROR).await?;
            if device::is_gone(&self.lane.fd)? {
                return Ok(Next::End);
            }
            ready.clear_ready();
        }
    }

    /// A request was waited for. After a number of such the others would only be woken in vain.
    fn serve_alone(&mut self) {
        if self.state.standing.load(Relaxed) > 0 {
            return;
        }
        if std::mem::take(&mut self.settled) && !self.state.hot.is_held_by(self.index) {
            // The others came back since this thread was busy: it has to earn the place again.
            self.waited_in_row = 0;
        }
        self.waited_in_row += 1;
        if self.waited_in_row >= ALONE && self.state.hot.take(self.index) {
            self.state.hot.settle(self.index);
            self.settled = true;
        }
    }

    /// Reads if the registration is known to be ready.
    async fn take_known(&mut self) -> io::Result<Step> {
        // After a spin, or before the first request, nothing is known; the spin or the wait will tell.
        let Some(watch) = &self.watch else { return Ok(Step::Empty) };
        let mut ready = pin!(watch.ready(WATCH));
        let ready = poll_fn(|task| match ready.as_mut().poll(task) {
            Poll::Ready(guard) => Poll::Ready(guard.ok()),
            Poll::Pending => Poll::Ready(None),
        });
        let Some(mut ready) = ready.await else { return Ok(Step::Empty) };
        let step = read(&self.lane.fd, &mut self.buffer)?;
        if matches!(step, Step::Empty) {
            ready.clear_ready();
        }
        Ok(step)
    }

    /// Spins if the episode allows it; `Some` ends the episode.
    fn try_spin(&mut self, episode: &mut Episode) -> io::Result<Option<Received>> {
        let window = self.waiter.window_ns(episode, false);
        if window == 0 || !self.state.hot.take(self.index) {
            return Ok(None);
        }
        self.answered_in_row = 0;
        let (fd, buffer) = (&self.lane.fd, &mut self.buffer);
        let spun = self.waiter.spin(episode, window, || match read(fd, buffer) {
            Ok(Step::Empty) => None,
            other => Some(other),
        });
        Ok(match spun {
            Spun::Expired => {
                if self.waited_in_row < ALONE {
                    self.state.hot.leave(self.index);
                }
                None
            }
            Spun::Hit(step) => match step? {
                Step::Request(len) => {
                    self.state.hot.hit(self.index);
                    self.waiter.obtained(episode, 1);
                    Some(Received::Request(len))
                }
                Step::Gone | Step::Empty => Some(Received::Gone),
            },
        })
    }

    /// Waits through the runtime, whose other tasks go on meanwhile.
    async fn block(&mut self, episode: &mut Episode) -> io::Result<Received> {
        let mut blocked = Instant::now();
        loop {
            if self.state.hot.is_other(self.index) {
                // Its readiness would wake this thread for every request of the spinning channel.
                self.watch = None;
                self.state.hot.while_other(self.index).await;
            }
            if self.may_join() {
                return Ok(Received::Join);
            }
            let watch = match &self.watch {
                Some(watch) => watch,
                None => self.watch.insert(register(&self.lane.fd)?),
            };
            // While handlers are pending, their end may begin a wait that is worth spinning for.
            let until_idle = !episode.is_idle() && self.waiter.may_spin(episode);
            let ready = tokio::select! {
                biased;
                ready = watch.ready(WATCH) => Some(ready?),
                () = self.lane.inflight.idle(), if until_idle => None,
            };
            let Some(mut ready) = ready else {
                self.waiter.became_idle(episode);
                if let Some(received) = self.try_spin(episode)? {
                    return Ok(received);
                }
                blocked = Instant::now();
                continue;
            };
            match read(&self.lane.fd, &mut self.buffer)? {
                Step::Request(len) => {
                    self.waiter.woken(episode, blocked);
                    self.waiter.obtained(episode, 1);
                    self.serve_alone();
                    return Ok(Received::Request(len));
                }
                Step::Gone => return Ok(Received::Gone),
                Step::Empty => {
                    ready.clear_ready();
                    self.waiter.woken_in_vain();
                }
            }
        }
    }
}

fn register(fd: &Arc<OwnedFd>) -> io::Result<AsyncFd<Device>> {
    // SAFETY: the descriptor is owned through the Arc in `Device` for as long as the registration exists, and
    // `as_raw_fd` always names that one.
    unsafe { AsyncFd::register_with_interest(Device(fd.clone()), WATCH) }
        .map_err(|error| error.into_parts().1)
}

/// Reads once; waits only if the descriptor was set to.
fn read(fd: &OwnedFd, buffer: &mut RequestBuffer) -> io::Result<Step> {
    loop {
        match rustix::io::read(fd.as_fd(), buffer.space()) {
            // Only a socket that stands in for the device has an end of file.
            Ok(0) => return Ok(Step::Gone),
            Ok(len) => return Ok(Step::Request(len)),
            Err(Errno::AGAIN) => return Ok(Step::Empty),
            // Interrupted by a signal; or the request was aborted before it was read.
            Err(Errno::INTR | Errno::NOENT) => {}
            Err(Errno::NODEV | Errno::CONNABORTED | Errno::CONNRESET | Errno::NOTCONN) => {
                return Ok(Step::Gone);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
