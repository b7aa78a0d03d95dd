//! Who may still be reading what is no longer used.

use std::collections::{BTreeMap, VecDeque};

use crate::slots::Freed;

/// Moments at which readers began and things were given up. A slot given up while somebody reads is kept until
/// everybody who began before is done.
#[derive(Default)]
pub(crate) struct Readers {
    now: u64,
    /// Readers under way, by the moment they began.
    active: BTreeMap<u64, u32>,
    waiting: VecDeque<(u64, Freed)>,
}

impl Readers {
    /// A reader begins; returns its moment for [`Readers::leave`].
    pub(crate) fn enter(&mut self) -> u64 {
        *self.active.entry(self.now).or_default() += 1;
        self.now
    }

    /// A reader is done; returns slots nobody reads any more.
    pub(crate) fn leave(&mut self, began: u64) -> Vec<Freed> {
        if let Some(count) = self.active.get_mut(&began) {
            *count -= 1;
            if *count == 0 {
                self.active.remove(&began);
            }
        }
        let mut free = Vec::new();
        while let Some((given_up, slot)) = self.waiting.front().copied() {
            if !self.passed(given_up) {
                break;
            }
            self.waiting.pop_front();
            free.push(slot);
        }
        free
    }

    /// Gives a slot up; true if nobody can be reading it.
    #[must_use]
    pub(crate) fn give_up(&mut self, slot: Freed) -> bool {
        if self.active.is_empty() {
            return true;
        }
        let moment = self.mark();
        self.waiting.push_back((moment, slot));
        false
    }

    /// The present moment, for [`Readers::passed`].
    pub(crate) fn mark(&mut self) -> u64 {
        self.now += 1;
        self.now - 1
    }

    /// Whether all readers that had begun at the moment are done.
    pub(crate) fn passed(&self, moment: u64) -> bool {
        self.active.first_key_value().is_none_or(|(oldest, _)| *oldest > moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_wait_for_earlier_readers_only() {
        let slot = |index| Freed { slot: crate::geometry::Slot { class: 0, index }, len: 1 };
        let mut readers = Readers::default();
        assert!(readers.give_up(slot(0)));
        let first = readers.enter();
        assert!(!readers.give_up(slot(1)));
        let second = readers.enter();
        assert!(!readers.give_up(slot(2)));
        let mark = readers.mark();
        let third = readers.enter();
        assert_eq!(readers.leave(first), [slot(1)]);
        assert!(!readers.passed(mark));
        assert_eq!(readers.leave(second), [slot(2)]);
        assert!(readers.passed(mark));
        assert_eq!(readers.leave(third), []);
        assert!(readers.give_up(slot(3)));
    }
}
