//! Waiting for a condition without a runtime.

use std::future::poll_fn;
use std::task::{Poll, Waker};

use parking_lot::Mutex;

/// Tasks that wait for something to change.
#[derive(Default)]
pub(crate) struct Signal {
    waiting: Mutex<Vec<Waker>>,
}

impl Signal {
    /// Something changed: everybody looks again.
    pub(crate) fn notify(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits until `check` gives something. It is called after each [`Signal::notify`], and at other times.
    pub(crate) async fn wait<T>(&self, mut check: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| {
            if let Some(value) = check() {
                return Poll::Ready(value);
            }
            {
                let mut waiting = self.waiting.lock();
                if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    waiting.push(cx.waker().clone());
                }
            }
            // It may have changed before we were listed.
            check().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Lets other tasks of the thread run.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
