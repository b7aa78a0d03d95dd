//! Typed requests: what each handler of [`Filesystem`](crate::Filesystem) gets.
//!
//! Names are borrowed from the request buffer; only WRITE data is owned, so that it may outlive the call.

use crate::abi::{self, InHeader};
use crate::decode::{Body, Decode, DecodeError, Shape};
use crate::payload::Payload;
use std::ffi::OsStr;
use std::time::Duration;

/// Declares request structs and how their fields are read. `h`, `b`, `s` are header, body and shape.
macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? |$h:pat_param, $b:pat_param, $s:pat_param| {
        $(let $setup:ident: $setup_type:ty = $setup_value:expr;)*
        $(#[$field_doc:meta] $field:ident: $type:ty = $value:expr,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name $(<$life>)? { $(#[$field_doc] pub $field: $type,)* }

        impl<'a> Decode<'a> for requests!(@type $name $($life)?) {
            fn decode($h: &InHeader, $b: &mut Body<'a>, $s: Shape) -> Result<Self, DecodeError> {
                $(let $setup: $setup_type = $setup_value;)*
                $(let $field = $value;)*
                Ok(Self { $($field),* })
            }
        }
    )*};
    (@type $name:ident $life:lifetime) => { $name<'a> };
    (@type $name:ident) => { $name };
}

/// `Some(value)` if `flag` is in `flags`.
fn when<T>(flags: u32, flag: u32, value: T) -> Option<T> {
    (flags & flag != 0).then_some(value)
}

/// A time as SETATTR carries it: the offset from 1970, or the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The server's present time.
    Now,
    /// Seconds (may be negative) and nanoseconds since 1970.
    At(i64, u32),
}

fn set_time(valid: u32, flag: u32, now_flag: u32, seconds: u64, nanos: u32) -> Option<SetTime> {
    if valid & now_flag != 0 {
        return Some(SetTime::Now);
    }
    when(valid, flag, SetTime::At(seconds as i64, nanos.min(999_999_999)))
}

requests! {
    /// LOOKUP: resolve a name. The reply adds one reference to the inode.
    Lookup<'a> |h, b, _| {
        /// Directory.
        parent: u64 = h.nodeid,
        /// Name in it.
        name: &'a OsStr = b.name()?,
    }
    /// GETATTR.
    Getattr |h, b, _| {
        let arg: abi::GetattrIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Open handle of the caller, if it came through one.
        fh: Option<u64> = when(arg.getattr_flags, abi::GETATTR_FH, arg.fh),
    }
    /// STATX.
    Statx |h, b, _| {
        let arg: abi::StatxIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Open handle of the caller, if it came through one.
        fh: Option<u64> = when(arg.getattr_flags, abi::GETATTR_FH, arg.fh),
        /// `AT_STATX_*`.
        flags: u32 = arg.sx_flags,
        /// `STATX_*` wanted.
        mask: u32 = arg.sx_mask,
    }
    /// SETATTR: what is `Some` is to be changed.
    Setattr |h, b, _| {
        let arg: abi::SetattrIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Open handle of the caller (ftruncate).
        fh: Option<u64> = when(arg.valid, abi::FATTR_FH, arg.fh),
        /// Permission bits and type.
        mode: Option<u32> = when(arg.valid, abi::FATTR_MODE, arg.mode),
        /// Owner.
        uid: Option<u32> = when(arg.valid, abi::FATTR_UID, arg.uid),
        /// Group.
        gid: Option<u32> = when(arg.valid, abi::FATTR_GID, arg.gid),
        /// Length in bytes.
        size: Option<u64> = when(arg.valid, abi::FATTR_SIZE, arg.size),
        /// Access time.
        atime: Option<SetTime> = set_time(arg.valid, abi::FATTR_ATIME, abi::FATTR_ATIME_NOW, arg.atime, arg.atimensec),
        /// Modification time.
        mtime: Option<SetTime> = set_time(arg.valid, abi::FATTR_MTIME, abi::FATTR_MTIME_NOW, arg.mtime, arg.mtimensec),
        /// Change time (only with the writeback cache).
        ctime: Option<SetTime> = set_time(arg.valid, abi::FATTR_CTIME, 0, arg.ctime, arg.ctimensec),
        /// Lock owner of the caller.
        lock_owner: Option<u64> = when(arg.valid, abi::FATTR_LOCKOWNER, arg.lock_owner),
        /// Clear setuid and setgid (HANDLE_KILLPRIV_V2).
        kill_suidgid: bool = arg.valid & abi::FATTR_KILL_SUIDGID != 0,
    }
    /// READLINK.
    Readlink |h, _, _| {
        /// Inode.
        ino: u64 = h.nodeid,
    }
    /// SYMLINK.
    Symlink<'a> |h, b, _| {
        /// Directory.
        parent: u64 = h.nodeid,
        /// Name of the link.
        name: &'a OsStr = b.name()?,
        /// What it points to.
        target: &'a OsStr = b.text()?,
    }
    /// MKNOD.
    Mknod<'a> |h, b, _| {
        let arg: abi::MknodIn = b.take()?;
        /// Directory.
        parent: u64 = h.nodeid,
        /// Name.
        name: &'a OsStr = b.name()?,
        /// Type and permissions, umask applied unless DONT_MASK.
        mode: u32 = arg.mode,
        /// Device number.
        rdev: u32 = arg.rdev,
        /// The caller's umask.
        umask: u32 = arg.umask,
    }
    /// MKDIR.
    Mkdir<'a> |h, b, _| {
        let arg: abi::MkdirIn = b.take()?;
        /// Directory.
        parent: u64 = h.nodeid,
        /// Name.
        name: &'a OsStr = b.name()?,
        /// Permissions, umask applied unless DONT_MASK.
        mode: u32 = arg.mode,
        /// The caller's umask.
        umask: u32 = arg.umask,
    }
    /// UNLINK.
    Unlink<'a> |h, b, _| {
        /// Directory.
        parent: u64 = h.nodeid,
        /// Name.
        name: &'a OsStr = b.name()?,
    }
    /// RMDIR.
    Rmdir<'a> |h, b, _| {
        /// Directory.
        parent: u64 = h.nodeid,
        /// Name.
        name: &'a OsStr = b.name()?,
    }
    /// LINK. The reply adds one reference to the inode.
    Link<'a> |h, b, _| {
        let arg: abi::LinkIn = b.take()?;
        /// The linked inode.
        ino: u64 = arg.oldnodeid,
        /// Directory of the new name.
        new_parent: u64 = h.nodeid,
        /// The new name.
        new_name: &'a OsStr = b.name()?,
    }
    /// OPEN and OPENDIR.
    Open |h, b, _| {
        let arg: abi::OpenIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// `O_*`.
        flags: u32 = arg.flags,
        /// Clear setuid and setgid (HANDLE_KILLPRIV_V2).
        kill_suidgid: bool = arg.open_flags & abi::OPEN_KILL_SUIDGID != 0,
    }
    /// CREATE.
    Create<'a> |h, b, _| {
        let arg: abi::CreateIn = b.take()?;
        /// Directory.
        parent: u64 = h.nodeid,
        /// Name.
        name: &'a OsStr = b.name()?,
        /// `O_*`.
        flags: u32 = arg.flags,
        /// Type and permissions, umask applied unless DONT_MASK.
        mode: u32 = arg.mode,
        /// The caller's umask.
        umask: u32 = arg.umask,
        /// Clear setuid and setgid (HANDLE_KILLPRIV_V2).
        kill_suidgid: bool = arg.open_flags & abi::OPEN_KILL_SUIDGID != 0,
    }
    /// TMPFILE: create an unnamed file.
    Tmpfile |h, b, _| {
        let arg: abi::CreateIn = b.take()?;
        /// Directory.
        parent: u64 = h.nodeid,
        /// `O_*`.
        flags: u32 = arg.flags,
        /// Type and permissions, umask applied unless DONT_MASK.
        mode: u32 = arg.mode,
        /// The caller's umask.
        umask: u32 = arg.umask,
    }
    /// READ.
    Read |h, b, _| {
        let arg: abi::ReadIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Handle.
        fh: u64 = arg.fh,
        /// First byte.
        offset: u64 = arg.offset,
        /// Most bytes wanted; fewer mean end of file.
        size: u32 = arg.size,
        /// `O_*` of the open file at present.
        flags: u32 = arg.flags,
        /// Lock owner of the caller.
        lock_owner: Option<u64> = when(arg.read_flags, abi::READ_LOCKOWNER, arg.lock_owner),
    }
    /// WRITE.
    Write |h, b, _| {
        let arg: abi::WriteIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Handle; a guess if `from_cache`.
        fh: u64 = arg.fh,
        /// First byte.
        offset: u64 = arg.offset,
        /// What to write, where it arrived. Until dropped it keeps a request buffer in use, or the answer back (io_uring).
        data: Payload = b.in_place(arg.size as usize)?,
        /// `O_*` of the open file at present.
        flags: u32 = arg.flags,
        /// Lock owner of the caller.
        lock_owner: Option<u64> = when(arg.write_flags, abi::WRITE_LOCKOWNER, arg.lock_owner),
        /// Written back from the page cache, not by a caller.
        from_cache: bool = arg.write_flags & abi::WRITE_CACHE != 0,
        /// Clear setuid and setgid.
        kill_suidgid: bool = arg.write_flags & abi::WRITE_KILL_SUIDGID != 0,
    }
    /// STATFS.
    Statfs |h, _, _| {
        /// Inode the question came through.
        ino: u64 = h.nodeid,
    }
    /// RELEASE and RELEASEDIR. The result does not reach the closing process.
    Release |h, b, _| {
        let arg: abi::ReleaseIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Handle.
        fh: u64 = arg.fh,
        /// `O_*` of the open file.
        flags: u32 = arg.flags,
        /// A FLUSH is included.
        flush: bool = arg.release_flags & abi::RELEASE_FLUSH != 0,
        /// Owner whose flock(2) locks end.
        flock_owner: Option<u64> = when(arg.release_flags, abi::RELEASE_FLOCK_UNLOCK, arg.lock_owner),
    }
    /// FLUSH: a descriptor was closed. The result is that of close(2).
    Flush |h, b, _| {
        let arg: abi::FlushIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Handle.
        fh: u64 = arg.fh,
        /// Owner whose POSIX locks end.
        lock_owner: u64 = arg.lock_owner,
    }
    /// FSYNC and FSYNCDIR.
    Fsync |h, b, _| {
        let arg: abi::FsyncIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Handle.
        fh: u64 = arg.fh,
        /// fdatasync(2).
        datasync: bool = arg.fsync_flags & abi::FSYNC_FDATASYNC != 0,
    }
    /// GETXATTR.
    Getxattr<'a> |h, b, _| {
        let arg: abi::GetxattrIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Attribute.
        name: &'a OsStr = b.name()?,
        /// Room for the value; 0 asks for its length.
        size: u32 = arg.size,
    }
    /// LISTXATTR.
    Listxattr |h, b, _| {
        let arg: abi::GetxattrIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Room for the names; 0 asks for their length.
        size: u32 = arg.size,
    }
    /// REMOVEXATTR.
    Removexattr<'a> |h, b, _| {
        /// Inode.
        ino: u64 = h.nodeid,
        /// Attribute.
        name: &'a OsStr = b.name()?,
    }
    /// READDIR and READDIRPLUS.
    Readdir |h, b, _| {
        let arg: abi::ReadIn = b.take()?;
        /// Directory.
        ino: u64 = h.nodeid,
        /// Handle.
        fh: u64 = arg.fh,
        /// 0, or the cookie of the last entry returned before.
        offset: u64 = arg.offset,
        /// Room for entries in bytes.
        size: u32 = arg.size,
    }
    /// GETLK, SETLK and SETLKW.
    Lk |h, b, _| {
        let arg: abi::LkIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Handle.
        fh: u64 = arg.fh,
        /// Lock owner.
        owner: u64 = arg.owner,
        /// The lock.
        lock: abi::FileLock = arg.lk,
        /// A flock(2) lock.
        flock: bool = arg.lk_flags & abi::LK_FLOCK != 0,
    }
    /// ACCESS.
    Access |h, b, _| {
        let arg: abi::AccessIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// `R_OK`, `W_OK`, `X_OK`.
        mask: u32 = arg.mask,
    }
    /// BMAP.
    Bmap |h, b, _| {
        let arg: abi::BmapIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Block of the file.
        block: u64 = arg.block,
        /// Bytes per block.
        blocksize: u32 = arg.blocksize,
    }
    /// IOCTL.
    Ioctl<'a> |h, b, _| {
        let call: abi::IoctlIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Handle.
        fh: u64 = call.fh,
        /// `IOCTL_*`.
        flags: u32 = call.flags,
        /// Command.
        cmd: u32 = call.cmd,
        /// Third argument of ioctl(2), an address in the caller if the command takes one.
        arg: u64 = call.arg,
        /// Input copied from the caller.
        input: &'a [u8] = b.bytes(call.in_size as usize)?,
        /// Room for output.
        out_size: u32 = call.out_size,
    }
    /// POLL.
    Poll |h, b, _| {
        let arg: abi::PollIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Handle.
        fh: u64 = arg.fh,
        /// Handle for the wake-up notification, if one is wanted.
        notify: Option<u64> = when(arg.flags, abi::POLL_SCHEDULE_NOTIFY, arg.kh),
        /// `POLL*` wanted.
        events: u32 = arg.events,
    }
    /// FALLOCATE.
    Fallocate |h, b, _| {
        let arg: abi::FallocateIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Handle.
        fh: u64 = arg.fh,
        /// First byte.
        offset: u64 = arg.offset,
        /// Bytes.
        length: u64 = arg.length,
        /// `FALLOC_FL_*`.
        mode: u32 = arg.mode,
    }
    /// LSEEK with `SEEK_DATA` or `SEEK_HOLE`.
    Lseek |h, b, _| {
        let arg: abi::LseekIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Handle.
        fh: u64 = arg.fh,
        /// Where to start.
        offset: u64 = arg.offset,
        /// `SEEK_DATA` or `SEEK_HOLE`.
        whence: u32 = arg.whence,
    }
    /// COPY_FILE_RANGE, both forms.
    CopyFileRange |h, b, _| {
        let arg: abi::CopyFileRangeIn = b.take()?;
        /// Source inode.
        ino_in: u64 = h.nodeid,
        /// Source handle.
        fh_in: u64 = arg.fh_in,
        /// Source offset.
        offset_in: u64 = arg.off_in,
        /// Destination inode.
        ino_out: u64 = arg.nodeid_out,
        /// Destination handle.
        fh_out: u64 = arg.fh_out,
        /// Destination offset.
        offset_out: u64 = arg.off_out,
        /// Bytes.
        length: u64 = arg.len,
        /// Flags of copy_file_range(2).
        flags: u64 = arg.flags,
    }
    /// SETUPMAPPING (virtiofs).
    Setupmapping |h, b, _| {
        /// Inode.
        ino: u64 = h.nodeid,
        /// Arguments.
        mapping: abi::SetupmappingIn = b.take()?,
    }
    /// REMOVEMAPPING (virtiofs).
    Removemapping |h, b, _| {
        let arg: abi::RemovemappingIn = b.take()?;
        /// Inode.
        ino: u64 = h.nodeid,
        /// Ranges of the memory window.
        mappings: Vec<abi::RemovemappingOne> = (0..arg.count).map(|_| b.take()).collect::<Result<_, _>>()?,
    }
    /// SYNCFS.
    Syncfs |h, b, _| {
        let _padding: abi::SyncfsIn = b.take()?;
        /// Root of the mount.
        ino: u64 = h.nodeid,
    }
}

/// SETXATTR.
#[derive(Debug, Clone)]
pub struct Setxattr<'a> {
    /// Inode.
    pub ino: u64,
    /// Attribute.
    pub name: &'a OsStr,
    /// Value.
    pub value: &'a [u8],
    /// `XATTR_CREATE`, `XATTR_REPLACE`.
    pub flags: u32,
    /// Clear setgid (`SETXATTR_ACL_KILL_SGID`).
    pub kill_sgid: bool,
}

impl<'a> Decode<'a> for Setxattr<'a> {
    fn decode(h: &InHeader, b: &mut Body<'a>, shape: Shape) -> Result<Self, DecodeError> {
        let arg = if shape.setxattr_ext {
            b.take::<abi::SetxattrIn>()?
        } else {
            let short: abi::SetxattrCompatIn = b.take()?;
            abi::SetxattrIn { size: short.size, flags: short.flags, ..Default::default() }
        };
        let name = b.name()?;
        let value = b.bytes(arg.size as usize)?;
        let kill_sgid = arg.setxattr_flags & abi::SETXATTR_ACL_KILL_SGID != 0;
        Ok(Setxattr { ino: h.nodeid, name, value, flags: arg.flags, kill_sgid })
    }
}

/// RENAME and RENAME2.
#[derive(Debug, Clone)]
pub struct Rename<'a> {
    /// Directory of the old name.
    pub parent: u64,
    /// Old name.
    pub name: &'a OsStr,
    /// Directory of the new name.
    pub new_parent: u64,
    /// New name.
    pub new_name: &'a OsStr,
    /// `RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT`.
    pub flags: u32,
}

impl<'a> Decode<'a> for Rename<'a> {
    fn decode(h: &InHeader, b: &mut Body<'a>, _: Shape) -> Result<Self, DecodeError> {
        let (new_parent, flags) = if h.opcode == abi::Opcode::Rename2.code() {
            let arg: abi::Rename2In = b.take()?;
            (arg.newdir, arg.flags)
        } else {
            (b.take::<abi::RenameIn>()?.newdir, 0)
        };
        Ok(Rename { parent: h.nodeid, name: b.name()?, new_parent, new_name: b.name()?, flags })
    }
}

/// FORGET and BATCH_FORGET: references to drop, as pairs of inode and count.
pub(crate) fn decode_forgets(h: &InHeader, b: &mut Body<'_>) -> Result<Vec<abi::ForgetOne>, DecodeError> {
    if h.opcode == abi::Opcode::Forget.code() {
        let nlookup = b.take::<abi::ForgetIn>()?.nlookup;
        return Ok(vec![abi::ForgetOne { nodeid: h.nodeid, nlookup }]);
    }
    let count = b.take::<abi::BatchForgetIn>()?.count;
    // The body bounds the list, whatever `count` claims.
    (0..count).map(|_| b.take()).collect()
}

/// Splits a cache lifetime into the kernel's two fields.
pub(crate) fn split_duration(lifetime: Duration) -> (u64, u32) {
    (lifetime.as_secs(), lifetime.subsec_nanos())
}
