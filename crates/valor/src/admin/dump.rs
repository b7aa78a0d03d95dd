//! Everything of a kind: inodes from the database, chunk metadata from the storage targets.

use super::Admin;
use super::table::Table;
use indicatif::{ProgressBar, ProgressStyle};
use valor_kv::{KeyValue, key_after};
use valor_protocol::meta::{InodeData, InodeKind};
use valor_protocol::mgmtd::PublicTargetState;
use valor_protocol::storage;
use valor_protocol::{ChainId, InodeId};
use valor_wire::from_bytes;

const INODE_PREFIX: &[u8] = b"INOD";
const INODE_END: &[u8] = b"INOE";
const PAGE: usize = 1000;

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// All inodes.
    DumpInodes {
        /// At most this many.
        #[arg(short = 'n', long, default_value_t = 10_000_000)]
        limit: usize,
    },
    /// Metadata of all chunks, of one serving target of each chain.
    #[command(alias = "dump-chunkmeta")]
    DumpChunkMeta {
        /// Only these chains.
        #[arg(short = 'c', long)]
        chain_id: Vec<u32>,
    },
}

pub async fn run(admin: &Admin, command: Command) -> Result<(), String> {
    match command {
        Command::DumpInodes { limit } => dump_inodes(admin, limit).await,
        Command::DumpChunkMeta { chain_id } => dump_chunk_meta(admin, &chain_id).await,
    }
}

async fn dump_inodes(admin: &Admin, limit: usize) -> Result<(), String> {
    let db = admin.metadata()?;
    let progress = spinner("inodes");
    let mut table = Table::new(&["InodeId", "Type", "Uid", "Gid", "Perm", "Nlink", "Length", "Chains"]);
    let mut from = bytes::Bytes::from_static(INODE_PREFIX);
    let mut count = 0;
    loop {
        let tx = db.begin();
        let page = tx
            .snapshot_get_range(&from, INODE_END, PAGE.min(limit - count), false)
            .await
            .map_err(|error| error.to_string())?;
        for KeyValue { key, value } in &page.items {
            let id = key.get(4..12).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
            let id = InodeId(id.ok_or_else(|| format!("an inode key of {} bytes", key.len()))?);
            let data: InodeData =
                from_bytes(value.clone()).map_err(|error| format!("inode {id}: {error}"))?;
            table.row(inode_row(id, &data));
        }
        count += page.items.len();
        progress.set_position(count as u64);
        match page.items.last() {
            Some(last) if page.more && count < limit => from = key_after(&last.key),
            _ => break,
        }
    }
    progress.finish_and_clear();
    table.print(admin.json);
    Ok(())
}

fn inode_row(id: InodeId, data: &InodeData) -> Vec<String> {
    let (kind, length, chains) = match &data.r#type {
        InodeKind::File(file) => {
            ("File", file.length, format!("{}x{}", file.layout.stripe_size, file.layout.chunk_size))
        }
        InodeKind::Directory(_) => ("Directory", 0, "-".into()),
        InodeKind::Symlink(link) => ("Symlink", link.target.len() as u64, "-".into()),
    };
    vec![
        id.to_string(),
        kind.into(),
        data.acl.uid.to_string(),
        data.acl.gid.to_string(),
        format!("{:o}", data.acl.perm),
        data.nlink.to_string(),
        length.to_string(),
        chains,
    ]
}

async fn dump_chunk_meta(admin: &Admin, only: &[u32]) -> Result<(), String> {
    let routing = admin.routing().await?;
    let chains: Vec<_> =
        routing.chains.values().filter(|chain| only.is_empty() || only.contains(&chain.chain_id.0)).collect();
    let progress = ProgressBar::new(chains.len() as u64).with_message("chains");
    let mut table = Table::new(&[
        "ChainId",
        "TargetId",
        "ChunkId",
        "UpdateVer",
        "CommitVer",
        "ChainVer",
        "State",
        "Length",
        "Checksum",
    ]);
    for chain in chains {
        progress.inc(1);
        let serving = chain.targets.iter().find(|target| target.public_state == PublicTargetState::Serving);
        let located = serving
            .and_then(|target| Some((target.target_id, routing.targets.get(&target.target_id)?.node_id?)));
        let Some((target, node)) = located else {
            eprintln!("chain {} has no serving target; left out", chain.chain_id);
            continue;
        };
        let address = admin.endpoint(&routing, node, "StorageSerde")?;
        let request = storage::GetAllChunkMetadataReq { target_id: target };
        let reply = admin.call::<storage::methods::GetAllChunkMetadata>(address, &request).await?;
        for meta in reply.chunk_meta_vec {
            table.row(chunk_row(chain.chain_id, target.to_string(), &meta));
        }
    }
    progress.finish_and_clear();
    table.print(admin.json);
    Ok(())
}

fn chunk_row(chain: ChainId, target: String, meta: &storage::ChunkMeta) -> Vec<String> {
    vec![
        chain.to_string(),
        target,
        meta.chunk_id.to_string(),
        meta.update_ver.to_string(),
        meta.commit_ver.to_string(),
        meta.chain_ver.to_string(),
        format!("{:?}", meta.chunk_state),
        meta.length.to_string(),
        format!("{:08x}", meta.checksum.value),
    ]
}

fn spinner(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {pos} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style).with_message(what)
}
