//! Notices who went silent.

use super::{log_failure, next_round};
use crate::Mgmtd;
use std::sync::Arc;
use tokio::time::Instant;
use valor_protocol::Status;

pub(super) async fn run(mgmtd: Arc<Mgmtd>) {
    while next_round(&mgmtd, |config| config.check_status_interval).await {
        log_failure("checkStatus", mgmtd.check_status().await);
    }
}

impl Mgmtd {
    async fn check_status(&self) -> Result<(), Status> {
        let _writer = self.writer().await?;
        let config = self.config();
        let now = Instant::now();
        let mut data = self.data().write();

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
