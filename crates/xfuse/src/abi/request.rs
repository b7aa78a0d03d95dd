//! Structs the kernel sends: request header, one argument struct per operation, extensions.

use super::abi_structs;

abi_structs! {
    /// A byte-range lock.
    FileLock {
        /// First byte.
        start: u64,
        /// Last byte, inclusive.
        end: u64,
        /// F_RDLCK, F_WRLCK or F_UNLCK.
        typ: u32,
        /// Thread group of the owner.
        pid: u32,
    }
    /// Starts every request.
    InHeader {
        /// Total length including this header.
        len: u32,
        /// Operation.
        opcode: u32,
        /// Request id, repeated in the reply.
        unique: u64,
        /// Inode the request is about.
        nodeid: u64,
        /// Caller.
        uid: u32,
        /// Caller.
        gid: u32,
        /// Caller.
        pid: u32,
        /// Length of extensions at the end, in units of 8 bytes.
        total_extlen: u16,
        /// Zero.
        padding: u16,
    }
    /// FORGET.
    ForgetIn {
        /// References dropped.
        nlookup: u64,
    }
    /// One element of BATCH_FORGET.
    ForgetOne {
        /// Inode.
        nodeid: u64,
        /// References dropped.
        nlookup: u64,
    }
    /// BATCH_FORGET.
    BatchForgetIn {
        /// Elements that follow.
        count: u32,
        /// Zero.
        dummy: u32,
    }
    /// GETATTR.
    GetattrIn {
        /// `GETATTR_*`.
        getattr_flags: u32,
        /// Zero.
        dummy: u32,
        /// Handle if `GETATTR_FH`.
        fh: u64,
    }
    /// STATX.
    StatxIn {
        /// `GETATTR_*`.
        getattr_flags: u32,
        /// Zero.
        reserved: u32,
        /// Handle if `GETATTR_FH`.
        fh: u64,
        /// `AT_STATX_*`.
        sx_flags: u32,
        /// `STATX_*` wanted.
        sx_mask: u32,
    }
    /// MKNOD.
    MknodIn {
        /// Type and permissions.
        mode: u32,
        /// Device.
        rdev: u32,
        /// The caller's.
        umask: u32,
        /// Zero.
        padding: u32,
    }
    /// MKDIR.
    MkdirIn {
        /// Permissions.
        mode: u32,
        /// The caller's.
        umask: u32,
    }
    /// RENAME.
    RenameIn {
        /// New parent.
        newdir: u64,
    }
    /// RENAME2.
    Rename2In {
        /// New parent.
        newdir: u64,
        /// `RENAME_*` of renameat2(2).
        flags: u32,
        /// Zero.
        padding: u32,
    }
    /// LINK.
    LinkIn {
        /// The linked inode.
        oldnodeid: u64,
    }
    /// SETATTR.
    SetattrIn {
        /// `FATTR_*`.
        valid: u32,
        /// Zero.
        padding: u32,
        /// Handle if `FATTR_FH`.
        fh: u64,
        /// New size.
        size: u64,
        /// Owner if `FATTR_LOCKOWNER`.
        lock_owner: u64,
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
        /// New mode.
        mode: u32,
        /// Zero.
        unused4: u32,
        /// New owner.
        uid: u32,
        /// New group.
        gid: u32,
        /// Zero.
        unused5: u32,
    }
    /// OPEN and OPENDIR.
    OpenIn {
        /// `O_*`.
        flags: u32,
        /// `OPEN_KILL_SUIDGID`.
        open_flags: u32,
    }
    /// CREATE and TMPFILE.
    CreateIn {
        /// `O_*`.
        flags: u32,
        /// Permissions.
        mode: u32,
        /// The caller's.
        umask: u32,
        /// `OPEN_KILL_SUIDGID`.
        open_flags: u32,
    }
    /// RELEASE and RELEASEDIR.
    ReleaseIn {
        /// Handle.
        fh: u64,
        /// `O_*` of the open.
        flags: u32,
        /// `RELEASE_*`.
        release_flags: u32,
        /// Whose flock(2) locks end.
        lock_owner: u64,
    }
    /// FLUSH.
    FlushIn {
        /// Handle.
        fh: u64,
        /// Zero.
        unused: u32,
        /// Zero.
        padding: u32,
        /// Whose POSIX locks end.
        lock_owner: u64,
    }
    /// READ, READDIR and READDIRPLUS.
    ReadIn {
        /// Handle.
        fh: u64,
        /// Bytes, or a directory cookie.
        offset: u64,
        /// Most bytes wanted.
        size: u32,
        /// `READ_LOCKOWNER`.
        read_flags: u32,
        /// Owner.
        lock_owner: u64,
        /// `O_*` of the open.
        flags: u32,
        /// Zero.
        padding: u32,
    }
    /// WRITE.
    WriteIn {
        /// Handle.
        fh: u64,
        /// Bytes.
        offset: u64,
        /// Bytes that follow.
        size: u32,
        /// `WRITE_*`.
        write_flags: u32,
        /// Owner.
        lock_owner: u64,
        /// `O_*` of the open.
        flags: u32,
        /// Zero.
        padding: u32,
    }
    /// FSYNC and FSYNCDIR.
    FsyncIn {
        /// Handle.
        fh: u64,
        /// `FSYNC_FDATASYNC`.
        fsync_flags: u32,
        /// Zero.
        padding: u32,
    }
    /// SETXATTR when `SETXATTR_EXT` was negotiated.
    SetxattrIn {
        /// Bytes of the value.
        size: u32,
        /// `XATTR_CREATE`, `XATTR_REPLACE`.
        flags: u32,
        /// `SETXATTR_ACL_KILL_SGID`.
        setxattr_flags: u32,
        /// Zero.
        padding: u32,
    }
    /// SETXATTR without `SETXATTR_EXT`.
    SetxattrCompatIn {
        /// Bytes of the value.
        size: u32,
        /// `XATTR_CREATE`, `XATTR_REPLACE`.
        flags: u32,
    }
    /// GETXATTR and LISTXATTR.
    GetxattrIn {
        /// Room for the value, 0 asks for its length.
        size: u32,
        /// Zero.
        padding: u32,
    }
    /// GETLK, SETLK and SETLKW.
    LkIn {
        /// Handle.
        fh: u64,
        /// Lock owner.
        owner: u64,
        /// The lock.
        lk: FileLock,
        /// `LK_FLOCK`.
        lk_flags: u32,
        /// Zero.
        padding: u32,
    }
    /// ACCESS.
    AccessIn {
        /// R_OK, W_OK, X_OK.
        mask: u32,
        /// Zero.
        padding: u32,
    }
    /// INTERRUPT.
    InterruptIn {
        /// The interrupted request.
        unique: u64,
    }
    /// BMAP.
    BmapIn {
        /// Logical block.
        block: u64,
        /// Bytes.
        blocksize: u32,
        /// Zero.
        padding: u32,
    }
    /// IOCTL.
    IoctlIn {
        /// Handle.
        fh: u64,
        /// `IOCTL_*`.
        flags: u32,
        /// Command.
        cmd: u32,
        /// The caller's third argument.
        arg: u64,
        /// Bytes of input that follow.
        in_size: u32,
        /// Room for output.
        out_size: u32,
    }
    /// One range of the caller's memory in an IOCTL retry.
    IoctlIovec {
        /// Address.
        base: u64,
        /// Bytes.
        len: u64,
    }
    /// POLL.
    PollIn {
        /// Handle.
        fh: u64,
        /// Kernel handle for the wake-up notification.
        kh: u64,
        /// `POLL_SCHEDULE_NOTIFY`.
        flags: u32,
        /// `POLL*` wanted.
        events: u32,
    }
    /// FALLOCATE.
    FallocateIn {
        /// Handle.
        fh: u64,
        /// Bytes.
        offset: u64,
        /// Bytes.
        length: u64,
        /// `FALLOC_FL_*`.
        mode: u32,
        /// Zero.
        padding: u32,
    }
    /// LSEEK.
    LseekIn {
        /// Handle.
        fh: u64,
        /// Bytes.
        offset: u64,
        /// `SEEK_DATA` or `SEEK_HOLE`.
        whence: u32,
        /// Zero.
        padding: u32,
    }
    /// COPY_FILE_RANGE and COPY_FILE_RANGE_64.
    CopyFileRangeIn {
        /// Source handle.
        fh_in: u64,
        /// Source offset.
        off_in: u64,
        /// Destination inode.
        nodeid_out: u64,
        /// Destination handle.
        fh_out: u64,
        /// Destination offset.
        off_out: u64,
        /// Bytes.
        len: u64,
        /// Of copy_file_range(2).
        flags: u64,
    }
    /// SETUPMAPPING.
    SetupmappingIn {
        /// Handle.
        fh: u64,
        /// File offset.
        foffset: u64,
        /// Bytes.
        len: u64,
        /// `SETUPMAPPING_FLAG_*`.
        flags: u64,
        /// Offset in the memory window.
        moffset: u64,
    }
    /// REMOVEMAPPING.
    RemovemappingIn {
        /// Elements that follow.
        count: u32,
    }
    /// One element of REMOVEMAPPING.
    RemovemappingOne {
        /// Offset in the memory window.
        moffset: u64,
        /// Bytes.
        len: u64,
    }
    /// SYNCFS.
    SyncfsIn {
        /// Zero.
        padding: u64,
    }
    /// One security context; a name, a NUL and the value follow.
    Secctx {
        /// Bytes of the value.
        size: u32,
        /// Zero.
        padding: u32,
    }
    /// Starts the security contexts.
    SecctxHeader {
        /// Bytes of the whole list.
        size: u32,
        /// Contexts that follow.
        nr_secctx: u32,
    }
    /// Starts a request extension.
    ExtHeader {
        /// Bytes including this header, a multiple of 8.
        size: u32,
        /// A number of security contexts, or `EXT_GROUPS`.
        typ: u32,
    }
    /// Head of the extension with supplementary groups; the ids follow.
    SuppGroups {
        /// Ids.
        nr_groups: u32,
    }
}
