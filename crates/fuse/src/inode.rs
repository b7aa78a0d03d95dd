//! The table of inodes that the kernel refers to (`src/fuse/FuseOps.cc`, `RcInode`).

use crate::coherence::Coherence;
use crate::dynamic::Dynamic;
use crate::pipeline::{ErrorSequence, Pipeline};
use crate::write::Buffer;
use bstr::BString;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use valor_client::file::FileMap;
use valor_protocol::InodeId;
use valor_protocol::meta::Inode;
use valor_wire::{Status, Uuid};

/// Counts what this process learns of inodes and names, so that answers can be told to be older than others.
static CLOCK: AtomicU64 = AtomicU64::new(1);

/// The latest [`Node::heard`] of a node that is no longer in its table.
static FORGOTTEN: AtomicU64 = AtomicU64::new(0);

/// A moment later than all before.
pub(crate) fn tick() -> u64 {
    CLOCK.fetch_add(1, Ordering::AcqRel) + 1
}

/// Parts of the table that are locked separately.
const SHARDS: usize = 64;

/// An inode that the kernel refers to.
pub(crate) struct Node {
    /// The inode as first seen: what never changes (type, layout, a symlink's target) is read from here.
    pub(crate) first: Inode,
    /// References the kernel holds. Changed under the lock of the table's shard.
    lookups: AtomicU64,
    /// Changes at work on it, which keep it in the table. Changed under that lock, too.
    changes: AtomicU64,
    /// What changes.
    pub(crate) dynamic: Mutex<Dynamic>,
    /// Bytes collected for writing; also orders writers and truncation.
    pub(crate) writer: tokio::sync::Mutex<Option<Buffer>>,
    /// Writes on their way.
    pub(crate) pipeline: Arc<Pipeline>,
    /// When a server last told of it. What was asked for before may be older than what the kernel knows.
    heard: AtomicU64,
    /// When this mount last changed a name in this directory.
    pub(crate) names_changed: AtomicU64,
    /// What the kernel has cached of it.
    pub(crate) coherence: Coherence,
    /// The thread that was last told that the name it opened leads elsewhere.
    pub(crate) told_stale: AtomicU32,
    /// Errors of acknowledged writes.
    pub(crate) errors: ErrorSequence,
    /// One extension of the stripe at a time.
    pub(crate) extending: tokio::sync::Mutex<()>,
    /// Open handles.
    pub(crate) handles: AtomicU32,
    /// Those without a session: readers, and writers whose session close(2) has ended.
    pub(crate) unprotected: AtomicU32,
    /// A name was removed while a handle was open; it may have been the last one.
    pub(crate) removed: AtomicBool,
    /// Directory and name under which it was last found.
    pub(crate) name: Mutex<Option<(u64, BString)>>,
    /// Sessions that keep its data although its last name is gone.
    pub(crate) holds: Mutex<Vec<Uuid>>,
    map: OnceLock<Result<FileMap, Status>>,
}

impl Node {
    fn new(inode: Inode) -> Self {
        Node {
            dynamic: Mutex::new(Dynamic::new(&inode)),
            first: inode,
            lookups: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            writer: tokio::sync::Mutex::default(),
            pipeline: Arc::default(),
            heard: AtomicU64::new(0),
            names_changed: AtomicU64::new(0),
            coherence: Coherence::default(),
            told_stale: AtomicU32::new(u32::MAX),
            errors: ErrorSequence::default(),
            extending: tokio::sync::Mutex::default(),
            handles: AtomicU32::new(0),
            unprotected: AtomicU32::new(0),
            removed: AtomicBool::new(false),
            name: Mutex::default(),
            holds: Mutex::default(),
            map: OnceLock::new(),
        }
    }

    pub(crate) fn id(&self) -> InodeId {
        self.first.id
    }

    pub(crate) fn is_file(&self) -> bool {
        self.first.data.as_file().is_some()
    }

    /// Where the file's bytes are; made when first needed.
    pub(crate) fn map(&self) -> Result<&FileMap, Status> {
        self.map.get_or_init(|| FileMap::of(&self.first)).as_ref().map_err(Clone::clone)
    }

    /// Bytes that were acknowledged could not be written. The kernel may have them in its cache.
    pub(crate) fn write_failed(&self, errno: xfuse::Errno) {
        self.errors.record(errno);
        self.coherence.forget_pages();
    }

    /// Takes over a reply of the server that says nothing about our own writes.
    pub(crate) fn refresh(&self, inode: &Inode) {
        self.dynamic.lock().update(inode, 0, false);
        self.note_heard();
    }

    /// A server has told of it, now.
    pub(crate) fn note_heard(&self) {
        self.heard.fetch_max(tick(), Ordering::AcqRel);
    }

    /// Whether attributes that were asked for at a moment are as new as any that the kernel may have.
    fn is_news(&self, asked: u64) -> bool {
        let dynamic = self.dynamic.lock();
        self.heard.load(Ordering::Acquire) <= asked
            && dynamic.written == dynamic.synced
            && self.pipeline.is_clear()
    }
}

type Shard = HashMap<InodeId, Arc<Node>>;

/// All inodes that the kernel refers to, and those that changes work on.
pub(crate) struct Nodes {
    shards: Vec<Mutex<Shard>>,
}

/// A change works on a node.
pub(crate) struct Kept {
    nodes: Arc<Nodes>,
    node: Arc<Node>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut shard = self.nodes.shard(self.node.id()).lock();
        self.node.changes.fetch_sub(1, Ordering::Relaxed);
        drop_unused(&mut shard, self.node.id());
    }
}

/// Takes an inode out of its shard if neither the kernel nor a change refers to it.
fn drop_unused(shard: &mut Shard, id: InodeId) {
    let unused = |node: &&Arc<Node>| {
        node.lookups.load(Ordering::Relaxed) == 0 && node.changes.load(Ordering::Relaxed) == 0
    };
    if let Some(node) = shard.get(&id).filter(unused) {
        FORGOTTEN.fetch_max(node.heard.load(Ordering::Acquire), Ordering::AcqRel);
        shard.remove(&id);
    }
}

impl Nodes {
    pub(crate) fn new() -> Self {
        Nodes { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, id: InodeId) -> &Mutex<Shard> {
        // Consecutive ids differ in low bits, ids of different servers in higher ones.
        let hash = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.shards[hash as usize % SHARDS]
    }

    /// Notes that an entry reply gives the kernel a reference to `inode`.
    pub(crate) fn add(&self, inode: &Inode) -> Arc<Node> {
        let mut shard = self.shard(inode.id).lock();
        let (node, known) = match shard.get(&inode.id) {
            Some(node) => (node.clone(), true),
            None => {
                let node = Arc::new(Node::new(inode.clone()));
                shard.insert(inode.id, node.clone());
                (node, false)
            }
        };
        node.lookups.fetch_add(1, Ordering::Relaxed);
        drop(shard);
        if known {
            node.refresh(inode);
        }
        node
    }

    /// An inode the kernel refers to.
    pub(crate) fn get(&self, id: InodeId) -> Option<Arc<Node>> {
        self.shard(id).lock().get(&id).cloned()
    }

    /// Like [`Nodes::add`], for an inode out of a listing that was asked for at a moment, unless something newer is known
    /// of it, or bytes of it are on their way.
    pub(crate) fn add_listed(&self, inode: &Inode, asked: u64) -> Option<Arc<Node>> {
        let mut shard = self.shard(inode.id).lock();
        if let Some(node) = shard.get(&inode.id) {
            if !node.is_news(asked) {
                return None;
            }
            node.lookups.fetch_add(1, Ordering::Relaxed);
            // Not heard of now, but when it was asked for.
            node.dynamic.lock().update(inode, 0, false);
            return Some(node.clone());
        }
        if FORGOTTEN.load(Ordering::Acquire) > asked {
            return None;
        }
        let node = Arc::new(Node::new(inode.clone()));
        node.lookups.fetch_add(1, Ordering::Relaxed);
        shard.insert(inode.id, node.clone());
        Some(node)
    }

    /// Drops `count` references.
    pub(crate) fn forget(&self, id: InodeId, count: u64) {
        let mut shard = self.shard(id).lock();
        let Some(node) = shard.get(&id) else {
            // Entries of the virtual tree are not in the table.
            return;
        };
        node.lookups.fetch_sub(count.min(node.lookups.load(Ordering::Relaxed)), Ordering::Relaxed);
        drop_unused(&mut shard, id);
    }

    /// Keeps `node` in the table while a change works on it, although the kernel may forget it: whoever finds the inode
    /// again meanwhile, and changes it, comes after that change.
    pub(crate) fn keep(self: &Arc<Self>, node: &Arc<Node>) -> Kept {
        let mut shard = self.shard(node.id()).lock();
        shard.entry(node.id()).or_insert_with(|| node.clone());
        node.changes.fetch_add(1, Ordering::Relaxed);
        drop(shard);
        Kept { nodes: self.clone(), node: node.clone() }
    }

    /// All inodes.
    pub(crate) fn all(&self) -> Vec<Arc<Node>> {
        self.shards.iter().flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>()).collect()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_balance_entries() {
        let nodes = Nodes::new();
        let inode = Inode { id: InodeId(4097), ..Inode::default() };
        let first = nodes.add(&inode);
        assert!(Arc::ptr_eq(&first, &nodes.add(&inode)));
        nodes.forget(inode.id, 1);
        assert!(nodes.get(inode.id).is_some());
        nodes.forget(inode.id, 1);
        assert!(nodes.get(inode.id).is_none() && nodes.len() == 0);
        nodes.forget(inode.id, 1);
        let again = nodes.add(&inode);
        assert!(!Arc::ptr_eq(&first, &again));
    }

    #[test]
    fn a_change_at_work_keeps_its_inode() {
        let nodes = Arc::new(Nodes::new());
        let inode = Inode { id: InodeId(4099), ..Inode::default() };
        let node = nodes.add(&inode);
        let (first, second) = (nodes.keep(&node), nodes.keep(&node));
        nodes.forget(inode.id, 1);
        let found = nodes.add(&inode);
        assert!(Arc::ptr_eq(&node, &found), "whoever finds it again waits for the same changes");
        nodes.forget(inode.id, 1);
        drop(first);
        assert!(nodes.get(inode.id).is_some());
        drop(second);
        assert!(nodes.get(inode.id).is_none(), "the last one to leave");
        // A change that begins just after the kernel has forgotten the inode.
        let late = nodes.keep(&node);
        assert!(Arc::ptr_eq(&node, &nodes.add(&inode)));
        drop(late);
        assert!(nodes.get(inode.id).is_some(), "the kernel refers to it");
        nodes.forget(inode.id, 1);
        assert_eq!(nodes.len(), 0);
    }

    #[test]
    fn listings_do_not_bring_back_what_has_changed_since() {
        let nodes = Nodes::new();
        let inode = Inode { id: InodeId(4098), ..Inode::default() };
        let early = tick();
        let node = nodes.add_listed(&inode, early).expect("nothing is known of it");
        assert!(nodes.add_listed(&inode, early).is_some());
        node.refresh(&inode);
        assert!(nodes.add_listed(&inode, early).is_none(), "a server has told of it since");
        let late = tick();
        assert!(nodes.add_listed(&inode, late).is_some());
        node.dynamic.lock().finish_write(0, Some(1), 1, valor_wire::UtcTime(1));
        assert!(nodes.add_listed(&inode, late).is_none(), "it has bytes that no server knows of");
        nodes.forget(inode.id, 3);
        assert!(nodes.get(inode.id).is_none());
        assert!(nodes.add_listed(&inode, early).is_none(), "what was known of it is forgotten");
        assert!(nodes.add_listed(&inode, tick()).is_some());
    }
}
