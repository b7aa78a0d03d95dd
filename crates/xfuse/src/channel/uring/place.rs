//! Where the thread of a queue runs.
//!
//! Its place is the CPU whose requests it gets: the caller waits while the thread works, and nobody has to be woken on
//! another CPU. A caller whose data is read ahead does not wait: it uses what was read before, on that same CPU. As long as
//! such requests prevail, the thread leaves it, and runs wherever the kernel sees fit.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Bytes of a read that is worth another CPU.
pub(super) const LARGE: u32 = 64 << 10;
/// What a large read-ahead adds to the score; any other request takes 1.
const WEIGHT: u32 = 4;
/// The score to leave with. The thread returns at 0.
const LEAVE: u32 = 2 * WEIGHT;
const MOST: u32 = 4 * WEIGHT;

/// The CPUs of one thread.
#[derive(Debug)]
pub(super) struct Place {
    home: CpuSet,
    /// Where else it may run, and all that together; nothing if it has no choice.
    choice: Option<(CpuSet, CpuSet)>,
    score: u32,
    free: bool,
}

impl Place {
    /// Puts this thread on a CPU, if that is there and allowed; else it stays where it is.
    pub(super) fn pin(cpu: u16) -> Self {
        let cpu = usize::from(cpu);
        let mut home = CpuSet::new();
        if cpu >= CpuSet::MAX_CPU {
            return Place { home, choice: None, score: 0, free: false };
        }
        home.set(cpu);
        let mut choice = sched_getaffinity(None).ok().and_then(|all| {
            let mut others = all;
            others.unset(cpu);
            (others.count() > 0).then_some((others, all))
        });
        if let Err(error) = sched_setaffinity(None, &home) {
            tracing::debug!(cpu, %error, "the thread of a queue is not on its CPU");
            choice = None;
        }
        Place { home, choice, score: 0, free: false }
    }

    /// Keeps this thread off a CPU, if another is allowed: what works for it there needs that one.
    pub(super) fn beside(cpu: u16) -> Self {
        let cpu = usize::from(cpu);
        if let Ok(mut others) = sched_getaffinity(None)
            && cpu < CpuSet::MAX_CPU
        {
            others.unset(cpu);
            if others.count() > 0
                && let Err(error) = sched_setaffinity(None, &others)
            {
                tracing::debug!(cpu, %error, "the thread of a queue is not beside its CPU");
            }
        }
        Place { home: CpuSet::new(), choice: None, score: 0, free: false }
    }

    /// Takes note of a request, and moves if that is called for.
    pub(super) fn note(&mut self, large_read_ahead: bool) {
        let Some((others, all)) = &self.choice else { return };
        self.score =
            if large_read_ahead { (self.score + WEIGHT).min(MOST) } else { self.score.saturating_sub(1) };
        let moved = match self.free {
            // Once elsewhere it is not brought back without need.
            false if self.score >= LEAVE => {
                sched_setaffinity(None, others).and_then(|()| sched_setaffinity(None, all))
            }
            true if self.score == 0 => sched_setaffinity(None, &self.home),
            _ => return,
        };
        match moved {
            Ok(()) => self.free = !self.free,
            Err(error) => {
                tracing::debug!(%error, "the thread of a queue cannot move");
                self.choice = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "moves between CPUs")]
    fn a_thread_leaves_for_reads_ahead_and_returns_for_others() {
        let allowed = sched_getaffinity(None).unwrap();
        let Some(cpu) = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)) else { return };
        let is_home = || {
            let now = sched_getaffinity(None).unwrap();
            assert!(now == allowed || (now.count() == 1 && rustix::thread::sched_getcpu() == cpu));
            now.count() == 1
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut place = Place::pin(cpu as u16);
                assert!(is_home());
                place.note(true);
                place.note(false);
                assert!(is_home(), "one read is not yet a stream");
                place.note(true);
                place.note(true);
                assert_eq!(is_home(), allowed.count() == 1);
                for _ in 0..3 {
                    place.note(false);
                    place.note(true);
                }
                assert_eq!(is_home(), allowed.count() == 1, "a stream may have others in between");
                for _ in 0..MOST {
                    place.note(false);
                }
                assert!(is_home());
            });
        });
    }

    #[test]
    #[cfg_attr(miri, ignore = "moves between CPUs")]
    fn a_cpu_that_is_not_there_changes_nothing() {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let before = sched_getaffinity(None).unwrap();
                let mut place = Place::pin(u16::MAX);
                for _ in 0..10 {
                    place.note(true);
                }
                assert_eq!(sched_getaffinity(None).unwrap(), before);
            });
        });
    }
}
