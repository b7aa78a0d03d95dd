//! What must hold of chains as the manager publishes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use valor_client::{MgmtdClient, Routing};
use valor_protocol::mgmtd::{ChainInfo, PublicTargetState};
use valor_protocol::{ChainId, RoutingInfoVersion};

use super::Verdict;
use crate::cluster::describe;
use crate::trace::Trace;

/// Looks at every routing information that arrives, as long as the runtime lives. Replicas that were filled are counted in
/// `renewed`.
pub fn observe(mgmtd: &Arc<MgmtdClient>, verdict: Verdict, trace: Trace, renewed: Arc<AtomicU64>) {
    let mut watch = mgmtd.watch();
    tokio::spawn(async move {
        let mut known = Known::default();
        while watch.changed().await.is_ok() {
            let routing = watch.borrow_and_update().clone();
            let filled = known.look(&routing, &verdict, &trace);
            renewed.fetch_add(filled, Ordering::Relaxed);
        }
    });
}

#[derive(Default)]
struct Known {
    version: RoutingInfoVersion,
    chains: BTreeMap<ChainId, ChainInfo>,
}

impl Known {
    /// Returns how many replicas were filled since the last look.
    fn look(&mut self, routing: &Routing, verdict: &Verdict, trace: &Trace) -> u64 {
        let mut filled = 0;
        if routing.version() < self.version {
            verdict.violation(format!("routing version went from {} to {}", self.version, routing.version()));
        }
        self.version = routing.version();
        for (id, chain) in &routing.info().chains {
            let text = describe(routing.info(), chain);
            let holds = chain.targets.iter().any(|target| {
                matches!(target.public_state, PublicTargetState::Serving | PublicTargetState::Lastsrv)
            });
            if !holds {
                verdict.violation(format!("nobody holds the data: {text}"));
            }
            let states = |chain: &ChainInfo| -> Vec<_> {
                chain.targets.iter().map(|target| (target.target_id, target.public_state)).collect()
            };
            if let Some(before) = self.chains.get(id) {
                let changed = states(before) != states(chain);
                if chain.chain_version < before.chain_version
                    || (changed && chain.chain_version == before.chain_version)
                {
                    verdict.violation(format!("version {} before {text}", before.chain_version));
                }
                if changed {
                    trace.event(&text);
                }
                filled += states(chain)
                    .iter()
                    .filter(|(id, state)| {
                        *state == PublicTargetState::Serving
                            && states(before).contains(&(*id, PublicTargetState::Syncing))
                    })
                    .count() as u64;
                if !succeeds(before, chain) {
                    verdict.violation(format!("nobody who held the data holds it now: {text}"));
                }
            }
            self.chains.insert(*id, chain.clone());
        }
        filled
    }
}

/// Unless some versions in between were missed, somebody who serves or is waited for served before, was waited for, or
/// was being filled.
fn succeeds(before: &ChainInfo, after: &ChainInfo) -> bool {
    use PublicTargetState::{Lastsrv, Serving, Syncing};
    let targets = |chain: &ChainInfo, states: &[PublicTargetState]| -> Vec<_> {
        chain.targets.iter().filter(|t| states.contains(&t.public_state)).map(|t| t.target_id).collect()
    };
    let old = targets(before, &[Serving, Lastsrv, Syncing]);
    let new = targets(after, &[Serving, Lastsrv]);
    after.chain_version.0 > before.chain_version.0 + 1 || new.iter().any(|target| old.contains(target))
}
