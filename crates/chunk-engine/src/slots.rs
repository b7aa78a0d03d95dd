//! Which slots are taken.

use std::collections::VecDeque;

use crate::geometry::{BLOCK, CLASSES, Slot, blocks};

/// Slots of all classes.
#[derive(Default)]
pub(crate) struct Slots {
    classes: [Class; CLASSES],
    /// Bytes that free slots take on disk, about.
    reusable: u64,
    /// Free slots of which it is not known whether they take space.
    unknown: usize,
}

#[derive(Default)]
struct Class {
    /// One bit per slot below `next`: taken, being emptied or lost.
    taken: Vec<u64>,
    /// Slots never used start here.
    next: u32,
    /// Free slots which take space on disk and how many blocks, freed last at the back.
    reusable: VecDeque<(u32, u32)>,
    /// Free slots which an earlier process used.
    unknown: Vec<u32>,
    /// Free slots which take no space.
    empty: Vec<u32>,
}

/// A slot that is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Freed {
    pub(crate) slot: Slot,
    /// Bytes of content it had.
    pub(crate) len: u32,
}

impl Class {
    fn bit(index: u32) -> (usize, u64) {
        ((index / 64) as usize, 1 << (index % 64))
    }

    fn set(&mut self, index: u32) -> bool {
        let (word, mask) = Self::bit(index);
        if self.taken.len() <= word {
            self.taken.resize(word + 1, 0);
        }
        let was = self.taken[word] & mask != 0;
        self.taken[word] |= mask;
        !was
    }

    fn clear(&mut self, index: u32) -> bool {
        let (word, mask) = Self::bit(index);
        let Some(bits) = self.taken.get_mut(word) else { return false };
        let was = *bits & mask != 0;
        *bits &= !mask;
        was
    }
}

impl Slots {
    /// Takes a free slot, preferably one whose space is still allocated. `None`: all numbers are in use.
    pub(crate) fn allocate(&mut self, class: u8) -> Option<Slot> {
        let slots = &mut self.classes[usize::from(class)];
        let index = if let Some((index, taken)) = slots.reusable.pop_back() {
            self.reusable -= u64::from(taken) * BLOCK as u64;
            index
        } else if let Some(index) = slots.unknown.pop() {
            self.unknown -= 1;
            index
        } else if let Some(index) = slots.empty.pop() {
            index
        } else {
            let index = slots.next;
            slots.next = index.checked_add(1)?;
            index
        };
        slots.set(index);
        Some(Slot { class, index })
    }

    /// Whether a free slot of the class has space on disk.
    pub(crate) fn has_reusable(&self, class: u8) -> bool {
        !self.classes[usize::from(class)].reusable.is_empty()
    }

    /// Takes a particular slot, when metadata are loaded; false if it is taken already.
    #[must_use]
    pub(crate) fn claim(&mut self, slot: Slot) -> bool {
        let slots = &mut self.classes[usize::from(slot.class)];
        slots.next = slots.next.max(slot.index.saturating_add(1));
        slots.set(slot.index)
    }

    /// After all claims: the slots between are free.
    pub(crate) fn find_free(&mut self) {
        for slots in &mut self.classes {
            let taken = |index: u32| {
                let (word, mask) = Class::bit(index);
                slots.taken.get(word).is_some_and(|bits| bits & mask != 0)
            };
            slots.unknown = (0..slots.next).rev().filter(|index| !taken(*index)).collect();
            self.unknown += slots.unknown.len();
        }
    }

    /// Gives a slot back.
    pub(crate) fn free(&mut self, freed: Freed) {
        let Freed { slot, len } = freed;
        let slots = &mut self.classes[usize::from(slot.class)];
        let was_taken = slots.clear(slot.index);
        debug_assert!(was_taken, "{slot:?} freed twice");
        if was_taken {
            // The table takes a block, or more in the largest classes.
            let taken = blocks(len as usize) as u32 + 1;
            slots.reusable.push_back((slot.index, taken));
            self.reusable += u64::from(taken) * BLOCK as u64;
        }
    }

    /// Takes a free slot that may take space on disk, so that this can be given back; then call [`Slots::emptied`].
    /// First those of which nothing is known, then, while more than `keep` bytes are left, those not used for longest
    /// in the class with most of them.
    pub(crate) fn take_reusable(&mut self, keep: u64) -> Option<Slot> {
        let class = (0..CLASSES).find(|class| !self.classes[*class].unknown.is_empty());
        let (class, index) = if let Some(class) = class {
            self.unknown -= 1;
            (class, self.classes[class].unknown.pop()?)
        } else if self.reusable > keep {
            let class = (0..CLASSES).max_by_key(|class| self.classes[*class].reusable.len() << class)?;
            let (index, taken) = self.classes[class].reusable.pop_front()?;
            self.reusable -= u64::from(taken) * BLOCK as u64;
            (class, index)
        } else {
            return None;
        };
        self.classes[class].set(index);
        Some(Slot { class: class as u8, index })
    }

    /// The slot's space was given back.
    pub(crate) fn emptied(&mut self, slot: Slot) {
        let slots = &mut self.classes[usize::from(slot.class)];
        if slots.clear(slot.index) {
            slots.empty.push(slot.index);
        }
    }

    /// Bytes that free slots take on disk, about.
    pub(crate) fn reusable(&self) -> u64 {
        self.reusable
    }

    /// Whether space should be given back to keep at most so much.
    pub(crate) fn should_give_back(&self, keep: u64) -> bool {
        self.unknown > 0 || self.reusable > keep
    }

    /// Whether the slot is taken.
    #[cfg(test)]
    pub(crate) fn is_taken(&self, slot: Slot) -> bool {
        let (word, mask) = Class::bit(slot.index);
        self.classes[usize::from(slot.class)].taken.get(word).is_some_and(|bits| bits & mask != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_slots_are_reused_and_emptied() {
        let mut slots = Slots::default();
        let taken: Vec<Slot> = (0..5).map(|_| slots.allocate(2).unwrap()).collect();
        assert_eq!(taken.iter().map(|slot| slot.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        slots.free(Freed { slot: taken[1], len: 4096 });
        slots.free(Freed { slot: taken[3], len: 1 });
        assert_eq!(slots.reusable(), 4 * 4096);
        assert_eq!(slots.take_reusable(4 * 4096), None);
        assert_eq!(slots.take_reusable(0), Some(taken[1]));
        assert!(slots.is_taken(taken[1]));
        slots.emptied(taken[1]);
        let again = slots.allocate(2).unwrap();
        assert_eq!(again, taken[3]);
        assert_eq!(slots.allocate(2), Some(taken[1]));
        assert_eq!(slots.allocate(2).unwrap().index, 5);
        assert_eq!((slots.reusable(), slots.take_reusable(0)), (0, None));
    }

    #[test]
    fn claimed_slots_are_taken_and_gaps_free() {
        let mut slots = Slots::default();
        for index in [1, 4] {
            assert!(slots.claim(Slot { class: 0, index }));
        }
        assert!(!slots.claim(Slot { class: 0, index: 4 }));
        slots.find_free();
        assert!(slots.should_give_back(u64::MAX));
        let given = slots.take_reusable(u64::MAX).unwrap();
        slots.emptied(given);
        let mut indexes: Vec<u32> = (0..4).map(|_| slots.allocate(0).unwrap().index).collect();
        indexes.sort_unstable();
        assert_eq!(indexes, [0, 2, 3, 5]);
        assert!(!slots.should_give_back(0));
    }
}
