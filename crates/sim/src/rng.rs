//! Random choices of a run.

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore, SeedableRng};
use std::ops::Range;
use std::time::Duration;

/// A stream of random choices.
pub struct Rng(StdRng);

impl Rng {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Another stream, which depends on this one's next number only.
    pub fn fork(&mut self) -> Self {
        Self::new(self.next())
    }

    /// Any number.
    #[expect(clippy::should_implement_trait, reason = "the stream never ends")]
    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number of a range, which must not be empty.
    pub fn below(&mut self, range: Range<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// An index below `len`, which must not be 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.0.random_range(0..len)
    }

    /// One of a slice, which must not be empty.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability)
    }

    /// A duration between two numbers of milliseconds.
    pub fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.below(range))
    }
}
