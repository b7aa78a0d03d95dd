//! What waking a thread on another CPU costs here.

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Assumed when it cannot be measured.
pub(crate) const ASSUMED_NS: u64 = 30_000;
/// Measurements outside of this are noise.
const RANGE_NS: std::ops::RangeInclusive<u64> = 3_000..=200_000;
const ROUNDS: usize = 64;
const PATIENCE: Duration = Duration::from_millis(30);

/// CPUs of the machine; callers may run on any of them, wherever this process may run.
pub(crate) fn online_cpus() -> usize {
    // SAFETY: sysconf(3) has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
}

/// CPUs this process may run on.
fn usable_cpus() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => vec![0],
    }
}

/// Nanoseconds from waking a thread on another CPU until it runs; measured once per process.
pub(crate) fn wake_cost_ns() -> u64 {
    static COST: OnceLock<u64> = OnceLock::new();
    *COST.get_or_init(|| {
        let cpus = usable_cpus();
        let measured = match cpus[..] {
            [first, .., last] => ping_pong(first, last),
            _ => None,
        };
        let cost = measured.unwrap_or(ASSUMED_NS).clamp(*RANGE_NS.start(), *RANGE_NS.end());
        tracing::debug!(cost, measured = measured.is_some(), "nanoseconds to wake a thread on another CPU");
        cost
    })
}

/// Half the median round trip between two threads that wake each other.
fn ping_pong(here: usize, there: usize) -> Option<u64> {
    let new = || eventfd(0, EventfdFlags::CLOEXEC).ok();
    let (ping, pong) = (new()?, new()?);
    std::thread::scope(|scope| {
        let echo = std::thread::Builder::new().name("fuse-calibrate".into());
        let echo = echo.spawn_scoped(scope, || {
            pin(there);
            while wait(&ping) == Some(GO) && signal(&pong, GO) {}
        });
        echo.ok()?;
        let timer = std::thread::Builder::new().name("fuse-calibrate".into());
        let timer = timer.spawn_scoped(scope, || {
            pin(here);
            let (started, mut samples) = (Instant::now(), Vec::with_capacity(ROUNDS));
            while samples.len() < ROUNDS && started.elapsed() < PATIENCE {
                let sent = Instant::now();
                if !signal(&ping, GO) || wait(&pong).is_none() {
                    break;
                }
                samples.push(sent.elapsed().as_nanos() as u64);
            }
            signal(&ping, STOP);
            samples
        });
        let Ok(timer) = timer else {
            signal(&ping, STOP);
            return None;
        };
        let mut samples = timer.join().ok()?;
        samples.sort_unstable();
        samples.get(samples.len() / 2).map(|median| median / 2)
    })
}

const GO: u64 = 1;
const STOP: u64 = 2;

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    // Unpinned threads measure something smaller, which only makes spinning rarer.
    let _ = sched_setaffinity(None, &set);
}

fn signal(fd: &OwnedFd, value: u64) -> bool {
    rustix::io::write(fd, &value.to_ne_bytes()).is_ok()
}

fn wait(fd: &OwnedFd) -> Option<u64> {
    let mut value = [0; 8];
    loop {
        match rustix::io::read(fd, &mut value) {
            Ok(8) => return Some(u64::from_ne_bytes(value)),
            Err(rustix::io::Errno::INTR) => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "needs real threads")]
    fn the_cost_is_plausible_and_measured_once() {
        let cost = wake_cost_ns();
        assert!(RANGE_NS.contains(&cost), "{cost}");
        assert_eq!(cost, wake_cost_ns());
        assert!(!usable_cpus().is_empty() && online_cpus() > 0);
    }
}
