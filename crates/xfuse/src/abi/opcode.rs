//! Operation and notification codes.

macro_rules! codes {
    ($(#[$doc:meta])* $type:ident { $($(#[$code_doc:meta])* $variant:ident = $code:literal $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $type { $($(#[$code_doc])* $variant = $code,)* }

        impl $type {
            /// Every code, in ascending order.
            pub const ALL: &'static [$type] = &[$($type::$variant),*];

            /// The code with that number, if this crate knows it.
            pub fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($code => Some($type::$variant),)*
                    _ => None,
                }
            }

            /// The number on the wire.
            pub fn code(self) -> u32 {
                self as u32
            }

            /// Lower-case name, for logs and metrics.
            pub fn name(self) -> &'static str {
                match self { $($type::$variant => $name,)* }
            }
        }
    };
}

codes! {
    /// An operation the kernel asks for.
    Opcode {
        /// Resolve a name in a directory.
        Lookup = 1 "lookup",
        /// Drop references to an inode; has no reply.
        Forget = 2 "forget",
        /// Attributes.
        Getattr = 3 "getattr",
        /// Change attributes.
        Setattr = 4 "setattr",
        /// Target of a symbolic link.
        Readlink = 5 "readlink",
        /// Create a symbolic link.
        Symlink = 6 "symlink",
        /// Create a file of any type.
        Mknod = 8 "mknod",
        /// Create a directory.
        Mkdir = 9 "mkdir",
        /// Remove a non-directory.
        Unlink = 10 "unlink",
        /// Remove a directory.
        Rmdir = 11 "rmdir",
        /// Rename without flags.
        Rename = 12 "rename",
        /// Create a hard link.
        Link = 13 "link",
        /// Open a file.
        Open = 14 "open",
        /// Read from a file.
        Read = 15 "read",
        /// Write to a file.
        Write = 16 "write",
        /// File system totals.
        Statfs = 17 "statfs",
        /// Last close of an open file.
        Release = 18 "release",
        /// Make a file durable.
        Fsync = 20 "fsync",
        /// Set an extended attribute.
        Setxattr = 21 "setxattr",
        /// Read an extended attribute.
        Getxattr = 22 "getxattr",
        /// Names of the extended attributes.
        Listxattr = 23 "listxattr",
        /// Remove an extended attribute.
        Removexattr = 24 "removexattr",
        /// A descriptor of an open file was closed.
        Flush = 25 "flush",
        /// Version and feature negotiation.
        Init = 26 "init",
        /// Open a directory.
        Opendir = 27 "opendir",
        /// Read directory entries.
        Readdir = 28 "readdir",
        /// Last close of an open directory.
        Releasedir = 29 "releasedir",
        /// Make a directory durable.
        Fsyncdir = 30 "fsyncdir",
        /// Test for a lock.
        Getlk = 31 "getlk",
        /// Lock without waiting.
        Setlk = 32 "setlk",
        /// Lock and wait for it.
        Setlkw = 33 "setlkw",
        /// Permission check.
        Access = 34 "access",
        /// Create and open a file.
        Create = 35 "create",
        /// A waiting process got a signal.
        Interrupt = 36 "interrupt",
        /// Map a file block to a device block.
        Bmap = 37 "bmap",
        /// Unmount of a block device file system.
        Destroy = 38 "destroy",
        /// Device control.
        Ioctl = 39 "ioctl",
        /// Readiness.
        Poll = 40 "poll",
        /// Data that a RETRIEVE notification asked for.
        NotifyReply = 41 "notify_reply",
        /// Many forgets at once; has no reply.
        BatchForget = 42 "batch_forget",
        /// Allocate or release space.
        Fallocate = 43 "fallocate",
        /// Read directory entries with attributes.
        Readdirplus = 44 "readdirplus",
        /// Rename with flags.
        Rename2 = 45 "rename2",
        /// Find data or holes.
        Lseek = 46 "lseek",
        /// Copy between files on the server.
        CopyFileRange = 47 "copy_file_range",
        /// DAX: map file data into the memory window.
        Setupmapping = 48 "setupmapping",
        /// DAX: remove mappings.
        Removemapping = 49 "removemapping",
        /// Make the whole file system durable.
        Syncfs = 50 "syncfs",
        /// Create an unnamed file.
        Tmpfile = 51 "tmpfile",
        /// Attributes in statx(2) form.
        Statx = 52 "statx",
        /// Copy between files, 64-bit result.
        CopyFileRange64 = 53 "copy_file_range_64",
        /// INIT of a character device in user space.
        CuseInit = 4096 "cuse_init",
    }
}

codes! {
    /// A message from the file system to the kernel that no request asked for.
    NotifyCode {
        /// Wake pollers.
        Poll = 1 "poll",
        /// Drop cached attributes or data of an inode.
        InvalInode = 2 "inval_inode",
        /// Drop or expire a cached name.
        InvalEntry = 3 "inval_entry",
        /// Put data into the page cache.
        Store = 4 "store",
        /// Get data from the page cache.
        Retrieve = 5 "retrieve",
        /// Drop a cached name and tell watchers it was deleted.
        Delete = 6 "delete",
        /// Send all unanswered requests again.
        Resend = 7 "resend",
        /// Distrust all cached names.
        IncEpoch = 8 "inc_epoch",
        /// Ask to forget inodes that are not in use.
        Prune = 9 "prune",
    }
}

/// Slots of a table indexed by [`Opcode::index`].
const OPCODE_SLOTS: usize = 55;

impl Opcode {
    /// A small dense index for statistics tables.
    pub(crate) fn index(self) -> usize {
        match self {
            Opcode::CuseInit => OPCODE_SLOTS - 1,
            other => other as usize,
        }
    }

    /// Whether the kernel expects no reply.
    pub fn is_one_way(self) -> bool {
        matches!(self, Opcode::Forget | Opcode::BatchForget | Opcode::NotifyReply)
    }
}

/// Length of a table indexed by an operation's dense index.
pub(crate) const fn opcode_slots() -> usize {
    OPCODE_SLOTS
}
