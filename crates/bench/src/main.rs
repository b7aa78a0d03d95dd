//! `valor-bench`: the same work on Valor, MooseFS and the bare local disk, in one run on one machine.
//!
//! Systems take turns within each round, so that a noisy minute hits all of them; medians over rounds are compared.

mod metadata;
mod process;
mod recovery;
mod report;
mod systems;
mod work;

use clap::{Parser, Subcommand};
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;
use systems::{System, SystemKind};
use work::Row;

#[derive(Parser, Debug)]
#[command(name = "valor-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand, Debug)]
enum Sub {
    /// One process of a metadata row (used by the benchmark itself).
    #[command(hide = true)]
    MetaWorker(metadata::WorkerArgs),
    /// Kill one of three storage services under load: stalls, throughput, bytes moved.
    Recovery(recovery::Options),
}

/// What to run.
#[derive(clap::Args, Debug)]
struct Options {
    /// Directory for data of all systems and for results; on the disk to be measured.
    #[arg(long, default_value = "bench-out")]
    dir: PathBuf,
    /// The `valor` binary; built by `cargo build --release`.
    #[arg(long, default_value = "target/release/valor")]
    valor: PathBuf,
    /// Rounds; the median of them counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each timed random I/O row.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// MiB of each sequential file.
    #[arg(long, default_value_t = 512)]
    size_mib: u32,
    /// Files of each metadata row.
    #[arg(long, default_value_t = 10_000)]
    files: u32,
    /// Tree that `cp -a` copies.
    #[arg(long)]
    tree: Option<PathBuf>,
    /// Only rows whose name contains this.
    #[arg(long)]
    rows: Option<String>,
    /// Only these systems (local, valor-1, valor-3, moosefs-1, moosefs-3).
    #[arg(long, value_delimiter = ',')]
    systems: Vec<SystemKind>,
    /// Where the table, JSON and plot go.
    #[arg(long, default_value = "bench-out/results")]
    results: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Sub::MetaWorker(args)) => metadata::worker(&args),
        Some(Sub::Recovery(options)) => recovery::measure(&options),
        None => run(&cli.options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("valor-bench: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Waits until nothing else seems to run, but not for ever; returns the share of idle processors.
fn wait_for_quiet() -> f64 {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
    let started = std::time::Instant::now();
    loop {
        let share = process::idle_share();
        if share >= 0.9 || started.elapsed() > PATIENCE {
            if share < 0.9 {
                eprintln!("the machine is busy ({:.0} % idle): these figures say little", share * 100.0);
            }
            return share;
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let kinds = if options.systems.is_empty() { SystemKind::ALL.to_vec() } else { options.systems.clone() };
    std::fs::create_dir_all(&options.dir).map_err(|error| format!("{}: {error}", options.dir.display()))?;
    let dir = options.dir.canonicalize().map_err(|error| error.to_string())?;
    let tree = options.tree.clone().unwrap_or_else(work::default_tree);
    let rows: Vec<Row> = work::rows(options.seconds, options.size_mib, options.files, &tree)
        .into_iter()
        .filter(|row| options.rows.as_ref().is_none_or(|part| row.name.contains(part.as_str())))
        .collect();
    if rows.is_empty() {
        return Err("no row has a name like that".into());
    }
    let mut report = Report::new(&kinds, &rows);
    for round in 0..options.rounds {
        for turn in 0..kinds.len() {
            let kind = kinds[(turn + round as usize) % kinds.len()];
            eprintln!("round {}/{}: {}", round + 1, options.rounds, kind.name());
            report.quiet(wait_for_quiet());
            let system = System::start(kind, &dir, &options.valor)?;
            report.idle(kind, &system.resources(), &system.mount_resources());
            for row in &rows {
                let before = system.resources();
                let value = work::measure(row, &system.root());
                let after = system.resources();
                match value {
                    Ok(value) => {
                        eprintln!("  {:34} {value:>12.1} {}", row.name, row.unit);
                        report.add(
                            kind,
                            row,
                            value,
                            after.cpu_seconds - before.cpu_seconds,
                            after.resident_bytes,
                        );
                    }
                    Err(error) => {
                        eprintln!("  {:34} failed: {error}", row.name);
                        report.failed(kind, row, error);
                    }
                }
            }
            system.stop()?;
        }
    }
    report.write(&options.results)
}
