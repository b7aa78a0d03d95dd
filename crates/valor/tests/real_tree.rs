//! The main job: a real tree of thousands of files goes in, every process is killed, and all of it is there again.

mod harness;

use harness::{Cluster, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// C++ 3FS takes over two minutes; the promise here is ten seconds.
const RESUME_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn real_tree_survives_kill_of_every_process() {
    let mut cluster = Cluster::start(&[]);
    let sources = [toolchain(), registry()];
    let mut copies = Vec::new();
    for source in &sources {
        let copy = cluster.mount().join(source.file_name().expect("a name"));
        run("cp", &["-a", text(source), text(&copy)]);
        run("diff", &["-r", "--no-dereference", text(source), text(&copy)]);
        copies.push(copy);
    }
    cluster.kill_everything();
    let took = cluster.up();
    assert!(took < RESUME_LIMIT, "resuming took {took:?}");
    for (source, copy) in sources.iter().zip(&copies) {
        run("diff", &["-r", "--no-dereference", text(source), text(copy)]);
        assert_eq!(listing(source), listing(copy), "modes, sizes, times and link targets");
    }
    cluster.down();
    assert!(!harness::is_mounted(&cluster.mount()));
    cluster.up();
    run("diff", &["-r", "--no-dereference", text(&sources[1]), text(&copies[1])]);
    cluster.down();
}

/// Every entry with mode, size, whole-second modification time and link target.
fn listing(root: &Path) -> Vec<String> {
    let rules =
        ["(", "-type", "d", "-printf", "%P %m %y %Ts\n", ")", "-o", "-printf", "%P %m %y %Ts %s %l\n"];
    let text = run("find", &[&[text(root)], &rules[..]].concat());
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    lines.sort();
    lines
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8 path")
}

fn toolchain() -> PathBuf {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc");
    PathBuf::from(String::from_utf8(output.stdout).expect("text").trim()).join("lib")
}

fn registry() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    home.expect("CARGO_HOME or HOME").join("registry/src")
}
