//! A disk that is gone (all its file system does fails) takes its own targets out of service and no others.

mod harness;

use harness::{Cluster, Random, wait_until};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `FS_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`, and its argument for "at once, without writing the log".
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
const NO_LOG_FLUSH: u32 = 2;

/// Makes everything fail on a mounted ext4 or xfs, as if the disk had been pulled out.
fn shut_down(mount_point: &Path) {
    let root = File::open(mount_point).expect("open the file system");
    let how = NO_LOG_FLUSH;
    // SAFETY: the descriptor is open, and the kernel only reads the number behind the pointer.
    let result = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &raw const how) };
    assert_eq!(result, 0, "shut down: {}", std::io::Error::last_os_error());
}

/// `(disk index, public state)` of the targets of a node.
fn targets(cluster: &Cluster, node: u64) -> Vec<(u64, String)> {
    let list: Value = serde_json::from_str(&cluster.admin(&["list-targets", "--json"])).expect("JSON");
    list.as_array()
        .expect("a list")
        .iter()
        .filter(|target| target["NodeId"].as_u64() == Some(node))
        .map(|target| {
            let state = target["PublicState"].as_str().expect("state").to_owned();
            (target["DiskIndex"].as_u64().expect("disk"), state)
        })
        .collect()
}

fn nodes(cluster: &Cluster) -> Vec<u64> {
    let list: Value = serde_json::from_str(&cluster.admin(&["list-targets", "--json"])).expect("JSON");
    let mut ids: Vec<u64> =
        list.as_array().expect("a list").iter().filter_map(|target| target["NodeId"].as_u64()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[test]
fn a_lost_disk_takes_only_its_own_targets_along() {
    let mut random = Random::new("failing_disk");
    let cluster = Cluster::start(&[
        "--loop-devices",
        "6",
        "--loop-size",
        "256MB",
        "--storage-nodes",
        "3",
        "--replicas",
        "3",
    ]);
    wait_until("all targets to be known", || nodes(&cluster).len() == 3);
    let nodes = nodes(&cluster);
    wait_until("all targets to serve", || {
        nodes.iter().all(|node| {
            let states = targets(&cluster, *node);
            states.len() == 2 && states.iter().all(|(_, state)| state == "Serving")
        })
    });
    let mut files = Vec::new();
    let mut write = |name: String, cluster: &Cluster| {
        let data = random.bytes(3 << 20);
        let mut file = File::create(cluster.mount().join(&name)).expect("create");
        file.write_all(&data).expect("write");
        file.sync_all().expect("fsync");
        (name, data)
    };
    for number in 0..4 {
        files.push(write(format!("before-{number}"), &cluster));
    }
    // The second node's first disk.
    shut_down(&cluster.data_dir().join("disks/disk-2"));
    let mut number = 0;
    wait_until("the lost disk's target to be offline", || {
        if number < 10 {
            files.push(write(format!("during-{number}"), &cluster));
            number += 1;
        }
        targets(&cluster, nodes[1]).contains(&(0, "Offline".to_owned()))
    });
    for node in &nodes {
        for (disk, state) in targets(&cluster, *node) {
            let lost = *node == nodes[1] && disk == 0;
            assert_eq!(state == "Serving", !lost, "node {node} disk {disk}: {state}");
        }
    }
    for number in 0..4 {
        files.push(write(format!("after-{number}"), &cluster));
    }
    for (name, data) in &files {
        assert!(std::fs::read(cluster.mount().join(name)).expect("read") == *data, "{name}");
    }
}
