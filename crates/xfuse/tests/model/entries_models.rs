//! Entries of a queue between the kernel and this side. Their memory is a loom cell: an access while it may be the
//! other side's fails the model.

use crate::check;
use crate::entries::{Duty, Entries};
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
    entries: Entries<Area>,
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
        Some((index, area.0.with(|memory| unsafe { *memory })))
    }

    /// As `Ticket::send` and `Queue::commit`.
    fn answer(&self, index: u16, duty: &Duty, reply: u64) -> bool {
        if !duty.take() {
            return false;
        }
        let area = self.entries.area(index).unwrap();
        // SAFETY: who has taken the duty is the only one to answer, and the entry is not the kernel's before that.
        area.0.with_mut(|memory| unsafe { *memory = reply });
        self.entries.give(index);
        self.ring.submitted.lock().push((index, reply));
        true
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
        let duty = Arc::new(Duty::new());
        let handler = thread::spawn({
            let (queue, duty) = (queue.clone(), duty.clone());
            move || queue.answer(index, &duty, 70)
        });
        let kernel = thread::spawn({
            let queue = queue.clone();
            move || queue.deliver(8)
        });
        let here = queue.answer(index, &duty, 71);
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
        let duty = Duty::new();
        let broken = thread::spawn({
            let queue = queue.clone();
            move || queue.ring.completed.lock().push(index)
        });
        assert_eq!(queue.arrived(), None, "it is not the kernel's");
        broken.join().unwrap();
        assert_eq!(queue.arrived(), None);
        assert!(queue.answer(index, &duty, 70));
        assert!(!queue.answer(index, &duty, 71));
    });
}
