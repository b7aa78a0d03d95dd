//! Size of the file system, remembered for some seconds (`src/meta/components/FileHelper.cc`).

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use valor_protocol::status::code;
use valor_wire::Status;

use crate::cluster::Space;
use crate::core::Core;
use crate::error::status;

/// The last answer of the storage servers.
#[derive(Default)]
pub(crate) struct StatFs {
    last: Mutex<Option<(Instant, Space)>>,
    /// One asks, the others wait.
    asking: AsyncMutex<()>,
}

impl StatFs {
    /// What is remembered, with its time.
    pub(crate) fn last(&self) -> Option<(Instant, Space)> {
        *self.last.lock()
    }

    /// Asks the storage servers unless the answer is younger than `statfs_update_interval`; gives what is known then.
    ///
    /// # Errors
    /// 7012 `ResourceBusy` if nothing younger than `statfs_cache_time` is known.
    pub(crate) async fn get(&self, core: &Core) -> Result<Space, Status> {
        let config = core.config.get();
        let young = |known: Option<(Instant, Space)>, limit: valor_config::Duration| {
            known.filter(|(time, _)| time.elapsed() <= limit.get()).map(|(_, space)| space)
        };
        if let Some(space) = young(self.last(), config.statfs_update_interval) {
            return Ok(space);
        }
        let _only_one = self.asking.lock().await;
        if let Some(space) = young(self.last(), config.statfs_update_interval) {
            return Ok(space);
        }
        match core.chunks.space().await {
            Ok(space) => {
                *self.last.lock() = Some((Instant::now(), space));
                Ok(space)
            }
            Err(error) => {
                tracing::warn!(%error, "storage servers do not tell their space");
                young(self.last(), config.statfs_cache_time).ok_or_else(|| {
                    status(code::STORAGE_CLIENT_RESOURCE_BUSY, "the size of the file system is not known yet")
                })
            }
        }
    }
}
