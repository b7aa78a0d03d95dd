//! The control of a running mount: its statistics, and the mix changed under load without unmounting.

mod harness;

use harness::{Cluster, VALOR, wait_until};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whatever the kernel offers.
const CLASSIC: &str = "--mount-config=valor.transport=\"classic\"";

/// Counters of all channels, summed.
#[derive(Debug, Clone, Copy, Default)]
struct Waits {
    fuse: u64,
    xfuse: u64,
    spin_ns: u64,
    channels: u64,
}

fn report(cluster: &Cluster) -> serde_json::Value {
    let text = cluster.admin(&["--json", "mount-stats", "--once"]);
    serde_json::from_str(&text).expect("JSON")
}

fn waits(cluster: &Cluster) -> Waits {
    let report = report(cluster);
    let channels = report["channels"].as_array().expect("channels");
    let sum = |key: &str| channels.iter().map(|channel| channel[key].as_u64().expect("number")).sum::<u64>();
    Waits {
        fuse: sum("req_fuse"),
        xfuse: sum("req_xfuse"),
        spin_ns: sum("spin_ns"),
        channels: channels.len() as u64,
    }
}

/// Requests that every call sends to the mount.
fn requests(dir: &Path, count: usize) {
    for number in 0..count {
        let file = dir.join(format!("f{}", number % 7));
        let file = std::fs::File::create(file).expect("create");
        file.write_all_at(b"some data", 0).expect("write");
    }
}

#[test]
fn the_mix_changes_on_a_live_mount() {
    let mut cluster = Cluster::start(&[CLASSIC]);
    let dir = cluster.mount().join("load");
    std::fs::create_dir(&dir).expect("mkdir");
    let first = report(&cluster);
    assert_eq!(first["transport"], "classic", "{first}");
    assert_eq!(first["mix"], "1");
    for share in ["1", "0.25", "0", "0.5", "1"] {
        let said = cluster.admin(&["mount-set", &format!("mix={share}"), "max-window=30"]);
        assert!(said.contains(&format!("mix {share},")) && said.contains("window up to 30 us"), "{said}");
        // Each channel may still be in a wait that was labelled before.
        requests(&dir, 30);
        let before = waits(&cluster);
        requests(&dir, 150);
        let after = waits(&cluster);
        let (fuse, xfuse) = (after.fuse - before.fuse, after.xfuse - before.xfuse);
        let all = (fuse + xfuse) as f64;
        assert!(all >= 150.0, "{after:?}");
        let wanted: f64 = share.parse().expect("number");
        let error = (fuse as f64 - wanted * all).abs();
        // A batch is one request, and every channel is off by less than one at both ends of the measurement.
        assert!(error <= 2.0 * after.channels as f64 + 2.0, "share {share}: {fuse} of {all}");
        if share == "1" {
            assert_eq!(after.spin_ns, before.spin_ns, "no spinning at 1");
        }
    }
    cluster.down();
}

#[test]
fn changes_under_load_lose_nothing() {
    let mut cluster = Cluster::start(&[]);
    let dir = cluster.mount().join("load");
    std::fs::create_dir(&dir).expect("mkdir");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut round = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let path = dir.join(format!("r{}", round % 5));
                std::fs::write(&path, round.to_string()).expect("write");
                assert_eq!(std::fs::read_to_string(&path).expect("read"), round.to_string());
                round += 1;
            }
            round
        });
        for setting in ["mix=0", "mix=1", "mix=auto", "mix=0.5", "max-window=0", "max-window=1000", "mix=0"] {
            cluster.admin(&["mount-set", setting]);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(load.join().expect("load") > 0);
    });
    cluster.down();
}

#[test]
fn the_socket_is_private_and_refuses_nonsense() {
    let mut cluster = Cluster::start(&[CLASSIC, "--mount-config=valor.mix=0.75"]);
    let socket = cluster.data_dir().join("mount/control.sock");
    let mode = std::fs::symlink_metadata(&socket).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(report(&cluster)["mix"], "0.75");
    for bad in ["mix=2", "mix=", "mix", "readonly=true", "max-window=1s"] {
        let output = Command::new(VALOR)
            .args(["admin", "--data-dir"])
            .arg(cluster.data_dir())
            .args(["mount-set", bad])
            .output()
            .expect("valor admin");
        assert!(!output.status.success(), "{bad}");
        assert!(!String::from_utf8_lossy(&output.stderr).is_empty());
    }
    assert_eq!(report(&cluster)["mix"], "0.75", "what is refused changes nothing");
    let table = cluster.admin(&["mount-stats", "--once"]);
    assert!(table.contains("Channel") && table.contains("transport classic"), "{table}");
    cluster.down();
    wait_until("the socket to be removed", || !socket.exists());
}

/// Whether or not the kernel has io_uring switched on, and with more channels than there are CPUs.
#[test]
fn every_transport_that_can_be_asked_for_serves() {
    let mut cluster = Cluster::start(&["--replicas", "1"]);
    for (transport, sqpoll) in [("classic", false), ("uring", false), ("uring", true), ("auto", false)] {
        let mut more = vec!["--transport", transport, "--channels", "7"];
        more.extend(sqpoll.then_some("--sqpoll"));
        let dir = cluster.mount_again_with(&format!("{transport}-{sqpoll}"), &more);
        let file = dir.join("file");
        std::fs::write(&file, transport).expect("write");
        assert_eq!(std::fs::read_to_string(&file).expect("read"), transport);
        assert_eq!(std::fs::read_to_string(cluster.mount().join("file")).expect("read"), transport);
    }
    cluster.down();
}
