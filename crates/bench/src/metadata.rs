//! Metadata rows: create, stat, list and unlink small files, by one or several processes.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Bytes of each small file, as in the recorded C++ figures.
const FILE_BYTES: usize = 100;

/// One timed step over the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    Create,
    Stat,
    List,
    Unlink,
}

impl Step {
    /// Steps with whether caches are dropped before.
    pub const ORDER: [(Self, bool); 4] =
        [(Self::Create, false), (Self::Stat, true), (Self::List, true), (Self::Unlink, false)];

    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Stat => "stat",
            Self::List => "readdir+stat",
            Self::Unlink => "unlink",
        }
    }
}

/// Arguments of a worker process.
#[derive(clap::Args, Debug)]
pub struct WorkerArgs {
    step: Step,
    dir: PathBuf,
    files: u32,
}

/// Files per second of a step, all processes together.
///
/// # Errors
/// When a process failed.
pub fn measure(step: Step, dir: &Path, processes: u32, files: u32) -> Result<f64, String> {
    let binary = std::env::current_exe().map_err(|error| error.to_string())?;
    let each = files / processes;
    for number in 0..processes {
        fs::create_dir_all(dir.join(number.to_string())).map_err(|error| error.to_string())?;
    }
    let mut children = Vec::new();
    for number in 0..processes {
        let child = Command::new(&binary)
            .arg("meta-worker")
            .arg(format!("{step:?}").to_lowercase())
            .arg(dir.join(number.to_string()))
            .arg(each.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        children.push(child);
    }
    for child in &mut children {
        // Loading the program, from a disk whose cache was dropped, is not what is measured.
        let stdout = child.stdout.as_mut().ok_or("no output")?;
        stdout.read_exact(&mut [0]).map_err(|error| format!("a worker did not start: {error}"))?;
    }
    let started = Instant::now();
    for child in &mut children {
        // Workers wait for the end of their input, so that all start at once.
        drop(child.stdin.take());
    }
    for mut child in children {
        let status = child.wait().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("a worker ended with {status}"));
        }
    }
    Ok(f64::from(each * processes) / started.elapsed().as_secs_f64())
}

/// The work of one process.
///
/// # Errors
/// The first failed call.
pub fn worker(args: &WorkerArgs) -> Result<(), String> {
    std::io::stdout().write_all(b"\n").map_err(|error| error.to_string())?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).map_err(|error| error.to_string())?;
    let name = |number: u32| args.dir.join(format!("file-{number:06}"));
    let result = match args.step {
        Step::Create => {
            (0..args.files).try_for_each(|n| fs::File::create_new(name(n))?.write_all(&[b'x'; FILE_BYTES]))
        }
        Step::Stat => (0..args.files).try_for_each(|n| {
            let meta = fs::metadata(name(n))?;
            if meta.len() == FILE_BYTES as u64 { Ok(()) } else { Err(std::io::Error::other("wrong size")) }
        }),
        Step::List => list(&args.dir, args.files),
        Step::Unlink => (0..args.files).try_for_each(|n| fs::remove_file(name(n))),
    };
    result.map_err(|error| format!("{:?} in {}: {error}", args.step, args.dir.display()))
}

fn list(dir: &Path, files: u32) -> std::io::Result<()> {
    let mut seen = 0;
    for entry in fs::read_dir(dir)? {
        seen += u32::from(entry?.metadata()?.len() == FILE_BYTES as u64);
    }
    if seen == files { Ok(()) } else { Err(std::io::Error::other(format!("{seen} of {files} files listed"))) }
}
