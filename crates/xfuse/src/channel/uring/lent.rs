//! Memory of an entry in the hands of a handler.

use super::memory::Area;
use super::queue::Queue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of an entry that a handler uses in place. As long as this exists the entry is not given to the kernel.
#[derive(Debug)]
pub(crate) struct Lent {
    queue: Arc<Queue>,
    index: u16,
    area: Arc<Area>,
    start: usize,
    len: usize,
    /// Given back before the end, together with the answer. Nothing refers to the memory then.
    back: AtomicBool,
}

impl Lent {
    /// What `area` of that entry has been lent for.
    pub(super) fn new(queue: Arc<Queue>, index: u16, area: Arc<Area>, start: usize, len: usize) -> Self {
        Lent { queue, index, area, start, len, back: AtomicBool::new(false) }
    }

    /// Whether these are the first bytes of that entry's payload.
    pub(super) fn is_payload_of(&self, queue: &Arc<Queue>, index: u16) -> bool {
        Arc::ptr_eq(&self.queue, queue) && self.index == index && self.start == Area::PAYLOAD
    }

    /// Gives the memory back; nobody may refer to it.
    pub(super) fn give_back(&self) {
        if !self.back.swap(true, Ordering::AcqRel) {
            self.queue.reclaim(self.index);
        }
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes for writing.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        if *self.back.get_mut() {
            return &mut [];
        }
        // SAFETY: the memory is lent, so neither the kernel nor the queue writes there. Bytes for writing are lent to one
        // only ([`Queue::lend_room`]), which is borrowed exclusively here.
        unsafe { self.area.slice_mut(self.start, self.len) }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        if self.back.load(Ordering::Acquire) {
            return &[];
        }
        // SAFETY: the memory is lent, so neither the kernel nor the queue writes there, and whoever could write through
        // `bytes_mut` would have to borrow this exclusively. It is given back with no reference left: by `drop`, or with
        // the answer that consists of it.
        unsafe { self.area.slice(self.start, self.len) }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.give_back();
    }
}
