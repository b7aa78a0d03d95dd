//! The FUSE device: open, clone, read requests, write replies and notifications.

use crate::abi::{self, Pod};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::io::{self, IoSlice};

/// Path of the device.
pub const DEVICE: &str = "/dev/fuse";
/// Most segments of one reply beside its header.
pub(crate) const MAX_PARTS: usize = 65;
/// Replies up to this size go in one piece. The kernel pins the memory of every segment, which costs it more than copying
/// that much takes here.
const JOINED: usize = 256;

/// A reply in one piece, which does not cross a page.
#[repr(align(256))]
struct Joined([u8; JOINED]);

/// Opens the device; the descriptor is of no use before a mount or a clone gives it a connection.
pub(crate) fn open() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// A new descriptor on the connection of `fd`. It shares the queue of pending requests, but answers only what was
/// read through it.
pub(crate) fn clone(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let new = open()?;
    let source = fd.as_raw_fd() as u32;
    // SAFETY: the ioctl reads one u32 from the given address, which outlives the call.
    let result =
        unsafe { libc::ioctl(new.as_raw_fd(), u64::from(abi::DEV_IOC_CLONE) as _, &raw const source) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(new) }
}

/// Whether reads return `EAGAIN` instead of waiting.
pub(crate) fn set_nonblocking(fd: impl AsFd, nonblocking: bool) -> io::Result<()> {
    rustix::io::ioctl_fionbio(fd, nonblocking)?;
    Ok(())
}

/// Whether the connection has ended.
pub(crate) fn is_gone(fd: &OwnedFd) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    // Errors are reported without being asked for.
    Ok(poll(&mut [PollFd::new(fd, PollFlags::empty())], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
}

/// Waits up to `timeout` for a request to be readable.
pub(crate) fn wait_readable(fd: &OwnedFd, timeout: std::time::Duration) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
    loop {
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result? > 0),
        }
    }
}

/// Writes a header and its parts in one system call. `error` is 0, a negated errno, or a notification code.
pub(crate) fn send(fd: impl AsFd, unique: u64, error: i32, parts: &[IoSlice<'_>]) -> io::Result<()> {
    debug_assert!(parts.len() <= MAX_PARTS);
    let payload: usize = parts.iter().map(|part| part.len()).sum();
    let len = (size_of::<abi::OutHeader>() + payload) as u32;
    let header = abi::OutHeader { len, error, unique };
    let head = IoSlice::new(header.as_bytes());
    let written = match parts {
        [] => rustix::io::write(fd, header.as_bytes())?,
        _ if len as usize <= JOINED => {
            let mut joined = Joined([0; JOINED]);
            let mut at = 0;
            for part in std::iter::once(header.as_bytes()).chain(parts.iter().map(|part| &**part)) {
                joined.0[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            rustix::io::write(fd, &joined.0[..at])?
        }
        [part] => rustix::io::writev(fd, &[head, *part])?,
        _ => {
            let mut list = [IoSlice::new(&[]); MAX_PARTS + 1];
            list[0] = head;
            list[1..=parts.len()].copy_from_slice(parts);
            rustix::io::writev(fd, &list[..=parts.len()])?
        }
    };
    // The kernel takes a message whole or not at all.
    if written == len as usize { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
