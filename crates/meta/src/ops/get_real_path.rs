//! `getRealPath` (`src/meta/store/ops/GetRealPath.cc`).

use bstr::BString;
use valor_protocol::meta::{AtFlags, GetRealPathReq, GetRealPathRsp};
use valor_protocol::status::code;

use crate::core::{Cx, Operation};
use crate::error::{Result, fail};
use crate::path::join;
use crate::resolve::Resolver;
use crate::store::{Read, Tx, directory_entry, require_inode};

/// Deepest directory whose path is given; protects against loops in a broken tree.
const MAX_DEPTH: usize = 100_000;

/// A path without symlinks, relative to where it starts or from the root.
pub(crate) struct GetRealPath {
    pub(crate) req: GetRealPathReq,
}

fn answer(path: BString) -> Result<GetRealPathRsp> {
    Ok(GetRealPathRsp { path, ..GetRealPathRsp::default() })
}

impl Operation for GetRealPath {
    type Rsp = GetRealPathRsp;

    fn read_only(&self) -> bool {
        true
    }

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<GetRealPathRsp> {
        let req = &self.req;
        let mut entry = if req.path.path.is_some() {
            let mut resolver = Resolver::new(cx, &req.base.user).with_trace();
            let entry = resolver.entry(tx, &req.path, AtFlags::SYMLINK_FOLLOW).await?;
            if !req.absolute {
                return answer(resolver.trace());
            }
            entry
        } else {
            let inode = require_inode(tx, req.path.parent, Read::Snapshot).await?;
            if inode.data.as_directory().is_none() {
                return fail(code::META_NOT_DIRECTORY, "only directories have one path");
            }
            if inode.id.is_tree_root() {
                return answer(BString::from("/"));
            }
            directory_entry(tx, &inode).await?
        };
        if matches!(entry.name.as_slice(), b"." | b"..") {
            if entry.data.id.is_tree_root() {
                return answer(BString::from("/"));
            }
            let inode = require_inode(tx, entry.data.id, Read::Snapshot).await?;
            entry = directory_entry(tx, &inode).await?;
        }
        let mut path = entry.name.clone();
        for _ in 0..MAX_DEPTH {
            if entry.parent.is_tree_root() {
                return answer(join(b"/", &path));
            }
            let parent = require_inode(tx, entry.parent, Read::Snapshot).await?;
            entry = directory_entry(tx, &parent).await?;
            path = join(&entry.name, &path);
        }
        fail(code::META_INCONSISTENT, "directory tree contains a loop")
    }
}
