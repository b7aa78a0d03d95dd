//! Replicas of a quiet cluster are identical.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use valor_client::storage::{ReadOp, ReadOptions, TargetSelection, TargetSelectionMode};
use valor_protocol::storage::methods::GetAllChunkMetadata;
use valor_protocol::storage::{ChunkId, ChunkMeta, ChunkState, GetAllChunkMetadataReq};
use valor_protocol::{ChainId, TargetId};

use super::Verdict;
use crate::cluster::{CHUNK_SIZE, Cluster, ROOT};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// All chunks of all chains, as the heads have them.
pub type Chunks = BTreeMap<ChainId, Vec<ChunkMeta>>;

/// Compares metadata and contents of all replicas; returns the chunks there are.
///
/// # Errors
/// When a server does not answer, which in a quiet cluster it must.
pub async fn check(cluster: &Cluster, verdict: &Verdict) -> Result<Chunks, String> {
    let mut all = Chunks::new();
    let routing = cluster.admin.mgmtd.routing();
    for chain in routing.info().chains.values() {
        let mut first: Option<(TargetId, Vec<ChunkMeta>)> = None;
        for (index, member) in chain.targets.iter().enumerate() {
            let id = member.target_id;
            let metas = metas(cluster, id).await?;
            for meta in metas.iter().filter(|meta| !is_settled(meta)) {
                verdict.violation(format!("target {id} has something pending: {meta:?}"));
            }
            match &first {
                None => first = Some((id, metas)),
                Some((head, expected)) => compare(*head, expected, id, &metas, verdict),
            }
            let chunks = first.as_ref().map(|(_, metas)| metas.as_slice()).unwrap_or_default();
            contents(cluster, chain.chain_id, index as u32, chunks, verdict).await?;
        }
        all.insert(chain.chain_id, first.map(|(_, metas)| metas).unwrap_or_default());
    }
    Ok(all)
}

async fn metas(cluster: &Cluster, target_id: TargetId) -> Result<Vec<ChunkMeta>, String> {
    let routing = cluster.admin.mgmtd.routing();
    let node = routing.target(target_id).and_then(|target| target.node_id).unwrap_or_default();
    let req = GetAllChunkMetadataReq { target_id };
    // The server may hear of its place a little later than the administrator.
    let begun = Instant::now();
    let mut metas = loop {
        match cluster.admin.storage.call_node::<GetAllChunkMetadata>(node, &req).await {
            Ok(rsp) => break rsp.chunk_meta_vec,
            Err(_) if begun.elapsed() < PATIENCE => sleep(Duration::from_millis(100)).await,
            Err(status) => return Err(format!("metadata of target {target_id}: {status}")),
        }
    };
    metas.sort_by(|a, b| a.chunk_id.cmp(&b.chunk_id));
    Ok(metas)
}

fn is_settled(meta: &ChunkMeta) -> bool {
    meta.commit_ver == meta.update_ver && meta.chunk_state == ChunkState::Commit
}

fn compare(a: TargetId, left: &[ChunkMeta], b: TargetId, right: &[ChunkMeta], verdict: &Verdict) {
    let index = |metas: &[ChunkMeta]| -> BTreeMap<ChunkId, ChunkMeta> {
        metas.iter().map(|meta| (meta.chunk_id.clone(), meta.clone())).collect()
    };
    let (left, right) = (index(left), index(right));
    for (id, meta) in &left {
        let same = |other: &ChunkMeta| {
            (other.commit_ver, other.length, other.checksum) == (meta.commit_ver, meta.length, meta.checksum)
        };
        match right.get(id) {
            Some(other) if same(other) => {}
            other => verdict.violation(format!("chunk {id}: target {a} has {meta:?}, target {b} {other:?}")),
        }
    }
    for id in right.keys().filter(|id| !left.contains_key(*id)) {
        verdict.violation(format!("chunk {id}: target {b} has it, target {a} does not"));
    }
}

/// Reads all chunks from one replica, which checks them against their checksums.
async fn contents(
    cluster: &Cluster,
    chain_id: ChainId,
    index: u32,
    chunks: &[ChunkMeta],
    verdict: &Verdict,
) -> Result<(), String> {
    let options = ReadOptions {
        target_selection: TargetSelection {
            mode: TargetSelectionMode::ManualMode,
            target_index: index,
            traffic_zone: String::new(),
        },
        ..ReadOptions::default()
    };
    let ops: Vec<ReadOp> = chunks
        .iter()
        .map(|meta| ReadOp { chain_id, chunk_id: meta.chunk_id.clone(), offset: 0, length: CHUNK_SIZE })
        .collect();
    for (op, result) in ops.iter().zip(cluster.admin.storage.batch_read(&ops, &ROOT, &options).await) {
        if let Err(status) = result {
            verdict
                .violation(format!("chunk {} of replica {index} of chain {chain_id}: {status}", op.chunk_id));
        }
    }
    Ok(())
}
