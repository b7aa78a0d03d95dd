//! Where callers run: looked up by a thread of its own.
//!
//! Reading about a process may have to do some of its work: whoever drops the last reference to the memory of a process
//! that executes another program, or ends, closes what is mapped there and waits for I/O under way. That may need this
//! mount, so a thread that serves it must not be the one.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Questions that wait; more are dropped.
const WAITING: usize = 8;
/// It needs little more than a buffer.
const STACK: usize = 128 << 10;

/// The CPU that a channel's last caller was seen on; -1 while unknown.
#[derive(Debug, Clone)]
pub(crate) struct Seen(Arc<AtomicI32>);

impl Seen {
    pub(crate) fn new() -> Self {
        Seen(Arc::new(AtomicI32::new(-1)))
    }

    pub(crate) fn is_cpu(&self, cpu: usize) -> bool {
        usize::try_from(self.0.load(Relaxed)) == Ok(cpu)
    }
}

/// Asks for a session's channels. The thread starts with the first question and ends with this.
#[derive(Debug, Default)]
pub(crate) struct Looker(Mutex<Option<SyncSender<(u32, Seen)>>>);

impl Looker {
    /// Sees to it that `seen` soon tells where the process runs. Does not wait; under pressure nothing comes of it.
    pub(crate) fn ask(&self, pid: u32, seen: &Seen) {
        let Some(mut asked) = self.0.try_lock() else { return };
        if asked.is_none() {
            let (sender, questions) = sync_channel(WAITING);
            let thread = std::thread::Builder::new().name("fuse-callers".into()).stack_size(STACK);
            if let Err(error) = thread.spawn(move || answer(&questions)) {
                tracing::warn!(%error, "callers are not looked at");
            }
            *asked = Some(sender);
        }
        if let Some(sender) = &*asked {
            let _ = sender.try_send((pid, seen.clone()));
        }
    }
}

fn answer(questions: &Receiver<(u32, Seen)>) {
    while let Ok((pid, seen)) = questions.recv() {
        let cpu = cpu_of(pid).and_then(|cpu| i32::try_from(cpu).ok());
        seen.0.store(cpu.unwrap_or(-1), Relaxed);
    }
}

/// The CPU a process last ran on: field 39 of its `stat`.
fn cpu_of(pid: u32) -> Option<usize> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may hold anything, blanks and parentheses included.
    let rest = &text[text.rfind(')')? + 1..];
    rest.split_ascii_whitespace().nth(36)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_of_a_process_is_known() {
        assert!(cpu_of(std::process::id()).is_some());
        assert_eq!(cpu_of(u32::MAX), None);
    }

    #[test]
    fn answers_come_from_another_thread() {
        let (looker, seen) = (Looker::default(), Seen::new());
        let started = std::time::Instant::now();
        while seen.0.load(Relaxed) < 0 {
            looker.ask(std::process::id(), &seen);
            assert!(started.elapsed().as_secs() < 30, "no answer");
            std::thread::yield_now();
        }
        // What it was asked before comes first.
        while seen.0.load(Relaxed) >= 0 {
            looker.ask(u32::MAX, &seen);
            assert!(started.elapsed().as_secs() < 30, "no answer");
            std::thread::yield_now();
        }
        assert!(!seen.is_cpu(0));
    }
}
