//! Developer commands: `cargo xtask test | tidy | sim | bench | xfuse-bench`.

mod tidy;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

const USAGE: &str = "usage: cargo xtask <command>

  test    everything CI runs: packages, formatting, lints, tidy, unit tests, tests on real mounts
  tidy    rules over sources and crate dependencies
  sim     whole clusters from seeds: [--seeds COUNT] [--minutes MINUTES] [--seed FIRST], or
          `sim run SEED [--print] [--log FILTER]` for one, or `sim mutations [--seeds COUNT]`, or
          `sim scale [--nodes NODES] [--chains CHAINS] [--seconds SECONDS]` (docs/testing.md)
  bench   compare with MooseFS and the local disk (arguments follow; `--help` lists them)
  xfuse-bench   compare xfuse with libfuse, fuser and fuse-backend-rs (likewise)";

/// Debian packages that tests use, with a file that shows that they are there.
const PACKAGES: &[(&str, &str)] = &[
    ("fuse3", "/usr/bin/fusermount3"),
    ("e2fsprogs", "/usr/sbin/mkfs.ext4"),
    ("util-linux", "/usr/sbin/losetup"),
    ("diffutils", "/usr/bin/diff"),
    ("iproute2", "/usr/sbin/ip"),
    ("nftables", "/usr/sbin/nft"),
    ("linux-libc-dev", "/usr/include/linux/fuse.h"),
];

/// How long tests run fresh seeds of the simulator.
const SIM_MINUTES: &str = "5";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("test") => test(&args[1..]),
        Some("tidy") => tidy::run(),
        Some("sim") => sim(&args[1..]),
        Some("bench") => bench(&args[1..]),
        Some("xfuse-bench") => xfuse_bench(&args[1..]),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn refs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn test(filter: &[String]) -> Result<(), String> {
    install(PACKAGES)?;
    step("formatting", || cargo(&["fmt", "--all", "--check"]))?;
    step("lints", || cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    step("tidy", tidy::run)?;
    step("unit and component tests", || {
        cargo(&[&["test", "--workspace", "--exclude", "valor"], &refs(filter)[..]].concat())?;
        cargo(&[&["test", "--workspace", "--bin", "valor"], &refs(filter)[..]].concat())
    })?;
    step("seeds of the simulator that no earlier commit has run", || {
        sim(&["--seed".into(), fresh_seed().to_string(), "--minutes".into(), SIM_MINUTES.into()])
    })?;
    // Tests on real mounts move hundreds of megabytes: they run optimised, as users do.
    step("tests of the whole system", || {
        cargo(&[&["test", "--release", "-p", "valor", "--test", "*"], &refs(filter)[..]].concat())
    })
}

/// Where the seeds of this commit begin: new with every commit, and the same for everybody who tests it.
fn fresh_seed() -> u32 {
    let head = Command::new("git").args(["rev-parse", "HEAD"]).output();
    let head = head.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    head.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_else(std::process::id)
}

fn step(name: &str, run: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    println!("=== {name}");
    let started = Instant::now();
    run().map_err(|error| format!("{name}: {error}"))?;
    println!("=== {name}: passed in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn install(packages: &[(&str, &str)]) -> Result<(), String> {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("=== installing {}", missing.join(" "));
    run(Command::new("apt-get").args(["update", "-q"]))?;
    run(Command::new("apt-get").args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing))
        .map_err(|error| format!("{error}; install them by hand: apt-get install {}", missing.join(" ")))
}

fn cargo(args: &[&str]) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo).args(args))
}

fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}")) }
}

/// Runs seeds of the simulator, fresh ones unless told otherwise; failing ones are printed.
fn sim(args: &[String]) -> Result<(), String> {
    let args = refs(args);
    let base = ["run", "--release", "--quiet", "-p", "valor-sim"];
    match args.first() {
        Some(&"mutations") => cargo(&[&base[..], &["--features", "mutation", "--"], &args].concat()),
        Some(&("run" | "scale")) => cargo(&[&base[..], &["--"], &args].concat()),
        _ => cargo(&[&base[..], &["--", "sweep"], &args].concat()),
    }
}

/// Programs that the benchmark drives.
const BENCH_PACKAGES: &[(&str, &str)] = &[
    ("fio", "/usr/bin/fio"),
    ("moosefs-master", "/usr/sbin/mfsmaster"),
    ("moosefs-chunkserver", "/usr/sbin/mfschunkserver"),
    ("fonts-dejavu-core", "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"),
    ("fuse3", "/usr/bin/fusermount3"),
];

fn bench(args: &[String]) -> Result<(), String> {
    install(BENCH_PACKAGES)?;
    cargo(&["build", "--release", "-p", "valor", "-p", "valor-bench"])?;
    cargo(&[&["run", "--release", "-p", "valor-bench", "--"], &refs(args)[..]].concat())
}

/// What the libfuse server is built with, and the plot's font.
const XFUSE_BENCH_PACKAGES: &[(&str, &str)] = &[
    ("libfuse3-dev", "/usr/include/fuse3/fuse_lowlevel.h"),
    ("pkg-config", "/usr/bin/pkg-config"),
    ("gcc", "/usr/bin/cc"),
    ("libc6-dev", "/usr/include/stdio.h"),
    ("fonts-dejavu-core", "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"),
];

fn xfuse_bench(args: &[String]) -> Result<(), String> {
    install(XFUSE_BENCH_PACKAGES)?;
    cargo(&[&["run", "--release", "-p", "xfuse-bench", "--"], &refs(args)[..]].concat())
}
