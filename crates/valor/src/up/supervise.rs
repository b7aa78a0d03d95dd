//! Keeps the processes of a local cluster running: starts them, restarts what dies, stops them in order.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};
use valor_daemon::Stop;

const FIRST_RESTART_DELAY: Duration = Duration::from_millis(100);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(5);
/// A process that lived this long is not in a crash loop.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// How long a server may take to stop.
pub const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// And how long once it was asked again.
const SECOND_PATIENCE: Duration = Duration::from_secs(5);
/// And how long the kernel may take with a process that was killed.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// Short name for messages, for example `storage-1`.
    pub name: String,
    /// Arguments of this same binary.
    pub args: Vec<String>,
    /// Where its standard output and error go.
    pub output: PathBuf,
    /// How long it may take to stop.
    pub stop_patience: Duration,
}

impl Program {
    /// What it is, without its number.
    fn kind(&self) -> &str {
        self.name.split('-').next().unwrap_or(&self.name)
    }
}

/// A program with its running process.
struct Running {
    program: Program,
    child: Option<Child>,
    started: Instant,
    restart_delay: Duration,
    restart_at: Option<Instant>,
}

/// The running programs, in starting order.
pub struct Supervisor {
    binary: PathBuf,
    running: Vec<Running>,
}

impl Supervisor {
    /// A supervisor that starts `binary` (this executable).
    pub fn new(binary: PathBuf) -> Self {
        Self { binary, running: Vec::new() }
    }

    /// Starts a program and keeps it running from now on.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn start(&mut self, program: Program) -> io::Result<()> {
        let child = spawn(&self.binary, &program)?;
        self.running.push(Running {
            program,
            child: Some(child),
            started: Instant::now(),
            restart_delay: FIRST_RESTART_DELAY,
            restart_at: None,
        });
        Ok(())
    }

    /// The first program that is not running, with the end of what it printed: for errors at start.
    pub fn first_dead(&mut self) -> Option<(String, String)> {
        self.reap();
        let dead = self.running.iter().find(|running| running.child.is_none())?;
        Some((dead.program.name.clone(), tail(&dead.program.output, 2000)))
    }

    /// Notices exits and restarts what is due. Call again after the returned time at the latest.
    pub fn tend(&mut self) -> Duration {
        self.reap();
        let now = Instant::now();
        let mut next = Duration::from_millis(200);
        for running in &mut self.running {
            let Some(due) = running.restart_at else { continue };
            if due > now {
                next = next.min(due - now);
                continue;
            }
            running.restart_at = None;
            running.started = now;
            match spawn(&self.binary, &running.program) {
                Ok(child) => running.child = Some(child),
                Err(error) => {
                    eprintln!("{}: cannot be restarted: {error}", running.program.name);
                    running.schedule_restart(now);
                }
            }
        }
        next
    }

    fn reap(&mut self) {
        let now = Instant::now();
        for running in &mut self.running {
            let Some(child) = running.child.as_mut() else { continue };
            let ended = match child.try_wait() {
                Ok(None) => continue,
                Ok(Some(status)) => status.to_string(),
                Err(error) => error.to_string(),
            };
            running.child = None;
            if now - running.started >= HEALTHY_AFTER {
                running.restart_delay = FIRST_RESTART_DELAY;
            }
            eprintln!(
                "{} ended ({ended}); restarting it in {} ms; its output is in {}",
                running.program.name,
                running.restart_delay.as_millis(),
                running.program.output.display()
            );
            running.schedule_restart(now);
        }
    }

    /// Stops everything, last started first, so that the mount flushes while its servers still run; servers of a kind
    /// together. A further signal to this process is passed on.
    ///
    /// # Errors
    /// What the mount said if it could not end well: something that programs wrote is lost then.
    pub async fn stop(mut self, stop: &Stop) -> Result<(), String> {
        let mut outcome = Ok(());
        while let Some(last) = self.running.last() {
            let kind = last.program.kind().to_owned();
            let first =
                self.running.iter().rposition(|other| other.program.kind() != kind).map_or(0, |n| n + 1);
            let group = self.running.split_off(first);
            let stopped = valor_client::join_all(group.into_iter().map(|running| running.stop(stop))).await;
            for message in stopped.into_iter().filter_map(Result::err) {
                match kind.as_str() {
                    "mount" => outcome = Err(message),
                    // Servers keep nothing that a restart would not bring back.
                    _ => eprintln!("{message}"),
                }
            }
        }
        outcome
    }
}

impl Running {
    async fn stop(self, stop: &Stop) -> Result<(), String> {
        let Program { name, stop_patience, output, .. } = &self.program;
        let Some(mut child) = self.child else { return Ok(()) };
        let before = output.metadata().map_or(0, |file| file.len());
        signal(&child, rustix::process::Signal::TERM);
        let patient = async {
            tokio::select! {
                () = tokio::time::sleep(*stop_patience) => {
                    eprintln!("{name} did not stop within {} s", stop_patience.as_secs());
                }
                () = stop.triggered_again() => {}
            }
        };
        let in_time = tokio::select! {
            ended = child.wait() => Some(ended),
            () = patient => {
                signal(&child, rustix::process::Signal::TERM);
                timeout(SECOND_PATIENCE, child.wait()).await.ok()
            }
        };
        match in_time {
            Some(Ok(status)) if !status.success() => {
                let text = tail(output, 2000);
                let new = output.metadata().map_or(0, |file| file.len()).saturating_sub(before) as usize;
                let text = text.get(text.len().saturating_sub(new)..).unwrap_or(&text);
                Err(format!("{name} ended ({status}): {}", text.trim()))
            }
            Some(_) => Ok(()),
            None => {
                eprintln!("{name} does not stop; killing it");
                let _ = timeout(KILL_PATIENCE, child.kill()).await;
                Err(format!("{name} had to be killed"))
            }
        }
    }

    fn schedule_restart(&mut self, now: Instant) {
        self.restart_at = Some(now + self.restart_delay);
        self.restart_delay = (self.restart_delay * 2).min(MAX_RESTART_DELAY);
    }
}

fn spawn(binary: &Path, program: &Program) -> io::Result<Child> {
    let output = std::fs::OpenOptions::new().create(true).append(true).open(&program.output)?;
    Command::new(binary)
        .args(&program.args)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // A terminal's Ctrl-C reaches its whole process group; children must wait for the ordered stop instead.
        .process_group(0)
        .spawn()
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // ESRCH means that it is gone already.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The last `bytes` of a text file, for messages.
pub fn tail(path: &Path, bytes: usize) -> String {
    let data = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&data[data.len().saturating_sub(bytes)..]).trim().to_owned()
}
