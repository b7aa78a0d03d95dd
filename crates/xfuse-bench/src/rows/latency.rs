//! B1: the round trip of small operations on one file in memory, one client.

use super::{Plan, Sample, micros, nanos, quantiles};
use crate::cpu::{self, NoSleep};
use crate::servers::{MEMORY_BYTES, MEMORY_FILE, Running, open_client};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

const WARM_UP: u32 = 50;
/// Enough for a 99th percentile; more would only take time.
const MOST: usize = 20_000;
const BLOCK: usize = 4096;

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Read,
    Stat,
    Write,
}

impl Op {
    pub const ALL: [Op; 3] = [Op::Read, Op::Stat, Op::Write];

    pub fn name(self) -> &'static str {
        match self {
            Op::Read => "pread 4 KiB",
            Op::Stat => "fstat",
            Op::Write => "pwrite 4 KiB",
        }
    }
}

/// The file of the memory servers, as a client sees it.
pub struct Client {
    file: File,
    block: Vec<u8>,
    next: u64,
}

impl Client {
    pub fn open(server: &Running<'_>) -> Result<Self, String> {
        let root = rustix::fs::open(server.root(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| error.to_string())?;
        let file = open_client(root, MEMORY_FILE, OFlags::RDWR)?;
        Ok(Client { file, block: vec![0x5a; BLOCK], next: 0 })
    }

    /// Does one operation; returns how long it took.
    pub fn run(&mut self, op: Op) -> Result<Duration, String> {
        let offset = self.next;
        self.next = (self.next + BLOCK as u64) % MEMORY_BYTES;
        let started = Instant::now();
        let done = match op {
            Op::Read => self.file.read_at(&mut self.block, offset),
            Op::Write => self.file.write_at(&self.block, offset),
            Op::Stat => rustix::fs::fstat(&self.file).map(|_| BLOCK).map_err(std::io::Error::from),
        };
        let took = started.elapsed();
        match done {
            Ok(BLOCK) => Ok(took),
            Ok(count) => Err(format!("{}: {count} bytes", op.name())),
            Err(error) => Err(format!("{}: {error}", op.name())),
        }
    }
}

pub fn measure(
    op: Op,
    gap: Duration,
    no_sleep: bool,
    server: &Running<'_>,
    plan: &Plan,
) -> Result<Sample, String> {
    let _awake = if no_sleep { Some(NoSleep::hold()?) } else { None };
    cpu::on_cpu(Some(plan.cpus.client), || {
        let mut client = Client::open(server)?;
        for _ in 0..WARM_UP {
            client.run(op)?;
        }
        let mut latencies = Vec::with_capacity(MOST);
        let (own, served) = (cpu::thread_time(), server.cpu_time());
        let started = Instant::now();
        while latencies.is_empty() || (started.elapsed() < plan.moment && latencies.len() < MOST) {
            if !gap.is_zero() {
                // The client computes; it does not sleep.
                let until = Instant::now() + gap;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
            latencies.push(nanos(client.run(op)?));
        }
        let (own, served) = (cpu::thread_time() - own, server.cpu_time().saturating_sub(served));
        let count = latencies.len() as f64;
        let (p50_us, p99_us) = quantiles(latencies);
        Ok(Sample {
            value: p50_us.ok_or("not one operation in time")?,
            p50_us,
            p99_us,
            server_cpu: Some(micros(served) / count),
            // With gaps it would mostly be the gaps.
            client_cpu: gap.is_zero().then(|| micros(own) / count),
            sleeps: None,
        })
    })
}
