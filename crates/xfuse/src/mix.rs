//! The mix `a·FUSE + (1−a)·XFUSE`: which share of requests is obtained by blocking at once, and which with the
//! adaptive window.
//!
//! Each wait (and each batch found without waiting) gets a label by error diffusion, so that the share of FUSE
//! requests is within one batch of `a` after any number of requests. A label is policy, not outcome: an XFUSE wait
//! whose window expires stays XFUSE.

use std::fmt;
use std::str::FromStr;

/// The setting of the mix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mix {
    /// This share of FUSE, from 0 (always eligible for spinning) to 1 (never spins).
    Fixed(f64),
    /// Chosen from the counters while serving.
    Auto,
}

impl Mix {
    /// Only blocking waits.
    pub const FUSE: Mix = Mix::Fixed(1.0);
    /// Only adaptive waits.
    pub const XFUSE: Mix = Mix::Fixed(0.0);
}

/// Text that is no mix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a mix is a number from 0 (XFUSE) to 1 (FUSE), or `auto`")]
pub struct BadMix;

impl FromStr for Mix {
    type Err = BadMix;

    fn from_str(text: &str) -> Result<Self, BadMix> {
        if text == "auto" {
            return Ok(Mix::Auto);
        }
        match text.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Mix::Fixed(share)),
            _ => Err(BadMix),
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mix::Fixed(share) => write!(f, "{share}"),
            Mix::Auto => f.write_str("auto"),
        }
    }
}

/// How a wait is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Block at once.
    Fuse,
    /// Spin for the window, then block.
    Xfuse,
}

/// Error diffusion over the requests of one thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Diffuser {
    requests: u64,
    fuse: u64,
}

impl Diffuser {
    /// The label of the next batch at share `a`.
    pub fn next(&self, a: f64) -> Label {
        // n and f stay far below 2^53 (thousands of years), so the comparison is exact enough.
        if (self.fuse + 1) as f64 <= a * (self.requests + 1) as f64 + 0.5 {
            Label::Fuse
        } else {
            Label::Xfuse
        }
    }

    /// Counts a batch of requests that carry `label`.
    pub fn obtained(&mut self, label: Label, requests: u64) {
        self.requests += requests;
        if label == Label::Fuse {
            self.fuse += requests;
        }
    }
}

/// What the counters of all channels say about one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observation {
    /// Spins that ended with a request.
    pub hits: u64,
    /// Spins that ended without one.
    pub expired: u64,
    /// Time spun.
    pub spin_ns: u64,
    /// Blocking waits whose request came sooner than waking costs.
    pub short_gaps: u64,
    /// All blocking waits.
    pub blocked: u64,
}

/// Chooses `a` for [`Mix::Auto`]: towards XFUSE while spinning saves more than it costs, back to FUSE otherwise.
#[derive(Debug, Clone)]
pub struct Tuner {
    share: f64,
    wake_cost_ns: u64,
    /// Intervals to stay at 1 before probing again; doubles with every probe in vain.
    pause: u32,
    left: u32,
    /// Intervals with hardly a spin since the last step.
    undecided: u32,
}

/// Steps of the choice.
const STEP: f64 = 0.25;
/// Fewer waits than this say nothing.
const ENOUGH: u64 = 32;
/// Intervals with fewer spins than that, after which spinning counts as useless.
const MAX_UNDECIDED: u32 = 4;
/// Longest pause between probes, in intervals.
const MAX_PAUSE: u32 = 64;

impl Tuner {
    /// Starts at pure FUSE.
    pub fn new(wake_cost_ns: u64) -> Self {
        Tuner { share: 1.0, wake_cost_ns, pause: 1, left: 0, undecided: 0 }
    }

    /// The share in force.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Takes one interval's observation; returns the share for the next.
    pub fn step(&mut self, seen: &Observation) -> f64 {
        let waits = seen.hits + seen.expired + seen.blocked;
        if waits < ENOUGH {
            return self.share;
        }
        if self.share >= 1.0 {
            self.left = self.left.saturating_sub(1);
            // Most requests come sooner than a wake-up takes: worth a try.
            if self.left == 0 && 2 * seen.short_gaps > waits {
                self.share = 1.0 - STEP;
            }
            return self.share;
        }
        // Windows open only after a while.
        if seen.hits + seen.expired < ENOUGH && self.undecided < MAX_UNDECIDED {
            self.undecided += 1;
            return self.share;
        }
        self.undecided = 0;
        let saved = seen.hits.saturating_mul(self.wake_cost_ns);
        if saved <= seen.spin_ns {
            self.share = (self.share + STEP).min(1.0);
            if self.share >= 1.0 {
                self.left = self.pause;
                self.pause = (self.pause * 2).min(MAX_PAUSE);
            }
        } else if saved > seen.spin_ns.saturating_add(seen.spin_ns / 4) {
            self.share = (self.share - STEP).max(0.0);
            self.pause = 1;
        }
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_prefix_is_within_one_batch_of_the_share(a in 0.0f64..=1.0, batches in prop::collection::vec(1u64..8, 1..400)) {
            let mut diffuser = Diffuser::default();
            let largest = *batches.iter().max().unwrap();
            for batch in batches {
                let label = diffuser.next(a);
                diffuser.obtained(label, batch);
                let error = (diffuser.fuse as f64 - a * diffuser.requests as f64).abs();
                prop_assert!(error <= largest as f64, "off by {error}");
            }
        }
    }

    #[test]
    fn the_ends_are_pure() {
        for (a, label) in [(0.0, Label::Xfuse), (1.0, Label::Fuse)] {
            let mut diffuser = Diffuser::default();
            for _ in 0..1000 {
                assert_eq!(diffuser.next(a), label);
                diffuser.obtained(label, 1);
            }
        }
    }

    #[test]
    fn a_half_alternates() {
        let mut diffuser = Diffuser::default();
        let labels: Vec<Label> = (0..6)
            .map(|_| {
                let label = diffuser.next(0.5);
                diffuser.obtained(label, 1);
                label
            })
            .collect();
        assert_eq!(labels.iter().filter(|label| **label == Label::Fuse).count(), 3);
        assert!(labels.windows(2).all(|pair| pair[0] != pair[1]), "{labels:?}");
    }

    #[test]
    fn settings_are_numbers_or_auto() {
        assert_eq!("0.25".parse(), Ok(Mix::Fixed(0.25)));
        assert_eq!("auto".parse(), Ok(Mix::Auto));
        for bad in ["", "1.01", "-0.1", "nan", "Auto", "inf"] {
            assert_eq!(bad.parse::<Mix>(), Err(BadMix), "{bad}");
        }
        assert_eq!((Mix::Fixed(0.5).to_string(), Mix::Auto.to_string()), ("0.5".into(), "auto".into()));
    }

    #[test]
    fn the_tuner_follows_what_spinning_is_worth() {
        let mut tuner = Tuner::new(40_000);
        let idle = Observation::default();
        assert_eq!(tuner.step(&idle), 1.0, "nothing seen, nothing changed");
        let slow = Observation { blocked: 1000, short_gaps: 10, ..idle };
        assert_eq!(tuner.step(&slow), 1.0, "gaps longer than a wake-up");
        let quick = Observation { blocked: 1000, short_gaps: 900, ..idle };
        assert_eq!(tuner.step(&quick), 0.75);
        let good = Observation { hits: 500, expired: 10, spin_ns: 500 * 8_000, ..idle };
        assert_eq!([tuner.step(&good), tuner.step(&good), tuner.step(&good)], [0.5, 0.25, 0.0]);
        assert_eq!(tuner.step(&good), 0.0);
        let bad = Observation { hits: 10, expired: 500, spin_ns: 500 * 50_000, ..idle };
        for expected in [0.25, 0.5, 0.75, 1.0] {
            assert_eq!(tuner.step(&bad), expected);
        }
        let silent = Observation { blocked: 1000, ..idle };
        tuner.step(&quick);
        let until_useless = (0..).find(|_| tuner.step(&silent) >= 1.0);
        assert_eq!(until_useless, Some(MAX_UNDECIDED), "no spins at all");
        // After probes in vain it waits longer and longer.
        let mut steps = Vec::new();
        for _ in 0..4 {
            let mut count = 0;
            while tuner.step(&quick) >= 1.0 {
                count += 1;
            }
            tuner.step(&bad);
            steps.push(count);
        }
        assert!(steps.is_sorted() && steps[3] > steps[0], "{steps:?}");
    }
}
