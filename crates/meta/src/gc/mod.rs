//! Garbage collection (`src/meta/components/GcManager.cc`).
//!
//! A removed file or tree gets an entry in one of the queues, which are directories below inode 1. The server that
//! owns the queue later removes the chunks of files, and takes trees apart entry by entry.

mod directory;
mod file;
mod manager;
mod name;
mod orphan;

pub(crate) use manager::{init, spawn};
pub(crate) use name::GcKind;

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;
use valor_protocol::InodeId;
use valor_protocol::meta::{DirEntry, GcInfo, IFlags, Inode, InodeType};
use valor_protocol::status::code;
use valor_wire::Uuid;

use crate::core::Cx;
use crate::error::{Result, fail};
use crate::store::{
    Tx, new_directory_entry, new_file_entry, read_conflict_entry, read_conflict_inode,
    remove_entry as clear_entry, remove_inode, store_entry, store_inode,
};
use name::entry_name;

/// The queues known to this server.
#[derive(Default)]
pub(crate) struct GcQueues {
    /// Queues this server works off.
    own: RwLock<Vec<Queue>>,
    /// Queues of all live servers.
    all: RwLock<Vec<InodeId>>,
    /// Something may have come into an own queue: for the collector of directories, and for that of files.
    woken: [Notify; 2],
    /// Symlinks without names, and when their inodes go.
    symlinks: Mutex<VecDeque<(Instant, InodeId)>>,
}

/// A queue: a directory whose entries wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) id: InodeId,
}

impl GcQueues {
    /// Tells the collector that there may be work.
    pub(crate) fn wake(&self) {
        self.woken.iter().for_each(Notify::notify_one);
    }

    /// Remembers a symlink whose inode is to be deleted after a while.
    pub(crate) fn bury_symlink(&self, id: InodeId) {
        const MAX_REMEMBERED: usize = 100_000;
        const DELAY: Duration = Duration::from_secs(60);
        let mut symlinks = self.symlinks.lock();
        // Beyond that they stay as in C++ 3FS: some bytes of the store without a name.
        if symlinks.len() < MAX_REMEMBERED {
            symlinks.push_back((Instant::now() + DELAY, id));
        }
    }

    /// Any queue, chosen by `random`.
    fn pick(&self, distributed: bool, random: u64) -> Option<InodeId> {
        let any = |ids: &[InodeId]| ids.get((random % ids.len().max(1) as u64) as usize).copied();
        let all = self.all.read();
        if distributed && !all.is_empty() {
            return any(&all);
        }
        let own: Vec<_> = self.own.read().iter().map(|queue| queue.id).collect();
        any(&own)
    }
}

/// Takes an entry away from its directory. The inode loses a link; without links a symlink is deleted, anything else
/// goes to a queue.
pub(crate) fn remove_entry(
    cx: &Cx<'_>,
    tx: &mut Tx,
    entry: &DirEntry,
    inode: &mut Inode,
    gc_info: GcInfo,
) -> Result<()> {
    if inode.data.nlink == 0 {
        tracing::error!(?entry, "entry leads to an inode without links");
        return fail(code::META_INCONSISTENT, format!("entry of inode {} without links", inode.id));
    }
    if inode.data.acl.iflags.contains(IFlags::IMMUTABLE) {
        return fail(code::META_NO_PERMISSION, format!("inode {} is immutable", inode.id));
    }
    let directory = inode.data.as_directory().map(|directory| directory.parent);
    if directory.is_some_and(|parent| parent != entry.parent || inode.data.nlink != 1) {
        tracing::error!(?entry, ?inode, "directory and its entry do not agree");
        return fail(code::META_FOUND_BUG, format!("directory {} and its entry do not agree", inode.id));
    }
    inode.data.nlink -= 1;
    inode.data.ctime = inode.data.ctime.max(cx.now());
    read_conflict_inode(tx, inode.id);
    read_conflict_entry(tx, entry.parent, &entry.name);
    clear_entry(tx, entry.parent, &entry.name);
    if inode.data.nlink == 0 && entry.data.r#type == InodeType::Symlink {
        return remove_inode(tx, inode.id, inode.data.acl.iflags);
    }
    store_inode(tx, inode)?;
    if inode.data.nlink == 0 { enqueue(cx, tx, inode, gc_info) } else { Ok(()) }
}

fn enqueue(cx: &Cx<'_>, tx: &mut Tx, inode: &Inode, gc_info: GcInfo) -> Result<()> {
    let config = &cx.config.gc;
    let Some(kind) = GcKind::of(inode, config) else {
        return fail(code::META_FOUND_BUG, "symlinks do not wait");
    };
    let Some(queue) = cx.core.gc.pick(config.distributed_gc, cx.core.env.random_u64()) else {
        return fail(code::META_BUSY, "no garbage collection queue is known yet");
    };
    let name = entry_name(kind, cx.precise_now(), inode.id);
    let name = name.as_bytes();
    let entry = if kind == GcKind::Directory {
        let mut entry = new_directory_entry(queue, name, inode.id, inode.data.acl, Uuid::ZERO);
        entry.data.gc_info = Some(gc_info);
        entry
    } else {
        new_file_entry(queue, name, inode.id, Uuid::ZERO)
    };
    store_entry(tx, &entry)
}
