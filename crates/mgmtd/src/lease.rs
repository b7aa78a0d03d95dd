//! Who is primary: the rules of the lease, apart from store and clock (`src/mgmtd/store/MgmtdStore.cc`,
//! `src/mgmtd/background/MgmtdLeaseExtender.cc`).
//!
//! The record says by the wall clock when the lease ends, as in 3FS. Wall clocks jump, so here both sides measure with
//! their steady clocks besides: the primary trusts its lease only for so long after it began to write it, and another
//! manager takes it only after it saw the record unchanged for as long. Two managers are never primary at a time then,
//! whatever their wall clocks say, as long as their steady clocks run at about the same speed. An end that lies further
//! away than a lease can reach comes from a wrong clock, and keeps nobody waiting for it.

use std::cmp::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use valor_env::mutation::{Mutation, broken};
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
    /// How long a primary trusts its lease; see [`trust`].
    pub trust: Duration,
    /// How long this manager has seen the stored lease unchanged.
    pub watched: Duration,
}

impl Candidate<'_> {
    /// Whether a lease ends later than any that begins now, even by a clock that is ahead by its length.
    fn is_beyond_reach(&self, lease: &MgmtdLeaseInfo) -> bool {
        lease.lease_end > after(self.now, self.length.saturating_mul(2))
    }

    /// Whether somebody else's lease may be taken.
    fn may_take(&self, stored: &MgmtdLeaseInfo) -> bool {
        let ended = stored.lease_end < self.now && self.watched >= self.trust;
        is_given_up(stored) || ended || (self.is_beyond_reach(stored) && self.watched >= self.length)
    }
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
    let own = stored.primary.node_id == candidate.node.node_id;
    if !own {
        return candidate.may_take(stored).then_some(new);
    }
    if stored.lease_end < candidate.now || is_given_up(stored) {
        return Some(new);
    }
    if candidate.is_beyond_reach(stored) {
        // Written while the clock was ahead.
        return Some(MgmtdLeaseInfo { lease_start: stored.lease_start.min(candidate.now), ..new });
    }
    // Else the end never moves back, even if the clock does; it moves in any case, so that others see us alive.
    let lease_end = lease_end.max(after(stored.lease_end, Duration::from_micros(1)));
    Some(MgmtdLeaseInfo { lease_start: stored.lease_start, lease_end, ..new })
}

/// The lease with the mark that its owner gave it up: it ends before it began.
pub fn given_up(lease: MgmtdLeaseInfo) -> MgmtdLeaseInfo {
    MgmtdLeaseInfo { lease_end: UtcTime(lease.lease_start.0.saturating_sub(1)), ..lease }
}

fn is_given_up(lease: &MgmtdLeaseInfo) -> bool {
    lease.lease_end < lease.lease_start
}

/// How long a lease is trusted after its owner began to write it.
pub fn trust(length: Duration, margin: Duration) -> Duration {
    length.saturating_sub(margin)
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
    /// When this manager began the transaction that wrote it, if it is its own.
    written: Option<Instant>,
}

/// What is in force when a lease is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// This manager.
    pub own: NodeId,
    /// Its wall clock.
    pub utc: UtcTime,
    /// Its steady clock.
    pub steady: Instant,
    /// How long a lease lasts.
    pub length: Duration,
    /// How much of that is not trusted.
    pub margin: Duration,
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
    /// Takes in what is in the store, or `None` if this manager must not be primary. `written` tells when the
    /// transaction began if it wrote the lease; one that only looked does not let a lease be trusted any longer.
    pub fn observe(
        &mut self,
        read: Option<MgmtdLeaseInfo>,
        written: Option<Instant>,
        own: NodeId,
    ) -> LeaseChange {
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
        let same = matches!(change, LeaseChange::StillLoading | LeaseChange::None);
        self.written = written.or(self.written.filter(|_| same));
        self.lease = Some(new);
        change
    }

    /// The lease if it can be relied on: it lasts beyond the margin and its state is loaded. One's own must have been
    /// written a short time ago, too.
    pub fn trusted(&self, now: &Now) -> Option<&MgmtdLeaseInfo> {
        let lease = self.lease.as_ref()?;
        let recent = |written: Instant| now.steady < written + trust(now.length, now.margin);
        let others = lease.primary.node_id != now.own;
        let lasts = after(now.utc, now.margin) < lease.lease_end;
        let holds = lasts && (others || self.written.is_some_and(recent));
        (!self.loading && (holds || (!others && broken(Mutation::KeepPrimacy)))).then_some(lease)
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
    const TRUST: Duration = Duration::from_secs(40);

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

    fn claim_with(
        stored: Option<&MgmtdLeaseInfo>,
        id: u32,
        now: i64,
        date: u64,
        watched: u64,
    ) -> Option<MgmtdLeaseInfo> {
        let node = node(id);
        let candidate = Candidate {
            node: &node,
            release: &release(date),
            now: UtcTime(now * 1_000_000),
            length: LENGTH,
            check_release: true,
            trust: TRUST,
            watched: Duration::from_secs(watched),
        };
        claim(stored, &candidate)
    }

    fn claim_at(stored: Option<&MgmtdLeaseInfo>, id: u32, now: i64, date: u64) -> Option<MgmtdLeaseInfo> {
        claim_with(stored, id, now, date, 40)
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
        for now in [100, 50] {
            let extended = claim_at(Some(&stored), 1, now, 5).unwrap();
            let expected = MgmtdLeaseInfo { lease_end: UtcTime(160_000_001), ..stored.clone() };
            assert_eq!(
                extended, expected,
                "a clock that went back does not shorten it, but others see a change"
            );
        }
    }

    #[test]
    fn a_lease_is_taken_only_by_who_has_watched_it() {
        let stored = lease(1, 100, 160);
        assert_eq!(claim_with(Some(&stored), 2, 161, 5, 39), None, "its clock may be wrong");
        assert_eq!(claim_with(Some(&stored), 2, 161, 5, 40), Some(lease(2, 161, 221)));
        assert_eq!(claim_with(Some(&stored), 1, 161, 5, 0), Some(lease(1, 161, 221)), "its own");
        let free = given_up(stored);
        assert_eq!(claim_with(Some(&free), 2, 101, 5, 0), Some(lease(2, 101, 161)), "given up");
        assert_eq!(
            claim_with(Some(&free), 2, 50, 5, 0),
            Some(lease(2, 50, 110)),
            "by a clock that was ahead"
        );
    }

    #[test]
    fn a_lease_that_a_wrong_clock_made_endless_is_taken_once_it_was_watched_for_a_whole_one() {
        let stored = lease(1, 9000, 9060);
        assert_eq!(claim_with(Some(&stored), 2, 100, 5, 59), None);
        assert_eq!(claim_with(Some(&stored), 2, 100, 5, 60), Some(lease(2, 100, 160)));
        // A clock that is ahead by no more than a lease is believed.
        let near = lease(1, 150, 220);
        assert_eq!(claim_with(Some(&near), 2, 100, 5, 60), None);
        // Its owner, whose clock is right again, puts it right; as a new one if it began in the future too.
        assert_eq!(claim_with(Some(&stored), 1, 100, 5, 0), Some(lease(1, 100, 160)));
        assert_eq!(claim_with(Some(&lease(1, 50, 9060)), 1, 100, 5, 0), Some(lease(1, 50, 160)));
    }

    #[test]
    fn looking_at_its_own_lease_does_not_make_a_manager_trust_it_longer() {
        let own = NodeId(1);
        let begun = Instant::now();
        let at = |steady: u64| Now {
            own,
            utc: UtcTime(110_000_000),
            steady: begun + Duration::from_secs(steady),
            length: LENGTH,
            margin: Duration::from_secs(20),
        };
        let mut state = LeaseState::default();
        state.observe(Some(lease(1, 100, 160)), Some(begun), own);
        state.loading = false;
        assert!(state.trusted(&at(39)).is_some());
        state.observe(Some(lease(1, 100, 160)), None, own);
        assert!(state.trusted(&at(39)).is_some(), "it still counts from when it was written");
        assert!(state.trusted(&at(40)).is_none());
        state.observe(Some(lease(1, 100, 170)), Some(begun + Duration::from_secs(30)), own);
        assert!(state.trusted(&at(69)).is_some());
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
        let begun = Instant::now();
        let at = |utc: i64, steady: u64| Now {
            own,
            utc: UtcTime(utc * 1_000_000),
            steady: begun + Duration::from_secs(steady),
            length: LENGTH,
            margin: Duration::from_secs(20),
        };
        assert_eq!(state.observe(Some(lease(1, 100, 160)), Some(begun), own), LeaseChange::First);
        assert!(state.loading);
        assert_eq!(state.observe(Some(lease(1, 100, 170)), Some(begun), own), LeaseChange::StillLoading);
        assert!(state.loading);
        assert!(state.trusted(&at(110, 0)).is_none());
        state.loading = false;
        assert_eq!(state.observe(Some(lease(1, 100, 180)), Some(begun), own), LeaseChange::None);
        assert!(!state.loading);
        assert!(state.trusted(&at(159, 39)).is_some());
        assert!(state.trusted(&at(160, 39)).is_none(), "20 s before the end nobody relies on it");
        assert!(state.trusted(&at(100, 40)).is_none(), "even if the clock went back");
        assert_eq!(state.observe(Some(lease(1, 190, 250)), Some(begun), own), LeaseChange::Start);
        assert!(state.loading);
        assert_eq!(state.observe(Some(lease(2, 300, 360)), Some(begun), own), LeaseChange::Primary);
        assert!(!state.loading, "another one loads it");
        assert!(state.trusted(&at(310, 100)).is_some(), "whoever else has it is only a hint");
        assert_eq!(state.observe(None, Some(begun), own), LeaseChange::None);
        assert!(state.trusted(&at(310, 0)).is_none());
    }
}
