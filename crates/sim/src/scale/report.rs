//! What was measured, as text.

use std::fmt;
use std::time::Duration;

use super::Scale;
use super::meter::SERVERS;

/// What was measured.
#[derive(Debug)]
pub struct Report {
    pub(super) scale: Scale,
    /// CPU time until all servers are known and all chains serve, the servers' part included.
    pub(super) setup: Duration,
    /// CPU time of the measured part, by what it was spent on: how often, and how long.
    pub(super) parts: Vec<(&'static str, u64, Duration)>,
    /// CPU time of the measured part for none of these.
    pub(super) rest: Duration,
    /// Bytes of the routing information as a reply.
    pub(super) bytes: usize,
    /// CPU time of a manager that starts and loads all this.
    pub(super) load: Duration,
    /// Servers that failed.
    pub failures: u64,
    /// Versions of the routing information in the measured part.
    pub versions: u64,
}

impl Report {
    /// The manager's CPU time per second of cluster time.
    pub fn share(&self) -> f64 {
        let served = self.parts.iter().filter(|part| part.0 != SERVERS);
        let served: Duration = served.map(|part| part.2).sum();
        (served + self.rest).as_secs_f64() / self.scale.time.as_secs_f64()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scale { nodes, chains, replicas, time, fast, .. } = self.scale;
        let timings = if fast { "the fast profile" } else { "3FS" };
        let seconds = time.as_secs_f64();
        writeln!(
            f,
            "{nodes} storage servers, {chains} chains of {replicas}, timings of {timings}, {seconds} s"
        )?;
        let Self { failures, versions, bytes, .. } = self;
        writeln!(
            f,
            "{failures} servers failed, {versions} versions of routing information of {bytes} bytes"
        )?;
        writeln!(f, "CPU time of the manager per second of cluster time: {:.4} s", self.share())?;
        for (what, count, spent) in &self.parts {
            let (share, rate) = (spent.as_secs_f64() / seconds, *count as f64 / seconds);
            let each = spent.as_secs_f64() / (*count).max(1) as f64 * 1e6;
            writeln!(f, "  {share:.4} s  {what}: {rate:.1} per second, {each:.0} us each")?;
        }
        let rest = self.rest.as_secs_f64() / seconds;
        writeln!(f, "  {rest:.4} s  the rest: background work of the manager, the runtime")?;
        writeln!(f, "set up, the servers' part included: {:.2} s of CPU time", self.setup.as_secs_f64())?;
        write!(f, "a manager that takes over: {:.2} s of CPU time", self.load.as_secs_f64())
    }
}
