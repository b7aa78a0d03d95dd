//! Commits under way whose transactions are over by age.
//!
//! Whoever waits for such a commit gives it up at the end of its transaction, and is told
//! [`KvError::MaybeCommitted`](crate::KvError::MaybeCommitted). A commit that was accepted in time may still wait for the
//! disk then. What begins afterwards must see it, or else "not there" would be read of what appears later: it waits.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::KvError;

/// The commits of one database that have an end. As many as are under way.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    under_way: BTreeSet<(Instant, u64)>,
    next: u64,
    failed: Option<KvError>,
}

/// A commit under way, until this is dropped: once it is readable, or will never be.
#[derive(Debug)]
pub(crate) struct UnderWay {
    registry: Arc<Unsettled>,
    ends: Instant,
    id: u64,
}

impl Unsettled {
    /// To be called before the end is checked.
    pub(crate) fn enter(self: &Arc<Self>, ends: Instant) -> UnderWay {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.under_way.insert((ends, id));
        UnderWay { registry: self.clone(), ends, id }
    }

    /// What became of a commit is known only when the database is opened again.
    pub(crate) fn fail(&self, error: &KvError) {
        self.state.lock().failed.get_or_insert_with(|| error.clone());
        self.changed.notify_waiters();
    }

    /// Waits until the commits are over whose transactions have ended by now.
    ///
    /// # Errors
    /// That of a commit whose fate is not known.
    pub(crate) async fn wait(&self) -> Result<(), KvError> {
        let now = Instant::now();
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let state = self.state.lock();
                if let Some(error) = &state.failed {
                    return Err(error.clone());
                }
                if state.under_way.first().is_none_or(|(ends, _)| *ends > now) {
                    return Ok(());
                }
            }
            changed.await;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.registry.state.lock();
        let was_first = state.under_way.first() == Some(&(self.ends, self.id));
        state.under_way.remove(&(self.ends, self.id));
        drop(state);
        // Who waits looks at the first only.
        if was_first {
            self.registry.changed.notify_waiters();
        }
    }
}
