//! What a manager costs in a large cluster: the real manager with a thousand storage servers' heartbeats and a hundred
//! thousand chains, in simulated time, and the CPU time that this takes.
//!
//! Servers are as small as the manager notices: they report their targets, read routing information, fall silent,
//! come back and are filled. Requests and responses are encoded and decoded as on the wire, but there are no sockets.
//! All runs on one thread, whose CPU time is divided by what it is spent on.

mod large;
mod meter;
mod report;
mod server;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;

use crate::rng::Rng;
use large::Large;
use meter::cpu_time;
pub use report::Report;

/// A cluster's size and what happens in it.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Storage servers.
    pub nodes: u32,
    /// Chains.
    pub chains: u32,
    /// Targets per chain.
    pub replicas: u32,
    /// Cluster time that is measured.
    pub time: Duration,
    /// Timings of `valor up` in place of 3FS's.
    pub fast: bool,
    /// Time between two servers that fail; they come back after twice the silence that the manager tolerates.
    pub failures: Duration,
    /// Seed of what is random.
    pub seed: u64,
}

/// Runs it. The thread must have no tokio runtime.
///
/// # Errors
/// The step that failed.
pub fn run(scale: Scale) -> Result<Report, String> {
    if scale.replicas == 0 || scale.nodes < scale.replicas || scale.chains == 0 || scale.failures.is_zero() {
        return Err("a chain's replicas are on different servers, and servers fail now and then".to_owned());
    }
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.map_err(|error| error.to_string())?.block_on(measure(scale))
}

async fn measure(scale: Scale) -> Result<Report, String> {
    let begun = cpu_time();
    let mut cluster = Large::start(scale).map_err(|status| status.to_string())?;
    cluster.create_chains().await.map_err(|status| status.to_string())?;
    cluster.start_servers();
    cluster.until_whole().await?;

    let setup = cpu_time() - begun;
    let (shared, mut rng) = (Arc::clone(&cluster.shared), Rng::new(scale.seed));
    // Until as many come back as fail.
    shared.break_servers(&mut rng, shared.silence * 4).await;
    let begun = cpu_time();
    shared.meter.reset();
    let version = shared.version();
    let failures = shared.break_servers(&mut rng, scale.time).await;
    let parts = shared.meter.all();
    let rest = (cpu_time() - begun).saturating_sub(parts.iter().map(|part| part.2).sum());
    let versions = shared.version() - version;

    cluster.until_whole().await?;
    let bytes = shared.reply_bytes();
    let load = cluster.replace_manager().await.map_err(|status| status.to_string())?;
    Ok(Report { scale, setup, parts, rest, bytes, load, failures, versions })
}
