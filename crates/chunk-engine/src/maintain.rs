//! Background work: folding, checkpoints, giving space back, updates whose callers went away.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use crate::ChunkId;
use crate::checkpoint::{self, Header};
use crate::engine::Engine;
use crate::error::{EngineError, Result, io_error};
use crate::log::Lsn;
use crate::record::Record;

/// Chunks folded together, which share their syncs.
const FOLDED_TOGETHER: usize = 256;

/// The checkpoints there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checkpoints {
    /// The newest.
    pub(crate) latest: Option<Header>,
    /// Bytes of the newest.
    pub(crate) len: u64,
    /// The one before, kept in case the newest cannot be read.
    pub(crate) previous: Option<Header>,
    /// Log segments without patches in use: removed when everybody who may read them is done.
    pub(crate) retiring: Vec<(u64, u32)>,
    /// One is being written.
    pub(crate) writing: bool,
}

/// Ends the writing of a checkpoint, also when its caller goes away.
struct Writing<'a>(&'a Engine);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.checkpoints.lock().writing = false;
        self.0.checkpointed.notify();
    }
}

impl Checkpoints {
    /// Log segments below are not replayed, whichever checkpoint is used.
    fn floor(&self) -> u32 {
        let oldest = self.previous.as_ref().or(self.latest.as_ref());
        oldest.map_or(0, |header| header.from.segment())
    }
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Task {
    Fold(Vec<ChunkId>),
    Checkpoint,
    Retire(Vec<u32>),
    NextSegment,
    GiveBack,
}

impl Engine {
    /// Background work, for as long as the engine lives: folds patches, writes checkpoints, gives freed space back,
    /// finishes updates whose caller went away. Spawn it once. It returns after [`Engine::close`].
    pub async fn maintain(self: Arc<Self>) {
        let mut orphans = self.orphans.tend();
        let mut work = pin!(self.work_through());
        let mut over = false;
        std::future::poll_fn(|cx| {
            orphans.poll(cx);
            over = over || work.as_mut().poll(cx).is_ready();
            if over && orphans.is_idle() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await
    }

    async fn work_through(&self) {
        // What failed is tried again when something has changed.
        let mut failed: Option<Lsn> = None;
        loop {
            let task = self.work.wait(|| {
                if self.log.stopped().is_some() {
                    return Some(None);
                }
                let applied = self.state.lock().applied;
                if failed.is_some_and(|failed| failed == applied) {
                    return None;
                }
                self.due().map(Some)
            });
            let Some(task) = task.await else { return };
            failed = match self.perform(task).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(dir = %self.place.dir.display(), %error, "background work failed");
                    Some(self.state.lock().applied)
                }
            };
            crate::signal::yield_now().await;
        }
    }

    /// Does all background work that is due, without waiting for more. For callers that do not run
    /// [`Engine::maintain`].
    ///
    /// # Errors
    /// As of the work.
    pub async fn work_off(&self) -> Result<()> {
        while let Some(task) = self.due() {
            self.perform(task).await?;
        }
        Ok(())
    }

    /// Brings all patches of all chunks into their slots and writes a checkpoint, so that the next open is quick.
    ///
    /// # Errors
    /// As of the work.
    pub async fn settle(&self) -> Result<()> {
        let patched: Vec<ChunkId> = self.state.lock().patched.drain(..).collect();
        for ids in patched.chunks(FOLDED_TOGETHER) {
            self.perform(Task::Fold(ids.to_vec())).await?;
        }
        self.write_checkpoint().await
    }

    fn due(&self) -> Option<Task> {
        if self.log.needs_next() {
            return Some(Task::NextSegment);
        }
        let checkpoints = self.checkpoints.lock();
        let from = checkpoints.latest.as_ref().map_or(Lsn::default(), |header| header.from);
        if self.log.bytes_since(from) >= self.options.checkpoint_log_bytes.max(checkpoints.len) {
            return Some(Task::Checkpoint);
        }
        let floor = checkpoints.floor();
        let mut state = self.state.lock();
        let needed = state.oldest_needed().unwrap_or(u32::MAX);
        let old = self.log.segments_before(floor.min(needed));
        let ready = |number: &u32| {
            let marked = checkpoints.retiring.iter().find(|(_, retiring)| retiring == number);
            marked.is_none_or(|(moment, _)| state.readers.passed(*moment))
        };
        let old: Vec<u32> = old.into_iter().filter(ready).collect();
        if !old.is_empty() {
            return Some(Task::Retire(old));
        }
        if !state.crowded.is_empty() {
            return Some(Task::Fold(state.crowded.drain(..).collect()));
        }
        if (needed < floor || state.patched.len() > self.options.patched_chunks_max)
            && !state.patched.is_empty()
        {
            let count = FOLDED_TOGETHER.min(state.patched.len());
            return Some(Task::Fold(state.patched.drain(..count).collect()));
        }
        let much = state.slots.should_give_back(self.options.reusable_bytes_max);
        (much && self.files.can_give_back()).then_some(Task::GiveBack)
    }

    async fn perform(&self, task: Task) -> Result<()> {
        match self.try_perform(&task).await {
            // The space that freed slots take may be enough.
            Err(EngineError::NoSpace(_)) if self.give_space_back(0).await? => self.try_perform(&task).await,
            result => result,
        }
    }

    async fn try_perform(&self, task: &Task) -> Result<()> {
        match task {
            Task::Fold(ids) => {
                let folded = self.fold(ids.clone()).await;
                if folded.is_err() {
                    let mut state = self.state.lock();
                    ids.iter().rev().for_each(|id| state.patched.push_front(id.clone()));
                }
                folded
            }
            Task::Checkpoint => self.write_checkpoint().await,
            Task::Retire(numbers) => self.retire(numbers).await,
            Task::NextSegment => self.log.make_next().await,
            Task::GiveBack => self.give_space_back(self.options.reusable_bytes_max).await.map(|_| ()),
        }
    }

    /// Writes a checkpoint and removes the one before the last. One at a time.
    pub(crate) async fn write_checkpoint(&self) -> Result<()> {
        let begin = || {
            let mut checkpoints = self.checkpoints.lock();
            (!std::mem::replace(&mut checkpoints.writing, true)).then_some(())
        };
        self.checkpointed.wait(begin).await;
        let _writing = Writing(self);
        let (number, from) = {
            let number = self.checkpoints.lock().latest.map_or(0, |header| header.number) + 1;
            (number, self.state.lock().applied)
        };
        let header = Header { number, from, boot_id: self.boot_id, opens: self.opens };
        // In this order: what the checkpoint refers to, then the log it continues, then its name.
        let written = checkpoint::write(&self.place, header, &self.state).await;
        if written.is_err() {
            checkpoint::forget(&self.place).await;
        }
        let len = written?;
        self.files.sync_all().await.inspect_err(|error| self.log.stop(error))?;
        self.log.sync().await?;
        checkpoint::publish(&self.place, number).await?;
        let oldest = {
            let mut checkpoints = self.checkpoints.lock();
            let latest = checkpoints.latest.replace(header);
            checkpoints.len = len;
            std::mem::replace(&mut checkpoints.previous, latest)
        };
        if let Some(oldest) = oldest {
            let path = checkpoint::path(&self.place.dir, oldest.number);
            let removed = self.place.disk.remove_file(&path).await;
            removed.map_err(|e| io_error("remove", &path, e))?;
        }
        Ok(())
    }

    /// Removes log segments that no patch needs, when the records that say so are durable and nobody reads them.
    async fn retire(&self, numbers: &[u32]) -> Result<()> {
        let new: Vec<u32> = {
            let mut checkpoints = self.checkpoints.lock();
            let known = |number: &u32| checkpoints.retiring.iter().any(|(_, retiring)| retiring == number);
            let new: Vec<u32> = numbers.iter().copied().filter(|number| !known(number)).collect();
            let moment = self.state.lock().readers.mark();
            checkpoints.retiring.extend(new.iter().map(|number| (moment, *number)));
            new
        };
        if !new.is_empty() {
            self.log.sync().await?;
        }
        let ready: Vec<u32> = {
            let mut checkpoints = self.checkpoints.lock();
            let state = self.state.lock();
            let (ready, waiting) =
                checkpoints.retiring.drain(..).partition(|(moment, _)| state.readers.passed(*moment));
            checkpoints.retiring = waiting;
            let ready: Vec<(u64, u32)> = ready;
            ready.into_iter().map(|(_, number)| number).collect()
        };
        for number in ready {
            self.log.retire(number).await?;
        }
        Ok(())
    }

    /// Ends background work, syncs everything and notes in the log that it is complete; later updates fail.
    ///
    /// # Errors
    /// `Io`, `ReadOnly`.
    pub async fn close(&self) -> Result<()> {
        self.files.sync_all().await?;
        self.log.sync().await?;
        let closed = self.log.append(&self.state, Record::Close, Vec::new()).await;
        if matches!(closed, Err(EngineError::Closed)) {
            return Ok(());
        }
        self.log.stop(&EngineError::Closed);
        self.work.notify();
        closed?;
        self.log.sync().await.map(|_| ())
    }
}
