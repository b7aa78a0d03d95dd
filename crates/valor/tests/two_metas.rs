//! Two metadata servers: either may be killed or stand still under a workload on names. Every operation that was
//! acknowledged is there, and each was applied once: an exclusive creation that was repeated does not find its own
//! file, a repeated unlink or rename does not miss what it took away.

mod harness;

use harness::names::{Names, Worker, check};
use harness::{Cluster, Random, Signal, kill, signal, wait_until};
use std::path::PathBuf;

const WORKERS: u64 = 4;
const ROUNDS: usize = 6;

#[test]
fn either_server_may_be_killed_or_stand_still() {
    let mut random = Random::new("two_metas");
    let mut cluster = Cluster::start(&["--meta-nodes", "2"]);
    let workers: Vec<Worker> =
        (0..WORKERS).map(|number| Worker::start(&cluster.mount(), number, random.next())).collect();
    let go_on = |what: &str| {
        let before: Vec<u64> = workers.iter().map(Worker::done).collect();
        wait_until(what, || workers.iter().zip(&before).all(|(worker, before)| worker.done() > before + 20));
    };
    go_on("every worker to begin");
    for round in 0..ROUNDS {
        let name = ["meta-1", "meta-2"][round % 2];
        let pid = cluster.pid_of(name).expect("it runs");
        kill(pid);
        go_on("every worker to go on after the kill");
        wait_until("the killed server to be replaced", || cluster.pid_of(name).is_some_and(|now| now != pid));
    }
    for name in ["meta-1", "meta-2"] {
        let pid = cluster.pid_of(name).expect("it runs");
        signal(pid, Signal::STOP);
        go_on("every worker to go on without the server that stands still");
        signal(pid, Signal::CONT);
        go_on("every worker to go on with both");
    }
    let kept: Vec<(PathBuf, Names)> = workers.into_iter().map(Worker::stop).collect();
    kept.iter().for_each(|(directory, names)| check(directory, names));
    // And from the store alone, with nothing remembered by the mount.
    cluster.down();
    cluster.up();
    kept.iter().for_each(|(directory, names)| check(directory, names));
    cluster.down();
}
