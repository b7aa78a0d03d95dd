//! Ends servers that no longer answer, so that nothing waits for them for ever.

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A thread that kills the watched server when its time is over.
pub struct Watchdog {
    watched: Arc<Mutex<Option<(Pid, Instant)>>>,
}

/// Ends the watching when dropped. The server must not be reaped before.
pub struct Watch<'a>(&'a Watchdog);

impl Watchdog {
    /// Starts the thread; it ends with the watchdog.
    pub fn start() -> Self {
        let watched = Arc::new(Mutex::new(None));
        let weak = Arc::downgrade(&watched);
        std::thread::spawn(move || {
            while let Some(watched) = weak.upgrade() {
                look(&watched);
                drop(watched);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Watchdog { watched }
    }

    pub fn watch(&self, pid: Pid, patience: Duration) -> Watch<'_> {
        *self.watched.lock() = Some((pid, Instant::now() + patience));
        Watch(self)
    }
}

fn look(watched: &Mutex<Option<(Pid, Instant)>>) {
    let mut watched = watched.lock();
    if let Some((pid, deadline)) = *watched
        && Instant::now() > deadline
    {
        eprintln!("    no answer: the server is killed");
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        *watched = None;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        *self.0.watched.lock() = None;
    }
}
