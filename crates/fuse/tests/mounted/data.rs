//! Bytes of files.

use crate::cluster::CHUNK;
use crate::harness::{self, can_mount, errno, eventually};
use rustix::fs::{FallocateFlags, SeekFrom};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::atomic::Ordering;
use valor_fuse::Config;
use valor_protocol::InodeId;
use valor_protocol::status::code;

fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|i| ((i / 3 + i * 7 + salt) % 251) as u8).collect()
}

fn rw(path: std::path::PathBuf) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn what_is_written_is_read() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let data = pattern(9_000_001, 0);
    fs::write(m.path("f"), &data).unwrap();
    assert!(fs::read(m.path("f")).unwrap() == data);
    let file = rw(m.path("f"));
    let mut expected = data;
    for (i, (offset, len)) in
        [(0, 10), (5_000_000, 3_000_000), (8_999_990, 500), (123_457, 1)].iter().enumerate()
    {
        let patch = pattern(*len, i + 1);
        file.write_all_at(&patch, *offset as u64).unwrap();
        expected.resize(expected.len().max(offset + len), 0);
        expected[*offset..offset + len].copy_from_slice(&patch);
        let mut back = vec![0; *len];
        file.read_exact_at(&mut back, *offset as u64).unwrap();
        assert!(back == patch, "read through the buffer");
    }
    assert_eq!(file.metadata().unwrap().len(), expected.len() as u64);
    drop(file);
    assert!(fs::read(m.path("f")).unwrap() == expected);
    m.close();
}

#[test]
fn direct_io_and_small_writes() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(m.path("f"))
        .unwrap();
    let before = m.services.storage.writes.load(Ordering::Relaxed);
    direct.write_all_at(&pattern(4096, 1), 0).unwrap();
    assert_eq!(
        m.services.storage.writes.load(Ordering::Relaxed),
        before + 1,
        "written when write(2) returns"
    );
    direct.write_all_at(&pattern(4096, 2), 8192).unwrap();
    let mut all = vec![9; 3 * 4096];
    direct.read_exact_at(&mut all, 0).unwrap();
    assert!(
        all[..4096] == pattern(4096, 1) && all[4096..8192] == [0; 4096] && all[8192..] == pattern(4096, 2)
    );
    drop(direct);
    let mut small = rw(m.path("g"));
    let before = m.services.storage.writes.load(Ordering::Relaxed);
    for i in 0..1000 {
        small.write_all(&pattern(100, i)).unwrap();
    }
    assert_eq!(m.services.storage.writes.load(Ordering::Relaxed), before, "collected");
    small.sync_all().unwrap();
    assert_eq!(m.services.storage.writes.load(Ordering::Relaxed), before + 1);
    drop(small);
    m.close();
}

/// Makes writes wait. Let go even if the test fails: closing a file would wait for ever, in the kernel, for this very
/// process.
struct Hold<'a>(&'a harness::Mount);

impl<'a> Hold<'a> {
    fn new(mount: &'a harness::Mount) -> Self {
        mount.services.storage.held.send_replace(true);
        Hold(mount)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.services.storage.held.send_replace(false);
    }
}

#[test]
fn sequential_writes_go_behind_the_writers_back() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let file = rw(m.path("f"));
    let hold = Hold::new(&m);
    // Room for 8 MiB on the way: this much is taken although storage does not answer.
    let data = pattern(7 << 20, 0);
    file.write_all_at(&data, 0).unwrap();
    eventually("the writes", || m.services.storage.writes.load(Ordering::Relaxed) == 7);
    let path = m.path("f");
    let rest = std::thread::spawn(move || rw(path).write_all_at(&pattern(4 << 20, 1), 7 << 20));
    eventually("the limit", || m.services.storage.writes.load(Ordering::Relaxed) == 8);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(!rest.is_finished() && m.services.storage.writes.load(Ordering::Relaxed) == 8, "bounded");
    drop(hold);
    rest.join().unwrap().unwrap();
    file.sync_all().unwrap();
    drop(file);
    let back = fs::read(m.path("f")).unwrap();
    assert!(back[..7 << 20] == data && back[7 << 20..] == pattern(4 << 20, 1));
    m.close();
}

#[test]
fn errors_of_writes_behind_are_never_lost() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let fail = |code: u16| m.services.storage.write_failure.store(code.into(), Ordering::Relaxed);
    let file = rw(m.path("f"));
    let other = rw(m.path("f"));
    file.sync_all().unwrap();
    fail(code::STORAGE_CLIENT_NO_SPACE);
    file.write_all_at(&pattern(100, 0), 0).unwrap();
    assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    fail(0);
    file.sync_all().unwrap();
    assert_eq!(errno(other.sync_all()), libc::ENOSPC, "the other handle learns of it too");
    other.sync_all().unwrap();
    fail(code::STORAGE_CLIENT_NO_SPACE);
    file.write_all_at(&pattern(2 << 20, 0), 0).unwrap();
    eventually("failed writes", || m.services.storage.writes.load(Ordering::Relaxed) >= 3);
    eventually("an error at the next write", || file.write_at(b"x", 5 << 20).is_err());
    fail(0);
    file.write_all_at(b"fine again", 0).unwrap();
    let _ = other.sync_all();
    drop(other);
    fail(code::STORAGE_CLIENT_NO_SPACE);
    file.write_all_at(b"lost", 0).unwrap();
    assert_eq!(errno(nix_close(file)), libc::ENOSPC, "close(2) tells");
    fail(0);
    m.close();
}

/// close(2) with its result.
fn nix_close(file: File) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor was owned by `file`, which has given it up.
    if unsafe { libc::close(file.into_raw_fd()) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

#[test]
fn truncation_in_all_ways() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let data = pattern(1_000_000, 0);
    let file = rw(m.path("f"));
    file.write_all_at(&data, 0).unwrap();
    file.set_len(300_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 300_000);
    file.set_len(2_000_000).unwrap();
    let all = fs::read(m.path("f")).unwrap();
    assert!(
        all.len() == 2_000_000 && all[..300_000] == data[..300_000] && all[300_000..].iter().all(|b| *b == 0)
    );
    file.write_all_at(b"unsent", 3_000_000).unwrap();
    fs::write(m.path("f"), b"short").unwrap();
    assert_eq!(fs::read(m.path("f")).unwrap(), b"short", "O_TRUNC drops what was buffered");
    file.write_all_at(b"!", 5).unwrap();
    drop(file);
    assert_eq!(fs::read(m.path("f")).unwrap(), b"short!");
    // Without write access, too.
    let flags = libc::O_TRUNC;
    drop(OpenOptions::new().read(true).custom_flags(flags).open(m.path("f")).unwrap());
    assert_eq!(fs::metadata(m.path("f")).unwrap().len(), 0);
    m.close();
}

#[test]
fn holes_read_as_zeros() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let file = rw(m.path("f"));
    file.write_all_at(b"end", 5 * CHUNK).unwrap();
    let mut part = [1; 100];
    file.read_exact_at(&mut part, 2 * CHUNK + 7).unwrap();
    assert_eq!(part, [0; 100]);
    file.sync_all().unwrap();
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(0)).unwrap(), 5 * CHUNK);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(0)).unwrap(), 0);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(5 * CHUNK)).unwrap(), 5 * CHUNK + 3);
    let beyond = rustix::fs::seek(&file, SeekFrom::Data(5 * CHUNK + 3));
    assert_eq!(beyond.unwrap_err(), rustix::io::Errno::NXIO);
    drop(file);
    m.close();
}

#[test]
fn a_length_that_could_not_be_changed_stays() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    for (name, flags) in [("collected", 0), ("direct", libc::O_DIRECT)] {
        // In storage, but not told to the metadata service: only this mount knows that there is a hole before it.
        let file = options.custom_flags(flags).open(m.path(name)).unwrap();
        file.write_all_at(&pattern(4096, 1), 2 * CHUNK).unwrap();
        m.services.length_failure.store(u64::from(code::READ_ONLY_MODE), Ordering::Relaxed);
        assert_eq!(errno(file.set_len(500)), libc::EROFS);
        let direct = options.custom_flags(libc::O_DIRECT).open(m.path(name)).unwrap();
        let mut hole = [9; 4096];
        assert_eq!((direct.read_at(&mut hole, 4096).unwrap(), hole), (4096, [0; 4096]), "{name}");
        assert!(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 20 * CHUNK).is_err());
        m.services.length_failure.store(0, Ordering::Relaxed);
        drop((direct, file));
        let expected = [vec![0; 2 * CHUNK as usize], pattern(4096, 1)].concat();
        assert!(fs::read(m.path(name)).unwrap() == expected, "{name}");
    }
    m.close();
}

#[test]
fn fallocate_extends_punches_and_zeroes() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let file = rw(m.path("f"));
    let data = pattern(4 * CHUNK as usize + 1000, 0);
    file.write_all_at(&data, 0).unwrap();
    let id = InodeId(file.metadata().unwrap().ino());
    let present = || m.services.storage.present(id);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 100, 3 * CHUNK).unwrap();
    let mut expected = data.clone();
    expected[100..100 + 3 * CHUNK as usize].fill(0);
    assert!(fs::read(m.path("f")).unwrap() == expected);
    assert_eq!(present(), [0, 3, 4], "whole chunks are gone");
    rustix::fs::fallocate(&file, punch, 3 * CHUNK, 10 * CHUNK).unwrap();
    expected[3 * CHUNK as usize..].fill(0);
    assert_eq!(file.metadata().unwrap().len(), data.len() as u64, "the length stays");
    file.sync_all().unwrap();
    assert!(fs::read(m.path("f")).unwrap() == expected);
    rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE, 50, 10 * CHUNK).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 50 + 10 * CHUNK);
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 20 * CHUNK).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 20 * CHUNK);
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 30 * CHUNK).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 20 * CHUNK);
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, CHUNK).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 20 * CHUNK, "never shorter");
    let all = fs::read(m.path("f")).unwrap();
    assert!(all[..50] == data[..50] && all[50..].iter().all(|b| *b == 0));
    let collapse = rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, CHUNK);
    assert_eq!(collapse.unwrap_err(), rustix::io::Errno::OPNOTSUPP);
    drop(file);
    m.close();
}

#[test]
fn small_files_cost_few_calls() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    fs::create_dir(m.path("d")).unwrap();
    m.calls.lock().clear();
    for i in 0..20 {
        fs::write(m.path(&format!("d/f{i}")), b"small").unwrap();
    }
    let calls = m.calls.lock().clone();
    assert_eq!((calls["create"], calls["close"]), (20, 20));
    let others: u64 =
        calls.iter().filter(|(name, _)| !["create", "close", "stat"].contains(name)).map(|c| c.1).sum();
    assert_eq!(others, 0, "{calls:?}");
    assert_eq!(fs::metadata(m.path("d/f7")).unwrap().len(), 5);
    m.close();
}

#[test]
fn duplicated_descriptors_survive_a_close() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let mut first = rw(m.path("f"));
    let mut second = first.try_clone().unwrap();
    first.write_all(b"one ").unwrap();
    drop(first);
    assert_eq!(fs::read(m.path("f")).unwrap(), b"one ");
    second.write_all(b"two").unwrap();
    drop(second);
    assert_eq!(fs::read(m.path("f")).unwrap(), b"one two");
    assert!(m.called("open") >= 1, "the session was opened again");
    m.close();
}

#[test]
fn unmounting_flushes_what_nobody_closed() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let services = m.services.clone();
    let mut file = rw(m.path("f"));
    file.write_all(b"kept").unwrap();
    // The connection is cut while the file is open and its bytes are in a buffer.
    m.session().abort().unwrap();
    eventually("the end", || m.session().is_ended());
    drop(file);
    drop(m);
    let again = harness::on(services, 2, Config::default());
    assert_eq!(fs::read(again.path("f")).unwrap(), b"kept");
    again.close();
}

#[test]
fn regular_syncs_tell_the_length() {
    if !can_mount() {
        return;
    }
    let mut config = harness::uncached();
    config.periodic_sync.interval = valor_config::Duration::from_millis(20);
    let m = harness::on(crate::cluster::Services::start(), 1, config);
    let other = harness::on(m.services.clone(), 2, harness::uncached());
    let file = rw(m.path("f"));
    file.write_all_at(&pattern(1000, 0), 0).unwrap();
    eventually("the other mount to see it", || fs::metadata(other.path("f")).unwrap().len() == 1000);
    assert!(fs::read(other.path("f")).unwrap() == pattern(1000, 0));
    drop(file);
    other.close();
    m.close();
}

#[test]
fn a_dry_run_does_nothing() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let mut file = rw(m.path("f"));
    file.set_len(1 << 20).unwrap();
    m.config.hot_update("dryrun_bench_mode = true", "test").unwrap();
    let before =
        m.services.storage.reads.load(Ordering::Relaxed) + m.services.storage.writes.load(Ordering::Relaxed);
    file.write_all(&pattern(1 << 20, 0)).unwrap();
    let mut all = Vec::new();
    File::open(m.path("f")).unwrap().read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 1 << 20);
    let after =
        m.services.storage.reads.load(Ordering::Relaxed) + m.services.storage.writes.load(Ordering::Relaxed);
    assert_eq!(before, after);
    drop(file);
    m.close();
}
