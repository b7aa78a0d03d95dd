//! The machine's files through plain system calls on the calling thread.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{OpenOptions, Space};
use crate::buffer::PooledBuf;

/// Pieces per vectored call (IOV_MAX).
const PIECES_MAX: usize = 1024;

/// What one try of a transfer did.
pub(super) enum Outcome {
    /// All or, reading, up to the end of the file.
    Done(usize),
    /// This many bytes, and more would have to wait.
    WouldBlock(usize),
    /// The file system cannot tell whether it would wait.
    Unsupported,
    Failed(io::Error),
}

pub(super) fn open(path: &Path, options: OpenOptions) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(options.write)
        .create(options.create && !options.exclusive)
        .create_new(options.create && options.exclusive)
        .truncate(options.truncate)
        .open(path)
}

pub(super) fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path()));
    let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable();
    Ok(entries)
}

pub(super) fn space(path: &Path) -> io::Result<Space> {
    let s = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks * s.f_frsize;
    Ok(Space { capacity: bytes(s.f_blocks), free: bytes(s.f_bfree), available: bytes(s.f_bavail) })
}

/// The kernel's random id of this boot; zeros where there is none: then a restart of the machine goes unnoticed.
pub(super) fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut digits = text.chars().filter_map(|c| c.to_digit(16));
    std::array::from_fn(|_| {
        let (high, low) = (digits.next().unwrap_or(0), digits.next().unwrap_or(0));
        (high * 16 + low) as u8
    })
}

/// Fills `buf` from `offset`; with `nowait` only from the page cache.
pub(super) fn read(file: &File, offset: u64, buf: &mut PooledBuf, nowait: bool) -> Outcome {
    let mut filled = 0;
    while filled < buf.len() {
        let rest = &mut buf[filled..];
        let piece = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() };
        let flags = if nowait { libc::RWF_NOWAIT } else { 0 };
        let position = (offset + filled as u64) as libc::off_t;
        // SAFETY: `piece` describes memory that `buf` owns and nobody else uses during the call.
        let result = unsafe { libc::preadv2(file.as_raw_fd(), &piece, 1, position, flags) };
        match step(result) {
            Step::Moved(0) => break,
            Step::Moved(n) => filled += n,
            Step::Again => {}
            Step::WouldBlock => return Outcome::WouldBlock(filled),
            Step::Failed(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Outcome::Unsupported,
            Step::Failed(e) => return Outcome::Failed(e),
        }
    }
    Outcome::Done(filled)
}

/// Writes `data` at `offset`, leaving out its first `skip` bytes; with `nowait` only as far as nothing must be waited
/// for.
pub(super) fn write(file: &File, offset: u64, data: &[Bytes], skip: usize, nowait: bool) -> Outcome {
    let total: usize = data.iter().map(Bytes::len).sum();
    let mut written = skip;
    let mut pieces = [const { libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; 16];
    while written < total {
        let count = fill(&mut pieces, data, written);
        let flags = if nowait { libc::RWF_NOWAIT } else { 0 };
        let position = (offset + written as u64) as libc::off_t;
        // SAFETY: the first `count` pieces describe parts of `data`, which is borrowed during the call.
        let result = unsafe {
            libc::pwritev2(file.as_raw_fd(), pieces.as_ptr(), count as libc::c_int, position, flags)
        };
        match step(result) {
            Step::Moved(0) => return Outcome::Failed(io::ErrorKind::WriteZero.into()),
            Step::Moved(n) => written += n,
            Step::Again => {}
            Step::WouldBlock => return Outcome::WouldBlock(written),
            Step::Failed(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Outcome::Unsupported,
            Step::Failed(e) => return Outcome::Failed(e),
        }
    }
    Outcome::Done(written)
}

/// Describes `data` beyond its first `skip` bytes in `pieces`, as much as fits; returns how many were used.
fn fill(pieces: &mut [libc::iovec], data: &[Bytes], mut skip: usize) -> usize {
    let mut count = 0;
    for piece in data {
        if skip >= piece.len() {
            skip -= piece.len();
            continue;
        }
        if count == pieces.len() {
            break;
        }
        pieces[count] = iovec(&piece[skip..]);
        (count, skip) = (count + 1, 0);
    }
    count
}

fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// Descriptions of all of `data` beyond its first `skip` bytes, up to what one call takes.
pub(super) fn iovecs(data: &[Bytes], skip: usize) -> Vec<libc::iovec> {
    let mut pieces =
        vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; data.len().min(PIECES_MAX)];
    let count = fill(&mut pieces, data, skip);
    pieces.truncate(count);
    pieces
}

enum Step {
    Moved(usize),
    Again,
    WouldBlock,
    Failed(io::Error),
}

fn step(result: isize) -> Step {
    if let Ok(n) = usize::try_from(result) {
        return Step::Moved(n);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINTR) => Step::Again,
        Some(libc::EAGAIN) => Step::WouldBlock,
        _ => Step::Failed(error),
    }
}

/// fallocate with a mode; `Unsupported` where the file system cannot.
pub(super) fn fallocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    loop {
        // SAFETY: a plain system call on a descriptor that `file` keeps open.
        let result =
            unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as libc::off_t, len as libc::off_t) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Err(io::ErrorKind::Unsupported.into()),
            _ => return Err(error),
        }
    }
}
