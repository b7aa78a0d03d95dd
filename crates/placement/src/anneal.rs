//! Seeded random numbers, and when a search takes a step that makes things worse.

/// A small seeded generator (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A search that cools down: early it also takes steps that cost a little, late only ones that do not.
pub(crate) struct Annealing {
    steps: usize,
    done: usize,
    hot: f64,
}

impl Annealing {
    /// `hot` is the extra cost that is taken every third time at the start.
    pub(crate) fn new(steps: usize, hot: f64) -> Self {
        Annealing { steps, done: 0, hot }
    }

    /// True until the steps are used up.
    pub(crate) fn go_on(&mut self) -> bool {
        self.done += 1;
        self.done <= self.steps
    }

    /// Whether a step of this extra cost is taken.
    pub(crate) fn takes(&self, extra: i64, random: &mut Random) -> bool {
        if extra <= 0 {
            return true;
        }
        let left = 1.0 - self.done as f64 / self.steps as f64;
        let temperature = self.hot * left * left;
        temperature > 1e-3 && random.unit() < (-(extra as f64) / temperature).exp()
    }
}
