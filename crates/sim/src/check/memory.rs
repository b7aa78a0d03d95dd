//! Which replicas know who was answered. Servers remember it in memory, and pass it on to the replicas that they fill; it
//! is lost with the last process of a chain that has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use valor_client::Routing;
use valor_protocol::mgmtd::PublicTargetState;
use valor_protocol::{ChainId, NodeId, TargetId};

/// A process that ended this short a time ago may still be published as serving.
const HEARSAY: Duration = Duration::from_secs(5);

/// Who remembers, as far as can be seen from outside.
#[derive(Debug, Default)]
pub struct Memory {
    chains: Mutex<BTreeMap<ChainId, Holders>>,
    ended: Mutex<BTreeMap<NodeId, Instant>>,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Holders {
    /// Those that surely remember.
    targets: BTreeSet<(TargetId, NodeId)>,
    serving: BTreeSet<(TargetId, NodeId)>,
    /// Those that serve or are waited for.
    held: BTreeSet<(TargetId, NodeId)>,
}

impl Memory {
    /// How often the last process of a chain that surely remembered has ended.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// A storage process has ended.
    pub fn process_ended(&self, node: NodeId) {
        self.ended.lock().insert(node, Instant::now());
        for holders in self.chains.lock().values_mut() {
            let before = holders.targets.len();
            holders.targets.retain(|(_, of)| *of != node);
            let one_of = before > 0 || holders.held.iter().any(|(_, of)| *of == node);
            self.count(one_of && holders.targets.is_empty());
        }
    }

    /// Looks at routing information. Who begins to serve was filled by one that remembers, or was the last.
    pub fn look(&self, routing: &Routing) {
        let ended = self.ended.lock().clone();
        let mut chains = self.chains.lock();
        for (id, chain) in &routing.info().chains {
            let holders = chains.entry(*id).or_default();
            let of = |states: &[PublicTargetState]| -> BTreeSet<(TargetId, NodeId)> {
                let members = chain.targets.iter().filter(|member| states.contains(&member.public_state));
                let node = |id| routing.target(id).and_then(|target| target.node_id).unwrap_or_default();
                members.map(|member| (member.target_id, node(member.target_id))).collect()
            };
            let held = of(&[PublicTargetState::Serving, PublicTargetState::Lastsrv]);
            let before = holders.targets.len();
            holders.targets.retain(|holder| held.contains(holder));
            self.count(before > 0 && holders.targets.is_empty());
            let serving = of(&[PublicTargetState::Serving]);
            for (target, node) in serving.difference(&holders.serving) {
                if ended.get(node).is_none_or(|at| at.elapsed() > HEARSAY) {
                    holders.targets.insert((*target, *node));
                }
            }
            (holders.serving, holders.held) = (serving, held);
        }
    }

    fn count(&self, lost: bool) {
        self.lost.fetch_add(u64::from(lost), Ordering::Relaxed);
    }
}
