//! INTERRUPT: the caller of a request has got a signal.
//!
//! Handlers learn of every signal and may end early; most must not, since programs do not expect `EINTR` from files. But
//! a caller that was *killed* waits for nothing any more, and the kernel keeps it, unkillable, until there is an answer.
//! If none comes for a while it gets one; the handler goes on, and what it was asked for may still happen.

use crate::Errno;
use crate::abi;
use crate::decode::{Body, Decode, DecodeError, Shape};
use crate::device;
use crate::dispatch::{Lane, Port, Shared};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How long an interrupt waits for a request that another channel has but not yet registered, first and at most.
const RETRY: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_millis(20);
/// How long the handler may go on before a caller that was killed is let go, and the pause between later looks.
const GRACE: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The request that is interrupted.
pub(crate) struct Interrupt(pub(crate) u64);

impl<'a> Decode<'a> for Interrupt {
    fn decode(_: &abi::InHeader, body: &mut Body<'a>, _: Shape) -> Result<Self, DecodeError> {
        Ok(Interrupt(body.take::<abi::InterruptIn>()?.unique))
    }
}

/// Tells the handler of `target`, wherever it runs. `unique` is the interrupt's own id, on `lane`.
pub(crate) fn deliver<F: Send + Sync + 'static>(
    shared: Arc<Shared<F>>,
    lane: Arc<Lane>,
    unique: u64,
    target: u64,
) {
    lane.stats.interrupts.fetch_add(1, Relaxed);
    if mark(&shared.lanes, target) {
        return;
    }
    // Either the request has just been answered, then the kernel ignores this reply; or it is about to be registered,
    // then EAGAIN makes the kernel repeat the interrupt. For requests of queues the kernel does not do that.
    tokio::spawn(async move {
        let mut pause = RETRY;
        while pause <= PATIENCE || is_unanswered(&shared.lanes, target) {
            tokio::time::sleep(pause.min(LOOK_AGAIN)).await;
            if mark(&shared.lanes, target) {
                return;
            }
            pause *= 2;
        }
        let _ = device::send(&lane.fd, unique, -libc::EAGAIN, &[]);
    });
}

/// False if the request is on none of the lanes.
fn mark(lanes: &[Arc<Lane>], target: u64) -> bool {
    let Some(lane) = lanes.iter().find(|lane| lane.inflight.interrupt(target)) else { return false };
    tokio::spawn(let_go_when_killed(lane.clone(), target));
    true
}

/// Whether a queue has the request, which may wait there for memory before it is registered.
fn is_unanswered(lanes: &[Arc<Lane>], target: u64) -> bool {
    lanes.iter().any(|lane| matches!(&lane.port, Port::Queue(queue) if queue.is_unanswered(target)))
}

async fn let_go_when_killed(lane: Arc<Lane>, target: u64) {
    let mut pause = GRACE;
    loop {
        tokio::time::sleep(pause).await;
        pause = LOOK_AGAIN;
        let Some(caller) = lane.inflight.caller(target).filter(|pid| *pid != 0) else { return };
        // Looking at a process may have to wait for it.
        let killed = tokio::task::spawn_blocking(move || is_killed(caller)).await.unwrap_or(false);
        if killed && lane.inflight.caller(target) == Some(caller) {
            tracing::info!(caller, unique = target, "a caller was killed; its request goes on without it");
            lane.inflight.abandon(target);
            // The handler's own answer will come too late, and be counted so.
            match &lane.port {
                Port::Device => drop(device::send(&lane.fd, target, -Errno::EINTR.0, &[])),
                Port::Queue(queue) => queue.let_go(target, -Errno::EINTR.0),
            }
            return;
        }
    }
}

/// Whether a thread has been killed: SIGKILL is pending, as for every signal that ends the process at once.
fn is_killed(thread: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{thread}/status")) {
        Ok(status) => kill_pending(&status),
        Err(_) => false,
    }
}

fn kill_pending(status: &str) -> bool {
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let pending = pending.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    pending.is_some_and(|set| set & 1 << (libc::SIGKILL - 1) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_kill_is_seen() {
        assert!(kill_pending("Name:\tcat\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
        assert!(!kill_pending("Name:\tSigPnd:\nSigPnd:\t0000000000002000\nShdPnd:\t0000000000000100\n"));
        assert!(!kill_pending("SigPnd:\tx\n"));
        assert!(!is_killed(std::process::id()) && !is_killed(u32::MAX));
    }
}
