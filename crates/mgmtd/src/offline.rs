//! Work on the store without a running manager: setting a cluster up, starting a manager, shutting a cluster down.
//! Nothing here looks at the lease.

use crate::chain_rules;
use crate::schema::{self, Write, prefix};
use crate::store::{self, Failure};
use valor_kv::{Database, Transaction};
use valor_protocol::mgmtd::{ChainInfo, ConfigInfo, NodeType};
use valor_protocol::status::code;
use valor_protocol::{ConfigVersion, RoutingInfoVersion, Status};

/// Stores a configuration before the first manager runs: version 1, or the next one if `allow_existing`.
///
/// # Errors
/// 999 if there is one already and that is not allowed; 1xxx, 2.
pub async fn init_config(
    db: &Database,
    node_type: NodeType,
    content: &str,
    allow_existing: bool,
) -> Result<ConfigVersion, Status> {
    let body = |tx: Transaction| async move {
        let latest = read_latest_config(&tx, node_type).await?.map(|config| config.config_version);
        if let Some(version) = latest
            && !allow_existing
        {
            let text = format!("Config for {} existed, version {version}", node_type.name());
            return Err(Failure::Refused(Status::new(code::UNKNOWN, text)));
        }
        let config_version = ConfigVersion(latest.map_or(0, |version| version.0).wrapping_add(1));
        let config = ConfigInfo { config_version, content: content.to_owned(), desc: String::new() };
        store::apply(&tx, &[schema::put_config(node_type, &config)]);
        Ok(config_version)
    };
    Ok(db.run(body).await?)
}

/// The newest stored configuration of a node type; a manager starts with that of managers.
///
/// # Errors
/// 1xxx, 2.
pub async fn latest_config(db: &Database, node_type: NodeType) -> Result<Option<ConfigInfo>, Status> {
    let body = |tx: Transaction| async move { read_latest_config(&tx, node_type).await };
    Ok(db.run(body).await?)
}

async fn read_latest_config(tx: &Transaction, node_type: NodeType) -> Result<Option<ConfigInfo>, Failure> {
    let newest = tx.get_prefix(&schema::config_prefix(node_type), 1).await?;
    let Some(item) = newest.items.into_iter().next() else { return Ok(None) };
    Ok(Some(schema::read_config(&item.key, item.value)?.1))
}

/// All chains.
///
/// # Errors
/// 1xxx, 2.
pub async fn chains(db: &Database) -> Result<Vec<ChainInfo>, Status> {
    let body = |tx: Transaction| async move { store::read_all(&tx, prefix::CHAIN, schema::read_chain).await };
    Ok(db.run(body).await?)
}

/// Prepares all chains for a shutdown of the whole cluster, whose servers must not run any more: every target that
/// serves becomes one that is waited for, so that the first to come back may serve. Returns the changed chains.
///
/// # Errors
/// 1xxx, 2.
pub async fn shutdown_all_chains(db: &Database) -> Result<Vec<ChainInfo>, Status> {
    let body = |tx: Transaction| async move {
        let version = schema::read_routing_version(tx.get(schema::ROUTING_VERSION_KEY).await?)?;
        let next = RoutingInfoVersion(version.0.wrapping_add(1));
        let mut changed = Vec::new();
        for mut chain in store::read_all(&tx, prefix::CHAIN, schema::read_chain).await? {
            let targets = chain_rules::shutdown_chain(&chain.targets);
            if targets != chain.targets {
                chain.targets = targets;
                chain.chain_version = chain_rules::next_version(chain.chain_version);
                changed.push(chain);
            }
        }
        let mut writes: Vec<Write> = changed.iter().map(schema::put_chain).collect();
        writes.push(schema::put_routing_version(next));
        store::apply(&tx, &writes);
        Ok::<_, Failure>(changed)
    };
    Ok(db.run(body).await?)
}
