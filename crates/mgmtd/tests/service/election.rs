//! Several managers on one store.

use crate::cluster::*;
use std::sync::atomic::Ordering::Relaxed;
use tokio::time::{Instant, sleep};
use valor_kv::Faults;
use valor_mgmtd::{Config, Hooks};
use valor_protocol::app::{ReleaseVersion, TagPair};
use valor_protocol::mgmtd::*;
use valor_protocol::status::code;
use valor_protocol::{NodeId, RoutingInfoVersion, Status};

async fn primary_seen_by(manager: &Manager) -> Option<u32> {
    let req = GetPrimaryMgmtdReq { cluster_id: CLUSTER.into(), ..GetPrimaryMgmtdReq::default() };
    let rsp = manager.mgmtd.get_primary_mgmtd(req).await.unwrap();
    rsp.primary.map(|primary| primary.node_id.0)
}

async fn routing_of(manager: &Manager) -> Result<GetRoutingInfoRsp, Status> {
    let req = GetRoutingInfoReq { cluster_id: CLUSTER.into(), ..GetRoutingInfoReq::default() };
    manager.mgmtd.get_routing_info(req).await
}

fn exactly_one(managers: &[&Manager]) -> bool {
    managers.iter().filter(|m| m.mgmtd.is_primary()).count() == 1
}

#[tokio::test(start_paused = true)]
async fn one_is_elected_and_the_others_point_to_it() {
    let cluster = Cluster::new();
    let first = cluster.start(1, Config::default()).await;
    until(|| first.mgmtd.is_primary()).await;
    let second = cluster.start(2, Config::default()).await;
    let third = cluster.start(3, Config::default()).await;
    for _ in 0..600 {
        assert!(exactly_one(&[&first, &second, &third]));
        sleep(seconds(1)).await;
    }
    assert!(first.mgmtd.is_primary());
    for other in [&second, &third] {
        assert_eq!(routing_of(other).await.unwrap_err(), Status::new(code::MGMTD_NOT_PRIMARY, "1"));
        assert_eq!(primary_seen_by(other).await, Some(1));
    }
    let routing = first.routing().await;
    assert_eq!(routing.nodes.keys().map(|id| id.0).collect::<Vec<_>>(), [1]);
    let refused = second.mgmtd.heartbeat(Node::meta(&cluster, 50).request()).await;
    assert_eq!(refused.unwrap_err().message, "1");
}

#[tokio::test(start_paused = true)]
async fn all_at_once_still_elect_one() {
    let cluster = Cluster::new();
    let mut managers = Vec::new();
    for id in 1..=3 {
        managers.push(cluster.start(id, Config::fast()).await);
    }
    let all: Vec<&Manager> = managers.iter().collect();
    until(|| exactly_one(&all)).await;
    for _ in 0..100 {
        sleep(millis(100)).await;
        assert!(exactly_one(&all));
    }
}

#[tokio::test(start_paused = true)]
async fn another_takes_over_when_the_lease_has_ended() {
    let cluster = Cluster::new();
    let first = cluster.start(1, Config::default()).await;
    until(|| first.mgmtd.is_primary()).await;
    first.set_chains(&[(7, &[70])]).await.unwrap();
    let version = first.version().await;
    let second = cluster.start(2, Config::default()).await;
    sleep(seconds(30)).await;
    let died = Instant::now();
    first.kill().await;
    while !second.mgmtd.is_primary() {
        // Suspicious long before the end of the lease: nobody is trusted as primary then.
        let seen = routing_of(&second).await.unwrap_err();
        let trusted = died.elapsed() < seconds(29);
        if trusted {
            assert_eq!(seen.message, "1");
        }
        if died.elapsed() > seconds(41) {
            assert_eq!(seen.message, "", "after {:?}", died.elapsed());
            assert_eq!(primary_seen_by(&second).await, Some(1), "the stored lease still says so");
        }
        sleep(millis(500)).await;
    }
    let took = died.elapsed();
    assert!(took > seconds(50) && took < seconds(71), "{took:?}");
    assert!(second.version().await > version, "a new primary always has a newer version");
    assert_eq!(second.states(7).await, "70:Serving");
    let nodes = second.routing().await.nodes;
    assert_eq!(nodes[&NodeId(1)].status, NodeStatus::HeartbeatConnecting);
    assert_eq!(nodes[&NodeId(2)].status, NodeStatus::PrimaryMgmtd);

    let back = cluster.start(1, Config::default()).await;
    sleep(seconds(120)).await;
    assert!(second.mgmtd.is_primary() && !back.mgmtd.is_primary());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_primary_goes_on_at_once() {
    let cluster = Cluster::new();
    let first = cluster.start(1, Config::default()).await;
    until(|| first.mgmtd.is_primary()).await;
    let version = first.version().await;
    first.kill().await;
    let restarted = Instant::now();
    let first = cluster.start(1, Config::default()).await;
    until(|| first.mgmtd.is_primary()).await;
    assert!(restarted.elapsed() < seconds(1));
    assert_eq!(first.version().await, RoutingInfoVersion(version.0 + 1));
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_stops_gives_the_lease_up() {
    let cluster = Cluster::new();
    let first = cluster.start(1, Config::default()).await;
    until(|| first.mgmtd.is_primary()).await;
    let second = cluster.start(2, Config::default()).await;
    sleep(seconds(20)).await;
    let stopped = Instant::now();
    first.stop().await;
    until(|| second.mgmtd.is_primary()).await;
    assert!(stopped.elapsed() <= seconds(11), "{:?}", stopped.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_last_seconds_of_a_lease_are_not_trusted() {
    let cluster = Cluster::new();
    let first = cluster.start(1, Config::default()).await;
    until(|| first.mgmtd.is_primary()).await;
    // Its clock jumps forward: the lease it knows ends in 19 s by it.
    first.skew.store(41_000_000, Relaxed);
    assert_eq!(routing_of(&first).await.unwrap_err(), Status::from(code::MGMTD_NOT_PRIMARY));
    sleep(seconds(11)).await;
    assert!(first.mgmtd.is_primary(), "it has extended its lease by its clock");
}

#[tokio::test(start_paused = true)]
async fn writes_check_the_lease_in_the_store() {
    let cluster = Cluster::new();
    let config = Config { extend_lease_interval: valor_config::Duration::from_secs(30), ..Config::default() };
    let config = Config { suspicious_lease_interval: valor_config::Duration::from_secs(1), ..config };
    let first = cluster.start(1, config.clone()).await;
    until(|| first.mgmtd.is_primary()).await;
    sleep(seconds(1)).await;
    cluster.give_lease_to(2).await;
    assert!(first.mgmtd.is_primary(), "as far as it knows");
    assert_eq!(first.set_chains(&[(7, &[70])]).await, Err(Status::new(code::MGMTD_NOT_PRIMARY, "2")));
    assert!(first.routing().await.chains.is_empty(), "a refused change is not applied in memory");

    let careless = Config { validate_lease_on_write: false, ..config };
    let cluster = Cluster::new();
    let first = cluster.start(1, careless.clone()).await;
    until(|| first.mgmtd.is_primary()).await;
    sleep(seconds(1)).await;
    cluster.give_lease_to(2).await;
    assert!(first.set_chains(&[(7, &[70])]).await.is_ok(), "the check can be switched off");
}

#[tokio::test(start_paused = true)]
async fn wrong_clocks_make_no_second_primary() {
    for skew in [-120_000_000, 120_000_000] {
        let cluster = Cluster::new();
        let first = cluster.start(1, Config::fast()).await;
        until(|| first.mgmtd.is_primary()).await;
        let second = cluster.start(2, Config::fast()).await;
        sleep(seconds(5)).await;
        second.skew.store(skew, Relaxed);
        for _ in 0..300 {
            assert!(exactly_one(&[&first, &second]), "clock of another by {skew}");
            sleep(millis(100)).await;
        }
        second.skew.store(0, Relaxed);
        // The primary's own clock: it may have to begin anew, but nobody else begins meanwhile.
        first.skew.store(skew, Relaxed);
        for _ in 0..300 {
            assert!(!second.mgmtd.is_primary(), "clock of the primary by {skew}");
            sleep(millis(100)).await;
        }
        assert!(first.mgmtd.is_primary());
        // It dies, and its clock goes back: its lease seems to be long, and it cannot prove that it is not.
        first.kill().await;
        let limit = if skew > 0 { seconds(170) } else { seconds(10) };
        let died = Instant::now();
        until(|| second.mgmtd.is_primary()).await;
        assert!(died.elapsed() < limit, "{:?}", died.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_release_does_not_take_over() {
    let cluster = Cluster::new();
    let release =
        |date: u64| ReleaseVersion { build_time_in_seconds: date << 32, ..ReleaseVersion::default() };
    let start = |id, date| {
        cluster.start_with(id, Config::fast(), release(date), cluster.db.clone(), Hooks::default())
    };
    let first = start(1, 20_260_102);
    until(|| first.mgmtd.is_primary()).await;
    let old = start(2, 20_260_101);
    first.kill().await;
    sleep(seconds(60)).await;
    assert!(!old.mgmtd.is_primary());
    let newer = start(3, 20_260_103);
    until(|| newer.mgmtd.is_primary()).await;
}

#[tokio::test(start_paused = true)]
async fn a_disabled_manager_lets_another_lead() {
    let cluster = Cluster::new();
    let first = cluster.start(1, Config::fast()).await;
    until(|| first.mgmtd.is_primary()).await;
    let second = cluster.start(2, Config::fast()).await;
    let tags = vec![TagPair { key: "Disable".into(), value: String::new() }];
    let req = SetNodeTagsReq {
        cluster_id: CLUSTER.into(),
        node_id: NodeId(1),
        tags,
        mode: SetTagMode::Upsert,
        ..SetNodeTagsReq::default()
    };
    assert_eq!(first.mgmtd.set_node_tags(req).await.unwrap().info.status, NodeStatus::Disabled);
    until(|| second.mgmtd.is_primary()).await;
    assert!(!first.mgmtd.is_primary());
    assert_eq!(second.node_status(1).await, NodeStatus::Disabled);
    let enable = EnableNodeReq { cluster_id: CLUSTER.into(), node_id: NodeId(1), ..EnableNodeReq::default() };
    second.mgmtd.enable_node(enable).await.unwrap();
    until_async(async || second.node_status(1).await == NodeStatus::HeartbeatConnected).await;
}

#[tokio::test(start_paused = true)]
async fn waiting_managers_send_heartbeats_and_get_configurations() {
    let cluster = Cluster::new();
    let applied = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let hooks = |id: u32| {
        let applied = std::sync::Arc::clone(&applied);
        let apply_config = move |config: &ConfigInfo| {
            applied.lock().push((id, config.content.clone()));
            Ok(())
        };
        Hooks { apply_config: std::sync::Arc::new(apply_config), ..Hooks::default() }
    };
    let start =
        |id| cluster.start_with(id, Config::fast(), ReleaseVersion::default(), cluster.db.clone(), hooks(id));
    let first = start(1);
    until(|| first.mgmtd.is_primary()).await;
    let second = start(2);
    until_async(async || first.routing().await.nodes.contains_key(&NodeId(2))).await;
    assert_eq!(first.node_status(2).await, NodeStatus::HeartbeatConnected);

    let set = |text: &str| SetConfigReq {
        cluster_id: CLUSTER.into(),
        node_type: NodeType::Mgmtd,
        content: text.into(),
        ..SetConfigReq::default()
    };
    first.mgmtd.set_config(set("a = 1")).await.unwrap();
    first.mgmtd.set_config(set("a = 2")).await.unwrap();
    until(|| applied.lock().contains(&(2, "a = 2".into()))).await;
    assert_eq!(applied.lock()[..2], [(1, "a = 1".to_owned()), (1, "a = 2".to_owned())]);
    until_async(async || first.routing().await.nodes[&NodeId(2)].config_version.0 == 2).await;
    assert_eq!(first.routing().await.nodes[&NodeId(1)].config_version.0, 2);

    // The waiting manager's process is replaced: it is told which heartbeat number to go on with.
    second.kill().await;
    applied.lock().clear();
    let second = start(2);
    until(|| applied.lock().contains(&(2, "a = 2".into()))).await;
    until_async(async || first.node_status(2).await == NodeStatus::HeartbeatConnected).await;
    second.kill().await;
    until_async(async || first.node_status(2).await == NodeStatus::HeartbeatFailed).await;

    // A new primary finds the configuration in the store.
    first.stop().await;
    applied.lock().clear();
    let third = start(3);
    until(|| third.mgmtd.is_primary()).await;
    until(|| applied.lock().contains(&(3, "a = 2".into()))).await;
}

#[tokio::test(start_paused = true)]
async fn the_store_may_fail_for_a_while() {
    let cluster = Cluster::new();
    let faults = Faults { read_too_old: 50, commit_conflict: 200, commit_unknown: 200 };
    let flaky = cluster.db.with_faults(faults);
    let manager = cluster.start_with(1, Config::fast(), ReleaseVersion::default(), flaky, Hooks::default());
    until(|| manager.mgmtd.is_primary()).await;
    for n in 1..=50 {
        until(|| manager.mgmtd.is_primary()).await;
        let chain: (u32, &[u64]) = (n, &[u64::from(n) * 10, u64::from(n) * 10 + 1]);
        manager.set_chains(&[chain]).await.unwrap();
    }
    assert_eq!(manager.routing().await.chains.len(), 50);
    manager.kill().await;
    let manager = cluster.start(1, Config::fast()).await;
    until(|| manager.mgmtd.is_primary()).await;
    assert_eq!(manager.routing().await.chains.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn methods_over_rpc() {
    let cluster = Cluster::new();
    let manager = cluster.primary().await;
    let client = cluster.client();
    let to = app(1, "Mgmtd").service_groups[0].endpoints[0];
    let req = GetRoutingInfoReq { cluster_id: CLUSTER.into(), ..GetRoutingInfoReq::default() };
    let options = valor_rpc::CallOptions::default();
    let rsp = client.call::<methods::GetRoutingInfo>(to, &req, &options).await.unwrap();
    assert_eq!(rsp.info.unwrap(), manager.routing().await);
    let req = GetRoutingInfoReq { cluster_id: "other".into(), ..req };
    let refused = client.call::<methods::GetRoutingInfo>(to, &req, &options).await.unwrap_err();
    assert_eq!(refused, Status::new(code::MGMTD_CLUSTER_ID_MISMATCH, "Cluster id mismatch"));
}
