//! The session's statistics as metrics of the process.

use super::control::Target;
use metrics::{counter, gauge};
use std::time::Duration;
use valor_env::metrics::*;

/// How often the exported values are renewed.
const INTERVAL: Duration = Duration::from_secs(1);

/// Renews the exported values for ever. Only a mount that serves metrics runs it.
pub async fn publish(target: Target) {
    loop {
        publish_once(&target);
        tokio::time::sleep(INTERVAL).await;
    }
}

fn publish_once(target: &Target) {
    let snapshot = target.stats.snapshot();
    for operation in &snapshot.operations {
        let name = operation.opcode.name();
        counter!(FUSE_REQUESTS, "operation" => name).absolute(operation.count);
        counter!(FUSE_ERRORS, "operation" => name).absolute(operation.errors);
        for (quantile, share) in [("0.5", 0.5), ("0.99", 0.99)] {
            gauge!(FUSE_LATENCY, "operation" => name, "quantile" => quantile)
                .set(operation.quantile(share).as_secs_f64());
        }
    }
    for (index, channel) in snapshot.channels.iter().enumerate() {
        let name = index.to_string();
        let label = |label: &'static str| counter!(FUSE_WAITED, "label" => label, "channel" => name.clone());
        label("fuse").absolute(channel.req_fuse);
        label("xfuse").absolute(channel.req_xfuse);
        let spins =
            |outcome: &'static str| counter!(FUSE_SPINS, "outcome" => outcome, "channel" => name.clone());
        spins("hit").absolute(channel.spin_hit);
        spins("expired").absolute(channel.spin_expired);
        counter!(FUSE_BLOCKED, "channel" => name.clone()).absolute(channel.blocked);
        counter!(FUSE_WAKES, "channel" => name.clone()).absolute(channel.wakes);
        let seconds = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64();
        gauge!(FUSE_SPIN_TIME, "channel" => name.clone()).set(seconds(channel.spin_ns));
        gauge!(FUSE_BLOCK_TIME, "channel" => name.clone()).set(seconds(channel.block_ns));
        gauge!(FUSE_WINDOW, "channel" => name.clone()).set(seconds(channel.window_ns));
    }
    counter!(FUSE_PANICS).absolute(snapshot.panics);
    counter!(FUSE_MALFORMED).absolute(snapshot.malformed);
    counter!(FUSE_REFUSED_REPLIES).absolute(snapshot.refused_replies);
    gauge!(FUSE_IN_FLIGHT).set(snapshot.in_flight as f64);
    gauge!(FUSE_MIX).set(target.wait.share());
}
