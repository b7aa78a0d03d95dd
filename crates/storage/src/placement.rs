//! Following the routing information: places of targets, heartbeats, joining the cluster.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use valor_client::Routing;
use valor_env::mutation::{Mutation, broken};
use valor_protocol::mgmtd::{LocalTargetState, PublicTargetState};
use valor_protocol::{Status, TargetId};

use crate::disks::Disks;
use crate::storage::{Map, Storage};
use crate::target::is_disk_failure;

/// Longest pause between two looks at the routing information while joining.
const JOIN_PAUSE: Duration = Duration::from_secs(1);
/// Least time between two fetches out of turn.
const REFRESH_PAUSE: Duration = Duration::from_millis(50);

impl Storage {
    /// Reports all targets as offline until the routing information says so, then follows it.
    pub(crate) async fn join_cluster(self: Arc<Self>) {
        let begun = Instant::now();
        let mut said = false;
        loop {
            let sent = Instant::now();
            let contact = self.cluster.heartbeat().await;
            let refreshed = self.cluster.refresh().await;
            let routing = self.cluster.routing();
            if contact.is_ok() && refreshed.is_ok() && self.is_noticed_offline(&routing) {
                self.had_contact(sent);
                break;
            }
            if !said || begun.elapsed().as_secs().is_multiple_of(10) {
                said = true;
                let error = contact.err().or(refreshed.err());
                tracing::info!(?error, "waiting until the manager has this server's targets as offline");
            }
            sleep(JOIN_PAUSE.min(self.config.get().mgmtd.auto_refresh_interval.get())).await;
        }
        let mut watch = self.cluster.watch();
        watch.mark_changed();
        self.joining.send_replace(false);
        tracing::info!(elapsed = ?begun.elapsed(), "joined the cluster");
        while watch.changed().await.is_ok() {
            watch.borrow_and_update();
            let _change = self.map_change.lock().await;
            self.place_and_publish((*self.map()).clone()).await;
        }
    }

    fn is_noticed_offline(&self, routing: &Routing) -> bool {
        let mut map = (*self.map()).clone();
        routing.version().0 != 0
            && map.apply(routing.info(), |target| target.chain_id).is_ok()
            && map.all_noticed_offline()
    }

    /// Gives the targets of a map their places by the newest routing information, and makes the map valid. Only under
    /// `map_change`.
    pub(crate) async fn place_and_publish(&self, mut map: Map) {
        if *self.joining.borrow() {
            return self.publish(map);
        }
        let before = self.map();
        let routing = self.cluster.routing();
        match map.apply(routing.info(), |target| target.chain_id) {
            Err(status) => tracing::warn!(%status, "routing information not taken over"),
            Ok(effects) => {
                for complaint in effects.complaints {
                    tracing::error!(complaint, version = %map.version(), "routing information does not fit");
                }
                let mut failed = Vec::new();
                for (target, chain_ver) in effects.commit_pending {
                    if broken(Mutation::LastsrvKeepsPending) {
                        continue;
                    }
                    match target.commit_all(chain_ver).await {
                        Ok(committed) => {
                            for (chunk, result) in &committed {
                                self.resolve(&target, chunk, result.update_ver, result);
                            }
                            let count = committed.len();
                            if count > 0 {
                                tracing::warn!(target = %target.id, count, %chain_ver, "committed what was pending");
                            }
                        }
                        Err(error) => {
                            tracing::error!(target = %target.id, %error, "pending versions not committed");
                            failed.push(target);
                        }
                    }
                }
                // A target that cannot commit what others may have seen must not serve.
                for target in failed {
                    for (id, _) in map.fail_disk(Disks::of(&target.dir)) {
                        tracing::error!(target = %id, "target taken offline");
                    }
                }
            }
        }
        log_changes(&before, &map);
        self.publish(map);
    }

    /// An operation on a target failed; takes its disk out of service if that is what it means.
    pub(crate) fn engine_failed(
        self: &Arc<Self>,
        dir: &std::path::Path,
        error: &valor_chunk_engine::EngineError,
    ) {
        if !is_disk_failure(error) || self.is_stopping() {
            return;
        }
        let disk = Disks::of(dir).to_path_buf();
        tracing::error!(disk = %disk.display(), %error, "disk failure");
        let storage = Arc::clone(self);
        tokio::spawn(async move { storage.fail_disk(&disk).await });
    }

    /// Takes the targets of a disk offline.
    pub(crate) async fn fail_disk(&self, disk: &std::path::Path) {
        let _change = self.map_change.lock().await;
        let mut map = (*self.map()).clone();
        let failed: Vec<TargetId> = map.fail_disk(disk).into_iter().map(|(id, _)| id).collect();
        if failed.is_empty() {
            return;
        }
        if let Some(index) = self.disks.paths.iter().position(|path| path == disk) {
            self.metrics.disk_failed(index);
        }
        tracing::error!(disk = %disk.display(), targets = ?failed, "targets taken offline");
        self.publish(map);
    }

    /// Takes one target offline for an administrator.
    pub(crate) async fn take_offline(&self, id: TargetId) -> Result<(), Status> {
        let _change = self.map_change.lock().await;
        let mut map = (*self.map()).clone();
        map.take_offline(id)?;
        tracing::warn!(target = %id, "target taken offline on request");
        self.publish(map);
        Ok(())
    }

    /// Fetches routing information out of turn when a peer or client seems to have newer one.
    pub(crate) async fn keep_refreshing(self: Arc<Self>) {
        loop {
            self.refresh_wanted.notified().await;
            if let Err(error) = self.cluster.refresh().await {
                tracing::debug!(%error, "routing information not refreshed");
            }
            sleep(REFRESH_PAUSE).await;
        }
    }

    /// Sends heartbeats regularly, and soon after a target's state has changed.
    pub(crate) async fn keep_beating(self: Arc<Self>) {
        // Joining sends its own.
        self.joined().await;
        loop {
            let sent = Instant::now();
            match self.beat().await {
                Ok(()) => self.had_contact(sent),
                Err(error) => tracing::warn!(%error, "heartbeat failed"),
            }
            let interval = self.config.get().mgmtd.auto_heartbeat_interval.get();
            tokio::select! {
                () = sleep(interval) => {}
                () = self.heartbeat_wanted.notified() => {}
            }
        }
    }

    /// One heartbeat. After a long silence it counts only with the routing information of now: the manager may have moved
    /// the chains on meanwhile, and requests must not find the old places.
    async fn beat(&self) -> Result<(), Status> {
        self.cluster.heartbeat().await?;
        if self.silence().is_some() {
            self.cluster.refresh().await?;
            let _change = self.map_change.lock().await;
            self.place_and_publish((*self.map()).clone()).await;
        }
        Ok(())
    }
}

/// Tells what became of whom.
fn log_changes(before: &Map, after: &Map) {
    for target in after.targets() {
        let info = &target.info;
        let old = before.by_id(info.target_id).map(|target| target.info.clone()).unwrap_or_default();
        let place = |t: &valor_protocol::storage::Target| {
            (t.public_state, t.local_state, t.is_head, t.is_tail, t.v_chain_id)
        };
        if place(&old) == place(info) {
            continue;
        }
        let bad =
            info.local_state == LocalTargetState::Offline && info.public_state != PublicTargetState::Offline;
        let chain_ver = info.v_chain_id.chain_ver;
        let (public, local) = (info.public_state, info.local_state);
        let (head, tail) = (info.is_head, info.is_tail);
        if bad {
            tracing::warn!(target = %info.target_id, chain = %info.chain_id, %chain_ver, ?public, ?local, "target closed");
        } else {
            tracing::info!(target = %info.target_id, chain = %info.chain_id, %chain_ver, ?public, ?local, head, tail, "target placed");
        }
    }
}
