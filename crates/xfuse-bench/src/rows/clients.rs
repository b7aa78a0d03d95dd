//! Several clients at once, started together, and what they and the server used.

use crate::cpu;
use crate::servers::Running;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// What clients did together.
pub struct Done {
    pub took: Duration,
    pub server_cpu: Duration,
    pub client_cpu: Duration,
    /// Of all clients, in ns.
    pub latencies: Vec<u32>,
    /// Whatever the clients count.
    pub count: u64,
}

/// What one client did.
#[derive(Default)]
pub struct Part {
    pub latencies: Vec<u32>,
    pub count: u64,
}

/// Runs `clients` threads: `prepare` before the common start, the work it returns after.
///
/// # Errors
/// The first client's error.
pub fn run<W>(
    clients: u32,
    server: &Running<'_>,
    prepare: impl Fn(u32) -> Result<W, String> + Sync,
) -> Result<Done, String>
where
    W: FnOnce() -> Result<Part, String>,
{
    let (ready, start) = (Barrier::new(clients as usize + 1), Barrier::new(clients as usize + 1));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|client| {
                let (ready, start, prepare) = (&ready, &start, &prepare);
                scope.spawn(move || {
                    let work = prepare(client);
                    ready.wait();
                    start.wait();
                    work?()
                })
            })
            .collect();
        ready.wait();
        let (own, served, started) = (cpu::own_time(), server.cpu_time(), Instant::now());
        start.wait();
        let parts: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a client panicked".into())))
            .collect();
        let took = started.elapsed();
        let (own, served) = (cpu::own_time() - own, server.cpu_time().saturating_sub(served));
        let mut done = Done { took, server_cpu: served, client_cpu: own, latencies: Vec::new(), count: 0 };
        for part in parts {
            let part = part?;
            done.latencies.extend(part.latencies);
            done.count += part.count;
        }
        Ok(done)
    })
}
