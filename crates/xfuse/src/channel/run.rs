//! The life of a channel thread: serve, let requests end, end together.

use super::deputy::Deputy;
use super::{End, classic, uring};
use crate::dispatch::{Lane, Port, Shared};
use crate::fs::Filesystem;
use crate::mount::Connection;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{Barrier, watch};

/// How a session learns of its end.
#[derive(Debug)]
pub(crate) struct Ends {
    /// The kernel has ended the connection.
    pub(crate) gone: watch::Receiver<bool>,
    /// And everything else is done.
    pub(crate) ended: watch::Receiver<bool>,
}

/// Brings the channels of a session together at the end.
pub(crate) struct Finish {
    barrier: Barrier,
    end: watch::Sender<bool>,
    /// A channel has seen that the kernel is gone. Queues whose entries are all with handlers learn it from here.
    gone: watch::Sender<bool>,
    /// How long requests may take to end after the kernel has gone.
    patience: Duration,
    connection: Option<Connection>,
    /// Channels that may fail before nobody would serve: with queues, none may.
    spare: AtomicUsize,
}

impl Finish {
    /// For `channels` threads. `queues` says that each of them serves what no other does.
    pub(crate) fn new(
        channels: usize,
        queues: bool,
        patience: Duration,
        connection: Option<Connection>,
    ) -> (Self, Ends) {
        let (end, ended) = watch::channel(false);
        let (gone, has_gone) = watch::channel(false);
        let ends = Ends { gone: has_gone, ended };
        let spare = AtomicUsize::new(if queues { 0 } else { channels - 1 });
        (Finish { barrier: Barrier::new(channels), end, gone, patience, connection, spare }, ends)
    }

    /// A channel has failed. Others may go on; if nobody would serve its requests, the connection ends.
    fn failed(&self, index: usize, error: &io::Error) {
        let spare = self.spare.fetch_update(Relaxed, Relaxed, |spare| spare.checked_sub(1));
        if spare.is_ok() {
            tracing::error!(index, %error, "a channel failed; others go on");
        } else {
            tracing::error!(index, %error, "a channel failed; the mount is aborted, lest processes hang");
            self.abort();
        }
    }

    /// Ends the connection: some of its requests would never be answered.
    fn abort(&self) {
        let Some(connection) = self.connection.clone() else { return };
        // It may wait for locks that callers hold, so not on a thread that serves them.
        let started = std::thread::Builder::new().name("fuse-abort".into()).spawn(move || {
            if let Err(error) = connection.abort() {
                tracing::error!(?connection, %error, "aborting the connection failed");
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "cannot abort the connection");
        }
    }
}

/// Runs one channel until the session has ended.
pub(crate) fn run<F: Filesystem>(
    runtime: &Arc<Runtime>,
    index: usize,
    shared: &Arc<Shared<F>>,
    lane: &Arc<Lane>,
    finish: &Finish,
) {
    match contain(|| serve(runtime, index, shared, lane, finish)) {
        Ok(End::Gone) => tracing::debug!(index, "the kernel has gone"),
        // From now on it only helps with the end.
        Err(error) => finish.failed(index, &error),
    }
    runtime.block_on(end(index, shared, lane, finish));
}

/// Lets requests end, and waits for the other channels.
async fn end<F: Filesystem>(index: usize, shared: &Arc<Shared<F>>, lane: &Arc<Lane>, finish: &Finish) {
    if tokio::time::timeout(finish.patience, lane.inflight.drained()).await.is_err() {
        tracing::error!(index, "requests still unfinished after the kernel has gone");
    }
    // All channels' tasks keep running until `destroy` has finished.
    if finish.barrier.wait().await.is_leader() {
        shared.fs.destroy().await;
        finish.end.send_replace(true);
    }
    let _ = finish.end.subscribe().wait_for(|ended| *ended).await;
}

fn serve<F: Filesystem>(
    runtime: &Arc<Runtime>,
    index: usize,
    shared: &Arc<Shared<F>>,
    lane: &Arc<Lane>,
    finish: &Finish,
) -> io::Result<End> {
    let mut gone = finish.gone.subscribe();
    let end = match &lane.port {
        Port::Device => classic::serve(index, shared, lane, Deputy::new(runtime.clone(), index)),
        Port::Queue(queue) => runtime.block_on(async {
            tokio::select! {
                end = uring::serve(shared, lane, queue) => end,
                _ = gone.wait_for(|gone| *gone) => Ok(End::Gone),
            }
        }),
    };
    if end.is_ok() {
        finish.gone.send_replace(true);
    }
    end
}

/// A panic outside of handlers is a failure of the channel.
fn contain(serve: impl FnOnce() -> io::Result<End>) -> io::Result<End> {
    catch_unwind(AssertUnwindSafe(serve)).unwrap_or_else(|_| Err(io::Error::other("the channel panicked")))
}
