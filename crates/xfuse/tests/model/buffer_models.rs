//! The pool of request buffers. A wake-up that is lost shows as a deadlock.

use crate::buffer::Pool;
use crate::check;
use loom::future::block_on;
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread;
use std::sync::Arc;

#[test]
fn a_buffer_is_given_out_once_and_nobody_waits_for_a_free_one() {
    check(3, || {
        let pool = Pool::new(0, 1);
        let taken = Arc::new(AtomicBool::new(false));
        let work = || {
            let (pool, taken) = (pool.clone(), taken.clone());
            move || {
                let buffer = block_on(pool.take()).unwrap();
                assert!(!taken.swap(true, Relaxed), "two have the buffer");
                assert_eq!(pool.in_use(), 1);
                taken.store(false, Relaxed);
                drop(buffer);
            }
        };
        let others = [thread::spawn(work()), thread::spawn(work())];
        work()();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_frozen_buffer_returns_with_its_last_part() {
    check(4, || {
        let pool = Pool::new(0, 1);
        let mut buffer = block_on(pool.take()).unwrap();
        buffer.space()[..4].copy_from_slice(b"abcd");
        buffer.set_filled(4);
        let request = buffer.freeze();
        let payload = request.slice(2..);
        let holder = thread::spawn(move || assert_eq!(&payload[..], b"cd"));
        drop(request);
        // Only the other's end makes this possible.
        let buffer = block_on(pool.take()).unwrap();
        assert_eq!(pool.in_use(), 1);
        holder.join().unwrap();
        drop(buffer);
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn no_more_buffers_exist_than_allowed() {
    check(4, || {
        let pool = Pool::new(0, 2);
        let others = [0, 1].map(|_| {
            let pool = pool.clone();
            thread::spawn(move || drop(block_on(pool.take()).unwrap()))
        });
        let first = pool.try_take().unwrap();
        assert!(pool.in_use() <= 2);
        drop(first);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(pool.in_use(), 0);
    });
}
