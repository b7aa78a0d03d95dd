//! What an operator can watch (`src/mgmtd/background/MgmtdMetricsUpdater.cc`).

use super::next_round;
use crate::Mgmtd;
use crate::data::Data;
use std::collections::BTreeMap;
use std::sync::Arc;
use valor_env::metrics as names;
use valor_protocol::mgmtd::{ChainInfo, LocalTargetState, NodeStatus, NodeType, PublicTargetState};

pub(super) async fn run(mgmtd: Arc<Mgmtd>) {
    while next_round(&mgmtd, |config| config.update_metrics_interval).await {
        let primary = mgmtd.is_primary();
        metrics::gauge!(names::MGMTD_IS_PRIMARY).set(if primary { 1.0 } else { 0.0 });
        // Zeros and not stale numbers of a former primary.
        let data = mgmtd.data().read();
        set(if primary { Some(&*data) } else { None });
    }
}

const NODE_STATUS: [(NodeStatus, &str); 5] = [
    (NodeStatus::PrimaryMgmtd, "PRIMARY_MGMTD"),
    (NodeStatus::HeartbeatConnected, "HEARTBEAT_CONNECTED"),
    (NodeStatus::HeartbeatConnecting, "HEARTBEAT_CONNECTING"),
    (NodeStatus::HeartbeatFailed, "HEARTBEAT_FAILED"),
    (NodeStatus::Disabled, "DISABLED"),
];

const CHAIN_STATUS: [&str; 3] = ["SERVING-FULL", "SERVING-PARTIAL", "UNAVAILABLE"];

const PUBLIC: [(PublicTargetState, &str); 5] = [
    (PublicTargetState::Serving, "SERVING"),
    (PublicTargetState::Lastsrv, "LASTSRV"),
    (PublicTargetState::Syncing, "SYNCING"),
    (PublicTargetState::Waiting, "WAITING"),
    (PublicTargetState::Offline, "OFFLINE"),
];

const LOCAL: [(LocalTargetState, &str); 3] = [
    (LocalTargetState::Uptodate, "UPTODATE"),
    (LocalTargetState::Online, "ONLINE"),
    (LocalTargetState::Offline, "OFFLINE"),
];

fn set(data: Option<&Data>) {
    set_nodes(data);
    set_chains(data);
    set_targets(data);
    let number = |count: &dyn Fn(&Data) -> usize| data.map_or(0, count) as f64;
    metrics::gauge!(names::MGMTD_CLIENT_SESSIONS).set(number(&|data| data.sessions.iter().count()));
    metrics::gauge!(names::MGMTD_ORPHAN_TARGETS).set(number(&|data| data.routing.orphans().count()));
    metrics::gauge!(names::MGMTD_NEWBORN_CHAINS).set(number(&|data| data.routing.newborn_count()));
    if let Some(data) = data {
        metrics::gauge!(names::MGMTD_ROUTING_VERSION).set(data.routing.version().0 as f64);
        for node_type in NodeType::ALL {
            let version = data.configs.latest_version(node_type).0 as f64;
            metrics::gauge!(names::MGMTD_CONFIG_VERSION, "type" => node_type.name()).set(version);
        }
    }
}

fn count<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, u64> {
    let mut counts = BTreeMap::new();
    keys.for_each(|key| *counts.entry(key).or_default() += 1);
    counts
}

fn set_nodes(data: Option<&Data>) {
    let nodes = data.into_iter().flat_map(|data| data.routing.nodes().values());
    let counts = count(nodes.map(|node| (node.info.r#type, node.info.status)));
    for node_type in [NodeType::Mgmtd, NodeType::Meta, NodeType::Storage] {
        for (status, name) in NODE_STATUS {
            let nodes = counts.get(&(node_type, status)).copied().unwrap_or(0) as f64;
            metrics::gauge!(names::MGMTD_NODES, "type" => node_type.name(), "status" => name).set(nodes);
        }
    }
}

fn chain_status(chain: &ChainInfo) -> &'static str {
    let serving = |state: PublicTargetState| state == PublicTargetState::Serving;
    match chain.targets.iter().filter(|target| serving(target.public_state)).count() {
        0 => "UNAVAILABLE",
        n if n == chain.targets.len() => "SERVING-FULL",
        _ => "SERVING-PARTIAL",
    }
}

fn set_chains(data: Option<&Data>) {
    let chains = data.into_iter().flat_map(|data| data.routing.chains().values());
    let counts = count(chains.map(chain_status));
    for status in CHAIN_STATUS {
        let chains = counts.get(status).copied().unwrap_or(0) as f64;
        metrics::gauge!(names::MGMTD_CHAINS, "status" => status).set(chains);
    }
}

fn set_targets(data: Option<&Data>) {
    let targets = data.into_iter().flat_map(|data| data.routing.targets());
    let counts = count(targets.map(|target| (target.public_state, target.local_state)));
    for (public, public_name) in PUBLIC {
        for (local, local_name) in LOCAL {
            let targets = counts.get(&(public, local)).copied().unwrap_or(0) as f64;
            let labels = [("public", public_name), ("local", local_name)];
            metrics::gauge!(names::MGMTD_TARGETS, &labels).set(targets);
        }
    }
}
