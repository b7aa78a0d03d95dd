//! `mount-stats` and `mount-set`: a mount of this machine, through its control socket.

use super::table::Table;
use crate::mount::control::{self, SOCKET};
use crate::mount::report::{Report, Request};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the mount listens.
#[derive(clap::Args, Debug)]
pub struct Where {
    /// Socket of the mount: `control.sock` in the `--dir` of `valor mount`. Default: the mount of `valor up`.
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

impl Where {
    fn socket(&self, data_dir: &Path) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| data_dir.join("mount").join(SOCKET))
    }
}

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Show what a mount does, refreshed until Ctrl-C.
    MountStats {
        #[command(flatten)]
        mount: Where,
        /// Show it once.
        #[arg(long)]
        once: bool,
        /// Seconds between refreshes.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
        interval: u64,
    },
    /// Change how a running mount waits for requests, until it restarts: mix=A (0 spins first, 1 blocks, or auto),
    /// max-window=US.
    MountSet {
        #[command(flatten)]
        mount: Where,
        /// Settings.
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
}

pub async fn run(data_dir: &Path, json: bool, command: Command) -> Result<(), String> {
    match command {
        Command::MountSet { mount, settings } => {
            let report = control::ask(&mount.socket(data_dir), &Request::Set(settings)).await?;
            if json {
                return print_json(&report);
            }
            println!("{}", settings_line(&report));
            Ok(())
        }
        Command::MountStats { mount, once, interval } => {
            let socket = mount.socket(data_dir);
            let mut last: Option<Report> = None;
            loop {
                let report = control::ask(&socket, &Request::Stats).await?;
                if json {
                    print_json(&report)?;
                } else {
                    show(&report, last.as_ref(), interval, !once)?;
                }
                if once {
                    return Ok(());
                }
                last = Some(report);
                tokio::time::sleep(Duration::from_secs(interval)).await;
            }
        }
    }
}

fn print_json(report: &Report) -> Result<(), String> {
    println!("{}", serde_json::to_string(report).map_err(|error| error.to_string())?);
    Ok(())
}

/// Text of another process must not reach the terminal as control sequences.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn settings_line(report: &Report) -> String {
    let chosen = if report.mix == "auto" { format!(" (chose {:.2})", report.share) } else { String::new() };
    let fallback =
        report.fallback.as_ref().map(|reason| format!(" ({})", escaped(reason))).unwrap_or_default();
    let sqpoll = if report.sqpoll { " with SQPOLL" } else { "" };
    format!(
        "{}: transport {}{sqpoll}{fallback}, mix {}{chosen}, window up to {} us, a wake-up costs {:.1} us",
        escaped(&report.mount_point),
        escaped(&report.transport),
        escaped(&report.mix),
        report.max_window_us,
        report.wake_cost_us
    )
}

fn show(report: &Report, last: Option<&Report>, interval: u64, refresh: bool) -> Result<(), String> {
    if refresh && std::io::stdout().is_terminal() {
        // Cursor home, clear.
        print!("\x1b[H\x1b[2J");
    }
    println!("{}", settings_line(report));
    println!(
        "in flight {}, buffers {}, interrupts {}, panics {}, bad errnos {}, malformed {}, unknown {}, late \
         replies {}, refused replies {}\n",
        report.in_flight,
        report.buffers_in_use,
        report.interrupts,
        report.panics,
        report.bad_errnos,
        report.malformed,
        report.unknown,
        report.late_replies,
        report.refused_replies
    );
    let mut table = Table::new(&[
        "Channel",
        "Fuse",
        "Xfuse",
        "Hit",
        "Expired",
        "Blocked",
        "Wakes",
        "Spin ms",
        "Block ms",
        "Window us",
    ]);
    for (index, channel) in report.channels.iter().enumerate() {
        let millis = |nanos: u64| format!("{:.1}", nanos as f64 / 1e6);
        table.row(vec![
            index.to_string(),
            channel.req_fuse.to_string(),
            channel.req_xfuse.to_string(),
            channel.spin_hit.to_string(),
            channel.spin_expired.to_string(),
            channel.blocked.to_string(),
            channel.wakes.to_string(),
            millis(channel.spin_ns),
            millis(channel.block_ns),
            format!("{:.1}", channel.window_ns as f64 / 1e3),
        ]);
    }
    table.print(false);
    println!();
    let mut table = Table::new(&["Operation", "Count", "Per s", "Errors", "Mean us", "p50 us", "p99 us"]);
    for operation in &report.operations {
        let before = last
            .and_then(|last| last.operations.iter().find(|old| old.name == operation.name))
            .map_or(0, |old| old.count);
        let rate = last.map_or("-".to_owned(), |_| {
            (operation.count.saturating_sub(before) / interval.max(1)).to_string()
        });
        table.row(vec![
            escaped(&operation.name),
            operation.count.to_string(),
            rate,
            operation.errors.to_string(),
            format!("{:.1}", operation.mean_us),
            format!("{:.1}", operation.p50_us),
            format!("{:.1}", operation.p99_us),
        ]);
    }
    table.print(false);
    println!("Latencies are those of one request in {}.", xfuse::stats::SAMPLED);
    std::io::stdout().flush().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_peer_cannot_control_the_terminal() {
        assert_eq!(escaped("/mnt/ü\x1b[2J\n"), "/mnt/ü\\u{1b}[2J\\n");
        let report = Report { mount_point: "\x1b]0;x\x07".into(), mix: "auto".into(), ..Report::default() };
        assert!(!settings_line(&report).contains(|c: char| c.is_control()));
    }
}
