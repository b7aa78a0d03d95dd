//! Model test of chain replication: three replicas, clients and a cluster manager in one thread, driven by random
//! schedules with lost, repeated and reordered messages, crashes and restarts. Checked after every event:
//!
//! * replicas that commit the same version of a chunk commit the same content, made by one update from the version before;
//! * a read returns a committed version, never older than what was acknowledged or read before;
//! * replicas never diverge (the resync comparison finds nothing fatal);
//!
//! and at the end, when faults stop: everything finishes, all replicas serve and are equal, and hold what was acknowledged.
//!
//! `VALOR_MODEL_SEED=n` runs one schedule, `VALOR_MODEL_RUNS=n` more of them;
//! both together run that many from that seed on.

mod chain;
mod node;
mod store;
mod world;

use world::{Faults, World};

fn run(name: &str, faults: Faults, runs: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("VALOR_MODEL_SEED") {
        Some(seed) => seed..seed + number("VALOR_MODEL_RUNS").unwrap_or(1),
        None => 0..number("VALOR_MODEL_RUNS").unwrap_or(runs),
    };
    let (mut acknowledged, mut reads) = (0, 0);
    for seed in seeds {
        let schedule = std::panic::catch_unwind(|| {
            let mut world = World::new(seed, faults);
            world.run();
            (world.acknowledged, world.reads)
        });
        match schedule {
            Ok((a, r)) => (acknowledged, reads) = (acknowledged + a, reads + r),
            Err(panic) => {
                eprintln!("{name}: schedule {seed} failed");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(acknowledged > 0 && reads > 0, "{name}: nothing happened");
    eprintln!("{name}: {acknowledged} writes acknowledged, {reads} reads");
}

#[test]
fn calm_network() {
    run("calm", Faults { drop: 0, duplicate: 0, crash: 0, removals: false, full: false }, 100);
}

#[test]
fn unreliable_network_applies_every_update_once() {
    run("network", Faults { drop: 10, duplicate: 10, crash: 0, removals: false, full: false }, 400);
}

#[test]
fn crashes_and_restarts() {
    run("crashes", Faults { drop: 5, duplicate: 5, crash: 4, removals: false, full: false }, 800);
}

#[test]
fn full_disks() {
    run("full", Faults { drop: 5, duplicate: 5, crash: 2, removals: false, full: true }, 400);
}

#[test]
fn removals() {
    run("removals", Faults { drop: 5, duplicate: 5, crash: 4, removals: true, full: false }, 400);
}
