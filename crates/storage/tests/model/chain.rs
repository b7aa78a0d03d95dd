//! A cluster manager for the model: the rules by which a chain changes, written down once more on purpose.

use std::collections::BTreeMap;

use valor_protocol::mgmtd::LocalTargetState::{self, Offline as Down, Online, Uptodate};
use valor_protocol::mgmtd::PublicTargetState::{self, Lastsrv, Offline, Serving, Syncing, Waiting};
use valor_protocol::mgmtd::{ChainInfo, ChainTargetInfo, LocalTargetInfo, RoutingInfo, TargetInfo};
use valor_protocol::{ChainId, ChainVersion, NodeId, RoutingInfoVersion, TargetId};

pub const CHAIN: ChainId = ChainId(1);

pub struct Manager {
    pub version: u32,
    pub members: Vec<(TargetId, PublicTargetState)>,
    local: BTreeMap<TargetId, LocalTargetState>,
}

impl Manager {
    pub fn new(nodes: usize) -> Manager {
        let ids = (1..=nodes as u64).map(TargetId);
        Manager {
            version: 1,
            members: ids.clone().map(|id| (id, Serving)).collect(),
            local: ids.map(|id| (id, Online)).collect(),
        }
    }

    pub fn heartbeat(&mut self, report: &LocalTargetInfo) {
        if report.chain_version == ChainVersion(0) || report.chain_version.0 >= self.version {
            self.local.insert(report.target_id, report.local_state);
        }
    }

    pub fn lost(&mut self, id: TargetId) {
        self.local.insert(id, Down);
    }

    pub fn all_serving(&self) -> bool {
        self.members.iter().all(|(_, state)| *state == Serving)
    }

    /// One run of the chain updater.
    pub fn tick(&mut self) {
        let next = self.next();
        if next != self.members {
            self.members = next;
            self.version += 1;
        }
    }

    fn next(&self) -> Vec<(TargetId, PublicTargetState)> {
        let mut next: Vec<(TargetId, PublicTargetState)> = Vec::new();
        for group in [Serving, Lastsrv, Syncing, Waiting, Offline] {
            for &(id, state) in self.members.iter().filter(|(_, state)| *state == group) {
                let has = |wanted| next.iter().any(|(_, state)| *state == wanted);
                let local = self.local[&id];
                let alive = matches!(local, Online | Uptodate);
                let to = match state {
                    Serving if alive => Serving,
                    Serving if !has(Lastsrv) => Lastsrv,
                    Serving => Offline,
                    Lastsrv if has(Serving) => Offline,
                    Lastsrv if alive => Serving,
                    Lastsrv => Lastsrv,
                    Syncing if local == Uptodate => Serving,
                    Syncing if local == Online && has(Serving) => Syncing,
                    Syncing if local == Online => Waiting,
                    Syncing => Offline,
                    _ if has(Serving) && !has(Syncing) && local == Online => Syncing,
                    _ if alive => Waiting,
                    _ => Offline,
                };
                next.push((id, to));
            }
        }
        if next.iter().any(|(_, state)| *state == Serving) {
            next.iter_mut().filter(|(_, state)| *state == Lastsrv).for_each(|(_, state)| *state = Offline);
        }
        let order = [Serving, Lastsrv, Syncing, Waiting, Offline];
        next.sort_by_key(|(_, state)| order.iter().position(|o| o == state));
        next
    }

    pub fn routing(&self) -> RoutingInfo {
        let mut info = RoutingInfo {
            routing_info_version: RoutingInfoVersion(u64::from(self.version)),
            ..Default::default()
        };
        let targets =
            self.members.iter().map(|&(target_id, public_state)| ChainTargetInfo { target_id, public_state });
        let chain = ChainInfo {
            chain_id: CHAIN,
            chain_version: ChainVersion(self.version),
            targets: targets.collect(),
            ..Default::default()
        };
        info.chains.insert(CHAIN, chain);
        for &(target_id, public_state) in &self.members {
            let node_id = Some(NodeId(target_id.0 as u32));
            info.targets
                .insert(target_id, TargetInfo { target_id, public_state, node_id, ..Default::default() });
        }
        info
    }
}
