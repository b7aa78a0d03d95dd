//! A channel over read(2) and writev(2) of its own descriptor of the device.

use crate::buffer::RequestBuffer;
use crate::dispatch::{Lane, RequestBytes, SMALL, Shared, dispatch};
use crate::fs::Filesystem;
use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::io;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Requests handled in a row before other tasks of the thread get a turn.
const BURST: u32 = 32;

/// A gone kernel shows as an error condition only, without being readable.
const WATCH: Interest = Interest::READABLE.add(Interest::ERROR);

/// The device descriptor as tokio registers it.
struct Device(Arc<OwnedFd>);

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Why a channel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The file system was unmounted or the connection aborted.
    Gone,
}

/// Serves requests until the kernel is gone. `Err` is a device that cannot be read any more.
pub(crate) async fn serve<F: Filesystem>(shared: &Arc<Shared<F>>, lane: &Arc<Lane>) -> io::Result<End> {
    // SAFETY: the descriptor is owned through the Arc in `Device` for as long as the registration exists, and
    // `as_raw_fd` always names that one.
    let device = unsafe { AsyncFd::register_with_interest(Device(lane.fd.clone()), WATCH) }
        .map_err(|error| error.into_parts().1)?;
    let mut buffer = shared.pool.take().await?;
    let mut burst = 0;
    loop {
        let slot = lane.inflight.acquire().await;
        let Some(len) = receive(&device, &mut buffer).await? else { return Ok(End::Gone) };
        buffer.set_filled(len);
        let request = if len <= SMALL {
            RequestBytes::small(buffer.request())
        } else {
            // The payload may stay in use for long; take the next buffer only once this one is on its way.
            let full = std::mem::replace(&mut buffer, RequestBuffer::empty(&shared.pool));
            RequestBytes::Large(full.freeze())
        };
        dispatch(shared, lane, request, slot);
        if buffer.is_empty() {
            buffer = shared.pool.take().await?;
        }
        burst += 1;
        if burst == BURST {
            burst = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// The next request's length, or `None` when the kernel is gone.
async fn receive(device: &AsyncFd<Device>, buffer: &mut RequestBuffer) -> io::Result<Option<usize>> {
    loop {
        let mut ready = device.ready(WATCH).await?;
        match rustix::io::read(device.get_ref().0.as_fd(), buffer.space()) {
            // Only a socket that stands in for the device has an end of file.
            Ok(0) => return Ok(None),
            Ok(len) => return Ok(Some(len)),
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            // Interrupted by a signal; or the request was aborted before it was read.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::NOENT) => {}
            Err(
                rustix::io::Errno::NODEV
                | rustix::io::Errno::CONNABORTED
                | rustix::io::Errno::CONNRESET
                | rustix::io::Errno::NOTCONN,
            ) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}
