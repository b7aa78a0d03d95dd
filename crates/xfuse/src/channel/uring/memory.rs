//! Memory that an entry of a queue shares with the kernel: a page of headers and the payload.

use crate::abi::{InHeader, OutHeader, Pod, UringEntInOut};
use std::io;
use std::ptr::NonNull;

/// Bytes of the header page. The kernel uses the first 288.
const HEADERS: usize = 4096;
/// Where the first argument of a request is.
const OP_IN: usize = crate::abi::URING_IN_OUT_HEADER_SIZE;
/// Room for it.
pub(super) const OP_IN_LEN: usize = crate::abi::URING_OP_IN_OUT_SIZE;
/// Where [`UringEntInOut`] is.
const ENT_IN_OUT: usize = OP_IN + OP_IN_LEN;

/// One entry's memory. The kernel reads and writes it while an operation on the entry is under way, and nobody else
/// may then; outside of that it is this side's. All access copies bytes, but for what is lent to handlers.
#[derive(Debug)]
pub(super) struct Area {
    start: NonNull<u8>,
    payload_len: usize,
    /// What REGISTER gives to the kernel.
    ranges: Box<[libc::iovec; 2]>,
}

// SAFETY: an Area owns its mapping like a Box, and all access goes through raw copies.
unsafe impl Send for Area {}
// SAFETY: shared access copies bytes, or is what callers of `slice` and `slice_mut` vouch for; the queue's mutex orders
// the accesses of this process.
unsafe impl Sync for Area {}

impl Area {
    /// Where the payload begins, on a page.
    pub(super) const PAYLOAD: usize = HEADERS;

    pub(super) fn new(payload_len: usize) -> io::Result<Self> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice affects no other memory.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), HEADERS + payload_len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the payload begins inside the mapping.
        let payload = unsafe { start.add(HEADERS) };
        let range = |base: NonNull<u8>, len| libc::iovec { iov_base: base.as_ptr().cast(), iov_len: len };
        let ranges = Box::new([range(start, HEADERS), range(payload, payload_len)]);
        Ok(Area { start, payload_len, ranges })
    }

    /// Address of the two ranges for REGISTER.
    pub(super) fn ranges(&self) -> u64 {
        self.ranges.as_ptr() as u64
    }

    pub(super) fn payload_len(&self) -> usize {
        self.payload_len
    }

    fn total(&self) -> usize {
        HEADERS + self.payload_len
    }

    /// Copies out of the mapping.
    fn copy_out(&self, at: usize, into: &mut [u8]) {
        assert!(at <= self.total() && into.len() <= self.total() - at);
        // SAFETY: the source range lies within the mapping (checked above) and the target is a distinct slice.
        unsafe {
            std::ptr::copy_nonoverlapping(self.start.as_ptr().add(at), into.as_mut_ptr(), into.len());
        };
    }

    /// Copies into the mapping.
    fn copy_in(&self, at: usize, from: &[u8]) {
        assert!(at <= self.total() && from.len() <= self.total() - at);
        // SAFETY: the target range lies within the mapping (checked above) and the source is a distinct slice.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), self.start.as_ptr().add(at), from.len());
        };
    }

    fn read<T: Pod + Default>(&self, at: usize) -> T {
        let mut bytes = [0; 64];
        let bytes = &mut bytes[..size_of::<T>()];
        self.copy_out(at, bytes);
        T::read_from(bytes).unwrap_or_default()
    }

    pub(super) fn header(&self) -> InHeader {
        self.read(0)
    }

    pub(super) fn entry(&self) -> UringEntInOut {
        self.read(ENT_IN_OUT)
    }

    /// The first argument's bytes.
    pub(super) fn op_in(&self, into: &mut [u8]) {
        assert!(into.len() <= OP_IN_LEN);
        self.copy_out(OP_IN, into);
    }

    /// The front of the payload.
    pub(super) fn payload(&self, into: &mut [u8]) {
        self.copy_out(HEADERS, into);
    }

    /// Puts the request header and the first argument right before the payload, so that the request lies there in one
    /// piece. Returns where it begins. The kernel does not use that part of the page.
    pub(super) fn join(&self, header: &InHeader, op_len: usize) -> usize {
        let mut head = [0; size_of::<InHeader>() + OP_IN_LEN];
        let len = size_of::<InHeader>() + op_len;
        head[..size_of::<InHeader>()].copy_from_slice(header.as_bytes());
        self.op_in(&mut head[size_of::<InHeader>()..len]);
        self.copy_in(HEADERS - len, &head[..len]);
        HEADERS - len
    }

    /// Bytes of the mapping.
    ///
    /// # Safety
    /// Nobody may write them while the slice exists: not the kernel, nor anybody through this.
    pub(super) unsafe fn slice(&self, at: usize, len: usize) -> &[u8] {
        assert!(at <= self.total() && len <= self.total() - at);
        // SAFETY: the range lies within the mapping (checked above), which is initialised and lives as long as `self`;
        // the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(at), len) }
    }

    /// Bytes of the mapping, for writing.
    ///
    /// # Safety
    /// Nobody else may read or write them while the slice exists.
    #[allow(clippy::mut_from_ref)] // The memory is as if behind a lock, which the caller holds.
    pub(super) unsafe fn slice_mut(&self, at: usize, len: usize) -> &mut [u8] {
        assert!(at <= self.total() && len <= self.total() - at);
        // SAFETY: as in `slice`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(at), len) }
    }

    /// Puts a request there as the kernel does; the parts may be shorter than their places.
    #[cfg(test)]
    pub(super) fn set_request(&self, header: &[u8], op_in: &[u8], payload: &[u8], entry: &UringEntInOut) {
        self.copy_in(0, header);
        self.copy_in(OP_IN, op_in);
        self.copy_in(HEADERS, payload);
        self.copy_in(ENT_IN_OUT, entry.as_bytes());
    }

    pub(super) fn set_payload(&self, at: usize, bytes: &[u8]) {
        assert!(at <= self.payload_len);
        self.copy_in(HEADERS + at, bytes);
    }

    /// Writes the reply's headers.
    pub(super) fn set_reply(&self, header: &OutHeader, payload_len: usize) {
        self.copy_in(0, header.as_bytes());
        let entry = UringEntInOut { payload_sz: payload_len as u32, ..self.entry() };
        self.copy_in(ENT_IN_OUT, entry.as_bytes());
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: start and length are what mmap was asked for; the queue drops an area only when the kernel has
        // completed its operation.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.total()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_and_requests_are_where_the_kernel_has_them() {
        assert_eq!((OP_IN, ENT_IN_OUT), (128, 256));
        let area = Area::new(8192).unwrap();
        area.set_payload(8190, b"ab");
        area.set_reply(&OutHeader { len: 18, error: 0, unique: 7 }, 2);
        assert_eq!((area.header().len, area.entry().payload_sz), (18, 2));
        let mut payload = vec![0; 8192];
        area.payload(&mut payload);
        assert_eq!(&payload[8190..], b"ab");
        let outside =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| area.set_payload(8191, b"ab")));
        assert!(outside.is_err());
    }
}
