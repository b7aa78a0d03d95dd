//! Stored and running configurations.

use super::Admin;
use super::table::Table;
use std::path::PathBuf;
use valor_protocol::NodeId;
use valor_protocol::address::Address;
use valor_protocol::core;
use valor_protocol::mgmtd::{self, NodeType, methods};

#[derive(clap::Subcommand, Debug)]
#[expect(clippy::enum_variant_names, reason = "the names of 3FS's commands")]
pub enum Command {
    /// A stored configuration (-t), or the running one of a process (-n or -a); -l lists stored versions.
    GetConfig {
        /// Running configuration of this node.
        #[arg(short = 'n', long)]
        node_id: Option<u32>,
        /// Running configuration of the process at this Core address.
        #[arg(short = 'a', long)]
        addr: Option<String>,
        /// Newest stored configuration of a kind of node: MGMTD, META, STORAGE, CLIENT or FUSE.
        #[arg(short = 't', long = "type")]
        kind: Option<String>,
        /// Versions of all stored configurations.
        #[arg(short = 'l', long)]
        list: bool,
        /// Only this dotted key (with -n or -a).
        #[arg(short = 'k', long, default_value = "")]
        key: String,
        /// Into a file.
        #[arg(short = 'o', long)]
        output: Option<PathBuf>,
    },
    /// Store a new configuration for a kind of node; its processes apply it.
    SetConfig {
        #[arg(short = 't', long = "type")]
        kind: String,
        #[arg(short = 'f', long)]
        file: PathBuf,
        #[arg(long, default_value = "")]
        desc: String,
    },
    /// Change settings of a running process until it restarts.
    HotUpdateConfig {
        #[arg(short = 'n', long)]
        node_id: Option<u32>,
        /// All connected nodes of a kind.
        #[arg(short = 't', long = "type")]
        kind: Option<String>,
        #[arg(short = 'a', long)]
        addr: Option<String>,
        /// Settings as TOML.
        #[arg(short = 's', long = "string")]
        text: Option<String>,
        /// Settings from a TOML file.
        #[arg(short = 'f', long)]
        file: Option<PathBuf>,
    },
}

pub async fn run(admin: &Admin, command: Command) -> Result<(), String> {
    match command {
        Command::GetConfig { list: true, .. } => list_versions(admin).await,
        Command::GetConfig { kind: Some(kind), output, .. } => {
            let content = stored(admin, node_type(&kind)?).await?;
            emit(&content, output.as_ref())
        }
        Command::GetConfig { node_id, addr, key, output, .. } => {
            let address = core_address(admin, node_id, addr.as_deref()).await?;
            let request = core::GetConfigReq { config_key: key };
            let reply = admin.call::<core::methods::GetConfig>(address, &request).await?;
            emit(&reply.config, output.as_ref())
        }
        Command::SetConfig { kind, file, desc } => {
            let content = read(&file)?;
            let request = mgmtd::SetConfigReq {
                cluster_id: admin.cluster_id.clone(),
                node_type: node_type(&kind)?,
                content,
                desc,
                user: admin.user.clone(),
            };
            let reply = admin.manager::<methods::SetConfig>(&request).await?;
            println!("{} configuration has version {}", kind.to_uppercase(), reply.config_version);
            Ok(())
        }
        Command::HotUpdateConfig { node_id, kind, addr, text, file } => {
            let update = match (text, file) {
                (Some(text), None) => text,
                (None, Some(file)) => read(&file)?,
                _ => return Err("give the settings either by -s TOML or by -f FILE".into()),
            };
            let addresses = match kind {
                Some(kind) => addresses_of(admin, node_type(&kind)?).await?,
                None => vec![core_address(admin, node_id, addr.as_deref()).await?],
            };
            for address in addresses {
                let request = core::HotUpdateConfigReq { update: update.clone(), render: false };
                admin.call::<core::methods::HotUpdateConfig>(address, &request).await?;
                println!("{address} updated");
            }
            Ok(())
        }
    }
}

async fn list_versions(admin: &Admin) -> Result<(), String> {
    let request =
        mgmtd::GetConfigVersionsReq { cluster_id: admin.cluster_id.clone(), user: admin.user.clone() };
    let reply = admin.manager::<methods::GetConfigVersions>(&request).await?;
    let mut table = Table::new(&["Type", "ConfigVersion"]);
    for (kind, version) in reply.versions {
        table.row(vec![kind, version.to_string()]);
    }
    table.print(admin.json);
    Ok(())
}

async fn stored(admin: &Admin, kind: NodeType) -> Result<String, String> {
    let request = mgmtd::GetConfigReq {
        cluster_id: admin.cluster_id.clone(),
        node_type: kind,
        user: admin.user.clone(),
        ..Default::default()
    };
    let reply = admin.manager::<methods::GetConfig>(&request).await?;
    Ok(reply.info.map(|info| info.content).unwrap_or_default())
}

async fn core_address(admin: &Admin, node: Option<u32>, addr: Option<&str>) -> Result<Address, String> {
    match (node, addr) {
        (Some(node), None) => admin.endpoint(&admin.routing().await?, NodeId(node), "Core"),
        (None, Some(text)) => {
            text.parse().map_err(|_| format!("`{text}` is not an address like TCP://10.0.0.1:9000"))
        }
        _ => Err("name one process: -n NODE, -a ADDRESS (or -t KIND)".into()),
    }
}

async fn addresses_of(admin: &Admin, kind: NodeType) -> Result<Vec<Address>, String> {
    let routing = admin.routing().await?;
    let nodes = routing.nodes.values().filter(|node| node.r#type == kind).map(|node| node.app.node_id);
    let addresses: Result<Vec<_>, String> =
        nodes.map(|node| admin.endpoint(&routing, node, "Core")).collect();
    addresses
        .and_then(|list| if list.is_empty() { Err(format!("no {} node", kind.name())) } else { Ok(list) })
}

/// `CLIENT_AGENT` is an alias of `CLIENT`, as in 3FS.
fn node_type(text: &str) -> Result<NodeType, String> {
    match text.to_uppercase().as_str() {
        "MGMTD" => Ok(NodeType::Mgmtd),
        "META" => Ok(NodeType::Meta),
        "STORAGE" => Ok(NodeType::Storage),
        "CLIENT" | "CLIENT_AGENT" => Ok(NodeType::Client),
        "FUSE" => Ok(NodeType::Fuse),
        _ => Err(format!("`{text}` is not a kind of node: MGMTD, META, STORAGE, CLIENT or FUSE")),
    }
}

fn read(file: &PathBuf) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    text.parse::<toml::Table>().map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text)
}

fn emit(text: &str, output: Option<&PathBuf>) -> Result<(), String> {
    match output {
        Some(path) => std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display())),
        None => {
            println!("{}", text.trim_end());
            Ok(())
        }
    }
}
