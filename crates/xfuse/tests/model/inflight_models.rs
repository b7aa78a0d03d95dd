//! Slots of requests in flight. A wake-up that is lost shows as a deadlock.

use crate::check;
use crate::inflight::Inflight;
use loom::future::block_on;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{Relaxed, SeqCst};
use loom::thread;
use std::sync::Arc;

#[test]
fn a_slot_is_given_out_once_and_nobody_waits_for_a_free_one() {
    check(3, || {
        let table = Inflight::new(1);
        let taken = Arc::new(AtomicBool::new(false));
        let work = |id: u64| {
            let (table, taken) = (table.clone(), taken.clone());
            move || {
                let slot = block_on(table.acquire());
                assert!(!taken.swap(true, Relaxed), "two have the slot");
                slot.assign(id, 1);
                assert!(table.busy() == 1 && !slot.is_interrupted());
                taken.store(false, Relaxed);
            }
        };
        let others = [thread::spawn(work(2)), thread::spawn(work(4))];
        work(6)();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(table.busy(), 0);
        block_on(table.drained());
    });
}

#[test]
fn drained_returns_after_the_last_slot_and_not_before() {
    check(3, || {
        let table = Inflight::new(2);
        let ended = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let others = [0, 1].map(|index| {
            let (slot, ended) = (block_on(table.acquire()), ended.clone());
            thread::spawn(move || {
                slot.assign(2 + 2 * index as u64, 1);
                ended[index].store(true, SeqCst);
                drop(slot);
            })
        });
        block_on(table.drained());
        assert!(ended.iter().all(|ended| ended.load(SeqCst)));
        assert_eq!(table.busy(), 0);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn idle_returns_when_no_request_has_a_slot() {
    check(4, || {
        let table = Inflight::new(2);
        // Taken in advance for the next request: it does not count.
        let ahead = block_on(table.acquire());
        let slot = block_on(table.acquire());
        slot.assign(2, 1);
        assert_eq!(table.busy(), 1);
        let other = thread::spawn(move || drop(slot));
        block_on(table.idle());
        assert_eq!(table.busy(), 0);
        other.join().unwrap();
        drop(ahead);
    });
}

#[test]
fn an_interrupt_that_found_its_request_reaches_the_handler() {
    check(4, || {
        let table = Inflight::new(1);
        let slot = block_on(table.acquire());
        slot.assign(4, 1);
        let interrupter = thread::spawn({
            let table = table.clone();
            move || assert!(table.interrupt(4), "the request is there")
        });
        block_on(slot.interrupted());
        interrupter.join().unwrap();
    });
}

#[test]
fn an_interrupt_never_reaches_the_next_request_of_a_slot() {
    check(4, || {
        let table = Inflight::new(1);
        let slot = block_on(table.acquire());
        slot.assign(4, 1);
        let interrupter = thread::spawn({
            let table = table.clone();
            move || table.interrupt(4)
        });
        let seen = slot.is_interrupted();
        drop(slot);
        let slot = block_on(table.acquire());
        slot.assign(6, 1);
        let found = interrupter.join().unwrap();
        assert!(found || !seen);
        assert!(!slot.is_interrupted());
        assert_eq!(table.busy(), 1);
        drop(slot);
        assert_eq!(table.busy(), 0);
    });
}

#[test]
fn interrupts_of_no_request_change_nothing() {
    check(4, || {
        let table = Inflight::new(2);
        let interrupter = thread::spawn({
            let table = table.clone();
            move || assert!(!table.interrupt(0) && !table.interrupt(8))
        });
        let slot = block_on(table.acquire());
        slot.assign(4, 1);
        assert_eq!((slot.is_interrupted(), table.busy()), (false, 1));
        drop(slot);
        interrupter.join().unwrap();
        assert_eq!(table.busy(), 0);
        block_on(table.drained());
    });
}
