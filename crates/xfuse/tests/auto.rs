//! The automatic choice of a transport: io_uring where the kernel has it switched on, classic elsewhere.

mod common;

use common::memfs::{MemFs, Options};
use common::{can_mount, eventually, parameter};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use std::fs;
use xfuse::abi::InitFlags;
use xfuse::transport::InUse;
use xfuse::{Session, Transport};

/// What a mount with default settings uses.
fn chosen() -> InUse {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::builder(MemFs::new(Options::default())).mount(dir.path()).unwrap();
    let path = dir.path().join("f");
    fs::write(&path, vec![3; 300_000]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), vec![3; 300_000]);
    let used = session.transport().clone();
    let by_uring = session.negotiated().flags.contains(InitFlags::OVER_IO_URING);
    assert_eq!(by_uring, used.transport == Transport::Uring);
    session.unmount().unwrap();
    eventually("the end of the session", || session.is_ended());
    session.wait();
    used
}

/// One test: the parameter is the whole machine's.
#[test]
fn the_transport_follows_the_kernels_switch_and_the_cpus_of_the_process() {
    if !can_mount() {
        return;
    }
    let has_switch = parameter::set(false);
    if !has_switch && parameter::exists() {
        eprintln!("skipped: cannot switch FUSE over io_uring");
        return;
    }
    let used = chosen();
    assert_eq!((used.transport, used.sqpoll), (Transport::Classic, false));
    assert!(used.fallback.as_ref().is_some_and(|reason| reason.contains("enable_uring")), "{used:?}");
    if !has_switch || !parameter::set(true) {
        return;
    }
    let allowed = sched_getaffinity(None).unwrap();
    // SAFETY: sysconf(3) has no preconditions.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    if i64::from(allowed.count()) < online {
        return;
    }
    let used = chosen();
    assert_eq!((used.transport, &used.fallback), (Transport::Uring, &None));
    if online > 1 {
        let mut one = CpuSet::new();
        one.set(sched_getcpu());
        sched_setaffinity(None, &one).unwrap();
        let used = chosen();
        sched_setaffinity(None, &allowed).unwrap();
        assert_eq!(used.transport, Transport::Classic);
        assert!(used.fallback.as_ref().is_some_and(|reason| reason.contains("CPUs")), "{used:?}");
    }
    // Switching it off does not touch mounts that are there; the next one follows.
    parameter::set(false);
    assert_eq!(chosen().transport, Transport::Classic);
}
