//! What happens behind the commits: closed memtables become tables, tables are merged, the log is synced.
//!
//! Two threads, so that a long merge does not hold up the memtables. Both sleep when there is nothing to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::Notify;

use super::log::{Closed, Log, delete_segment};
use super::state::StateFile;
use super::tree::Tree;
use crate::KvError;
use crate::batch::Version;
use crate::snapshots::Snapshots;

/// Closed memtables from which on commits wait.
const CLOSED_MEMTABLES_MAX: usize = 4;
/// Overlapping tables from which on commits wait.
const OVERLAPPING_TABLES_MAX: usize = 32;
/// Pause after a failed flush or merge.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// State of the engine that commits and housekeeping share.
pub(crate) struct Shared {
    pub(crate) tree: Tree,
    pub(crate) log: Log,
    pub(crate) state: StateFile,
    pub(crate) snapshots: Arc<Snapshots>,
    /// Closed segments, oldest first, each with its memtable in the tree.
    closed: Mutex<Vec<Closed>>,
    /// Held exclusively while files must not change.
    pub(crate) files: RwLock<()>,
    background_sync: Option<Duration>,
    work: Mutex<Work>,
    flusher: Condvar,
    merger: Condvar,
    relief: Notify,
    overlapping: AtomicUsize,
    /// The last flush failed: waiting for room would be in vain.
    stuck: AtomicBool,
}

#[derive(Default)]
struct Work {
    flush: bool,
    merge: bool,
    sync_later: bool,
    stop: bool,
}

impl Shared {
    pub(crate) fn new(
        tree: Tree,
        log: Log,
        state: StateFile,
        snapshots: Arc<Snapshots>,
        background_sync: Option<Duration>,
        closed: Vec<Closed>,
    ) -> Arc<Self> {
        let overlapping = AtomicUsize::new(tree.overlapping_tables());
        let work = Work { flush: !closed.is_empty(), merge: true, ..Work::default() };
        Arc::new(Shared {
            tree,
            log,
            state,
            snapshots,
            closed: Mutex::new(closed),
            files: RwLock::new(()),
            background_sync,
            work: Mutex::new(work),
            flusher: Condvar::new(),
            merger: Condvar::new(),
            relief: Notify::new(),
            overlapping,
            stuck: AtomicBool::new(false),
        })
    }

    /// Hands a closed segment and its memtable to the flusher.
    pub(crate) fn add_closed(&self, closed: Closed) {
        self.closed.lock().push(closed);
        self.work.lock().flush = true;
        self.flusher.notify_one();
    }

    /// Has the log synced after the interval.
    pub(crate) fn sync_later(&self) {
        if self.background_sync.is_some() {
            self.work.lock().sync_later = true;
            self.flusher.notify_one();
        }
    }

    /// Whether commits should wait.
    pub(crate) fn is_congested(&self) -> bool {
        !self.stuck.load(Ordering::Acquire) && self.is_full()
    }

    /// Whether no further memtable may be filled.
    pub(crate) fn is_full(&self) -> bool {
        self.closed.lock().len() >= CLOSED_MEMTABLES_MAX
            || self.overlapping.load(Ordering::Relaxed) >= OVERLAPPING_TABLES_MAX
    }

    /// Waits until commits may go on.
    pub(crate) async fn until_relieved(self: Arc<Self>) {
        loop {
            let relieved = self.relief.notified();
            tokio::pin!(relieved);
            // Registered before the check, so that no relief between the two is missed.
            relieved.as_mut().enable();
            if !self.is_congested() {
                return;
            }
            relieved.await;
        }
    }

    /// Syncs the log and notes how far it is durable.
    pub(crate) fn sync_log(&self) -> Result<Version, KvError> {
        self.log.sync(|last| {
            self.state.update(|state| {
                state.acked = state.acked.max(last);
                state.durable = state.durable.max(last);
            })
        })
    }

    fn flush(&self) -> Result<(), KvError> {
        let closed = self.closed.lock().clone();
        let Some(Closed { last, .. }) = closed.last() else { return Ok(()) };
        let _files = self.files.read();
        // Closed segments are whole on the disk before they can be missed, even if the tables forget the numbers of their
        // versions when they are merged.
        self.sync_log()?;
        self.tree.flush(self.snapshots.oldest())?;
        self.state.update(|state| state.flushed = state.flushed.max(*last))?;
        self.state.sync()?;
        self.closed.lock().drain(..closed.len());
        for Closed { segment, .. } in &closed {
            delete_segment(segment);
        }
        Ok(())
    }

    fn merge(&self) -> Result<(), KvError> {
        loop {
            let files = self.files.read();
            let changed = self.tree.compact(self.snapshots.oldest())?;
            drop(files);
            self.note_tables();
            if !changed || self.work.lock().stop {
                return Ok(());
            }
        }
    }

    fn note_tables(&self) {
        self.overlapping.store(self.tree.overlapping_tables(), Ordering::Relaxed);
        self.relief.notify_waiters();
    }

    fn run_flusher(&self) {
        loop {
            let mut work = self.work.lock();
            while !work.flush && !work.sync_later && !work.stop {
                self.flusher.wait(&mut work);
            }
            if work.stop {
                return;
            }
            if !work.flush {
                let interval = self.background_sync.unwrap_or(RETRY_AFTER);
                let timed_out = self
                    .flusher
                    .wait_while_for(&mut work, |work| !work.flush && !work.stop, interval)
                    .timed_out();
                if timed_out {
                    work.sync_later = false;
                    drop(work);
                    // The failure is remembered by the log and met by the next commit.
                    let _ = self.sync_log();
                }
                continue;
            }
            work.flush = false;
            drop(work);
            self.flush_and_report();
        }
    }

    fn flush_and_report(&self) {
        match self.flush() {
            Ok(()) => {
                self.stuck.store(false, Ordering::Release);
                metrics::counter!(valor_env::metrics::KV_FLUSHES).increment(1);
                self.note_tables();
                self.work.lock().merge = true;
                self.merger.notify_one();
            }
            Err(error) => {
                tracing::error!(%error, "memtable not written; trying again");
                self.stuck.store(true, Ordering::Release);
                self.relief.notify_waiters();
                let mut work = self.work.lock();
                work.flush = true;
                self.flusher.wait_while_for(&mut work, |work| !work.stop, RETRY_AFTER);
            }
        }
    }

    fn run_merger(&self) {
        loop {
            let mut work = self.work.lock();
            while !work.merge && !work.stop {
                self.merger.wait(&mut work);
            }
            if work.stop {
                return;
            }
            work.merge = false;
            drop(work);
            if let Err(error) = self.merge() {
                tracing::error!(%error, "tables not merged");
                // Reads and commits go on, more slowly; the next flush tries again.
                self.overlapping.store(0, Ordering::Relaxed);
                self.relief.notify_waiters();
            }
        }
    }

    fn stop(&self) {
        self.work.lock().stop = true;
        self.flusher.notify_one();
        self.merger.notify_one();
        self.stuck.store(true, Ordering::Release);
        self.relief.notify_waiters();
    }
}

/// The threads.
pub(crate) struct Housekeeping {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Housekeeping {
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Self, KvError> {
        let spawn = |name: &str, run: fn(&Shared)| {
            let shared = shared.clone();
            std::thread::Builder::new().name(name.into()).spawn(move || run(&shared)).map_err(KvError::engine)
        };
        let housekeeping = Housekeeping { shared: shared.clone(), threads: Mutex::default() };
        for (name, run) in
            [("kv-flush", Shared::run_flusher as fn(&Shared)), ("kv-merge", Shared::run_merger)]
        {
            // When the second cannot start, dropping `housekeeping` ends the first.
            let thread = spawn(name, run)?;
            housekeeping.threads.lock().push(thread);
        }
        Ok(housekeeping)
    }

    /// Ends the threads after what they are at.
    pub(crate) fn stop(&self) {
        self.shared.stop();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a housekeeping thread panicked");
            }
        }
    }
}

impl Drop for Housekeeping {
    fn drop(&mut self) {
        self.stop();
    }
}
