//! Group commit: commits that wait for the disk at the same time share one sync.
//!
//! A thread of its own syncs the engine, publishes what became durable and wakes the waiting commits. Commits that arrive
//! during a sync wait for the next one, so that a slow disk makes larger groups.

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::KvError;
use crate::batch::Version;
use crate::engine::Engine;
use crate::snapshots::Snapshots;
use crate::unsettled::{UnderWay, Unsettled};

/// The sync thread and its queue.
pub(crate) struct GroupCommit {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Waiter>,
    stopped: bool,
}

struct Waiter {
    version: Version,
    wake: oneshot::Sender<Result<(), KvError>>,
    /// Ends when the version is readable, whether or not anybody still waits for it.
    _under_way: Option<UnderWay>,
}

impl GroupCommit {
    pub(crate) fn start(
        engine: Arc<dyn Engine>,
        snapshots: Arc<Snapshots>,
        unsettled: Arc<Unsettled>,
    ) -> Result<Self, KvError> {
        let queue = Arc::new(Queue::default());
        let theirs = queue.clone();
        let thread = std::thread::Builder::new()
            .name("kv-sync".into())
            .spawn(move || theirs.run(&*engine, &snapshots, &unsettled))
            .map_err(KvError::engine)?;
        Ok(GroupCommit { queue, thread: Mutex::new(Some(thread)) })
    }

    /// Queues an applied version, in version order. The future ends when it is durable and readable.
    pub(crate) fn enqueue(
        &self,
        version: Version,
        under_way: Option<UnderWay>,
    ) -> impl Future<Output = Result<(), KvError>> + use<> {
        let (wake, woken) = oneshot::channel();
        let mut state = self.queue.state.lock();
        if !state.stopped {
            state.waiting.push(Waiter { version, wake, _under_way: under_way });
        }
        drop(state);
        self.queue.arrived.notify_one();
        async move { woken.await.unwrap_or_else(|_| Err(KvError::engine("the database is closed"))) }
    }

    /// Ends the thread after it served the commits that wait.
    pub(crate) fn stop(&self) {
        self.queue.state.lock().stopped = true;
        self.queue.arrived.notify_one();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the sync thread panicked");
        }
    }
}

impl Queue {
    fn run(&self, engine: &dyn Engine, snapshots: &Snapshots, unsettled: &Unsettled) {
        while let Some(group) = self.next_group() {
            let result = engine.sync();
            match &result {
                Ok(durable) => {
                    // Versions are published in order, and only ones that are applied: those of this group.
                    let newest = group.last().map_or(0, |waiter| waiter.version);
                    debug_assert!(newest <= *durable);
                    snapshots.publish(newest);
                }
                Err(error) => unsettled.fail(error),
            }
            for waiter in group {
                let outcome = match &result {
                    Ok(durable) if waiter.version <= *durable => Ok(()),
                    Ok(durable) => {
                        Err(KvError::engine(format!("version {} not synced: {durable}", waiter.version)))
                    }
                    Err(error) => Err(error.clone()),
                };
                // The commit's caller may have given up.
                let _ = waiter.wake.send(outcome);
            }
        }
    }

    /// Waits for commits; `None` when there will be none.
    fn next_group(&self) -> Option<Vec<Waiter>> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.stopped {
                return None;
            }
            self.arrived.wait(&mut state);
        }
        Some(std::mem::take(&mut state.waiting))
    }
}
