//! Real processes on several "hosts" (network namespaces joined by a bridge) under faults: kill -9, SIGSTOP,
//! partitions, one-way partitions, loss, delay, a cable pulled out, a disk that fails. Writers with checksums and fsync work through two mounts all
//! the time; none may see an error, and in the end everything acknowledged is there, through the other mount too.
//!
//! Needs root, `ip`, `nft` and `nsenter`. `VALOR_SEED` repeats the choice of faults.

mod harness;
#[path = "real_faults/hosts.rs"]
mod hosts;
#[path = "real_faults/slow.rs"]
mod slow;
#[path = "real_faults/writers.rs"]
mod writers;

use harness::{Random, Signal, signal};
use hosts::{Fault, World};
use std::io::Write;
use std::time::{Duration, Instant};
use writers::Writer;

/// A whole set of faults is always finished; then no other one begins after this.
const DURATION: Duration = Duration::from_secs(120);
/// Updates of each writer that must succeed after each fault.
const PROGRESS: u64 = 3;

/// What is done to the cluster.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    KillStorage,
    KillTwoStorages,
    StopStorage,
    PartitionStorage,
    DeafStorage,
    MuteStorage,
    Loss,
    CableOut,
    StoragesApart,
    KillMeta,
    KillManager,
    StopManager,
    PartitionManager,
    PartitionClient,
    Slow,
    DiskFails,
}

const ALL: [Trouble; 16] = [
    Trouble::KillStorage,
    Trouble::PartitionStorage,
    Trouble::StopStorage,
    Trouble::KillManager,
    Trouble::MuteStorage,
    Trouble::Loss,
    Trouble::DiskFails,
    Trouble::KillTwoStorages,
    Trouble::Slow,
    Trouble::CableOut,
    Trouble::KillMeta,
    Trouble::DeafStorage,
    Trouble::StoragesApart,
    Trouble::StopManager,
    Trouble::PartitionClient,
    Trouble::PartitionManager,
];

#[test]
fn acknowledged_bytes_survive_real_faults() {
    let mut random = Random::new("real_faults");
    let Some(mut world) = World::start() else {
        println!(
            "real_faults: SKIPPED, network namespaces cannot be made here (root, iproute2 and nftables needed)"
        );
        return;
    };
    let mounts = world.mounts();
    let writers: Vec<Writer> =
        (0..4_u64).map(|n| Writer::start(&mounts[n as usize % 2], n, random.next())).collect();
    let begin = Instant::now();
    let mut longest = (Duration::ZERO, "none");
    let mut round = 0;
    while round < ALL.len() || begin.elapsed() < DURATION {
        let trouble = ALL[round % ALL.len()];
        round += 1;
        // Mostly a whole cluster is hit, sometimes one that still recovers.
        if round % 4 != 0 {
            world.wait_until("all chains to serve with all replicas", World::is_whole);
        }
        let stall = live_through(&mut world, trouble, &writers, &mut random);
        progress(&format!(
            "{:6.1} s  {}: longest stall {:.1} s",
            begin.elapsed().as_secs_f64(),
            stall.1,
            stall.0.as_secs_f64()
        ));
        if stall.0 > longest.0 {
            longest = stall;
        }
    }
    world.wait_until("all chains to serve with all replicas", World::is_whole);
    progress(&format!(
        "{round} faults in {:.0} s, longest stall {:.1} s at {}",
        begin.elapsed().as_secs_f64(),
        longest.0.as_secs_f64(),
        longest.1
    ));
    let count: u64 = writers.iter().map(Writer::acknowledged).sum();
    let known: Vec<_> = writers.into_iter().map(Writer::stop).collect();
    for (number, known) in known.iter().enumerate() {
        known.check(&mounts[number % 2]);
        known.check(&mounts[(number + 1) % 2]);
    }
    println!("{count} acknowledged updates are there, through both mounts");
    world.stop();
}

/// Tells how far the test is, at once and also where the output of tests that pass is not shown.
fn progress(text: &str) {
    let _ = writeln!(std::io::stderr(), "real_faults: {text}");
}

/// A process of its own for each writer.
#[test]
fn writer_process() {
    writers::work_if_asked();
}

/// The proxy of a slow network, on the host of a server.
#[test]
fn proxy_process() {
    slow::proxy_if_asked();
}

/// Makes trouble, ends it after a while, and waits until every writer goes on. Returns the longest stall of a writer.
fn live_through(
    world: &mut World,
    trouble: Trouble,
    writers: &[Writer],
    random: &mut Random,
) -> (Duration, &'static str) {
    writers.iter().for_each(Writer::forget_stall);
    let storage = format!("s{}", 1 + random.below(3));
    let other = format!("s{}", 1 + (storage.as_bytes()[1] - b'0') % 3);
    let client = format!("c{}", 1 + random.below(2));
    let length = Duration::from_millis(2500 + random.below(2500));
    let name = match trouble {
        Trouble::KillStorage => {
            world.kill(&storage);
            "KillStorage"
        }
        Trouble::KillTwoStorages => {
            world.kill(&storage);
            world.kill(&other);
            "KillTwoStorages"
        }
        Trouble::StopStorage => {
            world.signal(&storage, Signal::STOP);
            world.pass(length);
            world.signal(&storage, Signal::CONT);
            "StopStorage"
        }
        Trouble::PartitionStorage => {
            world.during(&storage, Fault::Both, length);
            "PartitionStorage"
        }
        Trouble::DeafStorage => {
            world.during(&storage, Fault::In, length);
            "DeafStorage"
        }
        Trouble::MuteStorage => {
            world.during(&storage, Fault::Out, length);
            "MuteStorage"
        }
        Trouble::Loss => {
            world.during(&storage, Fault::Loss(20), length);
            "Loss"
        }
        Trouble::Slow => world.slow_down(&storage, length),
        Trouble::DiskFails => world.fail_disk(length),
        Trouble::StoragesApart => {
            world.during(&storage, Fault::From(world.address(&other)), length);
            "StoragesApart"
        }
        Trouble::CableOut => {
            world.cable(&storage, false);
            world.pass(length);
            world.cable(&storage, true);
            "CableOut"
        }
        Trouble::KillMeta => {
            world.kill("meta");
            "KillMeta"
        }
        Trouble::KillManager => {
            world.kill("mgmtd");
            "KillManager"
        }
        Trouble::StopManager => {
            world.signal("mgmtd", Signal::STOP);
            world.pass(length);
            world.signal("mgmtd", Signal::CONT);
            "StopManager"
        }
        Trouble::PartitionManager => {
            world.during("mgmtd", Fault::Both, length);
            "PartitionManager"
        }
        Trouble::PartitionClient => {
            world.during(&client, Fault::Both, length);
            "PartitionClient"
        }
    };
    let before: Vec<u64> = writers.iter().map(Writer::acknowledged).collect();
    world.wait_until("every writer to go on", |_| {
        writers.iter().zip(&before).all(|(writer, before)| writer.acknowledged() >= before + PROGRESS)
    });
    let stall = writers.iter().map(Writer::longest_stall).max().unwrap_or_default();
    (stall, name)
}

/// Used by `hosts` to signal its children.
fn send(pid: u32, what: Signal) {
    signal(pid.cast_signed(), what);
}
