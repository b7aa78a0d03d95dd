//! A directory tree of the local file system.
//!
//! Each inode that the kernel knows is held open by an `O_PATH` descriptor, so that names may change under it. Handlers
//! call the local file system on the channel's thread: fit for memory and fast disks, where a call is shorter than
//! handing it to another thread.

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec, Timestamps};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use xfuse::request::*;
use xfuse::*;

/// Cache lifetime; changes made below the mount show after that.
const TTL: Duration = Duration::from_secs(1);
/// Times in [`Timestamps`] that mean the present, or no change.
const NOW: i64 = libc::UTIME_NOW;
const OMIT: i64 = libc::UTIME_OMIT;

/// The file system.
pub struct Passthrough {
    state: Mutex<State>,
}

struct State {
    nodes: HashMap<u64, Node>,
    /// Inode ids by device and inode number below.
    ids: HashMap<(u64, u64), u64>,
    files: HashMap<u64, Arc<OwnedFd>>,
    dirs: HashMap<u64, Arc<Vec<Name>>>,
    next: u64,
}

struct Node {
    fd: Arc<OwnedFd>,
    key: (u64, u64),
    lookups: u64,
}

/// An entry of an open directory.
struct Name {
    name: Vec<u8>,
    ino: u64,
    mode: u32,
}

/// The path by which a descriptor can be opened again.
fn reopen(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn attributes(ino: u64, stat: &Stat) -> abi::Attr {
    abi::Attr {
        ino,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: stat.st_atime as u64,
        mtime: stat.st_mtime as u64,
        ctime: stat.st_ctime as u64,
        atimensec: stat.st_atime_nsec as u32,
        mtimensec: stat.st_mtime_nsec as u32,
        ctimensec: stat.st_ctime_nsec as u32,
        mode: stat.st_mode,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: NOW },
        Some(SetTime::At(tv_sec, nanos)) => Timespec { tv_sec, tv_nsec: i64::from(nanos) },
    }
}

impl Passthrough {
    /// Shows `directory`.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let fd =
            rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let key = (stat.st_dev, stat.st_ino);
        let root = Node { fd: Arc::new(fd), key, lookups: 1 };
        Ok(Passthrough {
            state: Mutex::new(State {
                nodes: HashMap::from([(abi::ROOT_ID, root)]),
                ids: HashMap::from([(key, abi::ROOT_ID)]),
                files: HashMap::new(),
                dirs: HashMap::new(),
                next: abi::ROOT_ID + 1,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn node(&self, ino: u64) -> Result<Arc<OwnedFd>, Errno> {
        self.state().nodes.get(&ino).map(|node| node.fd.clone()).ok_or(Errno::ESTALE)
    }

    fn file(&self, fh: u64) -> Result<Arc<OwnedFd>, Errno> {
        self.state().files.get(&fh).cloned().ok_or(Errno::EBADF)
    }

    /// Finds a name and counts a lookup.
    fn find(&self, parent: u64, name: &OsStr) -> Result<Entry, Errno> {
        let dir = self.node(parent)?;
        let fd =
            rustix::fs::openat(&dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let key = (stat.st_dev, stat.st_ino);
        let mut state = self.state();
        let nodeid = match state.ids.get(&key) {
            Some(id) => *id,
            None => {
                let id = state.next;
                state.next += 1;
                state.ids.insert(key, id);
                state.nodes.insert(id, Node { fd: Arc::new(fd), key, lookups: 0 });
                id
            }
        };
        if let Some(node) = state.nodes.get_mut(&nodeid) {
            node.lookups += 1;
        }
        drop(state);
        let attr = attributes(nodeid, &stat);
        Ok(Entry { nodeid, generation: 0, entry_valid: TTL, attr_valid: TTL, attr })
    }

    fn keep(&self, fd: OwnedFd) -> Opened {
        let mut state = self.state();
        let fh = state.next;
        state.next += 1;
        state.files.insert(fh, Arc::new(fd));
        Opened { fh, ..Opened::default() }
    }

    /// What the caller creates is the caller's.
    fn give(&self, cx: &Context, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(cx.uid()), rustix::fs::Gid::from_raw(cx.gid()));
        let dir = self.node(parent)?;
        Ok(rustix::fs::chownat(&dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn list(&self, ino: u64) -> Result<Vec<Name>, Errno> {
        let path = reopen(&*self.node(ino)?);
        let fd = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(fd)? {
            let entry = entry?;
            let mode = entry.file_type().as_raw_mode();
            names.push(Name { name: entry.file_name().to_bytes().to_vec(), ino: entry.ino(), mode });
        }
        Ok(names)
    }

    fn names(&self, fh: u64) -> Result<Arc<Vec<Name>>, Errno> {
        self.state().dirs.get(&fh).cloned().ok_or(Errno::EBADF)
    }
}

impl Filesystem for Passthrough {
    fn forget(&self, ino: u64, nlookup: u64) {
        let mut state = self.state();
        let Some(node) = state.nodes.get_mut(&ino) else { return };
        node.lookups = node.lookups.saturating_sub(nlookup);
        if node.lookups == 0 && ino != abi::ROOT_ID {
            let key = node.key;
            state.nodes.remove(&ino);
            state.ids.remove(&key);
        }
    }

    async fn lookup(&self, _: &Context, r: Lookup<'_>) -> Result<Entry, Errno> {
        match self.find(r.parent, r.name) {
            Err(Errno::ENOENT) => Ok(Entry::negative(TTL)),
            found => found,
        }
    }

    async fn getattr(&self, _: &Context, r: Getattr) -> Result<Attr, Errno> {
        let stat = rustix::fs::fstat(&*self.node(r.ino)?)?;
        Ok(Attr { valid: TTL, attr: attributes(r.ino, &stat) })
    }

    async fn setattr(&self, cx: &Context, r: Setattr) -> Result<Attr, Errno> {
        let node = self.node(r.ino)?;
        let path = reopen(&node);
        if let Some(mode) = r.mode {
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode & 0o7777))?;
        }
        if r.uid.is_some() || r.gid.is_some() {
            let (uid, gid) = (r.uid.map(rustix::fs::Uid::from_raw), r.gid.map(rustix::fs::Gid::from_raw));
            rustix::fs::chownat(&*node, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(size) = r.size {
            match r.fh {
                Some(fh) => rustix::fs::ftruncate(&*self.file(fh)?, size)?,
                None => {
                    let fd = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
                    rustix::fs::ftruncate(fd, size)?;
                }
            }
        }
        if r.atime.is_some() || r.mtime.is_some() {
            let times = Timestamps { last_access: timespec(r.atime), last_modification: timespec(r.mtime) };
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty())?;
        }
        self.getattr(cx, Getattr { ino: r.ino, fh: None }).await
    }

    async fn readlink(&self, _: &Context, r: Readlink) -> Result<Data, Errno> {
        let target = rustix::fs::readlinkat(&*self.node(r.ino)?, "", Vec::new())?;
        Ok(target.into_bytes().into())
    }

    async fn symlink(&self, cx: &Context, r: Symlink<'_>) -> Result<Entry, Errno> {
        rustix::fs::symlinkat(r.target, &*self.node(r.parent)?, r.name)?;
        self.give(cx, r.parent, r.name)?;
        self.find(r.parent, r.name)
    }

    async fn mknod(&self, cx: &Context, r: Mknod<'_>) -> Result<Entry, Errno> {
        let kind = rustix::fs::FileType::from_raw_mode(r.mode);
        let mode = Mode::from_raw_mode(r.mode & 0o7777);
        rustix::fs::mknodat(&*self.node(r.parent)?, r.name, kind, mode, u64::from(r.rdev))?;
        self.give(cx, r.parent, r.name)?;
        self.find(r.parent, r.name)
    }

    async fn mkdir(&self, cx: &Context, r: Mkdir<'_>) -> Result<Entry, Errno> {
        rustix::fs::mkdirat(&*self.node(r.parent)?, r.name, Mode::from_raw_mode(r.mode & 0o7777))?;
        self.give(cx, r.parent, r.name)?;
        self.find(r.parent, r.name)
    }

    async fn unlink(&self, _: &Context, r: Unlink<'_>) -> Result<(), Errno> {
        Ok(rustix::fs::unlinkat(&*self.node(r.parent)?, r.name, AtFlags::empty())?)
    }

    async fn rmdir(&self, _: &Context, r: Rmdir<'_>) -> Result<(), Errno> {
        Ok(rustix::fs::unlinkat(&*self.node(r.parent)?, r.name, AtFlags::REMOVEDIR)?)
    }

    async fn rename(&self, _: &Context, r: Rename<'_>) -> Result<(), Errno> {
        let (from, to) = (self.node(r.parent)?, self.node(r.new_parent)?);
        let flags = rustix::fs::RenameFlags::from_bits(r.flags).ok_or(Errno::EINVAL)?;
        Ok(rustix::fs::renameat_with(&*from, r.name, &*to, r.new_name, flags)?)
    }

    async fn link(&self, _: &Context, r: Link<'_>) -> Result<Entry, Errno> {
        let (node, dir) = (self.node(r.ino)?, self.node(r.new_parent)?);
        rustix::fs::linkat(rustix::fs::CWD, reopen(&node), &*dir, r.new_name, AtFlags::SYMLINK_FOLLOW)?;
        self.find(r.new_parent, r.new_name)
    }

    async fn open(&self, _: &Context, r: Open) -> Result<Opened, Errno> {
        let without = OFlags::NOFOLLOW | OFlags::CREATE | OFlags::EXCL;
        let flags = OFlags::from_bits_retain(r.flags).difference(without) | OFlags::CLOEXEC;
        Ok(self.keep(rustix::fs::open(reopen(&*self.node(r.ino)?), flags, Mode::empty())?))
    }

    async fn create(&self, cx: &Context, r: Create<'_>) -> Result<Created, Errno> {
        let flags = OFlags::from_bits_retain(r.flags) | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(r.mode & 0o7777);
        let fd = rustix::fs::openat(&*self.node(r.parent)?, r.name, flags, mode)?;
        self.give(cx, r.parent, r.name)?;
        Ok(Created { entry: self.find(r.parent, r.name)?, opened: self.keep(fd) })
    }

    async fn read(&self, cx: &Context, r: Read) -> Result<Data, Errno> {
        let file = self.file(r.fh)?;
        let mut bytes = cx.room(r.size);
        let mut have = 0;
        // A short answer would mean the end of the file.
        while have < bytes.len() {
            match rustix::io::pread(&*file, &mut bytes[have..], r.offset + have as u64)? {
                0 => break,
                count => have += count,
            }
        }
        Ok(bytes.filled(have))
    }

    async fn write(&self, _: &Context, r: Write) -> Result<Written, Errno> {
        let file = self.file(r.fh)?;
        let mut done = 0;
        while done < r.data.len() {
            done += rustix::io::pwrite(&*file, &r.data[done..], r.offset + done as u64)?;
        }
        Ok(Written(done as u32))
    }

    async fn statfs(&self, _: &Context, r: Statfs) -> Result<Totals, Errno> {
        let stat = rustix::fs::fstatvfs(&*self.node(r.ino)?)?;
        Ok(Totals(abi::Kstatfs {
            blocks: stat.f_blocks,
            bfree: stat.f_bfree,
            bavail: stat.f_bavail,
            files: stat.f_files,
            ffree: stat.f_ffree,
            bsize: stat.f_bsize as u32,
            namelen: stat.f_namemax as u32,
            frsize: stat.f_frsize as u32,
            ..Default::default()
        }))
    }

    async fn flush(&self, _: &Context, r: Flush) -> Result<(), Errno> {
        // Closing a copy tells what close(2) would.
        drop(rustix::io::fcntl_dupfd_cloexec(self.file(r.fh)?.as_fd(), 0)?);
        Ok(())
    }

    async fn release(&self, _: &Context, r: Release) -> Result<(), Errno> {
        self.state().files.remove(&r.fh).map(drop).ok_or(Errno::EBADF)
    }

    async fn fsync(&self, _: &Context, r: Fsync) -> Result<(), Errno> {
        let file = self.file(r.fh)?;
        let synced = if r.datasync { rustix::fs::fdatasync(&*file) } else { rustix::fs::fsync(&*file) };
        Ok(synced?)
    }

    async fn fallocate(&self, _: &Context, r: Fallocate) -> Result<(), Errno> {
        let mode = rustix::fs::FallocateFlags::from_bits_retain(r.mode);
        Ok(rustix::fs::fallocate(&*self.file(r.fh)?, mode, r.offset, r.length)?)
    }

    async fn opendir(&self, _: &Context, r: Open) -> Result<Opened, Errno> {
        let names = self.list(r.ino)?;
        let mut state = self.state();
        let fh = state.next;
        state.next += 1;
        state.dirs.insert(fh, Arc::new(names));
        Ok(Opened { fh, ..Opened::default() })
    }

    async fn readdir(&self, _: &Context, r: Readdir) -> Result<DirBuffer, Errno> {
        let names = self.names(r.fh)?;
        let mut buffer = DirBuffer::new(r.size);
        for (next, entry) in (1..).zip(names.iter()).skip(r.offset as usize) {
            if !buffer.add(entry.ino, next, entry.mode, OsStr::from_bytes(&entry.name)) {
                break;
            }
        }
        Ok(buffer)
    }

    async fn readdirplus(&self, _: &Context, r: Readdir) -> Result<DirPlusBuffer, Errno> {
        let names = self.names(r.fh)?;
        let mut buffer = DirPlusBuffer::new(r.size);
        for (next, entry) in (1..).zip(names.iter()).skip(r.offset as usize) {
            let name = OsStr::from_bytes(&entry.name);
            if !buffer.fits(name.len()) {
                break;
            }
            let dots = name == "." || name == "..";
            let found = if dots { Err(Errno::ENOENT) } else { self.find(r.ino, name) };
            let added = match found {
                Ok(found) => buffer.add(&found, next, name),
                Err(_) => buffer.add_plain(entry.ino, next, entry.mode, name),
            };
            if !added {
                break;
            }
        }
        Ok(buffer)
    }

    async fn releasedir(&self, _: &Context, r: Release) -> Result<(), Errno> {
        self.state().dirs.remove(&r.fh).map(drop).ok_or(Errno::EBADF)
    }
}
