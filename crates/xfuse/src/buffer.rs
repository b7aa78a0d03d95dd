//! Page-aligned request buffers that return to their pool when the last reference to their payload is dropped.

use crate::sync::{Mutex, Notify};
use bytes::Bytes;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes before the payload of a WRITE: the request header and `fuse_write_in`.
pub(crate) const WRITE_HEADERS: usize = size_of::<crate::abi::InHeader>() + size_of::<crate::abi::WriteIn>();
/// Where requests are read to, so that the payload of a WRITE starts on a page boundary: the kernel then copies
/// page to page, and the payload suits direct I/O.
const START: usize = 4096 - WRITE_HEADERS;
/// Room for the largest request that is no WRITE: a 64 KiB extended attribute and names.
const MIN_PAYLOAD: usize = 132 << 10;

/// Anonymous memory, page-aligned, touched only as far as it is used.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a Mapping owns its memory exclusively, like a Box<[u8]>.
unsafe impl Send for Mapping {}
// SAFETY: shared access only reads the memory.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice affects no other memory.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, len })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `len` readable, initialised (zeroed) bytes, owned by self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, writable, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and len are what mmap returned; nothing refers to the memory any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A bounded set of equal buffers shared by the channels of a session.
#[derive(Clone, Debug)]
pub(crate) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    buffer_len: usize,
    limit: usize,
    state: Mutex<State>,
    returned: Notify,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Mapping>,
    /// Buffers that exist, idle or in use.
    existing: usize,
}

/// A buffer taken from the pool.
#[derive(Debug)]
pub(crate) struct RequestBuffer {
    /// `None` for a placeholder that holds no memory.
    mapping: Option<Mapping>,
    filled: usize,
    pool: Arc<Inner>,
}

impl Pool {
    /// A pool of up to `limit` buffers for WRITEs of up to `max_write` bytes.
    pub(crate) fn new(max_write: usize, limit: usize) -> Self {
        let buffer_len = 4096 + max_write.max(MIN_PAYLOAD);
        Pool(Arc::new(Inner { buffer_len, limit, state: Mutex::default(), returned: Notify::new() }))
    }

    /// Takes a buffer, waiting for one to be returned if all are in use.
    pub(crate) async fn take(&self) -> io::Result<RequestBuffer> {
        loop {
            let returned = self.0.returned.notified();
            if let Some(buffer) = self.try_take()? {
                return Ok(buffer);
            }
            returned.await;
        }
    }

    /// Takes a buffer if one is free.
    pub(crate) fn try_take(&self) -> io::Result<Option<RequestBuffer>> {
        let mut state = self.0.state.lock();
        let mapping = match state.idle.pop() {
            Some(mapping) => mapping,
            None if state.existing < self.0.limit => {
                let mapping = Mapping::new(self.0.buffer_len)?;
                state.existing += 1;
                mapping
            }
            None => return Ok(None),
        };
        Ok(Some(RequestBuffer { mapping: Some(mapping), filled: 0, pool: self.0.clone() }))
    }

    /// Bytes of the largest request that a buffer holds.
    pub(crate) fn room(&self) -> usize {
        self.0.buffer_len - START
    }

    /// Buffers in use.
    pub(crate) fn in_use(&self) -> usize {
        let state = self.0.state.lock();
        state.existing - state.idle.len()
    }
}

impl RequestBuffer {
    /// A placeholder without memory.
    pub(crate) fn empty(pool: &Pool) -> Self {
        RequestBuffer { mapping: None, filled: 0, pool: pool.0.clone() }
    }

    /// Whether this is a placeholder.
    pub(crate) fn is_empty(&self) -> bool {
        self.mapping.is_none()
    }

    /// Where the kernel is to put the next request.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        match &mut self.mapping {
            Some(mapping) => &mut mapping.bytes_mut()[START..],
            None => &mut [],
        }
    }

    /// The same for reading.
    pub(crate) fn memory(&self) -> &[u8] {
        match &self.mapping {
            Some(mapping) => &mapping.bytes()[START..],
            None => &[],
        }
    }

    /// Bytes of the largest request that it holds.
    pub(crate) fn room(&self) -> usize {
        self.memory().len()
    }

    /// Says that the next request is the first `len` bytes of `space`.
    pub(crate) fn set_filled(&mut self, len: usize) {
        self.filled = len;
    }

    /// The request.
    pub(crate) fn request(&self) -> &[u8] {
        self.as_ref()
    }

    /// Makes the request reference counted; the buffer returns to the pool with the last reference.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for RequestBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory()[..self.filled]
    }
}

impl Drop for RequestBuffer {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            self.pool.state.lock().idle.push(mapping);
            self.pool.returned.notify_waiters();
        }
    }
}
