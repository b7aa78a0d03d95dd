//! Making a fresh cluster usable, as `valor up` does.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use valor_protocol::meta::PathAt;
use valor_protocol::mgmtd::{
    ChainInfo, ChainSetting, ChainTargetSetting, LocalTargetState, NodeStatus, PublicTargetState, RoutingInfo,
};
use valor_protocol::storage::CreateTargetReq;
use valor_protocol::user::UserInfo;
use valor_protocol::{ChainId, InodeId, NodeId, TargetId};

use super::{Cluster, Kind, STORAGE, TABLE};

const POLL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);

/// Id of a chain.
pub fn chain_id(index: u8) -> ChainId {
    ChainId(100_001 + u32::from(index))
}

impl Cluster {
    pub(super) async fn create_chains(&self) -> Result<(), String> {
        let shape = self.shape;
        self.until("mgmtd answers", PATIENCE, || async { self.admin.mgmtd.refresh_now().await.map(drop) })
            .await?;
        let nodes: Vec<NodeId> =
            self.of(Kind::Storage).into_iter().map(|index| self.nodes[index].id()).collect();
        self.wait_for_nodes("storage servers are there", &nodes).await?;
        let mut settings = Vec::new();
        for chain in 0..shape.chains {
            let mut targets = Vec::new();
            for replica in 0..shape.replicas {
                let host = STORAGE + (chain + replica) % shape.storage;
                let target_id = TargetId(u64::from(host) << 32 | u64::from(chain) << 8 | 1);
                let req = CreateTargetReq {
                    target_id,
                    chain_id: chain_id(chain),
                    allow_existing_target: true,
                    ..CreateTargetReq::default()
                };
                let node = NodeId(u32::from(host));
                self.until("target is created", PATIENCE, || self.admin.storage.create_target(node, &req))
                    .await?;
                targets.push(ChainTargetSetting { target_id });
            }
            settings.push(ChainSetting {
                chain_id: chain_id(chain),
                targets,
                set_preferred_target_order: true,
            });
        }
        let ids: Vec<ChainId> = settings.iter().map(|chain| chain.chain_id).collect();
        self.until("chains are set", PATIENCE, || self.admin.mgmtd.set_chains(settings.clone())).await?;
        self.until("chain table is set", PATIENCE, || {
            self.admin.mgmtd.set_chain_table(TABLE, ids.clone(), String::new())
        })
        .await
        .map(drop)
    }

    async fn wait_for_nodes(&self, what: &str, nodes: &[NodeId]) -> Result<(), String> {
        self.until(what, PATIENCE, || async {
            let _ = self.admin.mgmtd.refresh_now().await;
            let routing = self.admin.mgmtd.routing();
            let up = |id: &NodeId| {
                routing.node(*id).is_some_and(|node| node.status == NodeStatus::HeartbeatConnected)
            };
            if nodes.iter().all(up) { Ok(()) } else { Err("not all") }
        })
        .await
    }

    pub(super) async fn wait_for_service(&self) -> Result<(), String> {
        self.wait_until_whole(PATIENCE).await?;
        let metas: Vec<NodeId> =
            self.of(Kind::Meta).into_iter().map(|index| self.nodes[index].id()).collect();
        self.wait_for_nodes("metadata servers are there", &metas).await?;
        for client in &self.clients {
            self.until("a client session exists", PATIENCE, || client.mgmtd.extend_session_now()).await?;
            self.until("the root directory is there", PATIENCE, || {
                client.meta.stat(&ROOT, PathAt::inode(InodeId::ROOT), false)
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until every target of every chain serves.
    ///
    /// # Errors
    /// Which chains do not.
    pub async fn wait_until_whole(&self, patience: Duration) -> Result<(), String> {
        self.until("all targets serve", patience, || async {
            let _ = self.admin.mgmtd.refresh_now().await;
            let routing = self.admin.mgmtd.routing();
            let broken: Vec<String> = routing
                .info()
                .chains
                .values()
                .filter(|chain| !is_whole(routing.info(), chain))
                .map(|chain| describe(routing.info(), chain))
                .collect();
            if broken.is_empty() { Ok(()) } else { Err(broken.join("; ")) }
        })
        .await
    }

    /// Repeats a step until it succeeds; gives what it gave then.
    ///
    /// # Errors
    /// The step's name and last failure after `patience`.
    pub async fn until<T, E: Display, F: Future<Output = Result<T, E>>>(
        &self,
        what: &str,
        patience: Duration,
        step: impl Fn() -> F,
    ) -> Result<T, String> {
        let begun = Instant::now();
        loop {
            let error = match step().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if begun.elapsed() > patience {
                return Err(format!("not within {patience:?}: {what}: {error}"));
            }
            sleep(POLL).await;
        }
    }
}

/// Root, whom no permission hinders.
pub static ROOT: UserInfo = UserInfo { uid: 0, gid: 0, groups: Vec::new(), token: String::new() };

fn is_whole(info: &RoutingInfo, chain: &ChainInfo) -> bool {
    chain.targets.iter().all(|member| {
        member.public_state == PublicTargetState::Serving
            && info
                .targets
                .get(&member.target_id)
                .is_some_and(|target| target.local_state == LocalTargetState::Uptodate)
    })
}

/// A chain in one line.
pub fn describe(info: &RoutingInfo, chain: &ChainInfo) -> String {
    let member = |target: &TargetId, public: PublicTargetState| {
        let local = info.targets.get(target).map(|target| target.local_state);
        format!("{}:{public:?}/{local:?}", target.0 >> 32)
    };
    let members: Vec<String> =
        chain.targets.iter().map(|target| member(&target.target_id, target.public_state)).collect();
    format!("chain {} v{} [{}]", chain.chain_id, chain.chain_version, members.join(" "))
}
