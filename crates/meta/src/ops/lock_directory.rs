//! `lockDirectory` (`src/meta/store/ops/LockDirectory.cc`).

use valor_protocol::meta::{Lock, LockAction, LockDirectoryReq, LockDirectoryRsp};
use valor_protocol::status::code;
use valor_wire::Uuid;

use crate::acl;
use crate::core::{Cx, Operation};
use crate::error::{Result, fail};
use crate::store::{Read, Tx, require_inode, store_inode};

/// Locks or unlocks a directory. A lock keeps other clients from changing its entries.
pub(crate) struct LockDirectory {
    pub(crate) req: LockDirectoryReq,
}

impl Operation for LockDirectory {
    type Rsp = LockDirectoryRsp;

    fn idempotency(&self, cx: &Cx<'_>) -> Option<(Uuid, Uuid)> {
        cx.shared_ids(&self.req.base)
    }

    async fn run(&mut self, _: &Cx<'_>, tx: &mut Tx) -> Result<LockDirectoryRsp> {
        let req = &self.req;
        let mut inode = require_inode(tx, req.inode, Read::Conflict).await?;
        acl::check(&inode.data.acl, &req.base.user, acl::WRITE)?;
        let Some(directory) = inode.data.as_directory_mut() else {
            return fail(code::META_NOT_DIRECTORY, format!("inode {} is not a directory", req.inode));
        };
        let held = directory.lock.as_ref().map(|lock| lock.client.uuid == req.base.client.uuid);
        let lock = match (req.action, held) {
            (LockAction::TryLock, Some(false)) | (LockAction::UnLock, None | Some(false)) => {
                let holder = directory.lock.as_ref().map(|lock| lock.client.hostname.clone());
                return fail(
                    code::META_NO_LOCK,
                    format!("lock held by {}", holder.as_deref().unwrap_or("nobody")),
                );
            }
            (LockAction::TryLock | LockAction::PreemptLock, _) => {
                Some(Lock { client: req.base.client.clone() })
            }
            (LockAction::UnLock | LockAction::Clear, _) => None,
        };
        if directory.lock != lock {
            directory.lock = lock;
            store_inode(tx, &inode)?;
        }
        Ok(LockDirectoryRsp::default())
    }
}
