//! One lock per chunk: updates of a chunk run one after the other, in the order in which they asked.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use valor_protocol::storage::ChunkId;

/// The locks of one target. A chunk that nobody works on takes no memory.
#[derive(Debug, Default)]
pub struct ChunkLocks {
    /// Locked chunks and who waits for them.
    held: Mutex<HashMap<ChunkId, VecDeque<oneshot::Sender<ChunkGuard>>>>,
}

/// Too many wait for the chunk already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyWaiters;

/// Holds a chunk's lock; dropping it lets the next one in.
#[derive(Debug)]
pub struct ChunkGuard {
    locks: Arc<ChunkLocks>,
    chunk: ChunkId,
    /// False once it is known that nobody took it.
    armed: bool,
}

impl ChunkLocks {
    /// Waits for its turn, behind at most `max_waiters` others.
    ///
    /// # Errors
    /// [`TooManyWaiters`].
    pub async fn lock(
        self: &Arc<Self>,
        chunk: &ChunkId,
        max_waiters: usize,
    ) -> Result<ChunkGuard, TooManyWaiters> {
        loop {
            let turn = {
                let mut held = self.held.lock();
                match held.get_mut(chunk) {
                    None => {
                        held.insert(chunk.clone(), VecDeque::new());
                        return Ok(self.guard(chunk));
                    }
                    Some(waiters) if waiters.len() >= max_waiters => return Err(TooManyWaiters),
                    Some(waiters) => {
                        let (sender, turn) = oneshot::channel();
                        waiters.push_back(sender);
                        turn
                    }
                }
            };
            // The sender is dropped without a guard only if the whole table goes, which this call keeps alive.
            if let Ok(guard) = turn.await {
                return Ok(guard);
            }
        }
    }

    /// Takes the lock if nobody has it.
    pub fn try_lock(self: &Arc<Self>, chunk: &ChunkId) -> Option<ChunkGuard> {
        let mut held = self.held.lock();
        if held.contains_key(chunk) {
            return None;
        }
        held.insert(chunk.clone(), VecDeque::new());
        Some(self.guard(chunk))
    }

    fn guard(self: &Arc<Self>, chunk: &ChunkId) -> ChunkGuard {
        ChunkGuard { locks: Arc::clone(self), chunk: chunk.clone(), armed: true }
    }

    /// Hands the lock to the next one that still waits.
    fn release(self: &Arc<Self>, chunk: &ChunkId) {
        loop {
            let next = {
                let mut held = self.held.lock();
                match held.get_mut(chunk).and_then(VecDeque::pop_front) {
                    Some(next) => next,
                    None => {
                        held.remove(chunk);
                        return;
                    }
                }
            };
            if next.is_closed() {
                continue;
            }
            // A receiver that is dropped in this moment drops the guard, which passes the lock on.
            match next.send(self.guard(chunk)) {
                Ok(()) => return,
                Err(mut guard) => guard.armed = false,
            }
        }
    }
}

impl Drop for ChunkGuard {
    fn drop(&mut self) {
        if self.armed {
            self.locks.release(&self.chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    fn chunk(n: u8) -> ChunkId {
        ChunkId::from_slice(&[n])
    }

    #[tokio::test]
    async fn first_come_first_served() {
        let locks = Arc::new(ChunkLocks::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = locks.lock(&chunk(1), 10).await.unwrap();
        let tasks: Vec<_> = (0..5)
            .map(|n| {
                let (locks, order) = (Arc::clone(&locks), Arc::clone(&order));
                tokio::spawn(async move {
                    let _guard = locks.lock(&chunk(1), 10).await.unwrap();
                    order.lock().push(n);
                    tokio::task::yield_now().await;
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(locks.try_lock(&chunk(1)).is_none());
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), [0, 1, 2, 3, 4]);
        assert!(locks.held.lock().is_empty());
    }

    #[tokio::test]
    async fn chunks_do_not_hinder_each_other() {
        let locks = Arc::new(ChunkLocks::default());
        let _one = locks.lock(&chunk(1), 10).await.unwrap();
        let _two = locks.lock(&chunk(2), 10).await.unwrap();
        assert!(locks.try_lock(&chunk(3)).is_some());
    }

    #[tokio::test]
    async fn waiters_are_bounded() {
        let locks = Arc::new(ChunkLocks::default());
        let first = locks.lock(&chunk(1), 1).await.unwrap();
        let waiting = {
            let locks = Arc::clone(&locks);
            tokio::spawn(async move { locks.lock(&chunk(1), 1).await.map(drop) })
        };
        tokio::task::yield_now().await;
        assert_eq!(locks.lock(&chunk(1), 1).await.map(drop), Err(TooManyWaiters));
        drop(first);
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn waiter_that_gives_up_is_passed_over() {
        let locks = Arc::new(ChunkLocks::default());
        let first = locks.lock(&chunk(1), 10).await.unwrap();
        let one = chunk(1);
        let impatient = timeout(Duration::from_millis(1), locks.lock(&one, 10));
        let patient = {
            let locks = Arc::clone(&locks);
            tokio::spawn(async move { locks.lock(&chunk(1), 10).await.map(drop) })
        };
        assert!(impatient.await.is_err());
        drop(first);
        patient.await.unwrap().unwrap();
        assert!(locks.held.lock().is_empty());
    }

    #[tokio::test]
    async fn turn_that_is_not_taken_passes_on() {
        let locks = Arc::new(ChunkLocks::default());
        let first = locks.lock(&chunk(1), 10).await.unwrap();
        let one = chunk(1);
        let mut second = Box::pin(locks.lock(&one, 10));
        std::future::poll_fn(|cx| {
            assert!(second.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        drop(first);
        // The guard is on its way to the second, which goes.
        drop(second);
        assert!(locks.try_lock(&chunk(1)).is_some());
    }
}
