//! The rows of the benchmark: their order, and what one measurement of a row is.

mod baseline;
mod clients;
mod latency;
mod passthrough;
mod rates;

pub use baseline::{EchoArgs, PIPE_SAME, echo, run as run_baselines};

use crate::cpu::Pair;
use crate::servers::{Files, Running};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// How much is done for one measurement.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Length of timed measurements.
    pub moment: Duration,
    /// Length of those at a fixed rate, where little happens.
    pub long_moment: Duration,
    /// Files of the metadata rows.
    pub files: u32,
    /// Bytes of the sequential rows, all clients together.
    pub bytes: u64,
    /// Whether rows that only refine others are left out.
    pub brief: bool,
    pub cpus: Pair,
    /// The tmpfs tree that servers pass through.
    pub backing: PathBuf,
}

/// What a row's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Microseconds, a median.
    Us,
    /// Operations per second.
    OpsPerSecond,
    /// MiB per second.
    MibPerSecond,
    /// Milliseconds of the server's CPU time per second.
    CpuMsPerSecond,
    /// How many times slower.
    Times,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Us => "µs",
            Unit::OpsPerSecond => "op/s",
            Unit::MibPerSecond => "MiB/s",
            Unit::CpuMsPerSecond => "ms/s",
            Unit::Times => "×",
        }
    }

    pub fn higher_is_better(self) -> bool {
        matches!(self, Unit::OpsPerSecond | Unit::MibPerSecond)
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Sample {
    /// In the row's unit.
    pub value: f64,
    /// Latency of the operations, µs.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// CPU time per operation, µs; per MiB in sequential rows; per second (ms) in rows at a fixed rate.
    pub server_cpu: Option<f64>,
    pub client_cpu: Option<f64>,
    /// How often per second the server's threads went to sleep.
    pub sleeps: Option<f64>,
}

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    pub unit: Unit,
    work: Work,
}

#[derive(Debug, Clone, Copy)]
enum Work {
    Latency { op: latency::Op, gap: Duration, no_sleep: bool },
    Metadata { step: passthrough::Step, clients: u32 },
    Random { write: bool, clients: u32 },
    Sequential { write: bool, direct: bool, block: usize, clients: u32 },
    Rate { per_second: u32 },
    Neighbour { on_other: bool },
}

/// Rows that one mount of a server serves.
#[derive(Debug, Clone)]
pub struct Section {
    pub title: &'static str,
    pub files: Files,
    /// Where the server runs: on one CPU, or where the scheduler likes. An error if the machine lacks it.
    pub cpu: Result<Option<usize>, &'static str>,
    pub rows: Vec<Row>,
}

/// The section where server and client share a CPU.
pub const SAME_CPU: &str = "B1 same CPU";

/// All rows but the baselines.
pub fn sections(plan: &Plan) -> Vec<Section> {
    let same = latency_rows("same CPU", false, plan.brief);
    let other = latency_rows("other CPU", true, plan.brief);
    let section = |title, files, cpu, rows| Section { title, files, cpu, rows };
    vec![
        section(SAME_CPU, Files::Memory, Ok(Some(plan.cpus.client)), same),
        section("B1 other CPU", Files::Memory, plan.cpus.other.map(Some).ok_or("needs two CPUs"), other),
        section("B2", Files::Tree, Ok(None), tree_rows()),
        section("B3, B5", Files::Memory, Ok(None), load_rows(plan)),
    ]
}

fn latency_rows(place: &str, crossing: bool, brief: bool) -> Vec<Row> {
    use latency::Op;
    let row = |op: Op, gap_us: u64, no_sleep: bool| {
        let gap = if gap_us > 0 { format!(", gap {gap_us} µs") } else { String::new() };
        let qos = if no_sleep { ", PM QoS" } else { "" };
        Row {
            name: format!("B1 {place}: {}{gap}{qos}", op.name()),
            unit: Unit::Us,
            work: Work::Latency { op, gap: Duration::from_micros(gap_us), no_sleep },
        }
    };
    let mut rows: Vec<Row> = Op::ALL.into_iter().map(|op| row(op, 0, false)).collect();
    let gaps: &[u64] = if brief { &[100] } else { &[20, 100, 1000] };
    rows.extend(gaps.iter().map(|gap| row(Op::Read, *gap, false)));
    if crossing {
        rows.extend(Op::ALL.into_iter().map(|op| row(op, 0, true)));
        rows.extend(gaps.iter().filter(|_| !brief).map(|gap| row(Op::Read, *gap, true)));
    }
    rows
}

fn tree_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for clients in [1, 8] {
        for step in passthrough::Step::ORDER {
            rows.push(Row {
                name: format!("B2 {} x{clients}", step.name()),
                unit: Unit::OpsPerSecond,
                work: Work::Metadata { step, clients },
            });
        }
        for write in [false, true] {
            rows.push(Row {
                name: format!("B2 random {} 4 KiB x{clients}", verb(write)),
                unit: Unit::OpsPerSecond,
                work: Work::Random { write, clients },
            });
        }
        for (block, size) in [(128 << 10, "128 KiB"), (1 << 20, "1 MiB")] {
            for direct in [false, true] {
                for write in [true, false] {
                    let kind = if direct { "direct" } else { "buffered" };
                    rows.push(Row {
                        name: format!("B2 sequential {} {size} {kind} x{clients}", verb(write)),
                        unit: Unit::MibPerSecond,
                        work: Work::Sequential { write, direct, block, clients },
                    });
                }
            }
        }
    }
    rows
}

fn verb(write: bool) -> &'static str {
    if write { "write" } else { "read" }
}

fn load_rows(plan: &Plan) -> Vec<Row> {
    let mut rows: Vec<Row> = [(0, "idle"), (1000, "1k op/s"), (10_000, "10k op/s")]
        .into_iter()
        .map(|(per_second, name)| Row {
            name: format!("B3 server CPU, {name}"),
            unit: Unit::CpuMsPerSecond,
            work: Work::Rate { per_second },
        })
        .collect();
    for (on_other, name) in [(false, "client's"), (true, "other")] {
        if !on_other || plan.cpus.other.is_some() {
            rows.push(Row {
                name: format!("B5 slowdown of a neighbour on the {name} CPU"),
                unit: Unit::Times,
                work: Work::Neighbour { on_other },
            });
        }
    }
    rows
}

/// What a section needs on its backing tree.
///
/// # Errors
/// When the tree cannot be written.
pub fn prepare(section: &Section, server: &Running<'_>, plan: &Plan) -> Result<(), String> {
    match section.files {
        Files::Memory => Ok(()),
        Files::Tree => {
            // Without it read-ahead stays at the kernel's 128 KiB for all.
            if let Err(error) = server.raise_readahead() {
                eprintln!("    read-ahead not raised: {error}");
            }
            passthrough::prepare(plan)
        }
    }
}

/// Measures a row once.
///
/// # Errors
/// When the server fails; such a measurement has no value.
pub fn measure(row: &Row, server: &Running<'_>, plan: &Plan) -> Result<Sample, String> {
    let _watch = server.watch(Duration::from_secs(30));
    match row.work {
        Work::Latency { op, gap, no_sleep } => latency::measure(op, gap, no_sleep, server, plan),
        Work::Metadata { step, clients } => passthrough::metadata(step, clients, server, plan),
        Work::Random { write, clients } => passthrough::random(write, clients, server, plan),
        Work::Sequential { write, direct, block, clients } => {
            passthrough::sequential(write, direct, block, clients, server, plan)
        }
        Work::Rate { per_second } => rates::rate(per_second, server, plan),
        Work::Neighbour { on_other } => rates::neighbour(on_other, server, plan),
    }
}

/// A sorted list's element at a share of its length.
fn quantile(sorted: &[u32], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get(((sorted.len() as f64 * share) as usize).min(last)).map(|ns| f64::from(*ns) / 1000.0)
}

/// Median and 99th percentile in µs of latencies in ns.
fn quantiles(mut latencies: Vec<u32>) -> (Option<f64>, Option<f64>) {
    latencies.sort_unstable();
    (quantile(&latencies, 0.5), quantile(&latencies, 0.99))
}

fn nanos(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX)
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            moment: Duration::ZERO,
            long_moment: Duration::ZERO,
            files: 0,
            bytes: 0,
            brief: false,
            cpus: Pair { client: 0, other: Some(1) },
            backing: PathBuf::new(),
        }
    }

    #[test]
    fn rows_have_names_of_their_own() {
        let names: Vec<String> =
            sections(&plan()).into_iter().flat_map(|section| section.rows).map(|row| row.name).collect();
        let unique: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        assert!(names.len() > 40, "{}", names.len());
    }

    #[test]
    fn quantiles_of_few_and_none() {
        assert_eq!(quantiles(vec![]), (None, None));
        assert_eq!(quantiles(vec![2000, 1000, 3000]), (Some(2.0), Some(3.0)));
    }
}
