//! What must hold of managers among each other: one primary at a time, and routing information that nobody sees go back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use valor_client::MgmtdClient;
use valor_mgmtd::schema::{self, LEASE_KEY, ROUTING_VERSION_KEY};
use valor_protocol::RoutingInfoVersion;
use valor_protocol::mgmtd::MgmtdLeaseInfo;

use super::Verdict;
use crate::cluster::{Cluster, Kind, Running, Slot};

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(10);

/// Looks at managers, at the store and at everybody's routing information, as long as the runtime lives.
pub fn observe(cluster: &Cluster, verdict: Verdict) {
    let mut look = Look {
        slots: cluster.slots(),
        observers: cluster.observers(),
        store: cluster.database_of(Kind::Mgmtd),
        stored: Stored::default(),
        seen: BTreeMap::new(),
        two: false,
        verdict,
    };
    tokio::spawn(async move {
        loop {
            sleep(PERIOD).await;
            look.primaries();
            look.routing_versions();
            look.store().await;
        }
    });
}

struct Look {
    slots: Vec<(String, Slot)>,
    observers: Vec<(String, Arc<MgmtdClient>)>,
    store: Option<Slot>,
    stored: Stored,
    /// Whose routing information was seen last in which version, by the server's or client's name.
    seen: BTreeMap<String, (Arc<MgmtdClient>, RoutingInfoVersion)>,
    /// There were two primaries at the last look.
    two: bool,
    verdict: Verdict,
}

/// What the store held at the last look.
#[derive(Default)]
struct Stored {
    lease: Option<MgmtdLeaseInfo>,
    /// When the lease was new. Not known of the first one: it may have been there before anybody looked.
    since: Option<Instant>,
    version: RoutingInfoVersion,
    /// The store has not answered since: what is new there then may be as old as this look.
    unanswered: bool,
}

impl Look {
    /// A manager that is primary answers as such: there must not be another one.
    fn primaries(&mut self) {
        let is_primary = |slot: &Slot| slot.lock().as_ref().is_some_and(Running::is_primary);
        let primaries: Vec<&str> =
            self.slots.iter().filter(|(_, slot)| is_primary(slot)).map(|(name, _)| name.as_str()).collect();
        let two = primaries.len() > 1;
        if two && !self.two {
            self.verdict.violation(format!("primaries at a time: {}", primaries.join(", ")));
        }
        self.two = two;
    }

    fn routing_versions(&mut self) {
        let servers = self.slots.iter().filter_map(|(name, slot)| {
            let client = slot.lock().as_ref().and_then(|running| running.mgmtd().cloned())?;
            Some((name.clone(), client))
        });
        for (name, client) in servers.chain(self.observers.iter().cloned()) {
            let version = client.routing().version();
            // A process that was started again knows nothing of the one before.
            let before = self.seen.get(&name).filter(|(known, _)| Arc::ptr_eq(known, &client));
            if let Some((_, before)) = before
                && version < *before
            {
                self.verdict.violation(format!("routing version of {name} went from {before} to {version}"));
            }
            self.seen.insert(name, (client, version));
        }
    }

    async fn store(&mut self) {
        let db = self.store.as_ref().and_then(|slot| slot.lock().as_ref()?.database().cloned());
        let Some(db) = db else { return };
        let tx = db.begin();
        let (Ok(lease), Ok(version)) =
            (tx.snapshot_get(LEASE_KEY).await, tx.snapshot_get(ROUTING_VERSION_KEY).await)
        else {
            self.stored.unanswered = true;
            return;
        };
        let (Ok(lease), Ok(version)) =
            (lease.map(schema::read_lease).transpose(), schema::read_routing_version(version))
        else {
            return self.verdict.violation("the lease or the routing version cannot be read");
        };
        if version < self.stored.version {
            let before = self.stored.version;
            self.verdict.violation(format!("stored routing version went from {before} to {version}"));
        }
        let before = self.stored.lease.clone();
        if let Some((before, after)) = before.as_ref().zip(lease.as_ref())
            && let Some(wrong) = goes_back(before, after, self.stored.since)
        {
            self.verdict.violation(format!("{wrong}: {before:?} became {after:?}"));
        }
        let lease = lease.or(self.stored.lease.take());
        let changed = lease != before;
        let is_age_known = before.is_some() && !self.stored.unanswered;
        let since = if changed { is_age_known.then(Instant::now) } else { self.stored.since };
        self.stored = Stored { lease, since, version, unanswered: false };
    }
}

/// Why a lease must not follow another, which was in the store `since` then. No simulated manager gives its lease up. One
/// that a wrong clock made much too long does not count; another manager takes it after it stood still for a whole lease.
fn goes_back(
    before: &MgmtdLeaseInfo,
    after: &MgmtdLeaseInfo,
    since: Option<Instant>,
) -> Option<&'static str> {
    let length = valor_mgmtd::Config::fast().lease_length.get();
    let micros = i64::try_from(length.as_micros()).unwrap_or(i64::MAX);
    let beyond_reach = before.lease_end.0.saturating_sub(after.lease_end.0) > micros;
    if before.primary.node_id == after.primary.node_id {
        let earlier = after.lease_end < before.lease_end && !beyond_reach;
        return earlier.then_some("the lease ends earlier");
    }
    let stood_still = since.is_none_or(|since| since.elapsed() + 2 * PERIOD >= length);
    let ended = after.lease_start > before.lease_end;
    let taken = ended || (beyond_reach && stood_still);
    (!taken).then_some("the lease was taken before its end")
}
