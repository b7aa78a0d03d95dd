//! The bound on memory that received requests take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that may be held ahead of data that a peer has only announced.
const SPECULATIVE_MAX: usize = 64 << 20;

/// Bytes of requests a server may hold.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
    speculative: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max, speculative: AtomicUsize::new(0) })
    }

    /// Takes `bytes` until the charge is dropped; `None` if that would exceed the bound.
    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        add_bounded(&self.used, bytes, self.max).then(|| Charge { budget: Some(Arc::clone(self)), bytes })
    }

    /// Like [`charge`](Self::charge), for memory that is allocated before its data arrives.
    pub(crate) fn speculate(self: &Arc<Self>, bytes: usize) -> Option<Speculation> {
        add_bounded(&self.speculative, bytes, SPECULATIVE_MAX)
            .then(|| Speculation { budget: Arc::clone(self), bytes })
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

fn add_bounded(counter: &AtomicUsize, bytes: usize, max: usize) -> bool {
    counter.fetch_update(Relaxed, Relaxed, |used| used.checked_add(bytes).filter(|&sum| sum <= max)).is_ok()
}

/// Bytes taken from a budget; the default takes none.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    budget: Option<Arc<Budget>>,
    bytes: usize,
}

impl Charge {
    /// Raises the charge to `bytes`. False, and nothing changes, if that would exceed the bound.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let Some(budget) = &self.budget else { return true };
        let more = bytes.saturating_sub(self.bytes);
        let granted = add_bounded(&budget.used, more, budget.max);
        if granted {
            self.bytes += more;
        }
        granted
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.used.fetch_sub(self.bytes, Relaxed);
        }
    }
}

/// Speculative bytes; given back when dropped.
pub(crate) struct Speculation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Speculation {
    fn drop(&mut self) {
        self.budget.speculative.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_bounded_and_returned() {
        let budget = Budget::new(100);
        let mut first = budget.charge(60).unwrap();
        assert!(budget.charge(41).is_none());
        assert!(first.grow_to(90));
        assert!(!first.grow_to(101));
        assert!(first.grow_to(10), "never shrinks");
        assert_eq!(budget.used(), 90);
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(Charge::default().grow_to(usize::MAX), "no budget, no bound");
        assert!(budget.charge(usize::MAX).is_none());
    }
}
