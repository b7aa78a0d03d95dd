//! When a process ends: signals, the Core service's shutdown, a dead supervisor.

use std::io;
use tokio::sync::watch;

/// A latch that everything which must end waits for. Clones share it.
#[derive(Clone)]
pub struct Stop {
    sender: watch::Sender<bool>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { sender: watch::Sender::new(false) }
    }
}

impl Stop {
    /// Asks for the end. Asking twice changes nothing.
    pub fn trigger(&self) {
        self.sender.send_replace(true);
    }

    /// Resolves once the end was asked for.
    pub async fn triggered(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = receiver.wait_for(|stop| *stop).await;
    }

    /// Triggers on SIGINT, SIGTERM and SIGUSR1, as 3FS's servers do. Call within a runtime that keeps running.
    ///
    /// # Errors
    /// When signal handlers cannot be installed.
    pub fn on_signals(&self) -> io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::user_defined1()] {
            let mut stream = signal(kind)?;
            let stop = self.clone();
            tokio::spawn(async move {
                if stream.recv().await.is_some() {
                    tracing::info!(signal = ?kind, "stopping on a signal");
                    stop.trigger();
                }
            });
        }
        Ok(())
    }
}

/// Makes the kernel send SIGTERM to this process when the thread that started it ends, so that nothing is left
/// behind by a killed supervisor.
///
/// # Errors
/// When the kernel refuses, or the supervisor is gone already.
pub fn follow_parent(expected_parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent != expected_parent {
        return Err(io::Error::other("the supervisor ended before this process had started"));
    }
    Ok(())
}
