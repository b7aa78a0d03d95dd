//! Random requests, sensible and not, with time passing and managers restarting in between.

use crate::cluster::*;
use std::collections::BTreeMap;
use tokio::time::sleep;
use valor_mgmtd::Config;
use valor_protocol::app::TagPair;
use valor_protocol::mgmtd::*;
use valor_protocol::status::code;
use valor_protocol::*;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn some<T>(&mut self, most: u64, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| one(self)).collect()
    }

    fn tags(&mut self) -> Vec<TagPair> {
        let keys = ["a", "b", "Disable", ""];
        self.some(2, |r| TagPair {
            key: keys[(r.below(30) as usize).min(29) % if r.below(4) == 0 { 4 } else { 2 }].into(),
            value: if r.below(2) == 0 { String::new() } else { "v".into() },
        })
    }

    fn mode(&mut self) -> SetTagMode {
        [SetTagMode::Replace, SetTagMode::Upsert, SetTagMode::Remove][self.below(3) as usize]
    }

    fn node_type(&mut self) -> NodeType {
        NodeType::ALL[self.below(5) as usize]
    }

    fn node(&mut self) -> NodeId {
        NodeId([0, 1, 10, 20, 30, 50][self.below(6) as usize])
    }

    fn chain(&mut self) -> ChainId {
        ChainId(self.below(6) as u32)
    }

    fn target(&mut self) -> TargetId {
        TargetId(self.below(16))
    }
}

/// What must hold whatever was asked for.
fn check(routing: &RoutingInfo, before: Option<&RoutingInfo>) {
    let mut members = BTreeMap::new();
    for chain in routing.chains.values() {
        assert!(!chain.targets.is_empty(), "{chain:?}");
        let count = |state| chain.targets.iter().filter(|t| t.public_state == state).count();
        assert!(count(PublicTargetState::Syncing) <= 1, "{chain:?}");
        let leads = count(PublicTargetState::Serving) + count(PublicTargetState::Lastsrv);
        assert!(leads > 0, "nobody may ever serve again: {chain:?}");
        for target in &chain.targets {
            let known = &routing.targets[&target.target_id];
            assert_eq!((known.chain_id, known.public_state), (chain.chain_id, target.public_state));
            assert_eq!(members.insert(target.target_id, chain.chain_id), None, "a target is in two chains");
        }
    }
    assert_eq!(members.len(), routing.targets.len());
    for versions in routing.chain_tables.values() {
        for (version, table) in versions {
            assert_eq!(*version, table.chain_table_version);
            assert!(table.chains.iter().all(|id| routing.chains.contains_key(id)));
        }
    }
    let Some(before) = before else { return };
    assert!(routing.routing_info_version >= before.routing_info_version);
    for (id, old) in &before.chains {
        let new = &routing.chains[id];
        assert!(new.chain_version >= old.chain_version);
        assert!(new.targets == old.targets || new.chain_version > old.chain_version, "{old:?} -> {new:?}");
    }
    for (id, versions) in &before.chain_tables {
        for (version, old) in versions {
            assert_eq!(
                routing.chain_tables[id][version].chains, old.chains,
                "a table's version never changes"
            );
        }
    }
    if routing.routing_info_version == before.routing_info_version {
        assert_eq!(
            routing.chains.values().map(|c| &c.targets).collect::<Vec<_>>(),
            before.chains.values().map(|c| &c.targets).collect::<Vec<_>>()
        );
        assert_eq!(routing.chain_tables, before.chain_tables);
    }
}

/// What a restart must not lose.
fn stored_part(routing: &RoutingInfo) -> impl PartialEq + std::fmt::Debug {
    let nodes: Vec<_> = routing
        .nodes
        .values()
        .map(|node| (node.app.node_id, node.r#type, node.app.service_groups.clone(), node.tags.clone()))
        .collect();
    (nodes, routing.chains.clone(), routing.chain_tables.clone())
}

async fn ask(manager: &Manager, r: &mut Random, servers: &mut [Node]) -> Result<(), Status> {
    let m = &manager.mgmtd;
    let cluster_id = if r.below(50) == 0 { "other".to_owned() } else { CLUSTER.to_owned() };
    let user = Default::default();
    let (node_id, chain_id, target_id) = (r.node(), r.chain(), r.target());
    match r.below(22) {
        0..=5 => {
            let server = &mut servers[r.below(3) as usize];
            if r.below(4) == 0 {
                server.restart();
            }
            let beat = server.beat(manager).await.map(drop);
            if r.below(3) > 0 {
                server.learn(&manager.routing().await);
            }
            beat
        }
        6 => {
            let server = &mut servers[r.below(3) as usize];
            let mut req = server.request();
            req.cluster_id = cluster_id;
            req.timestamp.0 += (r.below(80) as i64 - 40) * 1_000_000;
            req.info.app.node_id = node_id;
            req.info.hb_version = HeartbeatVersion(r.below(100));
            req.info.config_version = ConfigVersion(r.below(3));
            m.heartbeat(req).await.map(drop)
        }
        7 => {
            let r#type = r.node_type();
            m.register_node(RegisterNodeReq { cluster_id, node_id, r#type, user }).await.map(drop)
        }
        8 => m.unregister_node(UnregisterNodeReq { cluster_id, node_id, user }).await.map(drop),
        9 => m.enable_node(EnableNodeReq { cluster_id, node_id, user }).await.map(drop),
        10 => m.disable_node(DisableNodeReq { cluster_id, node_id, user }).await.map(drop),
        11 => {
            // A disabled primary is tested elsewhere.
            let node_id = if node_id.0 == 1 { NodeId(10) } else { node_id };
            let (tags, mode) = (r.tags(), r.mode());
            m.set_node_tags(SetNodeTagsReq { cluster_id, node_id, tags, mode, user }).await.map(drop)
        }
        12 | 13 => {
            let chains = r.some(3, |r| ChainSetting {
                chain_id: r.chain(),
                targets: r.some(3, |r| ChainTargetSetting { target_id: r.target() }),
                set_preferred_target_order: r.below(2) == 0,
            });
            m.set_chains(SetChainsReq { cluster_id, chains, user }).await.map(drop)
        }
        14 => {
            let chain_table_id = ChainTableId(r.below(3) as u32);
            let chains = r.some(3, Random::chain);
            let desc = ["", "x", "y"][r.below(3) as usize].into();
            let req = SetChainTableReq { cluster_id, chain_table_id, chains, desc, user };
            m.set_chain_table(req).await.map(drop)
        }
        15 => {
            let mode = if r.below(2) == 0 { UpdateChainMode::Add } else { UpdateChainMode::Remove };
            m.update_chain(UpdateChainReq { cluster_id, user, chain_id, target_id, mode }).await.map(drop)
        }
        16 => m.rotate_last_srv(RotateLastSrvReq { cluster_id, chain_id, user }).await.map(drop),
        17 => {
            let req = RotateAsPreferredOrderReq { cluster_id, chain_id, user };
            m.rotate_as_preferred_order(req).await.map(drop)
        }
        18 => {
            let preferred_target_order = r.some(3, Random::target);
            let req = SetPreferredTargetOrderReq { cluster_id, chain_id, preferred_target_order, user };
            m.set_preferred_target_order(req).await.map(drop)
        }
        19 => {
            let (node_type, content) = (r.node_type(), format!("# {}", r.next()));
            let desc = String::new();
            m.set_config(SetConfigReq { cluster_id, node_type, content, desc, user }).await.map(drop)
        }
        20 => {
            let universal_id = ["", "u", "v"][r.below(3) as usize].into();
            let (tags, mode) = (r.tags(), r.mode());
            m.set_universal_tags(SetUniversalTagsReq { cluster_id, universal_id, tags, mode, user })
                .await
                .map(drop)
        }
        _ => {
            let req = ExtendClientSessionReq {
                cluster_id,
                client_id: ["", "c", "d"][r.below(3) as usize].into(),
                client_session_version: ClientSessionVersion(r.below(20)),
                config_version: ConfigVersion(r.below(3)),
                r#type: r.node_type(),
                ..ExtendClientSessionReq::default()
            };
            m.extend_client_session(req).await.map(drop)
        }
    }
}

async fn run(seed: u64) -> usize {
    let mut r = Random(seed);
    let cluster = Cluster::new();
    let config = Config { try_adjust_target_order_as_preferred: seed.is_multiple_of(2), ..Config::fast() };
    let mut manager = cluster.start(1, config.clone()).await;
    until(|| manager.mgmtd.is_primary()).await;
    let mut servers = [
        Node::storage(&cluster, 10, &[1, 2, 3, 4, 5]),
        Node::storage(&cluster, 20, &[6, 7, 8, 9, 10]),
        Node::storage(&cluster, 30, &[11, 12, 13, 14, 15]),
    ];
    let mut before: Option<RoutingInfo> = None;
    let mut done = 0;
    for _ in 0..400 {
        match ask(&manager, &mut r, &mut servers).await {
            Ok(()) => done += 1,
            Err(status) => {
                let known = (5000..5019).contains(&status.code) || status.code == code::INVALID_ARG;
                assert!(known, "{status}");
            }
        }
        match r.below(20) {
            0..=8 => sleep(millis(r.below(300))).await,
            9 => sleep(seconds(r.below(6))).await,
            10 if r.below(6) == 0 => {
                let last = manager.routing().await;
                manager.kill().await;
                manager = cluster.start(1, config.clone()).await;
                until(|| manager.mgmtd.is_primary()).await;
                let loaded = manager.routing().await;
                assert_eq!(stored_part(&loaded), stored_part(&last));
                assert!(loaded.routing_info_version > last.routing_info_version);
            }
            _ => {}
        }
        let routing = manager.routing().await;
        check(&routing, before.as_ref());
        before = Some(routing);
    }
    done
}

#[tokio::test(start_paused = true)]
async fn random_requests_leave_a_sound_cluster() {
    let mut done = 0;
    for seed in 0..25 {
        println!("seed {seed}");
        done += run(seed).await;
    }
    assert!(done > 2000, "{done} requests succeeded");
}
