//! Takes part in the election and loads the state when elected.

use super::next_round;
use crate::Mgmtd;
use crate::lease::LeaseChange;
use std::sync::Arc;
use tokio::time::Instant;
use valor_env::metrics as names;
use valor_protocol::Status;
use valor_protocol::mgmtd::NodeType;

/// The first look is at once: a manager that is restarted goes on under its own lease.
pub(super) async fn run(mgmtd: Arc<Mgmtd>) {
    loop {
        if let Err(status) = mgmtd.extend_lease().await {
            tracing::warn!(%status, "the lease could not be looked at or extended");
        }
        if !next_round(&mgmtd, |config| config.extend_lease_interval).await {
            return;
        }
    }
}

impl Mgmtd {
    /// One round: looks at the lease, extends or takes it if possible, and loads the state if it is new.
    async fn extend_lease(&self) -> Result<(), Status> {
        let own = self.own_stored();
        let release = self.data().read().own.app.release_version.clone();
        let (lease, written) = self.store().extend_lease(&own, &release).await?;

        let writer = self.any_writer().await;
        let was_loaded = self.data().read().lease.lease.is_some();
        if lease.is_none() && was_loaded {
            tracing::info!("this manager is disabled and gives the lease up");
        }
        let (change, loading) = {
            let mut data = self.data().write();
            let change = data.lease.observe(lease.clone(), written, self.own_id());
            (change, data.lease.loading)
        };
        if let (Some(lease), true) = (&lease, change != LeaseChange::None) {
            let (primary, start, end) = (lease.primary.node_id.0, lease.lease_start.0, lease.lease_end.0);
            tracing::info!(primary, start, end, ?change, "lease has changed");
        }
        if !loading {
            return Ok(());
        }
        let (loaded, tags) = self.store().load(&own).await?;
        tracing::info!(
            version = loaded.routing_version.0,
            nodes = loaded.nodes.len(),
            chains = loaded.chains.len(),
            "this manager is primary"
        );
        metrics::counter!(names::MGMTD_ELECTIONS).increment(1);
        let config = {
            let mut data = self.data().write();
            let mut own = data.own.clone();
            own.tags = tags;
            data.reset(loaded, own, Instant::now());
            data.configs.latest(NodeType::Mgmtd).cloned()
        };
        drop(writer);
        if let Some(config) = config {
            self.apply_config(&config);
        }
        Ok(())
    }
}
