//! `remove` (`src/meta/store/ops/Remove.cc`).

use valor_protocol::meta::{AtFlags, DirEntry, GcInfo, IFlags, Inode, InodeType, RemoveReq, RemoveRsp};
use valor_protocol::status::code;
use valor_wire::Uuid;

use super::{check_parent, check_recursive_remove, path_of, request_ids};
use crate::acl;
use crate::core::{Cx, Operation};
use crate::error::{Result, fail};
use crate::gc;
use crate::resolve::Resolver;
use crate::store::{
    Read, Tx, ancestors, entry_inode, is_empty, read_conflict_entry, read_conflict_inode, remove_entry,
    remove_inode,
};
use crate::times;

/// Removes a file, a symlink, an empty directory, or a whole tree.
pub(crate) struct Remove {
    pub(crate) req: RemoveReq,
}

impl Operation for Remove {
    type Rsp = RemoveRsp;

    fn idempotency(&self, cx: &Cx<'_>) -> Option<(Uuid, Uuid)> {
        if self.req.recursive || cx.config.idempotent_remove { request_ids(&self.req.base) } else { None }
    }

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<RemoveRsp> {
        let req = &self.req;
        let mut resolver = Resolver::new(cx, &req.base.user);
        let resolved = if req.path.path.is_some() {
            resolver.path(tx, &req.path, AtFlags::SYMLINK_NOFOLLOW).await?
        } else {
            resolver.directory(tx, req.path.parent).await?
        };
        let Some(entry) = resolved.entry else {
            return fail(code::META_NOT_FOUND, "");
        };
        if entry.data.id.is_tree_root() {
            return fail(code::META_NO_PERMISSION, "a root cannot be removed");
        }
        if req.inode_id.is_some_and(|id| id != entry.data.id) {
            return fail(code::META_NOT_FOUND, format!("entry leads to inode {}", entry.data.id));
        }
        let parent = resolved.parent.inode(tx).await?;
        check_parent(&parent, &req.base)?;
        self.check_type(&entry)?;
        let mut inode = entry_inode(tx, &entry, Read::Snapshot).await?;
        if acl::sticky_forbids(&parent.data.acl, inode.data.acl.uid, &req.base.user) {
            return fail(code::META_NO_PERMISSION, format!("sticky bit of directory {}", parent.id));
        }
        if inode.data.acl.iflags.contains(IFlags::IMMUTABLE) {
            return fail(code::META_NO_PERMISSION, format!("inode {} is immutable", inode.id));
        }
        times::touch_directory(cx, tx, parent.id);
        let mut gc_info = GcInfo { user: req.base.user.uid, orig_path: entry.name.clone() };
        if entry.data.r#type == InodeType::Directory {
            if is_empty(tx, inode.id).await? {
                remove_empty(cx, tx, &entry, &inode)?;
                return Ok(RemoveRsp::default());
            }
            self.check_tree(cx, tx, &inode).await?;
            let above = ancestors(tx, entry.parent).await?;
            gc_info.orig_path = path_of(&above, &entry.name);
        }
        gc::remove_entry(cx, tx, &entry, &mut inode, gc_info)?;
        Ok(RemoveRsp::default())
    }

    fn committed(&mut self, cx: &Cx<'_>, _: &RemoveRsp) {
        cx.core.gc.wake();
    }
}

impl Remove {
    fn check_type(&self, entry: &DirEntry) -> Result<()> {
        let directory = entry.data.r#type == InodeType::Directory;
        match (self.req.check_type, self.req.at_flags.contains(AtFlags::REMOVEDIR), directory) {
            (true, true, false) => fail(code::META_NOT_DIRECTORY, ""),
            (true, false, true) => fail(code::META_IS_DIRECTORY, ""),
            _ => Ok(()),
        }
    }

    async fn check_tree(&self, cx: &Cx<'_>, tx: &mut Tx, inode: &Inode) -> Result<()> {
        if !self.req.recursive {
            return fail(code::META_NOT_EMPTY, "");
        }
        let user = &self.req.base.user;
        acl::check_recursive_remove(&inode.data.acl, user, cx.config.recursive_remove_check_owner)?;
        check_recursive_remove(tx, inode.id, user, cx.config.recursive_remove_perm_check).await
    }
}

fn remove_empty(cx: &Cx<'_>, tx: &mut Tx, entry: &DirEntry, inode: &Inode) -> Result<()> {
    let name = &entry.name;
    read_conflict_entry(tx, entry.parent, name);
    read_conflict_inode(tx, inode.id);
    remove_entry(tx, entry.parent, name);
    times::forget_directory(cx, tx, inode.id);
    remove_inode(tx, inode.id, inode.data.acl.iflags)
}
