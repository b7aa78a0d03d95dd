//! CPU time of this thread, by what it is spent on.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// What simulated servers do themselves: no part of the manager.
pub const SERVERS: &str = "(not the manager's: simulated servers)";

/// CPU time of this thread.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Counts and CPU times.
#[derive(Default)]
pub struct Meter(Mutex<BTreeMap<&'static str, (u64, Duration)>>);

impl Meter {
    /// Forgets everything.
    pub fn reset(&self) {
        self.0.lock().clear();
    }

    /// What was counted.
    pub fn all(&self) -> Vec<(&'static str, u64, Duration)> {
        self.0.lock().iter().map(|(what, (count, spent))| (*what, *count, *spent)).collect()
    }

    /// Does something and counts it.
    pub fn now<T>(&self, what: &'static str, work: impl FnOnce() -> T) -> T {
        let begun = cpu_time();
        let result = work();
        self.add(what, 1, cpu_time() - begun);
        result
    }

    /// Awaits something and counts it as what its result says; what goes on while it waits is not its.
    pub async fn within<F: Future>(&self, what: impl Fn(&F::Output) -> &'static str, work: F) -> F::Output {
        let mut work = pin!(work);
        let mut spent = Duration::ZERO;
        let result = poll_fn(|cx| {
            let begun = cpu_time();
            let polled = work.as_mut().poll(cx);
            spent += cpu_time() - begun;
            polled
        })
        .await;
        self.add(what(&result), 1, spent);
        result
    }

    fn add(&self, what: &'static str, count: u64, spent: Duration) {
        let mut parts = self.0.lock();
        let part = parts.entry(what).or_default();
        part.0 += count;
        part.1 += spent;
    }
}
