//! Remembers users for a while (`src/core/user/UserCache.h`).

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;
use valor_protocol::user::UserAttr;

/// Callers can name any uid, so what is remembered of them is bounded.
const MAX_ENTRIES: usize = 1 << 16;

/// How long users are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttls {
    /// Those that exist.
    pub exist: Duration,
    /// Uids without user.
    pub inexist: Duration,
}

pub(crate) enum Known {
    User(UserAttr),
    Nobody,
    Unknown,
}

struct Entry {
    user: Option<UserAttr>,
    since: Instant,
}

pub(crate) struct Cache {
    ttls: Box<dyn Fn() -> Ttls + Send + Sync>,
    entries: Mutex<HashMap<u32, Entry>>,
}

impl Entry {
    fn expired(&self, ttls: Ttls, now: Instant) -> bool {
        let ttl = if self.user.is_some() { ttls.exist } else { ttls.inexist };
        now.saturating_duration_since(self.since) >= ttl
    }
}

impl Cache {
    pub fn new(ttls: impl Fn() -> Ttls + Send + Sync + 'static) -> Self {
        Self { ttls: Box::new(ttls), entries: Mutex::default() }
    }

    pub fn get(&self, uid: u32) -> Known {
        let ttls = (self.ttls)();
        match self.entries.lock().get(&uid) {
            Some(entry) if entry.expired(ttls, Instant::now()) => Known::Unknown,
            Some(Entry { user: Some(user), .. }) => Known::User(user.clone()),
            Some(Entry { user: None, .. }) => Known::Nobody,
            None => Known::Unknown,
        }
    }

    pub fn set(&self, uid: u32, user: Option<UserAttr>) {
        let (ttls, now) = ((self.ttls)(), Instant::now());
        let mut entries = self.entries.lock();
        if entries.len() >= MAX_ENTRIES {
            entries.retain(|_, entry| !entry.expired(ttls, now));
        }
        if entries.len() >= MAX_ENTRIES {
            // Made-up uids; real users are read again.
            entries.clear();
        }
        entries.insert(uid, Entry { user, since: now });
    }

    pub fn clear(&self, uid: Option<u32>) {
        let mut entries = self.entries.lock();
        match uid {
            Some(uid) => drop(entries.remove(&uid)),
            None => entries.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Cache {
        Cache::new(|| Ttls { exist: Duration::from_secs(300), inexist: Duration::from_secs(10) })
    }

    #[tokio::test(start_paused = true)]
    async fn entries_live_as_long_as_configured() {
        let cache = cache();
        cache.set(1, Some(UserAttr { uid: 1, ..UserAttr::default() }));
        cache.set(2, None);
        assert!(matches!(cache.get(1), Known::User(UserAttr { uid: 1, .. })));
        assert!(matches!(cache.get(2), Known::Nobody));
        assert!(matches!(cache.get(3), Known::Unknown));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(matches!(cache.get(2), Known::Unknown));
        tokio::time::advance(Duration::from_secs(289)).await;
        assert!(matches!(cache.get(1), Known::User(_)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(matches!(cache.get(1), Known::Unknown));
        cache.set(1, Some(UserAttr::default()));
        cache.clear(Some(1));
        assert!(matches!(cache.get(1), Known::Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_uids_do_not_fill_the_memory() {
        let cache = cache();
        for uid in 0..3 * MAX_ENTRIES as u32 {
            cache.set(uid, None);
        }
        assert!(cache.entries.lock().len() <= MAX_ENTRIES);
    }
}
