//! Two mounts of one file system.

use crate::cluster::Services;
use crate::harness::{self, can_mount, uncached};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[test]
fn closed_files_are_seen_by_others() {
    if !can_mount() {
        return;
    }
    let services = Services::start();
    let (a, b) = (harness::on(services.clone(), 1, uncached()), harness::on(services, 2, uncached()));
    for round in 0..20 {
        let text = format!("round {round} ").repeat(1 + round * 50);
        let (writer, reader) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        fs::write(writer.path("f"), &text).unwrap();
        assert_eq!(fs::read_to_string(reader.path("f")).unwrap(), text);
    }
    fs::rename(a.path("f"), a.path("g")).unwrap();
    assert!(b.path("g").exists() && !b.path("f").exists());
    a.close();
    b.close();
}

/// How to append.
#[derive(Clone, Copy, Default)]
struct Manner {
    direct: bool,
    /// Sync after each record.
    sync: bool,
    /// Copies of the descriptors are closed all the time, as programs that start others do.
    copies: bool,
}

/// Appends numbered records of changing length from many threads and checks that each is there once, in one piece.
fn appends(mounts: &[&harness::Mount], per_thread: usize, scale: usize, manner: Manner) {
    File::create(mounts[0].path("log")).unwrap();
    std::thread::scope(|scope| {
        for (t, mount) in mounts.iter().enumerate().flat_map(|(i, m)| [(2 * i, m), (2 * i + 1, m)]) {
            let flags = if manner.direct { libc::O_DIRECT } else { 0 };
            let mut options = OpenOptions::new();
            let file = Arc::new(options.append(true).custom_flags(flags).open(mount.path("log")).unwrap());
            let held = Arc::downgrade(&file);
            scope.spawn(move || {
                while let Some(file) = held.upgrade().filter(|_| manner.copies) {
                    drop(file.try_clone().unwrap());
                }
            });
            scope.spawn(move || {
                for i in 0..per_thread {
                    let record = format!("<{t}:{i}:{}>\n", "x".repeat((i * 37 + t) % 200 * scale));
                    assert_eq!((&*file).write(record.as_bytes()).unwrap(), record.len());
                    if manner.sync {
                        file.sync_all().unwrap();
                    }
                }
            });
        }
    });
    let text = fs::read_to_string(mounts[0].path("log")).unwrap();
    let mut seen = vec![0; 2 * mounts.len()];
    let mut total = 0;
    for line in text.trim_matches('\0').lines() {
        let record = line.trim_start_matches('\0').strip_prefix('<').and_then(|l| l.strip_suffix('>'));
        let mut parts = record.unwrap_or_else(|| panic!("torn record {line:?}")).split(':');
        let (t, i): (usize, usize) =
            (parts.next().unwrap().parse().unwrap(), parts.next().unwrap().parse().unwrap());
        assert_eq!(parts.next().unwrap().len(), (i * 37 + t) % 200 * scale);
        assert_eq!(seen[t], i, "records of one writer stay in order");
        seen[t] += 1;
        total += 1;
    }
    assert_eq!(total, seen.len() * per_thread, "none is lost");
}

#[test]
fn appends_from_two_mounts_never_overwrite() {
    if !can_mount() {
        return;
    }
    let services = Services::start();
    let (a, b) = (harness::on(services.clone(), 1, uncached()), harness::on(services, 2, uncached()));
    appends(&[&a, &b], 200, 1, Manner::default());
    fs::remove_file(a.path("log")).unwrap();
    appends(&[&a, &b], 40, 4000, Manner::default());
    fs::remove_file(a.path("log")).unwrap();
    appends(&[&a, &b], 50, 1, Manner { sync: true, ..Manner::default() });
    assert!(a.called("reserve_append") > 0 && b.called("reserve_append") > 0);
    a.close();
    b.close();
}

#[test]
fn closing_copies_of_descriptors_harms_no_append() {
    if !can_mount() {
        return;
    }
    let services = Services::start();
    let (a, b) = (harness::on(services.clone(), 1, uncached()), harness::on(services, 2, uncached()));
    for direct in [true, false] {
        appends(&[&a, &b], 100, 1, Manner { direct, copies: true, ..Manner::default() });
        fs::remove_file(a.path("log")).unwrap();
    }
    a.close();
    b.close();
}

#[test]
fn appends_without_our_extension_still_work_alone() {
    if !can_mount() {
        return;
    }
    let services = Services::start();
    services.no_extensions.store(true, Ordering::Relaxed);
    let m = harness::on(services, 1, uncached());
    let mut file = OpenOptions::new().append(true).create(true).open(m.path("log")).unwrap();
    for i in 0..100 {
        writeln!(file, "line {i}").unwrap();
    }
    drop(file);
    assert_eq!(fs::read_to_string(m.path("log")).unwrap().lines().count(), 100);
    m.close();
}

#[test]
fn a_reader_keeps_a_removed_files_data() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    fs::write(m.path("f"), b"still here").unwrap();
    let mut reader = File::open(m.path("f")).unwrap();
    fs::remove_file(m.path("f")).unwrap();
    assert_eq!(m.called("hold"), 1);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
    drop(reader);
    harness::eventually("the hold to end", || m.called("close_later") == 1);
    fs::write(m.path("g"), b"x").unwrap();
    fs::remove_file(m.path("g")).unwrap();
    assert_eq!(m.called("hold"), 1, "files that nobody reads are not held");
    m.close();
}

#[test]
fn a_writer_keeps_a_removed_files_data_after_an_early_close() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(m.path("f")).unwrap();
    file.write_all_at(b"before", 0).unwrap();
    // What a child process does to a file it inherited.
    drop(file.try_clone().unwrap());
    assert_eq!(m.called("close"), 1);
    fs::remove_file(m.path("f")).unwrap();
    assert_eq!(m.called("hold"), 1, "the session is over, so the removal makes one");
    file.write_all_at(b"after!", 0).unwrap();
    drop(file.try_clone().unwrap());
    assert_eq!(m.called("close"), 1, "a removed file keeps its session");
    let mut text = [0; 6];
    file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"after!");
    drop(file);
    harness::eventually("the hold to end", || m.called("close_later") == 1);
    // A handle that lives on is protected before anybody removes the name.
    let file = File::create(m.path("g")).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    drop(file.try_clone().unwrap());
    harness::eventually("a new session", || m.called("hold") == 2);
    let before = m.called("close");
    drop(file);
    harness::eventually("its end", || m.called("close") > before);
    m.close();
}

#[test]
fn mixed_readers_and_writers_on_one_mount() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    std::thread::scope(|scope| {
        for t in 0..6u8 {
            let m = &m;
            scope.spawn(move || {
                let path = m.path(&format!("t{t}"));
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(&path)
                    .unwrap();
                let mut model = vec![0u8; 0];
                let mut seed = u64::from(t) + 1;
                for step in 0..150 {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let offset = (seed >> 33) as usize % 700_000;
                    let len = 1 + (seed >> 20) as usize % 60_000;
                    match seed >> 60 {
                        0..=8 => {
                            let data = vec![(seed >> 8) as u8; len];
                            file.write_all_at(&data, offset as u64).unwrap();
                            model.resize(model.len().max(offset + len), 0);
                            model[offset..offset + len].copy_from_slice(&data);
                        }
                        9..=12 => {
                            let mut back = vec![7; len];
                            let got = file.read_at(&mut back, offset as u64).unwrap();
                            let end = (offset + len).min(model.len());
                            assert_eq!(got, end.saturating_sub(offset), "t{t} step {step}");
                            assert!(got == 0 || back[..got] == model[offset..end], "t{t} step {step}");
                        }
                        13 => {
                            file.set_len(offset as u64).unwrap();
                            model.resize(offset, 0);
                        }
                        14 => file.sync_all().unwrap(),
                        _ => {
                            assert_eq!(file.metadata().unwrap().len(), model.len() as u64, "t{t} step {step}")
                        }
                    }
                }
                drop(file);
                assert!(fs::read(&path).unwrap() == model, "t{t}");
            });
        }
    });
    m.close();
}
