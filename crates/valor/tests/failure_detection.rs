//! How the cluster notices that a server is gone, and what administrators can do about a chain that stands still.

mod harness;

use harness::chains::{all_serve, chains, versions};
use harness::{Cluster, Signal, kill, signal, wait_until};
use std::time::{Duration, Instant};

/// Waits until every chain has lost a target; returns how long that took from `begin`.
fn until_out(cluster: &Cluster, begin: Instant) -> Duration {
    wait_until("every chain to go on without the dead server", || {
        chains(cluster).iter().all(|chain| chain.status == "DEGRADED")
    });
    begin.elapsed()
}

fn storages(cluster: &Cluster) -> Vec<i32> {
    let mut pids: Vec<i32> =
        cluster.processes().into_iter().filter(|(kind, _)| kind == "storage").map(|(_, pid)| pid).collect();
    pids.sort_unstable();
    pids
}

#[test]
fn a_dead_server_leaves_its_chains_within_seconds() {
    let mut cluster = Cluster::start(&[]);
    wait_until("all chains to serve", || all_serve(&cluster));
    // As a machine that lost its power looks to others: connections stay, and nobody answers.
    let silent = storages(&cluster)[1];
    let begin = Instant::now();
    signal(silent, Signal::STOP);
    println!(
        "silent server out of its chains after {:.1} s (goal: 3 s)",
        until_out(&cluster, begin).as_secs_f64()
    );
    signal(silent, Signal::CONT);
    wait_until("the silent server to be back", || all_serve(&cluster));

    let before = versions(&cluster);
    let begin = Instant::now();
    kill(storages(&cluster)[0]);
    // It is started again at once; its chains go on without it all the same, and then fill it.
    wait_until("the chains to go on without the killed server", || {
        versions(&cluster).iter().zip(&before).all(|(now, before)| now > before)
    });
    println!("killed server out of its chains after {:.1} s (goal: 3 s)", begin.elapsed().as_secs_f64());
    wait_until("the killed server to be back", || all_serve(&cluster));
    cluster.down();
}

#[test]
fn a_server_without_its_manager_ends() {
    let mut cluster = Cluster::start(&[]);
    wait_until("all chains to serve", || all_serve(&cluster));
    let before = storages(&cluster);
    let manager = cluster.processes().into_iter().find(|(kind, _)| kind == "mgmtd").expect("a manager").1;
    let begin = Instant::now();
    signal(manager, Signal::STOP);
    wait_until("storage servers to end", || storages(&cluster).iter().all(|pid| !before.contains(pid)));
    println!("servers ended {:.1} s after their manager fell silent", begin.elapsed().as_secs_f64());
    signal(manager, Signal::CONT);
    wait_until("all chains to serve again", || {
        cluster.try_admin(&["list-nodes"]).is_ok() && all_serve(&cluster)
    });
    cluster.down();
}

#[test]
fn administrators_change_chains() {
    let mut cluster = Cluster::start(&["--storage-nodes", "2", "--replicas", "2"]);
    wait_until("all chains to serve", || all_serve(&cluster));
    let chain = chains(&cluster).remove(0);
    let (id, first) = (chain.id.to_string(), target_of(&chain.targets, 0));
    let second = target_of(&chain.targets, 1);
    let pids = storages(&cluster);
    assert!(cluster.try_admin(&["update-chain", &id, &second, "-m", "remove"]).is_err(), "it serves");

    pids.iter().for_each(|pid| signal(*pid, Signal::STOP));
    wait_until("no chain to serve", || chains(&cluster).iter().all(|chain| chain.status == "UNAVAILABLE"));
    let targets = &chains(&cluster)[0].targets;
    assert!(targets.contains("(Lastsrv"), "{targets}");
    let waited_for = target_of(targets, 0);
    let said = cluster.admin(&["rotate-lastsrv", &id]);
    let other = if waited_for == first { &second } else { &first };
    assert!(said.contains(&format!("{other}(Lastsrv)")), "{said}");

    // The one that was given up may leave the chain and come back to be filled.
    cluster.admin(&["update-chain", &id, &waited_for, "--mode", "remove"]);
    let targets = chains(&cluster)[0].targets.clone();
    assert!(!targets.contains(&waited_for), "{targets}");
    cluster.admin(&["update-chain", &id, &waited_for, "--mode", "add"]);
    pids.iter().for_each(|pid| signal(*pid, Signal::CONT));
    wait_until("all chains to serve again", || all_serve(&cluster));
    cluster.down();
}

/// Target number `nth` in a list like `12(Serving-Uptodate) 13(...)`.
fn target_of(targets: &str, nth: usize) -> String {
    targets.split(' ').nth(nth).and_then(|target| target.split('(').next()).expect("a target").to_owned()
}
