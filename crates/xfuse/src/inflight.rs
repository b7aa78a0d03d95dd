//! The requests a channel is working on: a bound on their number, and the way an INTERRUPT finds its target.

use crate::abi::INTERRUPT_BIT;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Notify, Ordering};
use std::sync::Arc;

/// Fixed table of slots, one per request in flight.
#[derive(Debug)]
pub(crate) struct Inflight {
    slots: Box<[Slot]>,
    free: Mutex<Vec<u32>>,
    released: Notify,
    /// Slots that have a request.
    assigned: AtomicUsize,
}

#[derive(Debug, Default)]
struct Slot {
    /// 0 when free, else the request's id, plus [`INTERRUPT_BIT`] once interrupted. Ids are even.
    state: AtomicU64,
    /// The thread that asks.
    caller: AtomicU64,
    /// The last request here whose caller was let go before it ended.
    abandoned: AtomicU64,
    interrupted: Notify,
}

/// A taken slot; frees it on drop.
#[derive(Debug)]
pub(crate) struct SlotGuard {
    table: Arc<Inflight>,
    index: u32,
}

impl Inflight {
    pub(crate) fn new(capacity: u32) -> Arc<Self> {
        Arc::new(Inflight {
            slots: (0..capacity).map(|_| Slot::default()).collect(),
            free: Mutex::new((0..capacity).rev().collect()),
            released: Notify::new(),
            assigned: AtomicUsize::new(0),
        })
    }

    /// Takes a free slot, if there is one.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<SlotGuard> {
        let index = self.free.lock().pop()?;
        Some(SlotGuard { table: self.clone(), index })
    }

    /// Takes a free slot, waiting for one if all are busy.
    pub(crate) async fn acquire(self: &Arc<Self>) -> SlotGuard {
        loop {
            let released = self.released.notified();
            if let Some(slot) = self.try_acquire() {
                return slot;
            }
            released.await;
        }
    }

    /// Marks the request with that id; false if it is not here.
    pub(crate) fn interrupt(&self, unique: u64) -> bool {
        // No request has this id, but free slots do.
        if unique == 0 {
            return false;
        }
        for slot in &self.slots {
            let marked = unique | INTERRUPT_BIT;
            match slot.state.compare_exchange(unique, marked, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    slot.interrupted.notify_waiters();
                    return true;
                }
                Err(state) if state == marked => return true,
                Err(_) => {}
            }
        }
        false
    }

    /// The thread that made the request with that id, while it is being handled.
    pub(crate) fn caller(&self, unique: u64) -> Option<u32> {
        let here = |slot: &&Slot| slot.state.load(Ordering::Acquire) & !INTERRUPT_BIT == unique;
        let slot = self.slots.iter().filter(|_| unique != 0).find(here)?;
        u32::try_from(slot.caller.load(Ordering::Relaxed)).ok()
    }

    /// Notes that nobody waits for the request any more.
    pub(crate) fn abandon(&self, unique: u64) {
        for slot in &self.slots {
            if slot.state.load(Ordering::Acquire) & !INTERRUPT_BIT == unique {
                slot.abandoned.store(unique, Ordering::Release);
                slot.interrupted.notify_waiters();
            }
        }
    }

    /// Requests being handled. A slot taken in advance for the next request does not count.
    pub(crate) fn busy(&self) -> usize {
        self.assigned.load(Ordering::Acquire)
    }

    /// Waits until no request is being handled.
    pub(crate) async fn idle(&self) {
        loop {
            let released = self.released.notified();
            if self.busy() == 0 {
                return;
            }
            released.await;
        }
    }

    /// Waits until all slots are free.
    pub(crate) async fn drained(&self) {
        loop {
            let released = self.released.notified();
            if self.free.lock().len() == self.slots.len() {
                return;
            }
            released.await;
        }
    }
}

impl SlotGuard {
    fn slot(&self) -> &Slot {
        &self.table.slots[self.index as usize]
    }

    /// Names the request that uses the slot, and who made it.
    pub(crate) fn assign(&self, unique: u64, caller: u32) {
        self.slot().caller.store(caller.into(), Ordering::Relaxed);
        // Id 0 would be no id: the slot stays free in the eyes of everyone else.
        if unique != 0 && self.slot().state.swap(unique, Ordering::AcqRel) == 0 {
            self.table.assigned.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.slot().state.load(Ordering::Acquire) & INTERRUPT_BIT != 0
    }

    /// Completes when nobody waits for that request any more.
    pub(crate) async fn abandoned(&self, unique: u64) {
        loop {
            let notified = self.slot().interrupted.notified();
            if self.slot().abandoned.load(Ordering::Acquire) == unique {
                return;
            }
            notified.await;
        }
    }

    pub(crate) async fn interrupted(&self) {
        loop {
            let notified = self.slot().interrupted.notified();
            if self.is_interrupted() {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        if self.slot().state.swap(0, Ordering::AcqRel) != 0 {
            self.table.assigned.fetch_sub(1, Ordering::AcqRel);
        }
        self.table.free.lock().push(self.index);
        // The reader and a drain may both wait.
        self.table.released.notify_waiters();
    }
}
