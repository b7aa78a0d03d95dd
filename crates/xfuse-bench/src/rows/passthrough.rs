//! B2: a tmpfs tree passed through. Metadata, random and sequential I/O by one or several clients.

use super::clients::{self, Done, Part};
use super::{Plan, Sample, micros, nanos, quantiles};
use crate::servers::{Running, open_client};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Instant;

const BLOCK: usize = 4096;
/// Bytes of each client's file of the random rows.
const RANDOM_BYTES: u64 = 16 << 20;
const MOST_CLIENTS: u32 = 8;

/// A step of the metadata rows, over the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Create,
    Stat,
    Unlink,
}

impl Step {
    pub const ORDER: [Step; 3] = [Step::Create, Step::Stat, Step::Unlink];

    pub fn name(self) -> &'static str {
        match self {
            Step::Create => "create",
            Step::Stat => "stat",
            Step::Unlink => "unlink",
        }
    }

    fn apply(self, dir: &OwnedFd, name: &str) -> rustix::io::Result<()> {
        match self {
            Step::Create => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644)).map(drop)
            }
            Step::Stat => rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(drop),
            Step::Unlink => rustix::fs::unlinkat(dir, name, AtFlags::empty()),
        }
    }
}

/// Makes an empty tree with the files of the data rows, behind the server's back.
pub fn prepare(plan: &Plan) -> Result<(), String> {
    let text = |error: std::io::Error| format!("{}: {error}", plan.backing.display());
    for entry in fs::read_dir(&plan.backing).map_err(text)? {
        let path = entry.map_err(text)?.path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.map_err(text)?;
    }
    for clients in [1, MOST_CLIENTS] {
        for client in 0..clients {
            let dir = plan.backing.join(dir_name(clients, client));
            fs::create_dir(&dir).map_err(text)?;
            fill(&dir.join("random"), RANDOM_BYTES).map_err(text)?;
            fill(&dir.join("sequential"), plan.bytes / u64::from(clients)).map_err(text)?;
        }
    }
    Ok(())
}

fn dir_name(clients: u32, client: u32) -> String {
    format!("{clients}-{client}")
}

/// Writes real data, so that no row measures tmpfs's finding of pages.
fn fill(path: &std::path::Path, bytes: u64) -> std::io::Result<()> {
    let file = File::create(path)?;
    let block = vec![0xa5; 1 << 20];
    let mut offset = 0;
    while offset < bytes {
        let part = (bytes - offset).min(block.len() as u64) as usize;
        file.write_all_at(&block[..part], offset)?;
        offset += part as u64;
    }
    Ok(())
}

fn open_dir(server: &Running<'_>, clients: u32, client: u32) -> Result<OwnedFd, String> {
    let path = server.root().join(dir_name(clients, client));
    rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| format!("{}: {error}", path.display()))
}

pub fn metadata(step: Step, clients: u32, server: &Running<'_>, plan: &Plan) -> Result<Sample, String> {
    let each = plan.files / clients;
    let done = clients::run(clients, server, |client| {
        let dir = open_dir(server, clients, client)?;
        let names: Vec<String> = (0..each).map(|number| format!("file-{number:06}")).collect();
        Ok(move || {
            let mut latencies = Vec::with_capacity(names.len());
            for name in &names {
                let started = Instant::now();
                step.apply(&dir, name).map_err(|error| format!("{}: {error}", step.name()))?;
                latencies.push(nanos(started.elapsed()));
            }
            Ok(Part { count: latencies.len() as u64, latencies })
        })
    })?;
    operations(done)
}

fn operations(done: Done) -> Result<Sample, String> {
    if done.count == 0 {
        return Err("not one operation in time".into());
    }
    let count = done.count as f64;
    let (p50_us, p99_us) = quantiles(done.latencies);
    Ok(Sample {
        value: count / done.took.as_secs_f64(),
        p50_us,
        p99_us,
        server_cpu: Some(micros(done.server_cpu) / count),
        client_cpu: Some(micros(done.client_cpu) / count),
        sleeps: None,
    })
}

/// A buffer that starts on a page, as direct I/O likes it.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![0x3c; len + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Aligned { bytes, start, len }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

fn transfer(file: &File, write: bool, block: &mut [u8], offset: u64) -> Result<(), String> {
    let done = if write { file.write_at(block, offset) } else { file.read_at(block, offset) };
    match done {
        Ok(count) if count == block.len() => Ok(()),
        Ok(count) => Err(format!("{count} of {} bytes at {offset}", block.len())),
        Err(error) => Err(error.to_string()),
    }
}

pub fn random(write: bool, clients: u32, server: &Running<'_>, plan: &Plan) -> Result<Sample, String> {
    let done = clients::run(clients, server, |client| {
        let dir = open_dir(server, clients, client)?;
        let file = open_client(dir, "random", OFlags::RDWR | OFlags::DIRECT)?;
        let mut block = Aligned::new(BLOCK);
        let mut random = 0x9e37_79b9_7f4a_7c15 ^ (u64::from(client) + 1);
        Ok(move || {
            let mut latencies = Vec::with_capacity(1 << 14);
            let started = Instant::now();
            while latencies.is_empty() || started.elapsed() < plan.moment {
                // Xorshift: any order without a pattern does.
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let offset = random % (RANDOM_BYTES / BLOCK as u64) * BLOCK as u64;
                let before = Instant::now();
                transfer(&file, write, block.get(), offset)?;
                latencies.push(nanos(before.elapsed()));
            }
            Ok(Part { count: latencies.len() as u64, latencies })
        })
    })?;
    operations(done)
}

pub fn sequential(
    write: bool,
    direct: bool,
    block: usize,
    clients: u32,
    server: &Running<'_>,
    plan: &Plan,
) -> Result<Sample, String> {
    let each = plan.bytes / u64::from(clients) / block as u64 * block as u64;
    let done = clients::run(clients, server, |client| {
        let dir = open_dir(server, clients, client)?;
        let mode = if direct { OFlags::RDWR | OFlags::DIRECT } else { OFlags::RDWR };
        let mut buffer = Aligned::new(block);
        // Opening drops what the page cache has of the file.
        let file = open_client(dir, "sequential", mode)?;
        Ok(move || {
            for number in 0..each / block as u64 {
                transfer(&file, write, buffer.get(), number * block as u64)?;
            }
            Ok(Part { count: each, latencies: Vec::new() })
        })
    })?;
    let mib = done.count as f64 / f64::from(1 << 20);
    if mib == 0.0 {
        return Err("no data".into());
    }
    Ok(Sample {
        value: mib / done.took.as_secs_f64(),
        server_cpu: Some(micros(done.server_cpu) / mib),
        client_cpu: Some(micros(done.client_cpu) / mib),
        ..Sample::default()
    })
}
