//! Every method: what it does and what it refuses.

use crate::cluster::*;
use tokio::time::sleep;
use valor_mgmtd::{Config, Mgmtd};
use valor_protocol::app::TagPair;
use valor_protocol::mgmtd::*;
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_protocol::*;
use valor_user::NewUser;

/// A request to the test's cluster; other fields default unless named.
macro_rules! req {
    ($type:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        $type { cluster_id: CLUSTER.into(), $($field $(: $value)?,)* ..$type::default() }
    };
}

fn tag(key: &str, value: &str) -> TagPair {
    TagPair { key: key.into(), value: value.into() }
}

fn code_of<T: std::fmt::Debug>(result: Result<T, Status>) -> u16 {
    result.unwrap_err().code
}

/// Calls every method with an otherwise empty request.
#[expect(clippy::needless_update, reason = "some requests have no other fields")]
async fn every_method(
    m: &Mgmtd,
    cluster_id: &str,
    user: &UserInfo,
) -> Vec<(&'static str, Result<(), Status>)> {
    macro_rules! call {
        ($($method:ident($type:ident)),* $(,)?) => {
            vec![$((
                stringify!($method),
                m.$method($type { cluster_id: cluster_id.into(), user: user.clone(), ..$type::default() })
                    .await
                    .map(drop),
            )),*]
        };
    }
    call![
        get_primary_mgmtd(GetPrimaryMgmtdReq),
        heartbeat(HeartbeatReq),
        register_node(RegisterNodeReq),
        get_routing_info(GetRoutingInfoReq),
        set_config(SetConfigReq),
        get_config(GetConfigReq),
        set_chain_table(SetChainTableReq),
        enable_node(EnableNodeReq),
        disable_node(DisableNodeReq),
        extend_client_session(ExtendClientSessionReq),
        list_client_sessions(ListClientSessionsReq),
        set_node_tags(SetNodeTagsReq),
        unregister_node(UnregisterNodeReq),
        set_chains(SetChainsReq),
        set_universal_tags(SetUniversalTagsReq),
        get_universal_tags(GetUniversalTagsReq),
        get_config_versions(GetConfigVersionsReq),
        get_client_session(GetClientSessionReq),
        rotate_last_srv(RotateLastSrvReq),
        list_orphan_targets(ListOrphanTargetsReq),
        set_preferred_target_order(SetPreferredTargetOrderReq),
        rotate_as_preferred_order(RotateAsPreferredOrderReq),
        update_chain(UpdateChainReq),
    ]
}

const ADMIN_METHODS: [&str; 13] = [
    "register_node",
    "set_config",
    "set_chain_table",
    "enable_node",
    "disable_node",
    "set_node_tags",
    "unregister_node",
    "set_chains",
    "set_universal_tags",
    "rotate_last_srv",
    "set_preferred_target_order",
    "rotate_as_preferred_order",
    "update_chain",
];

#[tokio::test(start_paused = true)]
async fn every_method_checks_the_cluster_first() {
    let cluster = Cluster::new();
    let manager = cluster.primary().await;
    let results = every_method(&manager.mgmtd, "other", &UserInfo::default()).await;
    assert_eq!(results.len(), methods::METHODS.len());
    for (method, result) in results {
        assert_eq!(code_of(result), code::MGMTD_CLUSTER_ID_MISMATCH, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_primary_answers() {
    let cluster = Cluster::new();
    let first = cluster.primary().await;
    let second = cluster.start(2, Config::default()).await;
    sleep(seconds(1)).await;
    // Requests that are wrong in themselves are refused for that before anyone asks who is primary.
    let wrong_anyway = [
        "extend_client_session",
        "get_client_session",
        "rotate_last_srv",
        "set_preferred_target_order",
        "rotate_as_preferred_order",
        "update_chain",
    ];
    for (method, result) in every_method(&second.mgmtd, CLUSTER, &UserInfo::default()).await {
        match method {
            "get_primary_mgmtd" => assert_eq!(result, Ok(())),
            _ if wrong_anyway.contains(&method) => assert_eq!(code_of(result), code::INVALID_ARG, "{method}"),
            _ => assert_eq!(result, Err(Status::new(code::MGMTD_NOT_PRIMARY, "1")), "{method}"),
        }
    }
    first.stop().await;
}

#[tokio::test(start_paused = true)]
async fn administrators_are_checked_if_configured() {
    let cluster = Cluster::new();
    let manager = cluster.start(1, Config { authenticate: true, ..Config::default() }).await;
    until(|| manager.mgmtd.is_primary()).await;
    let users = manager.mgmtd.users();
    let new = |uid, admin| NewUser { uid, admin, name: "u".into(), ..NewUser::default() };
    let admin = users.add(new(1, true)).await.unwrap();
    let plain = users.add(new(2, false)).await.unwrap();
    let as_user = |token: &str| UserInfo { token: token.into(), ..UserInfo::default() };
    let stranger = as_user(&valor_protocol::token::encode(3, 1));
    let cases = [
        (as_user(""), code::AUTHENTICATION_FAIL),
        (stranger, code::AUTHENTICATION_FAIL),
        (as_user(&valor_protocol::token::encode(1, 1)), code::AUTHENTICATION_FAIL),
        (as_user(&plain.token), code::MGMTD_NOT_ADMIN),
    ];
    for (user, expected) in cases {
        for (method, result) in every_method(&manager.mgmtd, CLUSTER, &user).await {
            if ADMIN_METHODS.contains(&method) {
                assert_eq!(code_of(result), expected, "{method}");
            } else {
                let code = result.map_or_else(|status| status.code, |()| 0);
                assert!(code != code::AUTHENTICATION_FAIL && code != code::MGMTD_NOT_ADMIN, "{method}");
            }
        }
    }
    let req = req!(SetConfigReq { node_type: NodeType::Meta, user: as_user(&admin.token) });
    assert!(manager.mgmtd.set_config(req).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_checked() {
    let cluster = Cluster::new();
    let manager = cluster.start(1, Config::default()).await;
    until(|| manager.mgmtd.is_primary()).await;
    let m = &manager.mgmtd;
    let refused = async |req: HeartbeatReq| m.heartbeat(req).await.unwrap_err();
    let fail = |text: &str| Status::new(code::MGMTD_HEARTBEAT_FAIL, text);

    assert_eq!(refused(Node::meta(&cluster, 1).request()).await, fail("NodeId(1) duplicated"));
    assert_eq!(refused(Node::meta(&cluster, 0).request()).await, fail("Node id is 0"));
    assert_eq!(refused(Node::meta(&cluster, 50).request()).await, fail("NodeId(50) not registered"));
    m.register_node(req!(RegisterNodeReq { node_id: NodeId(50), r#type: NodeType::Meta })).await.unwrap();
    m.register_node(req!(RegisterNodeReq { node_id: NodeId(10), r#type: NodeType::Storage })).await.unwrap();
    assert_eq!(
        refused(Node::storage(&cluster, 50, &[]).request()).await,
        fail("NodeId(50) type mismatch: registered META got STORAGE")
    );

    let mut meta = Node::meta(&cluster, 50);
    for late in [-31, 31] {
        let mut req = meta.request();
        req.timestamp.0 += late * 1_000_000;
        assert_eq!(refused(req).await.code, code::MGMTD_HEARTBEAT_FAIL);
    }
    let mut req = meta.request();
    req.timestamp.0 += 29_000_000;
    m.heartbeat(req).await.unwrap();
    let stale = Status::new(code::MGMTD_HEARTBEAT_VERSION_STALE, meta.hb_version.to_string());
    meta.hb_version -= 1;
    assert_eq!(refused(meta.request()).await, stale);

    let mut req = meta.request();
    req.info.config_version = ConfigVersion(1);
    assert_eq!(refused(req).await.code, code::MGMTD_INVALID_CONFIG_VERSION);

    let mut storage = Node::storage(&cluster, 10, &[100]);
    storage.set(100, LocalTargetState::Invalid);
    assert_eq!(refused(storage.request()).await.code, code::MGMTD_HEARTBEAT_FAIL);
    let mut req = storage.request();
    let HeartbeatDetail::StorageHeartbeatInfo(info) = &mut req.info.info else { unreachable!() };
    info.targets[0].local_state = LocalTargetState::Online;
    info.targets.push(info.targets[0].clone());
    assert_eq!(refused(req).await.code, code::MGMTD_HEARTBEAT_FAIL);
    assert_eq!(manager.node_status(10).await, NodeStatus::HeartbeatConnecting, "nothing of it counted");

    let before = manager.version().await;
    storage.set(100, LocalTargetState::Online);
    storage.beat(&manager).await.unwrap();
    assert_eq!(manager.version().await.0, before.0 + 1, "its addresses were stored");
    storage.beat(&manager).await.unwrap();
    assert_eq!(manager.version().await.0, before.0 + 1);
}

#[tokio::test(start_paused = true)]
async fn nodes_are_registered_and_unregistered() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    let m = &manager.mgmtd;
    let register = |id| req!(RegisterNodeReq { node_id: NodeId(id), r#type: NodeType::Storage });
    let unregister = |id| req!(UnregisterNodeReq { node_id: NodeId(id) });
    assert_eq!(code_of(m.register_node(register(0)).await), code::MGMTD_REGISTER_FAIL);
    m.register_node(register(10)).await.unwrap();
    assert_eq!(code_of(m.register_node(register(10)).await), code::MGMTD_REGISTER_FAIL);
    assert_eq!(code_of(m.unregister_node(unregister(11)).await), code::MGMTD_NODE_NOT_FOUND);
    assert_eq!(code_of(m.unregister_node(unregister(10)).await), code::INVALID_ARG, "it is expected");
    assert_eq!(code_of(m.unregister_node(unregister(1)).await), code::INVALID_ARG, "it is the primary");

    let mut node = Node::storage(&cluster, 10, &[100]);
    manager.set_chains(&[(7, &[100])]).await.unwrap();
    node.beat(&manager).await.unwrap();
    until_async(async || manager.node_status(10).await == NodeStatus::HeartbeatFailed).await;
    let error = m.unregister_node(unregister(10)).await.unwrap_err();
    assert!(error.message.contains("referenced by TargetId(100)"), "{error}");

    // The target is found on another node.
    Node::storage(&cluster, 20, &[100]).beat(&manager).await.unwrap();
    m.unregister_node(unregister(10)).await.unwrap();
    assert!(!manager.routing().await.nodes.contains_key(&NodeId(10)));
}

#[tokio::test(start_paused = true)]
async fn nodes_are_switched_and_tagged() {
    let cluster = Cluster::new();
    let manager = cluster.primary().await;
    let m = &manager.mgmtd;
    let enable = |id| req!(EnableNodeReq { node_id: NodeId(id) });
    let disable = |id| req!(DisableNodeReq { node_id: NodeId(id) });
    assert_eq!(code_of(m.enable_node(enable(1)).await), code::INVALID_ARG);
    assert_eq!(code_of(m.disable_node(disable(1)).await), code::INVALID_ARG);
    assert_eq!(code_of(m.enable_node(enable(9)).await), code::MGMTD_NODE_NOT_FOUND);
    assert_eq!(code_of(m.disable_node(disable(9)).await), code::MGMTD_NODE_NOT_FOUND);

    let mut meta = Node::meta(&cluster, 50);
    meta.beat(&manager).await.unwrap();
    m.enable_node(enable(50)).await.unwrap();
    assert_eq!(manager.node_status(50).await, NodeStatus::HeartbeatConnected, "it was not disabled");
    m.disable_node(disable(50)).await.unwrap();
    m.disable_node(disable(50)).await.unwrap();
    assert_eq!(manager.node_status(50).await, NodeStatus::Disabled);
    assert_eq!(manager.routing().await.nodes[&NodeId(50)].tags, [tag("Disable", "")]);
    assert_eq!(code_of(meta.beat(&manager).await), code::MGMTD_HEARTBEAT_FAIL);
    m.enable_node(enable(50)).await.unwrap();
    assert_eq!(manager.node_status(50).await, NodeStatus::HeartbeatConnecting);
    assert_eq!(manager.routing().await.nodes[&NodeId(50)].tags, []);

    let set =
        |mode, tags: &[TagPair]| req!(SetNodeTagsReq { node_id: NodeId(50), tags: tags.to_vec(), mode });
    let empty_key = set(SetTagMode::Upsert, &[tag("", "x")]);
    assert_eq!(code_of(m.set_node_tags(empty_key).await), code::MGMTD_INVALID_TAG);
    let with_value = set(SetTagMode::Remove, &[tag("a", "x")]);
    assert_eq!(code_of(m.set_node_tags(with_value).await), code::MGMTD_INVALID_TAG);
    let unknown = req!(SetNodeTagsReq { node_id: NodeId(9) });
    assert_eq!(code_of(m.set_node_tags(unknown).await), code::MGMTD_NODE_NOT_FOUND);
    let version = manager.version().await;
    let info = m.set_node_tags(set(SetTagMode::Upsert, &[tag("b", "1"), tag("a", "2")])).await.unwrap().info;
    assert_eq!(info.tags, [tag("a", "2"), tag("b", "1")]);
    assert_eq!(manager.version().await.0, version.0 + 1);
    m.set_node_tags(set(SetTagMode::Upsert, &[tag("b", "1")])).await.unwrap();
    assert_eq!(manager.version().await.0, version.0 + 1, "nothing changed");
    let info = m.set_node_tags(set(SetTagMode::Upsert, &[tag("Disable", "")])).await.unwrap().info;
    assert_eq!(info.status, NodeStatus::Disabled);
    let info = m.set_node_tags(set(SetTagMode::Remove, &[tag("Disable", "")])).await.unwrap().info;
    assert_eq!(info.status, NodeStatus::HeartbeatConnecting);
    meta.beat(&manager).await.unwrap();
    assert_eq!(manager.routing().await.nodes[&NodeId(50)].tags, info.tags, "a heartbeat keeps the tags");
}

#[tokio::test(start_paused = true)]
async fn chains_are_created() {
    let cluster = Cluster::new();
    let manager = cluster.primary().await;
    let bad: [&[(u32, &[u64])]; 9] = [
        &[],
        &[(0, &[1])],
        &[(1, &[])],
        &[(1, &[0])],
        &[(1, &[10, 10])],
        &[(1, &[10]), (2, &[10])],
        &[(1, &[10]), (1, &[11])],
        &[(1, &[10]), (1, &[10])],
        &[(1, &[10]), (2, &[])],
    ];
    for chains in bad {
        let refused = manager.set_chains(chains).await;
        assert_eq!(code_of(refused), code::MGMTD_INVALID_CHAIN_TABLE, "{chains:?}");
    }
    assert!(manager.routing().await.chains.is_empty());
    let version = manager.version().await;
    manager.set_chains(&[(1, &[10, 11]), (2, &[20, 21])]).await.unwrap();
    assert_eq!(manager.version().await.0, version.0 + 1);
    assert_eq!(manager.chain(1).await.chain_version, ChainVersion(1));
    assert_eq!(manager.states(2).await, "20:Serving 21:Serving");
    manager.set_chains(&[(2, &[21, 20])]).await.unwrap();
    assert_eq!(manager.states(2).await, "20:Serving 21:Serving", "the same targets, so nothing to do");
    assert_eq!(manager.version().await.0, version.0 + 1);
    for chains in [&[(1, &[10][..])][..], &[(1, &[10, 12])], &[(3, &[11])], &[(4, &[40]), (1, &[10, 20])]] {
        let refused = manager.set_chains(chains).await;
        assert_eq!(code_of(refused), code::MGMTD_INVALID_CHAIN_TABLE, "{chains:?}");
    }
    assert_eq!(manager.routing().await.chains.len(), 2, "a refused request leaves nothing behind");
}

#[tokio::test(start_paused = true)]
async fn chain_tables_are_versioned() {
    let cluster = Cluster::new();
    let manager = cluster.primary().await;
    manager.set_chains(&[(1, &[10]), (2, &[20]), (3, &[30, 31])]).await.unwrap();
    let set = async |table: u32, chains: &[u32], desc: &str| {
        let chains = chains.iter().copied().map(ChainId).collect();
        let req = req!(SetChainTableReq { chain_table_id: ChainTableId(table), chains, desc: desc.into() });
        manager.mgmtd.set_chain_table(req).await.map(|rsp| rsp.chain_table_version.0)
    };
    assert_eq!(code_of(set(1, &[], "").await), code::MGMTD_INVALID_CHAIN_TABLE);
    assert_eq!(code_of(set(0, &[1], "").await), code::MGMTD_INVALID_CHAIN_TABLE);
    assert_eq!(code_of(set(1, &[1, 9], "").await), code::MGMTD_CHAIN_NOT_FOUND);
    assert_eq!(code_of(set(1, &[1, 3], "").await), code::MGMTD_INVALID_CHAIN_TABLE, "replicas differ");
    assert_eq!(set(1, &[1, 2], "first").await, Ok(1));
    let version = manager.version().await;
    assert_eq!(set(1, &[1, 2], "").await, Ok(1));
    assert_eq!(manager.version().await, version);
    assert_eq!(set(1, &[2, 1], "").await, Ok(2));
    assert_eq!(set(1, &[2, 1], "renamed").await, Ok(2));
    let table = |routing: &RoutingInfo, version| {
        routing.chain_table(ChainTableId(1), ChainTableVersion(version)).cloned().unwrap()
    };
    let routing = manager.routing().await;
    assert_eq!(routing.chain_tables[&ChainTableId(1)].len(), 2);
    assert_eq!(table(&routing, 1).chains, [ChainId(1), ChainId(2)], "files are laid out by it");
    assert_eq!(table(&routing, 1).desc, "first");
    assert_eq!(table(&routing, 2).chains, [ChainId(2), ChainId(1)]);
    assert_eq!(table(&routing, 2).desc, "renamed");
}

#[tokio::test(start_paused = true)]
async fn targets_join_and_leave_chains() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    manager.set_chains(&[(1, &[10, 11]), (2, &[20])]).await.unwrap();
    let update = async |chain: u32, target: u64, mode| {
        let req = req!(UpdateChainReq { chain_id: ChainId(chain), target_id: TargetId(target), mode });
        manager.mgmtd.update_chain(req).await.map(|rsp| describe(&rsp.chain))
    };
    use UpdateChainMode::{Add, Remove};
    assert_eq!(code_of(update(0, 1, Add).await), code::INVALID_ARG);
    assert_eq!(code_of(update(1, 0, Add).await), code::INVALID_ARG);
    assert_eq!(code_of(update(9, 1, Add).await), code::MGMTD_CHAIN_NOT_FOUND);
    assert_eq!(code_of(update(1, 20, Add).await), code::MGMTD_TARGET_EXISTED);
    assert_eq!(code_of(update(1, 20, Remove).await), code::MGMTD_TARGET_NOT_FOUND);
    assert_eq!(code_of(update(1, 10, Remove).await), code::INVALID_ARG);
    assert_eq!(update(1, 12, Add).await.unwrap(), "10:Serving 11:Serving 12:Offline");
    assert_eq!(manager.chain(1).await.chain_version, ChainVersion(2));
    assert_eq!(manager.routing().await.targets[&TargetId(12)].chain_id, ChainId(1));
    assert_eq!(update(1, 12, Remove).await.unwrap(), "10:Serving 11:Serving");
    assert!(!manager.routing().await.targets.contains_key(&TargetId(12)));
    assert_eq!(update(2, 12, Add).await.unwrap(), "20:Serving 12:Offline", "it may go elsewhere");
}

#[tokio::test(start_paused = true)]
async fn chains_are_rotated() {
    let cluster = Cluster::new();
    let manager = cluster.fast().await;
    manager.set_chains(&[(1, &[10, 11])]).await.unwrap();
    let m = &manager.mgmtd;
    let last = async |id| m.rotate_last_srv(req!(RotateLastSrvReq { chain_id: ChainId(id) })).await;
    assert_eq!(code_of(last(0).await), code::INVALID_ARG);
    assert_eq!(code_of(last(9).await), code::MGMTD_CHAIN_NOT_FOUND);
    assert_eq!(describe(&last(1).await.unwrap().chain), "10:Serving 11:Serving", "nothing to give up");
    until_async(async || manager.states(1).await == "10:Lastsrv 11:Offline").await;
    assert_eq!(describe(&last(1).await.unwrap().chain), "11:Lastsrv 10:Offline");
    Node::storage(&cluster, 20, &[11]).beat(&manager).await.unwrap();
    until_async(async || manager.states(1).await == "11:Serving 10:Offline").await;

    let prefer = async |chain, order: &[u64]| {
        let preferred_target_order = order.iter().copied().map(TargetId).collect();
        m.set_preferred_target_order(req!(SetPreferredTargetOrderReq {
            chain_id: ChainId(chain),
            preferred_target_order: preferred_target_order
        }))
        .await
    };
    for (chain, order) in [(0, &[10][..]), (1, &[]), (1, &[10, 10]), (1, &[10, 99])] {
        assert_eq!(code_of(prefer(chain, order).await), code::INVALID_ARG, "{chain} {order:?}");
    }
    assert_eq!(code_of(prefer(9, &[10]).await), code::MGMTD_CHAIN_NOT_FOUND);
    let before = manager.routing().await;
    assert_eq!(
        prefer(1, &[10, 11]).await.unwrap().chain.preferred_target_order,
        [TargetId(10), TargetId(11)]
    );
    let after = manager.routing().await;
    assert_eq!(after.routing_info_version, before.routing_info_version);
    assert_eq!(after.chains[&ChainId(1)].chain_version, before.chains[&ChainId(1)].chain_version);

    let rotate = async |id| {
        m.rotate_as_preferred_order(req!(RotateAsPreferredOrderReq { chain_id: ChainId(id) })).await
    };
    assert_eq!(code_of(rotate(0).await), code::INVALID_ARG);
    assert_eq!(code_of(rotate(9).await), code::MGMTD_CHAIN_NOT_FOUND);
    assert_eq!(describe(&rotate(1).await.unwrap().chain), "11:Serving 10:Offline", "10 does not serve");
    let mut nodes = [Node::storage(&cluster, 20, &[11]), Node::storage(&cluster, 21, &[10])];
    for _ in 0..20 {
        for node in &mut nodes {
            node.beat(&manager).await.unwrap();
            node.learn(&manager.routing().await);
        }
        sleep(millis(200)).await;
    }
    assert_eq!(manager.states(1).await, "11:Serving 10:Serving");
    assert_eq!(describe(&rotate(1).await.unwrap().chain), "10:Serving 11:Offline");
}

#[tokio::test(start_paused = true)]
async fn configurations_are_versioned_and_handed_out() {
    let cluster = Cluster::new();
    let manager = cluster.primary().await;
    let m = &manager.mgmtd;
    let set = async |text: &str| {
        let req = req!(SetConfigReq { node_type: NodeType::Meta, content: text.into(), desc: "d".into() });
        m.set_config(req).await.unwrap().config_version.0
    };
    let get = async |version: u64, exact| {
        let config_version = ConfigVersion(version);
        m.get_config(req!(GetConfigReq { node_type: NodeType::Meta, config_version, exact_version: exact }))
            .await
            .map(|rsp| rsp.info.map(|info| info.content))
    };
    assert_eq!(get(0, false).await, Ok(None));
    assert_eq!(get(0, true).await, Ok(Some(String::new())), "version 0 is empty");
    let routing_version = manager.version().await;
    assert_eq!((set("a").await, set("b").await), (1, 2));
    assert_eq!(manager.version().await, routing_version);
    assert_eq!(get(0, false).await, Ok(Some("b".into())));
    assert_eq!(get(2, false).await, Ok(None));
    assert_eq!(code_of(get(3, false).await), code::MGMTD_INVALID_CONFIG_VERSION);
    assert_eq!(get(1, true).await, Ok(Some("a".into())));
    assert_eq!(get(3, true).await, Ok(None));
    let versions = m.get_config_versions(req!(GetConfigVersionsReq {})).await.unwrap().versions;
    let versions: Vec<_> = versions.iter().map(|(name, version)| (name.as_str(), version.0)).collect();
    assert_eq!(versions, [("CLIENT", 0), ("FUSE", 0), ("META", 2), ("MGMTD", 0), ("STORAGE", 0)]);

    let mut meta = Node::meta(&cluster, 50);
    let mut req = meta.request();
    assert_eq!(m.heartbeat(req).await.unwrap().config.unwrap().content, "b");
    req = meta.request();
    req.info.config_version = ConfigVersion(2);
    assert_eq!(m.heartbeat(req).await.unwrap().config, None);

    // What cannot be stored is refused and does not block what comes after it.
    let huge = req!(SetConfigReq { node_type: NodeType::Meta, content: "x".repeat(64 << 20) });
    assert_eq!(code_of(m.set_config(huge).await), code::INVALID_ARG);
    assert_eq!(set("c").await, 3);
}

#[tokio::test(start_paused = true)]
async fn clients_extend_their_sessions() {
    let cluster = Cluster::new();
    let manager = cluster.primary().await;
    let m = &manager.mgmtd;
    const ID: &str = "01020304-0506-0708-090a-0b0c0d0e0f10";
    let session = |version: u64| {
        let client_session_version = ClientSessionVersion(version);
        req!(ExtendClientSessionReq { client_id: ID.into(), client_session_version, r#type: NodeType::Fuse })
    };
    let refused = async |req: ExtendClientSessionReq| m.extend_client_session(req).await.unwrap_err();
    assert_eq!(refused(req!(ExtendClientSessionReq {})).await.code, code::INVALID_ARG);
    for node_type in [NodeType::Mgmtd, NodeType::Meta, NodeType::Storage] {
        let req = ExtendClientSessionReq { r#type: node_type, ..session(1) };
        assert_eq!(refused(req).await.code, code::INVALID_ARG);
    }
    let ahead = ExtendClientSessionReq { config_version: ConfigVersion(1), ..session(1) };
    assert_eq!(refused(ahead).await.code, code::MGMTD_INVALID_CONFIG_VERSION);
    assert_eq!(
        manager
            .mgmtd
            .get_client_session(req!(GetClientSessionReq { client_id: ID.into() }))
            .await
            .unwrap()
            .session,
        None
    );

    m.extend_client_session(session(1)).await.unwrap();
    m.extend_client_session(session(1)).await.expect("the first may be sent again");
    m.extend_client_session(session(5)).await.unwrap();
    for version in [1, 5] {
        let stale = Status::new(code::MGMTD_CLIENT_SESSION_VERSION_STALE, "5");
        assert_eq!(refused(session(version)).await, stale);
    }
    let data = |edit: fn(&mut ClientSessionData)| {
        let mut req = session(6);
        edit(&mut req.data);
        req
    };
    let changed = [
        data(|data| data.universal_id = "x".into()),
        data(|data| data.description = "x".into()),
        data(|data| data.service_groups.push(Default::default())),
        data(|data| data.release_version.build_pipeline_id = 1),
        ExtendClientSessionReq { r#type: NodeType::Client, ..session(6) },
        ExtendClientSessionReq { client_start: UtcTime(1), ..session(6) },
    ];
    for req in changed {
        assert_eq!(refused(req).await.code, code::MGMTD_EXTEND_CLIENT_SESSION_MISMATCH);
    }
    m.set_config(req!(SetConfigReq { node_type: NodeType::Fuse, content: "f".into() })).await.unwrap();
    let rsp = m.extend_client_session(session(6)).await.unwrap();
    assert_eq!(rsp.config.unwrap().content, "f");

    sleep(seconds(5)).await;
    let now = cluster.utc_now();
    let up_to_date = ExtendClientSessionReq { config_version: ConfigVersion(1), ..session(7) };
    assert_eq!(m.extend_client_session(up_to_date).await.unwrap().config, None);
    let rsp = m.get_client_session(req!(GetClientSessionReq { client_id: ID.into() })).await.unwrap();
    let known = rsp.session.unwrap();
    assert_eq!((known.last_extend, known.config_version), (now, ConfigVersion(1)));
    assert!(known.start < now && rsp.bootstrapping);

    let odd = req!(ExtendClientSessionReq { client_id: "not a uuid".into() });
    m.extend_client_session(odd.clone()).await.unwrap();
    let strict = cluster_of_uuids().await;
    assert_eq!(strict.mgmtd.extend_client_session(odd).await.unwrap_err().code, code::INVALID_ARG);
    assert!(strict.mgmtd.extend_client_session(session(1)).await.is_ok());
}

async fn cluster_of_uuids() -> Manager {
    let config = Config { only_accept_client_uuid: true, ..Config::default() };
    let manager = Cluster::new().start(1, config).await;
    until(|| manager.mgmtd.is_primary()).await;
    manager
}

#[tokio::test(start_paused = true)]
async fn universal_tags_reach_clients() {
    let cluster = Cluster::new();
    let manager = cluster.primary().await;
    let m = &manager.mgmtd;
    let set = async |id: &str, mode, tags: &[TagPair]| {
        let req = req!(SetUniversalTagsReq { universal_id: id.into(), tags: tags.to_vec(), mode });
        m.set_universal_tags(req).await.map(|rsp| rsp.tags)
    };
    assert_eq!(code_of(set("", SetTagMode::Upsert, &[tag("a", "")]).await), code::INVALID_ARG);
    assert_eq!(code_of(set("u", SetTagMode::Upsert, &[tag("", "")]).await), code::MGMTD_INVALID_TAG);
    assert_eq!(code_of(set("u", SetTagMode::Remove, &[tag("a", "1")]).await), code::MGMTD_INVALID_TAG);
    let version = manager.version().await;
    assert_eq!(set("u", SetTagMode::Upsert, &[tag("a", "1")]).await.unwrap(), [tag("a", "1")]);
    assert_eq!(manager.version().await, version, "tags are no routing information");
    let get = async |id: &str| {
        m.get_universal_tags(req!(GetUniversalTagsReq { universal_id: id.into() })).await.unwrap().tags
    };
    assert_eq!(get("u").await, [tag("a", "1")]);
    assert_eq!(get("v").await, []);
    let data = ClientSessionData { universal_id: "u".into(), ..ClientSessionData::default() };
    let rsp =
        m.extend_client_session(req!(ExtendClientSessionReq { client_id: "c".into(), data: data })).await;
    assert_eq!(rsp.unwrap().tags, [tag("a", "1")]);
    let list = m.list_client_sessions(req!(ListClientSessionsReq {})).await.unwrap();
    assert_eq!(list.referenced_tags["u"], [tag("a", "1")]);
    let one = m.get_client_session(req!(GetClientSessionReq { client_id: "c".into() })).await.unwrap();
    assert_eq!(one.referenced_tags, [tag("a", "1")]);
    assert_eq!(code_of(m.get_client_session(req!(GetClientSessionReq {})).await), code::INVALID_ARG);
}

#[tokio::test(start_paused = true)]
async fn routing_versions_are_compared() {
    let cluster = Cluster::new();
    let manager = cluster.primary().await;
    let version = manager.version().await;
    let get = async |version| {
        let req = req!(GetRoutingInfoReq { routing_info_version: RoutingInfoVersion(version) });
        manager.mgmtd.get_routing_info(req).await
    };
    assert_eq!(get(version.0).await.unwrap().info, None);
    assert_eq!(code_of(get(version.0 + 1).await), code::MGMTD_INVALID_ROUTING_INFO_VERSION);
    assert!(get(version.0 - 1).await.unwrap().info.is_some());
}

#[tokio::test(start_paused = true)]
async fn changed_routing_information_is_encoded_once() {
    let cluster = Cluster::new();
    let manager = cluster.primary().await;
    let ask = async |routing_info_version| {
        let req = GetRoutingInfoReq {
            cluster_id: CLUSTER.into(),
            routing_info_version,
            ..GetRoutingInfoReq::default()
        };
        manager.mgmtd.routing_reply(req).await
    };
    let decode = |bytes: &bytes::Bytes| valor_wire::from_bytes::<GetRoutingInfoRsp>(bytes.clone()).unwrap();
    let old = manager.version().await;
    for chain in [7, 8] {
        manager.set_chains(&[(chain, &[u64::from(chain) * 10])]).await.unwrap();
        let (first, second) = (ask(old).await.unwrap(), ask(old).await.unwrap());
        let bytes = first.value.bytes();
        assert_eq!(bytes.as_ptr(), second.value.bytes().as_ptr(), "the same bytes");
        assert_eq!(first.known[0].crc, valor_wire::storage_crc32c(bytes));
        assert_eq!(decode(bytes).info.unwrap(), manager.routing().await);
    }
    let unchanged = ask(manager.version().await).await.unwrap();
    assert_eq!(decode(unchanged.value.bytes()).info, None);
    let newer = RoutingInfoVersion(manager.version().await.0 + 1);
    assert_eq!(ask(newer).await.unwrap_err().code, code::MGMTD_INVALID_ROUTING_INFO_VERSION);
}
