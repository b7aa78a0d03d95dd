//! Waits for many futures inside one task, so that they keep its trace id and need no `'static`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Runs futures concurrently and returns their outputs in order. Every wake-up polls all that are not finished, which
/// is right for the few (one per server) it is used for.
pub(crate) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<F> = futures.into_iter().collect();
    match futures.len() {
        0 => Vec::new(),
        1 => match futures.pop() {
            Some(only) => vec![only.await],
            None => Vec::new(),
        },
        _ => {
            JoinAll { slots: futures.into_iter().map(|future| Slot::Running(Box::pin(future))).collect() }
                .await
        }
    }
}

enum Slot<F: Future> {
    Running(Pin<Box<F>>),
    Done(F::Output),
    Taken,
}

struct JoinAll<F: Future> {
    slots: Vec<Slot<F>>,
}

// The futures are boxed; nothing else is pinned.
impl<F: Future> Unpin for JoinAll<F> {}

impl<F: Future> Future for JoinAll<F> {
    type Output = Vec<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut pending = false;
        for slot in &mut self.slots {
            if let Slot::Running(future) = slot {
                match future.as_mut().poll(cx) {
                    Poll::Ready(output) => *slot = Slot::Done(output),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            return Poll::Pending;
        }
        let outputs = self.slots.iter_mut().filter_map(|slot| match std::mem::replace(slot, Slot::Taken) {
            Slot::Done(output) => Some(output),
            Slot::Running(_) | Slot::Taken => None,
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
            ms
        }))
        .await;
        assert_eq!(outputs, [30, 10, 20]);
        assert_eq!(start.elapsed(), Duration::from_millis(30));
        assert!(join_all(std::iter::empty::<std::future::Ready<()>>()).await.is_empty());
    }
}
