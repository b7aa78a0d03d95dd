//! When a process ends: signals, the Core service's shutdown, a dead supervisor.

use std::io;
use tokio::sync::watch;

/// A latch that everything which must end waits for. Clones share it.
#[derive(Clone)]
pub struct Stop {
    sender: watch::Sender<Asked>,
}

/// Who asks again is in a hurry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Asked {
    Never,
    Once,
    Again,
}

impl Default for Stop {
    fn default() -> Self {
        Self { sender: watch::Sender::new(Asked::Never) }
    }
}

impl Stop {
    /// Asks for the end. Asking twice changes nothing.
    pub fn trigger(&self) {
        self.sender.send_if_modified(|asked| {
            let first = *asked == Asked::Never;
            if first {
                *asked = Asked::Once;
            }
            first
        });
    }

    /// A signal asks for the end; the second one, for a quick end.
    fn signalled(&self) {
        self.sender.send_modify(|asked| {
            *asked = if *asked == Asked::Never { Asked::Once } else { Asked::Again };
        });
    }

    /// Resolves once the end was asked for.
    pub async fn triggered(&self) {
        self.asked(Asked::Once).await;
    }

    /// Resolves once a signal has asked for the end that was already asked for: what is left is not to be waited for.
    pub async fn triggered_again(&self) {
        self.asked(Asked::Again).await;
    }

    async fn asked(&self, how: Asked) {
        let mut receiver = self.sender.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = receiver.wait_for(|asked| *asked >= how).await;
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
                while stream.recv().await.is_some() {
                    tracing::info!(signal = ?kind, "stopping on a signal");
                    stop.signalled();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn only_a_second_signal_asks_for_a_quick_end() {
        let stop = Stop::default();
        stop.trigger();
        stop.trigger();
        stop.triggered().await;
        let soon = Duration::from_millis(10);
        assert!(
            tokio::time::timeout(soon, stop.triggered_again()).await.is_err(),
            "asking twice changes nothing"
        );
        stop.signalled();
        stop.triggered_again().await;
        let other = Stop::default();
        other.signalled();
        other.triggered().await;
        assert!(tokio::time::timeout(soon, other.triggered_again()).await.is_err());
    }
}
