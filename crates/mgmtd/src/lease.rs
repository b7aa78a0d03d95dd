//! Who is primary: the rules of the lease, apart from store and clock (`src/mgmtd/store/MgmtdStore.cc`,
//! `src/mgmtd/background/MgmtdLeaseExtender.cc`).

use std::cmp::Ordering;
use std::time::Duration;
use valor_protocol::UtcTime;
use valor_protocol::app::ReleaseVersion;
use valor_protocol::mgmtd::{MgmtdLeaseInfo, PersistentNodeInfo};
use valor_protocol::{NodeId, Status};

use crate::error;

/// What a manager brings when it asks for the lease.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The manager.
    pub node: &'a PersistentNodeInfo,
    /// Its software.
    pub release: &'a ReleaseVersion,
    /// Its clock.
    pub now: UtcTime,
    /// How long the lease shall last.
    pub length: Duration,
    /// Whether an older software than the last primary's has to stand back.
    pub check_release: bool,
}

/// The lease to write, or `None` to leave the stored one as it is.
pub fn claim(stored: Option<&MgmtdLeaseInfo>, candidate: &Candidate<'_>) -> Option<MgmtdLeaseInfo> {
    let lease_end = after(candidate.now, candidate.length);
    let new = MgmtdLeaseInfo {
        primary: candidate.node.clone(),
        lease_start: candidate.now,
        lease_end,
        release_version: candidate.release.clone(),
    };
    let Some(stored) = stored else { return Some(new) };
    if candidate.check_release && candidate.release.compare(&stored.release_version) == Ordering::Less {
        return None;
    }
    if stored.lease_end >= lease_end {
        return None;
    }
    if stored.lease_end < candidate.now {
        return Some(new);
    }
    let own = stored.primary.node_id == candidate.node.node_id;
    own.then_some(MgmtdLeaseInfo { lease_start: stored.lease_start, ..new })
}

/// Whether a write may still be made under the stored lease.
///
/// # Errors
/// 5000 if another manager has it, with that one's id as the message, or if it has ended.
pub fn check_stored(stored: Option<&MgmtdLeaseInfo>, own: NodeId, now: UtcTime) -> Result<(), Status> {
    match stored {
        Some(lease) if lease.primary.node_id != own => Err(error::not_primary(Some(lease.primary.node_id))),
        Some(lease) if lease.lease_end >= now => Ok(()),
        _ => Err(error::not_primary(None)),
    }
}

/// The lease as a manager last saw it in the store.
#[derive(Clone, Debug, Default)]
pub struct LeaseState {
    /// None before the first look, and while the manager is disabled.
    pub lease: Option<MgmtdLeaseInfo>,
    /// This manager is primary but has not loaded the cluster's state yet.
    pub loading: bool,
}

/// How a freshly read lease differs from the one known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// There was none.
    First,
    /// Another manager has it.
    Primary,
    /// It was lost or ended in between.
    Start,
    /// The same, but this manager still has to load the state.
    StillLoading,
    /// The same.
    None,
}

impl LeaseState {
    /// Takes in what was read from the store, or `None` if this manager must not be primary.
    pub fn observe(&mut self, read: Option<MgmtdLeaseInfo>, own: NodeId) -> LeaseChange {
        let Some(new) = read else {
            *self = Self::default();
            return LeaseChange::None;
        };
        let change = match &self.lease {
            None => LeaseChange::First,
            Some(old) if old.primary.node_id != new.primary.node_id => LeaseChange::Primary,
            Some(old) if old.lease_start != new.lease_start => LeaseChange::Start,
            Some(_) if self.loading => LeaseChange::StillLoading,
            Some(_) => LeaseChange::None,
        };
        self.loading = new.primary.node_id == own && change != LeaseChange::None;
        self.lease = Some(new);
        change
    }

    /// The lease if it can be relied on: it lasts beyond `margin` and its state is loaded.
    pub fn trusted(&self, now: UtcTime, margin: Duration) -> Option<&MgmtdLeaseInfo> {
        let lease = self.lease.as_ref()?;
        (!self.loading && after(now, margin) < lease.lease_end).then_some(lease)
    }
}

/// `time` plus `span`, at most the end of time.
pub fn after(time: UtcTime, span: Duration) -> UtcTime {
    let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    UtcTime(time.0.saturating_add(micros))
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::status::code;

    const LENGTH: Duration = Duration::from_secs(60);

    fn node(id: u32) -> PersistentNodeInfo {
        PersistentNodeInfo { node_id: NodeId(id), ..PersistentNodeInfo::default() }
    }

    fn release(date: u64) -> ReleaseVersion {
        ReleaseVersion { build_time_in_seconds: date << 32, ..ReleaseVersion::default() }
    }

    fn lease(id: u32, start: i64, end: i64) -> MgmtdLeaseInfo {
        MgmtdLeaseInfo {
            primary: node(id),
            lease_start: UtcTime(start * 1_000_000),
            lease_end: UtcTime(end * 1_000_000),
            release_version: release(5),
        }
    }

    fn claim_at(stored: Option<&MgmtdLeaseInfo>, id: u32, now: i64, date: u64) -> Option<MgmtdLeaseInfo> {
        let node = node(id);
        let candidate = Candidate {
            node: &node,
            release: &release(date),
            now: UtcTime(now * 1_000_000),
            length: LENGTH,
            check_release: true,
        };
        claim(stored, &candidate)
    }

    #[test]
    fn the_first_manager_takes_a_free_lease() {
        assert_eq!(claim_at(None, 1, 100, 5), Some(lease(1, 100, 160)));
    }

    #[test]
    fn the_primary_extends_and_the_others_wait() {
        let stored = lease(1, 100, 160);
        assert_eq!(claim_at(Some(&stored), 1, 110, 5), Some(lease(1, 100, 170)));
        assert_eq!(claim_at(Some(&stored), 2, 110, 5), None);
        assert_eq!(claim_at(Some(&stored), 2, 160, 5), None, "the end itself still belongs to the primary");
        assert_eq!(claim_at(Some(&stored), 2, 161, 5), Some(lease(2, 161, 221)));
        assert_eq!(
            claim_at(Some(&stored), 1, 161, 5),
            Some(lease(1, 161, 221)),
            "an ended lease starts anew"
        );
        assert_eq!(claim_at(Some(&stored), 1, 100, 5), None, "it is long enough");
        assert_eq!(claim_at(Some(&stored), 1, 50, 5), None, "a clock that went back does not shorten it");
    }

    #[test]
    fn an_older_release_stands_back() {
        let stored = lease(1, 100, 160);
        assert_eq!(claim_at(Some(&stored), 2, 500, 4), None);
        assert_eq!(claim_at(Some(&stored), 1, 110, 4), None);
        assert!(claim_at(Some(&stored), 2, 500, 6).is_some());
    }

    #[test]
    fn writes_are_checked_against_the_stored_lease() {
        let stored = lease(1, 100, 160);
        let check = |id, now: i64| check_stored(Some(&stored), NodeId(id), UtcTime(now * 1_000_000));
        assert_eq!(check(1, 160), Ok(()));
        assert_eq!(check(1, 161).unwrap_err(), Status::from(code::MGMTD_NOT_PRIMARY));
        assert_eq!(check(2, 110).unwrap_err(), Status::new(code::MGMTD_NOT_PRIMARY, "1"));
        assert!(check_stored(None, NodeId(1), UtcTime(0)).is_err());
    }

    #[test]
    fn a_new_lease_has_to_be_loaded_until_it_is() {
        let own = NodeId(1);
        let mut state = LeaseState::default();
        assert_eq!(state.observe(Some(lease(1, 100, 160)), own), LeaseChange::First);
        assert!(state.loading);
        assert_eq!(state.observe(Some(lease(1, 100, 170)), own), LeaseChange::StillLoading);
        assert!(state.loading);
        let margin = Duration::from_secs(20);
        let now = |s: i64| UtcTime(s * 1_000_000);
        assert!(state.trusted(now(110), margin).is_none());
        state.loading = false;
        assert_eq!(state.observe(Some(lease(1, 100, 180)), own), LeaseChange::None);
        assert!(!state.loading);
        assert!(state.trusted(now(159), margin).is_some());
        assert!(state.trusted(now(160), margin).is_none(), "20 s before the end nobody relies on it");
        assert_eq!(state.observe(Some(lease(1, 190, 250)), own), LeaseChange::Start);
        assert!(state.loading);
        assert_eq!(state.observe(Some(lease(2, 300, 360)), own), LeaseChange::Primary);
        assert!(!state.loading, "another one loads it");
        assert!(state.trusted(now(310), margin).is_some());
        assert_eq!(state.observe(None, own), LeaseChange::None);
        assert!(state.trusted(now(310), margin).is_none());
    }
}
