//! Whose an entry's memory is: the kernel's, or this side's, which then owes the kernel exactly one answer.

use crate::sync::{AtomicBool, Mutex, Ordering};
use std::sync::Arc;

/// The entries of one queue; `A` is their memory.
#[derive(Debug)]
pub(super) struct Entries<A>(Mutex<Vec<Entry<A>>>);

#[derive(Debug)]
struct Entry<A> {
    area: Arc<A>,
    /// An operation is under way.
    with_kernel: bool,
}

impl<A> Default for Entries<A> {
    fn default() -> Self {
        Entries(Mutex::new(Vec::new()))
    }
}

impl<A> Entries<A> {
    /// Adds an entry that is about to be the kernel's.
    pub(super) fn add(&self, area: Arc<A>) -> u16 {
        let mut entries = self.0.lock();
        entries.push(Entry { area, with_kernel: true });
        (entries.len() - 1) as u16
    }

    /// An entry's memory.
    pub(super) fn area(&self, index: u16) -> Option<Arc<A>> {
        self.0.lock().get(usize::from(index)).map(|entry| entry.area.clone())
    }

    /// The kernel has completed its operation; false if there was none, so that nothing may be concluded from it.
    pub(super) fn take_back(&self, index: u16) -> bool {
        let mut entries = self.0.lock();
        entries.get_mut(usize::from(index)).is_some_and(|entry| std::mem::take(&mut entry.with_kernel))
    }

    /// The entry is about to be submitted: from now on its memory is not touched.
    pub(super) fn give(&self, index: u16) {
        if let Some(entry) = self.0.lock().get_mut(usize::from(index)) {
            entry.with_kernel = true;
        }
    }

    /// Entries that are the kernel's.
    pub(super) fn with_kernel(&self) -> usize {
        self.0.lock().iter().filter(|entry| entry.with_kernel).count()
    }

    /// Loses the memory of all entries.
    pub(super) fn forget(&self) {
        std::mem::forget(std::mem::take(&mut *self.0.lock()));
    }
}

/// That one request has not been answered yet.
#[derive(Debug)]
pub(super) struct Duty(AtomicBool);

impl Duty {
    pub(super) fn new() -> Self {
        Duty(AtomicBool::new(true))
    }

    /// Takes the duty; true for the one who is to answer.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}
