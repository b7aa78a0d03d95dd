//! Which views a server holds for its clients.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::VIEW_AGE_MAX;
use crate::KvError;
use crate::store::View;

/// Views by their ids, at most a number of them.
pub(super) struct Views {
    held: HashMap<u64, Held>,
    max: usize,
}

/// A view that a client may read.
pub(super) struct Held {
    pub(super) view: Arc<View>,
    /// Whose it is.
    pub(super) client: u64,
    pub(super) begun: Instant,
}

impl Held {
    /// From then on it is refused.
    pub(super) fn ends(&self) -> Instant {
        self.begun + VIEW_AGE_MAX
    }
}

impl Views {
    pub(super) fn new(max: usize) -> Self {
        Views { held: HashMap::new(), max }
    }

    /// Adds a view. If there are too many then, those that are too old go, or else the oldest of the client that has
    /// most: whoever has few is not disturbed by one that has many.
    pub(super) fn insert(&mut self, id: u64, held: Held) {
        self.held.insert(id, held);
        if self.held.len() > self.max {
            self.held.retain(|_, held| Instant::now() < held.ends());
        }
        if self.held.len() > self.max {
            let greediest = self.greediest();
            let own = self.held.iter().filter(|(_, held)| Some(held.client) == greediest);
            if let Some(oldest) = own.min_by_key(|(id, held)| (held.begun, **id)).map(|(id, _)| *id) {
                self.held.remove(&oldest);
            }
        }
    }

    fn greediest(&self) -> Option<u64> {
        let mut counts = HashMap::<u64, usize>::new();
        self.held.values().for_each(|held| *counts.entry(held.client).or_default() += 1);
        counts.into_iter().max_by_key(|(client, count)| (*count, *client)).map(|(client, _)| client)
    }

    /// A view that is held and not too old.
    ///
    /// # Errors
    /// [`KvError::TooOld`]: it is, or it was given up for another one, or by a server before this one.
    pub(super) fn get(&self, id: u64) -> Result<&Held, KvError> {
        self.held.get(&id).filter(|held| Instant::now() < held.ends()).ok_or(KvError::TooOld)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Held> {
        self.held.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Database;
    use std::time::Duration;
    use valor_env::Env;

    async fn held(db: &Database, client: u64) -> Held {
        let (_, store) = db.clone().into_parts();
        Held { view: Arc::new(store.view().await.unwrap()), client, begun: Instant::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_the_greediest_makes_room() {
        let db = Database::memory(Env::real());
        let mut views = Views::new(4);
        for (id, client) in [(1, 7), (2, 8), (3, 8), (4, 8)] {
            views.insert(id, held(&db, client).await);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        views.insert(5, held(&db, 9).await);
        assert_eq!(views.get(2).map(|_| ()), Err(KvError::TooOld));
        assert!([1, 3, 4, 5].iter().all(|id| views.get(*id).is_ok()));
        // What is too old goes first, whoever has it.
        tokio::time::advance(VIEW_AGE_MAX - Duration::from_millis(3)).await;
        assert!(views.get(1).is_err() && views.get(3).is_ok());
        views.insert(6, held(&db, 8).await);
        assert!([3, 4, 5, 6].iter().all(|id| views.get(*id).is_ok()));
        assert!(views.remove(1).is_none());
    }
}
