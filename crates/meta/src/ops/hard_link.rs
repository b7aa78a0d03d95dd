//! `hardLink` (`src/meta/store/ops/HardLink.cc`).

use valor_protocol::meta::{HardLinkReq, HardLinkRsp, IFlags, InodeType};
use valor_protocol::status::code;
use valor_wire::Uuid;

use super::{MAX_LINKS, check_parent, is_replay};
use crate::core::{Cx, Operation};
use crate::error::{Result, fail};
use crate::path::file_name;
use crate::resolve::Resolver;
use crate::store::{
    Read, Tx, entry_inode, new_file_entry, new_symlink_entry, read_conflict_entry, read_conflict_inode,
    store_entry, store_inode,
};
use crate::times;

/// Gives a file or symlink another name.
pub(crate) struct HardLink {
    pub(crate) req: HardLinkReq,
}

impl Operation for HardLink {
    type Rsp = HardLinkRsp;

    fn idempotency(&self, cx: &Cx<'_>) -> Option<(Uuid, Uuid)> {
        cx.shared_ids(&self.req.base)
    }

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<HardLinkRsp> {
        let req = &self.req;
        let user = &req.base.user;
        let resolved = Resolver::new(cx, user).path(tx, &req.new_path, req.flags).await?;
        if let Some(entry) = &resolved.entry {
            if is_replay(entry, &req.base) {
                let stat = entry_inode(tx, entry, Read::Snapshot).await?;
                return Ok(HardLinkRsp { stat, ..HardLinkRsp::default() });
            }
            return fail(code::META_EXISTS, "");
        }
        let mut inode = Resolver::new(cx, user).inode(tx, &req.old_path, req.flags, true).await?;
        let parent = resolved.parent.inode(tx).await?;
        check_parent(&parent, &req.base)?;
        if parent.data.nlink == 0 {
            return fail(code::META_NOT_FOUND, format!("directory {} is removed", parent.id));
        }
        if inode.data.acl.iflags.contains(IFlags::IMMUTABLE) {
            return fail(code::META_NO_PERMISSION, format!("inode {} is immutable", inode.id));
        }
        let Some(name) = req.new_path.path.as_ref().and_then(|path| file_name(path)) else {
            return fail(code::INVALID_ARG, "path does not end in a name");
        };
        let entry = match inode.data.inode_type() {
            InodeType::File => new_file_entry(parent.id, name, inode.id, req.base.uuid),
            InodeType::Symlink => new_symlink_entry(parent.id, name, inode.id, req.base.uuid),
            InodeType::Directory => return fail(code::META_IS_DIRECTORY, ""),
        };
        if inode.data.nlink == MAX_LINKS {
            return fail(code::META_NO_PERMISSION, format!("inode {} has all links it can have", inode.id));
        }
        inode.data.nlink += 1;
        inode.data.ctime = inode.data.ctime.max(cx.now());
        read_conflict_inode(tx, parent.id);
        read_conflict_entry(tx, parent.id, name);
        read_conflict_inode(tx, inode.id);
        store_entry(tx, &entry)?;
        store_inode(tx, &inode)?;
        times::touch_directory(cx, tx, parent.id);
        Ok(HardLinkRsp { stat: inode, ..HardLinkRsp::default() })
    }
}
