//! Clients, and the tags of what they run on.

use crate::error::invalid;
use crate::{Mgmtd, schema, tags};
use std::collections::BTreeMap;
use tokio::time::Instant;
use valor_protocol::mgmtd::{
    ExtendClientSessionReq, ExtendClientSessionRsp, GetClientSessionReq, GetClientSessionRsp,
    GetUniversalTagsReq, GetUniversalTagsRsp, ListClientSessionsReq, ListClientSessionsRsp, NodeType,
    SetUniversalTagsReq, SetUniversalTagsRsp,
};
use valor_protocol::{Status, Uuid};

impl Mgmtd {
    /// A client tells that it is alive.
    ///
    /// # Errors
    /// 3, 5006, 5010, 5014; 5000, 5003.
    pub async fn extend_client_session(
        &self,
        req: ExtendClientSessionReq,
    ) -> Result<ExtendClientSessionRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        if req.client_id.is_empty() {
            return Err(invalid("Empty clientId"));
        }
        if self.config().only_accept_client_uuid && req.client_id.parse::<Uuid>().is_err() {
            return Err(invalid("ClientId not valid hex uuid"));
        }
        self.ensure_primary()?;
        if !matches!(req.r#type, NodeType::Client | NodeType::Fuse) {
            return Err(invalid(format!("Invalid node type: {}", req.r#type.name())));
        }
        let mut data = self.data().write();
        let config = data.configs.newer(req.r#type, req.config_version)?;
        let tags = data.universal_tags.get(&req.data.universal_id).cloned().unwrap_or_default();
        data.sessions.extend(&req, self.utc_now(), Instant::now())?;
        Ok(ExtendClientSessionRsp { config, tags })
    }

    /// The clients that are alive.
    ///
    /// # Errors
    /// 5000, 5003.
    pub async fn list_client_sessions(
        &self,
        req: ListClientSessionsReq,
    ) -> Result<ListClientSessionsRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.ensure_primary()?;
        let bootstrapping_length = self.config().bootstrapping_length.get();
        let data = self.data().read();
        let mut referenced_tags = BTreeMap::new();
        for session in data.sessions.iter() {
            let tags = data.universal_tags.get(&session.universal_id).cloned().unwrap_or_default();
            referenced_tags.insert(session.universal_id.clone(), tags);
        }
        Ok(ListClientSessionsRsp {
            bootstrapping: data.bootstrapping(bootstrapping_length),
            sessions: data.sessions.iter().cloned().collect(),
            referenced_tags,
        })
    }

    /// One client.
    ///
    /// # Errors
    /// 3 without an id; 5000, 5003.
    pub async fn get_client_session(&self, req: GetClientSessionReq) -> Result<GetClientSessionRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        if req.client_id.is_empty() {
            return Err(invalid("Empty clientId"));
        }
        self.ensure_primary()?;
        let bootstrapping_length = self.config().bootstrapping_length.get();
        let data = self.data().read();
        let session = data.sessions.get(&req.client_id).cloned();
        let tags = session.as_ref().and_then(|session| data.universal_tags.get(&session.universal_id));
        Ok(GetClientSessionRsp {
            bootstrapping: data.bootstrapping(bootstrapping_length),
            referenced_tags: tags.cloned().unwrap_or_default(),
            session,
        })
    }

    /// Changes the tags of a universal id, which clients on that machine get.
    ///
    /// # Errors
    /// 3 without an id, 5011; 5000, 5003, 5016, 1xxx.
    pub async fn set_universal_tags(&self, req: SetUniversalTagsReq) -> Result<SetUniversalTagsRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        tags::check_keys(&req.tags)?;
        self.ensure_primary()?;
        if req.universal_id.is_empty() {
            return Err(invalid("empty id"));
        }
        let _writer = self.writer().await?;
        let old = self.data().read().universal_tags.get(&req.universal_id).cloned().unwrap_or_default();
        let new = tags::changed(req.mode, &old, &req.tags)?;
        if new == old {
            return Ok(SetUniversalTagsRsp { tags: old });
        }
        // As in 3FS the stored routing version moves, and the one in memory does not: tags are not part of it.
        let next = self.data().read().routing.next_version();
        let writes = [schema::put_universal_tags(&req.universal_id, &new)];
        self.store().write(Some(next), &writes).await?;
        tracing::info!(universal_id = req.universal_id, tags = ?new, "universal tags are set");
        self.data().write().universal_tags.insert(req.universal_id, new.clone());
        Ok(SetUniversalTagsRsp { tags: new })
    }

    /// The tags of a universal id.
    ///
    /// # Errors
    /// 5000, 5003.
    pub async fn get_universal_tags(&self, req: GetUniversalTagsReq) -> Result<GetUniversalTagsRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.ensure_primary()?;
        let tags = self.data().read().universal_tags.get(&req.universal_id).cloned();
        Ok(GetUniversalTagsRsp { tags: tags.unwrap_or_default() })
    }
}
