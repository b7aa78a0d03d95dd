//! Notices who went silent.

use super::{log_failure, next_round};
use crate::Mgmtd;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use valor_protocol::Status;

pub(super) async fn run(mgmtd: Arc<Mgmtd>) {
    loop {
        let (slept, due) = (Instant::now(), mgmtd.config().check_status_interval.get());
        if !next_round(&mgmtd, |config| config.check_status_interval).await {
            return;
        }
        let late = slept.elapsed().saturating_sub(due);
        log_failure("checkStatus", mgmtd.check_status(late).await);
    }
}

impl Mgmtd {
    /// One round, which comes `late`. If that is a good part of the time after which silence counts, the process or
    /// its machine stood still: heartbeats wait unread then, and nobody is to blame for their absence.
    async fn check_status(&self, late: Duration) -> Result<(), Status> {
        let _writer = self.writer().await?;
        let config = self.config();
        let now = Instant::now();
        let mut data = self.data().write();
        if late > config.heartbeat_fail_interval.get() / 4 {
            tracing::warn!(?late, "this manager stood still; servers get time to be heard");
            data.routing.forgive_silence(late, now);
        }

        let gone = data.sessions.expire(config.client_session_timeout.get(), now);
        if !gone.is_empty() {
            tracing::info!(clients = ?gone, "clients are forgotten");
        }
        let settled = data.routing.end_newborn(config.new_chain_bootstrap_interval.get(), now);
        if !settled.is_empty() {
            tracing::info!(chains = settled.len(), "targets of new chains had their time to report");
        }
        let timeouts = data.routing.timeouts(config.heartbeat_fail_interval.get(), now);
        if !timeouts.nodes.is_empty() || !timeouts.targets.is_empty() {
            tracing::warn!(nodes = ?timeouts.nodes, targets = ?timeouts.targets, "no heartbeat for too long");
            data.routing.apply_timeouts(&timeouts, now);
        }
        Ok(())
    }
}
