//! Writes of one file that are on their way to storage: how much, and which ranges.

use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Notify;

/// The writes in flight of one file, and the range that still waits in its buffer.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    flying: Vec<(u64, Range<u64>)>,
    next: u64,
    bytes: u64,
    /// What the buffer holds: how many bytes, and where they may go.
    buffered: Option<(Range<u64>, u64)>,
}

/// A write in flight; leaves the pipeline when dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    pipeline: Arc<Pipeline>,
    id: u64,
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

impl Pipeline {
    /// Enters a write. Waits while more than `limit` bytes are in flight, and for writes of the same bytes, which must
    /// stay in order.
    pub(crate) async fn enter(self: &Arc<Self>, range: Range<u64>, limit: u64) -> Flight {
        loop {
            let changed = self.changed.notified();
            if let Some(id) = self.try_enter(&range, limit) {
                return Flight { pipeline: self.clone(), id };
            }
            changed.await;
        }
    }

    fn try_enter(&self, range: &Range<u64>, limit: u64) -> Option<u64> {
        let mut state = self.state.lock();
        let len = range.end - range.start;
        let room = state.bytes == 0 || state.bytes + len <= limit;
        if !room || state.flying.iter().any(|(_, other)| overlap(other, range)) {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.bytes += len;
        state.flying.push((id, range.clone()));
        Some(id)
    }

    /// Says that the buffer holds `bytes` bytes that go into a range.
    pub(crate) fn set_buffered(&self, range: Range<u64>, bytes: u64) {
        self.state.lock().buffered = Some((range, bytes));
    }

    /// The buffer is empty.
    pub(crate) fn clear_buffered(&self) {
        self.state.lock().buffered = None;
    }

    /// Bytes that are buffered or in flight.
    pub(crate) fn unsent(&self) -> u64 {
        let state = self.state.lock();
        state.bytes + state.buffered.as_ref().map_or(0, |(_, bytes)| *bytes)
    }

    /// Whether the buffer holds some of these bytes.
    pub(crate) fn is_buffered(&self, range: &Range<u64>) -> bool {
        self.state.lock().buffered.as_ref().is_some_and(|(buffered, _)| overlap(buffered, range))
    }

    /// Whether nothing is buffered or in flight.
    pub(crate) fn is_clear(&self) -> bool {
        let state = self.state.lock();
        state.flying.is_empty() && state.buffered.is_none()
    }

    /// Waits until no write of these bytes is in flight.
    pub(crate) async fn wait_for(&self, range: &Range<u64>) {
        loop {
            let changed = self.changed.notified();
            if !self.state.lock().flying.iter().any(|(_, other)| overlap(other, range)) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn wait_idle(&self) {
        self.wait_for(&(0..u64::MAX)).await;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = self.pipeline.state.lock();
        if let Some(index) = state.flying.iter().position(|(id, _)| *id == self.id) {
            let (_, range) = state.flying.swap_remove(index);
            state.bytes -= range.end - range.start;
        }
        drop(state);
        self.pipeline.changed.notify_waiters();
    }
}

/// Errors of writes that were already acknowledged. Every handle open at the time learns of each once, at its next write,
/// fsync or close (the kernel's rule for its own writeback).
#[derive(Debug, Default)]
pub(crate) struct ErrorSequence(Mutex<(u64, i32)>);

impl ErrorSequence {
    /// Notes an error.
    pub(crate) fn record(&self, errno: xfuse::Errno) {
        let mut last = self.0.lock();
        *last = (last.0 + 1, errno.0);
    }

    /// Where a new handle begins.
    pub(crate) fn position(&self) -> u64 {
        self.0.lock().0
    }

    /// The last error if it came after `seen`, which moves on.
    pub(crate) fn take(&self, seen: &Mutex<u64>) -> Result<(), xfuse::Errno> {
        let (position, errno) = *self.0.lock();
        let mut seen = seen.lock();
        if *seen == position {
            return Ok(());
        }
        *seen = position;
        Err(xfuse::Errno(errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Poll;

    async fn is_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        let mut future = Some(future);
        std::future::poll_fn(|cx| {
            Poll::Ready(future.take().is_some_and(|future| future.poll(cx).is_pending()))
        })
        .await
    }

    #[tokio::test]
    async fn limits_bytes_and_keeps_overlaps_in_order() {
        let pipeline = Arc::new(Pipeline::default());
        let a = pipeline.enter(0..10, 25).await;
        let b = pipeline.enter(10..20, 25).await;
        let mut too_much = Box::pin(pipeline.enter(20..30, 25));
        assert!(is_pending(too_much.as_mut()).await);
        let mut overlapping = Box::pin(pipeline.enter(19..21, 25));
        assert!(is_pending(overlapping.as_mut()).await);
        drop(b);
        let c = too_much.await;
        let mut overlapping_c = Box::pin(pipeline.wait_for(&(29..40)));
        assert!(is_pending(overlapping_c.as_mut()).await);
        drop(c);
        overlapping_c.await;
        let d = overlapping.await;
        let mut idle = Box::pin(pipeline.wait_idle());
        assert!(is_pending(idle.as_mut()).await);
        drop((a, d));
        idle.await;
    }

    #[tokio::test]
    async fn a_write_larger_than_the_limit_goes_alone() {
        let pipeline = Arc::new(Pipeline::default());
        let large = pipeline.enter(0..1000, 10).await;
        let mut small = Box::pin(pipeline.enter(2000..2001, 10));
        assert!(is_pending(small.as_mut()).await);
        drop(large);
        drop(small.await);
    }

    #[test]
    fn each_handle_learns_of_an_error_once() {
        let errors = ErrorSequence::default();
        let (a, b) = (Mutex::new(errors.position()), Mutex::new(errors.position()));
        assert_eq!(errors.take(&a), Ok(()));
        errors.record(xfuse::Errno::ENOSPC);
        let late = Mutex::new(errors.position());
        assert_eq!(errors.take(&a), Err(xfuse::Errno::ENOSPC));
        assert_eq!(errors.take(&a), Ok(()));
        assert_eq!(errors.take(&b), Err(xfuse::Errno::ENOSPC));
        assert_eq!(errors.take(&late), Ok(()));
    }
}
