//! Pauses between attempts.

use std::time::Duration;
use tokio::time::Instant;

/// Doubling pauses until a total time is used up (3FS's `ExponentialBackoffRetry`).
#[derive(Clone, Debug)]
pub struct Backoff {
    start: Instant,
    init: Duration,
    max: Duration,
    total: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `init` to `max`, attempts until `total` has passed.
    pub fn new(init: Duration, max: Duration, total: Duration) -> Backoff {
        let max = max.max(init);
        Backoff { start: Instant::now(), init, max, total: total.max(max), next: init }
    }

    /// Time since the first attempt.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// True if no further attempt is worth while: less than the first pause is left.
    pub fn is_over(&self) -> bool {
        self.elapsed() + self.init > self.total
    }

    /// The present pause, never beyond the total; none when it is over.
    pub fn current(&self) -> Option<Duration> {
        (!self.is_over()).then(|| self.next.min(self.total.saturating_sub(self.elapsed())))
    }

    /// Doubles the pause.
    pub fn advance(&mut self) {
        self.next = (self.next * 2).min(self.max);
    }
}

/// Short pauses that double from `init` to `max`, without an end.
#[derive(Clone, Debug)]
pub struct FastPause {
    next: Duration,
    max: Duration,
}

impl FastPause {
    /// Pauses from `init` to `max`.
    pub fn new(init: Duration, max: Duration) -> FastPause {
        FastPause { next: init.min(max), max }
    }

    /// The next pause.
    pub fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn doubles_and_ends() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(10), seconds(30), seconds(60));
        let mut pauses = Vec::new();
        while let Some(pause) = backoff.current() {
            pauses.push(pause.as_secs());
            backoff.advance();
            tokio::time::sleep(pause).await;
        }
        assert_eq!(pauses, [10, 20, 30], "10 s are not left after 60 s");
        assert!(backoff.is_over());
    }

    #[test]
    fn fast_pauses() {
        let mut pause = FastPause::new(Duration::from_millis(10), Duration::from_millis(35));
        assert_eq!([(); 4].map(|()| pause.take().as_millis()), [10, 20, 35, 35]);
    }
}
