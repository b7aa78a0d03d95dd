//! Updates chains by what their targets report, and keeps versions and locations in the store.

use super::{log_failure, next_round};
use crate::{Mgmtd, schema};
use std::sync::Arc;
use tokio::time::Instant;
use valor_env::metrics as names;
use valor_protocol::Status;

pub(super) async fn run_updates(mgmtd: Arc<Mgmtd>) {
    let mut followed_preferred = false;
    while next_round(&mgmtd, |config| config.update_chains_interval).await {
        let follow = mgmtd.config().try_adjust_target_order_as_preferred;
        let result = mgmtd.update_chains(follow, follow && !followed_preferred).await;
        if result.is_ok() {
            followed_preferred = follow;
        }
        log_failure("updateChains", result);
    }
}

pub(super) async fn run_bumps(mgmtd: Arc<Mgmtd>) {
    while next_round(&mgmtd, |config| config.bump_routing_info_version_interval).await {
        log_failure("bumpRoutingInfoVersion", mgmtd.publish_nodes().await);
    }
}

pub(super) async fn run_locations(mgmtd: Arc<Mgmtd>) {
    while next_round(&mgmtd, |config| config.target_info_persist_interval).await {
        log_failure("persistTargetInfo", mgmtd.store_locations().await);
    }
}

impl Mgmtd {
    /// One round over the chains that were touched since the last, or over all of them.
    async fn update_chains(&self, follow_preferred: bool, all: bool) -> Result<(), Status> {
        let writer = self.writer().await?;
        let changes = {
            let mut data = self.data().write();
            if all {
                data.routing.touch_all_chains();
            }
            data.routing.take_changes(follow_preferred)
        };
        if changes.changed.is_empty() && !changes.targets {
            return Ok(());
        }
        let writes: Vec<_> = changes.changed.iter().map(schema::put_chain).collect();
        let published = self
            .publish(&writer, &writes, |data| {
                let now = Instant::now();
                for chain in &changes.changed {
                    let from = data.routing.chain(chain.chain_id);
                    tracing::info!(chain = chain.chain_id.0, ?from, to = ?chain, "chain has changed");
                    data.routing.put_chain(chain.clone(), now);
                }
            })
            .await;
        if published.is_err() {
            self.data().write().routing.untake_changes(changes);
        } else {
            metrics::counter!(names::MGMTD_CHAIN_CHANGES).increment(changes.changed.len() as u64);
        }
        published
    }

    /// Makes changes of nodes visible that nothing else has published.
    async fn publish_nodes(&self) -> Result<(), Status> {
        let writer = self.writer().await?;
        if self.data().read().routing.nodes_changed() {
            self.publish(&writer, &[], |_| {}).await?;
        }
        Ok(())
    }

    /// Stores where targets are, if that is not where the store has them.
    async fn store_locations(&self) -> Result<(), Status> {
        let _writer = self.writer().await?;
        let batch = self.config().target_info_persist_batch as usize;
        let moved = self.data().write().routing.moved_targets(batch);
        if !moved.is_empty() {
            let writes: Vec<_> = moved.iter().map(schema::put_target).collect();
            self.store().write(None, &writes).await?;
            self.data().write().routing.targets_stored(&moved);
        }
        Ok(())
    }
}
