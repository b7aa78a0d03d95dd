//! How far the filling of successors is, and which chunks need not be sent because an update has brought them.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use tokio::time::Instant;
use valor_protocol::storage::{ChunkId, VersionedChainId};
use valor_protocol::valor::storage::SyncProgress;
use valor_protocol::{ChainId, TargetId};

/// Chunks remembered as brought by updates; more are sent a second time, which does no harm.
const MAX_CARRIED: usize = 1 << 20;

/// The successors being filled from here, by chain.
#[derive(Debug, Default)]
pub(crate) struct Fills(Mutex<HashMap<ChainId, Fill>>);

#[derive(Debug)]
struct Fill {
    chain: VersionedChainId,
    target: TargetId,
    began: Instant,
    chunks: u64,
    chunks_done: u64,
    bytes: u64,
    bytes_done: u64,
    /// Chunks that the successor has as they are here, because an update replaced them as a whole.
    carried: HashSet<ChunkId>,
}

/// Ends a filling when it goes.
#[derive(Debug)]
pub(crate) struct Filling<'a> {
    fills: &'a Fills,
    chain: VersionedChainId,
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.fills.0.lock().remove(&self.chain.chain_id);
    }
}

impl Filling<'_> {
    /// What there is to do.
    pub(crate) fn planned(&self, chunks: u64, bytes: u64) {
        self.fills.with(self.chain, |fill| (fill.chunks, fill.bytes) = (chunks, bytes));
    }

    /// A chunk of the plan is there. Its length counts as it was planned, so that the end is all of it.
    pub(crate) fn done(&self, bytes: u64) {
        self.fills.with(self.chain, |fill| {
            fill.chunks_done += 1;
            fill.bytes_done = (fill.bytes_done + bytes).min(fill.bytes);
        });
    }
}

impl Fills {
    /// Begins to fill a target; one at a time per chain.
    pub(crate) fn begin(&self, chain: VersionedChainId, target: TargetId) -> Filling<'_> {
        let fill = Fill {
            chain,
            target,
            began: Instant::now(),
            chunks: 0,
            chunks_done: 0,
            bytes: 0,
            bytes_done: 0,
            carried: HashSet::new(),
        };
        self.0.lock().insert(chain.chain_id, fill);
        Filling { fills: self, chain }
    }

    fn with<T: Default>(&self, chain: VersionedChainId, act: impl FnOnce(&mut Fill) -> T) -> T {
        let mut fills = self.0.lock();
        fills.get_mut(&chain.chain_id).filter(|fill| fill.chain == chain).map(act).unwrap_or_default()
    }

    /// An update of a chunk is about to be forwarded: what the successor has is not certain until it is committed. The
    /// chunk is locked, here and below.
    pub(crate) fn uncertain(&self, chain: ChainId, chunk: &ChunkId) {
        if let Some(fill) = self.0.lock().get_mut(&chain) {
            fill.carried.remove(chunk);
        }
    }

    /// The successor has committed an update that replaced the whole chunk, under this chain version.
    pub(crate) fn carried(&self, chain: VersionedChainId, chunk: &ChunkId) {
        self.with(chain, |fill| {
            if fill.carried.len() < MAX_CARRIED {
                fill.carried.insert(chunk.clone());
            }
        });
    }

    /// Whether that has happened and nothing since.
    pub(crate) fn is_carried(&self, chain: VersionedChainId, chunk: &ChunkId) -> bool {
        self.with(chain, |fill| fill.carried.contains(chunk))
    }

    /// All of them, or those of some chains.
    pub(crate) fn list(&self, chains: &[ChainId]) -> Vec<SyncProgress> {
        let fills = self.0.lock();
        let wanted = |fill: &&Fill| chains.is_empty() || chains.contains(&fill.chain.chain_id);
        let mut list: Vec<_> = fills.values().filter(wanted).map(describe).collect();
        list.sort_by_key(|progress| progress.chain_id);
        list
    }
}

fn describe(fill: &Fill) -> SyncProgress {
    SyncProgress {
        chain_id: fill.chain.chain_id,
        chain_ver: fill.chain.chain_ver,
        target_id: fill.target,
        chunks: fill.chunks,
        chunks_done: fill.chunks_done,
        bytes: fill.bytes,
        bytes_done: fill.bytes_done,
        elapsed_ms: fill.began.elapsed().as_millis() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::{ChainVersion, InodeId};

    #[tokio::test(start_paused = true)]
    async fn progress_and_carried_chunks_end_with_the_filling() {
        let fills = Fills::default();
        let chain = VersionedChainId { chain_id: ChainId(3), chain_ver: ChainVersion(7) };
        let other = VersionedChainId { chain_ver: ChainVersion(8), ..chain };
        let chunk = ChunkId::for_file(InodeId(1), 0, 0);
        fills.carried(chain, &chunk);
        assert!(!fills.is_carried(chain, &chunk), "nothing is filled");
        let filling = fills.begin(chain, TargetId(5));
        filling.planned(2, 100);
        filling.done(60);
        let listed = fills.list(&[]);
        assert_eq!((listed.len(), listed[0].target_id), (1, TargetId(5)));
        assert_eq!((listed[0].chunks_done, listed[0].bytes_done, listed[0].bytes), (1, 60, 100));
        assert!(fills.list(&[ChainId(4)]).is_empty());
        fills.carried(other, &chunk);
        assert!(!fills.is_carried(chain, &chunk), "another chain version");
        fills.carried(chain, &chunk);
        assert!(fills.is_carried(chain, &chunk));
        fills.uncertain(chain.chain_id, &chunk);
        assert!(!fills.is_carried(chain, &chunk));
        drop(filling);
        assert!(fills.list(&[]).is_empty());
    }
}
