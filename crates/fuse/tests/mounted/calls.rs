//! What operations cost in calls of the metadata service, and that writers do not wait for each other.

use crate::harness::{self, Mount, can_mount, eventually};
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// Calls that an operation makes, without looks at inodes, of which the kernel has the number in its hands.
fn cost(m: &Mount, operation: impl FnOnce()) -> String {
    m.calls.lock().clear();
    operation();
    let calls = m.calls.lock().clone();
    calls
        .iter()
        .filter(|(name, _)| **name != "stat")
        .map(|(name, count)| format!("{name} {count}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[test]
fn operations_cost_few_calls() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let path = m.path("f");
    // A release follows its close(2) without anybody waiting for it.
    let create = cost(&m, || {
        drop(File::create(&path).unwrap());
        eventually("the end of the session", || m.called("close") == 1);
    });
    assert_eq!(create, "close 1, create 1");
    assert_eq!(cost(&m, || fs::write(m.path("g"), "text").unwrap()), "close 1, create 1");
    eventually("attributes to be cached", || {
        assert_eq!(cost(&m, || assert!(fs::metadata(&path).is_ok())), "");
        m.called("stat") == 0
    });
    eventually("an open for reading at a call", || {
        assert_eq!(cost(&m, || drop(File::open(&path).unwrap())), "");
        m.called("stat") == 1
    });
    assert_eq!(cost(&m, || fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap()), "set_attr 1");
    let append = cost(&m, || {
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"more").unwrap();
    });
    assert_eq!(append, "close 1, open 1, reserve_append 1");
    // What `cp -a` does to a file.
    let copy = cost(&m, || {
        let mut file = File::create_new(m.path("h")).unwrap();
        file.write_all(b"text").unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        file.set_times(FileTimes::new().set_modified(old).set_accessed(old)).unwrap();
        file.set_permissions(Permissions::from_mode(0o640)).unwrap();
        drop(file);
        eventually("the end of the session", || m.called("close") == 1);
    });
    // The kernel may look at the file in between, which tells what was written so far.
    assert_eq!(copy.replace(", sync 1", ""), "close 1, create 1, set_attr 2");
    let copied = fs::metadata(m.path("h")).unwrap();
    let modified = copied.modified().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!((copied.len(), modified.as_secs()), (4, 1_000_000));
    assert_eq!(cost(&m, || fs::rename(m.path("h"), m.path("i")).unwrap()), "rename 1");
    assert_eq!(cost(&m, || fs::remove_file(m.path("i")).unwrap()), "unlink 1");
    assert_eq!(cost(&m, || fs::create_dir(m.path("d")).unwrap()), "mkdir 1");
    assert_eq!(cost(&m, || fs::remove_dir(m.path("d")).unwrap()), "rmdir 1");
    m.close();
}

#[test]
fn direct_writes_of_one_file_do_not_wait_for_each_other() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let path = m.path("f");
    fs::write(&path, vec![0; 64 << 10]).unwrap();
    let storage = &m.services.storage;
    let before = storage.writes.load(Ordering::Relaxed);
    let open = || OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    // Opened before: the kernel may look at the file for an open, and a look waits for the writes.
    let files = [(); 4].map(|()| open());
    files[0].metadata().unwrap();
    storage.held.send_replace(true);
    std::thread::scope(|scope| {
        for (index, file) in (0..4_u8).zip(&files) {
            scope.spawn(move || {
                file.write_all_at(&[index + 1; 4096], u64::from(index) * 8192).unwrap();
            });
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while storage.writes.load(Ordering::Relaxed) < before + 4 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let on_their_way = storage.writes.load(Ordering::Relaxed) - before;
        storage.held.send_replace(false);
        assert_eq!(on_their_way, 4);
    });
    drop(files);
    let text = fs::read(&path).unwrap();
    assert_eq!(text.len(), 64 << 10);
    for (index, block) in text.chunks(4096).enumerate() {
        let expected = if index < 8 && index % 2 == 0 { index as u8 / 2 + 1 } else { 0 };
        assert!(block.iter().all(|byte| *byte == expected), "block {index}");
    }
    m.close();
}

#[test]
fn opens_that_truncate_do_not_wait_for_hung_storage_for_ever() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    fs::write(m.path("f"), "old").unwrap();
    fs::write(m.path("other"), "other").unwrap();
    m.config.hot_update("valor.open_patience = \"100ms\"", "test").unwrap();
    let storage = &m.services.storage;
    let file = OpenOptions::new().write(true).open(m.path("f")).unwrap();
    storage.held.send_replace(true);
    std::thread::scope(|scope| {
        let before = storage.writes.load(Ordering::Relaxed);
        // A whole buffer is on its way when the write returns.
        // Attributes are known now: permissions need no look that would wait for the writes.
        file.metadata().unwrap();
        file.write_all_at(&[7; 1 << 20], 0).unwrap();
        eventually("the write to hang", || storage.writes.load(Ordering::Relaxed) > before);
        let opens: Vec<_> = (0..32)
            .map(|_| scope.spawn(|| File::create(m.path("f")).err().and_then(|error| error.raw_os_error())))
            .collect();
        let results: Vec<_> = opens.into_iter().map(|open| open.join().unwrap()).collect();
        let readable = fs::read(m.path("other"));
        storage.held.send_replace(false);
        assert!(results.iter().all(|error| *error == Some(libc::ETIMEDOUT)), "{results:?}");
        assert_eq!(readable.unwrap(), b"other", "others go on");
    });
    drop(file);
    assert!(fs::read(m.path("f")).unwrap() == [7; 1 << 20]);
    fs::write(m.path("f"), "newer").unwrap();
    assert_eq!(fs::read(m.path("f")).unwrap(), b"newer");
    m.close();
}
