//! Changes of a chain that an administrator asks for.

use super::{Local, Public, TargetState, next_version};
use std::collections::BTreeSet;
use valor_protocol::mgmtd::{ChainInfo, ChainSetting, ChainTargetInfo};
use valor_protocol::{ChainVersion, TargetId};

/// One step towards the preferred order: the target at the first wrong place goes to the end as `OFFLINE`, to be
/// filled again behind the others. Nothing changes while the target that belongs to that place does not serve.
pub fn rotate_as_preferred_order(old: &[TargetState], preferred: &[TargetId]) -> Vec<TargetState> {
    let mut new = old.to_vec();
    for (place, wanted) in preferred.iter().enumerate() {
        let Some(position) = old.iter().position(|target| target.target_id == *wanted) else { break };
        if position == place {
            continue;
        }
        if old[position].public != Public::Serving || place >= old.len() {
            break;
        }
        let mut moved = new.remove(place);
        moved.public = Public::Offline;
        moved.local = Local::Offline;
        new.push(moved);
        break;
    }
    new
}

/// Gives up a chain's `LASTSRV` and makes the next target the one waited for. Data that only the old one had is
/// lost; that is the administrator's decision.
///
/// Nothing changes unless the first of at least two targets is `LASTSRV`.
pub fn rotate_last_srv(old: &[TargetState]) -> Vec<TargetState> {
    let mut new = old.to_vec();
    if new.len() < 2 || new[0].public != Public::Lastsrv {
        return new;
    }
    new.rotate_left(1);
    for target in &mut new {
        target.public = Public::Offline;
    }
    // LASTSRV and not SERVING: it serves once its node says that it is there.
    new[0].public = Public::Lastsrv;
    new
}

/// States for a cluster that is about to be shut down: every serving replica is one to be waited for.
pub fn shutdown_chain(targets: &[ChainTargetInfo]) -> Vec<ChainTargetInfo> {
    let state = |old: Public| match old {
        Public::Serving | Public::Lastsrv => Public::Lastsrv,
        Public::Waiting | Public::Syncing | Public::Offline | Public::Invalid => Public::Offline,
    };
    let change = |target: &ChainTargetInfo| ChainTargetInfo {
        target_id: target.target_id,
        public_state: state(target.public_state),
    };
    targets.iter().map(change).collect()
}

/// A chain as it is created: version 1, every target serving.
pub fn new_chain(setting: &ChainSetting) -> ChainInfo {
    let ids = || setting.targets.iter().map(|target| target.target_id);
    let serving = |target_id| ChainTargetInfo { target_id, public_state: Public::Serving };
    ChainInfo {
        chain_id: setting.chain_id,
        chain_version: ChainVersion(1),
        targets: ids().map(serving).collect(),
        preferred_target_order: if setting.set_preferred_target_order { ids().collect() } else { Vec::new() },
    }
}

/// Whether a setting names the chain's targets, in any order.
pub fn same_targets(chain: &ChainInfo, setting: &ChainSetting) -> bool {
    let mut old: Vec<TargetId> = chain.targets.iter().map(|target| target.target_id).collect();
    let mut new: Vec<TargetId> = setting.targets.iter().map(|target| target.target_id).collect();
    old.sort_unstable();
    new.sort_unstable();
    old == new
}

/// The chain with a further target at its end, `OFFLINE` until it is filled. `target` must be in no chain.
pub fn add_target(chain: &ChainInfo, target: TargetId) -> ChainInfo {
    let mut new = chain.clone();
    new.chain_version = next_version(chain.chain_version);
    if new.preferred_target_order.len() == new.targets.len() {
        new.preferred_target_order.push(target);
    }
    new.targets.push(ChainTargetInfo { target_id: target, public_state: Public::Offline });
    new
}

/// Why a target cannot be removed from a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoveTargetError {
    /// It is not in the chain.
    #[error("not in the chain")]
    NotFound,
    /// It is not `OFFLINE`.
    #[error("state is {0:?}")]
    InUse(Public),
    /// The chain would be empty, which no later change could repair.
    #[error("it is the chain's only target")]
    Last,
}

/// The chain without a target.
///
/// # Errors
/// See [`RemoveTargetError`].
pub fn remove_target(chain: &ChainInfo, target: TargetId) -> Result<ChainInfo, RemoveTargetError> {
    let found = chain.targets.iter().find(|member| member.target_id == target);
    let state = found.ok_or(RemoveTargetError::NotFound)?.public_state;
    if state != Public::Offline {
        return Err(RemoveTargetError::InUse(state));
    }
    if chain.targets.len() == 1 {
        return Err(RemoveTargetError::Last);
    }
    let mut new = chain.clone();
    new.chain_version = next_version(chain.chain_version);
    new.targets.retain(|member| member.target_id != target);
    new.preferred_target_order.retain(|id| *id != target);
    Ok(new)
}

/// Why a preferred order is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreferredOrderError {
    /// No target is named.
    #[error("Empty preferredTargetOrder")]
    Empty,
    /// A target is named twice.
    #[error("Found duplicated target id in preferredTargetOrder")]
    Duplicate,
    /// A target is not in the chain.
    #[error("TargetId({0}) not found in chain")]
    NotFound(TargetId),
}

/// The chain with another preferred order, or `None` if it has that one. Its version stays: replication does not
/// depend on the wish.
///
/// # Errors
/// See [`PreferredOrderError`].
pub fn preferred_order(
    chain: &ChainInfo,
    order: &[TargetId],
) -> Result<Option<ChainInfo>, PreferredOrderError> {
    if order.is_empty() {
        return Err(PreferredOrderError::Empty);
    }
    if order.iter().collect::<BTreeSet<_>>().len() != order.len() {
        return Err(PreferredOrderError::Duplicate);
    }
    let known = |id: &TargetId| chain.targets.iter().any(|target| target.target_id == *id);
    if let Some(unknown) = order.iter().find(|id| !known(id)) {
        return Err(PreferredOrderError::NotFound(*unknown));
    }
    if chain.preferred_target_order == order {
        return Ok(None);
    }
    Ok(Some(ChainInfo { preferred_target_order: order.to_vec(), ..chain.clone() }))
}
