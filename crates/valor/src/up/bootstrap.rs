//! Makes a fresh cluster usable: targets, chains and a chain table, through the same calls an administrator makes.
//! Every step may be repeated, so an interrupted first `up` is finished by the next one.

use super::plan::{Plan, PlannedTarget};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use valor_client::mgmtd::{Identity, MgmtdClient, MgmtdClientConfig};
use valor_env::Env;
use valor_protocol::Method;
use valor_protocol::address::{Address, AddressType};
use valor_protocol::mgmtd::{self, NodeStatus, PublicTargetState, RoutingInfo, methods};
use valor_protocol::storage;
use valor_protocol::user::UserInfo;
use valor_protocol::{ChainId, ChainTableId, NodeId, RoutingInfoVersion, TargetId};
use valor_rpc::{CallOptions, Client, ClientConfig};
use valor_wire::Status;

/// The one chain table of a local cluster.
pub const CHAIN_TABLE: ChainTableId = ChainTableId(1);
const POLL: Duration = Duration::from_millis(50);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Talks to the processes of a local cluster.
pub struct Bootstrap {
    rpc: Arc<Client>,
    managers: Arc<MgmtdClient>,
    plan: Plan,
}

/// Which step did not finish, and what was last seen.
#[derive(Debug)]
pub struct Stuck {
    step: String,
    last: String,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} did not finish in time; last answer: {}", self.step, self.last)
    }
}

impl Bootstrap {
    pub fn new(env: Env, plan: Plan) -> Self {
        let rpc = Client::new(env.clone(), ClientConfig::default());
        let config = MgmtdClientConfig {
            mgmtd_server_addresses: plan.mgmtds().iter().map(|m| local(m.ports[0]).to_string()).collect(),
            enable_auto_refresh: false,
            rpc_timeout: valor_config::Duration::new(CALL_TIMEOUT),
            ..MgmtdClientConfig::for_admin()
        };
        let identity = Identity::observer(plan.cluster_id.clone(), UserInfo::default());
        let managers = MgmtdClient::start(env, Arc::clone(&rpc), config, identity);
        Self { rpc, managers, plan }
    }

    /// Waits until a manager leads, then until every server has reported to it, other managers too.
    pub async fn wait_for_servers(&self, deadline: Instant) -> Result<(), Stuck> {
        let servers = self.plan.mgmtds().into_iter().chain(self.plan.metas()).map(|server| server.node_id);
        let wanted: Vec<NodeId> = self.plan.storage_node_ids().chain(servers).map(NodeId).collect();
        let there = [NodeStatus::HeartbeatConnected, NodeStatus::PrimaryMgmtd];
        self.wait_for("starting the servers", deadline, |routing| {
            let missing: Vec<_> = wanted
                .iter()
                .filter(|id| routing.nodes.get(id).is_none_or(|n| !there.contains(&n.status)))
                .collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("no heartbeat yet from nodes {missing:?}")) }
        })
        .await
    }

    /// Creates what is missing of targets, chains and the chain table.
    pub async fn create_chains(&self, deadline: Instant) -> Result<(), Stuck> {
        let routing = self.routing_until("asking mgmtd for chains", deadline).await?;
        let chains = self.plan.chain_targets();
        let missing: Vec<_> = chains
            .iter()
            .filter(|chain| !routing.chains.contains_key(&ChainId(chain[0].chain_id)))
            .cloned()
            .collect();
        for target in missing.iter().flatten() {
            self.retry("creating a target", deadline, || self.create_target(*target)).await?;
        }
        if !missing.is_empty() {
            self.retry("creating chains", deadline, || self.set_chains(&missing)).await?;
        }
        if !routing.chain_tables.contains_key(&CHAIN_TABLE) {
            let ids: Vec<ChainId> = chains.iter().map(|chain| ChainId(chain[0].chain_id)).collect();
            self.retry("creating the chain table", deadline, || self.set_chain_table(&ids)).await?;
        }
        Ok(())
    }

    /// Waits until every chain has at least one serving target.
    pub async fn wait_for_chains(&self, deadline: Instant) -> Result<(), Stuck> {
        self.wait_for("waiting for chains to serve", deadline, |routing| {
            let waiting: Vec<_> = routing
                .chains
                .values()
                .filter(|chain| !chain_serves(routing, chain))
                .map(|chain| chain.chain_id.to_string())
                .collect();
            if waiting.is_empty() && !routing.chains.is_empty() {
                Ok(())
            } else {
                Err(format!("chains not serving yet: {}", waiting.join(" ")))
            }
        })
        .await
    }

    async fn wait_for(
        &self,
        step: &str,
        deadline: Instant,
        ready: impl Fn(&RoutingInfo) -> Result<(), String>,
    ) -> Result<(), Stuck> {
        loop {
            let last = match self.routing().await {
                Ok(routing) => match ready(&routing) {
                    Ok(()) => return Ok(()),
                    Err(reason) => reason,
                },
                Err(status) => status.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(Stuck { step: step.to_owned(), last });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn retry<F: Future<Output = Result<(), Status>>>(
        &self,
        step: &str,
        deadline: Instant,
        call: impl Fn() -> F,
    ) -> Result<(), Stuck> {
        loop {
            let Err(status) = call().await else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(Stuck { step: step.to_owned(), last: status.to_string() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn routing_until(&self, step: &str, deadline: Instant) -> Result<RoutingInfo, Stuck> {
        loop {
            let status = match self.routing().await {
                Ok(routing) => return Ok(routing),
                Err(status) => status,
            };
            if Instant::now() >= deadline {
                return Err(Stuck { step: step.to_owned(), last: status.to_string() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn routing(&self) -> Result<RoutingInfo, Status> {
        let request = mgmtd::GetRoutingInfoReq {
            cluster_id: self.plan.cluster_id.clone(),
            routing_info_version: RoutingInfoVersion(0),
            ..Default::default()
        };
        let reply = self.mgmtd::<methods::GetRoutingInfo>(&request).await?;
        Ok(reply.info.unwrap_or_default())
    }

    async fn create_target(&self, target: PlannedTarget) -> Result<(), Status> {
        let index = (target.node_id - self.plan.storage_node_ids().next().unwrap_or_default()) as usize;
        let request = storage::CreateTargetReq {
            target_id: TargetId(target.target_id),
            disk_index: target.disk_index,
            chain_id: ChainId(target.chain_id),
            allow_existing_target: true,
            ..Default::default()
        };
        let address = local(self.plan.ports.storage[index][0]);
        self.rpc.call::<storage::methods::CreateTarget>(address, &request, &options()).await.map(drop)
    }

    async fn set_chains(&self, chains: &[Vec<PlannedTarget>]) -> Result<(), Status> {
        let settings = chains
            .iter()
            .map(|chain| mgmtd::ChainSetting {
                chain_id: ChainId(chain[0].chain_id),
                targets: chain
                    .iter()
                    .map(|target| mgmtd::ChainTargetSetting { target_id: TargetId(target.target_id) })
                    .collect(),
                set_preferred_target_order: true,
            })
            .collect();
        let request = mgmtd::SetChainsReq {
            cluster_id: self.plan.cluster_id.clone(),
            chains: settings,
            ..Default::default()
        };
        self.mgmtd::<methods::SetChains>(&request).await.map(drop)
    }

    async fn set_chain_table(&self, chains: &[ChainId]) -> Result<(), Status> {
        let request = mgmtd::SetChainTableReq {
            cluster_id: self.plan.cluster_id.clone(),
            chain_table_id: CHAIN_TABLE,
            chains: chains.to_vec(),
            desc: "valor up".into(),
            ..Default::default()
        };
        self.mgmtd::<methods::SetChainTable>(&request).await.map(drop)
    }

    async fn mgmtd<M: Method>(&self, request: &M::Req) -> Result<M::Rsp, Status> {
        self.managers.call::<M>(request).await
    }
}

fn chain_serves(routing: &RoutingInfo, chain: &mgmtd::ChainInfo) -> bool {
    chain.targets.first().is_some_and(|target| {
        target.public_state == PublicTargetState::Serving
            && routing
                .targets
                .get(&target.target_id)
                .is_some_and(|info| info.local_state == mgmtd::LocalTargetState::Uptodate)
    })
}

fn options() -> CallOptions {
    CallOptions::timeout(CALL_TIMEOUT)
}

/// A port of this machine's loopback interface.
pub fn local(port: u16) -> Address {
    Address { ip: [127, 0, 0, 1], port, kind: AddressType::Tcp }
}
