//! Keeping routing information fresh.

use super::MgmtdClient;
use crate::routing::Routing;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use valor_protocol::mgmtd::methods::GetRoutingInfo;
use valor_protocol::mgmtd::{GetRoutingInfoReq, NodeStatus, RoutingInfo};
use valor_protocol::status::code;
use valor_protocol::{RoutingInfoVersion, Status};

/// Pause after a failed attempt, when the regular interval is longer.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct RefreshState {
    /// Callers so far.
    callers: AtomicU64,
    done: tokio::sync::Mutex<Done>,
    last_error: Mutex<Option<String>>,
}

impl RefreshState {
    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }
}

struct Done {
    /// The last refresh started after this many callers had come.
    covers: u64,
    result: Result<(), Status>,
}

impl Default for Done {
    fn default() -> Self {
        Done { covers: 0, result: Ok(()) }
    }
}

pub(super) async fn keep_fresh(client: Weak<MgmtdClient>) {
    loop {
        let Some(client) = client.upgrade() else { return };
        let config = client.config.load_full();
        let mut pause = config.auto_refresh_interval.get();
        if config.enable_auto_refresh
            && let Err(error) = client.refresh_now().await
        {
            tracing::warn!(%error, "routing information not refreshed");
            pause = pause.min(RETRY_PAUSE);
        }
        drop(client);
        tokio::time::sleep(pause).await;
    }
}

impl MgmtdClient {
    /// Asks the primary for newer routing information. Callers that come while one request is under way share the
    /// next one.
    ///
    /// # Errors
    /// What [`MgmtdClient::call`] failed with.
    pub async fn refresh_now(&self) -> Result<Arc<Routing>, Status> {
        let ticket = self.refresh.callers.fetch_add(1, Ordering::SeqCst) + 1;
        let mut done = self.refresh.done.lock().await;
        if done.covers < ticket {
            let covers = self.refresh.callers.load(Ordering::SeqCst);
            let result = self.fetch(false).await;
            *self.refresh.last_error.lock() = result.as_ref().err().map(|error| error.to_string());
            *done = Done { covers, result };
        }
        done.result.clone()?;
        Ok(self.routing())
    }

    async fn fetch(&self, anew: bool) -> Result<(), Status> {
        let current = self.routing.load().version();
        let req = GetRoutingInfoReq {
            cluster_id: self.identity.cluster_id.clone(),
            routing_info_version: if anew { RoutingInfoVersion(0) } else { current },
            user: self.identity.user.clone(),
        };
        match self.call::<GetRoutingInfo>(&req).await {
            Ok(rsp) => {
                if let Some(info) = rsp.info {
                    self.accept(info, anew);
                }
                Ok(())
            }
            // The manager's store has gone back in time, as after a restore: its word counts.
            Err(error) if error.code == code::MGMTD_INVALID_ROUTING_INFO_VERSION && !anew => {
                tracing::warn!(version = current.0, %error, "manager is behind our routing information");
                Box::pin(self.fetch(true)).await
            }
            Err(error) => Err(error),
        }
    }

    fn accept(&self, info: RoutingInfo, anew: bool) {
        for node in info.nodes.values() {
            self.primary.learn(node.app.node_id, &node.app.service_groups);
        }
        let version = info.routing_info_version;
        let current = self.routing.load().version();
        let accept_incomplete = self.config.load().accept_incomplete_routing_info_during_mgmtd_bootstrapping;
        let incomplete = info.bootstrapping
            && info.nodes.values().any(|node| node.status == NodeStatus::HeartbeatConnecting);
        if incomplete && !accept_incomplete {
            tracing::info!(version = version.0, "incomplete routing information ignored");
            return;
        }
        if version < current && !anew {
            tracing::warn!(version = version.0, current = current.0, "older routing information ignored");
            return;
        }
        tracing::debug!(version = version.0, "new routing information");
        self.routing.store(Routing::new(info));
    }
}
