//! `mkdirs` (`src/meta/store/ops/Mkdirs.cc`).

use valor_protocol::meta::{Acl, IFlags, Inode, MkdirsReq, MkdirsRsp};
use valor_protocol::status::code;
use valor_wire::Uuid;

use super::{check_parent, is_replay};
use crate::acl;
use crate::core::{Cx, Operation};
use crate::error::{Result, fail};
use crate::inode_id::allocate;
use crate::path::Component;
use crate::resolve::Resolver;
use crate::store::{
    Read, Tx, entry_inode, new_directory, new_directory_entry, read_conflict_entry, read_conflict_inode,
    store_entry, store_inode,
};
use crate::times;

/// Makes a directory and, if asked, the missing ones above it.
pub(crate) struct Mkdirs {
    pub(crate) req: MkdirsReq,
}

fn answer(stat: Inode) -> MkdirsRsp {
    MkdirsRsp { stat, ..MkdirsRsp::default() }
}

/// Permissions of a new directory: the user's, with what the parent hands down.
fn new_acl(req: &MkdirsReq, parent: &Acl) -> Acl {
    let iflags = IFlags(parent.iflags.0 & IFlags::INHERITED.0);
    let mut new =
        Acl { uid: req.base.user.uid, gid: req.base.user.gid, perm: req.perm & acl::ALL_PERMS, iflags };
    if parent.perm & acl::SET_GROUP_ID != 0 {
        new.gid = parent.gid;
        new.perm |= acl::SET_GROUP_ID;
    }
    new
}

impl Operation for Mkdirs {
    type Rsp = MkdirsRsp;

    fn idempotency(&self, cx: &Cx<'_>) -> Option<(Uuid, Uuid)> {
        cx.shared_ids(&self.req.base)
    }

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<MkdirsRsp> {
        let req = &self.req;
        let (resolved, missing) = Resolver::new(cx, &req.base.user).range(tx, &req.path).await?;
        if missing.is_empty() {
            return match &resolved.entry {
                Some(entry) if is_replay(entry, &req.base) => {
                    Ok(answer(entry_inode(tx, entry, Read::Snapshot).await?))
                }
                _ => fail(code::META_EXISTS, ""),
            };
        }
        if missing.clone().count() > 1 && !req.recursive {
            return fail(code::META_NOT_FOUND, "");
        }
        let parent = resolved.parent.inode(tx).await?;
        check_parent(&parent, &req.base)?;
        let Some(directory) = parent.data.as_directory().filter(|_| parent.data.nlink != 0) else {
            return fail(code::META_NOT_FOUND, format!("directory {} is removed", parent.id));
        };
        let layout = req.layout.clone().unwrap_or_else(|| directory.layout.clone());
        cx.core.chains.check(cx.core.cluster.as_ref(), &layout)?;
        let acl = new_acl(req, &parent.data.acl);
        read_conflict_inode(tx, parent.id);
        times::touch_directory(cx, tx, parent.id);
        let mut above = parent.id;
        let mut made = None;
        for part in missing {
            let Component::Name(name) = part else {
                return fail(code::INVALID_ARG, "filename is '.' or '..'");
            };
            let id = allocate(cx, tx, false).await?;
            let inode = new_directory(id, above, name, acl, layout.clone(), cx.now());
            read_conflict_entry(tx, above, name);
            store_entry(tx, &new_directory_entry(above, name, id, acl, req.base.uuid))?;
            store_inode(tx, &inode)?;
            above = id;
            made = Some(inode);
        }
        match made {
            Some(inode) => Ok(answer(inode)),
            None => fail(code::META_FOUND_BUG, "no directory made"),
        }
    }
}
