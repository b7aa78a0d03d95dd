//! Two mounts of one cluster: close-to-open consistency, appends that never overwrite each other.

mod harness;

use harness::Cluster;
use std::collections::BTreeSet;
use std::fs::{File, FileTimes, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[test]
fn what_one_mount_closed_the_other_opens() {
    let mut cluster = Cluster::start(&[]);
    let here = cluster.mount();
    let there = cluster.mount_again("second");
    for round in 0..50_u32 {
        let text = format!("round {round}: {}", "x".repeat((round as usize * 977) % 30_000));
        let (write, read) = if round % 2 == 0 { (&here, &there) } else { (&there, &here) };
        std::fs::write(write.join("shared"), &text).expect("write");
        assert_eq!(std::fs::read_to_string(read.join("shared")).expect("read"), text, "round {round}");
    }
    std::fs::create_dir(here.join("dir")).expect("mkdir");
    std::fs::write(there.join("dir/a"), "1").expect("write in the other's directory");
    std::fs::rename(there.join("dir/a"), there.join("dir/b")).expect("rename");
    assert_eq!(std::fs::read_to_string(here.join("dir/b")).expect("read"), "1");
    cluster.down();
}

#[test]
fn a_mount_that_is_stopped_while_in_use_or_covered_loses_nothing() {
    let mut cluster = Cluster::start(&[]);
    for covered in [false, true] {
        let name = if covered { "covered" } else { "used" };
        let mount = cluster.mount_again(name);
        let mut file = File::create(mount.join(name)).expect("create");
        file.write_all(b"acknowledged").expect("write");
        if covered {
            let none = None::<&std::ffi::CStr>;
            rustix::mount::mount("cover", &mount, "tmpfs", rustix::mount::MountFlags::empty(), none)
                .expect("mount");
        }
        cluster.stop_mount(&mount);
        if covered {
            rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::empty()).expect("unmount the cover");
            rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH)
                .expect("unmount the dead one");
        }
        assert!(file.write_all(b"more").is_err(), "its mount is gone");
        let text = std::fs::read_to_string(cluster.mount().join(name)).expect("read");
        assert_eq!(text, "acknowledged", "{name}");
    }
    cluster.down();
}

/// Opens for writing without truncation.
fn open_for_writing(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).expect("open for writing")
}

/// Changes the file at a path.
type Change = fn(&Path, u8);

/// Ways to change the file's contents: after each, a reader that opens sees bytes of this value in its second block.
fn changes() -> Vec<(&'static str, Change)> {
    vec![
        ("rewritten", |path, byte| std::fs::write(path, vec![byte; 16 << 10]).expect("write")),
        ("written in place", |path, byte| {
            open_for_writing(path).write_all_at(&[byte; 4096], 4096).expect("write");
        }),
        ("written in place, with its times set back", |path, byte| {
            let file = open_for_writing(path);
            let old = file.metadata().expect("stat");
            file.write_all_at(&[byte; 4096], 4096).expect("write");
            let times = FileTimes::new().set_modified(old.modified().expect("mtime"));
            file.set_times(times).expect("utimes");
        }),
        ("written directly", |path, byte| {
            let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).expect("open");
            let room = vec![byte; 2 * 4096];
            let start = room.as_ptr().align_offset(4096);
            file.write_all_at(&room[start..start + 4096], 4096).expect("direct write");
        }),
        ("written through a mapping", |path, byte| {
            let file = OpenOptions::new().read(true).write(true).open(path).expect("open");
            // SAFETY: a fresh shared mapping of a file of at least 16 KiB, written within its bounds and unmapped.
            unsafe {
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                let at = libc::mmap(
                    std::ptr::null_mut(),
                    16 << 10,
                    protection,
                    libc::MAP_SHARED,
                    file.as_raw_fd(),
                    0,
                );
                assert_ne!(at, libc::MAP_FAILED);
                std::ptr::write_bytes(at.cast::<u8>().add(4096), byte, 4096);
                assert_eq!(libc::msync(at, 16 << 10, libc::MS_SYNC), 0);
                assert_eq!(libc::munmap(at, 16 << 10), 0);
            }
        }),
        ("cut and grown", |path, byte| {
            let file = open_for_writing(path);
            file.set_len(4096).expect("truncate");
            file.set_len(16 << 10).expect("truncate");
            file.write_all_at(&[byte; 4096], 4096).expect("write");
        }),
        ("punched and written", |path, byte| {
            let file = open_for_writing(path);
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: plain integers and a descriptor that is open.
            assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), mode, 4096, 4096) }, 0);
            drop(file);
            if byte != 0 {
                open_for_writing(path).write_all_at(&[byte; 4096], 4096).expect("write");
            }
        }),
        ("replaced by a rename", |path, byte| {
            let new = path.with_extension("new");
            std::fs::write(&new, vec![byte; 16 << 10]).expect("write");
            std::fs::rename(&new, path).expect("rename");
        }),
        ("replaced by a rename, the old one kept", |path, byte| {
            let new = path.with_extension("new");
            std::fs::write(&new, vec![byte; 16 << 10]).expect("write");
            std::fs::rename(path, path.with_extension("old")).expect("rename");
            std::fs::rename(&new, path).expect("rename");
        }),
    ]
}

fn second_block(path: &Path) -> u8 {
    let text = std::fs::read(path).expect("read");
    assert_eq!(text.len(), 16 << 10);
    let block = &text[4096..8192];
    assert!(block.iter().all(|byte| *byte == block[0]), "a block is changed as a whole here");
    block[0]
}

/// The reader never writes, so nothing but its opens can tell it of changes. What it keeps in the page cache must be of
/// the last version, however soon after another it comes and whatever it leaves as it was.
#[test]
fn each_way_to_change_a_file_is_seen_by_the_next_open() {
    let mut cluster = Cluster::start(&["--chunk-size", "64KB"]);
    let here = cluster.mount().join("shared");
    let there = cluster.mount_again("second").join("shared");
    std::fs::write(&here, vec![1_u8; 16 << 10]).expect("write");
    let mut byte = 1_u8;
    for round in 0..8 {
        for (way, change) in changes() {
            assert_eq!(second_block(&there), byte, "before: {way}");
            byte = byte.wrapping_add(1);
            change(&here, byte);
            for again in 0..3 {
                assert_eq!(second_block(&there), byte, "round {round}: {way}, read {again}");
            }
            assert_eq!(second_block(&here), byte, "round {round}: {way}, own mount");
        }
        byte = byte.wrapping_add(1);
        let punch = changes()[6].1;
        punch(&here, 0);
        assert_eq!(second_block(&there), 0, "a hole is seen");
        punch(&here, byte);
    }
    // A length that only the other mount knows.
    for length in [5_000, 70_000, 3, 200_000, 0, 1] {
        std::fs::write(&here, vec![9; length]).expect("write");
        assert_eq!(std::fs::read(&there).expect("read").len(), length);
    }
    cluster.down();
}

/// Pages of a file in the cache, as `fincore` counts them.
fn cached_pages(path: &Path) -> usize {
    let text = harness::run("fincore", &["-n", "-o", "PAGES", path.to_str().expect("a plain name")]);
    text.trim().parse().expect("a number")
}

#[test]
fn pages_stay_cached_between_opens_until_another_mount_writes() {
    let mut cluster = Cluster::start(&[]);
    let here = cluster.mount().join("file");
    let there = cluster.mount_again("second").join("file");
    std::fs::write(&here, vec![1_u8; 64 << 10]).expect("write");
    let read = || std::fs::read(&there).expect("read");
    // Memory pressure may take pages away at any time, so once is enough.
    harness::wait_until("pages to stay", || read().len() == 64 << 10 && cached_pages(&there) == 16);
    open_for_writing(&here).write_all_at(&[2], 0).expect("write");
    assert_eq!(cached_pages(&there), 0, "an open after the change drops them");
    assert_eq!(read()[0], 2);
    // A reader that has it open meanwhile does not keep others from seeing the change.
    let mut open = File::open(&there).expect("open");
    let mut first = [0_u8; 1];
    open.read_exact(&mut first).expect("read");
    open_for_writing(&here).write_all_at(&[3], 0).expect("write");
    assert_eq!(read()[0], 3);
    cluster.down();
}

#[test]
fn concurrent_appends_of_two_mounts_never_overwrite() {
    const LINES: usize = 300;
    let mut cluster = Cluster::start(&[]);
    let mounts = [cluster.mount(), cluster.mount_again("second")];
    File::create(mounts[0].join("log")).expect("create");
    let threads: Vec<_> = (0..4)
        .map(|writer: usize| {
            let path: PathBuf = mounts[writer % 2].join("log");
            std::thread::spawn(move || {
                let mut file = OpenOptions::new().append(true).open(path).expect("open for append");
                for line in 0..LINES {
                    let text = format!("writer {writer} line {line} {}\n", "-".repeat(line % 50));
                    assert_eq!(file.write(text.as_bytes()).expect("append"), text.len());
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("writer");
    }
    let text = std::fs::read_to_string(mounts[1].join("log")).expect("read");
    let lines: BTreeSet<&str> = text.lines().collect();
    assert_eq!(text.lines().count(), 4 * LINES, "no line lost, none torn");
    assert_eq!(lines.len(), 4 * LINES);
    for writer in 0..4 {
        let prefix = format!("writer {writer} ");
        let numbers: Vec<usize> = text
            .lines()
            .filter(|line| line.starts_with(&prefix))
            .map(|line| line.split(' ').nth(3).and_then(|n| n.parse().ok()).expect("a whole line"))
            .collect();
        assert!(numbers.is_sorted(), "each writer's lines keep their order");
    }
    cluster.down();
}

/// A mount that makes a file longer judges by the length it knows; what others append meanwhile must stay.
#[test]
fn fallocate_cuts_nothing_that_another_mount_appends() {
    const LINES: usize = 200;
    let mut cluster = Cluster::start(&["--chunk-size", "64KB"]);
    let (here, there) = (cluster.mount().join("log"), cluster.mount_again("second").join("log"));
    File::create(&here).expect("create");
    let appends = std::thread::spawn(move || {
        let mut file = OpenOptions::new().append(true).open(here).expect("open for append");
        for line in 0..LINES {
            let text = format!("line {line} {}\n", "-".repeat(line % 900));
            assert_eq!(file.write(text.as_bytes()).expect("append"), text.len());
        }
    });
    let file = OpenOptions::new().read(true).write(true).open(&there).expect("open");
    while !appends.is_finished() {
        let length = file.metadata().expect("stat").len() as i64;
        // SAFETY: plain integers and a descriptor that is open.
        assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length + 100) }, 0);
    }
    appends.join().expect("appends");
    let text = std::fs::read(&there).expect("read");
    let lines: Vec<_> =
        text.split(|byte| *byte == 0 || *byte == b'\n').filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), LINES, "none lost, none torn");
    for (number, line) in lines.iter().enumerate() {
        let expected = format!("line {number} {}", "-".repeat(number % 900));
        assert_eq!(*line, expected.as_bytes());
    }
    cluster.down();
}
