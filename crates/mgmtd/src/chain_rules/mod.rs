//! How chains change: pure functions, no clock, no store, no network.
//!
//! [`next_states`] is the state machine that decides which replicas serve, given what their nodes last reported;
//! the rest are the changes an administrator may ask for. The rules and their order follow 3FS's
//! `src/mgmtd/service/updateChain.cc` and `src/mgmtd/ops`, because C++ storage servers and clients rely on them.
//!
//! What keeps data safe whatever is reported, and in whatever order:
//! - a replica starts to serve only after it was serving or being filled (`SYNCING` and up to date), or as the
//!   `LASTSRV`: the one that was serving when no other was;
//! - while no replica serves, a `LASTSRV` stays in the chain until it comes back or an administrator gives it up
//!   ([`rotate_last_srv`]).
//!
//! So a replica that missed writes is never served from, no matter how soon or late the others report.

mod admin;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod table_tests;

pub use admin::{
    PreferredOrderError, RemoveTargetError, add_target, new_chain, preferred_order, remove_target,
    rotate_as_preferred_order, rotate_last_srv, same_targets, shutdown_chain,
};

use valor_env::mutation::{Mutation, broken};
use valor_protocol::mgmtd::{
    ChainInfo, ChainTargetInfo, LocalTargetState as Local, PublicTargetState as Public,
};
use valor_protocol::{ChainVersion, TargetId};

/// A target of a chain with what its node last said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TargetState {
    /// Target.
    pub target_id: TargetId,
    /// State in the chain.
    pub public: Public,
    /// State on its node.
    pub local: Local,
}

impl TargetState {
    fn alive(self) -> bool {
        matches!(self.local, Local::Online | Local::Uptodate)
    }

    fn to_chain(self) -> ChainTargetInfo {
        ChainTargetInfo { target_id: self.target_id, public_state: self.public }
    }
}

/// The targets of the new chain, by state.
#[derive(Default)]
struct Groups {
    serving: Vec<TargetState>,
    lastsrv: Vec<TargetState>,
    syncing: Vec<TargetState>,
    waiting: Vec<TargetState>,
    offline: Vec<TargetState>,
}

impl Groups {
    fn put(&mut self, mut target: TargetState, state: Public) {
        target.public = state;
        match state {
            Public::Serving => self.serving.push(target),
            Public::Lastsrv => self.lastsrv.push(target),
            Public::Syncing => self.syncing.push(target),
            Public::Waiting => self.waiting.push(target),
            Public::Offline | Public::Invalid => self.offline.push(target),
        }
    }

    fn was_serving(&mut self, target: TargetState) {
        let state = if target.alive() {
            Public::Serving
        } else if self.lastsrv.is_empty() {
            // All serving replicas may be down at once; they have the same data, the first one is waited for.
            Public::Lastsrv
        } else {
            Public::Offline
        };
        self.put(target, state);
    }

    fn was_lastsrv(&mut self, target: TargetState) {
        let state = match (self.serving.is_empty(), target.alive()) {
            (false, _) => Public::Offline,
            (true, true) => Public::Serving,
            (true, false) => Public::Lastsrv,
        };
        self.put(target, state);
    }

    fn was_syncing(&mut self, target: TargetState) {
        let state = match target.local {
            Local::Uptodate => Public::Serving,
            Local::Online if !self.serving.is_empty() => Public::Syncing,
            Local::Online => Public::Waiting,
            Local::Offline | Local::Invalid => Public::Offline,
        };
        self.put(target, state);
    }

    /// `UPTODATE` here is a leftover from before the target left the chain: it has to come back `ONLINE` first.
    fn was_out(&mut self, target: TargetState) {
        let may_fill = !self.serving.is_empty() && self.syncing.is_empty();
        let state = match target.local {
            Local::Online if may_fill && broken(Mutation::ServeStaleReplica) => Public::Serving,
            Local::Online if self.serving.is_empty() && broken(Mutation::OvertakeLastsrv) => Public::Serving,
            Local::Online if may_fill => Public::Syncing,
            Local::Online | Local::Uptodate => Public::Waiting,
            Local::Offline | Local::Invalid => Public::Offline,
        };
        self.put(target, state);
    }

    fn into_chain(mut self) -> Vec<TargetState> {
        if !self.serving.is_empty() {
            for mut target in std::mem::take(&mut self.lastsrv) {
                target.public = Public::Offline;
                self.offline.push(target);
            }
        }
        [self.serving, self.lastsrv, self.syncing, self.waiting, self.offline].concat()
    }
}

/// The chain's next states and order, given the present ones. Same targets, none added, none lost.
///
/// A state that no 3FS writes (`INVALID`) counts as out of the chain and down.
pub fn next_states(old: &[TargetState]) -> Vec<TargetState> {
    let mut groups = Groups::default();
    let with = |state: Public| old.iter().copied().filter(move |target| target.public == state);
    with(Public::Serving).for_each(|target| groups.was_serving(target));
    with(Public::Lastsrv).for_each(|target| groups.was_lastsrv(target));
    with(Public::Syncing).for_each(|target| groups.was_syncing(target));
    with(Public::Waiting).for_each(|target| groups.was_out(target));
    with(Public::Offline).for_each(|target| groups.was_out(target));
    with(Public::Invalid).for_each(|target| groups.was_out(target));
    groups.into_chain()
}

/// The chain after what its targets reported, or `None` if nothing changes.
///
/// `local` tells a target's local state. With `follow_preferred`, a chain all of whose targets serve also takes
/// one step towards its preferred order. A changed chain has the next version.
pub fn update_chain(
    chain: &ChainInfo,
    local: impl Fn(TargetId) -> Local,
    follow_preferred: bool,
) -> Option<ChainInfo> {
    let mut states = next_states(&with_local(&chain.targets, local));
    let all_serve = states.last().is_some_and(|target| target.public == Public::Serving);
    if follow_preferred && all_serve {
        states = rotate_as_preferred_order(&states, &chain.preferred_target_order);
    }
    with_targets(chain, &states)
}

/// Joins a chain's targets with their local states.
pub fn with_local(targets: &[ChainTargetInfo], local: impl Fn(TargetId) -> Local) -> Vec<TargetState> {
    let join = |target: &ChainTargetInfo| TargetState {
        target_id: target.target_id,
        public: target.public_state,
        local: local(target.target_id),
    };
    targets.iter().map(join).collect()
}

/// `chain` with these targets and the next version, or `None` if they are the ones it has.
pub fn with_targets(chain: &ChainInfo, states: &[TargetState]) -> Option<ChainInfo> {
    let targets: Vec<ChainTargetInfo> = states.iter().map(|target| target.to_chain()).collect();
    (targets != chain.targets).then(|| ChainInfo {
        chain_id: chain.chain_id,
        chain_version: if broken(Mutation::KeepChainVersion) {
            chain.chain_version
        } else {
            next_version(chain.chain_version)
        },
        targets,
        preferred_target_order: chain.preferred_target_order.clone(),
    })
}

/// The version after `version`.
pub fn next_version(version: ChainVersion) -> ChainVersion {
    ChainVersion(version.0.wrapping_add(1))
}
