//! The end of a mount. Who still uses it loses it, but what programs wrote is sent to the servers first, for a bounded
//! time; and what could not be sent is named.
//!
//! The kernel is made to write what only it has while the mount is still in its place, since no path leads to a detached
//! one. Files are flushed at the same time, and once more when the kernel has gone and nothing new can come.

use super::write_back;
use parking_lot::Mutex;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, interval_at, sleep_until, timeout};
use valor_daemon::Stop;
use valor_fuse::{Clients, Remains};
use xfuse::mount::Unmounted;

/// How often it is told what is left.
const REPORT_EVERY: Duration = Duration::from_secs(3);
/// How long the kernel may take to end a connection that is aborted.
const ABORT_PATIENCE: Duration = Duration::from_secs(2);

/// A mount that is to end.
pub struct Ending {
    session: Arc<xfuse::Session>,
    remains: Remains<Clients>,
    mount_point: PathBuf,
    /// Its number, if that is known.
    device: Option<String>,
    /// Why the kernel may still have what this process was never given.
    unseen: Mutex<Option<String>>,
}

impl Ending {
    /// Of a mount that is served.
    pub fn new(session: xfuse::Session, remains: Remains<Clients>, mount_point: PathBuf) -> Self {
        let device = write_back::device_of(&mount_point)
            .inspect_err(|error| tracing::warn!(%error, "the mount is not in the list of mounts"))
            .ok();
        let unseen = Mutex::new(Some("the kernel was not asked for it".to_owned()));
        Ending { session: Arc::new(session), remains, mount_point, device, unseen }
    }

    /// The session being served.
    pub fn session(&self) -> &xfuse::Session {
        &self.session
    }

    /// Sends what programs wrote and unmounts; at once, if `stop` is asked for once more.
    ///
    /// # Errors
    /// A message that names what was not sent.
    pub async fn end(self, patience: Duration, stop: &Stop) -> Result<(), String> {
        self.remains.expect_end();
        if self.session.is_gone() {
            self.unseen.lock().take();
        }
        let deadline = Instant::now() + patience;
        let mut reports = interval_at(Instant::now() + REPORT_EVERY, REPORT_EVERY);
        let mut in_order = pin!(self.end_in_order(patience / 2));
        let cut = loop {
            tokio::select! {
                () = &mut in_order => break None,
                () = stop.triggered_again() => break Some("asked again to stop".to_owned()),
                () = sleep_until(deadline) => break Some(format!("gave up after {patience:?}")),
                _ = reports.tick() => tell(&format!("stopping: so far {}", self.remains.unwritten())),
            }
        };
        if cut.is_some() {
            self.abort().await;
        }
        let mut lost = Vec::new();
        let left = self.remains.unwritten();
        if !left.is_empty() {
            lost.push(left.to_string());
        }
        if let Some(why) = &*self.unseen.lock() {
            lost.push(format!("what programs changed only in memory maps may be lost: {why}"));
        }
        let how = cut.unwrap_or_else(|| "stopped".into());
        if lost.is_empty() {
            // Requests that hang are no loss.
            tracing::info!(how, "everything written is stored");
            return Ok(());
        }
        Err(format!("{how}: {}", lost.join("; ")))
    }

    async fn end_in_order(&self, patience: Duration) {
        tokio::join!(self.leave(patience), self.remains.flush());
    }

    async fn leave(&self, patience: Duration) {
        let mut left = Ok(());
        if !self.session.is_gone() {
            self.ask_kernel(patience).await;
            let session = Arc::clone(&self.session);
            left = on_a_thread(move || unmount(&session)).await;
        }
        match left {
            // What was written is sent although requests may still be at work.
            Ok(()) => drop(tokio::join!(self.session.ended(), self.remains.flush())),
            Err(error) => {
                tracing::warn!(%error, "unmounting failed; what was written is flushed");
                self.remains.flush().await;
            }
        }
    }

    async fn ask_kernel(&self, patience: Duration) {
        let Some(device) = &self.device else { return };
        let asked = write_back::request(&self.mount_point, device, patience).await;
        *self.unseen.lock() = match asked {
            // One that was unmounted meanwhile has written all.
            _ if self.session.is_gone() => None,
            Ok(()) => None,
            Err(why) => Some(format!("the kernel was asked to write it ({why})")),
        };
    }

    /// Lets go whoever waits for the mount.
    async fn abort(&self) {
        let session = Arc::clone(&self.session);
        let aborted = on_a_thread(move || if session.is_gone() { Ok(()) } else { session.abort() });
        match timeout(ABORT_PATIENCE, aborted).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "aborting the mount failed"),
            Err(_) => tracing::warn!("the kernel is slow to abort the mount"),
        }
    }
}

/// Unmounts, or aborts what is in use.
fn unmount(session: &xfuse::Session) -> io::Result<()> {
    match session.unmount() {
        Ok(Unmounted::Clean) => Ok(()),
        _ if session.is_gone() => Ok(()),
        in_the_way => {
            tracing::info!(?in_the_way, "the mount is in use, or another is mounted over it: aborting it");
            session.abort()
        }
    }
}

/// Runs what may wait in the kernel, possibly for ever, so that this process can end without it.
async fn on_a_thread<T: Send + 'static>(
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new().name("unmount".into()).spawn(move || done.send(run()))?;
    outcome.await.map_err(io::Error::other)?
}

/// To the log and to who looks on.
fn tell(text: &str) {
    tracing::warn!("{text}");
    eprintln!("valor: {text}");
}
