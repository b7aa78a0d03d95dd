//! Who drives a channel's runtime while the channel's own thread waits in read(2).

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// Takes the place of a channel's thread in its runtime, so that what other threads start there, or handlers leave
/// behind, goes on. Its thread starts when it is first needed, and sleeps unless there is something to drive.
pub(crate) struct Deputy {
    runtime: Arc<Runtime>,
    name: String,
    thread: Option<Thread>,
}

struct Thread {
    /// Begins a turn; closed, it ends the thread.
    begin: SyncSender<()>,
    /// Ends a turn.
    recall: Arc<Notify>,
    /// A turn has ended.
    left: Receiver<()>,
    handle: JoinHandle<()>,
}

/// Ends the turn, however the work ends.
struct Turn<'a>(&'a Thread);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.recall.notify_one();
        let _ = self.0.left.recv();
    }
}

impl Deputy {
    /// For the runtime of channel `index`.
    pub(crate) fn new(runtime: Arc<Runtime>, index: usize) -> Self {
        Deputy { runtime, name: format!("fuse-{index}-tasks"), thread: None }
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Does `work` on this thread, inside the runtime, while the deputy drives it.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn while_driving<T>(&mut self, work: impl FnOnce() -> T) -> io::Result<T> {
        let thread = match &mut self.thread {
            Some(thread) => thread,
            none => none.insert(Thread::start(&self.runtime, &self.name)?),
        };
        thread.begin.send(()).map_err(|_| io::Error::other("the deputy has ended"))?;
        let _turn = Turn(thread);
        let _inside = self.runtime.enter();
        Ok(work())
    }
}

impl Thread {
    fn start(runtime: &Arc<Runtime>, name: &str) -> io::Result<Self> {
        let (begin, turns) = sync_channel::<()>(1);
        let (leave, left) = sync_channel(1);
        let (recall, runtime) = (Arc::new(Notify::new()), runtime.clone());
        let recalled = recall.clone();
        let main = move || {
            while turns.recv().is_ok() {
                runtime.block_on(recalled.notified());
                let _ = leave.send(());
            }
        };
        // Handlers that did not end at once run here until the channel's thread is back.
        let thread = std::thread::Builder::new().name(name.into()).stack_size(crate::session::STACK);
        Ok(Thread { begin, recall, left, handle: thread.spawn(main)? })
    }
}

impl Drop for Deputy {
    fn drop(&mut self) {
        if let Some(Thread { begin, handle, .. }) = self.thread.take() {
            drop(begin);
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn tasks_go_on_while_their_thread_does_other_things() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let runtime = Arc::new(runtime);
        let mut deputy = Deputy::new(runtime.clone(), 0);
        for _ in 0..100 {
            let (done, seen) = std::sync::mpsc::channel();
            let elsewhere = runtime.handle().clone();
            let task = deputy.while_driving(|| {
                let (mine, theirs) = (done.clone(), done);
                let task = tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    mine.send(()).unwrap();
                });
                std::thread::spawn(move || elsewhere.spawn(async move { theirs.send(()).unwrap() }));
                // This thread drives nothing: it stands here.
                (0..2).for_each(|_| seen.recv_timeout(Duration::from_secs(20)).unwrap());
                task
            });
            deputy.runtime().block_on(task.unwrap()).unwrap();
        }
        drop(deputy);
        assert!(Arc::into_inner(runtime).is_some(), "its thread is gone");
    }

    #[test]
    fn a_panic_ends_the_turn() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut deputy = Deputy::new(Arc::new(runtime), 0);
        let work = std::panic::AssertUnwindSafe(|| deputy.while_driving(|| panic!("as the test wants it")));
        assert!(std::panic::catch_unwind(work).is_err());
        assert_eq!(deputy.runtime().block_on(async { tokio::spawn(async { 7 }).await.unwrap() }), 7);
        assert_eq!(deputy.while_driving(|| 8).unwrap(), 8);
    }
}
