//! Sessions of clients with the manager.

use super::heartbeat::version_after;
use super::{MgmtdClient, Role};
use std::sync::Weak;
use std::time::Duration;
use valor_protocol::mgmtd::ExtendClientSessionReq;
use valor_protocol::mgmtd::methods::ExtendClientSession;
use valor_protocol::status::{code, with_message};
use valor_protocol::{ClientSessionVersion, ConfigVersion, Status};

/// Pause after a failed attempt, when the regular interval is longer.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct SessionState(tokio::sync::Mutex<Counters>);

struct Counters {
    version: u64,
    config: ConfigVersion,
}

impl SessionState {
    pub(super) fn new(config: ConfigVersion) -> SessionState {
        SessionState(tokio::sync::Mutex::new(Counters { version: 1, config }))
    }
}

pub(super) async fn keep_session(client: Weak<MgmtdClient>) {
    loop {
        let Some(client) = client.upgrade() else { return };
        let config = client.config.load_full();
        let mut pause = config.auto_extend_client_session_interval.get();
        if config.enable_auto_extend_client_session
            && let Err(error) = client.extend_session_now().await
        {
            tracing::warn!(%error, "client session not extended");
            pause = pause.min(RETRY_PAUSE);
        }
        drop(client);
        tokio::time::sleep(pause).await;
    }
}

impl MgmtdClient {
    /// Extends the client's session. If the manager has seen a later extension, continues after that, once.
    ///
    /// # Errors
    /// 3 for a process that is no client, else what the manager answered.
    pub async fn extend_session_now(&self) -> Result<(), Status> {
        let Role::Client { client_id, data, node_type } = &self.identity.role else {
            return Err(with_message(code::INVALID_ARG, "only clients have sessions"));
        };
        let mut counters = self.session.0.lock().await;
        for last in [false, true] {
            let req = ExtendClientSessionReq {
                cluster_id: self.identity.cluster_id.clone(),
                client_id: client_id.uuid.to_string(),
                client_session_version: ClientSessionVersion(counters.version),
                config_version: counters.config,
                data: data.clone(),
                config_status: (self.identity.config_status)(),
                r#type: *node_type,
                user: self.identity.user.clone(),
                client_start: self.started,
            };
            match self.call::<ExtendClientSession>(&req).await {
                Ok(rsp) => {
                    counters.version += 1;
                    self.offer_config(rsp.config, &mut counters.config);
                    return Ok(());
                }
                Err(error) if error.code == code::MGMTD_CLIENT_SESSION_VERSION_STALE => {
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
}
