//! Which channel of a connection serves alone.
//!
//! All channels share the kernel's list of requests, and whoever watches the device is woken for each request, at the
//! cost of the caller: on another CPU such a wake-up costs more than the request itself. So once a channel gets its
//! requests by spinning time and again, or one at a time, the others stop watching. They look again after
//! a few milliseconds, then less and less often, and go back to watching as soon as no request came meanwhile. So a handler
//! that keeps its thread busy delays others by no more than twice [`LOOK_AT_LAST`], looking costs next to nothing, and an idle
//! connection has no timers.

use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicU64, Notify, timeout};
use std::time::Duration;

const NOBODY: u32 = u32::MAX;
/// Spins in a row that met a request, after which the others step aside.
pub(super) const SETTLED: u32 = 16;
/// When a channel that does not watch looks whether the one that serves alone still does. The time doubles with each look
/// that finds it serving, up to the last.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(5);
pub(super) const LOOK_AT_LAST: Duration = Duration::from_millis(40);

/// The place of the channel that serves alone.
#[derive(Debug)]
pub(crate) struct Hot {
    /// A [`Place`]. One word: who comes and who leaves see holder and hits of the same moment.
    place: AtomicU64,
    /// Counts the holder's spins and requests, so that its absence shows.
    beat: AtomicU64,
    left: Notify,
}

#[derive(Clone, Copy)]
struct Place {
    holder: u32,
    /// Hits of the holder in a row.
    hits: u32,
}

impl Place {
    const FREE: Place = Place { holder: NOBODY, hits: 0 };

    fn from_word(word: u64) -> Self {
        Place { holder: (word >> 32) as u32, hits: word as u32 }
    }

    fn word(self) -> u64 {
        u64::from(self.holder) << 32 | u64::from(self.hits)
    }

    fn is_held_by(self, channel: usize) -> bool {
        self.holder == channel as u32
    }

    fn is_settled(self) -> bool {
        self.hits >= SETTLED
    }

    fn is_other(self, channel: usize) -> bool {
        self.is_settled() && !self.is_held_by(channel)
    }
}

impl Default for Hot {
    fn default() -> Self {
        Hot { place: AtomicU64::new(Place::FREE.word()), beat: AtomicU64::new(0), left: Notify::new() }
    }
}

impl Hot {
    fn place(&self) -> Place {
        Place::from_word(self.place.load(Relaxed))
    }

    /// Changes the place to what `change` says, if anything. Returns what was there, as an error if that stays.
    fn change(&self, change: impl Fn(Place) -> Option<Place>) -> Result<Place, Place> {
        self.place
            .fetch_update(Relaxed, Relaxed, |word| change(Place::from_word(word)).map(Place::word))
            .map(Place::from_word)
            .map_err(Place::from_word)
    }

    /// Takes the place, or confirms having it. One whose holder has not settled can be taken over.
    pub(crate) fn take(&self, channel: usize) -> bool {
        let taken = self.change(|place| {
            let free = !place.is_held_by(channel) && !place.is_settled();
            free.then_some(Place { holder: channel as u32, hits: 0 })
        });
        if taken.is_err_and(|place| !place.is_held_by(channel)) {
            return false;
        }
        self.beat.fetch_add(1, Relaxed);
        true
    }

    /// A spin of the holder met a request.
    pub(crate) fn hit(&self, channel: usize) {
        let _ = self.change(|place| {
            let counts = place.is_held_by(channel) && !place.is_settled();
            counts.then_some(Place { hits: place.hits + 1, ..place })
        });
    }

    /// Whether `channel` has the place.
    pub(crate) fn is_held_by(&self, channel: usize) -> bool {
        self.place().is_held_by(channel)
    }

    /// The holder has got its requests one at a time for a while.
    pub(crate) fn settle(&self, channel: usize) {
        let _ = self.change(|place| {
            let settles = place.is_held_by(channel) && !place.is_settled();
            settles.then_some(Place { hits: SETTLED, ..place })
        });
    }

    /// Leaves the place, if `channel` has it: its spin was in vain, or there is work for more than one.
    pub(crate) fn leave(&self, channel: usize) {
        let left = self.change(|place| place.is_held_by(channel).then_some(Place::FREE));
        if left.is_ok_and(Place::is_settled) {
            self.left.notify_waiters();
        }
    }

    /// Whether another channel serves alone.
    pub(crate) fn is_other(&self, channel: usize) -> bool {
        self.place().is_other(channel)
    }

    /// Waits while another channel serves alone.
    pub(crate) async fn while_other(&self, channel: usize) {
        let mut pause = LOOK_AGAIN;
        while self.is_other(channel) {
            let beat = self.beat.load(Relaxed);
            // Before the look: a settled holder that leaves after it is not missed.
            let left = self.left.notified();
            let place = self.place();
            if !place.is_other(channel) {
                return;
            }
            if timeout(pause, left).await.is_ok() {
                pause = LOOK_AGAIN;
                continue;
            }
            if self.beat.load(Relaxed) == beat {
                self.leave(place.holder as usize);
                return;
            }
            pause = (2 * pause).min(LOOK_AT_LAST);
        }
    }
}
