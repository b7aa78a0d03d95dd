//! ioctls of 3FS (`src/fuse/FuseOps.cc`, `src/lib/api/fuse.h`).

use crate::cluster::Cluster;
use crate::core::Core;
use crate::errno::OrErrno;
use crate::ids::{from_ino, is_virtual, to_ino};
use crate::sync::Reason;
use bytes::Bytes;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use valor_client::meta::Permissions;
use valor_protocol::InodeId;
use valor_protocol::meta::{IFlags, PathAt};
use xfuse::request::Ioctl;
use xfuse::{Context, Errno, IoctlReply, abi};

const GET_MOUNT_NAME: u32 = 0x8020_6800;
const GET_PATH_OFFSET: u32 = 0x8004_6801;
const GET_MAGIC_NUM: u32 = 0x8004_6802;
const GET_IOCTL_VERSION: u32 = 0x8004_6803;
const RECURSIVE_RM: u32 = 0x8004_680a;
const FSYNC: u32 = 0x8004_680b;
const HARDLINK: u32 = 0x4108_680c;
const PUNCH_HOLE: u32 = 0x7e90_680d;
const MOVE: u32 = 0x4218_680e;
const REMOVE: u32 = 0x4110_680f;
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;

/// What GET_MAGIC_NUM says.
const MAGIC: u32 = 0x8f3f_5fff;
/// What GET_IOCTL_VERSION says.
const VERSION: u32 = 1;
/// Length of the name in GET_MOUNT_NAME.
const MOUNT_NAME: usize = 32;
/// Most ranges of one PUNCH_HOLE.
const PUNCH_RANGES: usize = 1000;
/// Bytes of a name in MOVE and REMOVE.
const NAME: usize = 256;
/// `fsx_xflags` of an immutable file.
const FS_XFLAG_IMMUTABLE: u32 = 8;
/// Bytes of `struct fsxattr`.
const FSXATTR: usize = 28;

/// Reads a C struct field by field; the kernel has checked the size where the command says it.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u64(&mut self) -> Result<u64, Errno> {
        Ok(u64::from_ne_bytes(self.take(8)?.try_into().map_err(|_| Errno::EINVAL)?))
    }

    fn u32(&mut self) -> Result<u32, Errno> {
        Ok(u32::from_ne_bytes(self.take(4)?.try_into().map_err(|_| Errno::EINVAL)?))
    }

    /// A NUL-terminated name in a field of `len` bytes.
    fn name(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        let field = self.take(len)?;
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(len);
        let name = &field[..end];
        if name.is_empty() || name.contains(&b'/') { Err(Errno::EINVAL) } else { Ok(name) }
    }
}

fn done(output: impl Into<Bytes>) -> IoctlReply {
    IoctlReply::Done { result: 0, output: output.into() }
}

fn number(value: u32) -> IoctlReply {
    done(value.to_ne_bytes().to_vec())
}

impl<C: Cluster> Core<C> {
    pub(crate) async fn ioctl(self: &Arc<Self>, cx: &Context, r: Ioctl<'_>) -> Result<IoctlReply, Errno> {
        if r.flags & abi::IOCTL_COMPAT != 0 {
            return Err(Errno::ENOSYS);
        }
        if let Some(size) = output_size(r.cmd).filter(|_| r.out_size == 0) {
            let output = vec![abi::IoctlIovec { base: r.arg, len: size as u64 }];
            return Ok(IoctlReply::Retry { input: Vec::new(), output });
        }
        match r.cmd {
            GET_MOUNT_NAME => {
                let mut name = self.params.cluster_id.as_bytes().to_vec();
                name.resize(MOUNT_NAME, 0);
                Ok(done(name))
            }
            GET_PATH_OFFSET => Ok(number(self.params.mount_point.len() as u32)),
            GET_MAGIC_NUM => Ok(number(MAGIC)),
            GET_IOCTL_VERSION => Ok(number(VERSION)),
            RECURSIVE_RM => self.recursive_rm(cx, r.ino).await,
            FSYNC => self.force_fsync(cx, r.ino).await,
            HARDLINK => self.hardlink(cx, &r).await,
            PUNCH_HOLE => self.punch_hole(cx, &r).await,
            MOVE => self.move_entry(cx, &r).await,
            REMOVE => self.remove_entry(cx, &r).await,
            FS_IOC_GETFLAGS => Ok(number(self.iflags(cx, r.ino).await?.0)),
            FS_IOC_SETFLAGS => self.set_iflags(cx, &r).await,
            FS_IOC_FSGETXATTR => {
                let immutable = self.iflags(cx, r.ino).await?.contains(IFlags::IMMUTABLE);
                let mut output = vec![0; FSXATTR];
                if immutable {
                    output[..4].copy_from_slice(&FS_XFLAG_IMMUTABLE.to_ne_bytes());
                }
                Ok(done(output))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    async fn recursive_rm(&self, cx: &Context, ino: u64) -> Result<IoctlReply, Errno> {
        let user = self.user(cx);
        let path =
            self.run(cx, self.cluster.real_path(&user, from_ino(ino))).await.or_errno("recursive rm")?;
        let path = PathAt::at(InodeId::ROOT, path);
        self.run(cx, self.cluster.remove(&user, path, true)).await.or_errno("recursive rm")?;
        Ok(number(0))
    }

    async fn force_fsync(self: &Arc<Self>, cx: &Context, ino: u64) -> Result<IoctlReply, Errno> {
        let node = self.node(ino)?;
        let user = self.user(cx);
        self.run(cx, self.sync(&user, &node, Reason::Force)).await.or_errno("fsync")?;
        self.notifier().inval_inode(ino, 0, 0).detach();
        Ok(number(0))
    }

    async fn hardlink(&self, cx: &Context, r: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let mut fields = Fields(r.input);
        // The number is 3FS's own here, not the kernel's.
        let parent = InodeId(fields.u64()?);
        let name = fields.name(255)?;
        let user = self.user(cx);
        let _change = self.names_change(to_ino(parent));
        let linked = self.cluster.hard_link(&user, from_ino(r.ino), PathAt::at(parent, name));
        let inode = self.run(cx, linked).await.or_errno("hardlink")?;
        if let Some(node) = self.nodes.get(inode.id) {
            node.refresh(&inode);
        }
        Ok(done(Bytes::new()))
    }

    async fn punch_hole(self: &Arc<Self>, cx: &Context, r: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let mut fields = Fields(r.input);
        let count = fields.u32()? as usize;
        let _padding_and_flags = fields.take(12)?;
        let (starts, ends) = (fields.take(8 * PUNCH_RANGES)?, fields.take(8 * PUNCH_RANGES)?);
        if count > PUNCH_RANGES {
            return Err(Errno::EINVAL);
        }
        let node = self.node(r.ino)?;
        let map = node.map().or_errno("punch hole")?;
        let size = u64::from(map.chunk_size());
        let (mut starts, mut ends) = (Fields(starts), Fields(ends));
        let mut ranges = Vec::with_capacity(count);
        for _ in 0..count {
            let (start, end) = (starts.u64()?, ends.u64()?);
            if start % size != 0 || end % size != 0 || start > end {
                return Err(Errno::EINVAL);
            }
            ranges.push((start, end));
        }
        let user = self.user(cx);
        let punch = async {
            for (start, end) in ranges {
                self.cluster.punch(&user, map, start, end).await.map_err(|status| {
                    tracing::warn!(%status, "punch hole");
                    Errno::EIO
                })?;
            }
            Ok(done(Bytes::new()))
        };
        let result = self.exclusively(&node, punch).await;
        self.note_change(&node, user.uid);
        result
    }

    /// Invalidates a name and waits for it: no lock of these directories is held by an ioctl.
    async fn forget_name(&self, parent: InodeId, name: &[u8]) {
        // ENOENT says that the kernel did not know it.
        let _ = self.notifier().inval_entry(to_ino(parent), OsStr::from_bytes(name)).sent().await;
    }

    async fn move_entry(&self, cx: &Context, r: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        if r.input.len() != 536 {
            return Err(Errno::EINVAL);
        }
        let mut fields = Fields(r.input);
        let (from, old) = (from_ino(fields.u64()?), fields.name(NAME)?);
        let (to, new) = (from_ino(fields.u64()?), fields.name(NAME)?);
        let to_trash = fields.take(1)?[0] != 0;
        if from != from_ino(r.ino) || is_virtual(from) || is_virtual(to) {
            return Err(Errno::EINVAL);
        }
        let user = self.user(cx);
        let change = (self.names_change(to_ino(from)), self.name_removal(to_ino(to)));
        let renamed = self.cluster.rename(&user, PathAt::at(from, old), PathAt::at(to, new), to_trash);
        self.run(cx, renamed).await.or_errno("move")?;
        drop(change);
        self.forget_name(from, old).await;
        self.forget_name(to, new).await;
        Ok(done(Bytes::new()))
    }

    async fn remove_entry(&self, cx: &Context, r: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        if r.input.len() != 272 {
            return Err(Errno::EINVAL);
        }
        let mut fields = Fields(r.input);
        let (parent, name) = (from_ino(fields.u64()?), fields.name(NAME)?);
        let recursive = fields.take(1)?[0] != 0;
        if parent != from_ino(r.ino) || is_virtual(parent) {
            return Err(Errno::EINVAL);
        }
        let user = self.user(cx);
        let change = self.name_removal(to_ino(parent));
        self.run(cx, self.cluster.remove(&user, PathAt::at(parent, name), recursive))
            .await
            .or_errno("remove")?;
        drop(change);
        self.forget_name(parent, name).await;
        Ok(done(Bytes::new()))
    }

    async fn iflags(&self, cx: &Context, ino: u64) -> Result<IFlags, Errno> {
        let id = from_ino(ino);
        if is_virtual(id) {
            return Ok(self.virtual_inode(cx, id)?.data.acl.iflags);
        }
        let user = self.user(cx);
        let inode = self.run(cx, self.cluster.stat(&user, PathAt::inode(id))).await.or_errno("getflags")?;
        Ok(inode.data.acl.iflags)
    }

    async fn set_iflags(&self, cx: &Context, r: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let iflags = Some(IFlags(Fields(r.input).u32()?));
        let user = self.user(cx);
        let new = Permissions { iflags, ..Permissions::default() };
        self.run(cx, self.cluster.set_permission(&user, from_ino(r.ino), new)).await.or_errno("setflags")?;
        Ok(done(Bytes::new()))
    }
}

/// Bytes of output of commands that are defined to read.
fn output_size(cmd: u32) -> Option<usize> {
    match cmd {
        GET_MOUNT_NAME => Some(MOUNT_NAME),
        GET_PATH_OFFSET | GET_MAGIC_NUM | GET_IOCTL_VERSION | RECURSIVE_RM | FSYNC => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_their_sizes() {
        let size = |cmd: u32| (cmd >> 16 & 0x3fff) as usize;
        assert_eq!(size(GET_MOUNT_NAME), MOUNT_NAME);
        assert_eq!((size(HARDLINK), size(MOVE), size(REMOVE)), (264, 536, 272));
        assert_eq!(size(PUNCH_HOLE), 16 + 16 * PUNCH_RANGES);
        assert_eq!(size(FS_IOC_FSGETXATTR), FSXATTR);
    }

    #[test]
    fn names_end_at_nul_and_have_no_slash() {
        let mut field = [0u8; 16];
        field[..3].copy_from_slice(b"abc");
        assert_eq!(Fields(&field).name(16), Ok(&b"abc"[..]));
        assert_eq!(Fields(b"a/bc").name(4), Err(Errno::EINVAL));
        assert_eq!(Fields(b"abcd").name(4), Ok(&b"abcd"[..]));
        assert_eq!(Fields(b"abcd").name(5), Err(Errno::EINVAL));
        assert_eq!(Fields(&[0; 4]).name(4), Err(Errno::EINVAL));
    }
}
