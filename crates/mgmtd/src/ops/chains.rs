//! Administration of chains.

use crate::chain_rules::{self, PreferredOrderError, RemoveTargetError};
use crate::data::Routing;
use crate::error::{invalid, invalid_chain_table};
use crate::{Mgmtd, schema};
use std::collections::BTreeSet;
use tokio::time::Instant;
use valor_protocol::mgmtd::{
    ChainInfo, ChainSetting, RotateAsPreferredOrderReq, RotateAsPreferredOrderRsp, RotateLastSrvReq,
    RotateLastSrvRsp, SetChainsReq, SetChainsRsp, SetPreferredTargetOrderReq, SetPreferredTargetOrderRsp,
    UpdateChainMode, UpdateChainReq, UpdateChainRsp,
};
use valor_protocol::status::code;
use valor_protocol::{ChainId, Status, TargetId};

impl Mgmtd {
    /// Creates chains. Chains that exist with the same targets are left as they are.
    ///
    /// # Errors
    /// 5007 if a chain exists with other targets, or a target is in a chain already; 5000, 5003, 5016, 1xxx.
    pub async fn set_chains(&self, req: SetChainsReq) -> Result<SetChainsRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        self.ensure_primary()?;
        let writer = self.writer().await?;
        let new = new_chains(&self.data().read().routing, &req.chains)?;
        if new.is_empty() {
            return Ok(SetChainsRsp::default());
        }
        tracing::info!(chains = new.len(), first = new[0].chain_id.0, "chains are created");
        let writes: Vec<_> = new.iter().map(schema::put_chain).collect();
        self.publish(&writer, &writes, |data| {
            let now = Instant::now();
            new.into_iter().for_each(|chain| data.routing.insert_chain(chain, now));
        })
        .await?;
        Ok(SetChainsRsp::default())
    }

    /// Adds a target to a chain or removes one that is offline.
    ///
    /// # Errors
    /// 3, 5012, 5017, 5018; 5000, 5003, 5016, 1xxx.
    pub async fn update_chain(&self, req: UpdateChainReq) -> Result<UpdateChainRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        check_chain_id(req.chain_id)?;
        if req.target_id.0 == 0 {
            return Err(invalid("Empty target id"));
        }
        let (chain, target) = (req.chain_id, req.target_id);
        let removed = (req.mode == UpdateChainMode::Remove).then(|| schema::target_key(target));
        let chain = self
            .change_chain(chain, removed.map(schema::Write::Clear), |routing, old| match req.mode {
                UpdateChainMode::Add if routing.target(target).is_some() => {
                    Err(Status::new(code::MGMTD_TARGET_EXISTED, format!("target: {target}")))
                }
                UpdateChainMode::Add => Ok(Some(chain_rules::add_target(old, target))),
                UpdateChainMode::Remove => chain_rules::remove_target(old, target)
                    .map(Some)
                    .map_err(|e| not_removed(e, chain, target)),
            })
            .await?;
        Ok(UpdateChainRsp { chain })
    }

    /// Gives up a chain's LASTSRV target.
    ///
    /// # Errors
    /// 3, 5012; 5000, 5003, 5016, 1xxx.
    pub async fn rotate_last_srv(&self, req: RotateLastSrvReq) -> Result<RotateLastSrvRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        check_chain_id(req.chain_id)?;
        let rotate = |routing: &Routing, old: &ChainInfo| {
            let states = chain_rules::with_local(&old.targets, |id| routing.local_state(id));
            Ok(chain_rules::with_targets(old, &chain_rules::rotate_last_srv(&states)))
        };
        Ok(RotateLastSrvRsp { chain: self.change_chain(req.chain_id, None, rotate).await? })
    }

    /// Takes one step towards a chain's preferred order.
    ///
    /// # Errors
    /// 3, 5012; 5000, 5003, 5016, 1xxx.
    pub async fn rotate_as_preferred_order(
        &self,
        req: RotateAsPreferredOrderReq,
    ) -> Result<RotateAsPreferredOrderRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        check_chain_id(req.chain_id)?;
        let rotate = |routing: &Routing, old: &ChainInfo| {
            let states = chain_rules::with_local(&old.targets, |id| routing.local_state(id));
            let rotated = chain_rules::rotate_as_preferred_order(&states, &old.preferred_target_order);
            Ok(chain_rules::with_targets(old, &rotated))
        };
        Ok(RotateAsPreferredOrderRsp { chain: self.change_chain(req.chain_id, None, rotate).await? })
    }

    /// Stores a chain's preferred order.
    ///
    /// # Errors
    /// 3, 5012; 5000, 5003, 5016, 1xxx.
    pub async fn set_preferred_target_order(
        &self,
        req: SetPreferredTargetOrderReq,
    ) -> Result<SetPreferredTargetOrderRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        check_chain_id(req.chain_id)?;
        let order = &req.preferred_target_order;
        if order.is_empty() {
            return Err(invalid(PreferredOrderError::Empty.to_string()));
        }
        if order.iter().collect::<BTreeSet<_>>().len() != order.len() {
            return Err(invalid(PreferredOrderError::Duplicate.to_string()));
        }
        self.ensure_primary()?;
        let _writer = self.writer().await?;
        let old = known_chain(&self.data().read().routing, req.chain_id)?;
        let new = chain_rules::preferred_order(&old, order).map_err(|error| invalid(error.to_string()))?;
        let Some(new) = new else { return Ok(SetPreferredTargetOrderRsp { chain: old }) };
        // As in 3FS the routing version stays: nothing that callers act on has changed.
        self.store().write(None, &[schema::put_chain(&new)]).await?;
        tracing::info!(chain = new.chain_id.0, order = ?new.preferred_target_order, "preferred order is set");
        self.data().write().routing.put_chain(new.clone(), Instant::now());
        Ok(SetPreferredTargetOrderRsp { chain: new })
    }

    /// Applies `change`, which returns the changed chain or `None`, and publishes the result along with `also`.
    async fn change_chain(
        &self,
        id: ChainId,
        also: Option<schema::Write>,
        change: impl FnOnce(&Routing, &ChainInfo) -> Result<Option<ChainInfo>, Status>,
    ) -> Result<ChainInfo, Status> {
        self.ensure_primary()?;
        let writer = self.writer().await?;
        let (old, new) = {
            let data = self.data().read();
            let old = known_chain(&data.routing, id)?;
            let new = change(&data.routing, &old)?;
            (old, new)
        };
        let Some(new) = new else { return Ok(old) };
        tracing::info!(chain = id.0, from = ?old, to = ?new, "chain is changed by an administrator");
        let writes: Vec<_> = also.into_iter().chain([schema::put_chain(&new)]).collect();
        let chain = new.clone();
        self.publish(&writer, &writes, |data| data.routing.put_chain(chain, Instant::now())).await?;
        Ok(new)
    }
}

fn check_chain_id(id: ChainId) -> Result<(), Status> {
    if id.0 == 0 { Err(invalid("Empty chain id")) } else { Ok(()) }
}

fn known_chain(routing: &Routing, id: ChainId) -> Result<ChainInfo, Status> {
    let chain = routing.chain(id).cloned();
    chain.ok_or_else(|| Status::new(code::MGMTD_CHAIN_NOT_FOUND, format!("chain: {id}")))
}

fn not_removed(error: RemoveTargetError, chain: ChainId, target: TargetId) -> Status {
    match error {
        RemoveTargetError::NotFound => Status::new(
            code::MGMTD_TARGET_NOT_FOUND,
            format!("target {target} is not found in chain {chain}"),
        ),
        RemoveTargetError::InUse(_) | RemoveTargetError::Last => {
            invalid(format!("Do not allow to remove target {target} from chain {chain}: {error}"))
        }
    }
}

fn new_chains(routing: &Routing, settings: &[ChainSetting]) -> Result<Vec<ChainInfo>, Status> {
    if settings.is_empty() {
        return Err(invalid_chain_table("Empty chains"));
    }
    let (mut new, mut seen_chains, mut seen_targets) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for setting in settings {
        let id = setting.chain_id;
        if id.0 == 0 {
            return Err(invalid_chain_table("Empty chain id"));
        }
        if setting.targets.is_empty() {
            return Err(invalid_chain_table(format!("Chain contains no targets. chain id: {id}.")));
        }
        if let Some(old) = routing.chain(id) {
            if !chain_rules::same_targets(old, setting) {
                return Err(invalid_chain_table(format!("Target mismatch of ChainId({id})")));
            }
            continue;
        }
        if !seen_chains.insert(id) {
            return Err(invalid_chain_table(format!("ChainId({id}) duplicated")));
        }
        for target in setting.targets.iter().map(|target| target.target_id) {
            if target.0 == 0 {
                return Err(invalid_chain_table(format!("Empty target id. chain id: {id}")));
            }
            if routing.target(target).is_some() || !seen_targets.insert(target) {
                let text = format!("TargetId({target}) duplicated. chain id: {id}");
                return Err(invalid_chain_table(text));
            }
        }
        new.push(chain_rules::new_chain(setting));
    }
    Ok(new)
}
