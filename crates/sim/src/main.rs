//! `valor-sim`: runs seeds. A process runs one seed, so that nothing of an earlier one is left in it: the sweep starts
//! itself for each.

mod fixed_random;

use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use valor_env::mutation::Mutation;
use valor_sim::scale::Scale;
use valor_sim::{Options, Outcome, run};

const USAGE: &str = "usage: valor-sim run SEED [--print] [--log FILTER] [--calm] [--short] [--mutation NAME]
       valor-sim sweep [--seed FIRST] [--seeds COUNT] [--minutes MINUTES] [--jobs JOBS]
       valor-sim mutations [--seed FIRST] [--seeds COUNT]
       valor-sim scale [--nodes NODES] [--chains CHAINS] [--replicas COUNT] [--seconds SECONDS]
                       [--failures SECONDS] [--seed SEED] [--fast]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("run") => run_one(&args[1..]),
        Some("sweep") => sweep(&args[1..]),
        Some("mutations") => mutations(&args[1..]),
        Some("scale") => scale(&args[1..]),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

/// A flag's value.
fn value<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    let at = args.iter().position(|arg| arg == flag)?;
    args.get(at + 1).map(String::as_str)
}

fn number(args: &[String], flag: &str, default: u64) -> Result<u64, String> {
    value(args, flag)
        .map_or(Ok(default), |text| text.parse().map_err(|_| format!("{flag} {text}: not a number\n{USAGE}")))
}

fn run_one(args: &[String]) -> Result<bool, String> {
    let seed = args.first().and_then(|seed| seed.parse().ok()).ok_or(USAGE)?;
    fixed_random::seed(seed);
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    if let Some(filter) = value(args, "--log") {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_timer(SimTime)
            .with_ansi(false)
            .init();
    }
    if let Some(name) = value(args, "--mutation") {
        break_rule(name)?;
    }
    let begun = Instant::now();
    let outcome = run(seed, Options { print: has("--print"), calm: has("--calm"), short: has("--short") });
    print(&outcome, begun.elapsed());
    Ok(outcome.violations.is_empty())
}

/// The manager's CPU time in a large cluster.
fn scale(args: &[String]) -> Result<bool, String> {
    let small = |flag, default| {
        let number = number(args, flag, default)?;
        u32::try_from(number).map_err(|_| format!("{flag} {number}: too large"))
    };
    let fast = args.iter().any(|arg| arg == "--fast");
    let scale = Scale {
        nodes: small("--nodes", 1000)?,
        chains: small("--chains", 100_000)?,
        replicas: small("--replicas", 3)?,
        time: Duration::from_secs(number(args, "--seconds", 60)?.max(1)),
        fast,
        failures: Duration::from_secs(number(args, "--failures", 10)?),
        seed: number(args, "--seed", 1)?,
    };
    fixed_random::seed(scale.seed);
    println!("{}", valor_sim::scale::run(scale)?);
    Ok(true)
}

#[cfg(feature = "mutation")]
fn break_rule(name: &str) -> Result<(), String> {
    let mutation = Mutation::ALL.iter().find(|mutation| mutation.name() == name);
    valor_env::mutation::set(Some(*mutation.ok_or_else(|| format!("no mutation {name}"))?));
    Ok(())
}

#[cfg(not(feature = "mutation"))]
fn break_rule(_: &str) -> Result<(), String> {
    Err("built without the feature `mutation`".to_owned())
}

/// For each broken rule, the first seeds that notice it: a row of the table in `docs/testing.md`.
fn mutations(args: &[String]) -> Result<bool, String> {
    break_rule(Mutation::ALL[0].name())?;
    let first = number(args, "--seed", 1)?;
    let seeds = number(args, "--seeds", 50)?;
    let exe = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut all = true;
    for mutation in Mutation::ALL.iter().filter(|m| value(args, "--only").is_none_or(|only| only == m.name()))
    {
        let (next, caught) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let enough =
                            caught.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len() >= 3;
                        if index >= seeds || enough {
                            return;
                        }
                        let seed = (first + index).to_string();
                        let run =
                            Command::new(&exe).args(["run", &seed, "--mutation", mutation.name()]).output();
                        let Ok(output) = run else { return };
                        if !output.status.success() {
                            let text = String::from_utf8_lossy(&output.stdout);
                            let why = text.lines().nth(1).unwrap_or("died").trim().to_owned();
                            let mut caught = caught.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            caught.push((first + index, why));
                        }
                    }
                });
            }
        });
        let mut caught = caught.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        caught.sort();
        let ran = next.into_inner().min(seeds);
        let found: Vec<String> = caught.iter().map(|(seed, _)| seed.to_string()).collect();
        println!("| `{}` | {} | {ran} |", mutation.name(), found.join(", "));
        if let Some((_, why)) = caught.first() {
            println!("    {}", why.chars().take(200).collect::<String>());
        }
        all &= !caught.is_empty();
    }
    Ok(all)
}

/// Simulated time since the runtime's start, as log lines show it.
struct SimTime;

impl tracing_subscriber::fmt::time::FormatTime for SimTime {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        thread_local! {
            static START: std::cell::OnceCell<tokio::time::Instant> = const { std::cell::OnceCell::new() };
        }
        let elapsed = START.with(|start| start.get_or_init(tokio::time::Instant::now).elapsed());
        write!(w, "{:>10.3}", elapsed.as_secs_f64())
    }
}

fn print(outcome: &Outcome, took: Duration) {
    let (done, failed) = outcome.operations;
    println!(
        "seed {} hash {:016x} entries {} simulated {:.1} s took {:.2} s operations {done} failed {failed}",
        outcome.seed,
        outcome.hash,
        outcome.entries,
        outcome.time.as_secs_f64(),
        took.as_secs_f64()
    );
    for violation in &outcome.violations {
        println!("  {violation}");
    }
}

/// Runs seeds in processes of their own until the count or the time is used up.
fn sweep(args: &[String]) -> Result<bool, String> {
    let first = match value(args, "--seed") {
        Some(_) => number(args, "--seed", 0)?,
        None => std::process::id().into(),
    };
    let seeds = number(args, "--seeds", u64::MAX)?;
    let minutes = number(args, "--minutes", if seeds == u64::MAX { 1 } else { u64::MAX / 120 })?;
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let jobs = number(args, "--jobs", cores)?.max(1);
    let limit = Duration::from_secs(minutes * 60);
    let (begun, next) = (Instant::now(), AtomicU64::new(0));
    let (ran, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let exe = std::env::current_exe().map_err(|error| error.to_string())?;
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= seeds || begun.elapsed() >= limit {
                        return;
                    }
                    let seed = first.wrapping_add(index);
                    let output =
                        Command::new(&exe).args(["run", &seed.to_string()]).stderr(Stdio::piped()).output();
                    let count = ran.fetch_add(1, Ordering::Relaxed) + 1;
                    let (good, text) = match output {
                        Ok(output) => {
                            let both = [output.stdout, output.stderr].concat();
                            (output.status.success(), String::from_utf8_lossy(&both).into_owned())
                        }
                        Err(error) => (false, error.to_string()),
                    };
                    if !good {
                        println!("FAILED {text}");
                        failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(seed);
                    } else if count.is_multiple_of(50) {
                        println!("{count} seeds in {:.0} s", begun.elapsed().as_secs_f64());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let ran = ran.into_inner();
    println!(
        "{ran} seeds from {first} in {:.0} s, {} failed {failed:?}",
        begun.elapsed().as_secs_f64(),
        failed.len()
    );
    Ok(failed.is_empty())
}
