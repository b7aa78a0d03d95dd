//! Flag values of the interface, and the INIT flag set as a type.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Sub};

/// A set of INIT flags.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct InitFlags(pub u64);

macro_rules! init_flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal,)*) => {
        impl InitFlags {
            $($(#[$doc])* pub const $name: InitFlags = InitFlags(1 << $bit);)*

            const NAMES: &'static [(InitFlags, &'static str)] = &[$((InitFlags::$name, stringify!($name))),*];
        }
    };
}

init_flags! {
    /// Several reads of one file at once.
    ASYNC_READ = 0,
    /// POSIX locks are the file system's.
    POSIX_LOCKS = 1,
    /// Unused by Linux.
    FILE_OPS = 2,
    /// `O_TRUNC` is passed to OPEN instead of a separate SETATTR.
    ATOMIC_O_TRUNC = 3,
    /// Lookups of `.` and `..` are understood (NFS export).
    EXPORT_SUPPORT = 4,
    /// Writes larger than 4 KiB.
    BIG_WRITES = 5,
    /// The file system applies the umask.
    DONT_MASK = 6,
    /// Device supports splice for writing.
    SPLICE_WRITE = 7,
    /// Device supports moving pages.
    SPLICE_MOVE = 8,
    /// Device supports splice for reading.
    SPLICE_READ = 9,
    /// flock(2) locks are the file system's.
    FLOCK_LOCKS = 10,
    /// ioctl(2) on directories.
    HAS_IOCTL_DIR = 11,
    /// Drop cached data when size or mtime change.
    AUTO_INVAL_DATA = 12,
    /// READDIRPLUS is implemented.
    DO_READDIRPLUS = 13,
    /// The kernel chooses between READDIR and READDIRPLUS.
    READDIRPLUS_AUTO = 14,
    /// Asynchronous direct I/O.
    ASYNC_DIO = 15,
    /// Buffered writes are collected by the kernel.
    WRITEBACK_CACHE = 16,
    /// OPEN may answer ENOSYS to be never sent again.
    NO_OPEN_SUPPORT = 17,
    /// Parallel lookups and readdirs in one directory.
    PARALLEL_DIROPS = 18,
    /// The file system clears setuid and setgid on write, truncate and chown.
    HANDLE_KILLPRIV = 19,
    /// POSIX ACLs.
    POSIX_ACL = 20,
    /// Device reads after an abort say ECONNABORTED.
    ABORT_ERROR = 21,
    /// `max_pages` of the reply is valid.
    MAX_PAGES = 22,
    /// Cache symbolic link targets.
    CACHE_SYMLINKS = 23,
    /// OPENDIR may answer ENOSYS to be never sent again.
    NO_OPENDIR_SUPPORT = 24,
    /// Cached data is dropped by notification only.
    EXPLICIT_INVAL_DATA = 25,
    /// `map_alignment` is valid (DAX).
    MAP_ALIGNMENT = 26,
    /// Submounts announced by `ATTR_SUBMOUNT`.
    SUBMOUNTS = 27,
    /// Like HANDLE_KILLPRIV, with the kernel saying when.
    HANDLE_KILLPRIV_V2 = 28,
    /// The long form of SETXATTR.
    SETXATTR_EXT = 29,
    /// `flags2` is valid.
    INIT_EXT = 30,
    /// Reserved.
    INIT_RESERVED = 31,
    /// Security context with creating requests.
    SECURITY_CTX = 32,
    /// DAX per inode.
    HAS_INODE_DAX = 33,
    /// Supplementary group with creating requests.
    CREATE_SUPP_GROUP = 34,
    /// `EXPIRE_ONLY` in INVAL_ENTRY.
    HAS_EXPIRE_ONLY = 35,
    /// Shared mmap of files opened with `FOPEN_DIRECT_IO`.
    DIRECT_IO_ALLOW_MMAP = 36,
    /// Passthrough to backing files.
    PASSTHROUGH = 37,
    /// Not exportable by NFS.
    NO_EXPORT_SUPPORT = 38,
    /// RESEND notification.
    HAS_RESEND = 39,
    /// Id-mapped mounts.
    ALLOW_IDMAP = 40,
    /// Requests over io_uring.
    OVER_IO_URING = 41,
    /// `request_timeout` is valid.
    REQUEST_TIMEOUT = 42,
}

impl InitFlags {
    /// No flag.
    pub const NONE: InitFlags = InitFlags(0);

    /// Whether all flags of `other` are in this set.
    pub fn contains(self, other: InitFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for InitFlags {
    type Output = InitFlags;
    fn bitor(self, other: InitFlags) -> InitFlags {
        InitFlags(self.0 | other.0)
    }
}

impl BitOrAssign for InitFlags {
    fn bitor_assign(&mut self, other: InitFlags) {
        self.0 |= other.0;
    }
}

impl BitAnd for InitFlags {
    type Output = InitFlags;
    fn bitand(self, other: InitFlags) -> InitFlags {
        InitFlags(self.0 & other.0)
    }
}

impl Sub for InitFlags {
    type Output = InitFlags;
    fn sub(self, other: InitFlags) -> InitFlags {
        InitFlags(self.0 & !other.0)
    }
}

impl fmt::Debug for InitFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        let mut rest = *self;
        for (flag, name) in Self::NAMES.iter().filter(|(flag, _)| self.contains(*flag)) {
            list.entry(&format_args!("{name}"));
            rest = rest - *flag;
        }
        if rest.0 != 0 {
            list.entry(&format_args!("{:#x}", rest.0));
        }
        list.finish()
    }
}

macro_rules! flag_consts {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $value:expr;)*) => { $($(#[$doc])* pub const $name: $type = $value;)* };
}

flag_consts! {
    /// SETATTR: mode is valid.
    FATTR_MODE: u32 = 1 << 0;
    /// SETATTR: uid is valid.
    FATTR_UID: u32 = 1 << 1;
    /// SETATTR: gid is valid.
    FATTR_GID: u32 = 1 << 2;
    /// SETATTR: size is valid.
    FATTR_SIZE: u32 = 1 << 3;
    /// SETATTR: atime is valid.
    FATTR_ATIME: u32 = 1 << 4;
    /// SETATTR: mtime is valid.
    FATTR_MTIME: u32 = 1 << 5;
    /// SETATTR: fh is valid.
    FATTR_FH: u32 = 1 << 6;
    /// SETATTR: atime is the present.
    FATTR_ATIME_NOW: u32 = 1 << 7;
    /// SETATTR: mtime is the present.
    FATTR_MTIME_NOW: u32 = 1 << 8;
    /// SETATTR: lock_owner is valid.
    FATTR_LOCKOWNER: u32 = 1 << 9;
    /// SETATTR: ctime is valid.
    FATTR_CTIME: u32 = 1 << 10;
    /// SETATTR: clear setuid and setgid.
    FATTR_KILL_SUIDGID: u32 = 1 << 11;
    /// OPEN reply: bypass the page cache.
    FOPEN_DIRECT_IO: u32 = 1 << 0;
    /// OPEN reply: keep cached data.
    FOPEN_KEEP_CACHE: u32 = 1 << 1;
    /// OPEN reply: not seekable.
    FOPEN_NONSEEKABLE: u32 = 1 << 2;
    /// OPENDIR reply: cache entries.
    FOPEN_CACHE_DIR: u32 = 1 << 3;
    /// OPEN reply: no file position.
    FOPEN_STREAM: u32 = 1 << 4;
    /// OPEN reply: no FLUSH on close.
    FOPEN_NOFLUSH: u32 = 1 << 5;
    /// OPEN reply: several direct writers at once.
    FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
    /// OPEN reply: `backing_id` is valid.
    FOPEN_PASSTHROUGH: u32 = 1 << 7;
    /// CUSE: unrestricted ioctl.
    CUSE_UNRESTRICTED_IOCTL: u32 = 1 << 0;
    /// RELEASE: do a FLUSH too.
    RELEASE_FLUSH: u32 = 1 << 0;
    /// RELEASE: end flock(2) locks of `lock_owner`.
    RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
    /// GETATTR: fh is valid.
    GETATTR_FH: u32 = 1 << 0;
    /// GETLK and SETLK: a flock(2) lock.
    LK_FLOCK: u32 = 1 << 0;
    /// WRITE: from the page cache, the handle is a guess.
    WRITE_CACHE: u32 = 1 << 0;
    /// WRITE: lock_owner is valid.
    WRITE_LOCKOWNER: u32 = 1 << 1;
    /// WRITE: clear setuid and setgid.
    WRITE_KILL_SUIDGID: u32 = 1 << 2;
    /// READ: lock_owner is valid.
    READ_LOCKOWNER: u32 = 1 << 1;
    /// IOCTL: 32-bit caller on a 64-bit kernel.
    IOCTL_COMPAT: u32 = 1 << 0;
    /// IOCTL: retry with memory ranges is allowed.
    IOCTL_UNRESTRICTED: u32 = 1 << 1;
    /// IOCTL reply: retry with these ranges.
    IOCTL_RETRY: u32 = 1 << 2;
    /// IOCTL: 32-bit caller.
    IOCTL_32BIT: u32 = 1 << 3;
    /// IOCTL: on a directory.
    IOCTL_DIR: u32 = 1 << 4;
    /// IOCTL: x32 caller.
    IOCTL_COMPAT_X32: u32 = 1 << 5;
    /// POLL: a wake-up notification is wanted.
    POLL_SCHEDULE_NOTIFY: u32 = 1 << 0;
    /// FSYNC: data only.
    FSYNC_FDATASYNC: u32 = 1 << 0;
    /// Attributes: a mount point of another file system.
    ATTR_SUBMOUNT: u32 = 1 << 0;
    /// Attributes: use DAX.
    ATTR_DAX: u32 = 1 << 1;
    /// OPEN: clear setuid and setgid.
    OPEN_KILL_SUIDGID: u32 = 1 << 0;
    /// SETXATTR: clear setgid.
    SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
    /// INVAL_ENTRY: expire instead of drop.
    EXPIRE_ONLY: u32 = 1 << 0;
    /// SETUPMAPPING: writable.
    SETUPMAPPING_FLAG_WRITE: u64 = 1 << 0;
    /// SETUPMAPPING: readable.
    SETUPMAPPING_FLAG_READ: u64 = 1 << 1;
}
