//! Nodes, targets, chains, chain tables, clients.

use super::Admin;
use super::table::{Table, bytes, time};
use std::path::PathBuf;
use valor_config::Size;
use valor_protocol::mgmtd::{self, ChainSetting, ChainTargetSetting, RoutingInfo, methods};
use valor_protocol::storage;
use valor_protocol::{ChainId, ChainTableId, NodeId, TargetId};

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Nodes with their state and addresses.
    ListNodes,
    /// Clients with an open session.
    ListClients,
    /// Chain tables with their versions.
    ListChainTables,
    /// Chains with the states of their targets, head first.
    ListChains {
        /// Only chains of this table.
        #[arg(short = 't', long)]
        table_id: Option<u32>,
        /// Version of the table; the newest if absent.
        #[arg(short = 'v', long)]
        version: Option<u32>,
    },
    /// Storage targets.
    ListTargets {
        /// Only targets of this chain.
        #[arg(short = 'c', long)]
        chain_id: Option<u32>,
        /// Targets that report but are in no chain.
        #[arg(long)]
        orphan: bool,
    },
    /// Make a storage target on a node.
    CreateTarget {
        #[arg(long)]
        node_id: u32,
        #[arg(long)]
        disk_index: u32,
        #[arg(long)]
        target_id: u64,
        #[arg(long)]
        chain_id: u32,
        /// Chunk sizes, for example 512KB; 3FS's list if absent.
        #[arg(long)]
        chunk_size: Vec<Size>,
        /// Accepted for 3FS's scripts; there is one chunk engine here.
        #[arg(long)]
        use_new_chunk_engine: bool,
    },
    /// Make chains from a CSV file with the header `ChainId,TargetId[,TargetId...]`.
    UploadChains {
        file: PathBuf,
        #[arg(long)]
        set_preferred_target_order: bool,
    },
    /// Make a chain table from a CSV file with the header `ChainId`.
    UploadChainTable {
        table_id: u32,
        file: PathBuf,
        #[arg(long, default_value = "")]
        desc: String,
    },
}

pub async fn run(admin: &Admin, command: Command) -> Result<(), String> {
    match command {
        Command::ListNodes => list_nodes(admin, &admin.routing().await?),
        Command::ListClients => list_clients(admin).await?,
        Command::ListChainTables => list_chain_tables(admin, &admin.routing().await?),
        Command::ListChains { table_id, version } => {
            super::chains::list_chains(admin, &admin.routing().await?, table_id, version).await?;
        }
        Command::ListTargets { chain_id, orphan } => list_targets(admin, chain_id, orphan).await?,
        Command::CreateTarget {
            node_id,
            disk_index,
            target_id,
            chain_id,
            chunk_size,
            use_new_chunk_engine,
        } => {
            let mut request = storage::CreateTargetReq {
                target_id: TargetId(target_id),
                disk_index,
                chain_id: ChainId(chain_id),
                only_chunk_engine: use_new_chunk_engine,
                ..Default::default()
            };
            if !chunk_size.is_empty() {
                request.chunk_size_list = chunk_size.iter().map(|size| size.get()).collect();
            }
            let routing = admin.routing().await?;
            let address = admin.endpoint(&routing, NodeId(node_id), "StorageSerde")?;
            admin.call::<storage::methods::CreateTarget>(address, &request).await?;
            println!("target {target_id} on node {node_id}");
        }
        Command::UploadChains { file, set_preferred_target_order } => {
            upload_chains(admin, &file, set_preferred_target_order).await?;
        }
        Command::UploadChainTable { table_id, file, desc } => {
            upload_chain_table(admin, table_id, &file, desc).await?;
        }
    }
    Ok(())
}

fn list_nodes(admin: &Admin, routing: &RoutingInfo) {
    let mut table = Table::new(&[
        "Id",
        "Type",
        "Status",
        "Hostname",
        "Pid",
        "Tags",
        "LastHeartbeatTime",
        "ConfigVersion",
        "Addresses",
    ]);
    for node in routing.nodes.values() {
        let tags: Vec<String> = node.tags.iter().map(|tag| format!("{}={}", tag.key, tag.value)).collect();
        let groups = node.app.service_groups.iter();
        let addresses: Vec<String> = groups
            .map(|group| {
                let services: Vec<&str> = group.services.iter().map(String::as_str).collect();
                let endpoints: Vec<String> = group.endpoints.iter().map(ToString::to_string).collect();
                format!("{}@{}", services.join("+"), endpoints.join("+"))
            })
            .collect();
        table.row(vec![
            node.app.node_id.to_string(),
            node.r#type.name().into(),
            format!("{:?}", node.status),
            node.app.hostname.clone(),
            node.app.pid.to_string(),
            tags.join(","),
            time(node.last_heartbeat_ts.0),
            format!("{}({:?})", node.config_version, node.config_status),
            addresses.join(" "),
        ]);
    }
    table.print(admin.json);
}

async fn list_clients(admin: &Admin) -> Result<(), String> {
    let request =
        mgmtd::ListClientSessionsReq { cluster_id: admin.cluster_id.clone(), user: admin.user.clone() };
    let reply = admin.manager::<methods::ListClientSessions>(&request).await?;
    let mut table = Table::new(&[
        "ClientId",
        "Type",
        "UniversalId",
        "Description",
        "ConfigVersion",
        "Start",
        "LastExtend",
    ]);
    for session in reply.sessions {
        table.row(vec![
            session.client_id,
            session.r#type.name().into(),
            session.universal_id,
            session.description,
            session.config_version.to_string(),
            time(session.client_start.0),
            time(session.last_extend.0),
        ]);
    }
    table.print(admin.json);
    if reply.bootstrapping && !admin.json {
        println!("(the manager has just started; clients may be missing)");
    }
    Ok(())
}

fn list_chain_tables(admin: &Admin, routing: &RoutingInfo) {
    let mut table = Table::new(&["ChainTableId", "ChainTableVersion", "ChainCount", "ReplicaCount", "Desc"]);
    for versions in routing.chain_tables.values() {
        for entry in versions.values() {
            let replicas = entry
                .chains
                .first()
                .and_then(|id| routing.chains.get(id))
                .map_or(0, |chain| chain.targets.len());
            table.row(vec![
                entry.chain_table_id.to_string(),
                entry.chain_table_version.to_string(),
                entry.chains.len().to_string(),
                replicas.to_string(),
                entry.desc.clone(),
            ]);
        }
    }
    table.print(admin.json);
}

async fn list_targets(admin: &Admin, chain_id: Option<u32>, orphan: bool) -> Result<(), String> {
    let mut table =
        Table::new(&["TargetId", "ChainId", "PublicState", "LocalState", "NodeId", "DiskIndex", "UsedSize"]);
    let targets: Vec<mgmtd::TargetInfo> = if orphan {
        let request =
            mgmtd::ListOrphanTargetsReq { cluster_id: admin.cluster_id.clone(), user: admin.user.clone() };
        admin.manager::<methods::ListOrphanTargets>(&request).await?.targets
    } else {
        admin.routing().await?.targets.into_values().collect()
    };
    let optional = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    for target in targets.iter().filter(|target| chain_id.is_none_or(|id| target.chain_id.0 == id)) {
        table.row(vec![
            target.target_id.to_string(),
            target.chain_id.to_string(),
            format!("{:?}", target.public_state),
            format!("{:?}", target.local_state),
            optional(target.node_id.map(|id| id.to_string())),
            optional(target.disk_index.map(|index| index.to_string())),
            if admin.json { target.used_size.to_string() } else { bytes(target.used_size) },
        ]);
    }
    table.print(admin.json);
    Ok(())
}

async fn upload_chains(
    admin: &Admin,
    file: &PathBuf,
    set_preferred_target_order: bool,
) -> Result<(), String> {
    let rows = read_csv(file, "ChainId,TargetId")?;
    let mut chains = Vec::new();
    for (line, row) in rows {
        let [chain, targets @ ..] = row.as_slice() else { continue };
        let chain = u32::try_from(*chain)
            .map_err(|_| format!("{}:{line}: chain id {chain} is too large", file.display()))?;
        if targets.is_empty() {
            return Err(format!("{}:{line}: chain {chain} has no target", file.display()));
        }
        chains.push(ChainSetting {
            chain_id: ChainId(chain),
            targets: targets.iter().map(|id| ChainTargetSetting { target_id: TargetId(*id) }).collect(),
            set_preferred_target_order,
        });
    }
    let count = chains.len();
    let request =
        mgmtd::SetChainsReq { cluster_id: admin.cluster_id.clone(), chains, user: admin.user.clone() };
    admin.manager::<methods::SetChains>(&request).await?;
    println!("{count} chains uploaded");
    Ok(())
}

async fn upload_chain_table(
    admin: &Admin,
    table_id: u32,
    file: &PathBuf,
    desc: String,
) -> Result<(), String> {
    let rows = read_csv(file, "ChainId")?;
    let ids: Result<Vec<ChainId>, String> = rows
        .iter()
        .map(|(line, row)| match row.as_slice() {
            [id] => u32::try_from(*id)
                .map(ChainId)
                .map_err(|_| format!("{}:{line}: {id} is too large", file.display())),
            _ => Err(format!("{}:{line}: one chain id a line", file.display())),
        })
        .collect();
    let request = mgmtd::SetChainTableReq {
        cluster_id: admin.cluster_id.clone(),
        chain_table_id: ChainTableId(table_id),
        chains: ids?,
        desc,
        user: admin.user.clone(),
    };
    let reply = admin.manager::<methods::SetChainTable>(&request).await?;
    println!("chain table {table_id} has version {}", reply.chain_table_version);
    Ok(())
}

/// Numbers of a CSV file, with their line numbers; the header must begin with `header`.
fn read_csv(file: &PathBuf, header: &str) -> Result<Vec<(usize, Vec<u64>)>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    match lines.next() {
        Some((_, first)) if first.replace(' ', "").starts_with(header) => {}
        _ => return Err(format!("{}: the first line must begin with `{header}`", file.display())),
    }
    let parse = |(number, line): (usize, &str)| {
        let cells: Result<Vec<u64>, _> = line.split(',').map(|cell| cell.trim().parse()).collect();
        cells
            .map(|cells| (number, cells))
            .map_err(|_| format!("{}:{number}: `{line}` is not a list of numbers", file.display()))
    };
    lines.filter(|(_, line)| !line.is_empty()).map(parse).collect()
}
