//! A share of one CPU that spinning may use, as a token bucket.

/// Spinning saved up for a burst.
const BURST_NS: u64 = 10_000_000;

/// The budget of a session.
#[derive(Debug, Clone)]
pub struct Budget {
    share: f64,
    credit_ns: f64,
    last_ns: u64,
}

impl Budget {
    /// Allows `share` of one CPU, from `now_ns` on.
    pub fn new(share: f64, now_ns: u64) -> Self {
        Budget { share: share.clamp(0.0, 1.0), credit_ns: 0.0, last_ns: now_ns }
    }

    /// How long a spin may take at `now_ns`.
    pub fn available_ns(&mut self, now_ns: u64) -> u64 {
        let passed = now_ns.saturating_sub(self.last_ns);
        self.last_ns = self.last_ns.max(now_ns);
        self.credit_ns = (self.credit_ns + passed as f64 * self.share).min(BURST_NS as f64);
        self.credit_ns.max(0.0) as u64
    }

    /// Takes what a spin used; it may have gone over what was available by a few polls.
    pub fn spend(&mut self, spun_ns: u64) {
        self.credit_ns -= spun_ns as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic only, and slow")]
    fn spinning_never_exceeds_its_share_for_long() {
        let mut budget = Budget::new(0.25, 0);
        let (mut now, mut spun) = (0, 0);
        while now < 1_000_000_000 {
            let window = budget.available_ns(now).min(50_000);
            // Polls overshoot; what is overdrawn is paid back.
            let used = if window > 0 { window + 3_000 } else { 0 };
            budget.spend(used);
            spun += used;
            now += used + 10_000;
        }
        let share = spun as f64 / now as f64;
        assert!((0.2..=0.26).contains(&share), "{share}");
    }

    #[test]
    fn idleness_saves_no_more_than_a_burst() {
        let mut budget = Budget::new(1.0, 0);
        assert_eq!(budget.available_ns(3_600_000_000_000), BURST_NS);
        let mut none = Budget::new(0.0, 0);
        assert_eq!(none.available_ns(3_600_000_000_000), 0);
    }
}
