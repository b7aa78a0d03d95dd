//! Administration of nodes.

use super::heartbeat::not_self;
use crate::data::{Data, to_stored};
use crate::error::invalid;
use crate::{Mgmtd, schema, tags};
use tokio::time::Instant;
use valor_protocol::app::{TAG_DISABLE, TagPair};
use valor_protocol::mgmtd::{
    DisableNodeReq, DisableNodeRsp, EnableNodeReq, EnableNodeRsp, NodeInfo, NodeStatus, NodeType,
    RegisterNodeReq, RegisterNodeRsp, SetNodeTagsReq, SetNodeTagsRsp, UnregisterNodeReq, UnregisterNodeRsp,
};
use valor_protocol::status::code;
use valor_protocol::{NodeId, Status};

impl Mgmtd {
    /// Admits a node before its first heartbeat.
    ///
    /// # Errors
    /// 5004 if the id is 0 or taken; 5000, 5003, 5016, 1xxx.
    pub async fn register_node(&self, req: RegisterNodeReq) -> Result<RegisterNodeRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        self.ensure_primary()?;
        let refused = |text: String| Err(Status::new(code::MGMTD_REGISTER_FAIL, text));
        if req.node_id.0 == 0 {
            return refused("Node id is 0".into());
        }
        let writer = self.writer().await?;
        if self.data().read().routing.node(req.node_id).is_some() {
            return refused(format!("Node id NodeId({}) duplicated", req.node_id));
        }
        let mut node = NodeInfo { r#type: req.r#type, ..NodeInfo::default() };
        node.app.node_id = req.node_id;
        self.store_node(&writer, node).await?;
        tracing::info!(node = req.node_id.0, node_type = req.r#type.name(), "node is registered");
        Ok(RegisterNodeRsp::default())
    }

    /// Forgets a node that is disabled or failed and has no target.
    ///
    /// # Errors
    /// 5001, 3 if it is still in use; 5000, 5003, 5016, 1xxx.
    pub async fn unregister_node(&self, req: UnregisterNodeReq) -> Result<UnregisterNodeRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        self.ensure_primary()?;
        let id = req.node_id;
        let writer = self.writer().await?;
        check_unused(&self.data().read(), id)?;
        let writes = [schema::Write::Clear(schema::node_key(id))];
        self.publish(&writer, &writes, |data| data.routing.remove_node(id)).await?;
        tracing::info!(node = id.0, "node is unregistered");
        Ok(UnregisterNodeRsp::default())
    }

    /// Lets a node that was disabled send heartbeats again.
    ///
    /// # Errors
    /// 5001, 3 for the primary itself; 5000, 5003, 5016, 1xxx.
    pub async fn enable_node(&self, req: EnableNodeReq) -> Result<EnableNodeRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        not_self(req.node_id == self.own_id(), "enable")?;
        self.switch_node(req.node_id, true).await?;
        Ok(EnableNodeRsp::default())
    }

    /// Refuses a node's heartbeats from now on.
    ///
    /// # Errors
    /// 5001, 3 for the primary itself; 5000, 5003, 5016, 1xxx.
    pub async fn disable_node(&self, req: DisableNodeReq) -> Result<DisableNodeRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        not_self(req.node_id == self.own_id(), "disable")?;
        self.switch_node(req.node_id, false).await?;
        Ok(DisableNodeRsp::default())
    }

    async fn switch_node(&self, id: NodeId, enable: bool) -> Result<(), Status> {
        self.ensure_primary()?;
        let writer = self.writer().await?;
        let mut node = known_node(&self.data().read(), id)?;
        let disabled = node.status == NodeStatus::Disabled;
        if enable != disabled {
            return Ok(());
        }
        if enable {
            node.status = NodeStatus::HeartbeatConnecting;
            node.tags.retain(|tag| tag.key != TAG_DISABLE);
        } else {
            node.status = NodeStatus::Disabled;
            node.tags.push(TagPair { key: TAG_DISABLE.into(), value: String::new() });
        }
        self.store_node(&writer, node).await?;
        tracing::info!(node = id.0, enable, "node is switched");
        Ok(())
    }

    /// Changes a node's tags; the tag `Disable` also disables it.
    ///
    /// # Errors
    /// 5001, 5011; 5000, 5003, 5016, 1xxx.
    pub async fn set_node_tags(&self, req: SetNodeTagsReq) -> Result<SetNodeTagsRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        tags::check_keys(&req.tags)?;
        self.ensure_primary()?;
        let writer = self.writer().await?;
        let mut node = known_node(&self.data().read(), req.node_id)?;
        let new = tags::changed(req.mode, &node.tags, &req.tags)?;
        if new == node.tags {
            return Ok(SetNodeTagsRsp { info: node });
        }
        node.tags = new;
        match (tags::disable(&node.tags), node.status) {
            (false, NodeStatus::Disabled) => node.status = NodeStatus::HeartbeatConnecting,
            (true, _) => node.status = NodeStatus::Disabled,
            _ => {}
        }
        self.store_node(&writer, node.clone()).await?;
        tracing::info!(node = req.node_id.0, tags = ?node.tags, "node's tags are set");
        Ok(SetNodeTagsRsp { info: node })
    }

    async fn store_node(&self, writer: &crate::server::Writer<'_>, node: NodeInfo) -> Result<(), Status> {
        let writes = [schema::put_node(&to_stored(&node))];
        let apply = |data: &mut Data| {
            if node.app.node_id == data.own.app.node_id {
                data.own.tags.clone_from(&node.tags);
            }
            data.routing.put_node(node, Instant::now());
        };
        self.publish(writer, &writes, apply).await
    }
}

fn known_node(data: &Data, id: NodeId) -> Result<NodeInfo, Status> {
    let node = data.routing.node(id);
    node.map(|node| node.info.clone())
        .ok_or_else(|| Status::new(code::MGMTD_NODE_NOT_FOUND, format!("NodeId({id}) not found")))
}

fn check_unused(data: &Data, id: NodeId) -> Result<(), Status> {
    let node = known_node(data, id)?;
    let status = match node.status {
        NodeStatus::Disabled | NodeStatus::HeartbeatFailed => None,
        NodeStatus::PrimaryMgmtd => Some("PRIMARY_MGMTD"),
        NodeStatus::HeartbeatConnected => Some("HEARTBEAT_CONNECTED"),
        NodeStatus::HeartbeatConnecting => Some("HEARTBEAT_CONNECTING"),
    };
    if let Some(status) = status {
        return Err(invalid(format!("Do not allow to unregister NodeId({id}) of status {status}")));
    }
    let on_it = |target: &&valor_protocol::mgmtd::TargetInfo| target.node_id == Some(id);
    if node.r#type == NodeType::Storage
        && let Some(target) = data.routing.targets().find(on_it)
    {
        let (target, chain) = (target.target_id, target.chain_id);
        let by = format!("referenced by TargetId({target}) of ChainId({chain})");
        return Err(invalid(format!("Do not allow to unregister NodeId({id}): {by}")));
    }
    Ok(())
}
