//! The order of the run: rounds, turns, sections, and how busy the machine was meanwhile.

use crate::Options;
use crate::cpu::{self, Pair, Ticks};
use crate::report::{About, Report};
use crate::rows::{self, Plan, Section};
use crate::servers::{self, Running, Setup, VARIANTS, Variant};
use crate::uring;
use crate::watchdog::Watchdog;
use rustix::mount::{MountFlags, MountPropagationFlags};
use std::path::Path;
use std::time::{Duration, Instant};

/// A section counts as quiet if this share of the machine was idle before it,
const QUIET: f64 = 0.9;
/// and others used no more than this share of it meanwhile.
const FOREIGN: f64 = 0.1;

/// The whole benchmark.
///
/// # Errors
/// When it cannot start or write its results. Failures of servers are results.
pub fn run(options: &Options) -> Result<(), String> {
    let started = Instant::now();
    let setup = prepare(&options.dir)?;
    let plan = plan(options, &setup)?;
    let variants = chosen(&options.servers)?;
    let sections = filtered(rows::sections(&plan), options.rows.as_deref());
    let baselines = options.rows.as_ref().is_none_or(|part| "B0".contains(part.as_str()));
    if sections.is_empty() && !baselines {
        return Err("no row has a name like that".into());
    }
    let _uring = variants.iter().any(Variant::wants_uring).then(uring::Enabled::ask);
    let mut report = Report::new(about(&plan));
    let stage = Stage { setup: &setup, plan: &plan, watchdog: Watchdog::start() };
    let mut longest = Duration::ZERO;
    for round in 0..options.rounds() {
        let round_started = Instant::now();
        if round > 0 && started.elapsed() + longest > options.time() {
            eprintln!("the time is over after {round} rounds");
            break;
        }
        let idle = wait_for_quiet(options.quick);
        if baselines {
            eprintln!("round {}: baselines", round + 1);
            for (name, unit, result) in rows::run_baselines(&plan, &setup.mountpoint) {
                report.baseline(name, unit, idle >= QUIET, result);
            }
        }
        for turn in 0..variants.len() {
            let variant = variants[(turn + round as usize) % variants.len()];
            eprintln!("round {}: {}", round + 1, variant.name);
            take_turn(variant, &sections, &stage, &mut report);
        }
        longest = longest.max(round_started.elapsed());
        report.rounds += 1;
    }
    report.write(&options.results)
}

/// What a turn needs.
struct Stage<'a> {
    setup: &'a Setup,
    plan: &'a Plan,
    watchdog: Watchdog,
}

fn take_turn(variant: Variant, sections: &[Section], stage: &Stage<'_>, report: &mut Report) {
    let mut idle = wait_for_quiet(stage.plan.brief);
    for section in sections.iter().filter(|section| variant.takes_part(section)) {
        let (ticks, own) = (Ticks::now(), cpu::own_time());
        let served = run_section(variant, section, stage, report);
        let now = Ticks::now();
        let accounted = (cpu::own_time() - own) + served;
        let others = now.busy_time(&ticks).saturating_sub(accounted).as_secs_f64();
        let foreign = others / now.whole_time(&ticks).as_secs_f64().max(0.01);
        report.end_section(variant, section.title, idle, foreign, idle >= QUIET && foreign <= FOREIGN);
        idle = cpu::idle_share(Duration::from_millis(100));
    }
}

/// Measures all rows of a section; returns the CPU time that the server used.
fn run_section(variant: Variant, section: &Section, stage: &Stage<'_>, report: &mut Report) -> Duration {
    let Stage { setup, plan, watchdog } = stage;
    let server = section.cpu.map_err(str::to_owned).and_then(|cpu| {
        let server = Running::start(variant, section.files, cpu, setup, watchdog)?;
        rows::prepare(section, &server, plan)?;
        Ok(server)
    });
    let server = match server {
        Ok(server) => server,
        Err(error) => {
            eprintln!("  {}: {error}", section.title);
            section.rows.iter().for_each(|row| report.add(row, variant, Err(error.clone())));
            return Duration::ZERO;
        }
    };
    let mut dead: Option<String> = None;
    for row in &section.rows {
        let result = dead.clone().map_or_else(|| rows::measure(row, &server, plan), Err);
        if let (Err(error), None) = (&result, &dead) {
            eprintln!("  {}: {error}", row.name);
            // A server that is gone fails the rest at once, instead of with each row's own confusion.
            dead = server.end_said().map(|said| format!("the server has ended: {said}"));
        }
        report.add(row, variant, result);
    }
    server.cpu_time()
}

/// Waits for a quiet moment, but not for long; returns the share of the machine that is idle.
fn wait_for_quiet(quick: bool) -> f64 {
    let patience = Duration::from_secs(if quick { 1 } else { 3 });
    let started = Instant::now();
    loop {
        let share = cpu::idle_share(Duration::from_millis(250));
        if share >= QUIET || started.elapsed() > patience {
            return share;
        }
    }
}

fn plan(options: &Options, setup: &Setup) -> Result<Plan, String> {
    let quick = options.quick;
    Ok(Plan {
        moment: Duration::from_millis(if quick { 50 } else { 120 }),
        long_moment: Duration::from_millis(if quick { 250 } else { 500 }),
        files: options.files.unwrap_or(if quick { 2000 } else { 10_000 }),
        bytes: if quick { 32 << 20 } else { 128 << 20 },
        brief: quick,
        cpus: Pair::choose()?,
        backing: setup.backing.clone(),
    })
}

fn chosen(names: &[String]) -> Result<Vec<Variant>, String> {
    if names.is_empty() {
        return Ok(VARIANTS.to_vec());
    }
    let known = || Variant::all().map(|variant| variant.name).collect::<Vec<_>>().join(", ");
    names
        .iter()
        .map(|name| Variant::find(name).ok_or_else(|| format!("no server {name}; there are {}", known())))
        .collect()
}

fn filtered(sections: Vec<Section>, part: Option<&str>) -> Vec<Section> {
    let mut sections = sections;
    for section in &mut sections {
        section.rows.retain(|row| part.is_none_or(|part| row.name.contains(part)));
    }
    sections.retain(|section| !section.rows.is_empty());
    sections
}

/// Directories, a mount namespace of our own, a tmpfs, and the C program.
fn prepare(dir: &Path) -> Result<Setup, String> {
    let text = |error: std::io::Error| format!("{}: {error}", dir.display());
    let (mountpoint, backing) = (dir.join("mnt"), dir.join("tree"));
    for path in [dir, &mountpoint, &backing] {
        std::fs::create_dir_all(path).map_err(text)?;
    }
    let dir = dir.canonicalize().map_err(text)?;
    // Whatever happens, no mount outlives this process.
    private_mounts().map_err(|error| format!("a mount namespace: {error} (run as root)"))?;
    let backing = dir.join("tree");
    rustix::mount::mount("xfuse-bench", &backing, "tmpfs", MountFlags::empty(), c"mode=755")
        .map_err(|error| format!("a tmpfs at {}: {error}", backing.display()))?;
    let libfuse = servers::build_libfuse(&dir).inspect_err(|error| eprintln!("libfuse: {error}"));
    Ok(Setup { mountpoint: dir.join("mnt"), backing, libfuse, log: dir.join("server.log") })
}

fn private_mounts() -> rustix::io::Result<()> {
    // SAFETY: no other thread runs yet, and only the view of mounts changes.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

fn about(plan: &Plan) -> About {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    About {
        kernel: read("/proc/sys/kernel/osrelease"),
        cpu: model.map_or_else(String::new, |(_, name)| name.to_owned()),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        libfuse: servers::libfuse_version(),
        files: plan.files,
        sequential_mib: plan.bytes >> 20,
        moment_ms: plan.moment.as_millis() as u64,
    }
}
