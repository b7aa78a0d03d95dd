//! Giving up after a long silence of the manager.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::storage::Storage;

/// Longest pause between two looks.
const LOOK: Duration = Duration::from_millis(500);

impl Storage {
    /// Returns how long there was no contact to the manager, once that is `exit_after`. The server has refused
    /// requests since `fence_after`; its process should end now. Time in which the process or its machine stood still
    /// does not count: nobody can be reached then.
    pub async fn out_of_contact(&self) -> Duration {
        self.joined().await;
        let mut since = Instant::now();
        loop {
            let limit = self.config.get().exit_after.get();
            let look = if limit.is_zero() { LOOK } else { LOOK.min(limit / 4) };
            let before = Instant::now();
            sleep(look).await;
            let now = Instant::now();
            if now - before > look + limit / 4 {
                since = now;
            }
            let silence = now.saturating_duration_since(since.max(self.last_contact()));
            if !limit.is_zero() && silence >= limit {
                tracing::error!(?silence, "no contact to the manager, this server gives up");
                return silence;
            }
        }
    }
}
