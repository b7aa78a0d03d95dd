//! Some rows on one server of each library, end to end.

use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Runs one short round: the directory with its `results`, and what it said. Nothing where FUSE cannot be used.
fn run(args: &[&str]) -> Option<(TempDir, String)> {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: needs root and /dev/fuse");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xfuse-bench"))
        .args(["--quick", "--rounds", "1"])
        .args(args)
        .arg("--dir")
        .arg(dir.path().join("run"))
        .arg("--results")
        .arg(dir.path().join("results"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    Some((dir, said))
}

#[test]
fn every_library_serves() {
    let servers = "xfuse-1,fuser-1,fbrs-1,libfuse-s";
    let Some((dir, _)) = run(&["--files", "80", "--rows", "x1", "--servers", servers]) else { return };
    let read = |name: &str| std::fs::read(dir.path().join("results").join(name)).unwrap();
    let results: serde_json::Value = serde_json::from_slice(&read("results.json")).unwrap();
    let rows = results["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 13);
    // Its program may not be built: then it is reported as failed, which is checked just so.
    let libfuse = Command::new("pkg-config").args(["--exists", "fuse3"]).status().is_ok_and(|s| s.success());
    for row in rows {
        for (server, present) in
            [("xfuse-1", true), ("fuser-1", true), ("fbrs-1", true), ("libfuse-s", libfuse)]
        {
            let cell = &row["servers"][server];
            let (samples, errors) = (cell["samples"].as_array().unwrap(), cell["errors"].as_array().unwrap());
            assert_eq!((samples.len(), errors.len()), (usize::from(present), usize::from(!present)), "{row}");
        }
    }
    assert!(read("plot.png").starts_with(b"\x89PNG"));
    assert!(String::from_utf8_lossy(&read("table.md")).contains("## Goals"));
}

#[test]
fn the_floor_is_measured_and_is_no_peer() {
    let Some((dir, said)) = run(&["--rows", "B1 same CPU", "--servers", "bare,xfuse-1"]) else { return };
    let table = std::fs::read_to_string(dir.path().join("results/table.md")).unwrap();
    let floor = table.split("## The floor").nth(1).unwrap_or_else(|| panic!("{said}\n{table}"));
    for op in ["pread 4 KiB", "fstat", "pwrite 4 KiB"] {
        assert!(floor.contains(&format!("| B1 same CPU: {op} | ")), "{table}");
    }
    assert!(!table.contains("(bare)") && !table.contains("## Failures"), "{said}\n{table}");
}
