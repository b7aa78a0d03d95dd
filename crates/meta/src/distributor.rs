//! The map of metadata servers (`src/meta/components/Distributor.cc`).
//!
//! Each server shows that it lives by rewriting a versionstamp. A server whose stamp stands still is dropped from the
//! map by the others. Every new map also changes `\xff/metadataVersion`, which batched operations read: if the map
//! changes under them, their transaction conflicts.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use valor_protocol::status::code;
use valor_protocol::{InodeId, NodeId};
use valor_wire::{from_bytes, to_bytes};

use crate::core::{Core, Cx, Work};
use crate::error::{Error, Result, corrupt, fail};
use crate::owner::owner_of;
use crate::schema::{
    METADATA_VERSION_KEY, SERVER_ALIVE_PREFIX, SERVER_MAP_KEY, ServerMap, parse_server_alive_key, prefix_end,
    server_alive_key,
};
use crate::store::{Read, Tx};

/// A versionstamp; later ones are larger.
pub(crate) type Stamp = [u8; 10];

/// Servers that may be read in one round.
const MAX_SERVERS: usize = 10_000;

#[derive(Default)]
struct Latest {
    map: ServerMap,
    stamp: Stamp,
}

/// This server's view of the map.
pub(crate) struct Distributor {
    node: NodeId,
    latest: RwLock<Latest>,
    /// There are other servers, or were a short time ago: they may be out of the map and still get requests.
    shared: AtomicBool,
    signs: Mutex<Signs>,
}

/// Signs of life of all servers.
#[derive(Default)]
struct Signs {
    /// Last seen stamps, and when they were new.
    alive: HashMap<NodeId, (Stamp, Instant)>,
    /// When this server looked last.
    looked: Option<Instant>,
}

impl Distributor {
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, latest: RwLock::default(), shared: AtomicBool::new(false), signs: Mutex::default() }
    }

    /// The owner of an inode as far as this server knows.
    pub(crate) fn owner(&self, inode: InodeId) -> Option<NodeId> {
        owner_of(&self.latest.read().map.active, inode)
    }

    /// Whether other servers work on the same file system, or did while clients may still repeat what they asked them.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    /// Whether this server owns an inode, and the version of the map that says so. The transaction fails if the map
    /// changes before it commits.
    pub(crate) async fn check_owner(&self, tx: &mut Tx, inode: InodeId) -> Result<(bool, Stamp)> {
        let stamp = load_version(tx).await?;
        if stamp > self.latest.read().stamp {
            self.load_map(tx).await?;
        }
        let latest = self.latest.read();
        if stamp < latest.stamp {
            return Err(Error::Stale("the map of metadata servers has changed"));
        }
        Ok((owner_of(&latest.map.active, inode) == Some(self.node), stamp))
    }

    async fn load_map(&self, tx: &mut Tx) -> Result<(ServerMap, Stamp)> {
        let stamp = load_version(tx).await?;
        let map = match tx.get(SERVER_MAP_KEY, Read::Conflict).await? {
            Some(value) => from_bytes(value).map_err(|error| corrupt("map of metadata servers", &error))?,
            None => ServerMap::default(),
        };
        let mut latest = self.latest.write();
        if stamp > latest.stamp {
            tracing::info!(active = ?map.active, "map of metadata servers");
            *latest = Latest { map: map.clone(), stamp };
        }
        Ok((map, stamp))
    }

    /// Notes which stamps are new and gives the servers of the map that have been silent for `timeout`, at a look each `pace`. While this server could
    /// not look nobody was silent: the store may have stood still for all, and whoever lives shows it again now.
    fn find_dead(
        &self,
        active: &[NodeId],
        stamps: Vec<(NodeId, Stamp)>,
        pace: Duration,
        timeout: Duration,
        memory: Duration,
    ) -> BTreeSet<NodeId> {
        let now = Instant::now();
        let mut signs = self.signs.lock();
        let away = signs.looked.replace(now).is_some_and(|looked| now - looked > (timeout / 2).max(2 * pace));
        let alive = &mut signs.alive;
        if away {
            alive.values_mut().for_each(|(_, time)| *time = now);
        }
        for (node, stamp) in stamps {
            let known = alive.entry(node).or_insert((stamp, now));
            if known.0 != stamp {
                *known = (stamp, now);
            }
        }
        let recent = |(node, (_, time)): (&NodeId, &(Stamp, Instant))| {
            *node != self.node && (active.contains(node) || *time + memory >= now)
        };
        self.shared.store(alive.iter().any(recent), Ordering::Relaxed);
        let silent = |node: &NodeId| alive.get(node).is_none_or(|(_, time)| *time + timeout < now);
        active.iter().copied().filter(|node| *node != self.node && silent(node)).collect()
    }
}

async fn load_version(tx: &mut Tx) -> Result<Stamp> {
    match tx.get(METADATA_VERSION_KEY, Read::Conflict).await? {
        None => Ok(Stamp::default()),
        Some(value) => match Stamp::try_from(value.as_ref()) {
            Ok(stamp) => Ok(stamp),
            Err(_) => fail(code::DATA_CORRUPTION, "metadata version is not a versionstamp"),
        },
    }
}

struct Update {
    leave: bool,
}

impl Work for Update {
    /// True if there is a new map.
    type Output = bool;

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<bool> {
        let distributor = &cx.core.distributor;
        let (map, stamp) = distributor.load_map(tx).await?;
        if stamp < distributor.latest.read().stamp {
            return Err(Error::Stale("the map of metadata servers has changed"));
        }
        let begin = SERVER_ALIVE_PREFIX;
        let page = tx.range(begin, &prefix_end(begin), MAX_SERVERS, Read::Snapshot).await?;
        let stamps = page.items.iter().filter_map(|(key, value)| {
            Some((parse_server_alive_key(key)?, Stamp::try_from(value.as_ref()).ok()?))
        });
        let timeout = cx.config.distributor.timeout.get();
        let pace = cx.config.distributor.update_interval.get();
        let memory = cx.config.idempotent_record_expire.get().max(timeout);
        let dead = distributor.find_dead(&map.active, stamps.collect(), pace, timeout, memory);
        let node = distributor.node;
        tx.set_versionstamp(&server_alive_key(node));
        let listed = map.active.contains(&node);
        if dead.is_empty() && listed != self.leave {
            return Ok(false);
        }
        let mut active: BTreeSet<NodeId> =
            map.active.iter().copied().filter(|node| !dead.contains(node)).collect();
        if self.leave {
            active.remove(&node);
        } else {
            active.insert(node);
        }
        if !dead.is_empty() {
            tracing::warn!(?dead, "metadata servers are silent and lose their inodes");
        }
        let map = ServerMap { active: active.into_iter().collect() };
        tx.set(SERVER_MAP_KEY, to_bytes(&map));
        tx.set_versionstamp(METADATA_VERSION_KEY);
        Ok(true)
    }
}

/// One round: shows life, drops silent servers, joins (or leaves) the map.
///
/// # Errors
/// The transaction's; 3019 if the map keeps changing.
pub(crate) async fn update(core: &Core, leave: bool) -> Result<()> {
    for _ in 0..10 {
        // A map just written is known only once it is read back, with its stamp.
        if !core.transact(Update { leave }).await? || leave {
            return Ok(());
        }
    }
    fail(code::META_BUSY, "the map of metadata servers keeps changing")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);
    const PACE: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_server_that_could_not_look_blames_nobody() {
        let distributor = Distributor::new(NodeId(1));
        let (one, two) = (NodeId(1), NodeId(2));
        let stamps = || vec![(one, [1; 10]), (two, [1; 10])];
        let look = || distributor.find_dead(&[one, two], stamps(), PACE, TIMEOUT, TIMEOUT);
        assert!(look().is_empty());
        tokio::time::advance(20 * TIMEOUT).await;
        assert!(look().is_empty(), "nobody could show life");
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(look().is_empty());
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(look(), BTreeSet::from([two]), "now it is silent");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_looks_seldom_notices_silence_too() {
        let distributor = Distributor::new(NodeId(1));
        let (one, two) = (NodeId(1), NodeId(2));
        let pace = TIMEOUT * 2 / 3;
        let look = || distributor.find_dead(&[one, two], vec![(two, [1; 10])], pace, TIMEOUT, TIMEOUT);
        assert!(look().is_empty());
        tokio::time::advance(pace).await;
        assert!(look().is_empty());
        tokio::time::advance(pace).await;
        assert_eq!(look(), BTreeSet::from([two]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_alone_again_when_what_others_were_asked_is_not_repeated_any_more() {
        let distributor = Distributor::new(NodeId(1));
        let (one, two) = (NodeId(1), NodeId(2));
        let look = |active: &[NodeId], stamps| {
            distributor.find_dead(active, stamps, PACE, TIMEOUT, 10 * TIMEOUT);
            distributor.is_shared()
        };
        assert!(!look(&[one], vec![(one, [1; 10])]));
        assert!(look(&[one, two], vec![(one, [2; 10]), (two, [1; 10])]));
        for second in 0..60 {
            tokio::time::advance(Duration::from_secs(1)).await;
            let shared = look(&[one], vec![(one, [3; 10]), (two, [1; 10])]);
            assert_eq!(shared, second < 50, "after {second} s");
        }
        assert!(look(&[one], vec![(one, [4; 10]), (two, [2; 10])]), "it is back");
    }
}
