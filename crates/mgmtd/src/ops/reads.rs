//! Methods that change nothing.

use crate::data::Data;
use crate::{Mgmtd, RoutingReply};
use valor_protocol::RoutingInfoVersion;
use valor_protocol::Status;
use valor_protocol::mgmtd::{
    GetPrimaryMgmtdReq, GetPrimaryMgmtdRsp, GetRoutingInfoReq, GetRoutingInfoRsp, ListOrphanTargetsReq,
    ListOrphanTargetsRsp,
};
use valor_protocol::status::code;
use valor_rpc::WithCrc;

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
        self.check_routing_request(&req)?;
        let length = self.config().bootstrapping_length.get();
        let data = self.data().read();
        let newer = newer(&data, req.routing_info_version)?;
        Ok(GetRoutingInfoRsp { info: newer.then(|| data.routing.snapshot(data.bootstrapping(length))) })
    }

    /// The same, encoded. Whoever has a version already gets the next one as it was first given out; what changes
    /// without a new version (when a server was heard last, space in use) is up to date for new callers only.
    ///
    /// # Errors
    /// As `get_routing_info`.
    pub async fn routing_reply(&self, req: GetRoutingInfoReq) -> Result<WithCrc<RoutingReply>, Status> {
        if req.routing_info_version.0 == 0 {
            let info = self.get_routing_info(req).await?.info;
            return Ok(RoutingReply::new(info).into());
        }
        self.check_routing_request(&req)?;
        let length = self.config().bootstrapping_length.get();
        let data = self.data().read();
        if !newer(&data, req.routing_info_version)? {
            return Ok(RoutingReply::new(None).into());
        }
        let least = (data.routing.version(), data.bootstrapping(length));
        // Encoding takes long in a large cluster: nobody else may wait for the data meanwhile.
        drop(data);
        let newest = || {
            let data = self.data().read();
            let starting = data.bootstrapping(length);
            ((data.routing.version(), starting), data.routing.snapshot(starting))
        };
        Ok(self.snapshot().lock().reply(least, newest))
    }

    fn check_routing_request(&self, req: &GetRoutingInfoReq) -> Result<(), Status> {
        self.check_cluster(&req.cluster_id)?;
        self.ensure_primary()
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

/// Whether there is newer routing information than the caller's.
///
/// # Errors
/// 5005 if the caller's is newer.
fn newer(data: &Data, theirs: RoutingInfoVersion) -> Result<bool, Status> {
    let ours = data.routing.version();
    if theirs > ours {
        let text = format!(
            "RoutingInfoVersion RoutingInfoVersion({theirs}) is newer than server's (RoutingInfoVersion({ours}))"
        );
        return Err(Status::new(code::MGMTD_INVALID_ROUTING_INFO_VERSION, text));
    }
    Ok(theirs < ours)
}
