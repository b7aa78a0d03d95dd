//! What `src/sync.rs` offers, on `loom`.
//!
//! tokio checks its `Notify` with loom itself, so here it is what it promises, in a mutex: a `Notified` completes if
//! `notify_waiters` was called since the `Notified` was made. A timer fires at once, or never.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

thread_local! {
    /// loom runs the threads of a model on the thread that checks it.
    static TIMERS: Cell<bool> = const { Cell::new(true) };
}

/// Whether timers fire in the models that this thread checks.
pub(crate) fn let_timers_fire(fire: bool) {
    TIMERS.set(fire);
}

/// The future, unless the timer fires before it is ready. Other threads get a turn before that.
pub(crate) async fn timeout<F: Future>(_: Duration, future: F) -> Result<F::Output, ()> {
    let mut future = pin!(future);
    if !TIMERS.get() {
        return Ok(future.await);
    }
    poll_fn(|task| {
        if let Poll::Ready(value) = future.as_mut().poll(task) {
            return Poll::Ready(Ok(value));
        }
        loom::thread::yield_now();
        Poll::Ready(match future.as_mut().poll(task) {
            Poll::Ready(value) => Ok(value),
            Poll::Pending => Err(()),
        })
    })
    .await
}

/// A mutex without poisoning.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Mutex(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().expect("a model does not go on after a panic")
    }
}

#[derive(Debug)]
pub(crate) struct Notify(Mutex<Calls>);

#[derive(Debug, Default)]
struct Calls {
    count: u64,
    waiting: Vec<Waker>,
}

impl Default for Notify {
    fn default() -> Self {
        Notify::new()
    }
}

impl Notify {
    pub(crate) fn new() -> Self {
        Notify(Mutex::new(Calls::default()))
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified { notify: self, since: self.0.lock().count }
    }

    pub(crate) fn notify_waiters(&self) {
        let waiting = {
            let mut calls = self.0.lock();
            calls.count += 1;
            std::mem::take(&mut calls.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    since: u64,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let mut calls = self.notify.0.lock();
        if calls.count != self.since {
            return Poll::Ready(());
        }
        calls.waiting.push(task.waker().clone());
        Poll::Pending
    }
}
