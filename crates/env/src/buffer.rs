//! Recycled page-aligned buffers for bulk data: what a socket receives, what a disk reads.
//!
//! Aligned so that direct I/O takes them as they are, and recycled because fresh memory of this size costs a page
//! fault per 4 KiB. Contents of a fresh buffer are zero, of a recycled one whatever was there before.

use std::alloc::{self, Layout};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use parking_lot::Mutex;

/// Alignment of every buffer, and the smallest size.
pub const ALIGNMENT: usize = 4096;
/// Largest buffer that is kept for reuse.
const LARGEST_CLASS: usize = 16 << 20;
/// Sizes per doubling: at most a fifth of a buffer is unused.
const STEPS: usize = 4;
/// Number of classes from [`ALIGNMENT`] to [`LARGEST_CLASS`].
const CLASSES: usize = (LARGEST_CLASS / ALIGNMENT).trailing_zeros() as usize * STEPS + 1;
/// Unused bytes kept by the process-wide pool.
const DEFAULT_RETAINED: usize = 256 << 20;

/// Index of the smallest class holding `len` bytes; `None` beyond the largest.
fn class_of(len: usize) -> Option<usize> {
    (0..CLASSES).find(|&class| class_size(class) >= len)
}

/// 4, 5, 6, 7, 8, 10, 12 ... KiB, in whole pages above.
fn class_size(class: usize) -> usize {
    let base = ALIGNMENT << (class / STEPS);
    (base + base / STEPS * (class % STEPS)).next_multiple_of(ALIGNMENT)
}

/// Memory of one buffer; always initialised.
struct Block {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a block owns its memory, like a `Box<[u8]>`.
unsafe impl Send for Block {}
// SAFETY: shared access only reads, like a `Box<[u8]>`.
unsafe impl Sync for Block {}

impl Block {
    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGNMENT).expect("capacities are far below isize::MAX")
    }

    fn new(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is at least a page.
        let start = unsafe { alloc::alloc_zeroed(layout) };
        Self { start: NonNull::new(start).unwrap_or_else(|| alloc::handle_alloc_error(layout)), capacity }
    }

    fn as_slice(&self) -> &[u8] {
        // SAFETY: `capacity` initialised bytes start there, and `&self` keeps them from being written.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.capacity) }
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `capacity` initialised bytes start there, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.capacity) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { alloc::dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

/// The unused buffers.
struct Shelf {
    classes: [Vec<Block>; CLASSES],
    retained: usize,
    retained_max: usize,
}

/// A supply of buffers. Cheap to clone; clones share their buffers.
#[derive(Clone)]
pub struct Pool(Arc<Mutex<Shelf>>);

impl Pool {
    /// A pool that keeps at most `retained_max` bytes of unused buffers.
    pub fn new(retained_max: usize) -> Self {
        let classes = std::array::from_fn(|_| Vec::new());
        Self(Arc::new(Mutex::new(Shelf { classes, retained: 0, retained_max })))
    }

    /// The pool of this process.
    pub fn global() -> &'static Self {
        static GLOBAL: LazyLock<Pool> = LazyLock::new(|| Pool::new(DEFAULT_RETAINED));
        &GLOBAL
    }

    /// A buffer of `len` bytes. Its contents are initialised but arbitrary.
    pub fn take(&self, len: usize) -> PooledBuf {
        let class = class_of(len);
        let recycled = class.and_then(|class| {
            let mut shelf = self.0.lock();
            let block = shelf.classes[class].pop()?;
            shelf.retained -= block.capacity;
            Some(block)
        });
        let block = recycled
            .unwrap_or_else(|| Block::new(class.map_or_else(|| len.next_multiple_of(ALIGNMENT), class_size)));
        PooledBuf { block: Some(block), len, pool: self.clone() }
    }

    /// Bytes of unused buffers.
    pub fn retained(&self) -> usize {
        self.0.lock().retained
    }

    fn give_back(&self, block: Block) {
        let Some(class) = class_of(block.capacity).filter(|&class| class_size(class) == block.capacity)
        else {
            return;
        };
        let mut shelf = self.0.lock();
        if shelf.retained + block.capacity <= shelf.retained_max {
            shelf.retained += block.capacity;
            shelf.classes[class].push(block);
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("retained", &self.retained()).finish()
    }
}

/// A buffer that returns to its pool when dropped.
pub struct PooledBuf {
    /// Present until dropped.
    block: Option<Block>,
    len: usize,
    pool: Pool,
}

impl PooledBuf {
    fn block(&self) -> &Block {
        self.block.as_ref().expect("present until dropped")
    }

    /// Bytes it can hold without moving.
    pub fn capacity(&self) -> usize {
        self.block().capacity
    }

    /// Sets the length, moving to a larger buffer if need be. Bytes beyond the former length are arbitrary.
    pub fn resize(&mut self, len: usize) {
        if len > self.capacity() {
            let mut bigger = self.pool.take(len);
            bigger[..self.len].copy_from_slice(self);
            std::mem::swap(self, &mut bigger);
        }
        self.len = len;
    }

    /// The contents as `Bytes`; the memory returns to the pool when the last of them is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for PooledBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block().as_slice()[..self.len]
    }
}

impl DerefMut for PooledBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.block.as_mut().expect("present until dropped").as_mut_slice()[..len]
    }
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for PooledBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuf").field("len", &self.len).finish()
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.pool.give_back(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_grow_and_cover() {
        assert_eq!(class_size(CLASSES - 1), LARGEST_CLASS);
        assert!((1..CLASSES).all(|class| class_size(class) >= class_size(class - 1)));
        for len in [0, 1, 4096, 4097, 1 << 20, (1 << 20) + 200, LARGEST_CLASS] {
            let size = class_size(class_of(len).unwrap());
            assert!(size >= len && size.is_multiple_of(ALIGNMENT));
            assert!(len < 1 << 16 || size <= len + len / 4);
        }
        assert_eq!(class_of(LARGEST_CLASS + 1), None);
    }

    #[test]
    fn memory_is_aligned_and_recycled() {
        let pool = Pool::new(1 << 20);
        let mut buf = pool.take(5000);
        assert_eq!(buf.as_ptr() as usize % ALIGNMENT, 0);
        assert!(buf.iter().all(|&byte| byte == 0));
        buf.fill(7);
        let bytes = buf.freeze();
        let part = bytes.slice(10..20);
        let address = bytes.as_ptr();
        drop(bytes);
        assert_eq!(pool.retained(), 0);
        drop(part);
        assert_eq!(pool.retained(), 8192);
        assert_eq!(pool.take(6000).as_ptr(), address);
    }

    #[test]
    fn retention_is_bounded() {
        let pool = Pool::new(100_000);
        drop((0..50).map(|_| pool.take(10_000)).collect::<Vec<_>>());
        assert!(pool.retained() <= 100_000 && pool.retained() > 50_000);
        drop(pool.take(LARGEST_CLASS + 1));
        assert!(pool.retained() <= 100_000);
    }

    #[test]
    fn resizing_keeps_contents() {
        let pool = Pool::new(1 << 20);
        let mut buf = pool.take(3);
        buf.copy_from_slice(b"abc");
        buf.resize(100_000);
        assert_eq!(&buf[..3], b"abc");
        buf.resize(2);
        assert_eq!(&buf[..], b"ab");
    }
}
