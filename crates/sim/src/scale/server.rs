//! A storage server as a manager sees it.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use valor_protocol::app::FbsAppInfo;
use valor_protocol::mgmtd::{
    HeartbeatDetail, HeartbeatInfo, HeartbeatReq, LocalTargetInfo, LocalTargetState, PublicTargetState,
    RoutingInfo, StorageHeartbeatInfo,
};
use valor_protocol::{ChainId, ChainVersion, HeartbeatVersion, NodeId, RoutingInfoVersion, TargetId};
use valor_wire::{UtcTime, to_bytes};

use crate::cluster::CLUSTER;

/// How long a target takes to be filled.
const FILL: Duration = Duration::from_secs(5);

/// A storage server.
pub struct Server {
    app: FbsAppInfo,
    targets: Vec<Target>,
    hb_version: u64,
    /// Version of the routing information it has.
    pub known: RoutingInfoVersion,
    down_until: Option<Instant>,
}

struct Target {
    id: TargetId,
    chain: ChainId,
    version: ChainVersion,
    local: LocalTargetState,
    filling: Option<Instant>,
}

impl Server {
    /// A server that has these targets of new chains.
    pub fn new(id: NodeId, targets: impl IntoIterator<Item = (TargetId, ChainId)>) -> Self {
        let target = |(id, chain)| Target {
            id,
            chain,
            version: ChainVersion(1),
            local: LocalTargetState::Uptodate,
            filling: None,
        };
        Self {
            app: FbsAppInfo { node_id: id, hostname: format!("storage{id}"), ..FbsAppInfo::default() },
            targets: targets.into_iter().map(target).collect(),
            hb_version: 0,
            known: RoutingInfoVersion(0),
            down_until: None,
        }
    }

    /// Whether it answers and asks.
    pub fn is_up(&self) -> bool {
        self.down_until.is_none_or(|until| until <= Instant::now())
    }

    /// Ends for a time; what it knew is gone then.
    pub fn fail(&mut self, time: Duration) {
        self.down_until = Some(Instant::now() + time);
        self.known = RoutingInfoVersion(0);
        for target in &mut self.targets {
            target.local = LocalTargetState::Online;
            target.filling = None;
        }
    }

    /// The next heartbeat.
    pub fn heartbeat(&mut self, now: UtcTime) -> Bytes {
        let filled = |since: &Instant| since.elapsed() >= FILL;
        for target in self.targets.iter_mut().filter(|target| target.filling.as_ref().is_some_and(filled)) {
            target.local = LocalTargetState::Uptodate;
        }
        let report = |target: &Target| LocalTargetInfo {
            target_id: target.id,
            local_state: target.local,
            disk_index: Some(0),
            used_size: 1 << 30,
            chain_version: target.version,
            low_space: false,
        };
        let targets = self.targets.iter().map(report).collect();
        self.hb_version += 1;
        to_bytes(&HeartbeatReq {
            cluster_id: CLUSTER.into(),
            info: HeartbeatInfo {
                info: HeartbeatDetail::StorageHeartbeatInfo(StorageHeartbeatInfo { targets }),
                app: self.app.clone(),
                hb_version: HeartbeatVersion(self.hb_version),
                ..HeartbeatInfo::default()
            },
            timestamp: now,
            ..HeartbeatReq::default()
        })
    }

    /// Takes in what chains are like now.
    pub fn learn(&mut self, routing: &RoutingInfo) {
        self.known = routing.routing_info_version;
        for target in &mut self.targets {
            let Some(chain) = routing.chains.get(&target.chain) else { continue };
            target.version = chain.chain_version;
            let member = chain.targets.iter().find(|member| member.target_id == target.id);
            match member.map(|member| member.public_state) {
                Some(PublicTargetState::Serving) => {
                    target.local = LocalTargetState::Uptodate;
                    target.filling = None;
                }
                Some(PublicTargetState::Syncing) => {
                    target.filling.get_or_insert_with(Instant::now);
                }
                _ => {
                    target.local = LocalTargetState::Online;
                    target.filling = None;
                }
            }
        }
    }
}
