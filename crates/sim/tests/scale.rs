//! The manager in a cluster that is large for a test: what `valor-sim scale` measures works.

use std::time::Duration;

use valor_sim::scale::{Scale, run};

#[test]
fn servers_fail_and_return_and_all_chains_serve_again() {
    let scale = Scale {
        nodes: 30,
        chains: 600,
        replicas: 3,
        time: Duration::from_secs(120),
        fast: false,
        failures: Duration::from_secs(20),
        seed: 1,
    };
    let report = run(scale).expect("all chains serve at the end");
    assert!(report.failures > 0 && report.versions > 0, "{report}");
    assert!(report.share() < 1.0, "{report}");
}

#[test]
fn impossible_clusters_are_refused() {
    let scale = Scale {
        nodes: 2,
        chains: 1,
        replicas: 3,
        time: Duration::from_secs(1),
        fast: true,
        failures: Duration::from_secs(1),
        seed: 1,
    };
    assert!(run(scale).is_err());
}
