//! Whose an entry's memory is: the kernel's, or this side's, which then owes the kernel exactly one answer.
//!
//! Handlers may use the memory in place. What they are lent stays theirs until they give it back: the answer waits for
//! that, since with it the entry becomes the kernel's again.

use crate::sync::Mutex;
use std::sync::Arc;

/// The entries of one queue; `A` is their memory, `R` an answer.
#[derive(Debug)]
pub(super) struct Entries<A, R>(Mutex<Vec<Entry<A, R>>>);

#[derive(Debug)]
struct Entry<A, R> {
    area: Arc<A>,
    /// An operation is under way.
    with_kernel: bool,
    /// The request that has not been answered yet.
    open: Option<u64>,
    /// Parts of the memory that handlers use.
    lent: usize,
    /// The answer that waits for them.
    owed: Option<R>,
}

/// What became of the wish to answer.
#[derive(Debug)]
pub(super) enum Closed<A> {
    /// Somebody else has answered, or the request is another.
    No,
    /// Parts of the memory are lent: see [`Entries::owe`].
    Lent,
    /// The memory is free for the answer.
    Free(Arc<A>),
}

impl<A, R> Default for Entries<A, R> {
    fn default() -> Self {
        Entries(Mutex::new(Vec::new()))
    }
}

impl<A, R> Entries<A, R> {
    /// Adds an entry that is about to be the kernel's.
    pub(super) fn add(&self, area: Arc<A>) -> u16 {
        let mut entries = self.0.lock();
        entries.push(Entry { area, with_kernel: true, open: None, lent: 0, owed: None });
        (entries.len() - 1) as u16
    }

    fn with<T>(&self, index: u16, change: impl FnOnce(&mut Entry<A, R>) -> T) -> Option<T> {
        self.0.lock().get_mut(usize::from(index)).map(change)
    }

    /// An entry's memory.
    pub(super) fn area(&self, index: u16) -> Option<Arc<A>> {
        self.with(index, |entry| entry.area.clone())
    }

    /// The kernel has completed its operation; false if there was none, so that nothing may be concluded from it.
    pub(super) fn take_back(&self, index: u16) -> bool {
        self.with(index, |entry| std::mem::take(&mut entry.with_kernel)).unwrap_or(false)
    }

    /// A request has arrived, which is to be answered once.
    pub(super) fn open(&self, index: u16, unique: u64) {
        self.with(index, |entry| entry.open = Some(unique));
    }

    /// Takes the duty to answer a request.
    pub(super) fn close(&self, index: u16, unique: u64) -> Closed<A> {
        let close = |entry: &mut Entry<A, R>| {
            if entry.open != Some(unique) {
                return Closed::No;
            }
            entry.open = None;
            if entry.lent > 0 { Closed::Lent } else { Closed::Free(entry.area.clone()) }
        };
        self.with(index, close).unwrap_or(Closed::No)
    }

    /// Takes the duty to answer a request, wherever it is.
    pub(super) fn close_any(&self, unique: u64) -> Option<u16> {
        let mut entries = self.0.lock();
        let index = entries.iter().position(|entry| entry.open == Some(unique))?;
        entries[index].open = None;
        u16::try_from(index).ok()
    }

    /// Whether a request has arrived and not been answered.
    pub(super) fn is_open(&self, unique: u64) -> bool {
        self.0.lock().iter().any(|entry| entry.open == Some(unique))
    }

    /// Lends memory to the handler of a request that has not been answered. `alone` refuses if any is lent already.
    pub(super) fn lend(&self, index: u16, unique: u64, alone: bool) -> Option<Arc<A>> {
        let lend = |entry: &mut Entry<A, R>| {
            let may = entry.open == Some(unique) && !(alone && entry.lent > 0);
            may.then(|| {
                entry.lent += 1;
                entry.area.clone()
            })
        };
        self.with(index, lend)?
    }

    /// What was lent is back. The answer that waited for it, if it was the last.
    pub(super) fn reclaim(&self, index: u16) -> Option<R> {
        let reclaim = |entry: &mut Entry<A, R>| {
            entry.lent -= 1;
            if entry.lent == 0 { entry.owed.take() } else { None }
        };
        self.with(index, reclaim)?
    }

    /// Leaves the answer to whoever gives back the last that is lent; the answer itself if nothing is. Only for who has
    /// taken the duty.
    pub(super) fn owe(&self, index: u16, answer: R) -> Option<R> {
        let mut entries = self.0.lock();
        let entry = entries.get_mut(usize::from(index)).filter(|entry| entry.lent > 0);
        let Some(entry) = entry else { return Some(answer) };
        entry.owed = Some(answer);
        None
    }

    /// The entry is about to be submitted: from now on its memory is not touched.
    pub(super) fn give(&self, index: u16) {
        self.with(index, |entry| entry.with_kernel = true);
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
