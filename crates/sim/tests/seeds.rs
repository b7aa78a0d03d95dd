//! Fixed seeds, in processes of their own as always: what a run does must depend on its seed alone.

use std::process::Command;

/// Runs a seed for a short time.
fn run(seed: u64) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_valor-sim"))
        .args(["run", &seed.to_string(), "--short"])
        .output()
        .expect("the simulator starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    (output.status.success(), format!("{text}{errors}"))
}

/// The part of the report that does not depend on the machine.
fn digest(report: &str) -> Vec<&str> {
    report.split_whitespace().skip_while(|word| *word != "hash").take(4).collect()
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (first, second) = (run(1).1, run(1).1);
    assert_eq!(digest(&first).len(), 4, "{first}");
    assert_eq!(digest(&first), digest(&second));
    assert_ne!(digest(&first), digest(&run(2).1), "another seed gives another run");
    // One with several managers and metadata servers.
    assert_eq!(digest(&run(4).1), digest(&run(4).1));
}

#[test]
fn fixed_seeds_hold() {
    for seed in 3..8 {
        let (good, report) = run(seed);
        assert!(good, "{report}");
    }
}
