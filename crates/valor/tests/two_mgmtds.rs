//! Three managers and two metadata servers on one store. The primary, another manager, a metadata server, a storage
//! server without anybody to notice, and the store itself are killed or stand still, one after the other, under
//! writers and work on names. The work goes on each time, nothing acknowledged is lost, every operation is applied
//! once, and at no time two managers act as primary.

mod harness;
mod two_mgmtds {
    pub mod watch;
}

use harness::chains::{all_serve, try_chains, versions};
use harness::names::{Names, Worker, check};
use harness::writers::Writer;
use harness::{Cluster, Random, Signal, kill, signal, wait_until};
use std::path::PathBuf;
use std::time::Instant;
use two_mgmtds::watch::Watch;

#[test]
fn whoever_fails_the_others_go_on_under_one_primary() {
    let mut random = Random::new("two_mgmtds");
    let mut cluster = Cluster::start(&["--mgmtd-nodes", "3", "--meta-nodes", "2"]);
    let watch = Watch::start(&cluster);
    let work = Work::start(&cluster, &mut random);
    wait_until("a primary", || watch.primary().is_some());
    let first = watch.primary().expect("a primary");

    for name in [first.as_str(), "meta-1", "kv", "kv"] {
        let pid = cluster.pid_of(name).expect("it runs");
        kill(pid);
        work.goes_on(&format!("{name} was killed"));
        wait_until("it to be replaced", || cluster.pid_of(name).is_some_and(|now| now != pid));
    }

    let (old, pid) = stop_primary(&cluster, &watch, || {});
    work.goes_on(&format!("{old} stands still"));
    continue_former(&watch, &old, pid);

    wait_until("every chain to be whole", || all_serve(&cluster));
    let before = versions(&cluster);
    let storage = cluster.pid_of("storage-2").expect("it runs");
    let (old, pid) = stop_primary(&cluster, &watch, || kill(storage));
    wait_until("the new primary to change every chain", || {
        try_chains(&cluster)
            .is_ok_and(|now| now.iter().zip(&before).all(|(now, before)| now.version > *before))
    });
    work.goes_on(&format!("{old} stands still and storage-2 was killed"));
    continue_former(&watch, &old, pid);
    wait_until("every chain to be whole again", || all_serve(&cluster));

    let store = cluster.pid_of("kv").expect("it runs");
    let begin = Instant::now();
    signal(store, Signal::STOP);
    wait_until("nobody to act without the store", || watch.all_refuse_since(begin));
    signal(store, Signal::CONT);
    work.goes_on("the store stood still");

    work.stop(&mut cluster);
    let changes = watch.stop();
    assert!(changes >= 2, "{changes} changes of the primary");
}

/// Lets the primary stand still until another one acts. Its name and process.
fn stop_primary(cluster: &Cluster, watch: &Watch, meanwhile: impl FnOnce()) -> (String, i32) {
    let old = watch.primary().expect("a primary");
    let pid = cluster.pid_of(&old).expect("it runs");
    let begin = Instant::now();
    signal(pid, Signal::STOP);
    meanwhile();
    wait_until("another primary", || watch.primary().is_some_and(|name| name != old));
    println!("another primary {:.1} s after {old} fell silent", begin.elapsed().as_secs_f64());
    (old, pid)
}

/// Lets a former primary go on: it refuses what it is asked.
fn continue_former(watch: &Watch, old: &str, pid: i32) {
    let begin = Instant::now();
    signal(pid, Signal::CONT);
    wait_until("the former primary to refuse", || watch.refuses_since(old, begin));
}

/// Everything that goes on meanwhile.
struct Work {
    writers: Vec<Writer>,
    workers: Vec<Worker>,
}

impl Work {
    fn start(cluster: &Cluster, random: &mut Random) -> Self {
        let mount = cluster.mount();
        let work = Self {
            writers: (0..2).map(|number| Writer::start(&mount, number, random.next())).collect(),
            workers: (0..3).map(|number| Worker::start(&mount, number, random.next())).collect(),
        };
        work.goes_on("it began");
        work
    }

    /// Waits until every writer and worker has done more.
    fn goes_on(&self, since: &str) {
        let begin = Instant::now();
        let written: Vec<u64> = self.writers.iter().map(Writer::acknowledged).collect();
        let done: Vec<u64> = self.workers.iter().map(Worker::done).collect();
        wait_until(&format!("all work to go on since {since}"), || {
            self.writers.iter().zip(&written).all(|(writer, before)| writer.acknowledged() > before + 5)
                && self.workers.iter().zip(&done).all(|(worker, before)| worker.done() > before + 20)
        });
        println!("work goes on {:.1} s after {since}", begin.elapsed().as_secs_f64());
    }

    /// Compares everything, also after a restart of the whole cluster, and stops that.
    fn stop(self, cluster: &mut Cluster) {
        self.writers.into_iter().for_each(Writer::stop_and_check);
        let kept: Vec<(PathBuf, Names)> = self.workers.into_iter().map(Worker::stop).collect();
        kept.iter().for_each(|(directory, names)| check(directory, names));
        cluster.down();
        cluster.up();
        kept.iter().for_each(|(directory, names)| check(directory, names));
        cluster.down();
    }
}
