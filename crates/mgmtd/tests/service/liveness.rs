//! Servers that come and go, and what becomes of nodes, chains and clients.

use crate::cluster::*;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use valor_mgmtd::Config;
use valor_protocol::mgmtd::*;
use valor_protocol::{NodeId, TargetId};
use {LocalTargetState as Local, PublicTargetState as Public};

/// Lets servers live for a while: each sends a heartbeat every half second and then learns the routing information.
async fn live(manager: &Manager, nodes: &mut [&mut Node], how_long: Duration) {
    let start = Instant::now();
    while start.elapsed() < how_long {
        for node in nodes.iter_mut() {
            node.beat(manager).await.unwrap();
            node.learn(&manager.routing().await);
        }
        sleep(millis(500)).await;
    }
}

fn serving(chain: &ChainInfo) -> usize {
    chain.targets.iter().filter(|t| t.public_state == Public::Serving).count()
}

#[tokio::test(start_paused = true)]
async fn a_replica_goes_and_comes_back() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    let mut nodes = [10, 20, 30].map(|id| Node::storage(&cluster, id, &[u64::from(id) * 10]));
    manager.set_chains(&[(7, &[100, 200, 300])]).await.unwrap();
    let [a, b, c] = &mut nodes;
    live(&manager, &mut [a, b, c], seconds(5)).await;
    assert_eq!(manager.states(7).await, "100:Serving 200:Serving 300:Serving");
    assert_eq!(manager.chain(7).await.chain_version.0, 1, "nothing had to change");
    assert_eq!(manager.routing().await.targets[&TargetId(200)].node_id, Some(NodeId(20)));

    live(&manager, &mut [b, c], seconds(5)).await;
    assert_eq!(manager.states(7).await, "200:Serving 300:Serving 100:Offline");
    assert_eq!(manager.node_status(10).await, NodeStatus::HeartbeatFailed);

    a.restart();
    a.beat(&manager).await.unwrap();
    b.beat(&manager).await.unwrap();
    c.beat(&manager).await.unwrap();
    sleep(millis(300)).await;
    assert_eq!(manager.states(7).await, "200:Serving 300:Serving 100:Syncing");
    assert_eq!(manager.node_status(10).await, NodeStatus::HeartbeatConnected);
    live(&manager, &mut [a, b, c], seconds(2)).await;
    assert_eq!(manager.states(7).await, "200:Serving 300:Serving 100:Serving");
}

#[tokio::test(start_paused = true)]
async fn default_timings_are_those_of_3fs() {
    let cluster = Cluster::new();
    let manager = cluster.primary().await;
    let mut a = Node::storage(&cluster, 10, &[100]);
    let mut b = Node::storage(&cluster, 20, &[200]);
    manager.set_chains(&[(7, &[100, 200])]).await.unwrap();
    a.beat(&manager).await.unwrap();
    let start = Instant::now();
    // The second never reports: its chain waits 2 minutes for it.
    let mut changed = None;
    while changed.is_none() {
        a.beat(&manager).await.unwrap();
        a.learn(&manager.routing().await);
        sleep(seconds(5)).await;
        if manager.chain(7).await.chain_version.0 > 1 {
            changed = Some(start.elapsed());
        }
    }
    let after = changed.unwrap();
    assert!(after >= seconds(120) && after <= seconds(136), "{after:?}");
    assert_eq!(manager.states(7).await, "100:Serving 200:Offline");
    b.beat(&manager).await.unwrap();
    until_async(async || manager.states(7).await == "100:Serving 200:Syncing").await;
    // Silence for a minute fails a node; checks are 10 s apart.
    let silent = Instant::now();
    until_async(async || manager.node_status(20).await == NodeStatus::HeartbeatFailed).await;
    let after = silent.elapsed();
    assert!(after > seconds(59) && after < seconds(71), "{after:?}");
}

/// Everything is killed and started again: chains must be as they were, seconds later.
async fn restart_everything(cluster: &Cluster, manager: Manager, nodes: &mut [Node]) -> Manager {
    manager.kill().await;
    nodes.iter_mut().for_each(Node::restart);
    sleep(seconds(3)).await;
    cluster.fast().await
}

#[tokio::test(start_paused = true)]
async fn a_whole_cluster_is_back_within_seconds() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    let mut nodes =
        [10, 20].map(|id| Node::storage(&cluster, id, &[u64::from(id) * 10, u64::from(id) * 10 + 1]));
    manager.set_chains(&[(7, &[100, 200]), (8, &[201, 101])]).await.unwrap();
    let [a, b] = &mut nodes;
    live(&manager, &mut [a, b], seconds(5)).await;
    let before = manager.routing().await;

    let killed = Instant::now();
    let manager = restart_everything(&cluster, manager, &mut nodes).await;
    let newborn = manager.routing().await;
    assert_eq!(newborn.chains, before.chains, "nothing is known yet, and nothing is changed");
    assert!(newborn.bootstrapping);
    assert!(newborn.targets.values().all(|t| t.local_state == Local::Offline));
    assert_eq!(newborn.targets[&TargetId(201)].node_id, Some(NodeId(20)), "places are stored");

    let [a, b] = &mut nodes;
    a.beat(&manager).await.unwrap();
    sleep(millis(400)).await;
    assert_eq!(manager.routing().await.chains, before.chains, "the other one still has time");
    b.beat(&manager).await.unwrap();
    sleep(millis(200)).await;
    let after = manager.routing().await;
    assert_eq!(after.chains, before.chains, "both were there in time");
    assert!(after.targets.values().all(|t| t.local_state == Local::Online));
    assert!(killed.elapsed() < seconds(5), "{:?}", killed.elapsed());
    live(&manager, &mut [a, b], seconds(5)).await;
    assert_eq!(manager.routing().await.chains, before.chains);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_come_back_is_waited_for_a_short_while() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    let mut nodes = [10, 20].map(|id| Node::storage(&cluster, id, &[u64::from(id) * 10]));
    manager.set_chains(&[(7, &[100, 200])]).await.unwrap();
    let [a, b] = &mut nodes;
    live(&manager, &mut [a, b], seconds(3)).await;
    let manager = restart_everything(&cluster, manager, &mut nodes).await;
    let started = Instant::now();
    let [_, b] = &mut nodes;
    while manager.chain(7).await.chain_version.0 == 1 {
        live(&manager, &mut [b], millis(100)).await;
    }
    assert_eq!(manager.states(7).await, "200:Serving 100:Offline");
    let waited = started.elapsed();
    assert!(waited > seconds(1) && waited < seconds(3), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_to_be_out_is_not_waited_for() {
    let cluster = Cluster::new();
    let slow =
        Config { new_chain_bootstrap_interval: valor_config::Duration::from_secs(600), ..Config::fast() };
    let manager = cluster.fast().await;
    let mut nodes = [10, 20].map(|id| Node::storage(&cluster, id, &[u64::from(id) * 10]));
    manager.set_chains(&[(7, &[100, 200])]).await.unwrap();
    let [a, b] = &mut nodes;
    live(&manager, &mut [a, b], seconds(3)).await;
    live(&manager, &mut [a], seconds(5)).await;
    assert_eq!(manager.states(7).await, "100:Serving 200:Offline");

    // The last one goes, too; then everything is started again, with a delay that must not matter.
    sleep(seconds(5)).await;
    assert_eq!(manager.states(7).await, "100:Lastsrv 200:Offline");
    manager.kill().await;
    nodes.iter_mut().for_each(Node::restart);
    let manager = cluster.start(1, slow.clone()).await;
    until(|| manager.mgmtd.is_primary()).await;
    let [a, _] = &mut nodes;
    a.beat(&manager).await.unwrap();
    sleep(millis(300)).await;
    assert_eq!(manager.states(7).await, "100:Serving 200:Offline");

    // While 100 is expected, nothing happens however long it takes.
    manager.kill().await;
    nodes.iter_mut().for_each(Node::restart);
    let manager = cluster.start(1, slow).await;
    until(|| manager.mgmtd.is_primary()).await;
    let [_, b] = &mut nodes;
    live(&manager, &mut [b], seconds(300)).await;
    assert_eq!(manager.states(7).await, "100:Serving 200:Offline");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_missed_writes_never_serves_before_the_last_one_is_back() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    let mut nodes = [10, 20].map(|id| Node::storage(&cluster, id, &[u64::from(id) * 10]));
    manager.set_chains(&[(7, &[100, 200])]).await.unwrap();
    let [a, b] = &mut nodes;
    live(&manager, &mut [a, b], seconds(3)).await;
    // 200 leaves, 100 takes writes alone and leaves.
    live(&manager, &mut [a], seconds(4)).await;
    sleep(seconds(4)).await;
    assert_eq!(manager.states(7).await, "100:Lastsrv 200:Offline");
    let mut manager = manager;
    for _ in 0..3 {
        manager = restart_everything(&cluster, manager, &mut nodes).await;
        let [_, b] = &mut nodes;
        live(&manager, &mut [b], seconds(10)).await;
        assert_eq!(manager.states(7).await, "100:Lastsrv 200:Waiting");
    }
    let [a, b] = &mut nodes;
    a.restart();
    a.beat(&manager).await.unwrap();
    sleep(millis(300)).await;
    assert_eq!(manager.states(7).await, "100:Serving 200:Syncing");
    live(&manager, &mut [a, b], seconds(5)).await;
    assert_eq!(manager.states(7).await, "100:Serving 200:Serving");

    // All at once: only the first is waited for.
    sleep(seconds(5)).await;
    assert_eq!(manager.states(7).await, "100:Lastsrv 200:Offline");
}

#[tokio::test(start_paused = true)]
async fn reports_about_an_older_chain_do_not_count() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    let mut nodes = [10, 20].map(|id| Node::storage(&cluster, id, &[u64::from(id) * 10]));
    manager.set_chains(&[(7, &[100, 200])]).await.unwrap();
    let [a, b] = &mut nodes;
    live(&manager, &mut [a, b], seconds(3)).await;
    live(&manager, &mut [a], seconds(5)).await;
    let version = manager.chain(7).await.chain_version.0;
    assert_eq!(manager.states(7).await, "100:Serving 200:Offline");
    // The server was cut off and believes to serve as before.
    b.set(200, Local::Uptodate);
    b.set_version(200, version - 1);
    b.beat(&manager).await.unwrap();
    sleep(millis(500)).await;
    assert_eq!(manager.states(7).await, "100:Serving 200:Offline");
    assert_eq!(manager.node_status(20).await, NodeStatus::HeartbeatConnected);
    // Up to date for a chain it is not in says nothing; it has to be opened again.
    b.set_version(200, version);
    b.beat(&manager).await.unwrap();
    a.beat(&manager).await.unwrap();
    sleep(millis(500)).await;
    assert_eq!(manager.states(7).await, "100:Serving 200:Waiting");
    live(&manager, &mut [a, b], seconds(3)).await;
    assert_eq!(manager.states(7).await, "100:Serving 200:Serving");
}

#[tokio::test(start_paused = true)]
async fn only_one_replica_is_filled_at_a_time() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    let mut nodes = [10, 20, 30].map(|id| Node::storage(&cluster, id, &[u64::from(id) * 10]));
    manager.set_chains(&[(7, &[100, 200, 300])]).await.unwrap();
    let [a, b, c] = &mut nodes;
    live(&manager, &mut [a, b, c], seconds(3)).await;
    live(&manager, &mut [c], seconds(4)).await;
    assert_eq!(serving(&manager.chain(7).await), 1);
    a.restart();
    b.restart();
    let mut most = 0;
    for _ in 0..40 {
        for node in [&mut *a, &mut *b, &mut *c] {
            node.beat(&manager).await.unwrap();
            sleep(millis(150)).await;
            let chain = manager.chain(7).await;
            most = most.max(chain.targets.iter().filter(|t| t.public_state == Public::Syncing).count());
            node.learn(&manager.routing().await);
        }
    }
    assert_eq!(most, 1);
    assert_eq!(serving(&manager.chain(7).await), 3);
}

#[tokio::test(start_paused = true)]
async fn preferred_order_is_restored_by_itself_if_wanted() {
    let cluster = Cluster::new();
    let config = Config { try_adjust_target_order_as_preferred: true, ..Config::fast() };
    let manager = cluster.start(1, config).await;
    until(|| manager.mgmtd.is_primary()).await;
    let mut nodes = [10, 20].map(|id| Node::storage(&cluster, id, &[u64::from(id) * 10]));
    manager.set_chains(&[(7, &[100, 200])]).await.unwrap();
    let req = SetPreferredTargetOrderReq {
        cluster_id: CLUSTER.into(),
        chain_id: valor_protocol::ChainId(7),
        preferred_target_order: vec![TargetId(200), TargetId(100)],
        ..SetPreferredTargetOrderReq::default()
    };
    manager.mgmtd.set_preferred_target_order(req).await.unwrap();
    let [a, b] = &mut nodes;
    live(&manager, &mut [a, b], seconds(10)).await;
    assert_eq!(manager.states(7).await, "200:Serving 100:Serving");
    let settled = manager.chain(7).await.chain_version;
    live(&manager, &mut [a, b], seconds(10)).await;
    assert_eq!(manager.chain(7).await.chain_version, settled);
}

#[tokio::test(start_paused = true)]
async fn a_disabled_server_is_not_heard() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    let mut nodes = [10, 20].map(|id| Node::storage(&cluster, id, &[u64::from(id) * 10]));
    manager.set_chains(&[(7, &[100, 200])]).await.unwrap();
    let [a, b] = &mut nodes;
    live(&manager, &mut [a, b], seconds(3)).await;
    let req = DisableNodeReq { cluster_id: CLUSTER.into(), node_id: NodeId(10), ..DisableNodeReq::default() };
    manager.mgmtd.disable_node(req).await.unwrap();
    assert!(a.beat(&manager).await.is_err());
    live(&manager, &mut [b], seconds(5)).await;
    assert_eq!(manager.states(7).await, "200:Serving 100:Offline");
    assert_eq!(manager.node_status(10).await, NodeStatus::Disabled);
    let req = EnableNodeReq { cluster_id: CLUSTER.into(), node_id: NodeId(10), ..EnableNodeReq::default() };
    manager.mgmtd.enable_node(req).await.unwrap();
    a.restart();
    live(&manager, &mut [a, b], seconds(5)).await;
    assert_eq!(manager.states(7).await, "200:Serving 100:Serving");
}

#[tokio::test(start_paused = true)]
async fn versions_show_every_change_and_nothing_else() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    let mut a = Node::storage(&cluster, 10, &[100]);
    manager.set_chains(&[(7, &[100])]).await.unwrap();
    live(&manager, &mut [&mut a], seconds(3)).await;
    let settled = manager.version().await;
    live(&manager, &mut [&mut a], seconds(10)).await;
    assert_eq!(manager.version().await, settled, "heartbeats that tell nothing new change nothing");
    sleep(seconds(4)).await;
    let gone = manager.routing().await;
    assert!(gone.routing_info_version > settled);
    assert_eq!(gone.nodes[&NodeId(10)].status, NodeStatus::HeartbeatFailed);
    assert_eq!(gone.targets[&TargetId(100)].local_state, Local::Offline);
    let same = GetRoutingInfoReq {
        cluster_id: CLUSTER.into(),
        routing_info_version: gone.routing_info_version,
        ..GetRoutingInfoReq::default()
    };
    assert_eq!(manager.mgmtd.get_routing_info(same).await.unwrap().info, None);
}

#[tokio::test(start_paused = true)]
async fn orphans_are_listed_until_a_chain_has_them() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    let mut a = Node::storage(&cluster, 10, &[100, 101]);
    a.beat(&manager).await.unwrap();
    let orphans = async || {
        let req = ListOrphanTargetsReq { cluster_id: CLUSTER.into(), ..ListOrphanTargetsReq::default() };
        let targets = manager.mgmtd.list_orphan_targets(req).await.unwrap().targets;
        targets.iter().map(|t| (t.target_id.0, t.node_id.unwrap().0)).collect::<Vec<_>>()
    };
    assert_eq!(orphans().await, [(100, 10), (101, 10)]);
    manager.set_chains(&[(7, &[100])]).await.unwrap();
    assert_eq!(orphans().await, [(101, 10)]);
    a.targets.as_mut().unwrap().remove(&TargetId(101));
    a.beat(&manager).await.unwrap();
    assert_eq!(orphans().await, []);
}

#[tokio::test(start_paused = true)]
async fn silent_clients_are_forgotten() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    let extend = |version: u64| ExtendClientSessionReq {
        cluster_id: CLUSTER.into(),
        client_id: "00000000-0000-4000-8000-000000000001".into(),
        client_session_version: valor_protocol::ClientSessionVersion(version),
        ..ExtendClientSessionReq::default()
    };
    let sessions = async || {
        let req = ListClientSessionsReq { cluster_id: CLUSTER.into(), ..ListClientSessionsReq::default() };
        let rsp = manager.mgmtd.list_client_sessions(req).await.unwrap();
        (rsp.bootstrapping, rsp.sessions.len())
    };
    manager.mgmtd.extend_client_session(extend(1)).await.unwrap();
    assert_eq!(sessions().await, (true, 1));
    for version in 2..200 {
        sleep(seconds(10)).await;
        manager.mgmtd.extend_client_session(extend(version)).await.unwrap();
    }
    assert_eq!(sessions().await, (false, 1));
    sleep(seconds(1199)).await;
    assert_eq!(sessions().await.1, 1);
    sleep(seconds(2)).await;
    assert_eq!(sessions().await.1, 0);
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_stood_still_blames_nobody() {
    let cluster = Cluster::new();
    let config = Config {
        lease_length: valor_config::Duration::from_secs(600),
        suspicious_lease_interval: valor_config::Duration::from_secs(10),
        ..Config::fast()
    };
    let manager = cluster.start(1, config).await;
    until(|| manager.mgmtd.is_primary()).await;
    let mut nodes = [10, 20].map(|id| Node::storage(&cluster, id, &[u64::from(id) * 10]));
    manager.set_chains(&[(7, &[100, 200])]).await.unwrap();
    let [a, b] = &mut nodes;
    live(&manager, &mut [a, b], seconds(3)).await;
    for _ in 0..5 {
        // The clock jumps, as it does for a process that was stopped.
        tokio::time::advance(seconds(30)).await;
        sleep(seconds(1)).await;
        live(&manager, &mut [a, b], seconds(1)).await;
    }
    assert_eq!(manager.chain(7).await.chain_version.0, 1);
    live(&manager, &mut [a], seconds(4)).await;
    assert_eq!(manager.states(7).await, "100:Serving 200:Offline", "real silence still counts");
}
