//! The waiting of one thread: labels, windows and counters. The channel does the polling and blocking.

use super::WaitState;
use super::caller::Seen;
use super::window::Window;
use crate::mix::{Diffuser, Label};
use crate::stats::ChannelStats;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Polls between looks at the clock.
const POLLS_PER_LOOK: u32 = 16;
/// Requests between looks at where callers run.
const LOOK_AT_CALLER: u32 = 64;

/// A read that returns sooner had nothing to wait for: the two switches of context alone take longer.
const MIN_WAIT: Duration = Duration::from_nanos(1_500);
/// Bytes that such a read copies in a nanosecond at least.
const COPIED_PER_NS: u64 = 4;

/// State of one thread.
pub(crate) struct Waiter {
    state: Arc<WaitState>,
    stats: Arc<ChannelStats>,
    diffuser: Diffuser,
    epoch: u64,
    window: Window,
    /// Countdown to the next look at the caller's CPU, and what the last one saw.
    caller_due: u32,
    caller: Seen,
    caller_is_here: bool,
}

/// One wait: it begins when a thread finds nothing to do and ends when it has a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Episode {
    label: Label,
    began: Instant,
    /// Whether nothing of the thread's own was pending since `began`, so that the wait measures a gap.
    idle: bool,
}

impl Episode {
    /// Whether the wait measures a gap.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle
    }
}

/// How a spin ended.
pub(crate) enum Spun<T> {
    /// With this.
    Hit(T),
    /// The window passed.
    Expired,
}

impl Waiter {
    pub(crate) fn new(state: Arc<WaitState>, stats: Arc<ChannelStats>) -> Self {
        let window = Window::new(state.wake_cost_ns);
        let epoch = state.epoch();
        Waiter {
            state,
            stats,
            diffuser: Diffuser::default(),
            epoch,
            window,
            caller_due: 0,
            caller: Seen::new(),
            caller_is_here: false,
        }
    }

    fn label(&mut self) -> Label {
        let epoch = self.state.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            self.diffuser = Diffuser::default();
            // Nobody looks while nothing may spin, so what was seen would stay; and with it the automatic mix at 1.
            (self.caller_is_here, self.caller_due) = (false, 1);
        }
        self.diffuser.next(self.state.share())
    }

    fn count(&mut self, label: Label, requests: u64) {
        self.diffuser.obtained(label, requests);
        let counters = &self.stats.wait;
        match label {
            Label::Fuse => counters.req_fuse.fetch_add(requests, Relaxed),
            Label::Xfuse => counters.req_xfuse.fetch_add(requests, Relaxed),
        };
    }

    /// A batch of requests was found without waiting.
    pub(crate) fn found(&mut self, requests: u64) {
        let label = self.label();
        self.count(label, requests);
    }

    /// There is nothing to do. `idle` says that no handler of this thread is pending.
    pub(crate) fn begin(&mut self, idle: bool) -> Episode {
        let now = Instant::now();
        self.state.tune(now);
        Episode { label: self.label(), began: now, idle }
    }

    /// The last pending handler has ended during the episode.
    pub(crate) fn became_idle(&self, episode: &mut Episode) {
        (episode.began, episode.idle) = (Instant::now(), true);
    }

    /// Whether the episode could spin once the thread has nothing pending.
    pub(crate) fn may_spin(&self, episode: &Episode) -> bool {
        // The share may have become 1 since the label was given.
        episode.label == Label::Xfuse
            && self.state.can_spin
            && self.state.share() < 1.0
            && self.state.max_window_ns.load(Relaxed) > 0
    }

    /// How long to spin now; 0 not at all. `same_cpu` says that requests come from the CPU this thread runs on.
    pub(crate) fn window_ns(&mut self, episode: &Episode, same_cpu: bool) -> u64 {
        let mut window = 0;
        if episode.idle && !same_cpu && !self.caller_is_here && self.may_spin(episode) {
            window = self.window.window_ns(self.state.max_window_ns.load(Relaxed));
            if window > 0 {
                let available = self.state.budget.lock().available_ns(self.state.now_ns(Instant::now()));
                window = if available >= window { window } else { 0 };
            }
        }
        self.stats.wait.window_ns.store(window, Relaxed);
        window
    }

    /// Polls until there is something or `window_ns` has passed.
    pub(crate) fn spin<T>(
        &mut self,
        episode: &Episode,
        window_ns: u64,
        mut poll: impl FnMut() -> Option<T>,
    ) -> Spun<T> {
        let started = Instant::now();
        let mut polls = 0;
        let outcome = loop {
            if let Some(found) = poll() {
                break Spun::Hit(found);
            }
            polls += 1;
            if polls % POLLS_PER_LOOK == 0 && started.elapsed().as_nanos() as u64 >= window_ns {
                break Spun::Expired;
            }
            std::hint::spin_loop();
        };
        let now = Instant::now();
        let spun = (now - started).as_nanos() as u64;
        self.state.budget.lock().spend(spun);
        let counters = &self.stats.wait;
        counters.spin_ns.fetch_add(spun, Relaxed);
        match outcome {
            Spun::Hit(_) => {
                counters.spin_hit.fetch_add(1, Relaxed);
                self.window.hit((now - episode.began).as_nanos() as u64);
            }
            Spun::Expired => {
                counters.spin_expired.fetch_add(1, Relaxed);
                self.window.expired();
            }
        }
        outcome
    }

    /// The episode has ended with requests.
    pub(crate) fn obtained(&mut self, episode: &Episode, requests: u64) {
        self.count(episode.label, requests);
    }

    /// The thread was woken without there being a request.
    pub(crate) fn woken_in_vain(&self) {
        self.stats.wait.wakes.fetch_add(1, Relaxed);
    }

    /// Blocking has ended the episode; it began at `blocked`.
    pub(crate) fn woken(&mut self, episode: &Episode, blocked: Instant) {
        self.woken_at(Instant::now(), episode, blocked);
    }

    fn woken_at(&mut self, now: Instant, episode: &Episode, blocked: Instant) {
        let counters = &self.stats.wait;
        counters.wakes.fetch_add(1, Relaxed);
        counters.blocked.fetch_add(1, Relaxed);
        counters.block_ns.fetch_add((now - blocked).as_nanos() as u64, Relaxed);
        // A caller on this CPU could not have sent its request while this thread spun.
        if episode.idle
            && self.window.blocked((now - episode.began).as_nanos() as u64)
            && !self.caller_is_here
        {
            counters.short_gaps.fetch_add(1, Relaxed);
        }
    }

    /// A read of `len` bytes that waits as long as it takes has ended the episode `now`. True if it did wait.
    pub(crate) fn returned(&mut self, episode: &Episode, now: Instant, len: usize) -> bool {
        let copying = Duration::from_nanos(len as u64 / COPIED_PER_NS);
        let waited = now - episode.began >= MIN_WAIT + copying;
        if waited {
            self.woken_at(now, episode, episode.began);
        }
        waited
    }

    /// Looks now and then whether the process that sent a request runs on this thread's CPU: spinning would then only
    /// keep it from running.
    pub(crate) fn look_at_caller(&mut self, pid: u32) {
        self.caller_due = self.caller_due.wrapping_sub(1);
        if !self.caller_due.is_multiple_of(LOOK_AT_CALLER)
            || !self.state.can_spin
            || self.state.share() >= 1.0
        {
            return;
        }
        // What the last question found out; the answer to this one comes later.
        self.caller_is_here = self.caller.is_cpu(rustix::thread::sched_getcpu());
        if pid != 0 {
            self.state.callers.ask(pid, &self.caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::Mix;
    use crate::wait::WaitPolicy;

    fn waiter(mix: Mix) -> (Waiter, Arc<ChannelStats>) {
        let stats = Arc::new(ChannelStats::new());
        let policy = WaitPolicy { mix, cpu_budget: 1.0, ..WaitPolicy::default() };
        let state = WaitState::new(&policy, vec![stats.clone()]);
        (Waiter::new(state, stats.clone()), stats)
    }

    #[test]
    fn labels_are_counted_by_share_and_start_anew_when_it_changes() {
        let (mut waiter, stats) = waiter(Mix::Fixed(0.25));
        for _ in 0..100 {
            waiter.found(1);
        }
        let read = || (stats.wait.req_fuse.load(Relaxed), stats.wait.req_xfuse.load(Relaxed));
        assert_eq!(read(), (25, 75));
        waiter.state.set_mix(Mix::FUSE);
        for _ in 0..10 {
            let episode = waiter.begin(true);
            assert_eq!(waiter.window_ns(&episode, false), 0, "no spin at 1");
            waiter.woken(&episode, Instant::now());
            waiter.obtained(&episode, 1);
        }
        assert_eq!(read(), (35, 75));
        assert_eq!((stats.wait.spin_ns.load(Relaxed), stats.wait.blocked.load(Relaxed)), (0, 10));
    }

    #[test]
    fn a_caller_that_was_here_once_does_not_keep_the_automatic_mix_from_trying_again() {
        let (mut waiter, stats) = waiter(Mix::Auto);
        let state = waiter.state.clone();
        let wait = |waiter: &mut Waiter| {
            let episode = waiter.begin(true);
            waiter.woken(&episode, Instant::now());
            waiter.obtained(&episode, 1);
            stats.wait.short_gaps.load(Relaxed)
        };
        assert_eq!(wait(&mut waiter), 1);
        waiter.caller_is_here = true;
        assert_eq!(wait(&mut waiter), 1, "it could not have sent while this thread spun");
        // A probe that ends without success.
        state.set_share(0.75);
        state.set_share(1.0);
        assert_eq!(wait(&mut waiter), 2);
    }

    #[test]
    fn spins_only_when_idle_on_another_cpu() {
        let (mut waiter, stats) = waiter(Mix::XFUSE);
        if !waiter.state.can_spin {
            return;
        }
        for _ in 0..100 {
            waiter.window.hit(1_000);
        }
        std::thread::sleep(Duration::from_millis(5)); // The budget starts empty.
        let busy = waiter.begin(false);
        assert_eq!(waiter.window_ns(&busy, false), 0);
        let episode = waiter.begin(true);
        assert_eq!(waiter.window_ns(&episode, true), 0, "same CPU");
        let window = waiter.window_ns(&episode, false);
        assert!(window > 0);
        let mut polls = 0;
        let spun = waiter.spin(&episode, window, || {
            polls += 1;
            (polls == 3).then_some(polls)
        });
        assert!(matches!(spun, Spun::Hit(3)));
        let spun = waiter.spin(&episode, window, || None::<()>);
        assert!(matches!(spun, Spun::Expired));
        let counters = &stats.wait;
        assert_eq!((counters.spin_hit.load(Relaxed), counters.spin_expired.load(Relaxed)), (1, 1));
        assert!(counters.spin_ns.load(Relaxed) >= window);
    }
}
