//! Two mounts of one cluster: close-to-open consistency, appends that never overwrite each other.

mod harness;

use harness::Cluster;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

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
