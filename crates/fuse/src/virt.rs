//! The virtual tree `3fs-virt` (`src/fuse/FuseOps.cc`): removing trees, moving, showing and changing settings.

use crate::cluster::Cluster;
use crate::core::{Core, at, text};
use crate::errno::{self, OrErrno};
use crate::handle::Listed;
use crate::ids::{from_ino, to_ino};
use crate::paths;
use crate::user_config::Key;
use bstr::BString;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use valor_protocol::InodeId;
use valor_protocol::meta::{Acl, Directory, Inode, InodeData, InodeKind, InodeType, PathAt, Symlink as Link};
use valor_protocol::status::{code, with_message};
use valor_wire::Status;
use xfuse::request::Symlink;
use xfuse::{Context, Entry, Errno};

/// Name of the virtual directory in the root.
pub(crate) const VIRT_NAME: &str = "3fs-virt";
/// Begins the target of a symlink that means a rename.
pub(crate) const MOVE_PREFIX: &[u8] = b"mv:";

/// A directory of the virtual tree.
struct VirtualDir {
    name: &'static str,
    id: InodeId,
    perm: u32,
}

const DIRS: [VirtualDir; 4] = [
    VirtualDir { name: "rm-rf", id: InodeId::RM_RF, perm: 0o777 },
    VirtualDir { name: "iovs", id: InodeId::IOV_DIR, perm: 0o777 },
    VirtualDir { name: "get-conf", id: InodeId::GET_CONF, perm: 0o555 },
    VirtualDir { name: "set-conf", id: InodeId::SET_CONF, perm: 0o777 },
];
const VIRT: VirtualDir = VirtualDir { name: VIRT_NAME, id: InodeId::VIRT, perm: 0o555 };

impl VirtualDir {
    fn inode(&self) -> Inode {
        let kind = InodeKind::Directory(Directory { name: self.name.into(), ..Directory::default() });
        inode(self.id, kind, Acl { perm: self.perm, ..Acl::default() })
    }
}

fn inode(id: InodeId, kind: InodeKind, acl: Acl) -> Inode {
    Inode { id, data: InodeData { r#type: kind, acl, ..InodeData::default() } }
}

fn link(id: InodeId, target: impl Into<BString>, acl: Acl) -> Inode {
    inode(id, InodeKind::Symlink(Link { target: target.into() }), acl)
}

/// Number of a setting's link below the directory `base`.
fn setting_id(base: InodeId, key: Key) -> InodeId {
    InodeId(base.0 - 1 - key.position() as u64)
}

/// The setting whose link below `base` has that number.
fn setting_of(base: InodeId, id: InodeId) -> Option<Key> {
    Key::at(usize::try_from(base.0.checked_sub(1)?.checked_sub(id.0)?).ok()?)
}

fn absent() -> Errno {
    Errno::ENOENT
}

impl<C: Cluster> Core<C> {
    /// Looks a name up in the virtual tree; none if the directory is not of it.
    pub(crate) fn virtual_lookup(
        &self,
        cx: &Context,
        parent: u64,
        name: &OsStr,
    ) -> Option<Result<Inode, Errno>> {
        let parent = from_ino(parent);
        if parent == InodeId::ROOT {
            return (name == VIRT_NAME).then(|| Ok(VIRT.inode()));
        }
        let found = match parent {
            InodeId::VIRT => DIRS.iter().find(|dir| name == dir.name).map(VirtualDir::inode).ok_or(absent()),
            InodeId::GET_CONF => match name.to_str().map(Key::parse) {
                Some(Ok(key)) => Ok(self.setting_link(cx, key)),
                _ => Err(Errno::EINVAL),
            },
            InodeId::RM_RF | InodeId::IOV_DIR | InodeId::SET_CONF => Err(absent()),
            _ => return None,
        };
        Some(found)
    }

    fn setting_link(&self, cx: &Context, key: Key) -> Inode {
        let perm = if key.system { 0o444 } else { 0o400 };
        let acl = Acl { uid: cx.uid(), gid: cx.gid(), perm, ..Acl::default() };
        link(setting_id(InodeId::GET_CONF, key), self.configs.show(key, cx.uid()), acl)
    }

    /// An inode of the virtual tree by number.
    pub(crate) fn virtual_inode(&self, cx: &Context, id: InodeId) -> Result<Inode, Errno> {
        if let Some(dir) = DIRS.iter().chain([&VIRT]).find(|dir| dir.id == id) {
            return Ok(dir.inode());
        }
        // What set-conf holds is the value just set.
        let key = setting_of(InodeId::GET_CONF, id).or_else(|| setting_of(InodeId::SET_CONF, id));
        let mut inode = key.map(|key| self.setting_link(cx, key)).ok_or(absent())?;
        inode.id = id;
        Ok(inode)
    }

    /// Entries of a virtual directory, `.` and `..` not included.
    pub(crate) fn virtual_list(&self, id: InodeId) -> Vec<Listed> {
        let dir = |dir: &VirtualDir| Listed {
            name: dir.name.into(),
            id: dir.id,
            kind: InodeType::Directory,
            inode: None,
        };
        let setting = |key: Key| Listed {
            name: key.name().into(),
            id: setting_id(InodeId::GET_CONF, key),
            kind: InodeType::Symlink,
            inode: None,
        };
        match id {
            InodeId::ROOT => vec![dir(&VIRT)],
            InodeId::VIRT => DIRS.iter().map(dir).collect(),
            InodeId::GET_CONF => Key::all().map(setting).collect(),
            _ => Vec::new(),
        }
    }

    /// A symlink made in the virtual tree is a command.
    pub(crate) async fn virtual_symlink(
        self: &Arc<Self>,
        cx: &Context,
        r: &Symlink<'_>,
    ) -> Result<Entry, Errno> {
        match from_ino(r.parent) {
            InodeId::RM_RF => self.remove_tree(cx, r).await,
            InodeId::SET_CONF => self.set_setting(cx, r),
            InodeId::IOV_DIR => {
                tracing::info!(name = ?r.name, target = ?r.target, "shared memory cannot be registered");
                Err(Errno::EOPNOTSUPP)
            }
            _ => Err(Errno::EPERM),
        }
    }

    /// Ends the registration of shared memory.
    pub(crate) fn unregister_iov(&self, name: &OsStr) -> Result<(), Errno> {
        tracing::info!(?name, "no shared memory is registered");
        Err(absent())
    }

    fn set_setting(&self, cx: &Context, r: &Symlink<'_>) -> Result<Entry, Errno> {
        let (Some(name), Some(value)) = (r.name.to_str(), r.target.to_str()) else {
            return Err(Errno::EINVAL);
        };
        let key = Key::parse(name).or_errno("set-conf")?;
        self.configs.set(key, value, cx.uid()).or_errno("set-conf")?;
        tracing::info!(uid = cx.uid(), key = name, value, "setting changed");
        let acl = Acl { uid: cx.uid(), gid: cx.gid(), perm: 0o400, ..Acl::default() };
        Ok(self.plain_entry(cx, &link(setting_id(InodeId::SET_CONF, key), value, acl)))
    }

    /// The reply to a command: a link that exists only in the kernel's cache, for a moment.
    fn fake_link(&self, cx: &Context, parent: InodeId, target: &[u8]) -> Entry {
        let acl = Acl { uid: cx.uid(), gid: cx.gid(), perm: 0o777, ..Acl::default() };
        self.plain_entry(cx, &link(InodeId::virt_temporary(parent.0), target, acl))
    }

    /// An absolute path given by a user, as seen from the root of 3FS: its directory and name.
    async fn resolve(&self, cx: &Context, path: &[u8]) -> Result<(InodeId, BString), Status> {
        let refuse = |why: &str| with_message(code::INVALID_ARG, why);
        let config = self.configs.global();
        let prefixes = [Some(self.params.mount_point.as_str()), config.remount_prefix.as_deref()];
        let relative = paths::below(path, prefixes.into_iter().flatten().map(str::as_bytes))
            .ok_or_else(|| refuse("the path is not on this mount"))?;
        let name = relative.last().ok_or_else(|| refuse("the path is the mount point"))?.clone();
        let parents = &relative[..relative.len() - 1];
        if parents.is_empty() {
            return Ok((InodeId::ROOT, name));
        }
        let user = self.user(cx);
        let path = PathAt::at(InodeId::ROOT, bstr::join("/", parents));
        Ok((self.run(cx, self.cluster.stat(&user, path)).await?.id, name))
    }

    async fn remove_tree(self: &Arc<Self>, cx: &Context, r: &Symlink<'_>) -> Result<Entry, Errno> {
        self.writable(cx)?;
        let config = self.configs.global();
        if config.check_rmrf {
            let command = std::fs::read(format!("/proc/{}/cmdline", cx.pid())).unwrap_or_default();
            let prefixes = [Some(self.params.mount_point.as_str()), config.remount_prefix.as_deref()];
            let prefixes: Vec<&[u8]> = prefixes.into_iter().flatten().map(str::as_bytes).collect();
            if !paths::ln_is_absolute(&command, &prefixes) {
                tracing::info!(pid = cx.pid(), "rm-rf by `ln` needs absolute paths on this mount");
                return Err(Errno::EINVAL);
            }
        }
        let target = r.target.as_bytes();
        let (parent, name) = self.resolve(cx, target).await.or_errno("rm-rf")?;
        let user = self.user(cx);
        let path = PathAt::at(parent, name.clone());
        let change = self.name_removal(to_ino(parent));
        self.run(cx, self.cluster.remove(&user, path, true)).await.or_errno("rm-rf")?;
        drop(change);
        tracing::info!(uid = cx.uid(), path = %BString::from(target), "tree removed");
        let notifier = self.notifier();
        let name = OsStr::from_bytes(&name);
        // Nobody holds that directory's lock for us: it is another than the one of this request.
        let _ = notifier.inval_entry(to_ino(parent), name).sent().await;
        // The request's own directory is locked until the reply; a helper thread waits for that.
        notifier.inval_entry(r.parent, r.name).detach();
        Ok(self.fake_link(cx, parent, target))
    }

    /// A rename asked for by a symlink to `mv:<path>`, which also works between mounts of parts of the tree.
    pub(crate) async fn move_by_symlink(
        self: &Arc<Self>,
        cx: &Context,
        path: &[u8],
        new_parent: u64,
        new_name: &OsStr,
    ) -> Result<Entry, Errno> {
        let (parent, name) = self.resolve(cx, path).await.or_errno("mv")?;
        let user = self.user(cx);
        let (from, to) = (PathAt::at(parent, name.clone()), at(new_parent, new_name));
        let _change = (self.names_change(to_ino(parent)), self.name_removal(new_parent));
        let inode = match self.run(cx, self.cluster.rename(&user, from, to, false)).await {
            Ok(inode) => inode,
            Err(status) => return Err(errno::from("mv", &status)),
        };
        let notifier = self.notifier();
        notifier.inval_entry(to_ino(parent), OsStr::from_bytes(&name)).detach();
        notifier.inval_entry(new_parent, new_name).detach();
        notifier.inval_attr(to_ino(inode.id)).detach();
        Ok(self.fake_link(cx, from_ino(new_parent), &text(path)))
    }
}
