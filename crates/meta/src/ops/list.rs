//! `list` (`src/meta/store/ops/List.cc`).

use valor_protocol::meta::{AtFlags, ListReq, ListRsp};
use valor_protocol::status::code;

use crate::acl;
use crate::core::{Cx, Operation};
use crate::error::{Result, fail};
use crate::resolve::Resolver;
use crate::store::{Read, Tx, entry_inode, list_entries};
use crate::times;

/// Most entries of one answer; clients go on from the last name.
const MAX_LIMIT: usize = 8192;

/// Entries of a directory in the order of their names.
pub(crate) struct List {
    pub(crate) req: ListReq,
}

impl Operation for List {
    type Rsp = ListRsp;

    fn read_only(&self) -> bool {
        true
    }

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<ListRsp> {
        let req = &self.req;
        let mut resolver = Resolver::new(cx, &req.base.user);
        let inode = resolver.inode(tx, &req.path, AtFlags::SYMLINK_FOLLOW, true).await?;
        if inode.data.as_directory().is_none() {
            return fail(code::META_NOT_DIRECTORY, "");
        }
        acl::check(&inode.data.acl, &req.base.user, acl::READ)?;
        let limit = match usize::try_from(req.limit) {
            Ok(limit) if limit > 0 => limit.min(MAX_LIMIT),
            _ => cx.config.list_default_limit as usize,
        };
        let page = list_entries(tx, inode.id, &req.prev, limit, Read::Snapshot).await?;
        let mut inodes = Vec::new();
        if req.status {
            inodes.reserve(page.entries.len());
            for entry in &page.entries {
                let mut inode = entry_inode(tx, entry, Read::Snapshot).await?;
                times::overlay(cx, tx, &mut inode).await?;
                inodes.push(inode);
            }
        }
        Ok(ListRsp { entries: page.entries, inodes, more: page.more, ..ListRsp::default() })
    }
}
