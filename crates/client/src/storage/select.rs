//! Which replica of a chain an operation goes to (`src/client/storage/TargetSelection.cc`).

use super::config::{TargetSelection, TargetSelectionMode};
use crate::routing::{Replica, Routing};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use valor_protocol::status::code;
use valor_protocol::storage::VersionedChainId;
use valor_protocol::{ChainId, NodeId};

/// State that outlives a call.
pub(super) struct Selector {
    /// Numbers for `RoundRobin`, and scrambled for `RandomTarget` and ties.
    counter: AtomicU64,
}

/// An operation's replica, and the chain as of the routing information it was chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub chain: VersionedChainId,
    pub replica: Replica,
}

/// What a choice depends on besides routing information.
pub(super) struct Criteria<'a> {
    /// Never `Default`.
    pub mode: TargetSelectionMode,
    pub options: &'a TargetSelection,
    /// Replicas that failed: used only if there is no other, by modes that can choose.
    pub failed: &'a dyn Fn(&Chosen) -> bool,
    /// Requests in flight to a node.
    pub load: &'a dyn Fn(NodeId) -> usize,
}

impl Selector {
    pub(super) fn new(seed: u64) -> Selector {
        Selector { counter: AtomicU64::new(seed) }
    }

    fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    fn random(&self, below: usize) -> usize {
        // SplitMix64.
        let mut x = self.next().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % below.max(1) as u64) as usize
    }

    /// Chooses a replica. `assigned` counts the operations of this call by node.
    ///
    /// # Errors
    /// 7004 for an unknown chain, 7005 if no replica qualifies.
    pub(super) fn choose(
        &self,
        routing: &Routing,
        chain_id: ChainId,
        criteria: &Criteria<'_>,
        assigned: &mut HashMap<NodeId, usize>,
    ) -> Result<Chosen, u16> {
        use TargetSelectionMode as Mode;
        let info = routing.chain(chain_id).ok_or(code::STORAGE_CLIENT_ROUTING_ERROR)?;
        let chain = VersionedChainId { chain_id, chain_ver: info.version };
        let serving = info.serving.as_deref().map_err(|code| *code)?;
        let all = in_zones(routing, serving, &criteria.options.traffic_zone);
        let mut usable: Vec<Chosen> = all.into_iter().map(|replica| Chosen { chain, replica }).collect();
        let any = matches!(criteria.mode, Mode::LoadBalance | Mode::RoundRobin | Mode::RandomTarget);
        if any && usable.iter().any(|chosen| !(criteria.failed)(chosen)) {
            usable.retain(|chosen| !(criteria.failed)(chosen));
        }
        let chosen = match criteria.mode {
            _ if usable.is_empty() => None,
            Mode::LoadBalance => {
                let start = self.random(usable.len());
                usable.rotate_left(start);
                let load = |chosen: &&Chosen| {
                    let node = chosen.replica.node_id;
                    (assigned.get(&node).copied().unwrap_or(0), (criteria.load)(node))
                };
                usable.iter().min_by_key(load)
            }
            Mode::RoundRobin => usable.get((self.next() % usable.len() as u64) as usize),
            Mode::RandomTarget => usable.get(self.random(usable.len())),
            Mode::TailTarget => usable.last(),
            Mode::HeadTarget | Mode::Default => usable.first(),
            Mode::ManualMode => usable.get(criteria.options.target_index as usize),
        };
        let chosen = *chosen.ok_or(code::STORAGE_CLIENT_NOT_AVAILABLE)?;
        *assigned.entry(chosen.replica.node_id).or_default() += 1;
        Ok(chosen)
    }
}

fn in_zones(routing: &Routing, serving: &[Replica], zones: &str) -> Vec<Replica> {
    if zones.is_empty() {
        return serving.to_vec();
    }
    let zones: Vec<String> =
        zones.split([',', ' ']).filter(|zone| !zone.is_empty()).map(str::to_owned).collect();
    serving.iter().copied().filter(|replica| routing.in_zones(replica.node_id, &zones)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use TargetSelectionMode::*;
    use valor_protocol::mgmtd::*;
    use valor_protocol::*;

    fn routing() -> Routing {
        let mut info = RoutingInfo::default();
        let mut chain =
            ChainInfo { chain_id: ChainId(1), chain_version: ChainVersion(4), ..ChainInfo::default() };
        for n in 1..=3 {
            let (target_id, public_state) = (TargetId(n), PublicTargetState::Serving);
            chain.targets.push(ChainTargetInfo { target_id, public_state });
            let node_id = Some(NodeId(n as u32 * 10));
            info.targets
                .insert(target_id, TargetInfo { target_id, public_state, node_id, ..TargetInfo::default() });
            info.nodes.insert(NodeId(n as u32 * 10), NodeInfo::default());
        }
        info.chains.insert(ChainId(1), chain);
        Routing::new(info)
    }

    fn pick_many(
        mode: TargetSelectionMode,
        options: &TargetSelection,
        failed: &dyn Fn(&Chosen) -> bool,
    ) -> Result<Vec<u64>, u16> {
        let (routing, selector) = (routing(), Selector::new(5));
        let criteria = Criteria { mode, options, failed, load: &|_| 0 };
        let mut assigned = HashMap::new();
        (0..30)
            .map(|_| selector.choose(&routing, ChainId(1), &criteria, &mut assigned))
            .map(|chosen| chosen.map(|chosen| chosen.replica.target_id.0))
            .collect()
    }

    fn count(picked: &[u64]) -> [usize; 3] {
        [1, 2, 3].map(|n| picked.iter().filter(|&&target| target == n).count())
    }

    #[test]
    fn modes() {
        let none = |_: &Chosen| false;
        let options = TargetSelection::default();
        assert_eq!(count(&pick_many(LoadBalance, &options, &none).unwrap()), [10, 10, 10]);
        assert_eq!(count(&pick_many(RoundRobin, &options, &none).unwrap()), [10, 10, 10]);
        assert!(count(&pick_many(RandomTarget, &options, &none).unwrap()).iter().all(|&n| n > 2));
        assert_eq!(count(&pick_many(HeadTarget, &options, &none).unwrap()), [30, 0, 0]);
        assert_eq!(count(&pick_many(TailTarget, &options, &none).unwrap()), [0, 0, 30]);
        let second = TargetSelection { target_index: 1, ..TargetSelection::default() };
        assert_eq!(count(&pick_many(ManualMode, &second, &none).unwrap()), [0, 30, 0]);
        let fourth = TargetSelection { target_index: 3, ..TargetSelection::default() };
        assert_eq!(pick_many(ManualMode, &fourth, &none), Err(7005));
        let zone = TargetSelection { traffic_zone: "a, b".into(), ..TargetSelection::default() };
        assert_eq!(pick_many(HeadTarget, &zone, &none), Err(7005));
    }

    #[test]
    fn failed_replicas_are_avoided_if_possible() {
        let options = TargetSelection::default();
        let first_failed = |chosen: &Chosen| chosen.replica.target_id.0 == 1;
        assert_eq!(count(&pick_many(LoadBalance, &options, &first_failed).unwrap()), [0, 15, 15]);
        assert_eq!(count(&pick_many(HeadTarget, &options, &first_failed).unwrap()), [30, 0, 0]);
        assert_eq!(count(&pick_many(LoadBalance, &options, &|_| true).unwrap()), [10, 10, 10]);
    }

    #[test]
    fn load_decides_between_equals() {
        let (routing, selector) = (routing(), Selector::new(5));
        let options = TargetSelection::default();
        let load = |node: NodeId| usize::from(node != NodeId(20));
        let criteria = Criteria { mode: LoadBalance, options: &options, failed: &|_| false, load: &load };
        for _ in 0..10 {
            let chosen = selector.choose(&routing, ChainId(1), &criteria, &mut HashMap::new()).unwrap();
            assert_eq!(chosen.replica.node_id, NodeId(20));
            assert_eq!(chosen.chain.chain_ver, ChainVersion(4));
        }
        let unknown = selector.choose(&routing, ChainId(2), &criteria, &mut HashMap::new());
        assert_eq!(unknown, Err(7004));
    }
}
