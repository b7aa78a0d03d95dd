//! What the kernel keeps from one open to the next.

use crate::cluster::Services;
use crate::harness::{self, Mount, can_mount};
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use valor_fuse::{Config, KeepCache};

fn versioned() -> Config {
    let mut config = Config::default();
    config.valor.keep_cache = KeepCache::Versioned;
    config
}

/// Two mounts with all caches.
fn two() -> (Mount, Mount) {
    let services = Services::start();
    (harness::on(services.clone(), 1, versioned()), harness::on(services, 2, versioned()))
}

/// Reads a file; how many reads of storage that took.
fn read(m: &Mount, name: &str) -> (Vec<u8>, u64) {
    let before = m.services.storage.reads.load(Ordering::Relaxed);
    let text = fs::read(m.path(name)).unwrap();
    (text, m.services.storage.reads.load(Ordering::Relaxed) - before)
}

#[test]
fn pages_stay_until_another_mount_writes() {
    if !can_mount() {
        return;
    }
    let (a, b) = two();
    for round in 0..10_u8 {
        let text = vec![round; 40_000];
        // Every second time in place and without any change of length.
        if round % 2 == 0 {
            fs::write(a.path("f"), &text).unwrap();
        } else {
            let file = OpenOptions::new().write(true).open(a.path("f")).unwrap();
            file.write_all_at(&text, 0).unwrap();
        }
        let (first, reads) = read(&b, "f");
        assert!(first == text && reads > 0, "round {round}");
        // The kernel may take pages away at any time.
        harness::eventually("pages to stay", || read(&b, "f") == (text.clone(), 0));
        let calls = b.called("stat") + b.called("open") + b.called("sync");
        harness::eventually("opens at a call each", || {
            let before = b.called("stat") + b.called("open") + b.called("sync");
            read(&b, "f");
            b.called("stat") + b.called("open") + b.called("sync") == before + 1
        });
        assert!(b.called("stat") + b.called("open") + b.called("sync") > calls);
    }
    b.config.hot_update("valor.keep_cache = \"never\"", "test").unwrap();
    assert!(read(&b, "f").1 > 0);
    a.close();
    b.close();
}

#[test]
fn a_length_that_another_mount_set_is_known_after_the_next_open() {
    if !can_mount() {
        return;
    }
    let (a, b) = two();
    fs::write(a.path("f"), "first").unwrap();
    for length in [70_000, 5, 0, 4096, 1_000_000, 1] {
        fs::write(a.path("f"), vec![1; length]).unwrap();
        assert_eq!(fs::read(b.path("f")).unwrap().len(), length);
    }
    let held = File::open(b.path("f")).unwrap();
    fs::write(a.path("f"), vec![1; 300_000]).unwrap();
    assert_eq!(fs::read(b.path("f")).unwrap().len(), 300_000);
    assert_eq!(held.metadata().unwrap().len(), 300_000);
    drop(held);
    a.close();
    b.close();
}

#[test]
fn a_name_that_leads_elsewhere_is_noticed() {
    if !can_mount() {
        return;
    }
    let (a, b) = two();
    fs::write(a.path("f"), "one").unwrap();
    assert_eq!(fs::read(b.path("f")).unwrap(), b"one");
    let open = File::open(b.path("f")).unwrap();
    // The old file lives on under another name.
    fs::rename(a.path("f"), a.path("old")).unwrap();
    fs::write(a.path("f"), "two").unwrap();
    assert_eq!(fs::read(b.path("f")).unwrap(), b"two");
    // This one does not.
    fs::write(a.path("new"), "three").unwrap();
    fs::rename(a.path("new"), a.path("f")).unwrap();
    assert_eq!(fs::read(b.path("f")).unwrap(), b"three");
    fs::remove_file(a.path("f")).unwrap();
    assert_eq!(harness::errno(File::open(b.path("f"))), libc::ENOENT);
    // Without a name there is nothing that could lead elsewhere.
    let again = format!("/proc/self/fd/{}", open.as_raw_fd());
    let found = File::open(&again).or_else(|_| File::open(&again)).and_then(|mut file| {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut file, &mut text).map(|_| text)
    });
    assert_eq!(found.unwrap(), "one");
    drop(open);
    a.close();
    b.close();
}

#[test]
fn bytes_that_could_not_be_written_do_not_stay_cached() {
    if !can_mount() {
        return;
    }
    let (a, b) = two();
    fs::write(a.path("f"), vec![1; 8192]).unwrap();
    harness::eventually("pages to stay", || read(&a, "f") == (vec![1; 8192], 0));
    let file = OpenOptions::new().write(true).open(a.path("f")).unwrap();
    let failure = u64::from(valor_protocol::status::code::RPC_TIMEOUT);
    a.services.storage.write_failure.store(failure, Ordering::Relaxed);
    file.write_all_at(&[2; 4096], 0).unwrap();
    assert!(file.sync_all().is_err());
    a.services.storage.write_failure.store(0, Ordering::Relaxed);
    drop(file);
    assert!(read(&a, "f").0 == vec![1; 8192] && read(&b, "f").0 == vec![1; 8192]);
    a.close();
    b.close();
}
