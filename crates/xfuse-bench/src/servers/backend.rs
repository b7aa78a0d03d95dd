//! The two file systems that every server serves, apart from any FUSE library.

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::path::Path;

/// Inode number of the root, in all libraries.
pub const ROOT: u64 = 1;
/// Largest READ and WRITE of all servers.
pub const MAX_IO: usize = 1 << 20;
/// Background requests of all servers that let them be set.
pub const MAX_BACKGROUND: u16 = 64;
/// Name of the one file of [`Memory`].
pub const MEMORY_FILE: &str = "file";
/// Its length.
pub const MEMORY_BYTES: u64 = (PAGES * PAGE) as u64;

/// Largest request of [`Memory`].
pub const PAGE: usize = 4096;
const PAGES: usize = 1024;
/// Inode number of that file.
pub const FILE: u64 = 2;

/// An errno or success.
pub type Result<T> = std::result::Result<T, Errno>;

/// An inode as the kernel is told of it.
pub struct Node {
    /// Number.
    pub ino: u64,
    /// Attributes.
    pub stat: Stat,
}

/// What a server needs of a file system. Names and attributes are never cached by the kernel.
pub trait Backend: Send + Sync + 'static {
    /// Whether files are opened with `FOPEN_DIRECT_IO`.
    const DIRECT: bool;

    fn lookup(&self, parent: u64, name: &OsStr) -> Result<Node>;
    fn forget(&self, ino: u64, count: u64);
    fn getattr(&self, ino: u64) -> Result<Stat>;
    fn truncate(&self, ino: u64, size: u64) -> Result<()>;
    fn mkdir(&self, parent: u64, name: &OsStr, mode: u32) -> Result<Node>;
    fn unlink(&self, parent: u64, name: &OsStr, dir: bool) -> Result<()>;
    fn create(&self, parent: u64, name: &OsStr, mode: u32, flags: u32) -> Result<(Node, u64)>;
    fn open(&self, ino: u64, flags: u32) -> Result<u64>;
    fn release(&self, handle: u64);
    fn read(&self, handle: u64, offset: u64, size: usize) -> Result<Bytes>;
    /// The same for libraries that have memory for the answer.
    fn read_into(&self, handle: u64, offset: u64, into: &mut [u8]) -> Result<usize>;
    fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<usize>;
    /// The descriptor behind a handle, for libraries that read straight from one.
    fn descriptor(&self, handle: u64) -> Option<BorrowedFd<'_>>;
}

/// One file of 4 MiB in memory. Requests must lie within a page.
pub struct Memory {
    pages: Vec<Mutex<Bytes>>,
}

impl Memory {
    pub fn new() -> Self {
        Memory { pages: (0..PAGES).map(|_| Mutex::new(Bytes::from(vec![0; PAGE]))).collect() }
    }

    fn place(offset: u64, size: usize) -> Result<(usize, usize)> {
        let (page, start) = (offset as usize / PAGE, offset as usize % PAGE);
        if page < PAGES && start + size <= PAGE { Ok((page, start)) } else { Err(Errno::INVAL) }
    }
}

impl Backend for Memory {
    const DIRECT: bool = true;

    fn lookup(&self, parent: u64, name: &OsStr) -> Result<Node> {
        if (parent, name) != (ROOT, OsStr::new(MEMORY_FILE)) {
            return Err(Errno::NOENT);
        }
        Ok(Node { ino: FILE, stat: self.getattr(FILE)? })
    }

    fn forget(&self, _: u64, _: u64) {}

    fn getattr(&self, ino: u64) -> Result<Stat> {
        // SAFETY: stat is a plain C struct of integers, for which zero is a value.
        let mut stat: Stat = unsafe { std::mem::zeroed() };
        stat.st_ino = ino;
        stat.st_blksize = PAGE as _;
        match ino {
            ROOT => (stat.st_mode, stat.st_nlink) = (libc::S_IFDIR | 0o755, 2),
            FILE => {
                (stat.st_mode, stat.st_nlink) = (libc::S_IFREG | 0o644, 1);
                stat.st_size = MEMORY_BYTES as i64;
            }
            _ => return Err(Errno::NOENT),
        }
        Ok(stat)
    }

    fn truncate(&self, _: u64, _: u64) -> Result<()> {
        Err(Errno::PERM)
    }

    fn mkdir(&self, _: u64, _: &OsStr, _: u32) -> Result<Node> {
        Err(Errno::PERM)
    }

    fn unlink(&self, _: u64, _: &OsStr, _: bool) -> Result<()> {
        Err(Errno::PERM)
    }

    fn create(&self, _: u64, _: &OsStr, _: u32, _: u32) -> Result<(Node, u64)> {
        Err(Errno::PERM)
    }

    fn open(&self, ino: u64, _: u32) -> Result<u64> {
        if ino == FILE { Ok(0) } else { Err(Errno::ISDIR) }
    }

    fn release(&self, _: u64) {}

    fn read(&self, _: u64, offset: u64, size: usize) -> Result<Bytes> {
        let (page, start) = Self::place(offset, size)?;
        Ok(self.pages[page].lock().slice(start..start + size))
    }

    fn read_into(&self, _: u64, offset: u64, into: &mut [u8]) -> Result<usize> {
        let (page, start) = Self::place(offset, into.len())?;
        into.copy_from_slice(&self.pages[page].lock()[start..start + into.len()]);
        Ok(into.len())
    }

    fn write(&self, _: u64, offset: u64, data: &[u8]) -> Result<usize> {
        let (page, start) = Self::place(offset, data.len())?;
        let mut page = self.pages[page].lock();
        // In place, unless a reply still refers to the page.
        let mut bytes =
            std::mem::take(&mut *page).try_into_mut().unwrap_or_else(|used| BytesMut::from(&used[..]));
        bytes[start..start + data.len()].copy_from_slice(data);
        *page = bytes.freeze();
        Ok(data.len())
    }

    fn descriptor(&self, _: u64) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A directory tree passed through: an `O_PATH` descriptor for each inode the kernel knows.
pub struct Tree {
    root: OwnedFd,
    known: Mutex<HashMap<u64, Known>>,
}

struct Known {
    fd: std::sync::Arc<OwnedFd>,
    lookups: u64,
}

thread_local! {
    /// Read buffer of a thread; its memory is used again as soon as the reply that refers to it is gone.
    static BUFFER: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(MAX_IO));
}

const EMPTY: &CStr = c"";

fn backing_flags(flags: u32) -> OFlags {
    let remove = OFlags::DIRECT | OFlags::NOFOLLOW | OFlags::CREATE | OFlags::EXCL;
    (OFlags::from_bits_retain(flags) - remove) | OFlags::CLOEXEC
}

impl Tree {
    pub fn new(root: &Path) -> Result<Self> {
        let root = fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Tree { root, known: Mutex::new(HashMap::new()) })
    }

    fn with<T>(&self, ino: u64, run: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
        if ino == ROOT {
            return run(self.root.as_fd());
        }
        let fd = self.known.lock().get(&ino).ok_or(Errno::STALE)?.fd.clone();
        run(fd.as_fd())
    }

    fn proc_path(fd: BorrowedFd<'_>) -> String {
        use rustix::fd::AsRawFd;
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    }

    fn handle(&self, handle: u64) -> BorrowedFd<'_> {
        // SAFETY: handles are descriptors that `open` and `create` gave away; the kernel releases each once, after its
        // last use.
        unsafe { BorrowedFd::borrow_raw(handle as i32) }
    }
}

impl Backend for Tree {
    const DIRECT: bool = false;

    fn lookup(&self, parent: u64, name: &OsStr) -> Result<Node> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.with(parent, |dir| fs::openat(dir, name, flags, Mode::empty()))?;
        let stat = fs::statat(&fd, EMPTY, AtFlags::EMPTY_PATH)?;
        let mut known = self.known.lock();
        let entry = known.entry(stat.st_ino).or_insert_with(|| Known { fd: fd.into(), lookups: 0 });
        entry.lookups += 1;
        Ok(Node { ino: stat.st_ino, stat })
    }

    fn forget(&self, ino: u64, count: u64) {
        let mut known = self.known.lock();
        if let Some(entry) = known.get_mut(&ino) {
            entry.lookups = entry.lookups.saturating_sub(count);
            if entry.lookups == 0 {
                known.remove(&ino);
            }
        }
    }

    fn getattr(&self, ino: u64) -> Result<Stat> {
        self.with(ino, |fd| fs::statat(fd, EMPTY, AtFlags::EMPTY_PATH))
    }

    fn truncate(&self, ino: u64, size: u64) -> Result<()> {
        self.with(ino, |fd| {
            let file = fs::open(Self::proc_path(fd), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            fs::ftruncate(file, size)
        })
    }

    fn mkdir(&self, parent: u64, name: &OsStr, mode: u32) -> Result<Node> {
        self.with(parent, |dir| fs::mkdirat(dir, name, Mode::from_raw_mode(mode & 0o7777)))?;
        self.lookup(parent, name)
    }

    fn unlink(&self, parent: u64, name: &OsStr, dir: bool) -> Result<()> {
        let flags = if dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        self.with(parent, |parent| fs::unlinkat(parent, name, flags))
    }

    fn create(&self, parent: u64, name: &OsStr, mode: u32, flags: u32) -> Result<(Node, u64)> {
        let exclusive = OFlags::from_bits_retain(flags) & OFlags::EXCL;
        let flags = backing_flags(flags) | OFlags::CREATE | exclusive;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let file = self.with(parent, |dir| fs::openat(dir, name, flags, mode))?;
        Ok((self.lookup(parent, name)?, file.into_raw_fd() as u64))
    }

    fn open(&self, ino: u64, flags: u32) -> Result<u64> {
        let flags = backing_flags(flags);
        let file = self.with(ino, |fd| fs::open(Self::proc_path(fd), flags, Mode::empty()))?;
        Ok(file.into_raw_fd() as u64)
    }

    fn release(&self, handle: u64) {
        // SAFETY: as in `handle`; the kernel will not use it again.
        drop(unsafe { OwnedFd::from_raw_fd(handle as i32) });
    }

    fn read(&self, handle: u64, offset: u64, size: usize) -> Result<Bytes> {
        BUFFER.with_borrow_mut(|buffer| {
            let size = size.min(MAX_IO);
            buffer.reserve(size);
            let room = &mut buffer.spare_capacity_mut()[..size];
            let (filled, _) = rustix::io::pread(self.handle(handle), room, offset)?;
            let len = filled.len();
            // SAFETY: the buffer is empty between reads, and pread has just filled `len` bytes of its room.
            unsafe { buffer.set_len(len) };
            Ok(buffer.split().freeze())
        })
    }

    fn read_into(&self, handle: u64, offset: u64, into: &mut [u8]) -> Result<usize> {
        rustix::io::pread(self.handle(handle), into, offset)
    }

    fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<usize> {
        rustix::io::pwrite(self.handle(handle), data, offset)
    }

    fn descriptor(&self, handle: u64) -> Option<BorrowedFd<'_>> {
        Some(self.handle(handle))
    }
}
