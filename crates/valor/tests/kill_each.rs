//! kill -9 of each kind of process while writers run: everything acknowledged (fsync returned) is there afterwards.

mod harness;

use harness::writers::Writer;
use harness::{Cluster, Random, wait_until};
use std::fs::File;
use std::io::Write;

const FILES: u64 = 4;

#[test]
fn acknowledged_bytes_survive_kill_of_each_server() {
    let mut random = Random::new("kill_each");
    let mut cluster = Cluster::start(&[]);
    let writers: Vec<Writer> =
        (0..FILES).map(|n| Writer::start(&cluster.mount(), n, random.next())).collect();
    for kind in ["storage", "meta", "mgmtd", "storage", "storage"] {
        let before: Vec<u64> = writers.iter().map(Writer::acknowledged).collect();
        let pid = cluster.kill_one(kind, random.below(3) as usize);
        wait_until("the killed process to be replaced", || {
            let now = cluster.processes();
            now.len() == 6 && !now.iter().any(|(_, p)| *p == pid)
        });
        wait_until("every writer to go on after the kill", || {
            writers.iter().zip(&before).all(|(writer, before)| writer.acknowledged() > before + 5)
        });
    }
    for writer in writers {
        writer.stop_and_check();
    }
    cluster.down();
}

#[test]
fn a_killed_mount_loses_nothing_that_was_synced() {
    let mut random = Random::new("kill_mount");
    let mut cluster = Cluster::start(&[]);
    let path = cluster.mount().join("log");
    let data = random.bytes(3 << 20);
    let mut file = File::create(&path).expect("create");
    file.write_all(&data).expect("write");
    file.sync_all().expect("fsync");
    file.write_all(b"not acknowledged").expect("write");
    let pid = cluster.kill_one("mount", 0);
    drop(file);
    wait_until("the mount to come back", || {
        cluster.processes().iter().any(|(kind, p)| kind == "mount" && *p != pid)
            && std::fs::metadata(&path).is_ok()
    });
    let read = std::fs::read(&path).expect("read");
    assert!(read.starts_with(&data), "{} bytes", read.len());
    cluster.down();
}

#[test]
fn who_waits_for_a_server_can_be_killed() {
    let mut cluster = Cluster::start(&[]);
    let mount = cluster.mount();
    let meta = cluster.processes().into_iter().find(|(kind, _)| kind == "meta").expect("a meta process").1;
    let signal = |name: &str| harness::run("kill", &[name, &meta.to_string()]);
    signal("-STOP");
    let mut waits = std::process::Command::new("mkdir").arg(mount.join("dir")).spawn().expect("mkdir");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(waits.try_wait().expect("wait").is_none(), "it waits for the stopped server");
    waits.kill().expect("kill");
    wait_until("the killed process to end", || waits.try_wait().expect("wait").is_some());
    signal("-CONT");
    std::fs::create_dir(mount.join("another")).expect("the server answers again");
    cluster.down();
}
