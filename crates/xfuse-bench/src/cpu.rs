//! CPUs and CPU time: pinning, what processes used, how busy the machine is, and the kernel's latency constraint.

use rustix::process::Pid;
use rustix::thread::CpuSet;
use rustix::time::ClockId;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

/// The two CPUs of the latency rows.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// Where clients run.
    pub client: usize,
    /// Where servers on "the other CPU" run.
    pub other: Option<usize>,
}

impl Pair {
    /// The first and the last CPU this process may use: those least likely to be threads of one core.
    pub fn choose() -> Result<Self, String> {
        let allowed = rustix::thread::sched_getaffinity(None).map_err(|error| error.to_string())?;
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        let client = *cpus.first().ok_or("no CPU")?;
        Ok(Pair { client, other: cpus.last().copied().filter(|cpu| *cpu != client) })
    }
}

/// Keeps the calling thread, and what it starts from now on, on one CPU.
pub fn pin(cpu: usize) -> Result<(), String> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(format!("CPU {cpu} is out of range"));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|error| format!("CPU {cpu}: {error}"))
}

/// Runs `work` on a thread of its own, pinned to `cpu` if there is one.
pub fn on_cpu<T: Send>(
    cpu: Option<usize>,
    work: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cpu.map_or(Ok(()), pin)?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err("the client panicked".into()))
    })
}

fn read(clock: ClockId) -> Duration {
    let now = rustix::time::clock_gettime(clock);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// CPU time of the calling thread.
pub fn thread_time() -> Duration {
    read(ClockId::ThreadCPUTime)
}

/// CPU time of this process.
pub fn own_time() -> Duration {
    read(ClockId::ProcessCPUTime)
}

/// CPU time of another process, all its threads together; zero if it has gone.
pub fn process_time(pid: Pid) -> Duration {
    // The clock of a process, as clock_getcpuclockid(3) makes it.
    let clock = (!pid.as_raw_nonzero().get() << 3) | 2;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the result; an unknown clock is an error.
    if unsafe { libc::clock_gettime(clock, &mut now) } != 0 {
        return Duration::ZERO;
    }
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Voluntary context switches of all threads of a process.
pub fn sleeps(pid: Pid) -> u64 {
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    let Ok(entries) = std::fs::read_dir(tasks) else { return 0 };
    entries
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok())
        .filter_map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        })
        .sum()
}

/// Ticks of all CPUs since boot.
#[derive(Debug, Clone, Copy)]
pub struct Ticks {
    idle: f64,
    total: f64,
}

impl Ticks {
    pub fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields: Vec<f64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|field| field.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal (proc(5)); guest times are in user time already.
        let at = |index: usize| fields.get(index).copied().unwrap_or_default();
        Ticks { idle: at(3) + at(4), total: fields.iter().take(8).sum() }
    }

    /// Share of all CPUs that was idle since `earlier`.
    pub fn idle_share(&self, earlier: &Self) -> f64 {
        let total = self.total - earlier.total;
        if total > 0.0 { (self.idle - earlier.idle) / total } else { 1.0 }
    }

    /// CPU time used by everyone since `earlier`.
    pub fn busy_time(&self, earlier: &Self) -> Duration {
        let ticks = (self.total - earlier.total) - (self.idle - earlier.idle);
        // USER_HZ is 100 on every Linux that runs FUSE servers.
        Duration::from_secs_f64((ticks / 100.0).max(0.0))
    }

    /// All CPUs' time since `earlier`, idle or not.
    pub fn whole_time(&self, earlier: &Self) -> Duration {
        Duration::from_secs_f64(((self.total - earlier.total) / 100.0).max(0.0))
    }
}

/// Share of the machine that is idle for a moment.
pub fn idle_share(moment: Duration) -> f64 {
    let before = Ticks::now();
    std::thread::sleep(moment);
    Ticks::now().idle_share(&before)
}

/// Keeps idle CPUs polling while it lives (PM QoS 0).
pub struct NoSleep(#[expect(dead_code, reason = "the kernel drops the constraint when this closes")] File);

impl NoSleep {
    pub fn hold() -> Result<Self, String> {
        const DEVICE: &str = "/dev/cpu_dma_latency";
        let hold = || {
            let mut device = File::options().write(true).open(DEVICE)?;
            device.write_all(&0i32.to_ne_bytes())?;
            Ok::<_, std::io::Error>(device)
        };
        hold().map(NoSleep).map_err(|error| format!("{DEVICE}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_clock_reads_the_same_in_both_ways() {
        let before = own_time();
        let by_pid = process_time(rustix::process::getpid());
        assert!(before <= by_pid && by_pid <= own_time());
    }
}
