//! Help between the threads of queues.
//!
//! A queue has one thread, and callers with much data may all be on its CPU while others idle: the kernel sees no reason to
//! move callers that mostly wait. So a thread that waits for requests offers to run a handler of another queue. The answer
//! goes back to the queue's own thread.

use parking_lot::Mutex;

/// A handler to be run.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// Where one thread offers help.
#[derive(Default)]
pub(super) struct Help(Mutex<Offer>);

#[derive(Default)]
struct Offer {
    open: bool,
    job: Option<Job>,
}

impl Help {
    /// The thread waits, for as long as this exists.
    pub(super) fn offer(&self) -> Offered<'_> {
        self.0.lock().open = true;
        Offered(self)
    }

    /// Asks for help; the job itself if none is offered.
    pub(super) fn ask(&self, job: Job) -> Option<Job> {
        let mut offer = self.0.lock();
        if !std::mem::take(&mut offer.open) {
            return Some(job);
        }
        offer.job = Some(job);
        None
    }
}

/// Help is offered.
pub(super) struct Offered<'a>(&'a Help);

impl Offered<'_> {
    /// The thread does not wait any more; what it was asked for meanwhile.
    pub(super) fn withdraw(self) -> Option<Job> {
        self.0.close()
    }
}

impl Drop for Offered<'_> {
    fn drop(&mut self) {
        // A thread that ends answers what it was asked for with an error.
        drop(self.0.close());
    }
}

impl Help {
    fn close(&self) -> Option<Job> {
        let mut offer = self.0.lock();
        offer.open = false;
        offer.job.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    #[test]
    fn help_is_given_once_for_each_offer() {
        let (help, done) = (Help::default(), Arc::new(AtomicU32::new(0)));
        let job = || -> Job {
            let done = done.clone();
            Box::new(move || {
                done.fetch_add(1, Relaxed);
            })
        };
        assert!(help.ask(job()).is_some(), "nobody waits");
        let offered = help.offer();
        assert!(help.ask(job()).is_none());
        assert!(help.ask(job()).is_some(), "it has one");
        offered.withdraw().expect("the job")();
        assert_eq!(done.load(Relaxed), 1);
        assert!(help.ask(job()).is_some(), "it goes on");
        assert!(help.offer().withdraw().is_none(), "nobody asked");
        let offered = help.offer();
        assert!(help.ask(job()).is_none());
        drop(offered);
        assert_eq!(
            (done.load(Relaxed), Arc::strong_count(&done)),
            (1, 1),
            "the job of a thread that ends is dropped"
        );
    }
}
