//! Changing chains, and looking at them.

use super::Admin;
use super::table::{Table, bytes};
use std::collections::{BTreeMap, BTreeSet};
use valor_protocol::mgmtd::{self, ChainInfo, PublicTargetState, RoutingInfo, UpdateChainMode, methods};
use valor_protocol::storage;
use valor_protocol::valor::storage::{ListSyncProgress, ListSyncProgressReq, SyncProgress};
use valor_protocol::{ChainId, ChainTableId, ChainTableVersion, NodeId, TargetId};

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Add a target to a chain, to be filled behind the others, or remove one that is offline.
    UpdateChain {
        chain_id: u32,
        target_id: u64,
        #[arg(short, long, value_enum)]
        mode: Mode,
    },
    /// Give up a chain's LASTSRV target and wait for the next one instead. What only the old one had is lost.
    RotateLastsrv { chain_id: u32 },
    /// Move a chain one step towards its preferred order.
    RotateAsPreferredOrder { chain_id: u32 },
    /// Set the order in which a chain's targets should be.
    SetPreferredTargetOrder {
        chain_id: u32,
        #[arg(required = true)]
        target_ids: Vec<u64>,
    },
    /// Take a storage target out of service until its server is started again.
    OfflineTarget {
        /// Looked up if absent.
        #[arg(long)]
        node_id: Option<u32>,
        #[arg(long)]
        target_id: u64,
        /// Even the last one of its chain.
        #[arg(long)]
        force: bool,
    },
    /// Remove an offline target that is in no chain, with its data.
    RemoveTarget {
        #[arg(long)]
        node_id: u32,
        #[arg(long)]
        target_id: u64,
        /// Even if it is in a chain.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    Add,
    Remove,
}

pub async fn run(admin: &Admin, command: Command) -> Result<(), String> {
    let (cluster_id, user) = (admin.cluster_id.clone(), admin.user.clone());
    match command {
        Command::UpdateChain { chain_id, target_id, mode } => {
            let request = mgmtd::UpdateChainReq {
                cluster_id,
                user,
                chain_id: ChainId(chain_id),
                target_id: TargetId(target_id),
                mode: match mode {
                    Mode::Add => UpdateChainMode::Add,
                    Mode::Remove => UpdateChainMode::Remove,
                },
            };
            show(admin, &admin.manager::<methods::UpdateChain>(&request).await?.chain);
        }
        Command::RotateLastsrv { chain_id } => {
            let request = mgmtd::RotateLastSrvReq { cluster_id, chain_id: ChainId(chain_id), user };
            show(admin, &admin.manager_once::<methods::RotateLastSrv>(&request).await?.chain);
        }
        Command::RotateAsPreferredOrder { chain_id } => {
            let request = mgmtd::RotateAsPreferredOrderReq { cluster_id, chain_id: ChainId(chain_id), user };
            show(admin, &admin.manager_once::<methods::RotateAsPreferredOrder>(&request).await?.chain);
        }
        Command::SetPreferredTargetOrder { chain_id, target_ids } => {
            let request = mgmtd::SetPreferredTargetOrderReq {
                cluster_id,
                chain_id: ChainId(chain_id),
                preferred_target_order: target_ids.into_iter().map(TargetId).collect(),
                user,
            };
            show(admin, &admin.manager::<methods::SetPreferredTargetOrder>(&request).await?.chain);
        }
        Command::OfflineTarget { node_id, target_id, force } => {
            let routing = admin.routing().await?;
            let node = match node_id {
                Some(id) => NodeId(id),
                None => node_of(&routing, TargetId(target_id))
                    .ok_or_else(|| format!("no node is known for target {target_id}; give --node-id"))?,
            };
            let address = admin.endpoint(&routing, node, "StorageSerde")?;
            let request = storage::OfflineTargetReq { target_id: TargetId(target_id), force };
            admin.call::<storage::methods::OfflineTarget>(address, &request).await?;
            println!("target {target_id} on node {node} is offline");
        }
        Command::RemoveTarget { node_id, target_id, force } => {
            let routing = admin.routing().await?;
            let address = admin.endpoint(&routing, NodeId(node_id), "StorageSerde")?;
            let request = storage::RemoveTargetReq { target_id: TargetId(target_id), force };
            admin.call::<storage::methods::RemoveTarget>(address, &request).await?;
            println!("target {target_id} on node {node_id} is removed");
        }
    }
    Ok(())
}

fn node_of(routing: &RoutingInfo, target: TargetId) -> Option<NodeId> {
    routing.targets.get(&target)?.node_id
}

fn show(admin: &Admin, chain: &ChainInfo) {
    let targets: Vec<String> =
        chain.targets.iter().map(|t| format!("{}({:?})", t.target_id, t.public_state)).collect();
    let mut table = Table::new(&["ChainId", "ChainVersion", "Targets"]);
    table.row(vec![chain.chain_id.to_string(), chain.chain_version.to_string(), targets.join(" ")]);
    table.print(admin.json);
}

/// Prints chains with the states of their targets, and how far targets being filled are.
pub async fn list_chains(
    admin: &Admin,
    routing: &RoutingInfo,
    table_id: Option<u32>,
    version: Option<u32>,
) -> Result<(), String> {
    let ids: Vec<ChainId> = match table_id {
        Some(id) => routing
            .chain_table(ChainTableId(id), ChainTableVersion(version.unwrap_or(0)))
            .map(|table| table.chains.clone())
            .ok_or_else(|| {
                format!("no chain table {id} of that version; see `valor admin list-chain-tables`")
            })?,
        None => routing.chains.keys().copied().collect(),
    };
    let chains: Vec<&ChainInfo> = ids.iter().filter_map(|id| routing.chains.get(id)).collect();
    let progress = progress(admin, routing, &chains).await;
    let mut table =
        Table::new(&["ChainId", "ChainVersion", "Status", "PreferredOrder", "Targets", "Progress"]);
    for chain in chains {
        let serving = chain.targets.iter().filter(|t| t.public_state == PublicTargetState::Serving).count();
        let status = match serving {
            0 => "UNAVAILABLE",
            n if n == chain.targets.len() => "SERVING",
            _ => "DEGRADED",
        };
        let local = |id: &TargetId| routing.targets.get(id).map(|info| format!("{:?}", info.local_state));
        let targets: Vec<String> = chain
            .targets
            .iter()
            .map(|target| {
                let local = local(&target.target_id).unwrap_or_else(|| "Unknown".into());
                format!("{}({:?}-{local})", target.target_id, target.public_state)
            })
            .collect();
        let preferred: Vec<String> = chain.preferred_target_order.iter().map(ToString::to_string).collect();
        table.row(vec![
            chain.chain_id.to_string(),
            chain.chain_version.to_string(),
            status.into(),
            format!("[{}]", preferred.join(",")),
            targets.join(" "),
            progress.get(&chain.chain_id).map_or_else(|| "-".into(), describe),
        ]);
    }
    table.print(admin.json);
    Ok(())
}

/// The server that fills a chain's target, if one is to be filled.
fn filler(routing: &RoutingInfo, chain: &ChainInfo) -> Option<NodeId> {
    let at = chain.targets.iter().position(|t| t.public_state == PublicTargetState::Syncing)?;
    node_of(routing, chain.targets.get(at.checked_sub(1)?)?.target_id)
}

/// Asks the servers that fill others. One that does not answer, or is of 3FS, is left out.
async fn progress(
    admin: &Admin,
    routing: &RoutingInfo,
    chains: &[&ChainInfo],
) -> BTreeMap<ChainId, SyncProgress> {
    let nodes: BTreeSet<NodeId> = chains.iter().filter_map(|chain| filler(routing, chain)).collect();
    let mut all = BTreeMap::new();
    for node in nodes {
        let Ok(address) = admin.endpoint(routing, node, "StorageSerde") else { continue };
        if let Ok(reply) = admin.call::<ListSyncProgress>(address, &ListSyncProgressReq::default()).await {
            all.extend(reply.progress.into_iter().map(|progress| (progress.chain_id, progress)));
        }
    }
    all
}

/// `12: syncing 43% 1.2 GiB/2.8 GiB`.
fn describe(progress: &SyncProgress) -> String {
    let share = |done: u64, all: u64| (all > 0).then(|| (u128::from(done) * 100 / u128::from(all)) as u64);
    let percent = share(progress.bytes_done, progress.bytes)
        .or_else(|| share(progress.chunks_done, progress.chunks))
        .unwrap_or(0);
    let (done, all) = (bytes(progress.bytes_done), bytes(progress.bytes));
    format!("{}: syncing {percent}% {done}/{all}", progress.target_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_readable() {
        let mut progress = SyncProgress {
            target_id: TargetId(12),
            bytes: 3_000_000_000,
            bytes_done: 1_300_000_000,
            ..SyncProgress::default()
        };
        assert_eq!(describe(&progress), "12: syncing 43% 1.2 GiB/2.8 GiB");
        (progress.bytes, progress.bytes_done, progress.chunks, progress.chunks_done) = (0, 0, 4, 1);
        assert_eq!(describe(&progress), "12: syncing 25% 0 B/0 B");
    }
}
