//! Records in the store.

use crate::cluster::*;
use crate::golden::single;
use valor_mgmtd::{offline, schema};
use valor_protocol::mgmtd::*;
use valor_protocol::status::code;
use valor_protocol::*;
use valor_wire::{from_bytes, to_bytes};

async fn dump(cluster: &Cluster) -> Vec<(Vec<u8>, Vec<u8>)> {
    let all = cluster.db.begin().get_range(b"", b"\xff", usize::MAX, false).await.unwrap().items;
    all.into_iter().map(|item| (item.key.to_vec(), item.value.to_vec())).collect()
}

async fn value(cluster: &Cluster, key: &[u8]) -> Option<Vec<u8>> {
    dump(cluster).await.into_iter().find(|(known, _)| known == key).map(|(_, value)| value)
}

#[test]
fn keys() {
    let hex = |key: bytes::Bytes| key.escape_ascii().to_string();
    assert_eq!(hex(schema::node_key(NodeId(0x01020304))), r"NODE\x04\x03\x02\x01");
    assert_eq!(
        hex(schema::chain_table_key(ChainTableId(1), ChainTableVersion(0x0a0b))),
        r"CHIT\x01\x00\x00\x00\x0b\n\x00\x00"
    );
    assert_eq!(hex(schema::chain_key(ChainId(900_001))), r"CHIF\xa1\xbb\r\x00");
    assert_eq!(
        hex(schema::target_key(TargetId(0x0102030405060708))),
        r"TGIF\x01\x02\x03\x04\x05\x06\x07\x08"
    );
    assert_eq!(
        hex(schema::config_key(NodeType::Storage, ConfigVersion(1))),
        r"CONF\x07STORAGE\xff\xff\xff\xff\xff\xff\xff\xfe"
    );
    assert_eq!(
        hex(schema::config_key(NodeType::Mgmtd, ConfigVersion(0))),
        r"CONF\x05MGMTD\xff\xff\xff\xff\xff\xff\xff\xff"
    );
    assert_eq!(hex(schema::universal_tags_key("host")), "UTGShost");
    assert_eq!(schema::LEASE_KEY, b"SINGMgmtdLease");
    assert_eq!(schema::ROUTING_VERSION_KEY, b"SINGRoutingInfoVersion");
}

#[tokio::test(start_paused = true)]
async fn a_store_written_by_the_original_is_served() {
    let cluster = Cluster::new();
    let golden: RoutingInfo = from_bytes(single("RoutingInfo")).unwrap();
    let node = &golden.nodes[&NodeId(10000)];
    let stored = PersistentNodeInfo {
        node_id: NodeId(10000),
        r#type: node.r#type,
        service_groups: node.app.service_groups.clone(),
        tags: node.tags.clone(),
        hostname: node.app.hostname.clone(),
    };
    let tx = cluster.db.begin();
    tx.set(b"SINGRoutingInfoVersion", 16u64.to_le_bytes());
    tx.set([&b"NODE"[..], &10000u32.to_le_bytes()].concat(), to_bytes(&stored));
    tx.set([&b"CHIF"[..], &1_000_001u32.to_le_bytes()].concat(), single("ChainInfo"));
    tx.set([&b"CHIT"[..], &1u32.to_le_bytes(), &1u32.to_le_bytes()].concat(), single("ChainTable"));
    tx.set([&b"TGIF"[..], &1_000_001u64.to_be_bytes()].concat(), single("TargetInfo"));
    tx.commit().await.unwrap();

    let manager = cluster.fast().await;
    let routing = manager.routing().await;
    assert_eq!(routing.routing_info_version, golden.routing_info_version);
    assert_eq!(routing.chains, golden.chains);
    assert_eq!(routing.chain_tables, golden.chain_tables);
    let loaded = &routing.nodes[&NodeId(10000)];
    assert_eq!((&loaded.app.service_groups, &loaded.tags), (&node.app.service_groups, &node.tags));
    let target = &routing.targets[&TargetId(1_000_001)];
    assert_eq!((target.node_id, target.disk_index), (Some(NodeId(10000)), Some(0)));
    assert_eq!(target.local_state, LocalTargetState::Offline);
    // Nothing that was not changed is written anew in another form.
    let chain = value(&cluster, &schema::chain_key(ChainId(1_000_001))).await.unwrap();
    assert_eq!(chain, single("ChainInfo"));
}

#[tokio::test(start_paused = true)]
async fn every_change_is_stored_as_the_original_would() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    let m = &manager.mgmtd;
    let lease: MgmtdLeaseInfo = from_bytes(value(&cluster, b"SINGMgmtdLease").await.unwrap().into()).unwrap();
    assert_eq!(lease.primary.node_id, NodeId(1));
    assert_eq!(lease.lease_end.0 - lease.lease_start.0, 4_000_000);

    let mut storage = Node::storage(&cluster, 10, &[100]);
    storage.targets.as_mut().unwrap().get_mut(&TargetId(100)).unwrap().disk_index = Some(3);
    storage.beat(&manager).await.unwrap();
    let node: PersistentNodeInfo =
        from_bytes(value(&cluster, b"NODE\x0a\0\0\0").await.unwrap().into()).unwrap();
    assert_eq!(node.hostname, "host10");

    manager.set_chains(&[(7, &[100, 200])]).await.unwrap();
    let chain: ChainInfo = from_bytes(value(&cluster, b"CHIF\x07\0\0\0").await.unwrap().into()).unwrap();
    assert_eq!(chain, manager.chain(7).await);
    storage.beat(&manager).await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    let target: TargetInfo =
        from_bytes(value(&cluster, b"TGIF\0\0\0\0\0\0\0\x64").await.unwrap().into()).unwrap();
    assert_eq!((target.node_id, target.disk_index), (Some(NodeId(10)), Some(3)));

    let req = SetConfigReq {
        cluster_id: CLUSTER.into(),
        node_type: NodeType::Fuse,
        content: "x".into(),
        ..Default::default()
    };
    m.set_config(req).await.unwrap();
    let stored = value(&cluster, b"CONF\x04FUSE\xff\xff\xff\xff\xff\xff\xff\xfe").await.unwrap();
    assert_eq!(stored, b"\x0b\x01\0\0\0\0\0\0\0\x01x\0");

    let req =
        SetUniversalTagsReq { cluster_id: CLUSTER.into(), universal_id: "h".into(), ..Default::default() };
    let tag = app::TagPair { key: "k".into(), value: "v".into() };
    m.set_universal_tags(SetUniversalTagsReq { tags: vec![tag], ..req }).await.unwrap();
    assert_eq!(value(&cluster, b"UTGSh").await.unwrap(), b"\x01\x04\x01k\x01v");

    let version = value(&cluster, b"SINGRoutingInfoVersion").await.unwrap();
    let version = u64::from_le_bytes(version.try_into().unwrap());
    assert_eq!(version, manager.version().await.0 + 1, "tags raise the stored version only");

    let kinds: Vec<String> =
        dump(&cluster).await.iter().map(|(key, _)| String::from_utf8_lossy(&key[..4]).into()).collect();
    assert_eq!(kinds, ["CHIF", "CONF", "NODE", "NODE", "SING", "SING", "TGIF", "UTGS"]);

    let remove = |target, mode| UpdateChainReq {
        cluster_id: CLUSTER.into(),
        chain_id: ChainId(7),
        target_id: TargetId(target),
        mode,
        ..UpdateChainReq::default()
    };
    until_async(async || manager.states(7).await == "100:Serving 200:Offline").await;
    m.update_chain(remove(200, UpdateChainMode::Remove)).await.unwrap();
    assert_eq!(value(&cluster, b"TGIF\0\0\0\0\0\0\0\xc8").await, None);
}

#[tokio::test(start_paused = true)]
async fn damaged_records_stop_a_manager_and_are_named() {
    let damages: [(&[u8], &[u8]); 5] = [
        (b"CHIF\x07\0\0\0", b"\x2e"),
        (b"CHIF\x08\0\0\0", &single("ChainInfo")),
        (b"NODE\x07\0", b""),
        (b"CONF\x04NONE\xff\xff\xff\xff\xff\xff\xff\xfe", b"\x0b\x01\0\0\0\0\0\0\0\x01x\0"),
        (b"SINGRoutingInfoVersion", b"\x01"),
    ];
    for (key, damaged) in damages {
        let cluster = Cluster::new();
        let tx = cluster.db.begin();
        tx.set(key, damaged);
        tx.commit().await.unwrap();
        let manager = cluster.start(1, valor_mgmtd::Config::fast()).await;
        tokio::time::sleep(seconds(10)).await;
        assert!(!manager.mgmtd.is_primary(), "{}", key.escape_ascii());
        let tx = cluster.db.begin();
        tx.clear(key);
        tx.commit().await.unwrap();
        tokio::time::sleep(seconds(2)).await;
        assert!(manager.mgmtd.is_primary(), "it tries again once the record is repaired");
    }
}

#[tokio::test(start_paused = true)]
async fn work_without_a_manager() {
    let cluster = Cluster::new();
    let db = &cluster.db;
    assert_eq!(offline::latest_config(db, NodeType::Meta).await, Ok(None));
    assert_eq!(offline::init_config(db, NodeType::Meta, "a", false).await, Ok(ConfigVersion(1)));
    let refused = offline::init_config(db, NodeType::Meta, "b", false).await.unwrap_err();
    assert_eq!(refused, Status::new(code::UNKNOWN, "Config for META existed, version 1"));
    assert_eq!(offline::init_config(db, NodeType::Meta, "b", true).await, Ok(ConfigVersion(2)));
    let latest = offline::latest_config(db, NodeType::Meta).await.unwrap().unwrap();
    assert_eq!((latest.config_version.0, latest.content.as_str()), (2, "b"));

    let manager = cluster.fast().await;
    manager.set_chains(&[(7, &[100, 200]), (8, &[300])]).await.unwrap();
    let version = manager.version().await;
    manager.kill().await;
    let changed = offline::shutdown_all_chains(db).await.unwrap();
    assert_eq!(changed.iter().map(describe).collect::<Vec<_>>(), ["100:Lastsrv 200:Lastsrv", "300:Lastsrv"]);
    assert_eq!(offline::shutdown_all_chains(db).await, Ok(vec![]));
    assert_eq!(offline::chains(db).await.unwrap(), changed);

    let manager = cluster.fast().await;
    assert!(manager.version().await.0 > version.0 + 1);
    assert_eq!(manager.chain(7).await.chain_version, ChainVersion(2));
    // Either of the two may lead: they were stopped with the same data.
    let mut second = Node::storage(&cluster, 20, &[200]);
    until_async(async || {
        second.beat(&manager).await.unwrap();
        manager.states(7).await == "200:Serving 100:Offline"
    })
    .await;
}
