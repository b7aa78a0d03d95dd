//! Structs of session control: INIT, notifications, io_uring headers, device ioctls.

use super::abi_structs;

abi_structs! {
    /// INIT, as kernels since 7.36 send it.
    InitIn {
        /// Protocol.
        major: u32,
        /// Protocol.
        minor: u32,
        /// Bytes.
        max_readahead: u32,
        /// Low 32 INIT flags.
        flags: u32,
        /// High 32 INIT flags.
        flags2: u32,
        /// Zero.
        unused: [u32; 11],
    }
    /// INIT of kernels before 7.36.
    InitInCompat {
        /// Protocol.
        major: u32,
        /// Protocol.
        minor: u32,
        /// Bytes.
        max_readahead: u32,
        /// INIT flags.
        flags: u32,
    }
    /// Reply to INIT.
    InitOut {
        /// Protocol.
        major: u32,
        /// Protocol.
        minor: u32,
        /// Bytes.
        max_readahead: u32,
        /// Low 32 INIT flags.
        flags: u32,
        /// Requests the kernel may have in flight in the background.
        max_background: u16,
        /// Background requests from which the device counts as congested.
        congestion_threshold: u16,
        /// Bytes per WRITE.
        max_write: u32,
        /// Nanoseconds, a power of ten.
        time_gran: u32,
        /// Pages per request.
        max_pages: u16,
        /// DAX.
        map_alignment: u16,
        /// High 32 INIT flags.
        flags2: u32,
        /// 1 or 2 for passthrough.
        max_stack_depth: u32,
        /// Seconds.
        request_timeout: u16,
        /// Zero.
        unused: [u16; 11],
    }
    /// CUSE_INIT.
    CuseInitIn {
        /// Protocol.
        major: u32,
        /// Protocol.
        minor: u32,
        /// Zero.
        unused: u32,
        /// `CUSE_UNRESTRICTED_IOCTL`.
        flags: u32,
    }
    /// Reply to CUSE_INIT.
    CuseInitOut {
        /// Protocol.
        major: u32,
        /// Protocol.
        minor: u32,
        /// Zero.
        unused: u32,
        /// `CUSE_UNRESTRICTED_IOCTL`.
        flags: u32,
        /// Bytes.
        max_read: u32,
        /// Bytes.
        max_write: u32,
        /// Device.
        dev_major: u32,
        /// Device.
        dev_minor: u32,
        /// Zero.
        spare: [u32; 10],
    }
    /// Notification POLL.
    NotifyPollWakeupOut {
        /// Kernel handle.
        kh: u64,
    }
    /// Notification INVAL_INODE.
    NotifyInvalInodeOut {
        /// Inode.
        ino: u64,
        /// First byte, negative for attributes only.
        off: i64,
        /// Bytes, 0 for up to the end.
        len: i64,
    }
    /// Notification INVAL_ENTRY; the name and a NUL follow.
    NotifyInvalEntryOut {
        /// Directory.
        parent: u64,
        /// Bytes without the NUL.
        namelen: u32,
        /// `EXPIRE_ONLY`.
        flags: u32,
    }
    /// Notification DELETE; the name and a NUL follow.
    NotifyDeleteOut {
        /// Directory.
        parent: u64,
        /// Inode.
        child: u64,
        /// Bytes without the NUL.
        namelen: u32,
        /// Zero.
        padding: u32,
    }
    /// Notification STORE; the data follow.
    NotifyStoreOut {
        /// Inode.
        nodeid: u64,
        /// Bytes.
        offset: u64,
        /// Bytes.
        size: u32,
        /// Zero.
        padding: u32,
    }
    /// Notification RETRIEVE.
    NotifyRetrieveOut {
        /// Id of the answering NOTIFY_REPLY.
        notify_unique: u64,
        /// Inode.
        nodeid: u64,
        /// Bytes.
        offset: u64,
        /// Bytes.
        size: u32,
        /// Zero.
        padding: u32,
    }
    /// NOTIFY_REPLY; the data follow.
    NotifyRetrieveIn {
        /// Zero.
        dummy1: u64,
        /// Bytes.
        offset: u64,
        /// Bytes.
        size: u32,
        /// Zero.
        dummy2: u32,
        /// Zero.
        dummy3: u64,
        /// Zero.
        dummy4: u64,
    }
    /// Notification PRUNE; node ids follow.
    NotifyPruneOut {
        /// Node ids.
        count: u32,
        /// Zero.
        padding: u32,
        /// Zero.
        spare: u64,
    }
    /// Argument of `FUSE_DEV_IOC_BACKING_OPEN`.
    BackingMap {
        /// Backing file.
        fd: i32,
        /// Zero.
        flags: u32,
        /// Zero.
        padding: u64,
    }
    /// Per-entry part of an io_uring request header.
    UringEntInOut {
        /// Zero.
        flags: u64,
        /// Names the request in COMMIT_AND_FETCH.
        commit_id: u64,
        /// Bytes used in the payload buffer.
        payload_sz: u32,
        /// Zero.
        padding: u32,
        /// Zero.
        reserved: u64,
    }
    /// Command area of an SQE.
    UringCmdReq {
        /// Zero.
        flags: u64,
        /// Names the request.
        commit_id: u64,
        /// Queue.
        qid: u16,
        /// Zero.
        padding: [u8; 6],
    }
}
