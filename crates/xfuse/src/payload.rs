//! The data of WRITE and READ in the memory where it arrives and from where it leaves.

use crate::buffer::{Pool, RequestBuffer, WRITE_HEADERS};
use crate::channel::uring::{EntryRoom, Lent};
use crate::reply::Data;
use bytes::Bytes;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// The data of a WRITE, where the kernel has put it. Over io_uring that memory is also the kernel's way to learn of the
/// answer, which therefore waits until this is dropped: use [`Payload::keep`] for what is to outlive the request.
#[derive(Clone)]
pub struct Payload {
    bytes: Bytes,
    /// Where to take buffers for what is kept, if `bytes` itself must not be.
    lent: Option<Pool>,
}

impl Payload {
    pub(crate) fn lent(bytes: Bytes, pool: Pool) -> Self {
        Payload { bytes, lent: Some(pool) }
    }

    /// The bytes, to be kept beyond the answer. They use a request buffer of the session until dropped; over io_uring they
    /// are copied to one, which is waited for.
    pub async fn keep(self) -> Bytes {
        let Some(pool) = &self.lent else { return self.bytes };
        let len = self.bytes.len();
        let buffer = pool.take().await.ok().filter(|buffer| buffer.room() >= WRITE_HEADERS + len);
        // No more memory of that kind.
        let Some(mut buffer) = buffer else { return Bytes::copy_from_slice(&self.bytes) };
        // On a page, as in a request that was read from the device.
        buffer.space()[WRITE_HEADERS..WRITE_HEADERS + len].copy_from_slice(&self.bytes);
        buffer.set_filled(WRITE_HEADERS + len);
        buffer.freeze().slice(WRITE_HEADERS..)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Payload { bytes, lent: None }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.bytes.len())
    }
}

/// Memory to make the answer to a READ in; see [`Context::room`](crate::Context::room).
#[derive(Debug)]
pub struct Room(Place);

#[derive(Debug)]
enum Place {
    Entry(Lent),
    /// A request buffer and the bytes used of it.
    Buffer(RequestBuffer, usize),
    Heap(Vec<u8>),
}

impl Room {
    /// An answer of the first `len` bytes.
    pub fn filled(self, len: usize) -> Data {
        let len = len.min(self.len());
        match self.0 {
            Place::Entry(lent) => Data::lent(lent, len),
            Place::Buffer(mut buffer, _) => {
                buffer.set_filled(WRITE_HEADERS + len);
                buffer.freeze().slice(WRITE_HEADERS..).into()
            }
            Place::Heap(mut bytes) => {
                bytes.truncate(len);
                bytes.into()
            }
        }
    }
}

impl Deref for Room {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Entry(lent) => lent.as_ref(),
            Place::Buffer(buffer, len) => &buffer.memory()[WRITE_HEADERS..WRITE_HEADERS + len],
            Place::Heap(bytes) => bytes,
        }
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Place::Entry(lent) => lent.bytes_mut(),
            Place::Buffer(buffer, len) => &mut buffer.space()[WRITE_HEADERS..WRITE_HEADERS + *len],
            Place::Heap(bytes) => bytes,
        }
    }
}

/// Where rooms for one request come from.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    pool: Option<Pool>,
    entry: Option<EntryRoom>,
}

impl Rooms {
    pub(crate) fn new(pool: Pool, entry: Option<EntryRoom>) -> Self {
        Rooms { pool: Some(pool), entry }
    }

    pub(crate) fn take(&self, size: usize) -> Room {
        let lent = self.entry.as_ref().and_then(|entry| entry.lend(size)).filter(|lent| lent.len() == size);
        if let Some(lent) = lent {
            return Room(Place::Entry(lent));
        }
        let pool = self.pool.as_ref().filter(|pool| pool.room() >= WRITE_HEADERS + size);
        // Not waited for: handlers that have rooms may be who is to return one.
        match pool.and_then(|pool| pool.try_take().ok().flatten()) {
            Some(buffer) => Room(Place::Buffer(buffer, size)),
            None => Room(Place::Heap(vec![0; size])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_kept_of_a_lent_payload_is_a_copy_on_a_page() {
        let pool = Pool::new(1 << 20, 1);
        let lent = Bytes::from(vec![7; 5000]);
        let kept = Payload::lent(lent.clone(), pool.clone()).keep().await;
        assert!(lent.is_unique(), "it was given back");
        assert_eq!((kept == lent, kept.as_ptr() as usize % 4096, pool.in_use()), (true, 0, 1));
        drop(kept);
        assert_eq!(pool.in_use(), 0);
        let own = Payload::from(lent.clone()).keep().await;
        assert_eq!(own.as_ptr(), lent.as_ptr(), "what was not lent is not copied");
    }

    #[test]
    fn rooms_without_an_entry_are_buffers_or_fresh_memory() {
        let pool = Pool::new(1 << 20, 1);
        let rooms = Rooms::new(pool.clone(), None);
        let mut room = rooms.take(5000);
        assert_eq!((room.len(), room.as_ptr() as usize % 4096, pool.in_use()), (5000, 0, 1));
        assert_eq!((rooms.take(5000).len(), pool.in_use()), (5000, 1), "there is only one buffer");
        room[..3].copy_from_slice(b"abc");
        let data = room.filled(3);
        assert_eq!(data.segments().collect::<Vec<_>>(), [b"abc"]);
        drop(data);
        assert_eq!(pool.in_use(), 0);
        for (rooms, size) in [(rooms, 8 << 20), (Rooms::default(), 10)] {
            let room = rooms.take(size);
            assert_eq!((room.len(), pool.in_use()), (size, 0));
            assert_eq!(room.filled(size + 1).len(), size);
        }
    }
}
