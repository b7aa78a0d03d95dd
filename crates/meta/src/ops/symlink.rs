//! `symlink` (`src/meta/store/ops/Symlink.cc`).

use valor_protocol::meta::{AtFlags, SymlinkReq, SymlinkRsp};
use valor_protocol::status::code;
use valor_wire::Uuid;

use super::{check_parent, is_replay};
use crate::core::{Cx, Operation};
use crate::error::{Result, fail};
use crate::inode_id::allocate;
use crate::path::file_name;
use crate::resolve::Resolver;
use crate::store::{
    Read, Tx, entry_inode, new_symlink, new_symlink_entry, read_conflict_entry, read_conflict_inode,
    store_entry, store_inode,
};
use crate::times;

/// Makes a symlink.
pub(crate) struct MakeSymlink {
    pub(crate) req: SymlinkReq,
}

impl Operation for MakeSymlink {
    type Rsp = SymlinkRsp;

    fn idempotency(&self, cx: &Cx<'_>) -> Option<(Uuid, Uuid)> {
        cx.shared_ids(&self.req.base)
    }

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<SymlinkRsp> {
        let req = &self.req;
        let user = &req.base.user;
        let resolved = Resolver::new(cx, user).path(tx, &req.path, AtFlags::SYMLINK_NOFOLLOW).await?;
        if let Some(entry) = &resolved.entry {
            if is_replay(entry, &req.base) {
                let stat = entry_inode(tx, entry, Read::Snapshot).await?;
                return Ok(SymlinkRsp { stat, ..SymlinkRsp::default() });
            }
            return fail(code::META_EXISTS, "");
        }
        let parent = resolved.parent.inode(tx).await?;
        check_parent(&parent, &req.base)?;
        if parent.data.nlink == 0 {
            return fail(code::META_NOT_FOUND, format!("directory {} is removed", parent.id));
        }
        let Some(name) = req.path.path.as_ref().and_then(|path| file_name(path)) else {
            return fail(code::INVALID_ARG, "path does not end in a name");
        };
        let id = allocate(cx, tx, false).await?;
        let entry = new_symlink_entry(parent.id, name, id, req.base.uuid);
        let stat = new_symlink(id, &req.target, user.uid, user.gid, cx.now());
        read_conflict_inode(tx, parent.id);
        read_conflict_entry(tx, parent.id, name);
        store_entry(tx, &entry)?;
        store_inode(tx, &stat)?;
        times::touch_directory(cx, tx, parent.id);
        Ok(SymlinkRsp { stat, ..SymlinkRsp::default() })
    }
}
