//! What holds of the store whatever operations ran.

use std::collections::{BTreeMap, BTreeSet};

use bstr::BString;
use valor_kv::Database;
use valor_protocol::InodeId;
use valor_protocol::meta::*;
use valor_wire::from_bytes;

use crate::schema::{
    ENTRY_PREFIX, FileSession, INODE_PREFIX, PRUNE_INODE, SESSION_PREFIX, TIME_PREFIX, parse_entry_key,
};

/// Everything in the store.
pub(super) struct Everything {
    pub(super) inodes: BTreeMap<InodeId, Inode>,
    pub(super) entries: BTreeMap<(InodeId, BString), DirEntry>,
    pub(super) sessions: Vec<FileSession>,
    times: BTreeSet<InodeId>,
}

const ALL: usize = 1_000_000;

impl Everything {
    /// Reads the store at one version.
    pub(super) async fn read(db: &Database) -> Self {
        let tx = db.begin();
        let id_of = |key: &[u8]| InodeId(u64::from_le_bytes(key[4..12].try_into().unwrap()));
        let inodes = tx.snapshot_get_prefix(INODE_PREFIX, ALL).await.unwrap().items.into_iter().map(|item| {
            let id = id_of(&item.key);
            (id, Inode { data: from_bytes(item.value).unwrap(), id })
        });
        let inodes = inodes.collect();
        let entries =
            tx.snapshot_get_prefix(ENTRY_PREFIX, ALL).await.unwrap().items.into_iter().map(|item| {
                let (parent, name) = parse_entry_key(&item.key).unwrap();
                let name = BString::from(name.to_vec());
                ((parent, name.clone()), DirEntry { data: from_bytes(item.value).unwrap(), parent, name })
            });
        let entries = entries.collect();
        let sessions = tx.snapshot_get_prefix(SESSION_PREFIX, ALL).await.unwrap().items;
        let sessions = sessions.into_iter().map(|item| from_bytes(item.value).unwrap()).collect();
        let times = tx.snapshot_get_prefix(TIME_PREFIX, ALL).await.unwrap().items;
        let times = times.iter().map(|item| id_of(&item.key)).collect();
        Self { inodes, entries, sessions, times }
    }

    /// Directories below inode 1: the garbage collection queues.
    fn queues(&self) -> BTreeSet<InodeId> {
        let queues = self.entries.values().filter(|entry| entry.parent == InodeId::GC_ROOT);
        queues.map(|entry| entry.data.id).collect()
    }

    /// Entries that wait in the queues.
    pub(super) fn waiting(&self) -> Vec<&DirEntry> {
        let queues = self.queues();
        self.entries.values().filter(|entry| queues.contains(&entry.parent)).collect()
    }

    /// Panics if something does not hold.
    pub(super) fn check(&self) {
        let queues = self.queues();
        let mut links: BTreeMap<InodeId, u16> = BTreeMap::new();
        let mut waiting: BTreeSet<InodeId> = BTreeSet::new();
        for entry in self.entries.values() {
            let inode = self.inodes.get(&entry.data.id);
            let inode = inode.unwrap_or_else(|| panic!("entry without inode: {entry:?}"));
            assert_eq!(inode.data.inode_type(), entry.data.r#type, "{entry:?}");
            assert!(self.inodes.contains_key(&entry.parent), "entry of a directory that is gone: {entry:?}");
            if queues.contains(&entry.parent) {
                assert!(waiting.insert(inode.id), "waits twice: {entry:?}");
                continue;
            }
            *links.entry(inode.id).or_default() += 1;
            if let Some(directory) = inode.data.as_directory() {
                assert_eq!((directory.parent, &directory.name), (entry.parent, &entry.name), "{entry:?}");
                assert_eq!(entry.data.dir_acl, Some(inode.data.acl), "{entry:?}");
            }
        }
        for inode in self.inodes.values().filter(|inode| !inode.id.is_tree_root()) {
            let count = links.get(&inode.id).copied().unwrap_or(0);
            assert_eq!(inode.data.nlink, count, "link count of {inode:?}");
            // A symlink replaced by a rename is deleted some time later, without waiting in a queue.
            if count == 0 && inode.data.as_symlink().is_none() {
                assert!(waiting.contains(&inode.id), "orphan {inode:?}");
            }
            assert!(count == 0 || !waiting.contains(&inode.id), "waits in spite of links: {inode:?}");
            if inode.data.as_directory().is_some() {
                assert!(count <= 1, "directory with two names: {inode:?}");
                self.check_ancestors(inode, &waiting);
            }
        }
        for session in self.sessions.iter().filter(|session| session.inode_id != PRUNE_INODE) {
            assert!(self.inodes.contains_key(&session.inode_id), "session without inode: {session:?}");
        }
        for id in &self.times {
            assert!(self.inodes.contains_key(id), "times of a directory that is gone: {id}");
        }
    }

    /// Every directory hangs below a root, or below something that waits.
    fn check_ancestors(&self, inode: &Inode, waiting: &BTreeSet<InodeId>) {
        let mut seen = BTreeSet::new();
        let mut current = inode;
        while !current.id.is_tree_root() && !waiting.contains(&current.id) {
            assert!(seen.insert(current.id), "cycle through {}", inode.id);
            let parent = current.data.as_directory().unwrap().parent;
            current = self.inodes.get(&parent).unwrap_or_else(|| panic!("parent of {current:?} is gone"));
        }
    }
}
