//! Waits for many futures inside one task, so that they keep its trace id and need no `'static`.

use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Runs futures concurrently and returns their outputs in order. A wake-up polls only the futures it was for.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<F> = futures.into_iter().collect();
    if futures.len() == 1
        && let Some(only) = futures.pop()
    {
        return vec![only.await];
    }
    let parent = Arc::new(Mutex::new(None));
    let slots = futures.into_iter().map(|future| {
        let child = Arc::new(Child { woken: AtomicBool::new(true), parent: parent.clone() });
        Slot { waker: Waker::from(child.clone()), child, state: State::Running(Box::pin(future)) }
    });
    let slots = slots.collect();
    JoinAll { slots, parent }.await
}

struct Child {
    woken: AtomicBool,
    parent: Arc<Mutex<Option<Waker>>>,
}

impl Wake for Child {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            let parent = self.parent.lock().clone();
            if let Some(parent) = parent {
                parent.wake();
            }
        }
    }
}

enum State<F: Future> {
    Running(Pin<Box<F>>),
    Done(F::Output),
    Taken,
}

struct Slot<F: Future> {
    child: Arc<Child>,
    waker: Waker,
    state: State<F>,
}

struct JoinAll<F: Future> {
    slots: Vec<Slot<F>>,
    parent: Arc<Mutex<Option<Waker>>>,
}

// The futures are boxed; nothing else is pinned.
impl<F: Future> Unpin for JoinAll<F> {}

impl<F: Future> Future for JoinAll<F> {
    type Output = Vec<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Before looking at the flags: a child that is woken from here on wakes the new parent.
        *self.parent.lock() = Some(cx.waker().clone());
        let mut pending = false;
        for slot in &mut self.slots {
            let State::Running(future) = &mut slot.state else { continue };
            if slot.child.woken.swap(false, Ordering::AcqRel)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&slot.waker))
            {
                slot.state = State::Done(output);
                continue;
            }
            pending = true;
        }
        if pending {
            return Poll::Pending;
        }
        let outputs =
            self.slots.iter_mut().filter_map(|slot| match std::mem::replace(&mut slot.state, State::Taken) {
                State::Done(output) => Some(output),
                State::Running(_) | State::Taken => None,
            });
        Poll::Ready(outputs.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{Instant, sleep};

    #[tokio::test(start_paused = true)]
    async fn runs_together_and_keeps_the_order() {
        let start = Instant::now();
        let outputs = join_all([30u64, 10, 20].map(|ms| async move {
            sleep(Duration::from_millis(ms)).await;
            tokio::task::yield_now().await;
            ms
        }))
        .await;
        assert_eq!(outputs, [30, 10, 20]);
        assert_eq!(start.elapsed(), Duration::from_millis(30));
        assert!(join_all(std::iter::empty::<std::future::Ready<()>>()).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn polls_only_what_was_woken() {
        let polls = AtomicBool::new(false);
        let lazy = std::future::poll_fn(|_| {
            assert!(!polls.swap(true, Ordering::Relaxed), "polled again without a wake-up");
            Poll::<()>::Pending
        });
        let lazy: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(lazy);
        let busy: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(sleep(Duration::from_secs(1)));
        let both = join_all([lazy, busy]);
        assert!(tokio::time::timeout(Duration::from_secs(5), both).await.is_err());
    }

    #[tokio::test]
    async fn wake_ups_from_other_threads() {
        let tasks = (0..50u32).map(|n| {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || sender.send(n));
            receiver
        });
        let all: Vec<u32> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
        assert!(all.into_iter().eq(0..50));
    }
}
