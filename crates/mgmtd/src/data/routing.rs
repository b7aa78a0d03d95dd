//! Nodes, chain tables, chains and targets (`src/mgmtd/service/RoutingInfo.cc`).

use crate::chain_rules;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use valor_protocol::mgmtd::{
    ChainInfo, ChainTable, ChainTargetInfo, LocalTargetInfo, LocalTargetState, NodeInfo, NodeStatus,
    PublicTargetState, RoutingInfo, TargetInfo,
};
use valor_protocol::{
    ChainId, ChainTableId, ChainTableVersion, HeartbeatVersion, NodeId, RoutingInfoVersion, TargetId,
};

/// A server.
#[derive(Clone, Debug)]
pub struct Node {
    /// What others are told.
    pub info: NodeInfo,
    /// When it was last heard, loaded or changed by an administrator.
    pub heard: Instant,
    /// Of its last heartbeat under this lease.
    pub hb_version: HeartbeatVersion,
}

/// A chain's member.
#[derive(Clone, Debug)]
pub struct Target {
    /// What others are told.
    pub info: TargetInfo,
    /// When its node last reported it, or its chain last changed (the node has to learn of that before it can
    /// report something that counts).
    heard: Instant,
    /// Its node has reported it since this manager is primary or the target exists.
    reported: bool,
    /// Where the store says it is; not known before it was looked up.
    stored: Option<Location>,
}

type Location = (Option<NodeId>, Option<u32>);

/// Who has not been heard for too long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Servers that count as failed now.
    pub nodes: Vec<NodeId>,
    /// Targets that count as offline now.
    pub targets: Vec<TargetId>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Routing {
    version: RoutingInfoVersion,
    nodes: BTreeMap<NodeId, Node>,
    chain_tables: BTreeMap<ChainTableId, BTreeMap<ChainTableVersion, ChainTable>>,
    chains: BTreeMap<ChainId, ChainInfo>,
    targets: BTreeMap<TargetId, Target>,
    /// Chains that are left alone until their targets have reported, and since when.
    newborn: BTreeMap<ChainId, Instant>,
    /// Chains to look at in the next update.
    touched: BTreeSet<ChainId>,
    /// A target's state or place changed: the next update publishes it even if no chain changes.
    targets_changed: bool,
    /// A node's state changed, which is published less often.
    nodes_changed: bool,
    orphans: BTreeMap<TargetId, TargetInfo>,
    /// Targets whose place may not be the stored one.
    moved: BTreeSet<TargetId>,
    /// No target that is up was heard last before this; none at all when nothing is known.
    heard_since: Option<Instant>,
}

impl Routing {
    /// The state right after loading: nobody is alive, every chain is new.
    pub fn load(
        version: RoutingInfoVersion,
        nodes: Vec<NodeInfo>,
        chain_tables: Vec<ChainTable>,
        chains: Vec<ChainInfo>,
        locations: &[TargetInfo],
        now: Instant,
    ) -> Self {
        let mut routing = Self { version, ..Self::default() };
        for info in nodes {
            routing.put_node(info, now);
        }
        for table in chain_tables {
            routing.put_chain_table(table);
        }
        for chain in chains {
            routing.insert_chain(chain, now);
        }
        for target in routing.targets.values_mut() {
            target.stored = Some((None, None));
        }
        for location in locations {
            if let Some(target) = routing.targets.get_mut(&location.target_id) {
                target.stored = Some((location.node_id, location.disk_index));
                target.info.node_id = location.node_id;
                target.info.disk_index = location.disk_index;
            }
        }
        routing
    }

    /// Version that callers compare with theirs.
    pub fn version(&self) -> RoutingInfoVersion {
        self.version
    }

    /// The version that the next change will have.
    pub fn next_version(&self) -> RoutingInfoVersion {
        RoutingInfoVersion(self.version.0.wrapping_add(1))
    }

    /// Publishes what changed: after this, callers see it.
    pub fn bump(&mut self) {
        self.version = self.next_version();
        self.nodes_changed = false;
    }

    /// Whether nodes changed since the last [`bump`](Self::bump).
    pub fn nodes_changed(&self) -> bool {
        self.nodes_changed
    }

    /// Nodes.
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// Adds or replaces a node; its heartbeats go on where they were.
    pub fn put_node(&mut self, info: NodeInfo, now: Instant) {
        let id = info.app.node_id;
        let hb_version = self.nodes.get(&id).map_or(HeartbeatVersion(0), |node| node.hb_version);
        self.nodes.insert(id, Node { info, heard: now, hb_version });
    }

    /// Changes what is known of a node without it having been heard.
    pub fn edit_node(&mut self, id: NodeId, edit: impl FnOnce(&mut NodeInfo)) {
        if let Some(node) = self.nodes.get_mut(&id) {
            edit(&mut node.info);
        }
    }

    /// A node's heartbeat was accepted.
    pub fn node_heard(&mut self, info: NodeInfo, hb_version: HeartbeatVersion, now: Instant) {
        let old = self.nodes.get(&info.app.node_id);
        self.nodes_changed |= old.is_none_or(|node| node.info.status != info.status);
        self.nodes.insert(info.app.node_id, Node { info, heard: now, hb_version });
    }

    /// Forgets a node and the targets without chain that it reported.
    pub fn remove_node(&mut self, id: NodeId) {
        self.nodes.remove(&id);
        self.orphans.retain(|_, orphan| orphan.node_id != Some(id));
    }

    /// The newest version of a chain table.
    pub fn newest_chain_table(&self, id: ChainTableId) -> Option<&ChainTable> {
        self.chain_tables.get(&id)?.values().next_back()
    }

    /// Adds or replaces a version of a chain table.
    pub fn put_chain_table(&mut self, table: ChainTable) {
        self.chain_tables.entry(table.chain_table_id).or_default().insert(table.chain_table_version, table);
    }

    /// Chains.
    pub fn chains(&self) -> &BTreeMap<ChainId, ChainInfo> {
        &self.chains
    }

    /// A chain.
    pub fn chain(&self, id: ChainId) -> Option<&ChainInfo> {
        self.chains.get(&id)
    }

    /// Targets of all chains.
    pub fn targets(&self) -> impl Iterator<Item = &TargetInfo> {
        self.targets.values().map(|target| &target.info)
    }

    /// A target of some chain.
    pub fn target(&self, id: TargetId) -> Option<&TargetInfo> {
        self.targets.get(&id).map(|target| &target.info)
    }

    /// What a target's node last said; a target that nobody reported is offline.
    pub fn local_state(&self, id: TargetId) -> LocalTargetState {
        self.targets.get(&id).map_or(LocalTargetState::Offline, |target| target.info.local_state)
    }

    /// Targets that servers report and no chain has.
    pub fn orphans(&self) -> impl Iterator<Item = &TargetInfo> {
        self.orphans.values()
    }

    /// Number of chains that are still left alone.
    pub fn newborn_count(&self) -> usize {
        self.newborn.len()
    }

    /// Adds a chain. Its targets are in no other chain.
    pub fn insert_chain(&mut self, chain: ChainInfo, now: Instant) {
        for member in &chain.targets {
            self.insert_target(chain.chain_id, member, now);
        }
        self.newborn.insert(chain.chain_id, now);
        self.chains.insert(chain.chain_id, chain);
    }

    fn insert_target(&mut self, chain_id: ChainId, member: &ChainTargetInfo, now: Instant) {
        let info = TargetInfo {
            target_id: member.target_id,
            public_state: member.public_state,
            local_state: LocalTargetState::Offline,
            chain_id,
            ..TargetInfo::default()
        };
        // A target that was in no chain has no record of its place.
        let target = Target { info, heard: now, reported: false, stored: Some((None, None)) };
        self.targets.insert(member.target_id, target);
        self.orphans.remove(&member.target_id);
    }

    /// Replaces a chain by a changed one: members may have come, gone, moved or changed their state.
    pub fn put_chain(&mut self, chain: ChainInfo, now: Instant) {
        let members: BTreeSet<TargetId> = chain.targets.iter().map(|member| member.target_id).collect();
        if let Some(old) = self.chains.get(&chain.chain_id) {
            let ids = old.targets.iter().map(|member| member.target_id);
            for gone in ids.filter(|id| !members.contains(id)) {
                self.targets.remove(&gone);
            }
        }
        for member in &chain.targets {
            match self.targets.get_mut(&member.target_id) {
                Some(target) => {
                    target.info.public_state = member.public_state;
                    target.heard = now;
                }
                None => self.insert_target(chain.chain_id, member, now),
            }
        }
        self.touched.insert(chain.chain_id);
        self.chains.insert(chain.chain_id, chain);
    }

    /// Takes in what a storage server says of its targets. With `ignore_stale`, what it says of a chain that has
    /// changed since is left out.
    pub fn report(
        &mut self,
        node: NodeId,
        reports: &[LocalTargetInfo],
        ignore_stale: bool,
        now: Instant,
    ) -> ReportOutcome {
        let mut outcome = ReportOutcome::default();
        self.orphans.retain(|_, orphan| orphan.node_id != Some(node));
        for report in reports {
            let Some(target) = self.targets.get_mut(&report.target_id) else {
                let orphan = TargetInfo {
                    target_id: report.target_id,
                    local_state: report.local_state,
                    node_id: Some(node),
                    disk_index: report.disk_index,
                    used_size: report.used_size,
                    ..TargetInfo::default()
                };
                self.orphans.insert(report.target_id, orphan);
                outcome.orphans += 1;
                continue;
            };
            let chain_id = target.info.chain_id;
            let known = self.chains.get(&chain_id).map(|chain| chain.chain_version);
            let stale =
                report.chain_version.0 != 0 && known.is_some_and(|known| known > report.chain_version);
            if stale && ignore_stale {
                outcome.stale += 1;
                continue;
            }
            target.heard = now;
            target.reported = true;
            let info = &mut target.info;
            let changed = info.local_state != report.local_state;
            self.targets_changed |= changed || info.node_id != Some(node);
            info.local_state = report.local_state;
            info.node_id = Some(node);
            info.disk_index = report.disk_index;
            info.used_size = report.used_size;
            // Most reports say what is known, and then a chain that was looked at stays as it is.
            if changed {
                self.touched.insert(chain_id);
            }
            if target.stored != Some((Some(node), report.disk_index)) {
                self.moved.insert(report.target_id);
            }
            outcome.settled += usize::from(self.settle(chain_id));
        }
        outcome
    }

    /// Ends a chain's quiet time if all its targets have reported; false if it goes on or had ended.
    ///
    /// An `OFFLINE` target is not waited for: whatever it reports, no other target loses its place by it.
    fn settle(&mut self, id: ChainId) -> bool {
        if !self.newborn.contains_key(&id) {
            return false;
        }
        let reported = |member: &ChainTargetInfo| {
            member.public_state == PublicTargetState::Offline
                || self.targets.get(&member.target_id).is_some_and(|target| target.reported)
        };
        if !self.chains.get(&id).is_none_or(|chain| chain.targets.iter().all(reported)) {
            return false;
        }
        self.newborn.remove(&id);
        self.touched.insert(id);
        true
    }

    /// Ends the quiet time of chains that had `delay` for it, and names them.
    pub fn end_newborn(&mut self, delay: Duration, now: Instant) -> Vec<ChainId> {
        let old = |born: &Instant| now.saturating_duration_since(*born) >= delay;
        let ended: Vec<ChainId> =
            self.newborn.iter().filter(|(_, born)| old(born)).map(|(id, _)| *id).collect();
        for id in &ended {
            self.newborn.remove(id);
            self.touched.insert(*id);
        }
        ended
    }

    /// Who was silent for longer than `limit`.
    pub fn timeouts(&mut self, limit: Duration, now: Instant) -> Timeouts {
        let silent = |heard: Instant| now.saturating_duration_since(heard) > limit;
        let waited_for = |status: NodeStatus| {
            matches!(status, NodeStatus::HeartbeatConnected | NodeStatus::HeartbeatConnecting)
        };
        let nodes = self.nodes.iter().filter(|(_, n)| waited_for(n.info.status) && silent(n.heard));
        let nodes = nodes.map(|(id, _)| *id).collect();
        // There are many targets: they are looked at only when one of them may have been silent for so long.
        if self.heard_since.is_some_and(|since| !silent(since)) {
            return Timeouts { nodes, targets: Vec::new() };
        }
        let up = |target: &Target| target.info.local_state != LocalTargetState::Offline;
        let (mut targets, mut first) = (Vec::new(), now);
        for (id, target) in self.targets.iter().filter(|(_, target)| up(target)) {
            if silent(target.heard) {
                targets.push(*id);
            } else {
                first = first.min(target.heard);
            }
        }
        // Those found stay up until the caller says otherwise.
        self.heard_since = if targets.is_empty() { Some(first) } else { None };
        Timeouts { nodes, targets }
    }

    /// Does not count a while that ends now as anybody's silence: it was this manager that did not listen.
    pub fn forgive_silence(&mut self, length: Duration, now: Instant) {
        let later = |time: &mut Instant| *time = now.min(*time + length);
        self.nodes.values_mut().for_each(|node| later(&mut node.heard));
        self.targets.values_mut().for_each(|target| later(&mut target.heard));
        self.newborn.values_mut().for_each(later);
    }

    /// Marks nodes as failed and targets as offline.
    pub fn apply_timeouts(&mut self, timeouts: &Timeouts, now: Instant) {
        for id in &timeouts.nodes {
            self.edit_node(*id, |info| info.status = NodeStatus::HeartbeatFailed);
            self.nodes_changed = true;
        }
        for id in &timeouts.targets {
            if let Some(target) = self.targets.get_mut(id) {
                target.info.local_state = LocalTargetState::Offline;
                target.heard = now;
                self.touched.insert(target.info.chain_id);
                self.targets_changed = true;
            }
        }
    }

    /// Has every chain looked at in the next update.
    pub fn touch_all_chains(&mut self) {
        self.touched = self.chains.keys().copied().collect();
    }

    /// The chains that have to change, of those touched since the last call; and whether there is something to
    /// publish besides. If the changes cannot be stored, [`untake_changes`](Self::untake_changes).
    pub fn take_changes(&mut self, follow_preferred: bool) -> ChainChanges {
        let touched = std::mem::take(&mut self.touched);
        let settled = touched.iter().filter(|id| !self.newborn.contains_key(id));
        let chains = settled.filter_map(|id| self.chains.get(id));
        let local = |id| self.local_state(id);
        let changed: Vec<ChainInfo> =
            chains.filter_map(|chain| chain_rules::update_chain(chain, local, follow_preferred)).collect();
        let targets = std::mem::take(&mut self.targets_changed);
        ChainChanges { changed, targets, touched }
    }

    /// Puts changes back that were taken.
    pub fn untake_changes(&mut self, changes: ChainChanges) {
        self.touched.extend(changes.touched);
        self.targets_changed |= changes.targets;
    }

    /// Up to `limit` targets whose place is not the stored one.
    pub fn moved_targets(&mut self, limit: usize) -> Vec<TargetInfo> {
        let targets = &self.targets;
        let moved = |id: &TargetId| {
            targets.get(id).is_some_and(|target| {
                let at = (target.info.node_id, target.info.disk_index);
                target.info.node_id.is_some() && target.stored.is_some_and(|stored| stored != at)
            })
        };
        self.moved.retain(moved);
        self.moved.iter().take(limit).filter_map(|id| targets.get(id)).map(|t| t.info.clone()).collect()
    }

    /// The place of these targets is stored.
    pub fn targets_stored(&mut self, stored: &[TargetInfo]) {
        for info in stored {
            if let Some(target) = self.targets.get_mut(&info.target_id) {
                target.stored = Some((info.node_id, info.disk_index));
            }
        }
    }

    /// What callers of getRoutingInfo get.
    pub fn snapshot(&self, bootstrapping: bool) -> RoutingInfo {
        RoutingInfo {
            routing_info_version: self.version,
            bootstrapping,
            nodes: self.nodes.iter().map(|(id, node)| (*id, node.info.clone())).collect(),
            chain_tables: self.chain_tables.clone(),
            chains: self.chains.clone(),
            targets: self.targets.iter().map(|(id, target)| (*id, target.info.clone())).collect(),
        }
    }
}

/// What became of a storage server's report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportOutcome {
    /// Targets that no chain has.
    pub orphans: usize,
    /// Targets left out because the server does not know their chain's last change.
    pub stale: usize,
    /// Chains whose quiet time ended, since all their targets have reported.
    pub settled: usize,
}

/// Changes of chains that are due.
#[derive(Debug)]
pub struct ChainChanges {
    /// Chains with their new content.
    pub changed: Vec<ChainInfo>,
    /// Targets changed in a way that callers must see.
    pub targets: bool,
    touched: BTreeSet<ChainId>,
}
