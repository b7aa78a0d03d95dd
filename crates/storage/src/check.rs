//! Looking after disks and tables (`src/storage/worker/CheckWorker.cc`).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use valor_env::disk::OpenOptions;

use crate::storage::Storage;

/// File written to find out whether a disk can be written.
const PROBE: &str = ".hf3fs_check";
/// Pause between two looks for closed targets.
const REOPEN_INTERVAL: Duration = Duration::from_millis(100);
/// Pause between two looks for clients that are gone.
const CLIENTS_INTERVAL: Duration = Duration::from_secs(60);

impl Storage {
    /// Probes disks, watches their space and counts what targets use.
    pub(crate) async fn check_disks(self: Arc<Self>) {
        let mut counted: Option<Instant> = None;
        loop {
            for index in 0..self.disks.paths.len() {
                self.check_disk(index).await;
            }
            let interval = self.config.get().check_worker.update_target_size_interval.get();
            if counted.is_none_or(|at| at.elapsed() >= interval) {
                counted = Some(Instant::now());
                self.count_used().await;
            }
            self.metrics.channels.set(self.recent.len() as f64);
            sleep(self.config.get().check_worker.check_disk_interval.get()).await;
        }
    }

    async fn check_disk(self: &Arc<Self>, index: usize) {
        let path = &self.disks.paths[index];
        let checked = async {
            let space = self.env.disk().space(path).await?;
            // A full disk is no broken one.
            match self.probe(path).await {
                Err(error) if error.kind() != io::ErrorKind::StorageFull => return Err(error),
                _ => {}
            }
            Ok(space)
        };
        let space = match checked.await {
            Ok(space) => space,
            Err(error) => {
                tracing::error!(disk = index, path = %path.display(), %error, "disk check failed");
                return self.fail_disk(path).await;
            }
        };
        self.metrics.disk_space(index, space.capacity, space.available);
        let config = self.config.get();
        let used = 1.0 - space.available as f64 / space.capacity.max(1) as f64;
        let low = used >= config.check_worker.disk_low_space_threshold;
        let reject = used >= config.check_worker.disk_reject_create_chunk_threshold;
        self.set_space(path, low, reject).await;
    }

    /// Writes and reads a small file.
    async fn probe(&self, path: &Path) -> io::Result<()> {
        let options = OpenOptions { truncate: true, ..OpenOptions::CREATE };
        let file = self.env.disk().open(&path.join(PROBE), options).await?;
        let content = Bytes::from(self.uptime().as_millis().to_string());
        file.write_at(0, std::slice::from_ref(&content)).await?;
        let read = file.read_at(0, content.len()).await?;
        if read[..] == content[..] { Ok(()) } else { Err(io::Error::other("probe reads back differently")) }
    }

    async fn set_space(&self, path: &Path, low: bool, reject: bool) {
        let differs = self.map().targets().any(|target| {
            let info = &target.info;
            target.path.parent() == Some(path)
                && !target.unrecoverably_offline()
                && (info.low_space, info.reject_create_chunk) != (low, reject)
        });
        if !differs {
            return;
        }
        tracing::warn!(disk = %path.display(), low, reject, "disk space");
        let _change = self.map_change.lock().await;
        let mut map = (*self.map()).clone();
        map.set_space(path, low, reject);
        self.publish(map);
    }

    async fn count_used(&self) {
        for index in 0..self.disks.paths.len() {
            for (id, store) in self.disks.stores(index) {
                match store.engine.space().await {
                    Ok(space) => store.used.store(space.used, Ordering::Relaxed),
                    Err(error) => tracing::warn!(target = %id, %error, "space not counted"),
                }
            }
        }
        let map = self.map();
        self.identity.board.write(map.heartbeat(*self.joining.borrow(), |target| target.used()));
    }

    /// Opens targets again that lost their place.
    pub(crate) async fn reopen_targets(self: Arc<Self>) {
        loop {
            sleep(REOPEN_INTERVAL).await;
            self.reopen_closed().await;
        }
    }

    /// Forgets update channels of clients that are gone.
    pub(crate) async fn forget_clients(self: Arc<Self>) {
        loop {
            sleep(CLIENTS_INTERVAL).await;
            let config = self.config.get();
            if !config.reliable_update.clean_up_expired_clients {
                continue;
            }
            match self.cluster.active_clients().await {
                Ok(Some(active)) => {
                    let timeout = config.reliable_update.expired_clients_timeout.get();
                    let gone = self.recent.expire(&active, timeout, self.uptime());
                    tracing::info!(gone, "update channels of clients that are gone");
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "no list of active clients"),
            }
        }
    }
}
