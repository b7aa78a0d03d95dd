//! `plan-chains` on a running cluster: a node is drained by the files it writes, and no byte is lost.

mod harness;

use harness::{Cluster, Random, VALOR, wait_until};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn rows(cluster: &Cluster, command: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(&cluster.admin(&[command, "--json"])).expect("JSON");
    list.as_array().expect("a list").clone()
}

fn run_file(cluster: &Cluster, file: &Path) {
    println!("{}", file.display());
    for line in std::fs::read_to_string(file).expect("commands").lines() {
        // A target may still be in use by a request for a moment, and the manager learns of changes by heartbeats.
        let args: Vec<&str> = line.split(' ').collect();
        let begin = std::time::Instant::now();
        wait_until(line, || cluster.try_admin(&args).is_ok());
        if begin.elapsed().as_secs() > 0 {
            println!("{:.1} s: {line}", begin.elapsed().as_secs_f64());
        }
    }
}

fn all_targets(cluster: &Cluster, check: impl Fn(&Value) -> bool) -> bool {
    rows(cluster, "list-targets").iter().all(check)
}

#[test]
fn a_node_is_drained() {
    let mut random = Random::new("plan_chains");
    let mut cluster = Cluster::start(&["--storage-nodes", "3", "--replicas", "2"]);
    let serving = |target: &Value| {
        target["PublicState"] == "Serving" && target["LocalState"] == "Uptodate" && target["NodeId"].is_u64()
    };
    wait_until("all targets to serve", || all_targets(&cluster, serving));
    let files: Vec<(String, Vec<u8>)> =
        (0..8).map(|n| (format!("file-{n}"), random.bytes(2 << 20))).collect();
    for (name, data) in &files {
        std::fs::write(cluster.mount().join(name), data).expect("write");
    }
    let node = rows(&cluster, "list-targets")[0]["NodeId"].as_u64().expect("node").to_string();
    let output = cluster.scratch("plan");
    let said =
        cluster.admin(&["plan-chains", "--drain-node", &node, "--output", &output.display().to_string()]);
    println!("{said}");
    run_file(&cluster, &output.join("1_create_targets_cmd.txt"));
    run_file(&cluster, &output.join("2_add_to_chains_cmd.txt"));
    wait_until("the new targets to serve", || all_targets(&cluster, serving));
    run_file(&cluster, &output.join("3_take_offline_cmd.txt"));
    wait_until("the old targets to be offline", || {
        all_targets(&cluster, |target| {
            let gone = target["NodeId"].as_u64().map(|id| id.to_string()).as_ref() == Some(&node);
            (target["PublicState"] == "Offline") == gone
        })
    });
    run_file(&cluster, &output.join("4_remove_from_chains_cmd.txt"));
    run_file(&cluster, &output.join("5_remove_targets_cmd.txt"));
    assert!(all_targets(&cluster, |target| target["NodeId"].as_u64().map(|id| id.to_string())
        != Some(node.clone())));
    for (name, data) in &files {
        assert!(std::fs::read(cluster.mount().join(name)).expect("read") == *data, "{name}");
    }
    cluster.down();
}

#[test]
fn plans_for_new_nodes_need_no_cluster() {
    let dir = tempfile::tempdir().expect("directory");
    let output = Command::new(VALOR)
        .args([
            "admin",
            "plan-chains",
            "--nodes",
            "10001-10007",
            "--disks",
            "2",
            "--targets-per-disk",
            "3",
            "--output",
        ])
        .arg(dir.path())
        .output()
        .expect("valor admin");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("14 chains of 3 replicas") && said.contains("reached"), "{said}");
    let chains = std::fs::read_to_string(dir.path().join("generated_chains.csv")).expect("chains");
    assert!(chains.starts_with("ChainId,TargetId,TargetId,TargetId\n900100001,"), "{chains}");
    assert_eq!(chains.lines().count(), 15);
    let create = std::fs::read_to_string(dir.path().join("create_target_cmd.txt")).expect("targets");
    assert_eq!(create.lines().count(), 42);
    let table = std::fs::read_to_string(dir.path().join("generated_chain_table.csv")).expect("table");
    assert!(table.starts_with("ChainId\n900100001\n"));
}
