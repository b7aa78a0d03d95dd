//! Which versions of the database are still being read.
//!
//! Engines keep old versions of values for transactions that run. Every transaction that reads holds a [`Snapshot`]; the oldest
//! one says what engines may drop. A transaction that holds back the engines for longer than `max_age` loses its snapshot:
//! its later reads fail with [`KvError::TooOld`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::KvError;
use crate::batch::Version;

/// The snapshots of one database.
#[derive(Debug)]
pub(crate) struct Snapshots {
    /// Highest version that transactions may read: applied, and durable as far as configured.
    published: AtomicU64,
    live: Mutex<Live>,
    max_age: Duration,
}

#[derive(Debug, Default)]
struct Live {
    pins: BTreeMap<(Version, u64), Arc<Pin>>,
    next_id: u64,
}

#[derive(Debug)]
struct Pin {
    opened: Instant,
    /// Reads under way, or [`EXPIRED`].
    state: AtomicU32,
}

/// Bit of [`Pin::state`]: engines may drop what the snapshot would read.
const EXPIRED: u32 = 1 << 31;

impl Snapshots {
    /// A registry whose first readers see `published`.
    pub(crate) fn new(published: Version, max_age: Duration) -> Arc<Self> {
        Arc::new(Snapshots { published: AtomicU64::new(published), live: Mutex::default(), max_age })
    }

    /// Pins the newest readable version.
    pub(crate) fn open(self: &Arc<Self>) -> Snapshot {
        let pin = Arc::new(Pin { opened: Instant::now(), state: AtomicU32::new(0) });
        let mut live = self.live.lock();
        // Read under the lock, so that `oldest` cannot pass it before the pin is in place.
        let version = self.published();
        let id = live.next_id;
        live.next_id += 1;
        live.pins.insert((version, id), pin.clone());
        drop(live);
        Snapshot { registry: self.clone(), version, id, pin }
    }

    /// The newest readable version.
    pub(crate) fn published(&self) -> Version {
        self.published.load(Ordering::Acquire)
    }

    /// Lets transactions that begin from now on read `version`.
    pub(crate) fn publish(&self, version: Version) {
        self.published.fetch_max(version, Ordering::AcqRel);
    }

    /// The oldest version that is or will be read. Takes the snapshots that are over age away from their transactions.
    pub(crate) fn oldest(&self) -> Version {
        let mut live = self.live.lock();
        let published = self.published();
        while let Some(entry) = live.pins.first_entry() {
            let version = entry.key().0;
            // A snapshot of the newest version holds back nothing.
            if version >= published || !entry.get().expire(self.max_age) {
                return version.min(published);
            }
            entry.remove();
        }
        published
    }

    #[cfg(test)]
    pub(crate) fn live_count(&self) -> usize {
        self.live.lock().pins.len()
    }
}

impl Pin {
    fn expire(&self, max_age: Duration) -> bool {
        self.opened.elapsed() > max_age
            && self.state.compare_exchange(0, EXPIRED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// A pinned version of the database.
#[derive(Debug)]
pub(crate) struct Snapshot {
    registry: Arc<Snapshots>,
    version: Version,
    id: u64,
    pin: Arc<Pin>,
}

impl Snapshot {
    /// The version it shows.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Keeps the version readable until the permit is dropped.
    ///
    /// # Errors
    /// [`KvError::TooOld`] when the snapshot was taken away because of its age.
    pub(crate) fn enter(&self) -> Result<ReadPermit<'_>, KvError> {
        if self.pin.state.fetch_add(1, Ordering::AcqRel) & EXPIRED != 0 {
            self.pin.state.fetch_sub(1, Ordering::AcqRel);
            return Err(KvError::TooOld);
        }
        Ok(ReadPermit(&self.pin))
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.registry.live.lock().pins.remove(&(self.version, self.id));
    }
}

/// A read under way.
pub(crate) struct ReadPermit<'a>(&'a Pin);

impl Drop for ReadPermit<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn the_oldest_live_snapshot_holds_back_versions() {
        let snapshots = Snapshots::new(5, MAX_AGE);
        let first = snapshots.open();
        snapshots.publish(8);
        let second = snapshots.open();
        snapshots.publish(9);
        assert_eq!((first.version(), second.version()), (5, 8));
        assert_eq!(snapshots.oldest(), 5);
        drop(first);
        assert_eq!(snapshots.oldest(), 8);
        drop(second);
        assert_eq!(snapshots.oldest(), 9);
        assert_eq!(snapshots.live_count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_snapshot_expires_unless_it_is_being_read() {
        let snapshots = Snapshots::new(1, MAX_AGE);
        let idle = snapshots.open();
        let busy = snapshots.open();
        snapshots.publish(2);
        tokio::time::advance(MAX_AGE * 2).await;
        let permit = busy.enter().unwrap();
        assert_eq!(snapshots.oldest(), 1);
        assert_eq!(idle.enter().err(), Some(KvError::TooOld));
        drop(permit);
        assert_eq!(snapshots.oldest(), 2);
        assert_eq!(busy.enter().err(), Some(KvError::TooOld));
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_of_the_newest_version_never_expires() {
        let snapshots = Snapshots::new(1, MAX_AGE);
        let snapshot = snapshots.open();
        tokio::time::advance(MAX_AGE * 100).await;
        assert_eq!(snapshots.oldest(), 1);
        assert!(snapshot.enter().is_ok());
    }
}
