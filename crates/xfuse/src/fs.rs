//! The trait a file system implements.

use crate::context::Context;
use crate::dirbuf::{DirBuffer, DirPlusBuffer};
use crate::errno::Errno;
use crate::init::Negotiated;
use crate::notify::Notifier;
use crate::reply::*;
use crate::request::*;
use std::future::{Future, ready};

/// What a file system learns before the first request.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// The outcome of INIT.
    pub negotiated: Negotiated,
    /// Sends notifications to the kernel.
    pub notifier: Notifier,
    /// Largest number of channel threads there may be.
    pub channels: usize,
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $reply:ty;)*) => {
        /// A file system: one async method per kernel operation, each answering `ENOSYS` unless implemented.
        ///
        /// Methods may be written as `async fn`. They run on the thread of the channel that received the request, many
        /// at once; they must not block that thread. A method that panics answers `EIO`.
        pub trait Filesystem: Send + Sync + 'static {
            /// Called once after INIT was negotiated and before its reply is sent; an error ends the session.
            fn init(&self, info: &SessionInfo) -> Result<(), Errno> {
                let _ = info;
                Ok(())
            }

            /// Called once when the kernel has gone (unmounted or aborted), after all requests have ended and while
            /// all channel threads still run. The place to flush what is left.
            fn destroy(&self) -> impl Future<Output = ()> + Send {
                ready(())
            }

            /// FORGET: the kernel drops `nlookup` references to an inode. References are gained by every reply that
            /// carries an [`Entry`] with a nodeid and by every [`DirPlusBuffer::add`]. Must be quick; has no reply.
            fn forget(&self, ino: u64, nlookup: u64) {
                let _ = (ino, nlookup);
            }

            $(
                $(#[$doc])*
                fn $name(
                    &self,
                    cx: &Context,
                    request: $request,
                ) -> impl Future<Output = Result<$reply, Errno>> + Send {
                    let _ = (cx, request);
                    ready(Err(Errno::ENOSYS))
                }
            )*
        }
    };
}

operations! {
    /// Resolves a name. An [`Entry::negative`] tells the kernel to remember that there is none.
    lookup(Lookup<'_>) -> Entry;
    /// Attributes of an inode.
    getattr(Getattr) -> Attr;
    /// Attributes in statx(2) form. With `ENOSYS` the kernel falls back to GETATTR for ever.
    statx(Statx) -> StatxReply;
    /// Changes attributes and returns the new ones.
    setattr(Setattr) -> Attr;
    /// Target of a symbolic link.
    readlink(Readlink) -> Data;
    /// Creates a symbolic link.
    symlink(Symlink<'_>) -> Entry;
    /// Creates a file, fifo, socket or device without opening it.
    mknod(Mknod<'_>) -> Entry;
    /// Creates a directory.
    mkdir(Mkdir<'_>) -> Entry;
    /// Removes a non-directory.
    unlink(Unlink<'_>) -> ();
    /// Removes an empty directory.
    rmdir(Rmdir<'_>) -> ();
    /// Renames. Unknown flags are to be refused with `EINVAL`.
    rename(Rename<'_>) -> ();
    /// Creates a hard link.
    link(Link<'_>) -> Entry;
    /// Opens a file. With `ENOSYS` the kernel opens files itself, with handle 0, for ever (NO_OPEN_SUPPORT).
    open(Open) -> Opened;
    /// Creates and opens a file. With `ENOSYS` the kernel uses MKNOD and OPEN.
    create(Create<'_>) -> Created;
    /// Creates and opens a file without a name.
    tmpfile(Tmpfile) -> Created;
    /// Reads. Fewer bytes than asked for mean end of file.
    read(Read) -> Data;
    /// Writes.
    write(Write) -> Written;
    /// File system totals.
    statfs(Statfs) -> Totals;
    /// A descriptor of the file was closed; the error is that of close(2).
    flush(Flush) -> ();
    /// Last close; nobody sees the error.
    release(Release) -> ();
    /// Makes a file durable.
    fsync(Fsync) -> ();
    /// Sets an extended attribute.
    setxattr(Setxattr<'_>) -> ();
    /// Reads an extended attribute. `ENOSYS` stops the kernel from asking for any, for ever.
    getxattr(Getxattr<'_>) -> Xattr;
    /// Lists extended attributes.
    listxattr(Listxattr) -> Xattr;
    /// Removes an extended attribute.
    removexattr(Removexattr<'_>) -> ();
    /// Opens a directory.
    opendir(Open) -> Opened;
    /// Lists a directory.
    readdir(Readdir) -> DirBuffer;
    /// Lists a directory with attributes. Needs `DO_READDIRPLUS` among the wanted flags.
    readdirplus(Readdir) -> DirPlusBuffer;
    /// Last close of a directory; nobody sees the error.
    releasedir(Release) -> ();
    /// Makes a directory durable.
    fsyncdir(Fsync) -> ();
    /// Tests for a lock (needs `POSIX_LOCKS`).
    getlk(Lk) -> Lock;
    /// Locks or unlocks without waiting.
    setlk(Lk) -> ();
    /// Locks, waiting until it is possible or the request is interrupted.
    setlkw(Lk) -> ();
    /// Permission check of access(2) and chdir(2); not sent with `default_permissions`.
    access(Access) -> ();
    /// Maps a block of the file to one of the device.
    bmap(Bmap) -> Block;
    /// Device control.
    ioctl(Ioctl<'_>) -> IoctlReply;
    /// Readiness.
    poll(Poll) -> Ready;
    /// Allocates or releases space.
    fallocate(Fallocate) -> ();
    /// Finds data or holes.
    lseek(Lseek) -> Offset;
    /// Copies on the server.
    copy_file_range(CopyFileRange) -> Copied;
    /// DAX mapping (virtiofs).
    setupmapping(Setupmapping) -> ();
    /// DAX mapping (virtiofs).
    removemapping(Removemapping) -> ();
    /// Makes everything durable.
    syncfs(Syncfs) -> ();
}
