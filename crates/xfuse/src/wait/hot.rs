//! Which channel of a connection serves alone.
//!
//! All channels share the kernel's list of requests, and whoever watches the device is woken for each request, at the
//! cost of the caller: on another CPU such a wake-up costs more than the request itself. So once a channel gets its
//! requests by spinning time and again, or one at a time, the others stop watching. They look again every few
//! milliseconds and go back to watching as soon as no request came meanwhile, so that a handler that keeps its thread
//! busy delays others by no more than that, and an idle connection has no timers.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;

const NOBODY: usize = usize::MAX;
/// Spins in a row that met a request, after which the others step aside.
const SETTLED: u32 = 16;
/// How often a channel that does not watch looks whether the one that serves alone still does.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The place of the channel that serves alone.
#[derive(Debug)]
pub(crate) struct Hot {
    holder: AtomicUsize,
    /// Hits of the holder in a row.
    hits: AtomicU32,
    /// Counts the holder's spins and requests, so that its absence shows.
    beat: AtomicU64,
    left: Notify,
}

impl Default for Hot {
    fn default() -> Self {
        Hot {
            holder: AtomicUsize::new(NOBODY),
            hits: AtomicU32::new(0),
            beat: AtomicU64::new(0),
            left: Notify::new(),
        }
    }
}

impl Hot {
    /// Takes the place, or confirms having it. One whose holder has not settled can be taken over.
    pub(crate) fn take(&self, channel: usize) -> bool {
        let holder = self.holder.load(Relaxed);
        if holder != channel {
            if holder != NOBODY && self.hits.load(Relaxed) >= SETTLED {
                return false;
            }
            if self.holder.compare_exchange(holder, channel, Relaxed, Relaxed).is_err() {
                return false;
            }
            self.hits.store(0, Relaxed);
        }
        self.beat.fetch_add(1, Relaxed);
        true
    }

    /// A spin of the holder met a request.
    pub(crate) fn hit(&self, channel: usize) {
        if self.holder.load(Relaxed) == channel && self.hits.load(Relaxed) < SETTLED {
            self.hits.fetch_add(1, Relaxed);
        }
    }

    /// Whether `channel` has the place.
    pub(crate) fn is_held_by(&self, channel: usize) -> bool {
        self.holder.load(Relaxed) == channel
    }

    /// The holder has got its requests one at a time for a while.
    pub(crate) fn settle(&self, channel: usize) {
        if self.holder.load(Relaxed) == channel {
            self.hits.store(SETTLED, Relaxed);
        }
    }

    /// Leaves the place, if `channel` has it: its spin was in vain, or there is work for more than one.
    pub(crate) fn leave(&self, channel: usize) {
        if self.holder.load(Relaxed) == channel
            && self.holder.compare_exchange(channel, NOBODY, Relaxed, Relaxed).is_ok()
            && self.hits.swap(0, Relaxed) >= SETTLED
        {
            self.left.notify_waiters();
        }
    }

    /// Whether another channel serves alone.
    pub(crate) fn is_other(&self, channel: usize) -> bool {
        let holder = self.holder.load(Relaxed);
        holder != NOBODY && holder != channel && self.hits.load(Relaxed) >= SETTLED
    }

    /// Waits while another channel serves alone.
    pub(crate) async fn while_other(&self, channel: usize) {
        while self.is_other(channel) {
            let (holder, beat) = (self.holder.load(Relaxed), self.beat.load(Relaxed));
            let left = self.left.notified();
            if !self.is_other(channel) {
                return;
            }
            if tokio::time::timeout(LOOK_AGAIN, left).await.is_err() && self.beat.load(Relaxed) == beat {
                self.leave(holder);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn others_wait_while_one_polls_and_no_longer() {
        let hot = Hot::default();
        assert!(hot.take(0) && hot.take(1) && hot.take(1), "nobody has settled");
        assert!(!hot.is_other(0));
        (0..SETTLED).for_each(|_| hot.hit(1));
        assert!(!hot.take(0));
        assert!(hot.is_other(0) && !hot.is_other(1));
        hot.while_other(1).await;
        // The holder has stopped polling: its place is free after one look.
        hot.while_other(0).await;
        assert!(hot.take(0));
        (0..SETTLED).for_each(|_| hot.hit(0));
        let polling = async {
            for _ in 0..20 {
                tokio::time::sleep(LOOK_AGAIN / 2).await;
                assert!(hot.take(0));
            }
            hot.leave(0);
        };
        let started = tokio::time::Instant::now();
        tokio::join!(polling, hot.while_other(1));
        assert!(started.elapsed() >= 10 * LOOK_AGAIN, "waited while it polled");
    }
}
