//! Requests and damage made up for the quiet cluster at the end of a run.

use std::collections::BTreeSet;

use valor_protocol::ChainVersion;
use valor_protocol::storage::methods::{BatchRead, Write};
use valor_protocol::storage::{BatchReadReq, FeatureFlags, GlobalKey, ReadIO, VersionedChainId};
use valor_rpc::CallOptions;
use valor_wire::Status;

use super::replicas::Chunks;
use super::{Verdict, requests};
use crate::cluster::{Cluster, Kind};
use crate::work::chunks::Register;

/// Bytes compared and searched at once.
const BLOCK: usize = 4096;

/// Sends reads and writes of old chain versions to all members of all chains; all must be refused.
pub async fn old_chain_versions(cluster: &Cluster, registers: &[Register], verdict: &Verdict) {
    let routing = cluster.admin.mgmtd.routing();
    let chains: BTreeSet<_> = registers.iter().map(|register| register.chain).collect();
    for chain in chains.iter().filter_map(|id| routing.info().chain(*id)) {
        let chunk = registers.iter().find(|register| register.chain == chain.chain_id);
        let Some(chunk_id) = chunk.map(Register::chunk_id) else { continue };
        // The first version is 1.
        let Some(old) = chain.chain_version.0.checked_sub(1).filter(|old| *old > 0) else { continue };
        let v_chain_id = VersionedChainId { chain_id: chain.chain_id, chain_ver: ChainVersion(old) };
        let key = GlobalKey { v_chain_id, chunk_id };
        for member in &chain.targets {
            let node = routing.target(member.target_id).and_then(|target| target.node_id);
            let Some(node) = node else { continue };
            let read = BatchReadReq {
                payloads: vec![ReadIO { offset: 0, length: 16, key: key.clone(), ..ReadIO::default() }],
                feature_flags: FeatureFlags::SEND_DATA_INLINE,
                ..BatchReadReq::default()
            };
            let answer = cluster.admin.storage.call_node::<BatchRead>(node, &read).await;
            let served = answer.is_ok_and(|rsp| rsp.results.iter().any(|result| result.length_info.is_ok()));
            if served {
                verdict
                    .violation(format!("node {node} serves a read of version {old} of {}", chain.chain_id));
            }
            if write(cluster, node, v_chain_id).await.is_ok() {
                verdict
                    .violation(format!("node {node} takes a write of version {old} of {}", chain.chain_id));
            }
        }
    }
}

async fn write(
    cluster: &Cluster,
    node: valor_protocol::NodeId,
    chain: VersionedChainId,
) -> Result<u32, Status> {
    // Not one of the registers' chunks, which others write.
    let data = bytes::Bytes::from_static(b"old");
    let place = (u16::MAX, u64::MAX - u64::from(node.0));
    let req = requests::write(cluster, chain, b"sim-probe", data, place);
    let routing = cluster.admin.mgmtd.routing();
    let address = routing.node_endpoint(node, "StorageSerde").unwrap_or_default();
    let options = CallOptions::timeout(std::time::Duration::from_secs(5));
    cluster.admin.rpc.call::<Write>(address, &req, &options).await?.result.length_info
}

/// Flips a bit in each of a storage server's non-empty blocks of chunk data; readers must turn to other replicas. False if
/// some chain has only this server.
pub fn damage(cluster: &Cluster, chunks: &Chunks, victim: usize) -> bool {
    if chunks.values().all(Vec::is_empty) {
        return false;
    }
    let node = &cluster.nodes[cluster.of(Kind::Storage)[victim]];
    let mut flipped = 0;
    for (path, _, _) in node.machine.disk.files() {
        // Data files, not the log or checkpoints: those are read at open only.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with("data-") {
            continue;
        }
        let Ok(bytes) = node.machine.disk.contents(&path) else { continue };
        for (index, block) in bytes.chunks(BLOCK).enumerate().skip(1) {
            if block.iter().all(|byte| *byte == 0) {
                continue;
            }
            let at = index * BLOCK + block.len() / 2;
            flipped += u64::from(node.machine.disk.flip(&path, at as u64, 0x10).unwrap_or(false));
        }
    }
    cluster.trace.event(format_args!("{flipped} blocks of {} damaged", node.machine.name));
    flipped > 0
}
