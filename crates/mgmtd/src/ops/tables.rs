//! Chain tables: the lists of chains that files are laid over.

use crate::data::Routing;
use crate::error::invalid_chain_table;
use crate::{Mgmtd, schema};
use valor_protocol::mgmtd::{ChainTable, SetChainTableReq, SetChainTableRsp};
use valor_protocol::status::code;
use valor_protocol::{ChainId, ChainTableVersion, Status};

impl Mgmtd {
    /// Stores a chain table: a new version if its chains differ from the newest one's.
    ///
    /// A table with the same chains keeps its version and gets the new description. (3FS rewrites version **1** then,
    /// even if it has other chains, and with it the place of every file laid out by it; this does not.)
    ///
    /// # Errors
    /// 5007 if there are no chains or they differ in length, 5012; 5000, 5003, 5016, 1xxx.
    pub async fn set_chain_table(&self, req: SetChainTableReq) -> Result<SetChainTableRsp, Status> {
        self.check_cluster(&req.cluster_id)?;
        self.check_admin(&req.user).await?;
        self.ensure_primary()?;
        if req.chain_table_id.0 == 0 {
            return Err(invalid_chain_table("Empty chain table id"));
        }
        let writer = self.writer().await?;
        let new = {
            let data = self.data().read();
            check_chains(&data.routing, &req.chains)?;
            let newest = data.routing.newest_chain_table(req.chain_table_id);
            let new = next_table(newest, req);
            if Some(&new) == newest {
                return Ok(SetChainTableRsp { chain_table_version: new.chain_table_version });
            }
            new
        };
        let chain_table_version = new.chain_table_version;
        tracing::info!(
            table = new.chain_table_id.0,
            version = chain_table_version.0,
            chains = new.chains.len(),
            desc = new.desc,
            "chain table is set"
        );
        let writes = [schema::put_chain_table(&new)];
        self.publish(&writer, &writes, |data| data.routing.put_chain_table(new)).await?;
        Ok(SetChainTableRsp { chain_table_version })
    }
}

fn next_table(newest: Option<&ChainTable>, req: SetChainTableReq) -> ChainTable {
    let version = match newest {
        None => 1,
        Some(newest) if newest.chains == req.chains => newest.chain_table_version.0,
        Some(newest) => newest.chain_table_version.0.wrapping_add(1),
    };
    let inherited = newest.filter(|_| req.desc.is_empty()).map(|newest| newest.desc.clone());
    ChainTable {
        chain_table_id: req.chain_table_id,
        chain_table_version: ChainTableVersion(version),
        chains: req.chains,
        desc: inherited.unwrap_or(req.desc),
    }
}

fn check_chains(routing: &Routing, chains: &[ChainId]) -> Result<(), Status> {
    let mut length = None;
    for id in chains {
        let chain = routing
            .chain(*id)
            .ok_or_else(|| Status::new(code::MGMTD_CHAIN_NOT_FOUND, format!("ChainId({id}) not found")))?;
        let (targets, expected) = (chain.targets.len(), *length.get_or_insert(chain.targets.len()));
        if targets != expected {
            return Err(invalid_chain_table(format!(
                "Target count mismatch with first chain. chain id: {id}. targets: {targets}. \
                 targets of first chain: {expected}."
            )));
        }
    }
    if length.is_none() { Err(invalid_chain_table("Empty chains")) } else { Ok(()) }
}
