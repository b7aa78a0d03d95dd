//! Extended attributes: `hf3fs.lock` of directories (`src/fuse/FuseOps.cc`).

use crate::cluster::Cluster;
use crate::core::Core;
use crate::errno::OrErrno;
use crate::ids::{from_ino, is_virtual};
use crate::inode::Node;
use std::fmt::Write as _;
use std::sync::Arc;
use valor_protocol::meta::{InodeKind, Lock, LockAction, PathAt};
use xfuse::request::{Getxattr, Listxattr, Removexattr, Setxattr};
use xfuse::{Context, Errno, Xattr};

const PREFIX: &str = "hf3fs.";
const LOCK: &str = "hf3fs.lock";

/// A lock as programs read it.
fn describe(lock: &Lock) -> String {
    let mut text = format!("{{\"client\":{{\"uuid\":\"{}\",\"hostname\":\"", lock.client.uuid);
    for c in lock.client.hostname.chars() {
        let _ = match c {
            '"' | '\\' => write!(text, "\\{c}"),
            c if c.is_control() => write!(text, "\\u{:04x}", u32::from(c)),
            c => write!(text, "{c}"),
        };
    }
    text.push_str("\"}}");
    text
}

impl<C: Cluster> Core<C> {
    /// The node of an inode that can have attributes.
    fn attributed(&self, ino: u64) -> Option<Arc<Node>> {
        let id = from_ino(ino);
        let node = self.nodes.get(id).filter(|_| !is_virtual(id))?;
        (node.first.data.as_symlink().is_none()).then_some(node)
    }

    async fn lock_of(&self, cx: &Context, node: &Node) -> Result<Option<Lock>, Errno> {
        if node.first.data.as_directory().is_none() {
            return Ok(None);
        }
        let user = self.user(cx);
        let inode =
            self.run(cx, self.cluster.stat(&user, PathAt::inode(node.id()))).await.or_errno("getxattr")?;
        Ok(match inode.data.r#type {
            InodeKind::Directory(dir) => dir.lock,
            _ => None,
        })
    }

    pub(crate) async fn setxattr(&self, cx: &Context, r: Setxattr<'_>) -> Result<(), Errno> {
        let name = r.name.to_str().filter(|name| name.starts_with(PREFIX)).ok_or(Errno::ENOTSUP)?;
        let node = self.attributed(r.ino).ok_or(Errno::ENOTSUP)?;
        if node.first.data.as_directory().is_none() || name != LOCK {
            return Err(Errno::ENOTSUP);
        }
        let action = match r.value {
            b"try_lock" => LockAction::TryLock,
            b"preempt_lock" => LockAction::PreemptLock,
            b"unlock" => LockAction::UnLock,
            b"clear" => LockAction::Clear,
            _ => return Err(Errno::EINVAL),
        };
        let user = self.user(cx);
        self.run(cx, self.cluster.lock_directory(&user, node.id(), action)).await.or_errno("setxattr")
    }

    pub(crate) async fn getxattr(&self, cx: &Context, r: Getxattr<'_>) -> Result<Xattr, Errno> {
        let node = self.attributed(r.ino).ok_or(Errno::ENOTSUP)?;
        if r.name != LOCK {
            return Err(Errno::ENODATA);
        }
        let lock = self.lock_of(cx, &node).await?.ok_or(Errno::ENODATA)?;
        Xattr::for_size(describe(&lock), r.size)
    }

    pub(crate) async fn listxattr(&self, cx: &Context, r: Listxattr) -> Result<Xattr, Errno> {
        let node = self.attributed(r.ino).ok_or(Errno::ENOTSUP)?;
        let locked = self.lock_of(cx, &node).await?.is_some();
        let names: &'static [u8] = if locked { b"hf3fs.lock\0" } else { b"" };
        Xattr::for_size(names, r.size)
    }

    pub(crate) async fn removexattr(&self, cx: &Context, r: Removexattr<'_>) -> Result<(), Errno> {
        let node = self.attributed(r.ino).ok_or(Errno::EPERM)?;
        if r.name != LOCK {
            return Err(Errno::EPERM);
        }
        if node.first.data.as_directory().is_none() {
            return Err(Errno::ENOTDIR);
        }
        let user = self.user(cx);
        self.run(cx, self.cluster.lock_directory(&user, node.id(), LockAction::Clear))
            .await
            .or_errno("removexattr")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::app::ClientId;
    use valor_wire::Uuid;

    #[test]
    fn locks_are_json() {
        let client = ClientId { uuid: Uuid([0x11; 16]), hostname: "a\"b\\\n".into() };
        assert_eq!(
            describe(&Lock { client }),
            r#"{"client":{"uuid":"11111111-1111-1111-1111-111111111111","hostname":"a\"b\\\u000a"}}"#
        );
    }
}
