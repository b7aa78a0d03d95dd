//! Update channels: within one, storage servers recognise repetitions by sequence number
//! (`src/client/storage/UpdateChannelAllocator.cc`).

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit};
use valor_protocol::storage::UpdateChannel;
use valor_protocol::{ChannelId, ChannelSeqNum};

/// The channels of a client, numbered from 1. Sequence numbers are unique among all of them.
pub(super) struct Channels {
    /// The one given back last is taken first: servers keep state for each channel in use.
    free: Mutex<Vec<u16>>,
    permits: Semaphore,
    next_seqnum: AtomicU64,
    count: u16,
}

/// A channel in use. Free again when dropped: what may still be under way on it loses against the next user's higher
/// sequence number.
pub(super) struct Channel<'a> {
    channels: &'a Channels,
    id: u16,
}

impl Channels {
    pub(super) fn new(count: u16) -> Channels {
        let count = count.max(1);
        Channels {
            free: Mutex::new((1..=count).rev().collect()),
            permits: Semaphore::new(usize::from(count)),
            next_seqnum: AtomicU64::new(1),
            count,
        }
    }

    /// Number of channels.
    pub(super) fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Waits for `count` channels at once, so that two users never wait for each other's.
    pub(super) async fn acquire(&self, count: usize) -> Vec<Channel<'_>> {
        let wanted = count.min(self.count()) as u32;
        // The semaphore is never closed.
        if let Ok(permit) = self.permits.acquire_many(wanted).await {
            SemaphorePermit::forget(permit);
        }
        let mut free = self.free.lock();
        let first = free.len().saturating_sub(wanted as usize);
        free.drain(first..).rev().map(|id| Channel { channels: self, id }).collect()
    }
}

impl Channel<'_> {
    /// The channel with new sequence numbers for `slots` updates.
    pub(super) fn next(&self, slots: u32) -> UpdateChannel {
        let seqnum = self.channels.next_seqnum.fetch_add(u64::from(slots), Ordering::Relaxed);
        UpdateChannel { id: ChannelId(self.id), seqnum: ChannelSeqNum(seqnum) }
    }
}

impl Drop for Channel<'_> {
    fn drop(&mut self) {
        self.channels.free.lock().push(self.id);
        self.channels.permits.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    fn ids(channels: &[Channel<'_>]) -> Vec<u16> {
        channels.iter().map(|channel| channel.id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn channels_are_given_out_once() {
        let channels = Channels::new(3);
        let two = channels.acquire(2).await;
        assert_eq!(ids(&two), [1, 2]);
        let one = channels.acquire(1).await;
        assert_eq!(ids(&one), [3]);
        assert!(timeout(Duration::from_secs(1), channels.acquire(1)).await.is_err());
        drop(two);
        drop(one);
        assert_eq!(ids(&channels.acquire(1).await), [3]);
        assert_eq!(channels.acquire(9).await.len(), 3, "never more than there are");
    }

    #[tokio::test]
    async fn sequence_numbers_never_repeat() {
        let channels = Channels::new(2);
        let both = channels.acquire(2).await;
        let seqnums = [both[0].next(1), both[1].next(10), both[0].next(1)].map(|channel| channel.seqnum.0);
        assert_eq!(seqnums, [1, 2, 12]);
    }
}
