//! The kernel's FUSE interface, version 7.45: structs, operation codes, notification codes, flags.
//!
//! Names follow `<linux/fuse.h>` without the `fuse_` prefix (`fuse_entry_out` is [`EntryOut`]; a field `type` is `typ`).

mod control;
mod flags;
mod opcode;
mod reply;
mod request;

pub use crate::pod::Pod;
pub use control::*;
pub use flags::*;
pub(crate) use opcode::opcode_slots;
pub use opcode::{NotifyCode, Opcode};
pub use reply::*;
pub use request::*;

/// Major version of the protocol.
pub const KERNEL_VERSION: u32 = 7;
/// Newest minor version this crate speaks.
pub const KERNEL_MINOR_VERSION: u32 = 45;
/// Oldest minor version accepted. Linux 5.15 speaks 7.34; older kernels lack struct fields this crate relies on.
pub const OLDEST_MINOR_VERSION: u32 = 31;
/// Node id of the root directory.
pub const ROOT_ID: u64 = 1;
/// Smallest buffer read(2) of the device accepts.
pub const MIN_READ_BUFFER: usize = 8192;
/// Set in `unique` of a request that the kernel sends again after `NOTIFY_RESEND`.
pub const UNIQUE_RESEND: u64 = 1 << 63;
/// Set in `unique` of an INTERRUPT, which is the interrupted request's id plus this bit.
pub const INTERRUPT_BIT: u64 = 1;
/// A uid or gid that has no mapping in the mount's user namespace.
pub const INVALID_UIDGID: u32 = u32::MAX;
/// Most ranges in an IOCTL retry, input and output together.
pub const IOCTL_MAX_IOV: usize = 256;
/// Bytes of the header area of an io_uring entry that holds [`InHeader`] or [`OutHeader`].
pub const URING_IN_OUT_HEADER_SIZE: usize = 128;
/// Bytes of the operation header area of an io_uring entry.
pub const URING_OP_IN_OUT_SIZE: usize = 128;
/// io_uring command: register an entry and fetch a request.
pub const URING_CMD_REGISTER: u32 = 1;
/// io_uring command: commit a reply and fetch the next request.
pub const URING_CMD_COMMIT_AND_FETCH: u32 = 2;
/// Type of a request extension that carries supplementary groups; smaller types count security contexts.
pub const EXT_GROUPS: u32 = 32;
/// `_IOR(229, 0, u32)`: attach a device descriptor to the connection of another one.
pub const DEV_IOC_CLONE: u32 = 0x8004_e500;
/// `_IOW(229, 1, struct fuse_backing_map)`: register a backing file for passthrough.
pub const DEV_IOC_BACKING_OPEN: u32 = 0x4010_e501;
/// `_IOW(229, 2, u32)`: forget a backing file.
pub const DEV_IOC_BACKING_CLOSE: u32 = 0x4004_e502;
/// `_IO(229, 3)`: make mount(2) wait for INIT (Linux 6.18).
pub const DEV_IOC_SYNC_INIT: u32 = 0x0000_e503;

/// Rounds up to the 8-byte boundary on which directory entries start.
pub const fn rec_align(bytes: usize) -> usize {
    (bytes + 7) & !7
}

/// Size of a READDIR record for a name of that length.
pub const fn dirent_size(name: usize) -> usize {
    rec_align(size_of::<Dirent>() + name)
}

/// Size of a READDIRPLUS record for a name of that length.
pub const fn direntplus_size(name: usize) -> usize {
    rec_align(size_of::<DirentPlus>() + name)
}

/// Declares kernel structs: public fields, `#[repr(C)]`, [`Pod`], and a compile-time check that nothing is padded.
macro_rules! abi_structs {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

            const _: () = assert!(0 $(+ size_of::<$type>())* == size_of::<$name>(), "implicit padding");

            // SAFETY: repr(C), integers or Pod structs only, and the assertion above excludes padding.
            unsafe impl $crate::pod::Pod for $name {}
        )*
    };
}
use abi_structs;
