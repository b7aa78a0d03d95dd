//! Permissions of directories, remembered for a short time (`src/meta/components/AclCache.h`).
//!
//! Changes made through this server take effect at once; those made by other servers after `acl_cache_time` at most.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use valor_protocol::InodeId;
use valor_protocol::meta::Acl;

const SHARDS: usize = 32;
const ENTRIES_PER_SHARD: usize = 4096;

/// The cache, shared by all shards of the process.
pub(crate) struct AclCache {
    maps: Vec<Mutex<HashMap<InodeId, (Instant, Acl)>>>,
    /// Counts invalidations, so that what was read before one is not remembered after it.
    epoch: AtomicU64,
}

impl AclCache {
    pub(crate) fn new() -> Self {
        Self { maps: (0..SHARDS).map(|_| Mutex::default()).collect(), epoch: AtomicU64::new(0) }
    }

    fn shard(&self, inode: InodeId) -> &Mutex<HashMap<InodeId, (Instant, Acl)>> {
        &self.maps[inode.0 as usize % SHARDS]
    }

    /// To be taken before reading what will be remembered.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// What is remembered and not older than `ttl`.
    pub(crate) fn get(&self, inode: InodeId, ttl: Duration) -> Option<Acl> {
        if ttl.is_zero() {
            return None;
        }
        let map = self.shard(inode).lock();
        map.get(&inode).filter(|(time, _)| time.elapsed() < ttl).map(|(_, acl)| *acl)
    }

    /// Remembers what was read since `epoch`, unless something was changed meanwhile.
    pub(crate) fn set(&self, inode: InodeId, acl: Acl, ttl: Duration, epoch: u64) {
        if ttl.is_zero() {
            return;
        }
        let mut map = self.shard(inode).lock();
        if self.epoch() != epoch {
            return;
        }
        if map.len() >= ENTRIES_PER_SHARD {
            map.retain(|_, (time, _)| time.elapsed() < ttl);
            if map.len() >= ENTRIES_PER_SHARD {
                map.clear();
            }
        }
        map.insert(inode, (Instant::now(), acl));
    }

    /// Forgets a directory whose permissions have changed.
    pub(crate) fn invalidate(&self, inode: InodeId) {
        let mut map = self.shard(inode).lock();
        self.epoch.fetch_add(1, Ordering::AcqRel);
        map.remove(&inode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn entries_age_and_are_forgotten() {
        let cache = AclCache::new();
        let acl = Acl { uid: 1, ..Acl::default() };
        cache.set(InodeId(5), acl, TTL, cache.epoch());
        assert_eq!(cache.get(InodeId(5), TTL), Some(acl));
        assert_eq!(cache.get(InodeId(5), Duration::ZERO), None);
        cache.invalidate(InodeId(5));
        assert_eq!(cache.get(InodeId(5), TTL), None);
        cache.set(InodeId(5), acl, TTL, cache.epoch());
        tokio::time::advance(TTL).await;
        assert_eq!(cache.get(InodeId(5), TTL), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_before_a_change_is_not_kept() {
        let cache = AclCache::new();
        let epoch = cache.epoch();
        cache.invalidate(InodeId(7));
        cache.set(InodeId(7), Acl::default(), TTL, epoch);
        assert_eq!(cache.get(InodeId(7), TTL), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_stays_small() {
        let cache = AclCache::new();
        for i in 0..(SHARDS * ENTRIES_PER_SHARD * 2) as u64 {
            cache.set(InodeId(i), Acl::default(), TTL, cache.epoch());
        }
        assert!(cache.maps.iter().all(|map| map.lock().len() <= ENTRIES_PER_SHARD));
    }
}
