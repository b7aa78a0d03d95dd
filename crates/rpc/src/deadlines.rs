//! Deadlines of calls: one timer for all calls of a thread.
//!
//! A timer per call is not free: whenever it is the earliest so far, the runtime wakes itself up to look at it, which is
//! a system call and an idle turn of the event loop for each call. Deadlines of calls are far off, mostly later than
//! those of earlier calls, and hardly ever reached. So they stand in a list, and one task sleeps until the first of them.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The deadlines of one thread's calls.
#[derive(Default)]
pub(crate) struct Deadlines {
    state: Mutex<State>,
    /// The task has to wake up sooner than it meant to.
    sooner: Notify,
}

#[derive(Default)]
struct State {
    /// Who waits, by deadline and a number that tells equal ones apart.
    waiting: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    /// When the task wakes up; it runs only while this is set.
    wakes: Option<Instant>,
}

impl Deadlines {
    /// Runs `future` until the deadline; `None` if it has not ended by then.
    pub(crate) async fn within<F: Future>(
        self: &Arc<Self>,
        deadline: Instant,
        future: F,
    ) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut entry = Entry { deadlines: self, deadline, key: None };
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if Instant::now() >= deadline => Poll::Ready(None),
            Poll::Pending => {
                entry.wait(cx);
                Poll::Pending
            }
        })
        .await
    }

    /// Wakes whose deadline has come, until nobody waits.
    async fn sweep(mut running: Running) {
        while let Some(until) = running.deadlines.wake_expired() {
            tokio::select! {
                () = sleep_until(until) => {}
                () = running.deadlines.sooner.notified() => {}
            }
        }
        // Another task may run already.
        running.over = true;
    }

    /// Returns the first deadline that is left.
    fn wake_expired(&self) -> Option<Instant> {
        let mut expired = Vec::new();
        let first = {
            let mut state = self.state.lock();
            let now = Instant::now();
            while let Some(entry) = state.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
                expired.push(entry.remove());
            }
            state.wakes = state.waiting.first_key_value().map(|((deadline, _), _)| *deadline);
            state.wakes
        };
        expired.into_iter().for_each(Waker::wake);
        first
    }
}

/// One call's place in the list, left when it is dropped.
struct Entry<'a> {
    deadlines: &'a Arc<Deadlines>,
    deadline: Instant,
    key: Option<(Instant, u64)>,
}

impl Entry<'_> {
    fn wait(&mut self, cx: &Context<'_>) {
        let mut state = self.deadlines.state.lock();
        if let Some(waker) = self.key.and_then(|key| state.waiting.get_mut(&key)) {
            waker.clone_from(cx.waker());
            return;
        }
        let key = (self.deadline, state.next);
        state.next += 1;
        state.waiting.insert(key, cx.waker().clone());
        self.key = Some(key);
        match state.wakes {
            None => {
                state.wakes = Some(self.deadline);
                drop(state);
                let running = Running { deadlines: Arc::clone(self.deadlines), over: false };
                tokio::spawn(Deadlines::sweep(running));
            }
            Some(wakes) if self.deadline < wakes => {
                state.wakes = Some(self.deadline);
                drop(state);
                self.deadlines.sooner.notify_one();
            }
            Some(_) => {}
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.deadlines.state.lock().waiting.remove(&key);
        }
    }
}

/// Notes that the task is gone if its runtime drops it, even before it first ran.
struct Running {
    deadlines: Arc<Deadlines>,
    over: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            self.deadlines.state.lock().wakes = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    fn after(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn each_ends_at_its_own_deadline() {
        let deadlines = Arc::new(Deadlines::default());
        let begin = Instant::now();
        let calls: Vec<_> = [5, 3, 9, 1, 3]
            .into_iter()
            .map(|seconds| {
                let (deadlines, deadline) = (Arc::clone(&deadlines), after(seconds));
                tokio::spawn(async move {
                    assert_eq!(deadlines.within(deadline, pending::<()>()).await, None);
                    (begin.elapsed(), seconds)
                })
            })
            .collect();
        for call in calls {
            let (elapsed, seconds) = call.await.unwrap();
            // The timer counts milliseconds.
            assert!(elapsed.as_secs() == seconds && elapsed.subsec_millis() < 2, "{elapsed:?}");
        }
        let state = deadlines.state.lock();
        assert!(state.waiting.is_empty() && state.wakes.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_in_time_leaves_nothing() {
        let deadlines = Arc::new(Deadlines::default());
        assert_eq!(deadlines.within(after(2), async { 1 }).await, Some(1));
        assert!(deadlines.state.lock().wakes.is_none(), "not even a task");
        let slow = async {
            sleep(Duration::from_secs(1)).await;
            2
        };
        assert_eq!(deadlines.within(after(2), slow).await, Some(2));
        assert!(deadlines.state.lock().waiting.is_empty());
        sleep(Duration::from_secs(2)).await;
        assert!(deadlines.state.lock().wakes.is_none());
        // And begins again.
        assert_eq!(deadlines.within(after(2), pending::<()>()).await, None);
    }

    #[test]
    fn survives_a_runtime_that_never_ran_its_task() {
        let deadlines = Arc::new(Deadlines::default());
        for _ in 0..2 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let mut call = Box::pin(deadlines.within(after(100), pending::<()>()));
                poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await
            });
            drop(runtime);
            assert!(deadlines.state.lock().wakes.is_none());
        }
    }

    #[test]
    fn survives_its_runtime() {
        let deadlines = Arc::new(Deadlines::default());
        for _ in 0..2 {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                assert_eq!(deadlines.within(after(1), pending::<()>()).await, None);
                let left = Arc::clone(&deadlines);
                tokio::spawn(async move { left.within(after(100), pending::<()>()).await });
                sleep(Duration::from_millis(1)).await;
            });
            let state = deadlines.state.lock();
            assert!(state.waiting.is_empty() && state.wakes.is_none());
        }
    }
}
