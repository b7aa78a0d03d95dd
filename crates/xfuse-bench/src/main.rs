//! `xfuse-bench`: xfuse against libfuse, fuser and fuse-backend-rs, in one run on one machine.
//!
//! Each server is a process of its own that serves the same two file systems. Within a round all servers take their
//! turn, in an order that rotates; medians over rounds are compared. Turns on a busy machine are left out of the medians
//! where there are quiet ones. A server that fails is reported as failed.

mod cpu;
mod device;
mod report;
mod rows;
mod run;
mod servers;
mod tables;
mod uring;
mod watchdog;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser, Debug)]
#[command(name = "xfuse-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand, Debug)]
enum Sub {
    /// One server (used by the benchmark itself).
    #[command(hide = true)]
    Serve(servers::ServeArgs),
    /// The other end of a pipe (used by the benchmark itself).
    #[command(hide = true)]
    Echo(rows::EchoArgs),
}

/// What to run.
#[derive(clap::Args, Debug)]
struct Options {
    /// Less of everything: under three minutes, for a first look.
    #[arg(long)]
    quick: bool,
    /// Directory for mounts and logs.
    #[arg(long, default_value = "bench-out/xfuse")]
    dir: PathBuf,
    /// Where the table, JSON and plot go.
    #[arg(long, default_value = "bench-out/xfuse/results")]
    results: PathBuf,
    /// Most rounds (default 5, with --quick 3). Fewer if the time is over before.
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds within which to end (default 720, with --quick 150); the first round is always completed.
    #[arg(long)]
    seconds: Option<u64>,
    /// Only rows whose name contains this.
    #[arg(long)]
    rows: Option<String>,
    /// Only these servers.
    #[arg(long, value_delimiter = ',')]
    servers: Vec<String>,
    /// Files of the metadata rows (default 10000, with --quick 2000).
    #[arg(long)]
    files: Option<u32>,
}

impl Options {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 })
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { 150 } else { 720 }))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Sub::Serve(args)) => servers::serve(args),
        Some(Sub::Echo(args)) => rows::echo(args),
        None => run::run(&cli.options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xfuse-bench: {message}");
            ExitCode::FAILURE
        }
    }
}
