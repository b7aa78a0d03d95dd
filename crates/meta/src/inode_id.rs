//! Inode ids: counters in 32 shards, each step of which is a range of 4096 ids
//! (`src/meta/components/InodeIdAllocator.h`, `src/common/utils/IdAllocator.h`).

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use valor_env::Env;
use valor_protocol::InodeId;
use valor_protocol::status::code;

use crate::core::{Core, Cx, Work};
use crate::error::{Result, fail};
use crate::schema::{INODE_ID_SHARDS, inode_id_key};
use crate::store::{Read, Tx, load_inode};

/// Ids per step of a counter.
const RANGE: u64 = 4096;
/// Ids have at most so many bits above the range's.
const MAX_VALUE: u64 = 1 << 44;

/// Ids that this server may give out.
pub(crate) struct InodeIds {
    /// Next id and the first one behind the range.
    range: Mutex<(u64, u64)>,
    /// One fetches, the others wait.
    refill: AsyncMutex<()>,
    /// Where in the shuffled order of shards to continue.
    turn: AtomicU64,
    order: Vec<u64>,
}

impl InodeIds {
    pub(crate) fn new(env: &Env) -> Self {
        let mut order: Vec<u64> = (0..INODE_ID_SHARDS).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, (env.random_u64() % (i as u64 + 1)) as usize);
        }
        Self { range: Mutex::new((0, 0)), refill: AsyncMutex::new(()), turn: AtomicU64::new(0), order }
    }

    fn take(&self) -> Option<InodeId> {
        let mut range = self.range.lock();
        (range.0 < range.1).then(|| {
            range.0 += 1;
            InodeId(range.0 - 1)
        })
    }

    /// The next id; now and then fetches a range, in a transaction of its own.
    pub(crate) async fn next(&self, core: &Core) -> Result<InodeId> {
        loop {
            if let Some(id) = self.take() {
                return Ok(id);
            }
            let _only_one = self.refill.lock().await;
            let empty = {
                let range = self.range.lock();
                range.0 >= range.1
            };
            if empty {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                let shard = self.order[(turn % INODE_ID_SHARDS) as usize];
                let value = core.transact(Step { shard }).await?;
                *self.range.lock() = (value * RANGE, (value + 1) * RANGE);
            }
        }
    }
}

struct Step {
    shard: u64,
}

impl Work for Step {
    type Output = u64;

    async fn run(&mut self, _: &Cx<'_>, tx: &mut Tx) -> Result<u64> {
        let key = inode_id_key(self.shard);
        // Shard 0 starts at 1, for ids below 4096 belong to the roots.
        let least = u64::from(self.shard == 0);
        let value = match tx.get(&key, Read::Conflict).await? {
            None => least,
            Some(bytes) => match <[u8; 8]>::try_from(bytes.as_ref()).map(u64::from_le_bytes) {
                Ok(value) if value >= least => value,
                _ => return fail(code::DATA_CORRUPTION, format!("inode id counter {}", self.shard)),
            },
        };
        let id = value.saturating_mul(INODE_ID_SHARDS).saturating_add(self.shard);
        if id >= MAX_VALUE {
            return fail(code::META_INODE_ID_ALLOC_FAILED, "inode ids are used up");
        }
        tx.set(&key, Bytes::copy_from_slice(&(value + 1).to_le_bytes()));
        Ok(id)
    }
}

/// An id for a new inode, checked not to be in use.
pub(crate) async fn allocate(cx: &Cx<'_>, tx: &mut Tx, new_chunk_engine: bool) -> Result<InodeId> {
    let mut id = cx.core.inode_ids.next(cx.core).await?;
    if new_chunk_engine {
        id.0 |= InodeId::NEW_CHUNK_ENGINE;
    }
    if cx.config.inode_id_check_unique && load_inode(tx, id, Read::Conflict).await?.is_some() {
        tracing::error!(%id, "allocated inode id is in use");
        return fail(code::META_INODE_ID_ALLOC_FAILED, format!("inode id {id} is in use"));
    }
    Ok(id)
}
