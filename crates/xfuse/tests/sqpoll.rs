//! The tests of operations and faults through io_uring queues that the kernel polls, and what is particular to them.

mod common;

#[path = "bodies/faults.rs"]
mod faults;
#[path = "bodies/in_place.rs"]
mod in_place;
#[path = "bodies/operations.rs"]
mod operations;

use common::memfs::{MemFs, Options};
use common::{can_mount, eventually, mount};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use xfuse::{Session, Transport};

/// Threads of the kernel that poll for this process.
fn pollers() -> usize {
    let names = fs::read_dir("/proc/self/task").unwrap().flatten();
    // A thread may end meanwhile.
    let names = names.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("iou-sqp-")).count()
}

#[test]
fn queues_are_polled() {
    if !can_mount() {
        return;
    }
    let m = mount(MemFs::new(Options::default()));
    for number in 0..100 {
        fs::write(m.path("f"), vec![number; 100_000]).unwrap();
        assert_eq!(fs::read(m.path("f")).unwrap(), vec![number; 100_000]);
    }
    assert!(pollers() > 0);
    m.close();
}

#[test]
fn queues_go_on_without_polling_where_it_is_refused() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let builder = Session::builder(MemFs::new(Options::default())).transport(Transport::Uring);
    let session = builder.sqpoll(true).refuse_sqpoll().mount(dir.path()).unwrap();
    let used = session.transport();
    assert_eq!((used.transport, used.sqpoll), (Transport::Uring, false));
    assert!(used.fallback.as_ref().is_some_and(|reason| reason.contains("SQPOLL")), "{used:?}");
    fs::write(dir.path().join("f"), b"served").unwrap();
    session.unmount().unwrap();
    eventually("the end of the session", || session.is_ended());
    session.wait();
}

#[test]
fn polled_mounts_come_and_go_under_load() {
    if !can_mount() {
        return;
    }
    for round in 0..6 {
        let m = mount(MemFs::new(Options::default()));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (stop, m) = (&stop, &m);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        // Errors are expected from the abort on.
                        let _ = fs::write(m.path(&format!("w{worker}")), b"text");
                        let _ = fs::read_dir(m.path("")).map(Iterator::count);
                    }
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(30));
            if round % 2 == 0 {
                m.session().abort().unwrap();
            } else {
                m.session().unmount().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        eventually("the end of the session", || m.session().is_ended());
        m.session().wait();
    }
}
