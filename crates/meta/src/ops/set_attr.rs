//! `setAttr` (`src/meta/store/ops/SetAttr.h`). Requests by inode id run in the owner's batch, those by path here.

use valor_protocol::meta::{Acl, AtFlags, IFlags, Inode, SETATTR_TIME_NOW, SetAttrReq, SetAttrRsp};
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_wire::{Status, UtcTime, Uuid};

use crate::acl;
use crate::config::Config;
use crate::core::{Cx, Operation};
use crate::error::{Result, status};
use crate::resolve::Resolver;
use crate::store::{Tx, directory_entry, read_conflict_entry, read_conflict_inode, store_entry, store_inode};
use crate::times;

fn refused(reason: &str) -> Status {
    status(code::META_NO_PERMISSION, reason)
}

/// Whether the request may change the inode.
///
/// # Errors
/// 3008, 3003 for a layout on something else than a directory, 3010 for a stripe on something else than a file.
pub(crate) fn check(config: &Config, inode: &Inode, req: &SetAttrReq) -> std::result::Result<(), Status> {
    let user = &req.base.user;
    let acl = &inode.data.acl;
    if inode.id.is_tree_root() && (req.perm.is_some() || req.uid.is_some() || req.gid.is_some()) {
        return Err(refused("a root keeps its permissions"));
    }
    if let Some(iflags) = req.iflags {
        check_iflags(config, acl, iflags, user)?;
    }
    let owner = user.is_root() || user.uid == acl.uid;
    if req.perm.is_some_and(|perm| perm != acl.perm) && !owner {
        return Err(refused("only the owner changes permissions"));
    }
    if req.uid.is_some_and(|uid| uid != acl.uid) && !user.is_root() {
        return Err(refused("only root changes the owner"));
    }
    if let Some(gid) = req.gid
        && gid != acl.gid
        && !user.is_root()
        && !(owner && user.in_group(gid))
    {
        return Err(refused("only root, or the owner within his groups, changes the group"));
    }
    let times = [req.atime, req.mtime];
    if times.iter().flatten().any(|time| *time != SETATTR_TIME_NOW) {
        if !owner {
            return Err(refused("only the owner sets times"));
        }
    } else if times.iter().flatten().next().is_some() && !owner {
        acl::check(acl, user, acl::WRITE)?;
    }
    if req.layout.is_some() {
        if inode.data.as_directory().is_none() {
            return Err(status(code::META_NOT_DIRECTORY, "only directories have a layout to set"));
        }
        acl::check(acl, user, acl::WRITE)?;
    }
    if req.dyn_stripe != 0 && inode.data.as_file().is_none() {
        return Err(status(code::META_NOT_FILE, "only files have a stripe to extend"));
    }
    Ok(())
}

fn check_iflags(config: &Config, acl: &Acl, new: IFlags, user: &UserInfo) -> std::result::Result<(), Status> {
    let changed = IFlags(new.0 ^ acl.iflags.0);
    let set = IFlags(changed.0 & new.0);
    if changed.0 == 0 {
        return Ok(());
    }
    if set.contains(IFlags::CHAIN_ALLOCATION) && !config.iflags_chain_allocation {
        return Err(refused("FS_INDEX_FL is disabled"));
    }
    if set.contains(IFlags::CHUNK_ENGINE) && !config.iflags_chunk_engine {
        return Err(refused("FS_SECRM_FL is disabled"));
    }
    let owners = if config.allow_owner_change_immutable {
        IFlags::HUGE_FILE.with(IFlags::IMMUTABLE)
    } else {
        IFlags::HUGE_FILE
    };
    if user.is_root() || (user.uid == acl.uid && owners.contains(changed)) {
        Ok(())
    } else {
        Err(refused("only root sets these flags"))
    }
}

/// Sets a time; [`SETATTR_TIME_NOW`] is now. With `forward` it only moves forward. True if it changed.
pub(crate) fn set_time(cx: &Cx<'_>, time: &mut UtcTime, new: Option<UtcTime>, forward: bool) -> bool {
    let Some(new) = new else { return false };
    let new = if new == SETATTR_TIME_NOW { cx.now() } else { cx.rounded(new) };
    let changed = if forward { new > *time } else { new != *time };
    if changed {
        *time = new;
    }
    changed
}

fn set<T: PartialEq>(value: &mut T, new: Option<T>) -> bool {
    match new {
        Some(new) if *value != new => {
            *value = new;
            true
        }
        _ => false,
    }
}

/// Changes the inode as asked; true if it changed.
pub(crate) fn apply(cx: &Cx<'_>, tx: &mut Tx, inode: &mut Inode, req: &SetAttrReq) -> bool {
    let data = &mut inode.data;
    let mut dirty = set(&mut data.acl.iflags, req.iflags);
    dirty |= set(&mut data.acl.uid, req.uid);
    dirty |= set(&mut data.acl.gid, req.gid);
    dirty |= set(&mut data.acl.perm, req.perm.map(|perm| perm & acl::ALL_PERMS));
    if let Some(directory) = data.as_directory_mut() {
        dirty |= set(&mut directory.layout, req.layout.clone());
    }
    if dirty {
        set_time(cx, &mut data.ctime, Some(SETATTR_TIME_NOW), true);
    }
    let times = req.atime.is_some() || req.mtime.is_some();
    dirty |= set_time(cx, &mut data.atime, req.atime, false);
    dirty |= set_time(cx, &mut data.mtime, req.mtime, false);
    if let Some(file) = data.as_file_mut() {
        dirty |= extend_stripe(&cx.config, file, req.dyn_stripe);
    }
    if times && inode.data.as_directory().is_some() {
        times::forget_directory(cx, tx, inode.id);
    }
    if times || req.uid.is_some() || req.gid.is_some() || req.perm.is_some() {
        dirty |= times::touch_inode(cx, inode);
    }
    dirty
}

fn extend_stripe(config: &Config, file: &mut valor_protocol::meta::File, wanted: u32) -> bool {
    if wanted == 0 || file.dyn_stripe == 0 || file.dyn_stripe >= wanted {
        return false;
    }
    let growth = config.dynamic_stripe_growth.max(2);
    let most = file.layout.stripe_size;
    let mut stripe = file.dyn_stripe;
    while stripe < wanted.min(most) {
        stripe = stripe.saturating_mul(growth).min(most);
    }
    set(&mut file.dyn_stripe, Some(stripe))
}

/// Copies a directory's changed permissions to its entry.
pub(crate) async fn update_entry(tx: &mut Tx, inode: &mut Inode) -> Result<()> {
    if inode.id.is_tree_root() {
        return Ok(());
    }
    let mut entry = directory_entry(tx, inode).await?;
    if let Some(directory) = inode.data.as_directory_mut()
        && directory.name.is_empty()
    {
        directory.name = entry.name.clone();
    }
    entry.data.dir_acl = Some(inode.data.acl);
    read_conflict_entry(tx, entry.parent, &entry.name);
    store_entry(tx, &entry)
}

/// Changes attributes of what a path leads to.
pub(crate) struct SetAttr {
    pub(crate) req: SetAttrReq,
}

impl Operation for SetAttr {
    type Rsp = SetAttrRsp;

    fn idempotency(&self, cx: &Cx<'_>) -> Option<(Uuid, Uuid)> {
        cx.shared_ids(&self.req.base)
    }

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<SetAttrRsp> {
        let req = &self.req;
        let flags = req.flags.with(AtFlags::SYMLINK_FOLLOW);
        let mut inode = Resolver::new(cx, &req.base.user).inode(tx, &req.path, flags, true).await?;
        let old = inode.data.acl;
        check(&cx.config, &inode, req)?;
        let dirty = apply(cx, tx, &mut inode, req);
        if inode.data.as_directory().is_some() && inode.data.acl != old {
            update_entry(tx, &mut inode).await?;
        }
        if dirty {
            read_conflict_inode(tx, inode.id);
            store_inode(tx, &inode)?;
        }
        if req.mtime.is_none() {
            times::overlay(cx, tx, &mut inode).await?;
        }
        Ok(SetAttrRsp { stat: inode, ..SetAttrRsp::default() })
    }

    fn committed(&mut self, cx: &Cx<'_>, rsp: &SetAttrRsp) {
        cx.core.acl_cache.invalidate(rsp.stat.id);
    }
}
