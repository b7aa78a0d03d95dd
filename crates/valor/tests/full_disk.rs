//! Storage on small loop devices, filled to the brim.

mod harness;

use harness::{Cluster, Random};
use std::fs::{self, File};
use std::io::Write;

#[test]
fn a_full_disk_is_enospc_and_loses_nothing() {
    let mut random = Random::new("full_disk");
    let mut cluster = Cluster::start(&[
        "--loop-devices",
        "3",
        "--loop-size",
        "256MB",
        "--storage-nodes",
        "3",
        "--replicas",
        "3",
    ]);
    let dir = cluster.mount();
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    let full = (0..400).find(|number| {
        let name = format!("file-{number:03}");
        let data = random.bytes(2 << 20);
        let written = File::create(dir.join(&name)).and_then(|mut file| {
            file.write_all(&data)?;
            file.sync_all()
        });
        match written {
            Ok(()) => {
                kept.push((name, data));
                false
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                true
            }
        }
    });
    assert!(full.is_some(), "the disk never became full");
    assert!(kept.len() > 50, "only {} files fitted", kept.len());
    for (name, data) in &kept {
        assert!(fs::read(dir.join(name)).expect("read from a full disk") == *data, "{name}");
    }
    cluster.kill_everything();
    cluster.up();
    for (name, data) in &kept {
        assert!(fs::read(dir.join(name)).expect("read after a restart") == *data, "{name}");
    }
    for (name, _) in kept.iter().take(30) {
        fs::remove_file(dir.join(name)).expect("remove from a full disk");
    }
    let data = random.bytes(1 << 20);
    harness::wait_until("space of removed files to come back", || {
        File::create(dir.join("after"))
            .and_then(|mut file| file.write_all(&data).and_then(|()| file.sync_all()))
            .is_ok()
    });
    assert!(fs::read(dir.join("after")).expect("read") == data);
    cluster.down();
}
