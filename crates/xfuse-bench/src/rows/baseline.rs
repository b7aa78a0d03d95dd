//! B0: what the kernel and the machine cost without FUSE.

use super::{Plan, Sample, Unit, micros, nanos, quantiles};
use crate::cpu::{self, NoSleep};
use crate::device;
use io_uring::IoUring;
use rustix::mount::UnmountFlags;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Operations between two looks at the clock.
const BATCH: u32 = 64;

/// Names of the rows, in order; others refer to them by these.
pub const PIPE_SAME: &str = "B0 pipe ping-pong, same CPU";
const PIPE_OTHER: &str = "B0 pipe ping-pong, other CPU";
const PIPE_OTHER_QOS: &str = "B0 pipe ping-pong, other CPU, PM QoS";
const MEMORY_OTHER: &str = "B0 shared-memory ping-pong, other CPU";
const EAGAIN: &str = "B0 read of /dev/fuse that finds nothing";
const RING: &str = "B0 empty io_uring_enter";

/// A measured row.
pub type Measured = (&'static str, Unit, Result<Sample, String>);

/// All baselines once.
pub fn run(plan: &Plan, mountpoint: &Path) -> Vec<Measured> {
    let other = || plan.cpus.other.ok_or_else(|| "needs two CPUs".to_owned());
    let rows = [
        (PIPE_SAME, pipe(plan, plan.cpus.client)),
        (PIPE_OTHER, other().and_then(|cpu| pipe(plan, cpu))),
        (
            PIPE_OTHER_QOS,
            other().and_then(|cpu| {
                let _awake = NoSleep::hold()?;
                pipe(plan, cpu)
            }),
        ),
        (MEMORY_OTHER, other().and_then(|cpu| shared_memory(plan, cpu))),
        (EAGAIN, nothing_to_read(plan, mountpoint)),
        (RING, empty_enter(plan)),
    ];
    rows.into_iter().map(|(name, result)| (name, Unit::Us, result)).collect()
}

/// Arguments of the other end of a pipe.
#[derive(clap::Args, Debug)]
pub struct EchoArgs {
    cpu: usize,
}

/// The other end of a pipe: returns each byte.
///
/// # Errors
/// When it cannot be pinned.
pub fn echo(args: &EchoArgs) -> Result<(), String> {
    cpu::pin(args.cpu)?;
    let mut byte = [0];
    while rustix::io::read(std::io::stdin(), &mut byte).is_ok_and(|count| count == 1) {
        if rustix::io::write(std::io::stdout(), &byte).is_err() {
            break;
        }
    }
    Ok(())
}

fn pipe(plan: &Plan, cpu: usize) -> Result<Sample, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut child = Command::new(std::env::current_exe().map_err(text)?)
        .arg("echo")
        .arg(cpu.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(text)?;
    let (mut input, mut output) =
        (child.stdin.take().ok_or("no pipe")?, child.stdout.take().ok_or("no pipe")?);
    let result = cpu::on_cpu(Some(plan.cpus.client), || {
        let mut byte = [0];
        timed(plan, || input.write_all(&byte).and_then(|()| output.read_exact(&mut byte)).map_err(text))
    });
    drop(input);
    let _ = child.wait();
    result
}

/// Calls `op` until the moment is over, each time with the clock.
fn timed(plan: &Plan, mut op: impl FnMut() -> Result<(), String>) -> Result<Sample, String> {
    for _ in 0..BATCH {
        op()?;
    }
    let mut latencies = Vec::with_capacity(1 << 16);
    let started = Instant::now();
    while latencies.is_empty() || started.elapsed() < plan.moment {
        let before = Instant::now();
        op()?;
        latencies.push(nanos(before.elapsed()));
    }
    let (p50_us, p99_us) = quantiles(latencies);
    Ok(Sample { value: p50_us.ok_or("not one operation in time")?, p50_us, p99_us, ..Sample::default() })
}

/// Calls `op` until the moment is over; the mean, for what is quicker than the clock.
fn mean(moment: Duration, mut op: impl FnMut() -> Result<(), String>) -> Result<Sample, String> {
    let started = Instant::now();
    let mut count = 0u32;
    while count == 0 || started.elapsed() < moment {
        for _ in 0..BATCH {
            op()?;
        }
        count += BATCH;
    }
    Ok(Sample { value: micros(started.elapsed()) / f64::from(count), ..Sample::default() })
}

fn shared_memory(plan: &Plan, cpu: usize) -> Result<Sample, String> {
    let (ball, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = cpu::pin(cpu);
            // Odd is ours, even the client's.
            while !stop.load(Ordering::Relaxed) {
                let seen = ball.load(Ordering::Acquire);
                if seen % 2 == 1 {
                    ball.store(seen.wrapping_add(1), Ordering::Release);
                } else {
                    std::hint::spin_loop();
                }
            }
        });
        let result = cpu::on_cpu(Some(plan.cpus.client), || {
            mean(plan.moment, || {
                let next = ball.load(Ordering::Acquire).wrapping_add(1);
                ball.store(next, Ordering::Release);
                while ball.load(Ordering::Acquire) == next {
                    std::hint::spin_loop();
                }
                Ok(())
            })
        });
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// Polls a connection on which the kernel has nothing to say.
fn nothing_to_read(plan: &Plan, mountpoint: &Path) -> Result<Sample, String> {
    let text = |error: rustix::io::Errno| error.to_string();
    let device = device::mount(mountpoint)?;
    let mut buffer = vec![0; 1 << 17];
    // INIT, which is never answered: no other request can follow.
    let init = rustix::io::read(&device, &mut buffer[..]).map_err(text);
    let result = init.and_then(|_| {
        cpu::on_cpu(Some(plan.cpus.client), || {
            mean(plan.moment, || match rustix::io::read(&device, &mut buffer[..]) {
                Err(rustix::io::Errno::AGAIN) => Ok(()),
                other => Err(format!("{other:?}")),
            })
        })
    });
    rustix::mount::unmount(mountpoint, UnmountFlags::DETACH).map_err(text)?;
    result
}

fn empty_enter(plan: &Plan) -> Result<Sample, String> {
    const GETEVENTS: u32 = 1;
    let ring = IoUring::new(8).map_err(|error| format!("io_uring: {error}"))?;
    cpu::on_cpu(Some(plan.cpus.client), || {
        let submitter = ring.submitter();
        mean(plan.moment, || {
            // SAFETY: nothing is submitted and no argument passed.
            unsafe { submitter.enter::<libc::sigset_t>(0, 0, GETEVENTS, None) }
                .map(drop)
                .map_err(|error| error.to_string())
        })
    })
}
