//! A real cluster for tests: `valor up` as a child process, its processes by name, kill -9, clean-up at the end.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod chains;
pub mod names;
pub mod writers;

pub use rustix::process::Signal;

use rustix::process::Pid;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

pub const VALOR: &str = env!("CARGO_BIN_EXE_valor");
const PATIENCE: Duration = Duration::from_secs(90);

/// A running (or killed) cluster in a temporary directory.
pub struct Cluster {
    dir: tempfile::TempDir,
    options: Vec<String>,
    up: Option<Up>,
    extra_mounts: Vec<(PathBuf, Child)>,
}

struct Up {
    child: Child,
    /// Kept open: a closed pipe would break `up`'s output.
    _stdout: BufReader<ChildStdout>,
}

impl Cluster {
    /// Starts `valor up` with these options.
    pub fn start(options: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("valor-test-").tempdir().expect("temporary directory");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut cluster = Self { dir, options, up: None, extra_mounts: Vec::new() };
        cluster.up();
        cluster
    }

    /// Where the cluster is mounted.
    pub fn mount(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A directory on the local disk for the test's own files.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join("scratch").join(name);
        std::fs::create_dir_all(&path).expect("scratch directory");
        path
    }

    /// Runs `valor up` (again) and waits until it says that the cluster is mounted. Returns how long that took.
    pub fn up(&mut self) -> Duration {
        assert!(self.up.is_none(), "up twice");
        let started = Instant::now();
        let mut child = Command::new(VALOR)
            .arg("up")
            .arg(self.mount())
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(&self.options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("valor up");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut said = String::new();
        while !said.contains("stop: ") {
            let read = stdout.read_line(&mut said).expect("output of valor up");
            if read == 0 {
                let status = child.wait();
                panic!("valor up ended before the cluster was up: {status:?}\n{said}");
            }
        }
        self.up = Some(Up { child, _stdout: stdout });
        started.elapsed()
    }

    /// Stops it by `valor down`.
    pub fn down(&mut self) {
        let status = Command::new(VALOR)
            .args(["down", "--data-dir"])
            .arg(self.data_dir())
            .stdout(Stdio::null())
            .status()
            .expect("valor down");
        assert!(status.success(), "valor down: {status}");
        let mut up = self.up.take().expect("was up");
        let status = up.child.wait().expect("wait for valor up");
        assert!(status.success(), "valor up ended with {status}");
    }

    /// The same for a cluster of which something is lost then. Returns what `valor down` said.
    pub fn down_in_vain(&mut self) -> String {
        let output = Command::new(VALOR).args(["down", "--data-dir"]).arg(self.data_dir()).output();
        let output = output.expect("valor down");
        assert!(!output.status.success(), "valor down has nothing to complain about");
        let mut up = self.up.take().expect("was up");
        assert!(!up.child.wait().expect("wait for valor up").success(), "valor up hides it");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Processes of the cluster: kind (`kv`, `mgmtd`, `meta`, `storage`, `mount`), pid, in no order.
    pub fn processes(&self) -> Vec<(String, i32)> {
        let needle = format!("--dir={}/", self.data_dir().display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(cmdline) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let args: Vec<String> =
                cmdline.split(|b| *b == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
            if args.iter().any(|arg| arg.starts_with(&needle)) && args.len() > 1 {
                found.push((args[1].clone(), pid));
            }
        }
        found
    }

    /// kill -9 of the supervisor and every process, and of the mount left behind.
    pub fn kill_everything(&mut self) {
        let mut up = self.up.take().expect("was up");
        let processes = self.processes();
        assert!(processes.len() >= 5, "{processes:?}");
        // The mount first: once its supervisor is gone the kernel asks it to end, and it would unmount in order.
        let (mounts, servers): (Vec<_>, Vec<_>) = processes.iter().partition(|(kind, _)| kind == "mount");
        mounts.iter().for_each(|(_, pid)| kill(*pid));
        kill(up.child.id().cast_signed());
        servers.iter().for_each(|(_, pid)| kill(*pid));
        up.child.wait().expect("wait for valor up");
        wait_until("all processes to be gone", || self.processes().is_empty());
    }

    /// The process with a name such as `storage-1`, if it runs.
    pub fn pid_of(&self, name: &str) -> Option<i32> {
        let needle = format!("--dir={}\0", self.data_dir().join(name).display());
        let runs = |pid: &i32| {
            let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&cmdline).contains(&needle)
        };
        self.processes().into_iter().map(|(_, pid)| pid).find(runs)
    }

    /// kill -9 of one process of a kind; the supervisor starts it again. Returns its pid.
    pub fn kill_one(&self, kind: &str, nth: usize) -> i32 {
        let mut of_kind: Vec<i32> =
            self.processes().into_iter().filter(|(name, _)| name == kind).map(|(_, pid)| pid).collect();
        of_kind.sort_unstable();
        let pid = of_kind[nth % of_kind.len()];
        kill(pid);
        pid
    }

    /// A second mount of the same cluster.
    pub fn mount_again(&mut self, name: &str) -> PathBuf {
        self.mount_again_with(name, &[])
    }

    /// A second mount with more arguments.
    pub fn mount_again_with(&mut self, name: &str, more: &[&str]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).expect("mount point");
        let child = Command::new(VALOR)
            .arg("mount")
            .arg(&path)
            .args(["--profile=fast", "--data-dir"])
            .arg(self.data_dir())
            .arg(format!("--dir={}/{name}", self.data_dir().display()))
            .args(more)
            .spawn()
            .expect("valor mount");
        self.extra_mounts.push((path.clone(), child));
        wait_until("the second mount", || is_mounted(&path));
        path
    }

    /// Asks the process of such a mount to end, and waits until it has. Starts no program meanwhile: that would close
    /// copies of the files that the test has open, which flushes them.
    pub fn stop_mount(&mut self, path: &Path) {
        let index = self.extra_mounts.iter().position(|(mount, _)| mount == path).expect("mounted");
        let child = &mut self.extra_mounts[index].1;
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
        wait_until("the mount's process to end", || matches!(child.try_wait(), Ok(Some(_))));
        self.extra_mounts.remove(index);
    }

    /// `valor admin ...` with this cluster; returns its standard output.
    pub fn admin(&self, args: &[&str]) -> String {
        self.try_admin(args).unwrap_or_else(|said| panic!("valor admin {args:?}: {said}"))
    }

    /// The same, or what it said when it failed.
    pub fn try_admin(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(VALOR)
            .args(["admin", "--data-dir"])
            .arg(self.data_dir())
            .args(args)
            .output()
            .expect("valor admin");
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).expect("text"));
        }
        Err(format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("VALOR_KEEP").is_some() {
            eprintln!("kept: {}", self.dir.path().display());
            std::mem::forget(std::mem::replace(
                &mut self.dir,
                tempfile::tempdir().expect("temporary directory"),
            ));
            return;
        }
        if std::thread::panicking() {
            self.print_logs();
        }
        for (path, mut child) in self.extra_mounts.drain(..) {
            kill(child.id().cast_signed());
            let _ = child.wait();
            lazy_unmount(&path);
        }
        if let Some(mut up) = self.up.take() {
            // SIGTERM stops it in order; a hung one is killed.
            signal(up.child.id().cast_signed(), Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(30);
            while matches!(up.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = up.child.kill();
            let _ = up.child.wait();
        }
        for (_, pid) in self.processes() {
            kill(pid);
        }
        lazy_unmount(&self.mount());
        for number in 0..16 {
            lazy_unmount(&self.data_dir().join(format!("disks/disk-{number}")));
        }
    }
}

impl Cluster {
    fn print_logs(&self) {
        let Ok(dirs) = std::fs::read_dir(self.data_dir()) else { return };
        for dir in dirs.flatten() {
            for file in std::fs::read_dir(dir.path()).into_iter().flatten().flatten() {
                let path = file.path();
                if path.extension().is_some_and(|end| end == "out" || end == "log") {
                    let text = std::fs::read_to_string(&path).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().rev().take(15).collect();
                    eprintln!("--- {}", path.display());
                    lines.iter().rev().for_each(|line| eprintln!("{line}"));
                }
            }
        }
    }
}

/// Sends a signal. Not by running `kill`: executing a program closes the files that this process has open on the mount,
/// and that may have to wait for the very process that shall go on.
pub fn signal(pid: i32, signal: Signal) {
    // One that is gone already needs none.
    let _ = rustix::process::kill_process(Pid::from_raw(pid).expect("a process"), signal);
}

pub fn kill(pid: i32) {
    signal(pid, Signal::KILL);
}

pub fn is_mounted(path: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
    text.lines().any(|line| line.split(' ').nth(4) == path.to_str() && line.contains(" fuse.hf3fs "))
}

fn lazy_unmount(path: &Path) {
    let _ = Command::new("umount").arg("-l").arg(path).stderr(Stdio::null()).status();
}

/// Waits for a condition, by polling it.
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command and returns its standard output; a failure shows what it said.
pub fn run(program: &str, args: &[&str]) -> String {
    let output =
        Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {}\n{out}\n{said}", output.status);
    out
}

/// A small seeded generator (splitmix64), so that a failing run can be repeated.
pub struct Random(u64);

impl Random {
    /// Seeded from `VALOR_SEED` or the clock; prints the seed.
    pub fn new(test: &str) -> Self {
        let seed = std::env::var("VALOR_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |d| d.as_nanos() as u64)
        });
        println!("{test}: VALOR_SEED={seed}");
        Self(seed)
    }

    /// Seeded by the caller.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}
