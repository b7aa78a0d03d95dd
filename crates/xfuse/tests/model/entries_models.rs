//! Entries of a queue between the kernel and this side. Their memory is a loom cell: an access while it may be the
//! other side's fails the model.

use crate::check;
use crate::entries::{Closed, Entries};
use crate::sync::Mutex;
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;

/// The memory of an entry: the number of the request, or of the reply.
struct Area(UnsafeCell<u64>);

// SAFETY: loom finds accesses that are not ordered.
unsafe impl Send for Area {}
// SAFETY: likewise.
unsafe impl Sync for Area {}

/// What is submitted and completed: indices, each with the number that lies in the entry.
#[derive(Default)]
struct Ring {
    submitted: Mutex<Vec<(u16, u64)>>,
    completed: Mutex<Vec<u16>>,
}

struct Queue {
    entries: Entries<Area, u64>,
    ring: Ring,
}

impl Queue {
    fn new(entries: u64) -> Arc<Self> {
        let queue = Queue { entries: Entries::default(), ring: Ring::default() };
        for number in 0..entries {
            let index = queue.entries.add(Arc::new(Area(UnsafeCell::new(0))));
            queue.ring.submitted.lock().push((index, number));
        }
        Arc::new(queue)
    }

    /// The kernel's side: what was submitted gets request `number` and is completed.
    fn deliver(&self, number: u64) -> Option<u64> {
        let (index, reply) = self.ring.submitted.lock().pop()?;
        let area = self.entries.area(index).unwrap();
        // SAFETY: the entry was submitted, so it is the kernel's.
        area.0.with_mut(|memory| unsafe { *memory = number });
        self.ring.completed.lock().push(index);
        Some(reply)
    }

    /// As `Queue::completion` and `Queue::arrived`.
    fn arrived(&self) -> Option<(u16, u64)> {
        let index = self.ring.completed.lock().pop()?;
        if !self.entries.take_back(index) {
            return None;
        }
        let area = self.entries.area(index).unwrap();
        // SAFETY: the entry was completed, so it is this side's.
        let number = area.0.with(|memory| unsafe { *memory });
        self.entries.open(index, number);
        Some((index, number))
    }

    /// As `Ticket::send`.
    fn answer(&self, index: u16, unique: u64, reply: u64) -> bool {
        match self.entries.close(index, unique) {
            Closed::No => return false,
            Closed::Free(_) => self.commit(index, reply),
            Closed::Lent => {
                if let Some(reply) = self.entries.owe(index, reply) {
                    self.commit(index, reply);
                }
            }
        }
        true
    }

    /// As `Queue::let_go`; answering later is left out.
    fn let_go(&self, unique: u64, reply: u64) -> bool {
        let Some(index) = self.entries.close_any(unique) else { return false };
        if let Some(reply) = self.entries.owe(index, reply) {
            self.commit(index, reply);
        }
        true
    }

    /// As `Queue::commit`.
    fn commit(&self, index: u16, reply: u64) {
        let area = self.entries.area(index).unwrap();
        // SAFETY: who has taken the duty is the only one to answer, nothing is lent, and the entry is not the kernel's
        // before that.
        area.0.with_mut(|memory| unsafe { *memory = reply });
        self.entries.give(index);
        self.ring.submitted.lock().push((index, reply));
    }

    /// As `Lent::drop`.
    fn give_back(&self, index: u16) {
        if let Some(reply) = self.entries.reclaim(index) {
            self.commit(index, reply);
        }
    }
}

/// A handler that answers on another thread, and the end of its request here, while the kernel takes the entry again.
#[test]
fn a_request_is_answered_once() {
    check(3, || {
        let queue = Queue::new(1);
        assert_eq!(queue.deliver(7), Some(0));
        let (index, number) = queue.arrived().unwrap();
        assert_eq!((number, queue.entries.with_kernel()), (7, 0));
        let handler = thread::spawn({
            let queue = queue.clone();
            move || queue.answer(index, 7, 70)
        });
        let kernel = thread::spawn({
            let queue = queue.clone();
            move || queue.deliver(8)
        });
        let here = queue.answer(index, 7, 71);
        let there = handler.join().unwrap();
        let seen = kernel.join().unwrap();
        assert!(here != there, "answered by one");
        let reply = if there { 70 } else { 71 };
        assert!(seen.is_none_or(|seen| seen == reply));
        assert_eq!(queue.entries.with_kernel(), 1);
        match seen {
            Some(_) => assert_eq!(queue.arrived(), Some((index, 8))),
            None => assert_eq!(queue.ring.submitted.lock().as_slice(), [(index, reply)]),
        }
    });
}

/// A kernel that completes an entry twice gets nobody to answer twice, nor to read memory that is being answered.
#[test]
fn a_completion_of_no_operation_is_no_request() {
    check(4, || {
        let queue = Queue::new(1);
        queue.deliver(7);
        let (index, _) = queue.arrived().unwrap();
        let broken = thread::spawn({
            let queue = queue.clone();
            move || queue.ring.completed.lock().push(index)
        });
        assert_eq!(queue.arrived(), None, "it is not the kernel's");
        broken.join().unwrap();
        assert_eq!(queue.arrived(), None);
        assert!(queue.answer(index, 7, 70));
        assert!(!queue.answer(index, 7, 71));
    });
}

/// What a handler is lent is its own until it gives it back, even if the request is answered meanwhile.
#[test]
fn an_answer_waits_for_what_is_lent() {
    check(4, || {
        let queue = Queue::new(1);
        queue.deliver(7);
        let (index, number) = queue.arrived().unwrap();
        let area = queue.entries.lend(index, number, true).unwrap();
        assert!(queue.entries.lend(index, number, true).is_none(), "somebody has it");
        let handler = thread::spawn({
            let queue = queue.clone();
            move || {
                // SAFETY: it is lent to this thread alone.
                assert_eq!(area.0.with(|memory| unsafe { *memory }), 7);
                drop(area);
                queue.give_back(index);
            }
        });
        let kernel = thread::spawn({
            let queue = queue.clone();
            move || queue.deliver(8)
        });
        assert!(queue.answer(index, number, 70));
        assert!(queue.entries.lend(index, number, false).is_none(), "it is answered");
        handler.join().unwrap();
        match kernel.join().unwrap() {
            Some(reply) => assert_eq!((reply, queue.arrived()), (70, Some((index, 8)))),
            None => assert_eq!(queue.ring.submitted.lock().as_slice(), [(index, 70)]),
        }
    });
}

/// A caller is let go while the handler answers, or gives back what it was lent.
#[test]
fn a_caller_is_let_go_or_answered() {
    for lent in [false, true] {
        check(4, move || {
            let queue = Queue::new(2);
            queue.deliver(7);
            let (index, number) = queue.arrived().unwrap();
            let area = lent.then(|| queue.entries.lend(index, number, true).unwrap());
            let handler = thread::spawn({
                let queue = queue.clone();
                move || {
                    if let Some(area) = area {
                        // SAFETY: it is lent to this thread alone.
                        assert_eq!(area.0.with(|memory| unsafe { *memory }), 7);
                        queue.give_back(index);
                    }
                    queue.answer(index, number, 70)
                }
            });
            let let_go = queue.let_go(number, 71);
            let answered = handler.join().unwrap();
            assert!(let_go != answered, "by one of them");
            assert!(!queue.let_go(number, 71), "it is over");
            let reply = if answered { 70 } else { 71 };
            assert_eq!(queue.deliver(8), Some(reply));
            assert_eq!(queue.arrived(), Some((index, 8)), "and is used again");
            assert!(!queue.answer(index, number, 70), "the old request is no more");
        });
    }
}
