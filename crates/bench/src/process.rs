//! CPU time and resident memory of other processes, and running commands.

use std::process::Command;

/// What a system's own processes used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resources {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
}

/// Sums over processes whose command line holds `needle`.
pub fn resources(needle: &str) -> Resources {
    let mut sum = Resources::default();
    // SAFETY: sysconf has no preconditions.
    let (tick, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
    for (pid, _) in matching(needle) {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
        // After the command name: utime and stime are fields 14 and 15 of the line, rss is field 24 (proc(5)).
        sum.cpu_seconds += (number(11) + number(12)) / tick as f64;
        sum.resident_bytes += number(21) as u64 * page.unsigned_abs();
    }
    sum
}

/// Share of the machine's processors that was idle for a moment, 0 to 1.
pub fn idle_share() -> f64 {
    let read = || -> Option<(f64, f64)> {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let fields: Vec<f64> =
            text.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal (proc(5)); guest times are in user time already.
        Some((fields.get(3)? + fields.get(4)?, fields.iter().take(8).sum()))
    };
    let Some(before) = read() else { return 1.0 };
    std::thread::sleep(std::time::Duration::from_millis(500));
    let Some(after) = read() else { return 1.0 };
    if after.1 > before.1 { (after.0 - before.0) / (after.1 - before.1) } else { 1.0 }
}

/// Processes whose command line holds `needle`.
pub fn matching(needle: &str) -> Vec<(i32, String)> {
    let own = std::process::id().cast_signed();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (pid != own && line.contains(needle)).then_some((pid, line))
        })
        .collect()
}

/// Runs a command to its end.
///
/// # Errors
/// When it is missing or fails, with what it said.
pub fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {} {}", args.join(" "), output.status, said.trim()))
}

/// Writes everything back and drops the page, dentry and inode caches of this machine.
///
/// # Errors
/// When not root.
pub fn drop_caches() -> Result<(), String> {
    run("sync", &[])?;
    std::fs::write("/proc/sys/vm/drop_caches", "3")
        .map_err(|error| format!("drop_caches: {error} (run as root)"))
}
