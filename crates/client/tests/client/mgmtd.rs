//! The manager's client.

use crate::net::Net;
use crate::servers::*;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use valor_client::MgmtdClient;
use valor_client::mgmtd::{Identity, MgmtdClientConfig, Role};
use valor_protocol::app::{ClientId, FbsAppInfo};
use valor_protocol::mgmtd::methods::{
    ExtendClientSession, GetConfigVersions, GetPrimaryMgmtd, GetRoutingInfo, Heartbeat, RotateLastSrv,
    SERVICE, SERVICE_ID,
};
use valor_protocol::mgmtd::*;
use valor_protocol::status::{code, status, with_message};
use valor_protocol::user::UserInfo;
use valor_protocol::*;
use valor_rpc::Router;

fn person(id: u32, at: SocketAddr) -> PersistentNodeInfo {
    let service_groups = vec![group(SERVICE, rpc_address(at))];
    PersistentNodeInfo { node_id: NodeId(id), service_groups, ..PersistentNodeInfo::default() }
}

fn router() -> Router {
    Router::new(SERVICE_ID, SERVICE)
}

/// A router that says who is primary.
fn knows(primary: Option<PersistentNodeInfo>) -> (Router, Arc<Seen<GetPrimaryMgmtd>>) {
    scripted::<GetPrimaryMgmtd>(router(), move |_, _| Ok(GetPrimaryMgmtdRsp { primary: primary.clone() }))
}

fn config(addresses: &[SocketAddr]) -> MgmtdClientConfig {
    let mgmtd_server_addresses = addresses.iter().map(|address| format!("RDMA://{address}")).collect();
    MgmtdClientConfig { mgmtd_server_addresses, enable_auto_refresh: false, ..MgmtdClientConfig::default() }
}

fn observer(net: &Net, addresses: &[SocketAddr]) -> Arc<MgmtdClient> {
    let identity = Identity::observer("test", UserInfo::default());
    MgmtdClient::start(net.env(), rpc_client(net), config(addresses), identity)
}

const AT: [&str; 3] = ["127.0.0.1:501", "127.0.0.1:502", "127.0.0.1:503"];

fn at(index: usize) -> SocketAddr {
    AT[index].parse().unwrap()
}

fn versions(router: Router) -> (Router, Arc<Seen<GetConfigVersions>>) {
    scripted::<GetConfigVersions>(router, |_, _| Ok(GetConfigVersionsRsp::default()))
}

#[tokio::test(start_paused = true)]
async fn finds_the_primary_through_another_manager() {
    let net = Net::new(1);
    let (secondary, _) = knows(Some(person(2, at(1))));
    let _secondary = serve_at(&net, AT[0], [secondary]);
    let (primary, asked) = knows(Some(person(2, at(1))));
    let (primary, calls) = versions(primary);
    let _primary = serve_at(&net, AT[1], [primary]);
    let client = observer(&net, &[at(2), at(0)]);
    client.get_config_versions().await.unwrap();
    client.get_config_versions().await.unwrap();
    assert_eq!((calls.count(), asked.count()), (2, 1), "the primary is remembered");
    assert_eq!(client.primary_node(), Some(NodeId(2)));
    assert_eq!(calls.all()[0].cluster_id, "test");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_a_former_primary_is_followed_once() {
    let net = Net::new(2);
    let now_primary = Arc::new(Mutex::new(1));
    let serve_manager = |id: u32| {
        let now = now_primary.clone();
        let (router, _) = scripted::<GetPrimaryMgmtd>(router(), move |_, _| {
            let primary = *now.lock();
            Ok(GetPrimaryMgmtdRsp { primary: Some(person(primary, at(primary as usize - 1))) })
        });
        let now = now_primary.clone();
        let (router, seen) = scripted::<GetConfigVersions>(router, move |_, _| {
            let primary = *now.lock();
            if primary == id {
                return Ok(GetConfigVersionsRsp::default());
            }
            Err(with_message(code::MGMTD_NOT_PRIMARY, primary.to_string()))
        });
        (serve_at(&net, AT[id as usize - 1], [router]), seen)
    };
    let (_one, first) = serve_manager(1);
    let (_two, second) = serve_manager(2);
    let client = observer(&net, &[at(0), at(1)]);
    client.get_config_versions().await.unwrap();
    *now_primary.lock() = 2;
    client.get_config_versions().await.unwrap();
    assert_eq!((first.count(), second.count()), (2, 1));
    client.get_config_versions().await.unwrap();
    assert_eq!((first.count(), second.count()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_dead_primary_is_replaced() {
    let net = Net::new(3);
    let (one, _) = knows(Some(person(1, at(0))));
    let (one, first) = versions(one);
    let one = serve_at(&net, AT[0], [one]);
    let (two, _) = knows(Some(person(2, at(1))));
    let (two, second) = versions(two);
    let _two = serve_at(&net, AT[1], [two]);
    let client = observer(&net, &[at(0), at(1)]);
    client.get_config_versions().await.unwrap();
    assert_eq!(first.count(), 1);
    one.handle.stop(Duration::ZERO).await;
    client.get_config_versions().await.unwrap();
    assert_eq!(second.count(), 1);
    assert_eq!(client.primary_node(), Some(NodeId(2)));
}

#[tokio::test(start_paused = true)]
async fn other_errors_are_returned_at_once() {
    let net = Net::new(4);
    let (one, _) = knows(Some(person(1, at(0))));
    let (one, seen) = scripted::<GetConfigVersions>(one, |_, _| Err(status(code::MGMTD_CLUSTER_ID_MISMATCH)));
    let _one = serve_at(&net, AT[0], [one]);
    let client = observer(&net, &[at(0)]);
    assert_eq!(client.get_config_versions().await.unwrap_err().code, 5003);
    assert_eq!(seen.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_primary() {
    let net = Net::new(5);
    let (one, _) = knows(None);
    let _one = serve_at(&net, AT[0], [one]);
    let client = observer(&net, &[at(0), at(1)]);
    assert_eq!(client.get_config_versions().await.unwrap_err().code, 6000);
    let error = client.wait_ready(Duration::from_secs(3)).await.unwrap_err();
    assert_eq!(error.code, 6004);
}

fn routing_server(
    net: &Net,
    answer: impl Fn(GetRoutingInfoReq, usize) -> Result<GetRoutingInfoRsp, Status> + Send + Sync + 'static,
) -> (Running, Arc<Seen<GetRoutingInfo>>) {
    let (router, _) = knows(Some(person(1, at(0))));
    let (router, seen) = scripted::<GetRoutingInfo>(router, answer);
    (serve_at(net, AT[0], [router]), seen)
}

fn info(version: u64) -> GetRoutingInfoRsp {
    let routing_info_version = RoutingInfoVersion(version);
    GetRoutingInfoRsp { info: Some(RoutingInfo { routing_info_version, ..RoutingInfo::default() }) }
}

#[tokio::test(start_paused = true)]
async fn refreshes_are_shared_and_watched() {
    let net = Net::new(6);
    let (_server, seen) = routing_server(&net, |req, _| {
        Ok(if req.routing_info_version.0 < 9 { info(9) } else { GetRoutingInfoRsp::default() })
    });
    let client = observer(&net, &[at(0)]);
    let mut watch = client.watch();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.refresh_now().await.map(|routing| routing.version().0) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), Ok(9));
    }
    assert!(seen.count() <= 2, "{} requests for 20 callers", seen.count());
    watch.changed().await.unwrap();
    assert_eq!(watch.borrow_and_update().version().0, 9);
    client.refresh_now().await.unwrap();
    assert!(!watch.has_changed().unwrap(), "nothing changed");
    assert_eq!(seen.all().last().unwrap().routing_info_version.0, 9);
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_went_back_in_time_is_believed() {
    let net = Net::new(7);
    let (_server, seen) = routing_server(&net, |req, count| match (count, req.routing_info_version.0) {
        (0, _) => Ok(info(50)),
        (_, 0) => Ok(info(7)),
        _ => Err(status(code::MGMTD_INVALID_ROUTING_INFO_VERSION)),
    });
    let client = observer(&net, &[at(0)]);
    client.refresh_now().await.unwrap();
    assert_eq!(client.refresh_now().await.unwrap().version().0, 7);
    let asked: Vec<u64> = seen.all().iter().map(|req| req.routing_info_version.0).collect();
    assert_eq!(asked, [0, 50, 0]);
}

#[tokio::test(start_paused = true)]
async fn incomplete_information_may_be_ignored() {
    let net = Net::new(8);
    let (_server, _) = routing_server(&net, |_, count| {
        let mut rsp = info(count as u64 + 1);
        let info = rsp.info.as_mut().unwrap();
        info.bootstrapping = count == 0;
        info.nodes.insert(NodeId(1), NodeInfo::default());
        Ok(rsp)
    });
    let identity = Identity::observer("test", UserInfo::default());
    let config = MgmtdClientConfig {
        accept_incomplete_routing_info_during_mgmtd_bootstrapping: false,
        ..config(&[at(0)])
    };
    let client = MgmtdClient::start(net.env(), rpc_client(&net), config, identity);
    assert_eq!(client.refresh_now().await.unwrap().version().0, 0);
    assert_eq!(client.refresh_now().await.unwrap().version().0, 2);
}

#[tokio::test(start_paused = true)]
async fn routing_is_refreshed_in_the_background() {
    let net = Net::new(9);
    let (_server, seen) = routing_server(&net, |_, count| Ok(info(count as u64 + 1)));
    let identity = Identity::observer("test", UserInfo::default());
    let config = MgmtdClientConfig { enable_auto_refresh: true, ..config(&[at(0)]) };
    let client = MgmtdClient::start(net.env(), rpc_client(&net), config, identity);
    client.wait_ready(Duration::from_secs(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(seen.count(), 4, "at 0, 10, 20 and 30 s");
    client.stop().await;
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(seen.count(), 4);
}

fn server_identity(on_config: impl Fn(&ConfigInfo) -> bool + Send + Sync + 'static) -> Identity {
    let role = Role::Server {
        app: FbsAppInfo { node_id: NodeId(10), ..FbsAppInfo::default() },
        detail: Box::new(|| HeartbeatDetail::StorageHeartbeatInfo(StorageHeartbeatInfo::default())),
    };
    let mut identity = Identity::new("test", UserInfo::default(), role);
    identity.on_config = Some(Arc::new(on_config));
    identity
}

#[tokio::test(start_paused = true)]
async fn heartbeats_continue_after_the_version_the_manager_knows() {
    let net = Net::new(10);
    let last = Mutex::new(41);
    let (router, _) = knows(Some(person(1, at(0))));
    let (router, seen) = scripted::<Heartbeat>(router, move |req, _| {
        let mut last = last.lock();
        if req.info.hb_version.0 <= *last {
            return Err(with_message(code::MGMTD_HEARTBEAT_VERSION_STALE, last.to_string()));
        }
        *last = req.info.hb_version.0;
        let config_version = ConfigVersion(3);
        let config = ConfigInfo { config_version, ..ConfigInfo::default() };
        Ok(HeartbeatRsp { config: (req.info.config_version.0 < 3).then_some(config) })
    });
    let _server = serve_at(&net, AT[0], [router]);
    let offered = Arc::new(Mutex::new(0));
    let counter = offered.clone();
    let identity = server_identity(move |config| {
        assert_eq!(config.config_version, ConfigVersion(3));
        *counter.lock() += 1;
        *counter.lock() > 1 // the first time it cannot be applied
    });
    let client = MgmtdClient::start(net.env(), rpc_client(&net), config(&[at(0)]), identity);
    client.start_heartbeat();
    tokio::time::sleep(Duration::from_secs(25)).await;
    let sent: Vec<(u64, u64)> =
        seen.all().iter().map(|req| (req.info.hb_version.0, req.info.config_version.0)).collect();
    assert_eq!(sent, [(1, 0), (42, 0), (43, 0), (44, 3)]);
    assert_eq!(*offered.lock(), 2);
    client.trigger_heartbeat();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(seen.count(), 5);
    assert!(client.extend_session_now().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn sessions_are_extended() {
    let net = Net::new(11);
    let (router, _) = knows(Some(person(1, at(0))));
    let (router, seen) = scripted::<ExtendClientSession>(router, |_, count| match count {
        1 => Err(with_message(code::MGMTD_CLIENT_SESSION_VERSION_STALE, "7")),
        _ => Ok(ExtendClientSessionRsp::default()),
    });
    let _server = serve_at(&net, AT[0], [router]);
    let client_id = ClientId { uuid: Uuid([7; 16]), hostname: "h".into() };
    let data = ClientSessionData { universal_id: "u".into(), ..ClientSessionData::default() };
    let role = Role::Client { client_id, data, node_type: NodeType::Fuse };
    let identity = Identity::new("test", UserInfo::default(), role);
    let config = MgmtdClientConfig { enable_auto_extend_client_session: true, ..config(&[at(0)]) };
    let client = MgmtdClient::start(net.env(), rpc_client(&net), config, identity);
    tokio::time::sleep(Duration::from_secs(25)).await;
    let all = seen.all();
    let versions: Vec<u64> = all.iter().map(|req| req.client_session_version.0).collect();
    assert_eq!(versions, [1, 2, 8, 9]);
    assert_eq!(all[0].client_id, "07070707-0707-0707-0707-070707070707");
    assert_eq!((all[0].r#type, all[0].data.universal_id.as_str()), (NodeType::Fuse, "u"));
    assert_eq!(all[0].client_start, all[3].client_start);
    drop(client);
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(seen.count(), 4, "the task ends with the last reference");
}

/// A manager that takes rotations and answers none; how many it took.
fn never_answers(router: Router) -> (Router, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let router = router.method::<RotateLastSrv, _, _>(move |_, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        std::future::pending()
    });
    (router, taken)
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_done_is_not_done_again() {
    let net = Net::new(12);
    let (one, _) = knows(Some(person(1, at(0))));
    let (one, taken) = never_answers(one);
    let _one = serve_at(&net, AT[0], [one]);
    let (two, _) = knows(Some(person(2, at(1))));
    let (two, second) = scripted::<RotateLastSrv>(two, |_, _| Ok(RotateLastSrvRsp::default()));
    let _two = serve_at(&net, AT[1], [two]);
    let client = observer(&net, &[at(0), at(1)]);
    let req = RotateLastSrvReq::default();
    let error = client.call_once::<RotateLastSrv>(&req).await.unwrap_err();
    assert_eq!(error.code, code::RPC_TIMEOUT);
    assert_eq!((taken.load(Ordering::Relaxed), second.count()), (1, 0));
    client.call::<RotateLastSrv>(&req).await.unwrap();
    assert_eq!((taken.load(Ordering::Relaxed), second.count()), (2, 1), "other calls are repeated");
}

#[tokio::test(start_paused = true)]
async fn what_surely_was_not_done_is_done_elsewhere() {
    let net = Net::new(13);
    let (one, _) = knows(Some(person(1, at(0))));
    let (one, first) = scripted::<RotateLastSrv>(one, |_, _| Err(with_message(code::MGMTD_NOT_PRIMARY, "2")));
    let (one, _) = versions(one);
    let one = serve_at(&net, AT[0], [one]);
    let (two, _) = knows(Some(person(2, at(1))));
    let (two, second) = scripted::<RotateLastSrv>(two, |_, _| Ok(RotateLastSrvRsp::default()));
    let _two = serve_at(&net, AT[1], [two]);
    let client = observer(&net, &[at(0), at(1)]);
    let req = RotateLastSrvReq::default();
    client.call_once::<RotateLastSrv>(&req).await.unwrap();
    assert_eq!((first.count(), second.count()), (1, 1), "a refusal is followed");
    // Another client still believes that the first one is primary, which cannot be reached.
    let client = observer(&net, &[at(0), at(1)]);
    client.get_config_versions().await.unwrap();
    assert_eq!(client.primary_node(), Some(NodeId(1)));
    one.handle.stop(Duration::ZERO).await;
    client.call_once::<RotateLastSrv>(&req).await.unwrap();
    assert_eq!((first.count(), second.count()), (1, 2));
}
