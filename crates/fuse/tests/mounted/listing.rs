//! Listing a directory while it changes.

use crate::harness::{self, can_mount};
use rustix::fs::RawDir;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

const FILES: usize = 400;
/// Entries listed before changes. Pages of the server have 50, and the kernel takes half of one at a time, so that it has
/// not got all of a page then.
const PAUSE: usize = 60;

fn name(index: usize) -> String {
    format!("f{index:03}")
}

/// Lists a directory in small steps; `between` is called once, after some were listed. Looks at each entry, which has
/// the kernel ask for attributes with the next ones.
fn list(dir: &Path, between: impl FnOnce()) -> Vec<(String, u64)> {
    let fd = File::open(dir).unwrap();
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(&fd, &mut buffer);
    let (mut listed, mut between) = (Vec::new(), Some(between));
    while let Some(entry) = entries.next() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_str().unwrap().to_owned();
        let _ = rustix::fs::lstat(dir.join(&name));
        listed.push((name, entry.ino()));
        if listed.len() == PAUSE {
            between.take().unwrap()();
        }
    }
    listed
}

#[test]
fn a_name_never_gets_the_inode_it_had_before_a_change() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    fs::create_dir(m.path("d")).unwrap();
    change_while_listing(&m.path("d"), &[".", ".."]);
    m.close();
}

#[test]
fn nor_does_a_name_in_the_root() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    change_while_listing(m.root(), &[".", "..", "3fs-virt"]);
    m.close();
}

/// Changes names in a directory that has only `others` while it is listed.
fn change_while_listing(dir: &Path, others: &[&str]) {
    let path = |index: usize| dir.join(name(index));
    for index in 0..FILES {
        fs::write(path(index), name(index)).unwrap();
    }
    let inos: Vec<u64> = (0..FILES).map(|index| fs::metadata(path(index)).unwrap().ino()).collect();
    let swapped = || (60..80).chain(100..200);
    let removed = 80..100;
    let growing = OpenOptions::new().write(true).open(path(397)).unwrap();
    for round in 0..3 {
        let listed = list(dir, || {
            for pair in swapped().step_by(2) {
                fs::rename(path(pair), dir.join("tmp")).unwrap();
                fs::rename(path(pair + 1), path(pair)).unwrap();
                fs::rename(dir.join("tmp"), path(pair + 1)).unwrap();
            }
            for index in removed.clone() {
                fs::remove_file(path(index)).unwrap();
            }
            growing.write_all_at(&[1; 5000], 0).unwrap();
        });
        let names: BTreeSet<&String> = listed.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), listed.len(), "each once");
        let there = (0..FILES).filter(|index| !removed.contains(index)).map(name);
        for expected in there.chain(others.iter().map(|other| String::from(*other))) {
            assert!(names.contains(&expected), "{expected}");
        }
        assert!(listed.len() <= FILES + others.len());
        for index in swapped() {
            let expected = if round % 2 == 0 { inos[index ^ 1] } else { inos[index] };
            assert_eq!(fs::metadata(path(index)).unwrap().ino(), expected, "{}", name(index));
        }
        for index in removed.clone() {
            assert!(!path(index).exists(), "{}", name(index));
        }
        assert_eq!(fs::metadata(path(397)).unwrap().len(), 5000, "bytes on their way count");
        for index in removed.clone() {
            fs::write(path(index), "again").unwrap();
        }
    }
}

#[test]
fn a_removed_name_elsewhere_takes_a_link_from_what_is_listed() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::create_dir(m.path("links")).unwrap();
    let path = |index: usize| m.path("d").join(name(index));
    let link = |index: usize| m.path("links").join(name(index));
    for index in 0..FILES {
        fs::write(path(index), name(index)).unwrap();
        fs::hard_link(path(index), link(index)).unwrap();
    }
    fs::write(m.path("links/over"), "over").unwrap();
    list(&m.path("d"), || {
        for index in 60..120 {
            if index != 90 {
                fs::remove_file(link(index)).unwrap();
            }
        }
        fs::rename(m.path("links/over"), link(90)).unwrap();
    });
    for index in 60..120 {
        // The standard library asks for more, which the kernel does not cache.
        assert_eq!(rustix::fs::stat(path(index)).unwrap().st_nlink, 1, "{}", name(index));
    }
    m.close();
}

#[test]
fn slow_readers_come_to_the_end() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let mut expected: Vec<String> = (0..30).map(name).collect();
    for name in &expected {
        fs::write(m.path(name), "").unwrap();
    }
    expected.push("3fs-virt".into());
    // Longer than pages stay fresh.
    let slowly = |dir: &Path| {
        let fd = File::open(dir).unwrap();
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut entries = RawDir::new(&fd, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            names.push(entry.unwrap().file_name().to_str().unwrap().to_owned());
            assert!(names.len() < 100, "without end: {names:?}");
            if entries.is_buffer_empty() {
                std::thread::sleep(Duration::from_millis(1100));
            }
        }
        names.split_off(2)
    };
    let (root, virt) = std::thread::scope(|scope| {
        let virt = scope.spawn(|| slowly(&m.path("3fs-virt")));
        (slowly(m.root()), virt.join().unwrap())
    });
    assert_eq!(root, expected);
    assert_eq!(virt, ["rm-rf", "iovs", "get-conf", "set-conf"]);
    m.close();
}

#[test]
fn listing_with_attributes_takes_a_call_a_page() {
    if !can_mount() {
        return;
    }
    let services = crate::cluster::Services::start();
    let m = harness::on(services.clone(), 1, valor_fuse::Config::default());
    fs::create_dir(m.path("d")).unwrap();
    for index in 0..FILES {
        fs::write(m.path("d").join(name(index)), name(index)).unwrap();
    }
    let fresh = harness::on(services, 2, valor_fuse::Config::default());
    for entry in fs::read_dir(fresh.path("d")).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().len(), 4);
    }
    let calls = fresh.calls.lock().clone();
    println!("{calls:?}");
    // Pages of 50 here. If this machine pauses for long, some are listed again, or looked up one by one.
    assert!(calls["list"] >= 8);
    fresh.close();
    m.close();
}
