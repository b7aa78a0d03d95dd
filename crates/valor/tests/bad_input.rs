//! Wrong settings, bad mount points and hostile clients: clear messages, and others keep being served.

mod harness;

use harness::{Cluster, VALOR, is_mounted, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::Duration;

fn valor(args: &[&str]) -> Output {
    Command::new(VALOR).args(args).output().expect("valor")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_settings_name_the_file_and_the_key() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("meta_main.toml");
    std::fs::write(&file, "[server.meta]\nread_only = true\n").expect("write");
    let launcher = dir.path().join("launcher.toml");
    std::fs::write(
        &launcher,
        "cluster_id = \"x\"\n[mgmtd_client]\nmgmtd_server_addresses = [\"TCP://127.0.0.1:1\"]\n",
    )
    .expect("write");
    let text = |path: &std::path::Path| path.display().to_string();
    let output = valor(&[
        "meta",
        "--app_config.node_id=100",
        "--cfg",
        &text(&file),
        "--launcher_cfg",
        &text(&launcher),
        "--dir",
        &text(dir.path()),
    ]);
    assert!(!output.status.success());
    let message = said(&output);
    assert!(message.contains("meta_main.toml") && message.contains("server.meta.read_only"), "{message}");
    assert!(message.contains("did you mean `readonly`"), "{message}");
}

#[test]
fn impossible_shapes_are_refused_before_anything_starts() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let data = dir.path().join("data").display().to_string();
    let mount = dir.path().join("mnt").display().to_string();
    let output = valor(&["up", &mount, "--data-dir", &data, "--storage-nodes", "2", "--replicas", "3"]);
    assert!(!output.status.success() && said(&output).contains("--replicas"), "{}", said(&output));
    let output = valor(&["up", "/dev/null/x", "--data-dir", &data]);
    assert!(
        !output.status.success() && said(&output).contains("mount point /dev/null/x"),
        "{}",
        said(&output)
    );
    let output = valor(&["up", "/proc", "--data-dir", &data]);
    assert!(!output.status.success() && said(&output).contains("busy"), "{}", said(&output));
    let output = valor(&["down", "--data-dir", &format!("{data}-none")]);
    assert!(
        !output.status.success() && said(&output).contains("no cluster was ever started"),
        "{}",
        said(&output)
    );
}

#[test]
fn strangers_and_garbage_are_turned_away_while_others_are_served() {
    let mut cluster = Cluster::start(&[]);
    let plan = std::fs::read_to_string(cluster.data_dir().join("cluster.toml")).expect("cluster.toml");
    let ports: Vec<u16> = plan
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .filter(|port| *port > 9999)
        .collect();
    assert!(ports.len() >= 10, "{plan}");

    // Another data directory is a second cluster; the same one is refused.
    let data = cluster.data_dir().display().to_string();
    let other = cluster.scratch("other-mnt").display().to_string();
    let output = valor(&["up", &other, "--data-dir", &data]);
    assert!(!output.status.success() && said(&output).contains("valor down"), "{}", said(&output));

    let output = Command::new(VALOR)
        .args(["mount", &other, "--profile=fast", "--launcher_config.cluster_id=stranger"])
        .arg(format!(
            "--launcher_config.mgmtd_client.mgmtd_server_addresses=[\"TCP://127.0.0.1:{}\"]",
            ports_of(&plan, "mgmtd")
        ))
        .arg(format!("--dir={}", cluster.scratch("stranger").display()))
        .output()
        .expect("valor mount");
    assert!(!output.status.success(), "a mount of another cluster must fail");
    assert!(said(&output).contains("cluster_id"), "{}", said(&output));

    let mut kept: Vec<TcpStream> = Vec::new();
    for port in &ports {
        let Ok(mut garbage) = TcpStream::connect(("127.0.0.1", *port)) else { continue };
        let _ = garbage.write_all(&[0x55; 4096]);
        garbage.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        let mut byte = [0; 1];
        assert!(matches!(garbage.read(&mut byte), Ok(0) | Err(_)), "garbage is answered by closing");
        // A header that promises 500 MiB, and never sends them.
        let mut half = TcpStream::connect(("127.0.0.1", *port)).expect("connect");
        let _ = half.write_all(&[0x86, 1, 2, 3, 0, 0, 0, 0x1f, 1, 2, 3]);
        kept.push(half);
    }
    raise_file_limit();
    for number in 0..10_000 {
        let port = ports[number % ports.len()];
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            kept.push(stream);
        }
    }
    println!("{} idle connections held", kept.len());
    let path = cluster.mount().join("served");
    for round in 0..20 {
        std::fs::write(&path, format!("round {round}")).expect("write while strangers hold connections");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), format!("round {round}"));
    }
    drop(kept);
    assert_eq!(cluster.processes().len(), 6, "no process died");
    cluster.down();
}

fn ports_of(plan: &str, name: &str) -> u16 {
    let line = plan.lines().find(|line| line.starts_with(&format!("{name} = "))).expect("a line of ports");
    line.split(|c: char| !c.is_ascii_digit()).find_map(|number| number.parse().ok()).expect("a port")
}

fn raise_file_limit() {
    // SAFETY: plain system calls on a local structure.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max.min(65_536);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}

#[test]
fn a_stale_mount_is_cleared_by_the_next_up() {
    let mut cluster = Cluster::start(&[]);
    std::fs::write(cluster.mount().join("f"), "kept").expect("write");
    // Attributes that the kernel has cached must not make the mount look alive.
    assert!(cluster.mount().is_dir());
    cluster.kill_everything();
    assert!(is_mounted(&cluster.mount()), "kill -9 leaves the mount behind");
    // While the daemon is dying requests still reach it, and are aborted.
    wait_until("the mount to be known as dead", || {
        let error = std::fs::read(cluster.mount().join("f")).expect_err("nobody serves it");
        error.raw_os_error() == Some(libc::ENOTCONN)
    });
    cluster.up();
    assert_eq!(std::fs::read_to_string(cluster.mount().join("f")).expect("read"), "kept");
    cluster.down();
    wait_until("the mount to be gone", || !is_mounted(&cluster.mount()));
}
