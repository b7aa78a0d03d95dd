//! Heartbeats of servers.

use super::{MgmtdClient, Role};
use std::sync::{Arc, Weak};
use valor_protocol::mgmtd::methods::Heartbeat;
use valor_protocol::mgmtd::{ConfigInfo, HeartbeatInfo, HeartbeatReq};
use valor_protocol::status::{code, with_message};
use valor_protocol::{ConfigVersion, HeartbeatVersion, Status, UtcTime};

pub(super) struct HeartbeatState(tokio::sync::Mutex<Counters>);

struct Counters {
    version: u64,
    config: ConfigVersion,
}

impl HeartbeatState {
    pub(super) fn new(config: ConfigVersion) -> HeartbeatState {
        HeartbeatState(tokio::sync::Mutex::new(Counters { version: 1, config }))
    }
}

/// The version after the one a stale-version error names, or else after `sent`.
pub(super) fn version_after(error: &Status, sent: u64) -> u64 {
    error.message.trim().parse::<u64>().unwrap_or(sent).saturating_add(1)
}

pub(super) async fn keep_beating(client: Weak<MgmtdClient>) {
    loop {
        let Some(client) = client.upgrade() else { return };
        let config = client.config.load_full();
        if config.enable_auto_heartbeat
            && let Err(error) = client.heartbeat_now().await
        {
            tracing::warn!(%error, "heartbeat failed");
        }
        let wanted = Arc::clone(&client.heartbeat_wanted);
        drop(client);
        tokio::select! {
            () = tokio::time::sleep(config.auto_heartbeat_interval.get()) => {}
            () = wanted.notified() => {}
        }
    }
}

impl MgmtdClient {
    /// Has the heartbeat task send one soon.
    pub fn trigger_heartbeat(&self) {
        self.heartbeat_wanted.notify_one();
    }

    /// Sends a heartbeat. If the manager has seen a later one, continues after that, once.
    ///
    /// # Errors
    /// 3 for a process that is no server, else what the manager answered.
    pub async fn heartbeat_now(&self) -> Result<(), Status> {
        let Role::Server { app, detail } = &self.identity.role else {
            return Err(with_message(code::INVALID_ARG, "only servers send heartbeats"));
        };
        let mut counters = self.heartbeat.0.lock().await;
        for last in [false, true] {
            let req = HeartbeatReq {
                cluster_id: self.identity.cluster_id.clone(),
                info: HeartbeatInfo {
                    info: detail(),
                    app: app.clone(),
                    hb_version: HeartbeatVersion(counters.version),
                    config_version: counters.config,
                    config_status: (self.identity.config_status)(),
                },
                timestamp: UtcTime(self.env.utc_now().0),
                user: self.identity.user.clone(),
            };
            match self.call::<Heartbeat>(&req).await {
                Ok(rsp) => {
                    counters.version += 1;
                    self.offer_config(rsp.config, &mut counters.config);
                    return Ok(());
                }
                Err(error) if error.code == code::MGMTD_HEARTBEAT_VERSION_STALE => {
                    counters.version = version_after(&error, counters.version);
                    if last {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives a new configuration to its taker, and remembers it unless the taker could not apply it.
    pub(super) fn offer_config(&self, config: Option<ConfigInfo>, current: &mut ConfigVersion) {
        let Some(config) = config else { return };
        let applied = match &self.identity.on_config {
            Some(on_config) => on_config(&config),
            None => {
                tracing::warn!(
                    version = config.config_version.0,
                    "configuration from the manager has no taker"
                );
                true
            }
        };
        if applied {
            *current = config.config_version;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_versions() {
        assert_eq!(version_after(&with_message(5009, "41"), 3), 42);
        assert_eq!(version_after(&with_message(5009, "what"), 3), 4);
        assert_eq!(version_after(&with_message(5009, u64::MAX.to_string()), 3), u64::MAX);
    }
}
