//! Methods that change nothing.

use crate::Mgmtd;
use valor_protocol::Status;
use valor_protocol::mgmtd::{
    GetPrimaryMgmtdReq, GetPrimaryMgmtdRsp, GetRoutingInfoReq, GetRoutingInfoRsp, ListOrphanTargetsReq,
    ListOrphanTargetsRsp,
};
use valor_protocol::status::code;

impl Mgmtd {
    /// Who is primary, as far as this manager knows. The only method that every manager answers.
    ///
    /// # Errors
    /// 5003; 1xxx if the store has to be asked and does not answer.
    pub async fn get_primary_mgmtd(&self, req: GetPrimaryMgmtdReq) -> Result<GetPrimaryMgmtdRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        let trusted = self.trusted_lease();
        let lease = match trusted {
            Some(lease) => Some(lease),
            // Even one that has ended: the caller can ask that manager for more.
            None => self.store().lease().await?,
        };
        Ok(GetPrimaryMgmtdRsp { primary: lease.map(|lease| lease.primary) })
    }

    /// Nodes, chain tables, chains and targets, if they changed since the caller's version.
    ///
    /// # Errors
    /// 5005 if the caller's version does not exist yet; 5000, 5003.
    pub async fn get_routing_info(&self, req: GetRoutingInfoReq) -> Result<GetRoutingInfoRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.ensure_primary()?;
        let bootstrapping_length = self.config().bootstrapping_length.get();
        let data = self.data().read();
        let (theirs, ours) = (req.routing_info_version, data.routing.version());
        if theirs > ours {
            let text = format!(
                "RoutingInfoVersion RoutingInfoVersion({theirs}) is newer than server's (RoutingInfoVersion({ours}))"
            );
            return Err(Status::new(code::MGMTD_INVALID_ROUTING_INFO_VERSION, text));
        }
        let info = (theirs < ours).then(|| data.routing.snapshot(data.bootstrapping(bootstrapping_length)));
        Ok(GetRoutingInfoRsp { info })
    }

    /// Targets that storage servers have and no chain names.
    ///
    /// # Errors
    /// 5000, 5003.
    pub async fn list_orphan_targets(
        &self,
        req: ListOrphanTargetsReq,
    ) -> Result<ListOrphanTargetsRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.ensure_primary()?;
        Ok(ListOrphanTargetsRsp { targets: self.data().read().routing.orphans().cloned().collect() })
    }
}
