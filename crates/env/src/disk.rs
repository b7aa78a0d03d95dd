//! Disk: files as a server process sees them, real or simulated.
//!
//! [`Disk`] and [`DiskFile`] are object safe; their methods return [`IoFuture`], which holds its result in place when the
//! operation finished while it was being started (page-cache hits and most buffered writes), so that the common case costs
//! neither an allocation nor a wake-up.
//!
//! [`real`] is the machine's disk, [`memory::MemoryDisk`] one that forgets what was not synced and fails on demand.

mod files;
pub mod memory;
mod real;
mod ring;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::buffer::PooledBuf;

pub use real::{Backend, real, real_with};

/// A started disk operation. The operation is under way (or done) as soon as the method that made the future returns;
/// polling only collects the result. Dropping the future abandons the result, not the operation: buffers stay alive
/// until the kernel is done with them.
#[must_use = "the result of a disk operation must be looked at"]
pub struct IoFuture<T>(Inner<T>);

enum Inner<T> {
    Ready(Option<io::Result<T>>),
    Ring(ring::Operation<T>),
    Boxed(Pin<Box<dyn Future<Output = io::Result<T>> + Send>>),
}

impl<T> IoFuture<T> {
    /// An operation that is already over.
    pub fn ready(result: io::Result<T>) -> Self {
        IoFuture(Inner::Ready(Some(result)))
    }

    /// An operation whose result another future brings.
    pub fn boxed(future: impl Future<Output = io::Result<T>> + Send + 'static) -> Self {
        IoFuture(Inner::Boxed(Box::pin(future)))
    }

    /// Whether the result is there.
    pub fn is_ready(&self) -> bool {
        matches!(self.0, Inner::Ready(_))
    }
}

impl<T> Unpin for IoFuture<T> {}

impl<T> Future for IoFuture<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Inner::Ready(result) => {
                Poll::Ready(result.take().expect("a future is not polled after it was ready"))
            }
            Inner::Ring(operation) => operation.poll(cx),
            Inner::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

/// How [`Disk::open`] opens a file. Files are always opened for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// Open for writing too.
    pub write: bool,
    /// Create the file when it is missing.
    pub create: bool,
    /// Fail with `AlreadyExists` when the file exists (with `create`).
    pub exclusive: bool,
    /// Cut an existing file to length 0.
    pub truncate: bool,
}

impl OpenOptions {
    /// An existing file, to read.
    pub const READ: Self = Self { write: false, create: false, exclusive: false, truncate: false };
    /// An existing file, to read and write.
    pub const WRITE: Self = Self { write: true, ..Self::READ };
    /// A file to read and write, made if needed.
    pub const CREATE: Self = Self { create: true, ..Self::WRITE };
    /// A file to read and write that did not exist before.
    pub const CREATE_NEW: Self = Self { exclusive: true, ..Self::CREATE };
}

/// Size of the file system that holds a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes in total.
    pub capacity: u64,
    /// Bytes free, including those reserved for root.
    pub free: u64,
    /// Bytes free for this process.
    pub available: u64,
}

/// A directory tree on some medium.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, options: OpenOptions) -> IoFuture<Arc<dyn DiskFile>>;
    /// Creates a directory and its missing ancestors.
    fn create_dir_all(&self, path: &Path) -> IoFuture<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> IoFuture<()>;
    /// Renames a file within the file system, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> IoFuture<()>;
    /// Paths of a directory's entries, sorted.
    fn list(&self, path: &Path) -> IoFuture<Vec<PathBuf>>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, path: &Path) -> IoFuture<()>;
    /// Size and free space of the file system that holds `path`.
    fn space(&self, path: &Path) -> IoFuture<Space>;
    /// Whether a file or directory exists.
    fn exists(&self, path: &Path) -> IoFuture<bool>;
    /// Changes whenever written data that was not synced may have been lost: at each boot of the machine. Two equal
    /// values mean that everything written between them is still there.
    fn boot_id(&self) -> [u8; 16];
}

/// An open file. Operations on different ranges may overlap in time; of operations on overlapping ranges that are
/// under way together, any order may result.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads `len` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, offset: u64, len: usize) -> IoFuture<PooledBuf>;
    /// Writes the pieces one after the other at `offset`, all of them or an error.
    fn write_at(&self, offset: u64, data: &[Bytes]) -> IoFuture<()>;
    /// Makes written data durable, with the length needed to read it (fdatasync).
    fn sync_data(&self) -> IoFuture<()>;
    /// Length in bytes.
    fn size(&self) -> IoFuture<u64>;
    /// Sets the length; growing leaves a hole.
    fn set_len(&self, len: u64) -> IoFuture<()>;
    /// Reserves space for a range so that writing it cannot fail for lack of space; the file grows to its end, if
    /// need be. `Unsupported` where the file system cannot.
    fn allocate(&self, offset: u64, len: u64) -> IoFuture<()>;
    /// Makes a range read as zeros and keeps its space, reserving what is missing. Unlike after a write of zeros, pages
    /// of the range can be written in part without being read first. `Unsupported` where the file system cannot.
    fn zero_range(&self, offset: u64, len: u64) -> IoFuture<()>;
    /// Gives the space of a range back; it reads as zeros. `Unsupported` where the file system cannot.
    fn punch_hole(&self, offset: u64, len: u64) -> IoFuture<()>;
}
