//! Adaptive waiting: spin for a moment, then block.
//!
//! Waking a thread on another CPU costs more than everything else in a small request. A channel that expects its next
//! request sooner than that spins for it, for a [`window`] that follows the observed gaps; [`budget`] bounds what all
//! spinning of a session may cost, and the [mix](crate::mix) which share of requests may be spun for at all. A channel
//! does not spin where the machine has one CPU only, where its caller runs on the same CPU, or while handlers of its
//! own are pending.

pub mod budget;
pub(crate) mod calibrate;
pub(crate) mod caller;
pub(crate) mod hot;
#[cfg(test)]
mod hot_tests;
pub mod pm_qos;
pub(crate) mod waiter;
pub mod window;

use crate::mix::{Mix, Observation, Tuner};
use crate::stats::ChannelStats;
use budget::Budget;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

/// How a session waits for requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WaitPolicy {
    /// Share of requests obtained by blocking at once.
    pub mix: Mix,
    /// Longest spin; zero never spins.
    pub max_window: Duration,
    /// Share of one CPU that all spinning of the session may use.
    pub cpu_budget: f64,
    /// Keep idle CPUs polling while mounted ([`pm_qos`]); needs root and costs power. Without the right the mount goes
    /// on without it.
    pub pm_qos: bool,
}

impl Default for WaitPolicy {
    /// Blocks only: what spinning costs is for the user to allow.
    fn default() -> Self {
        WaitPolicy { mix: Mix::FUSE, max_window: Duration::from_micros(50), cpu_budget: 0.5, pm_qos: false }
    }
}

/// Longest window that can be set; a thread does nothing else meanwhile.
const MAX_WINDOW: Duration = Duration::from_millis(10);
/// How often the automatic mix is reconsidered, while there are requests.
const TUNE_EVERY: Duration = Duration::from_millis(50);

/// The waiting of a session: settings that change while it runs, and what its channels share.
#[derive(Debug)]
pub(crate) struct WaitState {
    started: Instant,
    /// The share in force (bits of an f64).
    share: AtomicU64,
    /// Grows with every change of the share; channels start their error diffusion anew then.
    epoch: AtomicU64,
    auto: AtomicBool,
    max_window_ns: AtomicU64,
    can_spin: bool,
    wake_cost_ns: u64,
    budget: Mutex<Budget>,
    tuning: Mutex<Tuning>,
    pub(crate) hot: hot::Hot,
    /// Channels that stand in read(2): the kernel wakes one of them for each request, in turn.
    pub(crate) standing: AtomicU32,
    pub(crate) callers: caller::Looker,
}

#[derive(Debug)]
struct Tuning {
    tuner: Tuner,
    due: Instant,
    channels: Vec<Arc<ChannelStats>>,
    last: Observation,
}

impl WaitState {
    pub(crate) fn new(policy: &WaitPolicy, channels: Vec<Arc<ChannelStats>>) -> Arc<Self> {
        let can_spin = calibrate::online_cpus() > 1;
        let may_spin = can_spin && policy.mix != Mix::FUSE && !policy.max_window.is_zero();
        // Measuring costs some milliseconds; a session that starts without spinning need not wait for it.
        let wake_cost_ns = if may_spin { calibrate::wake_cost_ns() } else { calibrate::ASSUMED_NS };
        let started = Instant::now();
        let tuning =
            Tuning { tuner: Tuner::new(wake_cost_ns), due: started, channels, last: Observation::default() };
        let state = WaitState {
            started,
            share: AtomicU64::new(1f64.to_bits()),
            epoch: AtomicU64::new(0),
            auto: AtomicBool::new(false),
            max_window_ns: AtomicU64::new(0),
            can_spin,
            wake_cost_ns,
            budget: Mutex::new(Budget::new(policy.cpu_budget, 0)),
            tuning: Mutex::new(tuning),
            hot: hot::Hot::default(),
            standing: AtomicU32::new(0),
            callers: caller::Looker::default(),
        };
        state.set_mix(policy.mix);
        state.set_max_window(policy.max_window);
        Arc::new(state)
    }

    fn now_ns(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_nanos() as u64
    }

    fn share(&self) -> f64 {
        f64::from_bits(self.share.load(Relaxed))
    }

    fn set_share(&self, share: f64) {
        if self.share.swap(share.to_bits(), Relaxed) != share.to_bits() {
            // Whoever sees the new epoch sees the new share.
            self.epoch.fetch_add(1, Release);
        }
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    fn set_mix(&self, mix: Mix) {
        let mut tuning = self.tuning.lock();
        match mix {
            Mix::Fixed(share) => {
                self.auto.store(false, Relaxed);
                self.set_share(if share.is_finite() { share.clamp(0.0, 1.0) } else { 1.0 });
            }
            Mix::Auto => {
                tuning.tuner = Tuner::new(self.wake_cost_ns);
                tuning.last = observe(&tuning.channels);
                self.auto.store(true, Relaxed);
                self.set_share(tuning.tuner.share());
            }
        }
    }

    fn set_max_window(&self, window: Duration) {
        self.max_window_ns.store(window.min(MAX_WINDOW).as_nanos() as u64, Relaxed);
    }

    /// Reconsiders the automatic mix, if it is time. Called by channels between requests, so that idleness has no
    /// timers.
    fn tune(&self, now: Instant) {
        if !self.auto.load(Relaxed) {
            return;
        }
        let Some(mut tuning) = self.tuning.try_lock() else { return };
        if now < tuning.due {
            return;
        }
        tuning.due = now + TUNE_EVERY;
        let total = observe(&tuning.channels);
        let last = std::mem::replace(&mut tuning.last, total);
        let seen = Observation {
            hits: total.hits - last.hits,
            expired: total.expired - last.expired,
            spin_ns: total.spin_ns - last.spin_ns,
            short_gaps: total.short_gaps - last.short_gaps,
            blocked: total.blocked - last.blocked,
        };
        let (before, after) = (tuning.tuner.share(), tuning.tuner.step(&seen));
        if self.auto.load(Relaxed) && before != after {
            tracing::debug!(before, after, ?seen, "the automatic mix chose another share");
            self.set_share(after);
        }
    }
}

fn observe(channels: &[Arc<ChannelStats>]) -> Observation {
    let mut sum = Observation::default();
    for counters in channels.iter().map(|channel| &channel.wait) {
        sum.hits += counters.spin_hit.load(Relaxed);
        sum.expired += counters.spin_expired.load(Relaxed);
        sum.spin_ns += counters.spin_ns.load(Relaxed);
        sum.short_gaps += counters.short_gaps.load(Relaxed);
        sum.blocked += counters.blocked.load(Relaxed);
    }
    sum
}

/// Reads and changes how a running session waits. Cheap to clone; harmless after the session's end.
#[derive(Debug, Clone)]
pub struct WaitHandle(pub(crate) Arc<WaitState>);

impl WaitHandle {
    /// Changes the mix. Channels follow with their next request; a request that a channel already waits for was
    /// labelled before.
    pub fn set_mix(&self, mix: Mix) {
        self.0.set_mix(mix);
    }

    /// The setting.
    pub fn mix(&self) -> Mix {
        if self.0.auto.load(Relaxed) { Mix::Auto } else { Mix::Fixed(self.0.share()) }
    }

    /// The share of FUSE in force: the setting, or what `auto` chose.
    pub fn share(&self) -> f64 {
        self.0.share()
    }

    /// Changes the longest spin.
    pub fn set_max_window(&self, window: Duration) {
        self.0.set_max_window(window);
    }

    /// The longest spin.
    pub fn max_window(&self) -> Duration {
        Duration::from_nanos(self.0.max_window_ns.load(Relaxed))
    }

    /// What waking a thread on another CPU costs here, as far as it was measured.
    pub fn wake_cost(&self) -> Duration {
        Duration::from_nanos(self.0.wake_cost_ns)
    }

    /// Whether there is more than one CPU to spin on.
    pub fn can_spin(&self) -> bool {
        self.0.can_spin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_change_while_running() {
        let policy = WaitPolicy { mix: Mix::Fixed(0.25), ..WaitPolicy::default() };
        let handle = WaitHandle(WaitState::new(&policy, Vec::new()));
        assert_eq!((handle.mix(), handle.share()), (Mix::Fixed(0.25), 0.25));
        handle.set_mix(Mix::Auto);
        assert_eq!((handle.mix(), handle.share()), (Mix::Auto, 1.0));
        handle.set_mix(Mix::Fixed(f64::NAN));
        assert_eq!(handle.mix(), Mix::FUSE);
        handle.set_max_window(Duration::from_secs(60));
        assert_eq!(handle.max_window(), MAX_WINDOW);
    }

    #[test]
    fn the_automatic_mix_follows_the_counters() {
        let stats = Arc::new(ChannelStats::new());
        let policy = WaitPolicy { mix: Mix::Auto, ..WaitPolicy::default() };
        let state = WaitState::new(&policy, vec![stats.clone()]);
        stats.wait.blocked.fetch_add(1000, Relaxed);
        stats.wait.short_gaps.fetch_add(900, Relaxed);
        let now = Instant::now();
        state.tune(now);
        assert_eq!(state.share(), 0.75);
        stats.wait.spin_hit.fetch_add(500, Relaxed);
        state.tune(now);
        assert_eq!(state.share(), 0.75, "not yet due");
        state.tune(now + TUNE_EVERY);
        assert_eq!(state.share(), 0.5);
    }
}
