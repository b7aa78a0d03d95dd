//! A backend served by fuse-backend-rs.

use super::backend::{Backend, Node, PAGE};
use crate::device;
use fuse_backend_rs::abi::fuse_abi::{CreateIn, stat64};
use fuse_backend_rs::api::filesystem::{
    Context, Entry, FileSystem, FsOptions, OpenOptions, SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FuseChannel, FuseSession};
use rustix::fd::{AsRawFd, FromRawFd};
use rustix::fs::Stat;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Serves until unmounted.
///
/// # Errors
/// When mounting failed.
pub fn serve<B: Backend>(backend: B, mountpoint: &Path, threads: usize) -> Result<(), String> {
    let server = Arc::new(Server::new(OnBackendRs(backend)));
    let mut session = FuseSession::new(mountpoint, "fuse-backend-rs", "", false)
        .map_err(|error| format!("session: {error}"))?;
    // Its own mount would add `default_permissions`, and with it a GETATTR of each directory on the way.
    session.set_fuse_file(device::mount(mountpoint)?.into());
    let mut workers = Vec::new();
    for _ in 0..threads {
        let channel = session.new_channel().map_err(|error| format!("channel: {error}"))?;
        let server = server.clone();
        workers.push(std::thread::spawn(move || work(&server, channel)));
    }
    for worker in workers {
        worker.join().map_err(|_| "a thread panicked")?;
    }
    // Its drop would unmount, which has been done by whoever ended this.
    std::mem::forget(session);
    Ok(())
}

fn work<B: Backend>(server: &Server<OnBackendRs<B>>, mut channel: FuseChannel) {
    while let Ok(Some((reader, writer))) = channel.get_request() {
        if let Err(fuse_backend_rs::Error::EncodeMessage(_)) =
            server.handle_message(reader, writer.into(), None, None)
        {
            break;
        }
    }
}

struct OnBackendRs<B>(B);

fn stat64_of(stat: &Stat) -> stat64 {
    // SAFETY: stat64 is a plain C struct of integers, for which zero is a value.
    let mut out: stat64 = unsafe { std::mem::zeroed() };
    out.st_ino = stat.st_ino;
    out.st_size = stat.st_size;
    out.st_blocks = stat.st_blocks;
    out.st_atime = stat.st_atime;
    out.st_mtime = stat.st_mtime;
    out.st_ctime = stat.st_ctime;
    out.st_atime_nsec = stat.st_atime_nsec as i64;
    out.st_mtime_nsec = stat.st_mtime_nsec as i64;
    out.st_ctime_nsec = stat.st_ctime_nsec as i64;
    out.st_mode = stat.st_mode;
    out.st_nlink = stat.st_nlink;
    out.st_uid = stat.st_uid;
    out.st_gid = stat.st_gid;
    out.st_rdev = stat.st_rdev;
    out.st_blksize = stat.st_blksize;
    out
}

fn entry(node: &Node) -> Entry {
    Entry { inode: node.ino, attr: stat64_of(&node.stat), ..Entry::default() }
}

fn os(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

fn options<B: Backend>() -> OpenOptions {
    if B::DIRECT { OpenOptions::DIRECT_IO } else { OpenOptions::empty() }
}

impl<B: Backend> FileSystem for OnBackendRs<B> {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, _: FsOptions) -> io::Result<FsOptions> {
        Ok(FsOptions::ASYNC_READ
            | FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::ASYNC_DIO
            | FsOptions::ABORT_ERROR)
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        Ok(entry(&self.0.lookup(parent, os(name))?))
    }

    fn forget(&self, _: &Context, inode: u64, count: u64) {
        self.0.forget(inode, count);
    }

    fn getattr(&self, _: &Context, inode: u64, _: Option<u64>) -> io::Result<(stat64, Duration)> {
        Ok((stat64_of(&self.0.getattr(inode)?), Duration::ZERO))
    }

    fn setattr(
        &self,
        cx: &Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        if valid.contains(SetattrValid::SIZE) {
            self.0.truncate(inode, attr.st_size as u64)?;
        }
        self.getattr(cx, inode, handle)
    }

    fn mkdir(&self, _: &Context, parent: u64, name: &CStr, mode: u32, _umask: u32) -> io::Result<Entry> {
        Ok(entry(&self.0.mkdir(parent, os(name), mode)?))
    }

    fn unlink(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        Ok(self.0.unlink(parent, os(name), false)?)
    }

    fn rmdir(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        Ok(self.0.unlink(parent, os(name), true)?)
    }

    fn create(
        &self,
        _: &Context,
        parent: u64,
        name: &CStr,
        args: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        let (node, handle) = self.0.create(parent, os(name), args.mode, args.flags)?;
        Ok((entry(&node), Some(handle), options::<B>(), None))
    }

    fn open(
        &self,
        _: &Context,
        inode: u64,
        flags: u32,
        _fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        Ok((Some(self.0.open(inode, flags)?), options::<B>(), None))
    }

    fn release(
        &self,
        _: &Context,
        _inode: u64,
        _flags: u32,
        handle: u64,
        _flush: bool,
        _flock_release: bool,
        _lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.0.release(handle);
        Ok(())
    }

    fn read(
        &self,
        _: &Context,
        _inode: u64,
        handle: u64,
        w: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _flags: u32,
    ) -> io::Result<usize> {
        let Some(fd) = self.0.descriptor(handle) else {
            let data = self.0.read(handle, offset, size as usize)?;
            w.write_all(&data)?;
            return Ok(data.len());
        };
        // SAFETY: the descriptor is open while the request runs, and ManuallyDrop leaves it open.
        let mut file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd.as_raw_fd()) });
        w.write_from(&mut *file, size as usize, offset)
    }

    fn write(
        &self,
        _: &Context,
        _inode: u64,
        handle: u64,
        r: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _delayed_write: bool,
        _flags: u32,
        _fuse_flags: u32,
    ) -> io::Result<usize> {
        let Some(fd) = self.0.descriptor(handle) else {
            let mut page = [0; PAGE];
            let data = page.get_mut(..size as usize).ok_or(io::ErrorKind::InvalidInput)?;
            r.read_exact(data)?;
            return Ok(self.0.write(handle, offset, data)?);
        };
        // SAFETY: as in `read`.
        let mut file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd.as_raw_fd()) });
        r.read_to(&mut *file, size as usize, offset)
    }
}
