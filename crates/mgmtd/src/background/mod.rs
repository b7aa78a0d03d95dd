//! What a manager does by itself, each on its own interval (`src/mgmtd/background`). A failed round is logged and the
//! next one tries again.

mod chains;
mod elections;
mod gauges;
mod peers;
mod timeouts;

use crate::Mgmtd;
use crate::config::Config;
use std::sync::Arc;
use tokio::task::JoinHandle;
use valor_config::Duration;
use valor_protocol::Status;
use valor_protocol::status::code;

/// Starts everything.
pub(crate) fn spawn(mgmtd: &Arc<Mgmtd>) -> Vec<JoinHandle<()>> {
    let m = || Arc::clone(mgmtd);
    vec![
        tokio::spawn(elections::run(m())),
        tokio::spawn(timeouts::run(m())),
        tokio::spawn(chains::run_updates(m())),
        tokio::spawn(chains::run_bumps(m())),
        tokio::spawn(chains::run_locations(m())),
        tokio::spawn(peers::run(m())),
        tokio::spawn(gauges::run(m())),
    ]
}

/// Waits until the next round of something; false if the manager stops.
async fn next_round(mgmtd: &Mgmtd, interval: impl Fn(&Config) -> Duration) -> bool {
    let mut stopped = mgmtd.stopped();
    tokio::select! {
        biased;
        // An error means that the manager is gone, which is the same as stopped.
        _ = stopped.wait_for(|stopped| *stopped) => false,
        () = tokio::time::sleep(interval(&mgmtd.config()).get()) => true,
    }
}

/// Logs a round's failure. Not being primary is none.
fn log_failure(what: &str, result: Result<(), Status>) {
    match result {
        Err(status) if status.code != code::MGMTD_NOT_PRIMARY => {
            tracing::warn!(what, %status, "background work failed; it is tried again");
        }
        _ => {}
    }
}
