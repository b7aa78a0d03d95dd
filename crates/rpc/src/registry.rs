//! The open connections of a server: which to close when there are too many, or when they are of no use.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use valor_env::metrics::{RPC_SERVER_CONNECTIONS, RPC_SERVER_SHED};

use crate::session::Session;

/// A connection is not taken for idle before this.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// Part of the idle connections closed at a time when there are too many: finding the oldest means looking at all.
const SHED_PART: usize = 256;
/// Pause between two such searches when the first found nothing.
const SEARCH_PAUSE: Duration = Duration::from_millis(100);

/// The open connections.
pub(crate) struct Registry {
    state: Mutex<State>,
    gauge: metrics::Gauge,
    shed: metrics::Counter,
}

#[derive(Default)]
struct State {
    sessions: HashMap<u64, Arc<Session>>,
    next: u64,
    vain_search: Option<Instant>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            gauge: metrics::gauge!(RPC_SERVER_CONNECTIONS),
            shed: metrics::counter!(RPC_SERVER_SHED),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().sessions.len()
    }

    pub(crate) fn add(&self, session: &Arc<Session>) -> u64 {
        let mut state = self.state.lock();
        let key = state.next;
        state.next += 1;
        state.sessions.insert(key, Arc::clone(session));
        self.gauge.increment(1);
        key
    }

    pub(crate) fn remove(&self, key: u64) {
        let removed = self.state.lock().sessions.remove(&key);
        if removed.is_some() {
            self.gauge.decrement(1);
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.state.lock().sessions.values().cloned().collect()
    }

    /// Counts a connection refused.
    pub(crate) fn count_shed(&self, count: usize) {
        self.shed.increment(count as u64);
    }

    /// Closes connections that are idle longest, at least one if there is an idle one. Returns how many.
    pub(crate) fn shed_idle(&self) -> usize {
        let mut state = self.state.lock();
        if state.vain_search.is_some_and(|at| at.elapsed() < SEARCH_PAUSE) {
            return 0;
        }
        let mut idle: Vec<(Duration, Arc<Session>)> = state
            .sessions
            .values()
            .filter(|session| !session.is_closed())
            .filter_map(|session| Some((session.idle_for()?, Arc::clone(session))))
            .filter(|(time, _)| *time >= IDLE_MIN)
            .collect();
        state.vain_search = idle.is_empty().then(Instant::now);
        drop(state);
        let count = idle.len().div_ceil(SHED_PART);
        if count < idle.len() {
            idle.select_nth_unstable_by(count, |(a, _), (b, _)| b.cmp(a));
        }
        for (_, session) in &idle[..count] {
            session.close();
        }
        self.count_shed(count);
        count
    }

    /// Closes connections that have been idle too long or do not complete their frame.
    pub(crate) fn sweep(&self, idle_expiration: Duration) {
        let useless = |session: &Arc<Session>| {
            session.is_stuck() || session.idle_for().is_some_and(|idle| idle >= idle_expiration)
        };
        let state = self.state.lock();
        let closing: Vec<_> =
            state.sessions.values().filter(|s| !s.is_closed()).filter(|s| useless(s)).cloned().collect();
        drop(state);
        for session in &closing {
            tracing::debug!(peer = %session.peer(), "closing a useless connection");
            session.close();
        }
        self.count_shed(closing.len());
    }
}
