//! What must hold of chains as the manager publishes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use valor_client::{MgmtdClient, Routing};
use valor_protocol::mgmtd::{ChainInfo, PublicTargetState};
use valor_protocol::{ChainId, RoutingInfoVersion};

use super::Verdict;
use super::memory::Memory;
use crate::cluster::describe;
use crate::trace::Trace;

/// Looks at every routing information that arrives, as long as the runtime lives.
pub fn observe(mgmtd: &Arc<MgmtdClient>, verdict: Verdict, trace: Trace, memory: Arc<Memory>) {
    let mut watch = mgmtd.watch();
    // Nothing may change before the first process ends.
    memory.look(&mgmtd.routing());
    tokio::spawn(async move {
        let mut known = Known::default();
        while watch.changed().await.is_ok() {
            let routing = watch.borrow_and_update().clone();
            known.look(&routing, &verdict, &trace);
            memory.look(&routing);
        }
    });
}

#[derive(Default)]
struct Known {
    version: RoutingInfoVersion,
    chains: BTreeMap<ChainId, ChainInfo>,
}

impl Known {
    fn look(&mut self, routing: &Routing, verdict: &Verdict, trace: &Trace) {
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
                if !succeeds(before, chain) {
                    verdict.violation(format!("nobody who held the data holds it now: {text}"));
                }
            }
            self.chains.insert(*id, chain.clone());
        }
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
