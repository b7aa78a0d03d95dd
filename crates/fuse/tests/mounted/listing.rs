//! Listing a directory while it changes.

use crate::harness::{self, can_mount};
use rustix::fs::RawDir;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt, MetadataExt};

const FILES: usize = 400;

fn name(index: usize) -> String {
    format!("f{index:03}")
}

/// Lists a directory in small steps; `between` is called once, after some were listed.
fn list(dir: &std::path::Path, between: impl FnOnce()) -> Vec<(String, u64)> {
    let fd = File::open(dir).unwrap();
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(&fd, &mut buffer);
    let (mut listed, mut between) = (Vec::new(), Some(between));
    while let Some(entry) = entries.next() {
        let entry = entry.unwrap();
        listed.push((entry.file_name().to_str().unwrap().to_owned(), entry.ino()));
        if listed.len() == FILES / 4 {
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
    let path = |index: usize| m.path("d").join(name(index));
    for index in 0..FILES {
        fs::write(path(index), name(index)).unwrap();
    }
    let inos: Vec<u64> = (0..FILES).map(|index| fs::metadata(path(index)).unwrap().ino()).collect();
    let growing = OpenOptions::new().write(true).open(path(397)).unwrap();
    for round in 0..3 {
        let listed = list(&m.path("d"), || {
            for pair in (100..FILES - 8).step_by(2) {
                fs::rename(path(pair), m.path("d/tmp")).unwrap();
                fs::rename(path(pair + 1), path(pair)).unwrap();
                fs::rename(m.path("d/tmp"), path(pair + 1)).unwrap();
            }
            fs::remove_file(path(FILES - 1)).unwrap();
            growing.write_all_at(&[1; 5000], 0).unwrap();
        });
        let names: BTreeSet<&String> = listed.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), listed.len(), "each once");
        assert_eq!(listed.len(), FILES + 1, "all but the removed one, and the dots");
        for index in 100..FILES - 8 {
            let expected = if round % 2 == 0 { inos[index ^ 1] } else { inos[index] };
            assert_eq!(fs::metadata(path(index)).unwrap().ino(), expected, "{}", name(index));
        }
        assert!(!path(FILES - 1).exists());
        assert_eq!(fs::metadata(path(397)).unwrap().len(), 5000, "bytes on their way count");
        fs::write(path(FILES - 1), "again").unwrap();
    }
    drop(growing);
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
