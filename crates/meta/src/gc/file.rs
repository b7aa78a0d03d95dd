//! Removing a file's chunks, then its inode.

use valor_env::mutation::{Mutation, broken};
use valor_protocol::InodeId;
use valor_protocol::meta::{IFlags, Inode};
use valor_protocol::status::code;

use super::manager::{Collector, Task};
use crate::core::{Cx, Work};
use crate::error::{Result, fail};
use crate::store::{Read, Tx, any_session, load_inode, remove_entry, remove_inode};

struct Load {
    id: InodeId,
}

impl Work for Load {
    type Output = Option<Inode>;

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<Option<Inode>> {
        let inode = load_inode(tx, self.id, Read::Snapshot).await?;
        if cx.config.gc.check_session && any_session(tx, self.id, Read::Snapshot).await? {
            return fail(code::META_BUSY, "someone still has the file open for writing");
        }
        match inode {
            Some(inode) if inode.data.nlink != 0 || inode.data.acl.iflags.contains(IFlags::IMMUTABLE) => {
                fail(code::META_FOUND_BUG, format!("inode {} must not be collected", inode.id))
            }
            inode => Ok(inode),
        }
    }
}

/// Deletes an entry of a queue and its inode.
pub(super) struct Forget {
    pub(super) task: Task,
}

impl Work for Forget {
    type Output = ();

    async fn run(&mut self, _: &Cx<'_>, tx: &mut Tx) -> Result<()> {
        let entry = &self.task.entry;
        remove_entry(tx, entry.parent, &entry.name);
        remove_inode(tx, entry.data.id, IFlags::default())
    }
}

/// Collects a file.
pub(super) async fn collect(collector: &Collector, task: &Task) -> Result<()> {
    let core = &collector.core;
    if let Some(inode) = core.transact(Load { id: task.entry.data.id }).await?
        && !broken(Mutation::LeaveChunks)
    {
        loop {
            let config = core.config.get();
            let batch = config.gc.remove_chunks_batch_size;
            let (removed, more) = core.chunks.remove_chunks(&inode, batch, config.dynamic_stripe).await?;
            tracing::debug!(inode = %inode.id, removed, more, "removed chunks");
            if !more {
                break;
            }
        }
    }
    core.transact(Forget { task: task.clone() }).await
}
