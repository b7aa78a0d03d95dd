//! One client shared by threads with runtimes of their own, over real sockets.

use crate::file::layout;
use crate::memory::Memory;
use crate::servers::*;
use std::sync::Arc;
use std::time::Duration;
use valor_client::file::{FileMap, FileRead, FileReadOptions, FileWrite, FileWriteOptions};
use valor_client::mgmtd::{Identity, MgmtdClientConfig};
use valor_client::storage::StorageClientConfig;
use valor_client::{FileIo, MgmtdClient, StorageClient};
use valor_env::{Endpoint, Env};
use valor_protocol::app::{ClientId, FbsAppInfo};
use valor_protocol::mgmtd::methods::{GetPrimaryMgmtd, GetRoutingInfo, SERVICE, SERVICE_ID};
use valor_protocol::mgmtd::*;
use valor_protocol::storage::methods::SERVICE as STORAGE;
use valor_protocol::user::UserInfo;
use valor_protocol::*;
use valor_rpc::{Client, ClientConfig, Router, Server, ServerConfig, ServerHandle};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn listen(env: &Env, router: Router) -> (ServerHandle, Address) {
    let any = Endpoint::Tcp("127.0.0.1:0".parse().unwrap());
    let handle =
        Server::builder(env.clone(), ServerConfig::default()).service(router).listen(&[any]).unwrap();
    let Endpoint::Tcp(address) = handle.addresses()[0] else { unreachable!() };
    (handle, rpc_address(address))
}

fn info(storage: Address) -> RoutingInfo {
    let mut info = RoutingInfo { routing_info_version: RoutingInfoVersion(1), ..RoutingInfo::default() };
    let app = FbsAppInfo { service_groups: vec![group(STORAGE, storage)], ..FbsAppInfo::default() };
    info.nodes.insert(NodeId(1), NodeInfo { app, r#type: NodeType::Storage, ..NodeInfo::default() });
    let (target_id, public_state) = (TargetId(1), PublicTargetState::Serving);
    let (chain_id, node_id) = (ChainId(1), Some(NodeId(1)));
    let target = TargetInfo { target_id, public_state, chain_id, node_id, ..TargetInfo::default() };
    info.targets.insert(target_id, target);
    let targets = vec![ChainTargetInfo { target_id, public_state }];
    info.chains.insert(chain_id, ChainInfo { chain_id, targets, ..ChainInfo::default() });
    let table = ChainTable { chains: vec![chain_id], ..ChainTable::default() };
    info.chain_tables.insert(ChainTableId(1), [(ChainTableVersion(1), table)].into());
    info
}

/// Servers on their own thread until the sender is dropped; the manager's address.
fn serve_cluster(env: Env) -> (tokio::sync::oneshot::Sender<()>, Address) {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let (_storage, storage) = listen(&env, Memory::default().router(|| None));
            let router =
                Router::new(SERVICE_ID, SERVICE).method::<GetRoutingInfo, _, _>(move |_, _| async move {
                    Ok(GetRoutingInfoRsp { info: Some(info(storage)) })
                });
            let own = Arc::new(std::sync::OnceLock::<Address>::new());
            let known = own.clone();
            let router = router.method::<GetPrimaryMgmtd, _, _>(move |_, _| {
                let service_groups = vec![group(SERVICE, *known.get().unwrap())];
                let primary = PersistentNodeInfo { node_id: NodeId(9), service_groups, ..Default::default() };
                async move { Ok(GetPrimaryMgmtdRsp { primary: Some(primary) }) }
            });
            let (_manager, manager) = listen(&env, router);
            own.set(manager).unwrap();
            tell.send(manager).unwrap();
            let _ = stopped.await;
        });
    });
    (stop, told.recv().unwrap())
}

#[test]
fn shards_share_clients() {
    let env = Env::real();
    let (_running, manager) = serve_cluster(env.clone());
    let main = runtime();
    let (rpc, _guard) = (Client::new(env.clone(), ClientConfig::default()), main.enter());
    let config = MgmtdClientConfig {
        mgmtd_server_addresses: vec![manager.to_string()],
        ..MgmtdClientConfig::default()
    };
    let identity = Identity::observer("test", UserInfo::default());
    let mgmtd = MgmtdClient::start(env.clone(), rpc.clone(), config, identity);
    main.block_on(mgmtd.wait_ready(Duration::from_secs(20))).unwrap();
    let storage =
        StorageClient::new(&env, rpc, mgmtd.clone(), StorageClientConfig::default(), ClientId::default());
    let shards: Vec<_> = (0..3u64)
        .map(|shard| {
            let (io, mgmtd) = (FileIo::new(storage.clone()), mgmtd.clone());
            std::thread::spawn(move || {
                runtime().block_on(async {
                    let (map, user) = (FileMap::new(InodeId(shard), &layout()).unwrap(), UserInfo::default());
                    let data = vec![shard as u8; 10_000];
                    let write = FileWrite { map: &map, offset: 5, data: data.clone().into() };
                    assert_eq!(io.write(&user, write, &FileWriteOptions::default()).await, Ok(10_000));
                    mgmtd.refresh_now().await.unwrap();
                    let read = FileRead { map: &map, offset: 5, length: 20_000, file_length: None };
                    assert_eq!(
                        io.read(&user, read, &FileReadOptions::default()).await.unwrap().to_bytes(),
                        data
                    );
                });
            })
        })
        .collect();
    for shard in shards {
        shard.join().unwrap();
    }
}
