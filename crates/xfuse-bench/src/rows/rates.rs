//! B3: what a server costs when idle and at fixed rates. B5: what it costs a neighbour that computes.

use super::latency::{Client, Op};
use super::{Plan, Sample, nanos, quantiles};
use crate::cpu;
use crate::servers::Running;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Operations per second while a neighbour computes.
const NEIGHBOUR_RATE: u32 = 2000;

/// Calls `op` at `per_second` for `span`, sleeping in between; returns the latencies in ns.
fn at_rate(client: &mut Client, per_second: u32, span: Duration) -> Result<Vec<u32>, String> {
    // The default slack of timers, 50 µs, is half of the shortest period.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let period = Duration::from_secs(1) / per_second;
    let started = Instant::now();
    let mut latencies = Vec::new();
    let mut due = started;
    while started.elapsed() < span {
        latencies.push(nanos(client.run(Op::Read)?));
        due += period;
        // An operation that is late is not made up for: the rate is an upper bound.
        due = due.max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(latencies)
}

pub fn rate(per_second: u32, server: &Running<'_>, plan: &Plan) -> Result<Sample, String> {
    let measured = cpu::on_cpu(None, || {
        let mut client = Client::open(server)?;
        client.run(Op::Read)?;
        // What the opening set in motion shall be over.
        std::thread::sleep(Duration::from_millis(150));
        let slept = server.sleeps();
        let (own, served) = (cpu::thread_time(), server.cpu_time());
        let started = Instant::now();
        let latencies = if per_second == 0 {
            std::thread::sleep(plan.long_moment);
            Vec::new()
        } else {
            at_rate(&mut client, per_second, plan.long_moment)?
        };
        let seconds = started.elapsed().as_secs_f64();
        let served = server.cpu_time().saturating_sub(served).as_secs_f64() * 1e3 / seconds;
        let own = (cpu::thread_time() - own).as_secs_f64() * 1e3 / seconds;
        let slept = server.sleeps().saturating_sub(slept) as f64 / seconds;
        Ok((latencies, served, own, slept))
    });
    let (latencies, served, own, slept) = measured?;
    let (p50_us, p99_us) = quantiles(latencies);
    Ok(Sample {
        value: served,
        p50_us,
        p99_us,
        server_cpu: Some(served),
        client_cpu: Some(own),
        sleeps: Some(slept),
    })
}

/// Steps per second of a thread that only computes on `cpu`, while `meanwhile` runs on the calling thread.
fn compute<T>(cpu: usize, meanwhile: impl FnOnce() -> T) -> Result<(f64, T), String> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cpu::pin(cpu)?;
            let (mut steps, mut state) = (0u64, 1u64);
            let started = Instant::now();
            while !stop.load(Relaxed) {
                for _ in 0..4096 {
                    state =
                        std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
                steps += 4096;
            }
            Ok::<_, String>(steps as f64 / started.elapsed().as_secs_f64())
        });
        let result = meanwhile();
        stop.store(true, Relaxed);
        let rate = thread.join().unwrap_or_else(|_| Err("the neighbour panicked".into()))?;
        Ok((rate, result))
    })
}

pub fn neighbour(on_other: bool, server: &Running<'_>, plan: &Plan) -> Result<Sample, String> {
    let cpu = if on_other { plan.cpus.other.ok_or("needs two CPUs")? } else { plan.cpus.client };
    // Right before, so that a busy machine spoils both or neither; the server is idle meanwhile.
    let (alone, ()) = compute(cpu, || std::thread::sleep(plan.long_moment / 2))?;
    let (rate, latencies) = compute(cpu, || {
        cpu::on_cpu(Some(plan.cpus.client), || {
            let mut client = Client::open(server)?;
            at_rate(&mut client, NEIGHBOUR_RATE, plan.long_moment)
        })
    })?;
    let (p50_us, p99_us) = quantiles(latencies?);
    Ok(Sample { value: alone / rate, p50_us, p99_us, ..Sample::default() })
}
