//! A server as a child process: pinned, mounted, watched, ended.

use super::backend::{Backend, Memory, Tree};
use super::{Files, Kind, Variant, bare, on_backend_rs, on_fuser, on_xfuse};
use crate::cpu;
use crate::watchdog::Watchdog;
use rustix::fs::OFlags;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long mounting may take.
const START: Duration = Duration::from_secs(10);
/// How long a server may take to end after its unmount.
const END: Duration = Duration::from_secs(3);
/// How long after a failure a server may take to end and say why.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Arguments of a server process.
#[derive(clap::Args, Debug)]
pub struct ServeArgs {
    variant: String,
    files: Files,
    mountpoint: PathBuf,
    backing: PathBuf,
    libfuse: PathBuf,
    /// CPU to run on; all if there is none.
    cpu: Option<usize>,
}

/// The server process itself.
///
/// # Errors
/// When it cannot mount.
pub fn serve(args: &ServeArgs) -> Result<(), String> {
    let variant = Variant::find(&args.variant).ok_or("no such server")?;
    // A server whose benchmark has died serves nobody.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| error.to_string())?;
    if let Some(cpu) = args.cpu {
        cpu::pin(cpu)?;
    }
    if let Kind::Libfuse { threads, options } = variant.kind {
        let files = if args.files == Files::Tree { "tree" } else { "memory" };
        let mut program = Command::new(&args.libfuse);
        program.arg(files).arg(&args.mountpoint).arg(&args.backing);
        let error = program.arg(threads.to_string()).arg(options.argument()).exec();
        return Err(format!("{}: {error}", args.libfuse.display()));
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    // One descriptor for each inode the kernel knows.
    let limit = Some(1 << 20);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
    match args.files {
        Files::Memory => serve_backend(variant, Memory::new(), &args.mountpoint),
        Files::Tree => {
            let tree = Tree::new(&args.backing).map_err(|error| error.to_string())?;
            serve_backend(variant, tree, &args.mountpoint)
        }
    }
}

fn serve_backend<B: Backend>(variant: Variant, backend: B, mountpoint: &Path) -> Result<(), String> {
    match variant.kind {
        Kind::Xfuse(settings) => on_xfuse::serve(backend, mountpoint, settings),
        Kind::Fuser { threads, clone_fd } => on_fuser::serve(backend, mountpoint, threads, clone_fd),
        Kind::BackendRs { threads } => on_backend_rs::serve(backend, mountpoint, threads),
        Kind::Bare => bare::serve(mountpoint),
        Kind::Libfuse { .. } => Err("libfuse has a program of its own".into()),
    }
}

/// Where servers mount and what they need.
#[derive(Debug)]
pub struct Setup {
    pub mountpoint: PathBuf,
    pub backing: PathBuf,
    /// The C program, or why there is none.
    pub libfuse: Result<PathBuf, String>,
    /// Standard error of servers.
    pub log: PathBuf,
}

/// A mounted server.
pub struct Running<'a> {
    child: Child,
    setup: &'a Setup,
    watchdog: &'a Watchdog,
}

impl<'a> Running<'a> {
    /// Starts a server and waits until its mount answers.
    ///
    /// # Errors
    /// When it does not, with what it said.
    pub fn start(
        variant: Variant,
        files: Files,
        cpu: Option<usize>,
        setup: &'a Setup,
        watchdog: &'a Watchdog,
    ) -> Result<Self, String> {
        let libfuse = match (&setup.libfuse, variant.kind) {
            (Err(error), Kind::Libfuse { .. }) => return Err(error.clone()),
            (Err(_), _) => PathBuf::new(),
            (Ok(program), _) => program.clone(),
        };
        unmount(&setup.mountpoint);
        let text = |error: std::io::Error| error.to_string();
        let log = std::fs::File::create(&setup.log).map_err(text)?;
        let mut command = Command::new(std::env::current_exe().map_err(text)?);
        command.arg("serve").arg(variant.name);
        command.arg(if files == Files::Tree { "tree" } else { "memory" });
        command.arg(&setup.mountpoint).arg(&setup.backing).arg(libfuse);
        command.args(cpu.map(|cpu| cpu.to_string()));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().map_err(text)?;
        let mut running = Running { child, setup, watchdog };
        running.wait_for_mount()?;
        Ok(running)
    }

    fn wait_for_mount(&mut self) -> Result<(), String> {
        let started = Instant::now();
        let needle = format!(" {} ", self.setup.mountpoint.display());
        loop {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            if mounts.contains(&needle) {
                break;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("ended with {status}: {}", self.said()));
            }
            if started.elapsed() > START {
                return Err(format!("did not mount within {START:?}: {}", self.said()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // The mount exists before INIT has been answered.
        let _watch = self.watch(START);
        rustix::fs::stat(&self.setup.mountpoint)
            .map(drop)
            .map_err(|error| self.end_said().unwrap_or_else(|| error.to_string()))
    }

    fn said(&self) -> String {
        let log = std::fs::read_to_string(&self.setup.log).unwrap_or_default();
        log.trim().lines().last().unwrap_or("it said nothing").to_owned()
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.setup.mountpoint
    }

    /// Kills the server if what follows takes longer than `patience`; that ends all waiting for it.
    #[must_use]
    pub fn watch(&self, patience: Duration) -> crate::watchdog::Watch<'_> {
        self.watchdog.watch(self.pid(), patience)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What the process said, if it has ended or is about to.
    pub fn end_said(&self) -> Option<String> {
        let deadline = Instant::now() + LAST_WORDS;
        while !self.is_gone() {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(self.said())
    }

    /// Whether the process has ended; it stays a zombie, so that its id stays its own.
    fn is_gone(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z'))
    }

    /// CPU time it has used, of all its threads.
    pub fn cpu_time(&self) -> Duration {
        cpu::process_time(self.pid())
    }

    /// Times its threads went to sleep.
    pub fn sleeps(&self) -> u64 {
        cpu::sleeps(self.pid())
    }

    /// Raises read-ahead to the largest request. INIT can only lower it.
    pub fn raise_readahead(&self) -> Result<(), String> {
        let stat = rustix::fs::stat(self.root()).map_err(|error| error.to_string())?;
        let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        std::fs::write(&path, "1024").map_err(|error| format!("{path}: {error}"))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        unmount(&self.setup.mountpoint);
        let deadline = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn unmount(path: &Path) {
    // Bounded, should something keep mounting there.
    for _ in 0..16 {
        if rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_err() {
            return;
        }
    }
}

/// Opens the way clients do.
pub fn open_client(dir: impl rustix::fd::AsFd, name: &str, flags: OFlags) -> Result<std::fs::File, String> {
    rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, rustix::fs::Mode::from_raw_mode(0o644))
        .map(std::fs::File::from)
        .map_err(|error| format!("{name}: {error}"))
}
