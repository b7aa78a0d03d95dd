//! What must hold of the metadata, whatever operations ran, and of chunks towards it.

use std::collections::{BTreeMap, BTreeSet};

use bstr::BString;
use valor_kv::{Database, KvError};
use valor_meta::schema::{
    ENTRY_PREFIX, FileSession, INODE_PREFIX, PRUNE_INODE, SESSION_PREFIX, parse_entry_key,
};
use valor_protocol::InodeId;
use valor_protocol::meta::{DirEntry, Inode};
use valor_wire::from_bytes;

use super::Verdict;
use super::replicas::Chunks;

/// Records read at once; simulated file systems are small.
const ALL: usize = 1_000_000;

/// Everything in the store.
pub struct Everything {
    inodes: BTreeMap<InodeId, Inode>,
    entries: Vec<DirEntry>,
    sessions: Vec<FileSession>,
}

impl Everything {
    /// Reads the store at one version.
    ///
    /// # Errors
    /// The store's, and records that do not decode.
    pub async fn read(db: &Database) -> Result<Self, String> {
        let failed = |error: KvError| error.to_string();
        let tx = db.begin();
        let mut all = Self { inodes: BTreeMap::new(), entries: Vec::new(), sessions: Vec::new() };
        for item in tx.snapshot_get_prefix(INODE_PREFIX, ALL).await.map_err(failed)?.items {
            let id = item.key.get(4..12).and_then(|id| id.try_into().ok()).map(u64::from_le_bytes);
            let id = InodeId(id.ok_or("an inode's key is too short")?);
            let data = from_bytes(item.value).map_err(|error| format!("inode {id}: {error}"))?;
            all.inodes.insert(id, Inode { id, data });
        }
        for item in tx.snapshot_get_prefix(ENTRY_PREFIX, ALL).await.map_err(failed)?.items {
            let (parent, name) = parse_entry_key(&item.key).ok_or("an entry's key is too short")?;
            let data = from_bytes(item.value).map_err(|error| format!("entry {name:?}: {error}"))?;
            all.entries.push(DirEntry { data, parent, name: BString::from(name.to_vec()) });
        }
        for item in tx.snapshot_get_prefix(SESSION_PREFIX, ALL).await.map_err(failed)?.items {
            all.sessions.push(from_bytes(item.value).map_err(|error| format!("session: {error}"))?);
        }
        Ok(all)
    }

    /// Directories below inode 1: the garbage collection queues.
    fn queues(&self) -> BTreeSet<InodeId> {
        let queues = self.entries.iter().filter(|entry| entry.parent == InodeId::GC_ROOT);
        queues.map(|entry| entry.data.id).collect()
    }

    /// What garbage collection has not done yet, if anything.
    pub fn garbage(&self) -> Option<String> {
        let queues = self.queues();
        let waiting: Vec<&DirEntry> =
            self.entries.iter().filter(|entry| queues.contains(&entry.parent)).collect();
        let entry = waiting.first()?;
        let open: Vec<&FileSession> =
            self.sessions.iter().filter(|session| session.inode_id == entry.data.id).collect();
        Some(format!("{} entries wait, the first is {entry:?} with sessions {open:?}", waiting.len()))
    }

    /// Looks for what does not hold.
    pub fn check(&self, verdict: &Verdict) {
        let queues = self.queues();
        let mut links: BTreeMap<InodeId, u16> = BTreeMap::new();
        let mut waiting = BTreeSet::new();
        for entry in &self.entries {
            let Some(inode) = self.inodes.get(&entry.data.id) else {
                verdict.violation(format!("entry without inode: {entry:?}"));
                continue;
            };
            if inode.data.inode_type() != entry.data.r#type {
                verdict.violation(format!("types of {entry:?} and {inode:?}"));
            }
            if !self.inodes.contains_key(&entry.parent) {
                verdict.violation(format!("entry of a directory that is gone: {entry:?}"));
            }
            if queues.contains(&entry.parent) {
                if !waiting.insert(inode.id) {
                    verdict.violation(format!("waits twice: {entry:?}"));
                }
                continue;
            }
            *links.entry(inode.id).or_default() += 1;
            if let Some(directory) = inode.data.as_directory()
                && (directory.parent, &directory.name) != (entry.parent, &entry.name)
            {
                verdict.violation(format!("{entry:?} does not agree with {inode:?}"));
            }
        }
        for inode in self.inodes.values().filter(|inode| !inode.id.is_tree_root()) {
            self.check_inode(inode, links.get(&inode.id).copied().unwrap_or(0), &waiting, verdict);
        }
        for session in self.sessions.iter().filter(|session| session.inode_id != PRUNE_INODE) {
            if !self.inodes.contains_key(&session.inode_id) {
                verdict.violation(format!("session without inode: {session:?}"));
            }
        }
    }

    fn check_inode(&self, inode: &Inode, links: u16, waiting: &BTreeSet<InodeId>, verdict: &Verdict) {
        if inode.data.nlink != links {
            verdict.violation(format!("{links} names lead to {inode:?}"));
        }
        // A symlink replaced by a rename is deleted some time later, without waiting in a queue.
        if links == 0 && inode.data.as_symlink().is_none() && !waiting.contains(&inode.id) {
            verdict.violation(format!("orphan {inode:?}"));
        }
        if links > 0 && waiting.contains(&inode.id) {
            verdict.violation(format!("waits in spite of names: {inode:?}"));
        }
        if inode.data.as_directory().is_none() {
            return;
        }
        let mut seen = BTreeSet::new();
        let mut current = inode;
        while !current.id.is_tree_root() && !waiting.contains(&current.id) {
            if !seen.insert(current.id) {
                return verdict.violation(format!("cycle through {}", inode.id));
            }
            let parent = current.data.as_directory().and_then(|d| self.inodes.get(&d.parent));
            match parent {
                Some(parent) => current = parent,
                None => return verdict.violation(format!("parent of {current:?} is gone")),
            }
        }
    }

    /// Chunks of files that do not exist.
    pub fn ownerless(&self, chunks: &Chunks) -> Vec<String> {
        let owner = |id: &valor_protocol::storage::ChunkId| id.parse_file().map(|(inode, _, _)| inode);
        let all = chunks.iter().flat_map(|(chain, metas)| metas.iter().map(move |meta| (chain, meta)));
        all.filter(|(_, meta)| owner(&meta.chunk_id).is_some_and(|inode| !self.inodes.contains_key(&inode)))
            .map(|(chain, meta)| format!("chunk {} on chain {chain}", meta.chunk_id))
            .collect()
    }
}
