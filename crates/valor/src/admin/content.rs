//! Contents of files, read from storage without a mount.

use super::Admin;
use super::table::Table;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Arc;
use std::time::Duration;
use valor_client::file::{FileIo, FileMap, FileRead, FileReadOptions};
use valor_client::meta::{MetaClient, MetaClientConfig};
use valor_client::mgmtd::{Identity, MgmtdClient, MgmtdClientConfig};
use valor_client::storage::{StorageClient, StorageClientConfig};
use valor_protocol::app::ClientId;
use valor_protocol::meta::PathAt;
use valor_protocol::{InodeId, status};
use valor_wire::{Uuid, extend_storage_crc32c, storage_crc32c};

const READ_BYTES: u32 = 4 << 20;
const ROUTING_PATIENCE: Duration = Duration::from_secs(10);

/// Prints length and CRC-32C of files.
pub async fn checksum(admin: &Admin, paths: &[String]) -> Result<(), String> {
    let (meta, files) = connect(admin).await?;
    let mut table = Table::new(&["Length", "Crc32c", "Path"]);
    for path in paths {
        let inode = meta
            .stat(&admin.user, PathAt::at(InodeId(0), path.as_str()), true)
            .await
            .map_err(|status| format!("{path}: {}", status::describe(&status)))?;
        let file = inode.data.as_file().ok_or_else(|| format!("{path} is not a file"))?;
        let map = FileMap::of(&inode).map_err(|status| format!("{path}: {status}"))?;
        let crc = checksum_of(admin, &files, &map, file.length, path).await?;
        table.row(vec![file.length.to_string(), format!("{:08x}", !crc), path.clone()]);
    }
    table.print(admin.json);
    Ok(())
}

async fn checksum_of(
    admin: &Admin,
    files: &FileIo,
    map: &FileMap,
    length: u64,
    path: &str,
) -> Result<u32, String> {
    let style = ProgressStyle::with_template("{bytes}/{total_bytes} {bytes_per_sec} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let progress = ProgressBar::new(length).with_style(style).with_message(path.to_owned());
    let mut crc = storage_crc32c(b"");
    let mut offset = 0;
    while offset < length {
        let want = u32::try_from(length - offset).unwrap_or(READ_BYTES).min(READ_BYTES);
        let read = FileRead { map, offset, length: want, file_length: Some(length) };
        let data = files
            .read(&admin.user, read, &FileReadOptions::default())
            .await
            .map_err(|status| format!("{path} at {offset}: {}", status::describe(&status)))?;
        for segment in &data.segments {
            crc = extend_storage_crc32c(crc, segment);
        }
        if data.is_empty() {
            return Err(format!("{path}: storage ends at {offset}, the file at {length}"));
        }
        offset += data.len() as u64;
        progress.set_position(offset);
    }
    progress.finish_and_clear();
    Ok(crc)
}

async fn connect(admin: &Admin) -> Result<(Arc<MetaClient>, FileIo), String> {
    let config = MgmtdClientConfig {
        mgmtd_server_addresses: admin.mgmtd.iter().map(ToString::to_string).collect(),
        ..MgmtdClientConfig::for_admin()
    };
    let identity = Identity::observer(admin.cluster_id.clone(), admin.user.clone());
    let mgmtd = MgmtdClient::start(admin.env.clone(), Arc::clone(&admin.rpc), config, identity);
    mgmtd.wait_ready(ROUTING_PATIENCE).await.map_err(|status| format!("no routing information: {status}"))?;
    let client_id = ClientId { uuid: Uuid(admin.env.random_uuid()), hostname: admin.env.hostname() };
    let rpc = || Arc::clone(&admin.rpc);
    let storage = StorageClient::new(
        &admin.env,
        rpc(),
        Arc::clone(&mgmtd),
        StorageClientConfig::default(),
        client_id.clone(),
    );
    let config = MetaClientConfig::default();
    let meta = MetaClient::start(admin.env.clone(), rpc(), mgmtd, None, config, client_id);
    Ok((meta, FileIo::new(storage)))
}
