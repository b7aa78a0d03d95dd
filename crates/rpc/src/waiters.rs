//! Calls waiting for their responses, by request id.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use valor_wire::{BodyCrc, Timestamp};

/// A response, its payload not decoded.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) payload: Bytes,
    pub(crate) crc: BodyCrc,
    pub(crate) timestamp: Option<Timestamp>,
}

/// Why there will be no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The request was not sent completely; it may be sent again.
    Unsent(String),
    /// The request was sent; whether it was executed is unknown.
    Lost(String),
}

/// Request ids are counters: spreading their bits is all a hash has to do.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0.rotate_left(5) ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

enum Waiter {
    Waiting { waker: Option<Waker>, end: u64 },
    Done(Result<Response, Failure>),
}

#[derive(Default)]
struct State {
    waiters: HashMap<u64, Waiter, BuildHasherDefault<IdHasher>>,
    /// Once set, nobody waits any more.
    failed: Option<String>,
}

/// The waiting calls of one connection.
#[derive(Default)]
pub(crate) struct Waiters(Mutex<State>);

impl Waiters {
    /// Adds a call before its request is sent. False if the id is taken or the connection has failed.
    pub(crate) fn add(&self, id: u64) -> bool {
        let mut state = self.0.lock();
        if state.failed.is_some() || state.waiters.contains_key(&id) {
            return false;
        }
        state.waiters.insert(id, Waiter::Waiting { waker: None, end: u64::MAX });
        true
    }

    /// Notes where the request ends in the stream.
    pub(crate) fn sent(&self, id: u64, position: u64) {
        if let Some(Waiter::Waiting { end, .. }) = self.0.lock().waiters.get_mut(&id) {
            *end = position;
        }
    }

    /// Hands a response to its call, if that still waits.
    pub(crate) fn complete(&self, id: u64, response: Response) {
        let mut state = self.0.lock();
        let Some(waiter) = state.waiters.get_mut(&id) else { return };
        if let Waiter::Waiting { waker, .. } = waiter {
            let waker = waker.take();
            *waiter = Waiter::Done(Ok(response));
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Ends all calls: those whose request ends within `written` were sent.
    pub(crate) fn fail(&self, written: u64, reason: &str) {
        let mut state = self.0.lock();
        state.failed.get_or_insert_with(|| reason.to_owned());
        let mut wakers = Vec::new();
        for waiter in state.waiters.values_mut() {
            if let Waiter::Waiting { waker, end } = waiter {
                wakers.extend(waker.take());
                let reason = reason.to_owned();
                let failure = if *end <= written { Failure::Lost(reason) } else { Failure::Unsent(reason) };
                *waiter = Waiter::Done(Err(failure));
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Calls in flight.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().waiters.len()
    }

    /// Why the connection failed, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        self.0.lock().failed.clone()
    }

    pub(crate) fn remove(&self, id: u64) {
        self.0.lock().waiters.remove(&id);
    }

    fn poll(&self, id: u64, cx: &Context<'_>) -> Poll<Result<Response, Failure>> {
        let mut state = self.0.lock();
        match state.waiters.get_mut(&id) {
            Some(Waiter::Waiting { waker, .. }) => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            _ => match state.waiters.remove(&id) {
                Some(Waiter::Done(result)) => Poll::Ready(result),
                _ => Poll::Ready(Err(Failure::Lost("waited for twice".to_owned()))),
            },
        }
    }
}

/// Waits for one response. Dropping it forgets the call: a late response finds nobody.
pub(crate) struct Wait<'a> {
    pub(crate) waiters: &'a Waiters,
    pub(crate) id: u64,
}

impl Future for Wait<'_> {
    type Output = Result<Response, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.waiters.poll(self.id, cx)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.waiters.remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(payload: &'static [u8]) -> Response {
        Response { payload: Bytes::from_static(payload), crc: BodyCrc::default(), timestamp: None }
    }

    #[tokio::test]
    async fn responses_find_their_calls() {
        let waiters = Waiters::default();
        assert!(waiters.add(1) && waiters.add(2) && !waiters.add(1));
        let (first, second) = (Wait { waiters: &waiters, id: 1 }, Wait { waiters: &waiters, id: 2 });
        waiters.complete(2, response(b"two"));
        waiters.complete(7, response(b"nobody"));
        assert_eq!(second.await.unwrap().payload, "two");
        let answer = async {
            tokio::task::yield_now().await;
            waiters.complete(1, response(b"one"));
        };
        let (first, ()) = tokio::join!(first, answer);
        assert_eq!(first.unwrap().payload, "one");
        assert_eq!(waiters.len(), 0);
    }

    #[tokio::test]
    async fn failure_tells_sent_from_unsent() {
        let waiters = Waiters::default();
        for id in 1..=3 {
            assert!(waiters.add(id));
        }
        waiters.sent(1, 100);
        waiters.sent(2, 200);
        let waits: Vec<_> = (1..=3).map(|id| Wait { waiters: &waiters, id }).collect();
        waiters.fail(150, "gone");
        let mut results = Vec::new();
        for wait in waits {
            results.push(wait.await.unwrap_err());
        }
        let gone = || "gone".to_owned();
        assert_eq!(results, [Failure::Lost(gone()), Failure::Unsent(gone()), Failure::Unsent(gone())]);
        assert!(!waiters.add(4));
    }

    #[test]
    fn a_dropped_call_is_forgotten() {
        let waiters = Waiters::default();
        assert!(waiters.add(1));
        drop(Wait { waiters: &waiters, id: 1 });
        assert_eq!(waiters.len(), 0);
        waiters.complete(1, response(b"late"));
        assert_eq!(waiters.len(), 0);
    }
}
