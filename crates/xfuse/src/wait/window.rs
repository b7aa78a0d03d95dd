//! How long to spin before blocking: follows the observed gap between requests.

/// Gaps count as at most this many wake-ups, so that one long pause, or one delay by the scheduler, is soon forgotten.
const GAP_CAP: u64 = 4;
/// Spinning for less than this cannot see more than a few polls.
const MIN_WINDOW_NS: u64 = 1_000;
/// Twice a gap below this is no window yet.
const MIN_GAP_NS: u64 = 1_000;

/// The window controller of one thread.
///
/// While the mean gap (an exponential moving average) is below what a wake-up costs, the window is twice the mean gap,
/// at most `max`; else 0. Every spin in vain halves a limit on it, which grows again with every request that a spin of
/// reasonable length would have met.
#[derive(Debug, Clone)]
pub struct Window {
    mean_gap_ns: u64,
    limit_ns: u64,
    wake_cost_ns: u64,
}

impl Window {
    /// A controller that starts without spinning.
    pub fn new(wake_cost_ns: u64) -> Self {
        let wake_cost_ns = wake_cost_ns.max(1);
        Window { mean_gap_ns: GAP_CAP * wake_cost_ns, limit_ns: MIN_WINDOW_NS, wake_cost_ns }
    }

    /// The window for the next wait, at most `max_ns`; 0 says not to spin.
    pub fn window_ns(&self, max_ns: u64) -> u64 {
        if self.mean_gap_ns >= self.wake_cost_ns {
            return 0;
        }
        let window = (2 * self.mean_gap_ns.max(MIN_GAP_NS)).min(max_ns).min(self.limit_ns);
        if window < MIN_WINDOW_NS { 0 } else { window }
    }

    /// Mean gap between the end of one request and the arrival of the next.
    pub fn mean_gap_ns(&self) -> u64 {
        self.mean_gap_ns
    }

    /// A spin met a request after `gap_ns`.
    pub fn hit(&mut self, gap_ns: u64) {
        self.observe(gap_ns);
        self.grow();
    }

    /// A spin ended without a request.
    pub fn expired(&mut self) {
        self.limit_ns /= 2;
    }

    /// A blocking wait ended after `waited_ns`, which includes the wake-up. True if the request came sooner than a
    /// wake-up takes.
    pub fn blocked(&mut self, waited_ns: u64) -> bool {
        let gap = waited_ns.saturating_sub(self.wake_cost_ns);
        self.observe(gap);
        let short = gap < self.wake_cost_ns;
        if short {
            self.grow();
        }
        short
    }

    fn observe(&mut self, gap_ns: u64) {
        let gap = gap_ns.min(GAP_CAP * self.wake_cost_ns);
        self.mean_gap_ns = (7 * self.mean_gap_ns + gap) / 8;
    }

    fn grow(&mut self) {
        let enough = 2 * self.wake_cost_ns.max(MIN_WINDOW_NS);
        self.limit_ns = (self.limit_ns.max(MIN_WINDOW_NS / 2) * 2).min(enough);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAKE: u64 = 40_000;
    const MAX: u64 = 50_000;

    fn settled(gap: u64) -> Window {
        let mut window = Window::new(WAKE);
        for _ in 0..100 {
            window.blocked(WAKE + gap);
        }
        window
    }

    #[test]
    fn short_gaps_open_the_window_and_long_ones_close_it() {
        assert_eq!(Window::new(WAKE).window_ns(MAX), 0, "nothing known yet");
        let window = settled(10_000);
        assert!((19_000..=21_000).contains(&window.window_ns(MAX)), "{}", window.window_ns(MAX));
        assert_eq!(window.window_ns(5_000), 5_000, "never above the setting");
        assert_eq!(window.window_ns(0), 0);
        assert_eq!(settled(100_000).window_ns(MAX), 0, "a gap longer than a wake-up only loses");
    }

    #[test]
    fn misses_halve_the_window_down_to_nothing() {
        let mut window = settled(20_000);
        let mut last = window.window_ns(MAX);
        assert!(last >= 39_000);
        for _ in 0..8 {
            window.expired();
            let now = window.window_ns(MAX);
            assert!(now <= last);
            last = now;
        }
        assert_eq!(last, 0);
        for _ in 0..10 {
            window.hit(5_000);
        }
        assert!(window.window_ns(MAX) > 0, "it grows again");
    }

    #[test]
    fn a_long_pause_is_soon_forgotten() {
        let mut window = settled(5_000);
        window.blocked(3_600_000_000_000);
        let requests = (1..).find(|_| {
            window.blocked(WAKE + 5_000);
            window.window_ns(MAX) > 0
        });
        assert!(requests.is_some_and(|count| count < 40), "{requests:?}");
    }
}
