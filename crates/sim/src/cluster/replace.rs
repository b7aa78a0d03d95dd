//! What an operator does about a target that its server left out, because a failing disk had damaged it: makes it anew.

use std::path::Path;
use std::time::Duration;

use valor_protocol::mgmtd::{LocalTargetState, PublicTargetState};
use valor_protocol::storage::CreateTargetReq;
use valor_protocol::{ChainId, NodeId, TargetId};

use super::Cluster;

/// How long targets may take to come back by themselves.
const BY_THEMSELVES: Duration = Duration::from_secs(20);

impl Cluster {
    /// Makes targets anew whose servers refuse them, in chains that serve without them.
    ///
    /// # Errors
    /// When a target cannot be made.
    pub async fn replace_damaged(&self) -> Result<(), String> {
        if self.wait_until_whole(BY_THEMSELVES).await.is_ok() {
            return Ok(());
        }
        for (target_id, chain_id) in self.missing_targets() {
            self.replace(target_id, chain_id).await?;
        }
        Ok(())
    }

    fn missing_targets(&self) -> Vec<(TargetId, ChainId)> {
        let routing = self.admin.mgmtd.routing();
        let info = routing.info();
        let serves = |state| state == PublicTargetState::Serving;
        let gone = |id: &TargetId| {
            info.targets.get(id).is_some_and(|target| target.local_state == LocalTargetState::Offline)
        };
        let chains = info.chains.values();
        chains
            .filter(|chain| chain.targets.iter().any(|member| serves(member.public_state)))
            .flat_map(|chain| chain.targets.iter().map(|member| (member.target_id, chain.chain_id)))
            .filter(|(id, _)| gone(id))
            .collect()
    }

    async fn replace(&self, target_id: TargetId, chain_id: ChainId) -> Result<(), String> {
        let host = target_id.0 >> 32;
        let node = NodeId(host as u32);
        let req = CreateTargetReq {
            target_id,
            chain_id,
            allow_existing_target: true,
            ..CreateTargetReq::default()
        };
        let Err(refused) = self.admin.storage.create_target(node, &req).await else { return Ok(()) };
        let Some(machine) = self.nodes.iter().map(|node| &node.machine).find(|m| u64::from(m.host) == host)
        else {
            return Err(format!("no host of target {target_id}"));
        };
        self.trace.event(format_args!("{target_id} is made anew: {refused}"));
        let dir = Path::new("/data").join(target_id.to_string());
        for (file, ..) in machine.disk.files() {
            if file.starts_with(&dir) {
                machine.disk.handle().remove_file(&file).await.map_err(|error| error.to_string())?;
            }
        }
        self.until("the target is made anew", BY_THEMSELVES, || self.admin.storage.create_target(node, &req))
            .await
    }
}
