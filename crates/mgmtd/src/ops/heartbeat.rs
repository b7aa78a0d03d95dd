//! Heartbeats of servers.

use crate::data::{Data, to_stored};
use crate::error::{heartbeat_fail, invalid};
use crate::lease::after;
use crate::{Mgmtd, schema};
use std::time::Duration;
use tokio::time::Instant;
use valor_env::metrics as names;
use valor_protocol::mgmtd::{
    HeartbeatDetail, HeartbeatInfo, HeartbeatReq, HeartbeatRsp, LocalTargetState, NodeInfo, NodeStatus,
};
use valor_protocol::status::code;
use valor_protocol::{Status, TargetId, UtcTime};

impl Mgmtd {
    /// A server tells that it is alive, what it is and, for storage, how its targets are.
    ///
    /// # Errors
    /// 5000, 5002 if the server is not who it should be, 5003, 5006, 5009 with the last version as the message if
    /// this is not a newer heartbeat; 1xxx if a change of the server cannot be stored.
    pub async fn heartbeat(&self, req: HeartbeatReq) -> Result<HeartbeatRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.ensure_primary()?;
        let config = self.config();
        let heartbeat = req.info;
        let node_id = heartbeat.app.node_id;
        if node_id == self.own_id() {
            return Err(heartbeat_fail(format!("NodeId({node_id}) duplicated")));
        }
        if node_id.0 == 0 {
            return Err(heartbeat_fail("Node id is 0"));
        }
        let now = self.utc_now();
        check_clock(now, req.timestamp, config.heartbeat_timestamp_valid_window.get())?;

        let writer = self.writer().await?;
        let plan = {
            let data = self.data().read();
            plan(&data, &heartbeat, config.allow_heartbeat_from_unregistered, now)?
        };
        if plan.status_changed {
            let node_type = heartbeat.info.node_type().name();
            tracing::info!(node = node_id.0, node_type, "server is connected");
        }
        let apply = |data: &mut Data| {
            let at = Instant::now();
            data.routing.node_heard(plan.node.clone(), heartbeat.hb_version, at);
            if let HeartbeatDetail::StorageHeartbeatInfo(storage) = &heartbeat.info {
                let ignore_stale = config.heartbeat_ignore_stale_targets;
                let outcome = data.routing.report(node_id, &storage.targets, ignore_stale, at);
                if outcome.stale > 0 {
                    metrics::counter!(names::MGMTD_STALE_TARGET_REPORTS).increment(outcome.stale as u64);
                }
                if outcome.settled > 0 {
                    tracing::debug!(chains = outcome.settled, "targets of new chains have reported");
                }
            }
        };
        if plan.store {
            let writes = [schema::put_node(&to_stored(&plan.node))];
            self.publish(&writer, &writes, apply).await?;
        } else {
            apply(&mut self.data().write());
        }
        metrics::counter!(names::MGMTD_HEARTBEATS).increment(1);
        let newer = self.data().read().configs.newer(heartbeat.info.node_type(), heartbeat.config_version)?;
        Ok(HeartbeatRsp { config: newer })
    }
}

/// What an acceptable heartbeat leads to.
struct Plan {
    node: NodeInfo,
    store: bool,
    status_changed: bool,
}

fn plan(data: &Data, heartbeat: &HeartbeatInfo, admit: bool, now: UtcTime) -> Result<Plan, Status> {
    let node_id = heartbeat.app.node_id;
    let node_type = heartbeat.info.node_type();
    data.configs.newer(node_type, heartbeat.config_version)?;
    let known = data.routing.node(node_id);
    let tags = match known {
        None if admit => {
            tracing::info!(
                node = node_id.0,
                node_type = node_type.name(),
                "server is registered by its heartbeat"
            );
            Vec::new()
        }
        None => return Err(heartbeat_fail(format!("NodeId({node_id}) not registered"))),
        Some(node) => {
            let (registered, got) = (node.info.r#type.name(), node_type.name());
            if registered != got {
                let mismatch = format!("type mismatch: registered {registered} got {got}");
                return Err(heartbeat_fail(format!("NodeId({node_id}) {mismatch}")));
            }
            if node.info.status == NodeStatus::Disabled {
                return Err(heartbeat_fail(format!("NodeId({node_id}) is marked as DISABLED")));
            }
            if node.hb_version >= heartbeat.hb_version {
                return Err(Status::new(code::MGMTD_HEARTBEAT_VERSION_STALE, node.hb_version.to_string()));
            }
            node.info.tags.clone()
        }
    };
    check_targets(heartbeat)?;
    let node = NodeInfo {
        app: heartbeat.app.clone(),
        r#type: node_type,
        status: NodeStatus::HeartbeatConnected,
        last_heartbeat_ts: now,
        tags,
        config_version: heartbeat.config_version,
        config_status: heartbeat.config_status,
    };
    let store = known.is_none_or(|old| to_stored(&old.info) != to_stored(&node));
    let status_changed = known.is_none_or(|old| old.info.status != node.status);
    Ok(Plan { node, store, status_changed })
}

fn check_targets(heartbeat: &HeartbeatInfo) -> Result<(), Status> {
    let HeartbeatDetail::StorageHeartbeatInfo(storage) = &heartbeat.info else { return Ok(()) };
    let mut ids: Vec<TargetId> = storage.targets.iter().map(|report| report.target_id).collect();
    ids.sort_unstable();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        let id = pair[0];
        return Err(heartbeat_fail(format!("Duplicated target id in HeartbeatInfo: TargetId({id})")));
    }
    for report in &storage.targets {
        let id = report.target_id;
        if report.local_state == LocalTargetState::Invalid {
            return Err(heartbeat_fail(format!("Invalid LocalTargetState INVALID for TargetId({id})")));
        }
    }
    Ok(())
}

fn check_clock(now: UtcTime, theirs: UtcTime, window: Duration) -> Result<(), Status> {
    if !window.is_zero() && (after(theirs, window) < now || after(now, window) < theirs) {
        let text = format!("Too much timestamp deviation. now {} timestamp {}", now.0, theirs.0);
        return Err(heartbeat_fail(text));
    }
    Ok(())
}

/// Refuses changes of the state of this manager, which is the primary, by others.
pub(super) fn not_self(own: bool, what: &str) -> Result<(), Status> {
    if own { Err(invalid(format!("Can't {what} primary mgmtd"))) } else { Ok(()) }
}
