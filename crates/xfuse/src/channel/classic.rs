//! A channel over read(2) and writev(2) of its own descriptor of the device.

use super::End;
use crate::buffer::RequestBuffer;
use crate::device;
use crate::dispatch::{Lane, RequestBytes, Route, SMALL, Shared, dispatch};
use crate::fs::Filesystem;
use crate::wait::WaitState;
use crate::wait::waiter::{Episode, Spun, Waiter};
use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// Requests handled in a row before other tasks of the thread get a turn.
const BURST: u32 = 32;
/// Requests found in a row without waiting that show work for more than one channel.
const BACKLOG: u32 = 8;
/// Requests waited for in a row, each alone, that show work for one channel only.
const ALONE: u32 = 16;

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

/// Serves requests until the kernel is gone. `Err` is a device that cannot be read any more.
pub(crate) async fn serve<F: Filesystem>(
    index: usize,
    shared: &Arc<Shared<F>>,
    lane: &Arc<Lane>,
) -> io::Result<End> {
    let mut channel = Channel {
        index,
        waiter: Waiter::new(lane.wait.clone(), lane.stats.clone()),
        state: &lane.wait,
        lane,
        watch: None,
        found_in_row: 0,
        waited_in_row: 0,
        settled: false,
    };
    let mut buffer = shared.pool.take().await?;
    let mut burst = 0;
    loop {
        let slot = match lane.inflight.try_acquire() {
            Some(slot) => slot,
            // Requests that hold all slots may never end, but the connection may.
            None => tokio::select! {
                slot = lane.inflight.acquire() => slot,
                gone = channel.gone() => return gone,
            },
        };
        let Some(len) = channel.receive(&mut buffer).await? else { return Ok(End::Gone) };
        buffer.set_filled(len);
        channel.waiter.look_at_caller(caller(buffer.request()));
        let request = if len <= SMALL {
            RequestBytes::small(buffer.request())
        } else {
            // The payload may stay in use for long; take the next buffer only once this one is on its way.
            let full = std::mem::replace(&mut buffer, RequestBuffer::empty(&shared.pool));
            RequestBytes::Large(full.freeze())
        };
        dispatch(shared, lane, request, slot, Route::Device);
        if buffer.is_empty() {
            buffer = match shared.pool.try_take()? {
                Some(buffer) => buffer,
                None => tokio::select! {
                    buffer = shared.pool.take() => buffer?,
                    gone = channel.gone() => return gone,
                },
            };
        }
        burst += 1;
        if burst == BURST {
            burst = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// The process that sent a request.
fn caller(request: &[u8]) -> u32 {
    <crate::abi::InHeader as crate::abi::Pod>::read_from(request).map_or(0, |header| header.pid)
}

struct Channel<'a> {
    index: usize,
    waiter: Waiter,
    state: &'a WaitState,
    lane: &'a Lane,
    /// The registration with the runtime; none while another channel serves alone.
    watch: Option<AsyncFd<Device>>,
    found_in_row: u32,
    waited_in_row: u32,
    /// This channel has served alone, as far as it knows.
    settled: bool,
}

impl Channel<'_> {
    /// The next request's length, or `None` when the kernel is gone.
    async fn receive(&mut self, buffer: &mut RequestBuffer) -> io::Result<Option<usize>> {
        let waiting = match self.known_readiness().await {
            // After a spin, or before the first request, nothing is known; the spin or the wait will tell.
            None => Step::Empty,
            Some(mut ready) => {
                let step = read(&self.lane.fd, buffer)?;
                if matches!(step, Step::Empty) {
                    ready.clear_ready();
                }
                step
            }
        };
        match waiting {
            Step::Request(len) => {
                self.waiter.found(1);
                self.found_in_row += 1;
                self.waited_in_row = 0;
                if self.found_in_row == BACKLOG {
                    self.state.hot.leave(self.index);
                }
                return Ok(Some(len));
            }
            Step::Gone => return Ok(None),
            Step::Empty => {}
        }
        self.found_in_row = 0;
        let idle = self.lane.inflight.busy() == 0;
        let mut episode = self.waiter.begin(idle);
        if let Some(step) = self.try_spin(&mut episode, buffer)? {
            return Ok(step);
        }
        self.block(&mut episode, buffer).await
    }

    /// Waits for the end of the connection, and for nothing else.
    async fn gone(&mut self) -> io::Result<End> {
        let watch = match &self.watch {
            Some(watch) => watch,
            None => self.watch.insert(register(&self.lane.fd)?),
        };
        loop {
            let mut ready = watch.ready(Interest::ERROR).await?;
            if device::is_gone(&self.lane.fd)? {
                return Ok(End::Gone);
            }
            ready.clear_ready();
        }
    }

    /// A request was waited for. After a number of such the others would only be woken in vain.
    fn serve_alone(&mut self) {
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

    /// The registration's readiness, if the runtime knows of one already.
    async fn known_readiness(&self) -> Option<AsyncFdReadyGuard<'_, Device>> {
        let watch = self.watch.as_ref()?;
        let mut ready = pin!(watch.ready(WATCH));
        poll_fn(|task| match ready.as_mut().poll(task) {
            Poll::Ready(guard) => Poll::Ready(guard.ok()),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Spins if the episode allows it; `Some` ends the episode.
    fn try_spin(
        &mut self,
        episode: &mut Episode,
        buffer: &mut RequestBuffer,
    ) -> io::Result<Option<Option<usize>>> {
        let window = self.waiter.window_ns(episode, false);
        if window == 0 || !self.state.hot.take(self.index) {
            return Ok(None);
        }
        let fd = &self.lane.fd;
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
                    Some(Some(len))
                }
                Step::Gone | Step::Empty => Some(None),
            },
        })
    }

    /// Waits through the runtime, whose other tasks go on meanwhile.
    async fn block(
        &mut self,
        episode: &mut Episode,
        buffer: &mut RequestBuffer,
    ) -> io::Result<Option<usize>> {
        let mut blocked = Instant::now();
        loop {
            if self.state.hot.is_other(self.index) {
                // Its readiness would wake this thread for every request of the spinning channel.
                self.watch = None;
                self.state.hot.while_other(self.index).await;
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
                if let Some(step) = self.try_spin(episode, buffer)? {
                    return Ok(step);
                }
                blocked = Instant::now();
                continue;
            };
            match read(&self.lane.fd, buffer)? {
                Step::Request(len) => {
                    self.waiter.woken(episode, blocked);
                    self.waiter.obtained(episode, 1);
                    self.serve_alone();
                    return Ok(Some(len));
                }
                Step::Gone => return Ok(None),
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

/// Reads once, without waiting.
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
