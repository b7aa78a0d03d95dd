//! What each local target is in its chain (`src/storage/service/TargetMap.cc`).
//!
//! A [`TargetMap`] is a value: it is copied, changed and published as a whole, so that a request works on one
//! consistent view. `S` is the handle of an open target; the rules here never look into it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use valor_protocol::mgmtd::{ChainInfo, LocalTargetState, PublicTargetState, RoutingInfo, TargetInfo};
use valor_protocol::mgmtd::{LocalTargetInfo, NodeInfo};
use valor_protocol::status::code;
use valor_protocol::storage::{Successor, Target, VersionedChainId};
use valor_protocol::{Address, ChainId, ChainVersion, RoutingInfoVersion, Status, TargetId};

/// Name of the storage service among a node's services.
const SERVICE: &str = "StorageSerde";

/// A target of this node.
#[derive(Clone, Debug)]
pub struct LocalTarget<S> {
    /// The target as `queryChunk` shows it.
    pub info: Target,
    /// Directory.
    pub path: PathBuf,
    /// The open target; absent while it is offline.
    pub store: Option<S>,
}

impl<S> LocalTarget<S> {
    /// Nothing but an administrator brings it back.
    pub fn unrecoverably_offline(&self) -> bool {
        let by_hand = self.info.offline_upon_user_request || self.info.disk_error;
        self.info.local_state == LocalTargetState::Offline && by_hand
    }

    /// True if it takes part in replication.
    pub fn is_active(&self) -> bool {
        is_active(self.info.public_state)
    }

    /// True if it has all data.
    pub fn is_up_to_date(&self) -> bool {
        self.info.local_state == LocalTargetState::Uptodate
    }

    /// Chain version of now.
    pub fn chain_ver(&self) -> ChainVersion {
        self.info.v_chain_id.chain_ver
    }

    /// True if there is a successor and it is being filled.
    pub fn successor_is_syncing(&self) -> bool {
        self.info.successor.as_ref().is_some_and(|s| s.target_info.public_state == PublicTargetState::Syncing)
    }

    /// Where the successor's storage service is reached, else its first endpoint; 4033 without a successor, 4034 without
    /// an endpoint.
    pub fn successor_address(&self) -> Result<Address, Status> {
        let Some(successor) = &self.info.successor else {
            return Err(Status::new(code::STORAGE_NO_SUCCESSOR_TARGET, "no successor"));
        };
        endpoint(&successor.node_info).ok_or_else(|| {
            let text = format!("successor {} has no address", successor.target_info.target_id);
            Status::new(code::STORAGE_NO_SUCCESSOR_ADDR, text)
        })
    }
}

/// What a new routing information asks to be done besides the new map.
#[derive(Debug)]
pub struct Effects<S> {
    /// Targets that lost their place: to be opened anew once nobody uses them.
    pub closed: Vec<(TargetId, S)>,
    /// Targets whose pending versions are to be committed with this chain version before they serve.
    pub commit_pending: Vec<(S, ChainVersion)>,
    /// Oddities in the routing information, for the log.
    pub complaints: Vec<String>,
}

impl<S> Default for Effects<S> {
    fn default() -> Self {
        Effects { closed: Vec::new(), commit_pending: Vec::new(), complaints: Vec::new() }
    }
}

/// The targets of this node and their places in their chains.
#[derive(Clone, Debug)]
pub struct TargetMap<S> {
    version: RoutingInfoVersion,
    targets: BTreeMap<TargetId, Arc<LocalTarget<S>>>,
    chains: HashMap<ChainId, TargetId>,
    syncing: Vec<VersionedChainId>,
}

impl<S> Default for TargetMap<S> {
    fn default() -> Self {
        TargetMap {
            version: RoutingInfoVersion::default(),
            targets: BTreeMap::new(),
            chains: HashMap::new(),
            syncing: Vec::new(),
        }
    }
}

/// Looking up.
impl<S> TargetMap<S> {
    /// All targets.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<LocalTarget<S>>> {
        self.targets.values()
    }

    /// Chains whose next target is being filled from here.
    pub fn syncing_chains(&self) -> &[VersionedChainId] {
        &self.syncing
    }

    /// Version of the routing information it was made from.
    pub fn version(&self) -> RoutingInfoVersion {
        self.version
    }

    /// A target by id; 7004 if it is not here.
    pub fn by_id(&self, id: TargetId) -> Result<&Arc<LocalTarget<S>>, Status> {
        self.targets.get(&id).ok_or_else(|| {
            Status::new(code::STORAGE_CLIENT_ROUTING_ERROR, format!("target TargetId({id}) not found"))
        })
    }

    /// The target of a chain, which must be open; 7004 chain unknown, 7014 other chain version (unless
    /// `any_version`), 4030 offline.
    pub fn by_chain(
        &self,
        chain: VersionedChainId,
        any_version: bool,
    ) -> Result<&Arc<LocalTarget<S>>, Status> {
        let id = chain.chain_id;
        let Some(target_id) = self.chains.get(&id) else {
            let text = format!("chain ChainId({id}) not found");
            return Err(Status::new(code::STORAGE_CLIENT_ROUTING_ERROR, text));
        };
        let target = self.by_id(*target_id)?;
        let current = target.info.v_chain_id;
        if current != chain && !any_version {
            let text = format!(
                "chain ChainId({id}) version mismatch request ChainVersion({}) != local ChainVersion({})",
                chain.chain_ver, current.chain_ver
            );
            return Err(Status::new(code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH, text));
        }
        if target.info.local_state == LocalTargetState::Offline || target.store.is_none() {
            let text = format!("chain ChainId({id}) target TargetId({target_id}) is offline");
            return Err(Status::new(code::STORAGE_TARGET_OFFLINE, text));
        }
        Ok(target)
    }

    /// The storage part of a heartbeat. `used` tells the bytes used by an open target; `offline` reports all as gone.
    pub fn heartbeat(&self, offline: bool, used: impl Fn(&S) -> u64) -> Vec<LocalTargetInfo> {
        let describe = |target: &LocalTarget<S>| {
            let local_state = if offline { LocalTargetState::Offline } else { target.info.local_state };
            let up = local_state != LocalTargetState::Offline;
            LocalTargetInfo {
                target_id: target.info.target_id,
                local_state,
                disk_index: Some(target.info.disk_index),
                used_size: target.store.as_ref().filter(|_| up).map_or(0, &used),
                chain_version: if up { target.chain_ver() } else { ChainVersion(0) },
                low_space: target.info.low_space,
            }
        };
        self.targets.values().map(|target| describe(target)).collect()
    }

    /// True if no target is still taken for alive by mgmtd, as it must be before a restarted node offers them again
    /// (`Components.cc`, waitRoutingInfo).
    pub fn all_noticed_offline(&self) -> bool {
        let alive = [PublicTargetState::Serving, PublicTargetState::Syncing, PublicTargetState::Waiting];
        !self.targets.values().any(|target| alive.contains(&target.info.public_state))
    }
}

/// Changing.
impl<S: Clone> TargetMap<S> {
    /// Adds a target that was opened, or opened again after it went offline; 4032 if it is there already.
    pub fn add(&mut self, target: LocalTarget<S>) -> Result<(), Status> {
        let id = target.info.target_id;
        if let Some(present) = self.targets.get(&id)
            && present.info.local_state != LocalTargetState::Offline
        {
            return Err(Status::new(
                code::STORAGE_TARGET_STATE_INVALID,
                format!("target {id} already exists"),
            ));
        }
        self.targets.insert(id, Arc::new(target));
        Ok(())
    }

    /// Forgets a target.
    pub fn remove(&mut self, id: TargetId) -> Result<(), Status> {
        self.by_id(id)?;
        self.targets.remove(&id);
        self.chains.retain(|_, target| *target != id);
        Ok(())
    }

    /// Takes a target offline for an administrator; 4030 if it is offline for good already. Returns its handle.
    pub fn take_offline(&mut self, id: TargetId) -> Result<Option<S>, Status> {
        self.by_id(id)?;
        let target = self.get_mut(id);
        if target.unrecoverably_offline() {
            return Err(Status::new(code::STORAGE_TARGET_OFFLINE, format!("target {id} is already offline")));
        }
        target.info.offline_upon_user_request = true;
        target.info.local_state = LocalTargetState::Offline;
        Ok(target.store.take())
    }

    /// Takes all targets of a disk offline because it fails. Returns those that were not yet.
    pub fn fail_disk(&mut self, disk: &Path) -> Vec<(TargetId, Option<S>)> {
        let mut failed = Vec::new();
        for id in self.on_disk(disk) {
            let target = self.get_mut(id);
            target.info.disk_error = true;
            target.info.local_state = LocalTargetState::Offline;
            failed.push((id, target.store.take()));
        }
        failed
    }

    /// Records how full a disk is.
    pub fn set_space(&mut self, disk: &Path, low: bool, reject_create: bool) {
        for id in self.on_disk(disk) {
            let info = &self.targets[&id].info;
            if (info.low_space, info.reject_create_chunk) != (low, reject_create) {
                let target = self.get_mut(id);
                target.info.low_space = low;
                target.info.reject_create_chunk = reject_create;
            }
        }
    }

    /// The predecessor has brought everything: the chain's target is up to date.
    pub fn sync_done(&mut self, chain: VersionedChainId) -> Result<TargetId, Status> {
        let id = self.by_chain(chain, false)?.info.target_id;
        self.get_mut(id).info.local_state = LocalTargetState::Uptodate;
        Ok(id)
    }

    /// Takes over a routing information; 7004 if it is older than the present one.
    ///
    /// # Errors
    /// Only for an older version. What does not fit (an unknown target, two local targets in one chain, another
    /// chain than the target was created for) leaves that target without a chain and is reported in the effects.
    pub fn apply(
        &mut self,
        routing: &RoutingInfo,
        chain_of: impl Fn(&S) -> ChainId,
    ) -> Result<Effects<S>, Status> {
        if self.version > routing.routing_info_version {
            let text = format!("routing info expired: {} > {}", self.version, routing.routing_info_version);
            return Err(Status::new(code::STORAGE_CLIENT_ROUTING_ERROR, text));
        }
        self.version = routing.routing_info_version;
        self.chains.clear();
        self.syncing.clear();
        let mut effects = Effects::default();
        let mut placed: HashMap<TargetId, (ChainInfo, usize)> = HashMap::new();
        for chain in routing.chains.values() {
            if let Some(at) = chain.targets.iter().position(|t| self.targets.contains_key(&t.target_id)) {
                let id = chain.targets[at].target_id;
                if placed.insert(id, (chain.clone(), at)).is_some() {
                    effects.complaints.push(format!("target {id} is in more than one chain"));
                }
            }
        }
        let ids: Vec<_> = self.targets.keys().copied().collect();
        for id in ids {
            self.place(id, placed.get(&id), routing, &chain_of, &mut effects);
        }
        Ok(effects)
    }

    /// Gives one target its place.
    fn place(
        &mut self,
        id: TargetId,
        place: Option<&(ChainInfo, usize)>,
        routing: &RoutingInfo,
        chain_of: &impl Fn(&S) -> ChainId,
        effects: &mut Effects<S>,
    ) {
        let mut target = LocalTarget::clone(&self.targets[&id]);
        let before = target.info.clone();
        target.info.is_head = false;
        target.info.is_tail = false;
        target.info.v_chain_id = VersionedChainId::default();
        target.info.public_state = PublicTargetState::Invalid;
        target.info.successor = None;
        if let Some((chain, at)) = place {
            match fits(&target, chain, id, routing, chain_of) {
                Ok(info) => self.enter(&mut target, &before, chain, *at, info.public_state, routing),
                Err(complaint) => effects.complaints.push(complaint),
            }
        }
        let info = &target.info;
        if before.local_state != LocalTargetState::Offline && info.local_state == LocalTargetState::Offline {
            effects.closed.extend(target.store.take().map(|store| (id, store)));
        }
        // A last-serving target that returns, or a target that serves without having been filled (the first of its
        // chain), has the newest data there is; what it has pending may have been read or acknowledged elsewhere.
        let returned = [PublicTargetState::Serving, PublicTargetState::Syncing, PublicTargetState::Waiting]
            .contains(&info.public_state)
            && before.public_state == PublicTargetState::Lastsrv;
        let first =
            before.local_state == LocalTargetState::Online && info.local_state == LocalTargetState::Uptodate;
        if let (true, Some(store)) = (returned || first, &target.store) {
            effects.commit_pending.push((store.clone(), target.chain_ver()));
        }
        self.targets.insert(id, Arc::new(target));
    }

    /// Puts a target into its chain.
    fn enter(
        &mut self,
        target: &mut LocalTarget<S>,
        before: &Target,
        chain: &ChainInfo,
        at: usize,
        state: PublicTargetState,
        routing: &RoutingInfo,
    ) {
        let v_chain_id = VersionedChainId { chain_id: chain.chain_id, chain_ver: chain.chain_version };
        self.chains.insert(chain.chain_id, target.info.target_id);
        let local_state = next_local_state(before, state, chain.chain_version);
        target.info.v_chain_id = v_chain_id;
        target.info.chain_id = chain.chain_id;
        target.info.public_state = state;
        target.info.local_state = local_state;
        if !is_active(state) || target.info.local_state == LocalTargetState::Offline {
            return;
        }
        target.info.is_head = at == 0;
        // Only the immediate next target counts.
        let next = chain.targets.get(at + 1).filter(|next| is_active(next.public_state));
        target.info.successor = next.map(|next| successor(next.target_id, next.public_state, routing));
        target.info.is_tail = target.info.successor.is_none();
        if target.successor_is_syncing() {
            self.syncing.push(v_chain_id);
        }
    }

    fn on_disk(&self, disk: &Path) -> Vec<TargetId> {
        let here =
            |target: &LocalTarget<S>| target.path.parent() == Some(disk) && !target.unrecoverably_offline();
        self.targets.values().filter(|t| here(t)).map(|t| t.info.target_id).collect()
    }

    /// The target, which must exist, for changing: a copy if the map was published.
    fn get_mut(&mut self, id: TargetId) -> &mut LocalTarget<S> {
        Arc::make_mut(self.targets.get_mut(&id).expect("target was looked up"))
    }
}

/// Checks that a target belongs where the routing information puts it.
fn fits<'a, S>(
    target: &LocalTarget<S>,
    chain: &ChainInfo,
    id: TargetId,
    routing: &'a RoutingInfo,
    chain_of: &impl Fn(&S) -> ChainId,
) -> Result<&'a TargetInfo, String> {
    let own = target.store.as_ref().map_or(target.info.chain_id, chain_of);
    if own != ChainId(0) && own != chain.chain_id {
        return Err(format!("target {id} was created for chain {own}, routing has it in {}", chain.chain_id));
    }
    routing.targets.get(&id).ok_or_else(|| format!("target {id} of chain {} is unknown", chain.chain_id))
}

fn successor(id: TargetId, public_state: PublicTargetState, routing: &RoutingInfo) -> Successor {
    let target_info =
        routing.targets.get(&id).cloned().unwrap_or(TargetInfo { target_id: id, ..Default::default() });
    let node = target_info.node_id.and_then(|node| routing.nodes.get(&node));
    Successor {
        node_info: node.cloned().unwrap_or_else(NodeInfo::default),
        target_info: TargetInfo { public_state, ..target_info },
    }
}

/// Where a target's storage service is reached.
pub fn address(target: TargetId, routing: &RoutingInfo) -> Option<Address> {
    let node = routing.targets.get(&target)?.node_id?;
    endpoint(routing.nodes.get(&node)?)
}

fn endpoint(node: &NodeInfo) -> Option<Address> {
    let groups = &node.app.service_groups;
    let named = groups.iter().find(|group| group.services.contains(SERVICE));
    named.or(groups.first()).and_then(|group| group.endpoints.first()).copied()
}

/// Serving or being filled.
pub fn is_active(state: PublicTargetState) -> bool {
    matches!(state, PublicTargetState::Serving | PublicTargetState::Syncing)
}

/// A target that lost its place while up to date has to be opened again; one that serves is up to date.
///
/// Being up to date is also lost when a target that is being filled, or was serving, is seen to be filled under another
/// chain version: it may have missed a version in which it got no updates. C++ 3FS lets it go on.
fn next_local_state(before: &Target, public: PublicTargetState, chain_ver: ChainVersion) -> LocalTargetState {
    use PublicTargetState::{Lastsrv, Offline, Serving, Syncing, Waiting};
    match (before.local_state, public) {
        (LocalTargetState::Uptodate, Offline | Lastsrv | Waiting) => LocalTargetState::Offline,
        (LocalTargetState::Uptodate, Syncing) if before.public_state == Serving => LocalTargetState::Offline,
        (LocalTargetState::Uptodate, Syncing) if before.v_chain_id.chain_ver != chain_ver => {
            LocalTargetState::Online
        }
        (LocalTargetState::Online, Serving) => LocalTargetState::Uptodate,
        (local, _) => local,
    }
}

#[cfg(test)]
#[path = "roles_tests.rs"]
mod tests;
