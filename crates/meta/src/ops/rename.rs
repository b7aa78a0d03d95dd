//! `rename` (`src/meta/store/ops/Rename.cc`), with the flags of `renameat2` for our own clients.
//!
//! A directory must not move below itself, whatever else is renamed at the same time. The inodes from the new parent up
//! to the root are therefore read with conflict, and a moved directory's inode is written: of two renames that
//! together would make a cycle, each writes an inode that the other has read.

use bstr::BString;
use valor_protocol::InodeId;
use valor_protocol::meta::{
    AtFlags, DirEntry, GcInfo, IFlags, Inode, InodeType, PathAt, RenameReq, RenameRsp, ReqBase,
};
use valor_protocol::status::code;
use valor_wire::Uuid;

use super::{check_parent, check_recursive_remove, is_replay, request_ids};
use crate::acl;
use crate::core::{Cx, Operation};
use crate::error::{Result, fail};
use crate::gc;
use crate::path::file_name;
use crate::resolve::{Resolved, Resolver};
use crate::store::{
    Read, Tx, ancestors, entry_inode, is_empty, load_inode, read_conflict_entry, read_conflict_inode,
    remove_entry, remove_inode, require_inode, store_entry, store_inode,
};
use crate::times;

/// What happens if the new name exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It is replaced, if that is possible.
    Replace,
    /// Nothing happens (3007).
    Refuse,
    /// The two are exchanged; both must exist.
    Exchange,
}

/// Gives an entry another name or directory.
pub(crate) struct Rename {
    base: ReqBase,
    src: PathAt,
    dest: PathAt,
    move_to_trash: bool,
    inode_id: Option<InodeId>,
    existing: Existing,
}

impl From<RenameReq> for Rename {
    fn from(req: RenameReq) -> Self {
        let RenameReq { base, src, dest, move_to_trash, inode_id } = req;
        Self { base, src, dest, move_to_trash, inode_id, existing: Existing::Replace }
    }
}

impl Rename {
    /// A rename with a rule for an existing new name.
    pub(crate) fn with_rule(base: ReqBase, src: PathAt, dest: PathAt, existing: Existing) -> Self {
        Self { base, src, dest, move_to_trash: false, inode_id: None, existing }
    }
}

/// One of the two names.
struct End {
    resolved: Resolved,
    parent: Inode,
    name: BString,
    /// Inode of the entry, if there is one.
    inode: Option<Inode>,
}

fn answer(inode: Inode) -> Result<RenameRsp> {
    Ok(RenameRsp { stat: Some(inode), ..RenameRsp::default() })
}

impl Operation for Rename {
    type Rsp = RenameRsp;

    fn idempotency(&self, cx: &Cx<'_>) -> Option<(Uuid, Uuid)> {
        let asked = self.move_to_trash || cx.config.idempotent_rename;
        if asked { request_ids(&self.base) } else { cx.shared_ids(&self.base) }
    }

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<RenameRsp> {
        let user = &self.base.user;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let src = Resolver::new(cx, user).path(tx, &self.src, flags).await?;
        let dest = Resolver::new(cx, user).path(tx, &self.dest, flags).await?;
        if let Some(entry) = &dest.entry
            && is_replay(entry, &self.base)
        {
            return answer(entry_inode(tx, entry, Read::Snapshot).await?);
        }
        let Some(src_entry) = src.entry.clone() else {
            return fail(code::META_NOT_FOUND, "");
        };
        if self.inode_id.is_some_and(|id| id != src_entry.data.id) {
            return fail(code::META_NOT_FOUND, format!("entry leads to inode {}", src_entry.data.id));
        }
        self.check_existing(tx, &src_entry, dest.entry.as_ref()).await?;
        if let Some(entry) = &dest.entry
            && (entry.parent, &entry.name) == (src_entry.parent, &src_entry.name)
        {
            return answer(entry_inode(tx, entry, Read::Snapshot).await?);
        }
        if src_entry.data.r#type == InodeType::Directory {
            self.check_move(cx, tx, &src_entry, dest.parent.id()).await?;
        }
        if self.existing == Existing::Exchange
            && let Some(entry) = dest.entry.as_ref().filter(|entry| entry.data.r#type == InodeType::Directory)
        {
            self.check_move(cx, tx, entry, src.parent.id()).await?;
        }
        let src = self.end(tx, src, &self.src).await?;
        let dest = self.end(tx, dest, &self.dest).await?;
        if dest.parent.data.nlink == 0 {
            return fail(code::META_NOT_FOUND, format!("directory {} is removed", dest.parent.id));
        }
        for end in [&src, &dest] {
            read_conflict_inode(tx, end.parent.id);
            read_conflict_entry(tx, end.parent.id, &end.name);
            times::touch_directory(cx, tx, end.parent.id);
        }
        if self.existing == Existing::Exchange {
            return self.exchange(cx, tx, src_entry, dest).await;
        }
        remove_entry(tx, src_entry.parent, &src_entry.name);
        if let (Some(entry), Some(inode)) = (&dest.resolved.entry, &dest.inode) {
            self.remove_dest(cx, tx, entry, inode.clone()).await?;
        }
        let moved = self.place(cx, tx, src_entry, dest.parent.id, &dest.name).await?;
        answer(moved)
    }

    fn committed(&mut self, cx: &Cx<'_>, _: &RenameRsp) {
        cx.core.gc.wake();
    }
}

impl Rename {
    /// Whether what has the new name may be replaced by `src`, as far as their types go.
    async fn check_existing(&self, tx: &mut Tx, src: &DirEntry, dest: Option<&DirEntry>) -> Result<()> {
        let Some(dest) = dest else {
            return if self.existing == Existing::Exchange { fail(code::META_NOT_FOUND, "") } else { Ok(()) };
        };
        match self.existing {
            Existing::Exchange => return Ok(()),
            Existing::Refuse => return fail(code::META_EXISTS, ""),
            Existing::Replace => {}
        }
        if (dest.parent, &dest.name) == (src.parent, &src.name) {
            return Ok(());
        }
        if dest.data.r#type == InodeType::File && self.move_to_trash {
            return fail(code::META_EXISTS, "");
        }
        if dest.data.r#type == InodeType::Directory && !is_empty(tx, dest.data.id).await? {
            return fail(code::META_NOT_EMPTY, "");
        }
        if src.data.r#type == InodeType::Directory && dest.data.r#type != InodeType::Directory {
            return fail(code::META_NOT_DIRECTORY, "");
        }
        Ok(())
    }

    /// Whether a directory may move to a new parent: not below itself, not into what is removed, and into the trash only
    /// by those who could remove it.
    async fn check_move(&self, cx: &Cx<'_>, tx: &mut Tx, entry: &DirEntry, parent: InodeId) -> Result<()> {
        let above = ancestors(tx, parent).await?;
        for ancestor in &above {
            if ancestor.id == entry.data.id {
                return fail(code::INVALID_ARG, "a directory cannot move below itself");
            }
            if ancestor.data.nlink == 0 {
                return fail(code::META_NOT_FOUND, format!("directory {} is removed", ancestor.id));
            }
        }
        match above.last() {
            Some(root) if root.id == InodeId::ROOT => {}
            _ => return fail(code::META_NO_PERMISSION, "the new directory is removed"),
        }
        if !under_trash(&above) {
            return Ok(());
        }
        let user = &self.base.user;
        if self.move_to_trash || cx.config.allow_directly_move_to_trash {
            let Some(acl) = &entry.data.dir_acl else {
                return fail(code::META_FOUND_BUG, "entry of a directory without permissions");
            };
            acl::check_recursive_remove(acl, user, cx.config.recursive_remove_check_owner)?;
            check_recursive_remove(tx, entry.data.id, user, cx.config.recursive_remove_perm_check).await
        } else if user.is_root() || under_trash(&ancestors(tx, entry.parent).await?) {
            Ok(())
        } else {
            fail(code::META_NO_PERMISSION, "a move to the trash needs moveToTrash")
        }
    }

    /// Checks that the user may change one of the two names.
    async fn end(&self, tx: &mut Tx, resolved: Resolved, at: &PathAt) -> Result<End> {
        let Some(name) = at.path.as_ref().and_then(|path| file_name(path)) else {
            return fail(code::INVALID_ARG, "path does not end in a name");
        };
        let parent = resolved.parent.inode(tx).await?;
        check_parent(&parent, &self.base)?;
        let inode = match &resolved.entry {
            Some(entry) => Some(entry_inode(tx, entry, Read::Conflict).await?),
            None => None,
        };
        if let Some(inode) = &inode {
            if inode.data.acl.iflags.contains(IFlags::IMMUTABLE) {
                return fail(code::META_NO_PERMISSION, format!("inode {} is immutable", inode.id));
            }
            if acl::sticky_forbids(&parent.data.acl, inode.data.acl.uid, &self.base.user) {
                return fail(code::META_NO_PERMISSION, format!("sticky bit of directory {}", parent.id));
            }
        }
        Ok(End { resolved, parent, name: name.to_owned(), inode })
    }

    /// Removes what had the new name. Its entry is overwritten afterwards.
    async fn remove_dest(&self, cx: &Cx<'_>, tx: &mut Tx, entry: &DirEntry, mut inode: Inode) -> Result<()> {
        match entry.data.r#type {
            InodeType::File => {
                let gc_info = GcInfo { user: self.base.user.uid, orig_path: entry.name.clone() };
                gc::remove_entry(cx, tx, entry, &mut inode, gc_info)
            }
            InodeType::Directory => {
                times::forget_directory(cx, tx, inode.id);
                remove_inode(tx, inode.id, inode.data.acl.iflags)
            }
            InodeType::Symlink => {
                if inode.data.nlink == 0 {
                    return fail(code::META_FOUND_BUG, format!("entry of inode {} without links", inode.id));
                }
                // Clients may know the symlink still, so its inode outlives its last name for a while.
                inode.data.nlink -= 1;
                inode.data.ctime = inode.data.ctime.max(cx.now());
                if inode.data.nlink == 0 {
                    // Deletes it only if this rename is committed.
                    cx.core.gc.bury_symlink(inode.id);
                }
                store_inode(tx, &inode)
            }
        }
    }

    /// Writes an entry under its new name. The inode is read again: it may be the one that lost a link just now.
    async fn place(
        &self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        mut entry: DirEntry,
        parent: InodeId,
        name: &BString,
    ) -> Result<Inode> {
        let mut inode = require_inode(tx, entry.data.id, Read::Conflict).await?;
        let mut dirty = times::touch_inode(cx, &mut inode);
        if let Some(directory) = inode.data.as_directory_mut() {
            directory.parent = parent;
            directory.name = name.clone();
            dirty = true;
        }
        if dirty {
            store_inode(tx, &inode)?;
        }
        entry.parent = parent;
        entry.name = name.clone();
        entry.data.uuid = self.base.uuid;
        store_entry(tx, &entry)?;
        times::overlay(cx, tx, &mut inode).await?;
        Ok(inode)
    }

    async fn exchange(&self, cx: &Cx<'_>, tx: &mut Tx, src: DirEntry, dest: End) -> Result<RenameRsp> {
        let Some(dest_entry) = dest.resolved.entry else {
            return fail(code::META_NOT_FOUND, "");
        };
        let (src_parent, src_name) = (src.parent, src.name.clone());
        let moved = self.place(cx, tx, src, dest.parent.id, &dest.name).await?;
        self.place(cx, tx, dest_entry, src_parent, &src_name).await?;
        answer(moved)
    }
}

/// The innermost-first chain of directories starts in `/trash`.
fn under_trash(ancestors: &[Inode]) -> bool {
    let [.., below, root] = ancestors else { return false };
    let name = below.data.as_directory().map(|directory| directory.name.as_slice());
    root.id == InodeId::ROOT && name == Some(b"trash")
}

/// Deletes a symlink's inode if it has no name any more.
pub(crate) async fn delete_unlinked_symlink(tx: &mut Tx, id: InodeId) -> Result<()> {
    match load_inode(tx, id, Read::Conflict).await? {
        Some(inode) if inode.data.nlink == 0 && inode.data.as_symlink().is_some() => {
            remove_inode(tx, id, inode.data.acl.iflags)
        }
        _ => Ok(()),
    }
}
