//! Configuration of the manager client: 3FS's section `mgmtd_client`.

use serde::{Deserialize, Serialize};
use valor_config::Duration;

/// Settings of a [`MgmtdClient`](super::MgmtdClient). The defaults are a server's.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct MgmtdClientConfig {
    /// Addresses of managers, such as `TCP://10.0.0.1:8000`. RDMA addresses are dialled as TCP.
    pub mgmtd_server_addresses: Vec<String>,
    /// Fetch routing information regularly.
    pub enable_auto_refresh: bool,
    /// How often.
    pub auto_refresh_interval: Duration,
    /// Send heartbeats regularly (servers).
    pub enable_auto_heartbeat: bool,
    /// How often.
    pub auto_heartbeat_interval: Duration,
    /// Extend the client session regularly (clients).
    pub enable_auto_extend_client_session: bool,
    /// How often.
    pub auto_extend_client_session_interval: Duration,
    /// Use routing information of a manager that has just become primary, although nodes are still missing.
    pub accept_incomplete_routing_info_during_mgmtd_bootstrapping: bool,
    /// Deadline of a call to a manager (3FS: `net_client.default_timeout`).
    pub rpc_timeout: Duration,
}

impl Default for MgmtdClientConfig {
    fn default() -> Self {
        let interval = Duration::from_secs(10);
        MgmtdClientConfig {
            mgmtd_server_addresses: Vec::new(),
            enable_auto_refresh: true,
            auto_refresh_interval: interval,
            enable_auto_heartbeat: true,
            auto_heartbeat_interval: interval,
            enable_auto_extend_client_session: false,
            auto_extend_client_session_interval: interval,
            accept_incomplete_routing_info_during_mgmtd_bootstrapping: true,
            rpc_timeout: Duration::from_secs(1),
        }
    }
}

impl MgmtdClientConfig {
    /// Keys below this section that a hot update must not change.
    pub const COLD: &'static [&'static str] = &["mgmtd_server_addresses"];
    /// Keys below this section that C++ 3FS has and that have no effect here.
    pub const IGNORED: &'static [&'static str] = &["work_queue_size", "network_type"];

    /// Defaults of a client with a session.
    pub fn for_client() -> Self {
        Self { enable_auto_heartbeat: false, enable_auto_extend_client_session: true, ..Self::default() }
    }

    /// Defaults of a command line tool: routing information every second, nothing else.
    pub fn for_admin() -> Self {
        Self {
            auto_refresh_interval: Duration::from_secs(1),
            enable_auto_heartbeat: false,
            ..Self::default()
        }
    }

    /// Short intervals, for clusters on one machine and for tests.
    #[must_use]
    pub fn fast(self) -> Self {
        Self {
            auto_refresh_interval: Duration::from_millis(200),
            auto_heartbeat_interval: Duration::from_millis(500),
            auto_extend_client_session_interval: Duration::from_secs(1),
            ..self
        }
    }

    /// Rules between and within values.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn check(&self) -> Result<(), String> {
        for text in &self.mgmtd_server_addresses {
            text.parse::<valor_protocol::Address>()
                .map_err(|error| format!("mgmtd_server_addresses: {error}"))?;
        }
        let intervals = [
            ("auto_refresh_interval", self.auto_refresh_interval),
            ("auto_heartbeat_interval", self.auto_heartbeat_interval),
            ("auto_extend_client_session_interval", self.auto_extend_client_session_interval),
            ("rpc_timeout", self.rpc_timeout),
        ];
        match intervals.iter().find(|(_, interval)| interval.get().is_zero()) {
            Some((key, _)) => Err(format!("{key} must be more than 0")),
            None => Ok(()),
        }
    }
}
