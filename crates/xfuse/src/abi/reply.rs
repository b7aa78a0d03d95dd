//! Structs the kernel reads from replies.

use super::{FileLock, abi_structs};

abi_structs! {
    /// Attributes of an inode, as GETATTR and LOOKUP report them.
    Attr {
        /// Inode number shown to programs.
        ino: u64,
        /// Bytes.
        size: u64,
        /// 512-byte blocks.
        blocks: u64,
        /// Seconds.
        atime: u64,
        /// Seconds.
        mtime: u64,
        /// Seconds.
        ctime: u64,
        /// Nanoseconds part.
        atimensec: u32,
        /// Nanoseconds part.
        mtimensec: u32,
        /// Nanoseconds part.
        ctimensec: u32,
        /// Type and permission bits.
        mode: u32,
        /// Hard links.
        nlink: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Device number of device nodes, in the kernel's 32-bit encoding.
        rdev: u32,
        /// Preferred I/O size, 0 for the page size.
        blksize: u32,
        /// `ATTR_*`.
        flags: u32,
    }
    /// A statx timestamp.
    SxTime {
        /// Seconds.
        tv_sec: i64,
        /// Nanoseconds.
        tv_nsec: u32,
        /// Zero.
        reserved: i32,
    }
    /// Attributes in the form of statx(2).
    StatxAttr {
        /// Which fields are valid, `STATX_*`.
        mask: u32,
        /// Preferred I/O size.
        blksize: u32,
        /// `STATX_ATTR_*`.
        attributes: u64,
        /// Hard links.
        nlink: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Type and permission bits.
        mode: u16,
        /// Zero.
        spare0: [u16; 1],
        /// Inode number.
        ino: u64,
        /// Bytes.
        size: u64,
        /// 512-byte blocks.
        blocks: u64,
        /// Which attributes are supported.
        attributes_mask: u64,
        /// Last access.
        atime: SxTime,
        /// Creation.
        btime: SxTime,
        /// Last change.
        ctime: SxTime,
        /// Last modification.
        mtime: SxTime,
        /// Device nodes.
        rdev_major: u32,
        /// Device nodes.
        rdev_minor: u32,
        /// Ignored by the kernel.
        dev_major: u32,
        /// Ignored by the kernel.
        dev_minor: u32,
        /// Zero.
        spare2: [u64; 14],
    }
    /// File system totals.
    Kstatfs {
        /// Total, in units of frsize.
        blocks: u64,
        /// Free.
        bfree: u64,
        /// Free for ordinary users.
        bavail: u64,
        /// Inodes.
        files: u64,
        /// Free inodes.
        ffree: u64,
        /// I/O block size.
        bsize: u32,
        /// Longest name.
        namelen: u32,
        /// Unit of the block counts.
        frsize: u32,
        /// Zero.
        padding: u32,
        /// Zero.
        spare: [u32; 6],
    }
    /// Starts every reply and notification.
    OutHeader {
        /// Total length including this header.
        len: u32,
        /// 0 or a negated errno; the code of a notification.
        error: i32,
        /// Request id, 0 for notifications.
        unique: u64,
    }
    /// A name resolved to an inode.
    EntryOut {
        /// Inode id, 0 for a negative entry.
        nodeid: u64,
        /// Distinguishes re-used inode ids.
        generation: u64,
        /// Seconds the name may be cached.
        entry_valid: u64,
        /// Seconds the attributes may be cached.
        attr_valid: u64,
        /// Nanoseconds part.
        entry_valid_nsec: u32,
        /// Nanoseconds part.
        attr_valid_nsec: u32,
        /// Attributes.
        attr: Attr,
    }
    /// Reply to GETATTR and SETATTR.
    AttrOut {
        /// Seconds.
        attr_valid: u64,
        /// Nanoseconds part.
        attr_valid_nsec: u32,
        /// Zero.
        dummy: u32,
        /// Attributes.
        attr: Attr,
    }
    /// Reply to STATX.
    StatxOut {
        /// Seconds.
        attr_valid: u64,
        /// Nanoseconds part.
        attr_valid_nsec: u32,
        /// Zero.
        flags: u32,
        /// Zero.
        spare: [u64; 2],
        /// Attributes.
        stat: StatxAttr,
    }
    /// Reply to OPEN and OPENDIR.
    OpenOut {
        /// Handle.
        fh: u64,
        /// `FOPEN_*`.
        open_flags: u32,
        /// For `FOPEN_PASSTHROUGH`.
        backing_id: i32,
    }
    /// Reply to WRITE and COPY_FILE_RANGE.
    WriteOut {
        /// Bytes written.
        size: u32,
        /// Zero.
        padding: u32,
    }
    /// Reply to STATFS.
    StatfsOut {
        /// Totals.
        st: Kstatfs,
    }
    /// Length reply to GETXATTR and LISTXATTR.
    GetxattrOut {
        /// Bytes.
        size: u32,
        /// Zero.
        padding: u32,
    }
    /// Reply to GETLK.
    LkOut {
        /// The conflicting lock.
        lk: FileLock,
    }
    /// Reply to BMAP.
    BmapOut {
        /// Physical block.
        block: u64,
    }
    /// Reply to IOCTL.
    IoctlOut {
        /// Return value of ioctl(2).
        result: i32,
        /// `IOCTL_RETRY`.
        flags: u32,
        /// Input ranges that follow.
        in_iovs: u32,
        /// Output ranges that follow.
        out_iovs: u32,
    }
    /// Reply to POLL.
    PollOut {
        /// `POLL*` ready.
        revents: u32,
        /// Zero.
        padding: u32,
    }
    /// Head of a directory entry; the name follows.
    Dirent {
        /// Inode number.
        ino: u64,
        /// Cookie of the next entry.
        off: u64,
        /// Bytes.
        namelen: u32,
        /// `DT_*`.
        typ: u32,
    }
    /// Head of a READDIRPLUS entry; the name follows.
    DirentPlus {
        /// The looked-up inode.
        entry: EntryOut,
        /// The directory entry.
        dirent: Dirent,
    }
    /// Reply to LSEEK.
    LseekOut {
        /// Bytes.
        offset: u64,
    }
    /// Reply to COPY_FILE_RANGE_64.
    CopyFileRangeOut {
        /// Bytes.
        bytes_copied: u64,
    }
}
