//! Taking a removed directory apart: each entry goes to the queues in turn.

use valor_protocol::meta::{DirEntry, GcInfo, IFlags, Inode};
use valor_protocol::status::code;
use valor_protocol::user::{UserAttr, UserInfo};

use super::manager::{Collector, Task};
use super::{orphan, remove_entry};
use crate::acl;
use crate::core::{Cx, Work};
use crate::error::{Result, fail};
use crate::path::join;
use crate::store::{
    Read, Tx, entry_inode, is_empty, list_entries, load_inode, remove_entry as clear_entry, remove_inode,
};
use crate::times;

/// Collects a directory. What the remover had no right to remove moves to `/trash/gc-orphans`.
pub(super) async fn collect(collector: &Collector, task: &Task) -> Result<()> {
    let data = &task.entry.data;
    // Entries of old versions do not say who removed the directory: take its owner.
    let owner = data.dir_acl.map_or(0, |acl| acl.uid);
    let uid = data.gc_info.as_ref().map_or(owner, |info| info.user);
    let user = match collector.users.user(uid).await? {
        Some(user) => user,
        None => UserAttr { name: format!("user-{uid}"), uid, gid: uid, ..UserAttr::default() },
    };
    while !collector.core.transact(Step { task, user: &user }).await? {}
    collector.core.gc.wake();
    Ok(())
}

struct Step<'a> {
    task: &'a Task,
    user: &'a UserAttr,
}

impl Work for Step<'_> {
    /// True if the directory is gone.
    type Output = bool;

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<bool> {
        let task = &self.task.entry;
        let id = task.data.id;
        match load_inode(tx, id, Read::Conflict).await? {
            Some(inode)
                if inode.data.nlink != 0
                    || inode.data.as_directory().is_none()
                    || inode.data.acl.iflags.contains(IFlags::IMMUTABLE) =>
            {
                return fail(code::META_FOUND_BUG, format!("inode {id} must not be collected"));
            }
            Some(_) => {}
            None => tracing::warn!(inode = %id, "directory was collected before"),
        }
        let batch = cx.config.gc.gc_directory_entry_batch as usize;
        let page = list_entries(tx, id, b"", batch, Read::Conflict).await?;
        for entry in &page.entries {
            self.take(cx, tx, entry).await?;
        }
        if page.more {
            return Ok(false);
        }
        clear_entry(tx, task.parent, &task.name);
        times::forget_directory(cx, tx, id);
        remove_inode(tx, id, IFlags::default())?;
        Ok(true)
    }
}

impl Step<'_> {
    async fn take(&self, cx: &Cx<'_>, tx: &mut Tx, entry: &DirEntry) -> Result<()> {
        let mut inode = entry_inode(tx, entry, Read::Conflict).await?;
        if inode.data.as_directory().is_some_and(|directory| directory.parent != entry.parent) {
            return fail(code::META_FOUND_BUG, format!("directory {} has another parent", inode.id));
        }
        if !self.may_remove(cx, tx, &inode).await? {
            return orphan::keep(cx, tx, &self.task.entry, entry, inode, self.user).await;
        }
        let gc_info = match &self.task.entry.data.gc_info {
            Some(info) => GcInfo { user: info.user, orig_path: join(&info.orig_path, &entry.name) },
            None => GcInfo { user: self.user.uid, orig_path: entry.name.clone() },
        };
        remove_entry(cx, tx, entry, &mut inode, gc_info)
    }

    /// Immutable inodes stay, and directories that are not empty need permissions.
    async fn may_remove(&self, cx: &Cx<'_>, tx: &mut Tx, inode: &Inode) -> Result<bool> {
        if inode.data.acl.iflags.contains(IFlags::IMMUTABLE) {
            return Ok(false);
        }
        if inode.data.as_directory().is_none() || !cx.config.gc.recursive_perm_check {
            return Ok(true);
        }
        let UserAttr { uid, gid, groups, .. } = self.user.clone();
        let user = UserInfo { uid, gid, groups, token: String::new() };
        if acl::check_recursive_remove(&inode.data.acl, &user, false).is_ok() {
            return Ok(true);
        }
        is_empty(tx, inode.id).await
    }
}
