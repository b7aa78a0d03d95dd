//! `valor-bench recovery`: one of three storage services dies under a steady load and comes back.
//!
//! Threads read 4 KiB at random and write 1 MiB at random, past the page cache. The service is stopped (as a machine that has
//! lost its power looks to others), stays away for a while, is killed, and its supervisor starts it again. Printed: the
//! longest time a program waited, throughput in each phase, and how many bytes recovery moved for the bytes that were stale.

use crate::process::{matching, run};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const READ: usize = 4 << 10;
const WRITE: usize = 1 << 20;
const ALIGN: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(600);

/// Options of `valor-bench recovery`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Directory for the cluster; on the disk to be measured.
    #[arg(long, default_value = "bench-out")]
    dir: PathBuf,
    /// The `valor` binary.
    #[arg(long, default_value = "target/release/valor")]
    valor: PathBuf,
    /// Seconds before the failure.
    #[arg(long, default_value_t = 10)]
    before: u64,
    /// Seconds for which the service is away.
    #[arg(long, default_value_t = 10)]
    away: u64,
    /// Threads that read.
    #[arg(long, default_value_t = 4)]
    readers: u64,
    /// Threads that write.
    #[arg(long, default_value_t = 1)]
    writers: u64,
    /// MiB of the file that is read, and of the one that is written.
    #[arg(long, default_value_t = 512)]
    size_mib: u64,
    /// Limit of recovery in MiB per second and server; 0 = none.
    #[arg(long, default_value_t = 0)]
    limit_mib: u64,
    /// First of the ports for metrics.
    #[arg(long, default_value_t = 19_600)]
    metrics_port: u16,
}

/// One operation that ended.
#[derive(Clone, Copy)]
struct Done {
    at: Instant,
    took: Duration,
    write: bool,
    block: u64,
}

struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Done>>>,
    threads: Vec<std::thread::JoinHandle<Result<(), String>>>,
}

/// Runs the benchmark and prints its numbers.
///
/// # Errors
/// What went wrong.
pub fn measure(options: &Options) -> Result<(), String> {
    let dir = options.dir.join("recovery");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    std::fs::create_dir_all(dir.join("mnt")).map_err(|error| format!("{}: {error}", dir.display()))?;
    let dir = dir.canonicalize().map_err(|error| error.to_string())?;
    let mut cluster = Cluster::start(options, &dir)?;
    let result = cluster.measure(options);
    cluster.stop();
    result
}

struct Cluster {
    valor: PathBuf,
    data: PathBuf,
    mount: PathBuf,
    up: Child,
    metrics_port: u16,
}

impl Cluster {
    fn start(options: &Options, dir: &Path) -> Result<Self, String> {
        let (data, mount) = (dir.join("data"), dir.join("mnt"));
        let mut up = Command::new(&options.valor)
            .arg("up")
            .arg(&mount)
            .arg("--data-dir")
            .arg(&data)
            .args(["--storage-nodes", "3", "--replicas", "3", "--sync", "process"])
            .args(["--metrics-port", &options.metrics_port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                format!("{}: {error}; build it first: cargo build --release", options.valor.display())
            })?;
        let mut lines = BufReader::new(up.stdout.take().ok_or("no output")?);
        let mut said = String::new();
        while !said.contains("stop: ") {
            if lines.read_line(&mut said).map_err(|error| error.to_string())? == 0 {
                return Err(format!("valor up ended: {said}"));
            }
        }
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(Cluster { valor: options.valor.clone(), data, mount, up, metrics_port: options.metrics_port })
    }

    fn stop(&mut self) {
        let _ = run("kill", &[&self.up.id().to_string()]);
        let deadline = Instant::now() + Duration::from_secs(60);
        while matches!(self.up.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.up.kill();
        let _ = self.up.wait();
    }

    fn admin(&self, args: &[&str]) -> Result<String, String> {
        let data = self.data.display().to_string();
        run(&self.valor.display().to_string(), &[&["admin", "--data-dir", &data], args].concat())
    }

    /// How many chains have this status.
    fn chains(&self, status: &str) -> Result<usize, String> {
        let list: Value = serde_json::from_str(&self.admin(&["list-chains", "--json"])?)
            .map_err(|error| format!("list-chains: {error}"))?;
        Ok(list
            .as_array()
            .map_or(0, |chains| chains.iter().filter(|chain| chain["Status"] == status).count()))
    }

    fn wait_for(&self, what: &str, ready: impl Fn(&Self) -> Result<bool, String>) -> Result<Instant, String> {
        let deadline = Instant::now() + PATIENCE;
        while !ready(self).unwrap_or(false) {
            if Instant::now() >= deadline {
                return Err(format!("gave up waiting for {what}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(Instant::now())
    }

    /// Sum of a counter over the storage services that stay.
    fn counter(&self, name: &str) -> f64 {
        [1, 3].iter().filter_map(|n| scrape(self.metrics_port + n, name)).sum()
    }

    fn measure(&mut self, options: &Options) -> Result<(), String> {
        if options.limit_mib > 0 {
            let file = self.data.join("recovery.toml");
            let text = format!("[server.sync_worker]\nmax_bytes_per_second = {}\n", options.limit_mib << 20);
            std::fs::write(&file, text).map_err(|error| error.to_string())?;
            self.admin(&["set-config", "-t", "STORAGE", "-f", &file.display().to_string()])?;
        }
        let blocks = options.size_mib * (1 << 20) / WRITE as u64;
        for name in ["reads", "writes"] {
            fill(&self.mount.join(name), blocks)?;
        }
        let load = Load::start(&self.mount, options)?;
        std::thread::sleep(Duration::from_secs(2));
        let start = Instant::now();
        std::thread::sleep(Duration::from_secs(options.before));
        let victim = self.victim()?;
        let fail = Instant::now();
        run("kill", &["-STOP", &victim.to_string()])?;
        let out = self.wait_for("chains to go on", |cluster| Ok(cluster.chains("SERVING")? == 0))?;
        while fail.elapsed() < Duration::from_secs(options.away) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let moved_before = self.counter("valor_storage_resync_bytes_total");
        let extra_before = self.counter("valor_storage_resync_extra_bytes_total");
        let back = Instant::now();
        run("kill", &["-9", &victim.to_string()])?;
        let whole = self.wait_for("recovery", |cluster| {
            Ok(cluster.chains("DEGRADED")? == 0 && cluster.chains("UNAVAILABLE")? == 0)
        })?;
        let moved = self.counter("valor_storage_resync_bytes_total") - moved_before;
        let extra = self.counter("valor_storage_resync_extra_bytes_total") - extra_before;
        std::thread::sleep(Duration::from_secs(5));
        let end = Instant::now();
        let done = load.stop()?;
        report(&done, &Times { start, fail, out, back, whole, end }, moved, extra);
        Ok(())
    }

    /// The process of the second storage service.
    fn victim(&self) -> Result<i32, String> {
        let needle = format!("--dir={}/storage-2", self.data.display());
        matching(&needle).first().map(|(pid, _)| *pid).ok_or_else(|| "no storage service".into())
    }
}

struct Times {
    start: Instant,
    fail: Instant,
    out: Instant,
    back: Instant,
    whole: Instant,
    end: Instant,
}

fn report(done: &[Done], times: &Times, moved: f64, extra: f64) {
    let rate = |from: Instant, to: Instant, write: bool| {
        let count = done.iter().filter(|d| d.write == write && d.at >= from && d.at < to).count();
        count as f64 / to.duration_since(from).as_secs_f64()
    };
    println!("{:<34} {:>10} {:>16} {:>16}", "phase", "seconds", "4 KiB reads/s", "1 MiB writes/s");
    let phases = [
        ("before", times.start, times.fail),
        ("failure until chains went on", times.fail, times.out),
        ("without the service", times.out, times.back),
        ("recovery", times.back, times.whole),
        ("after", times.whole, times.end),
    ];
    for (name, from, to) in phases {
        let seconds = to.duration_since(from).as_secs_f64();
        println!("{name:<34} {seconds:>10.1} {:>16.0} {:>16.1}", rate(from, to, false), rate(from, to, true));
    }
    for write in [false, true] {
        let share =
            rate(times.back, times.whole, write) / rate(times.start, times.fail, write).max(1e-9) * 100.0;
        println!(
            "{} during recovery: {share:.0} % of before (goal: 50 %)",
            if write { "writes" } else { "reads" }
        );
        let longest = done
            .iter()
            .filter(|d| d.write == write && d.at >= times.fail)
            .map(|d| d.took)
            .max()
            .unwrap_or_default();
        println!(
            "longest stall of a {}: {:.2} s (goal: 5 s)",
            if write { "write" } else { "read" },
            longest.as_secs_f64()
        );
    }
    // Written while the service was away: these chunks are stale when it comes back.
    let written = |from: Instant, to: Instant| -> BTreeSet<u64> {
        done.iter().filter(|d| d.write && d.at >= from && d.at < to).map(|d| d.block).collect()
    };
    let stale = written(times.fail, times.back).len() as f64 * WRITE as f64;
    let mib = |bytes: f64| bytes / (1 << 20) as f64;
    println!(
        "stale when it came back: {:.0} MiB; moved by recovery: {:.0} MiB ({:.2} of it); sent beyond what was written, by \
         updates of chunks being filled: {:.0} MiB",
        mib(stale),
        mib(moved),
        moved / stale.max(1.0),
        mib(extra)
    );
}

/// Value of a counter at a metrics port.
fn scrape(port: u16, name: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).reduce(|a, b| a + b)
}

fn fill(path: &Path, blocks: u64) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = File::create(path).map_err(failed)?;
    let block = vec![0x5a; WRITE];
    for _ in 0..blocks {
        file.write_all(&block).map_err(failed)?;
    }
    file.sync_all().map_err(failed)
}

/// Memory at a multiple of [`ALIGN`], as O_DIRECT wants it.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![0xa5; len + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Aligned { bytes, start, len }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl Load {
    fn start(mount: &Path, options: &Options) -> Result<Self, String> {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let bytes = options.size_mib << 20;
        let mut threads = Vec::new();
        for number in 0..options.readers + options.writers {
            let write = number >= options.readers;
            let path = mount.join(if write { "writes" } else { "reads" });
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            threads.push(std::thread::spawn(move || {
                own_descriptors()?;
                let file =
                    OpenOptions::new().read(true).write(write).custom_flags(libc::O_DIRECT).open(&path);
                let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
                work(&file, number, write, bytes, &stop, &done)
            }));
        }
        Ok(Load { stop, done, threads })
    }

    fn stop(self) -> Result<Vec<Done>, String> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().map_err(|_| "a thread panicked".to_owned())??;
        }
        Ok(std::mem::take(&mut *self.done.lock().map_err(|error| error.to_string())?))
    }
}

/// Gives this thread a table of file descriptors of its own. Every program that is started (`valor admin`, to see how chains
/// are) closes the copies it has got of the others' descriptors, and closing flushes, which waits for the file's writes:
/// the time when chains went on would be that of the longest write.
fn own_descriptors() -> Result<(), String> {
    // SAFETY: takes no pointers; the thread uses no descriptor that another one has opened or will open.
    match unsafe { libc::unshare(libc::CLONE_FILES) } {
        0 => Ok(()),
        _ => Err(format!("unshare: {}", std::io::Error::last_os_error())),
    }
}

fn work(
    file: &File,
    number: u64,
    write: bool,
    bytes: u64,
    stop: &AtomicBool,
    done: &Mutex<Vec<Done>>,
) -> Result<(), String> {
    let size = if write { WRITE } else { READ };
    let mut buffer = Aligned::new(size);
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while !stop.load(Ordering::SeqCst) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let block = state % (bytes / size as u64);
        let offset = block * size as u64;
        let begin = Instant::now();
        let result = if write {
            file.write_all_at(buffer.get(), offset)
        } else {
            file.read_exact_at(buffer.get(), offset)
        };
        result.map_err(|error| format!("{}: {error}", if write { "write" } else { "read" }))?;
        let entry = Done { at: Instant::now(), took: begin.elapsed(), write, block };
        done.lock().map_err(|error| error.to_string())?.push(entry);
    }
    Ok(())
}
