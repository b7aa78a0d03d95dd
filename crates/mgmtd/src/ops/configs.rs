//! Configurations that are kept and handed out.

use crate::{Mgmtd, schema};
use valor_protocol::mgmtd::{
    ConfigInfo, GetConfigReq, GetConfigRsp, GetConfigVersionsReq, GetConfigVersionsRsp, NodeType,
    SetConfigReq, SetConfigRsp,
};
use valor_protocol::{ConfigVersion, Status};

impl Mgmtd {
    /// Stores the next version of a node type's configuration. Servers get it with their next heartbeat, clients
    /// with their next session extension; managers apply it themselves.
    ///
    /// # Errors
    /// 5000, 5003, 5016, 1xxx.
    pub async fn set_config(&self, req: SetConfigReq) -> Result<SetConfigRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        self.ensure_primary()?;
        let _writer = self.writer().await?;
        let old = self.data().read().configs.latest_version(req.node_type);
        let config = ConfigInfo {
            config_version: ConfigVersion(old.0.wrapping_add(1)),
            content: req.content,
            desc: req.desc,
        };
        self.store().write(None, &[schema::put_config(req.node_type, &config)]).await?;
        let version = config.config_version;
        tracing::info!(node_type = req.node_type.name(), version = version.0, "configuration is set");
        self.data().write().configs.insert(req.node_type, config.clone());
        if req.node_type == NodeType::Mgmtd {
            self.apply_config(&config);
        }
        Ok(SetConfigRsp { config_version: version })
    }

    /// A version of a node type's configuration, or the newest if the caller has an older one.
    ///
    /// # Errors
    /// 5006 if the caller has a version that does not exist yet; 5000, 5003.
    pub async fn get_config(&self, req: GetConfigReq) -> Result<GetConfigRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.ensure_primary()?;
        let data = self.data().read();
        let info = if req.exact_version {
            data.configs.exact(req.node_type, req.config_version).cloned()
        } else {
            data.configs.newer(req.node_type, req.config_version)?
        };
        Ok(GetConfigRsp { info })
    }

    /// The newest version of each node type.
    ///
    /// # Errors
    /// 5000, 5003.
    pub async fn get_config_versions(
        &self,
        req: GetConfigVersionsReq,
    ) -> Result<GetConfigVersionsRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.ensure_primary()?;
        let data = self.data().read();
        let version = |node_type: NodeType| (node_type.name().into(), data.configs.latest_version(node_type));
        Ok(GetConfigVersionsRsp { versions: NodeType::ALL.into_iter().map(version).collect() })
    }
}
