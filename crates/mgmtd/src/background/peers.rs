//! Heartbeats of a manager that is not primary to the one that is.

use super::next_round;
use crate::Mgmtd;
use std::sync::Arc;
use valor_protocol::mgmtd::{
    HeartbeatDetail, HeartbeatInfo, HeartbeatReq, MgmtdHeartbeatInfo, MgmtdLeaseInfo, methods,
};
use valor_protocol::status::code;
use valor_protocol::{Address, HeartbeatVersion, Status, UtcTime};

pub(super) async fn run(mgmtd: Arc<Mgmtd>) {
    let mut versions = Versions::default();
    while next_round(&mgmtd, |config| config.send_heartbeat_interval).await {
        if let Some(lease) = mgmtd.other_primary() {
            mgmtd.send_heartbeat(&lease, &mut versions).await;
        }
    }
}

/// Numbers of the heartbeats to one primary.
#[derive(Default)]
struct Versions {
    lease_start: UtcTime,
    last: u64,
}

impl Versions {
    fn next(&mut self, lease: &MgmtdLeaseInfo) -> HeartbeatVersion {
        if self.lease_start != lease.lease_start {
            *self = Self { lease_start: lease.lease_start, last: 0 };
        }
        self.last = self.last.saturating_add(1);
        HeartbeatVersion(self.last)
    }

    /// The primary knows a later one, of this manager's life before its restart.
    fn refused(&mut self, status: &Status) {
        if status.code == code::MGMTD_HEARTBEAT_VERSION_STALE
            && let Ok(known) = status.message.parse()
        {
            self.last = known;
        }
    }
}

impl Mgmtd {
    fn other_primary(&self) -> Option<MgmtdLeaseInfo> {
        let wanted = self.config().send_heartbeat;
        self.trusted_lease().filter(|lease| wanted && lease.primary.node_id != self.own_id())
    }

    async fn send_heartbeat(&self, lease: &MgmtdLeaseInfo, versions: &mut Versions) {
        let primary = lease.primary.node_id.0;
        let Some(address) = service_address(lease) else {
            tracing::warn!(primary, "the primary has no address to send heartbeats to");
            return;
        };
        let req = self.own_heartbeat(versions.next(lease));
        match self.peers().call::<methods::Heartbeat>(address, &req, &Default::default()).await {
            Ok(rsp) => {
                if let Some(config) = rsp.config {
                    self.apply_config(&config);
                }
            }
            Err(status) => {
                versions.refused(&status);
                tracing::warn!(primary, %status, "heartbeat to the primary failed");
            }
        }
    }

    fn own_heartbeat(&self, hb_version: HeartbeatVersion) -> HeartbeatReq {
        let own = self.data().read().own.clone();
        let info = HeartbeatInfo {
            info: HeartbeatDetail::MgmtdHeartbeatInfo(MgmtdHeartbeatInfo::default()),
            app: own.app,
            hb_version,
            config_version: own.config_version,
            config_status: (self.hooks().config_status)(),
        };
        HeartbeatReq {
            cluster_id: self.cluster_id().to_owned(),
            info,
            timestamp: self.utc_now(),
            ..HeartbeatReq::default()
        }
    }
}

fn service_address(lease: &MgmtdLeaseInfo) -> Option<Address> {
    let groups = lease.primary.service_groups.iter();
    let mut serving = groups.filter(|group| group.services.contains(methods::SERVICE));
    serving.find_map(|group| group.endpoints.first().copied())
}
