//! Operations on names and attributes (`src/fuse/FuseOps.cc`).

use crate::attr::{attributes, join_time};
use crate::cluster::Cluster;
use crate::coherence::{Admission, Token, open_errno};
use crate::core::{Core, at, not_virtual, text};
use crate::errno::{self, OrErrno};
use crate::handle::{FileHandle, writes};
use crate::ids::{from_ino, is_virtual, to_ino};
use crate::inode::Node;
use crate::sync::Reason;
use crate::virt;
use crate::write::is_unknown_service;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use valor_client::meta::Permissions;
use valor_protocol::InodeId;
use valor_protocol::meta::{Inode, OpenFlags, PathAt, SETATTR_TIME_NOW};
use valor_protocol::status::code;
use valor_protocol::valor::{RENAME_EXCHANGE, RENAME_NOREPLACE};
use valor_wire::{Status, UtcTime};
use xfuse::request::*;
use xfuse::{Attr, Context, Created, Data, Entry, Errno, Opened, abi};

impl<C: Cluster> Core<C> {
    /// The kernel's entry of an inode, which gives it a reference.
    pub(crate) fn entry(&self, cx: &Context, inode: &Inode) -> Entry {
        self.nodes.add(inode);
        self.plain_entry(cx, inode)
    }

    /// An entry without a reference: for virtual inodes, and for those already counted.
    pub(crate) fn plain_entry(&self, cx: &Context, inode: &Inode) -> Entry {
        let settings = self.settings(cx);
        let (entry_valid, attr_valid) = match inode.data.as_symlink() {
            Some(_) => (settings.symlink_timeout, settings.symlink_timeout),
            None => (settings.entry_timeout, settings.attr_timeout),
        };
        self.tell(inode);
        Entry { nodeid: to_ino(inode.id), generation: 0, entry_valid, attr_valid, attr: attributes(inode) }
    }

    fn attr(&self, cx: &Context, inode: &Inode) -> Attr {
        let settings = self.settings(cx);
        let link = inode.data.as_symlink().is_some();
        let valid = if link { settings.symlink_timeout } else { settings.attr_timeout };
        self.tell(inode);
        Attr { valid, attr: attributes(inode) }
    }

    pub(crate) async fn lookup(self: &Arc<Self>, cx: &Context, r: Lookup<'_>) -> Result<Entry, Errno> {
        if let Some(found) = self.virtual_lookup(cx, r.parent, r.name) {
            return Ok(self.plain_entry(cx, &found?));
        }
        let user = self.user(cx);
        let found = self.run(cx, self.cluster.stat(&user, at(r.parent, r.name))).await;
        let inode = match found {
            Ok(inode) => inode,
            Err(status) => {
                let errno = errno::from("lookup", &status);
                let negative = self.settings(cx).negative_timeout;
                let absent = status.code == code::META_NOT_FOUND && !negative.is_zero();
                return if absent { Ok(Entry::negative(negative)) } else { Err(errno) };
            }
        };
        let node = self.nodes.add(&inode);
        self.readers.note_name(&node, r.parent, r.name);
        match self.synced(cx, &node).await {
            Ok(synced) => Ok(self.plain_entry(cx, synced.as_ref().unwrap_or(&inode))),
            Err(status) => {
                // The reply carries no entry, so the kernel gets no reference.
                self.nodes.forget(inode.id, 1);
                Err(errno::from("lookup", &status))
            }
        }
    }

    /// Syncs a file before it is looked at, if so configured.
    async fn synced(self: &Arc<Self>, cx: &Context, node: &Arc<Node>) -> Result<Option<Inode>, Status> {
        if !self.settings(cx).sync_on_stat {
            return Ok(None);
        }
        let user = self.user(cx);
        self.run(cx, self.sync(&user, node, Reason::Stat)).await
    }

    pub(crate) async fn getattr(self: &Arc<Self>, cx: &Context, ino: u64) -> Result<Attr, Errno> {
        let id = from_ino(ino);
        if is_virtual(id) {
            return Ok(self.attr(cx, &self.virtual_inode(cx, id)?));
        }
        let user = self.user(cx);
        let node = self.nodes.get(id);
        if let Some(node) = &node
            && let Some(inode) = self.synced(cx, node).await.or_errno("getattr")?
        {
            return Ok(self.attr(cx, &inode));
        }
        let inode = self.run(cx, self.cluster.stat(&user, PathAt::inode(id))).await.or_errno("getattr")?;
        if let Some(node) = node {
            node.refresh(&inode);
        }
        Ok(self.attr(cx, &inode))
    }

    pub(crate) async fn setattr(self: &Arc<Self>, cx: &Context, r: Setattr) -> Result<Attr, Errno> {
        self.writable(cx)?;
        not_virtual(r.ino)?;
        let id = from_ino(r.ino);
        let node = self.nodes.get(id);
        let mut latest = None;
        if r.mode.is_some() || r.uid.is_some() || r.gid.is_some() {
            let mut perm = r.mode.map(|mode| mode & 0o7777);
            if perm.is_none() {
                perm =
                    node.as_ref().filter(|node| node.is_file()).and_then(|node| node.perm_without_set_id());
            }
            let new = Permissions { uid: r.uid, gid: r.gid, perm, iflags: None };
            latest = Some(self.set_permission(cx, id, new).await?);
        }
        if let Some(size) = r.size {
            let node = self.node(r.ino)?;
            latest = Some(self.truncate(cx, &node, size).await?);
            if r.kill_suidgid {
                latest = self.kill_set_id(cx, &node).await?.or(latest);
            }
        }
        if r.atime.is_some() || r.mtime.is_some() {
            latest = Some(self.set_times(cx, &r).await?);
        }
        match latest {
            Some(inode) => Ok(self.attr(cx, &inode)),
            None => self.getattr(cx, r.ino).await,
        }
    }

    async fn set_permission(&self, cx: &Context, id: InodeId, new: Permissions) -> Result<Inode, Errno> {
        let user = self.user(cx);
        let inode = self.run(cx, self.cluster.set_permission(&user, id, new)).await.or_errno("setattr")?;
        if let Some(node) = self.nodes.get(id) {
            node.refresh(&inode);
        }
        Ok(inode)
    }

    /// Clears set-id bits before or after a change of contents, if there are any. Done as the super-user: the caller may
    /// write to files of others.
    pub(crate) async fn kill_set_id(&self, cx: &Context, node: &Node) -> Result<Option<Inode>, Errno> {
        let Some(perm) = node.perm_without_set_id() else { return Ok(None) };
        let new = Permissions { perm: Some(perm), ..Permissions::default() };
        let owner = node.dynamic.lock().acl;
        let user = self.user_of(owner.uid, owner.gid);
        let inode =
            self.run(cx, self.cluster.set_permission(&user, node.id(), new)).await.or_errno("setattr")?;
        node.refresh(&inode);
        Ok(Some(inode))
    }

    /// Sets a file's length after everything written before.
    pub(crate) async fn truncate(
        self: &Arc<Self>,
        cx: &Context,
        node: &Arc<Node>,
        size: u64,
    ) -> Result<Inode, Errno> {
        let user = self.user(cx);
        self.change_length(node, self.cluster.truncate(&user, node.id(), size)).await.or_errno("truncate")
    }

    /// Makes a file at least so long, after everything written before.
    pub(crate) async fn extend(
        self: &Arc<Self>,
        cx: &Context,
        node: &Arc<Node>,
        size: u64,
    ) -> Result<Inode, Errno> {
        let user = self.user(cx);
        self.change_length(node, self.cluster.extend(&user, node.id(), size)).await.or_errno("fallocate")
    }

    async fn change_length(
        self: &Arc<Self>,
        node: &Arc<Node>,
        call: impl Future<Output = Result<Inode, Status>>,
    ) -> Result<Inode, Status> {
        let change = async {
            let written = node.dynamic.lock().written;
            let result = call.await;
            match &result {
                Ok(inode) => {
                    let mut dynamic = node.dynamic.lock();
                    dynamic.forget_accepted();
                    dynamic.update(inode, written, true);
                    dynamic.mtime = None;
                    node.note_heard();
                }
                Err(_) => node.dynamic.lock().sync_failed(),
            }
            result
        };
        self.exclusively(node, change).await
    }

    /// Sets times after everything written before, which would change them otherwise.
    async fn set_times(self: &Arc<Self>, cx: &Context, r: &Setattr) -> Result<Inode, Errno> {
        let convert = |time| match time {
            SetTime::Now => SETATTR_TIME_NOW,
            SetTime::At(seconds, nanos) => join_time(seconds, nanos),
        };
        let (atime, mtime): (Option<UtcTime>, Option<UtcTime>) = (r.atime.map(convert), r.mtime.map(convert));
        let id = from_ino(r.ino);
        let user = self.user(cx);
        let node = self.nodes.get(id);
        if let Some(node) = &node {
            self.tell_writes(&user, node, r.fh).await?;
            let mut dynamic = node.dynamic.lock();
            dynamic.atime = dynamic.atime.filter(|_| atime.is_none());
            dynamic.mtime = dynamic.mtime.filter(|_| mtime.is_none());
        }
        let inode = self.run(cx, self.cluster.utimes(&user, id, atime, mtime)).await.or_errno("utimes")?;
        if let Some(node) = node {
            node.refresh(&inode);
        }
        Ok(inode)
    }

    pub(crate) fn readlink(&self, cx: &Context, ino: u64) -> Result<Data, Errno> {
        let id = from_ino(ino);
        if is_virtual(id) {
            let inode = self.virtual_inode(cx, id)?;
            let link = inode.data.as_symlink().ok_or(Errno::EINVAL)?;
            return Ok(text(&link.target).into());
        }
        let node = self.node(ino)?;
        let link = node.first.data.as_symlink().ok_or(Errno::EINVAL)?;
        Ok(text(&link.target).into())
    }

    pub(crate) async fn mknod(&self, cx: &Context, r: Mknod<'_>) -> Result<Entry, Errno> {
        self.writable(cx)?;
        not_virtual(r.parent)?;
        let kind = r.mode & libc::S_IFMT;
        if kind != libc::S_IFREG && kind != 0 {
            tracing::info!(mode = format!("{:o}", r.mode), "fifos, sockets and devices have no place in 3FS");
            return Err(Errno::EOPNOTSUPP);
        }
        let user = self.user(cx);
        let path = at(r.parent, r.name);
        let _change = self.names_change(r.parent);
        let created = self.cluster.create(&user, path, None, OpenFlags::RDONLY, r.mode & 0o7777);
        let inode = self.run(cx, created).await.or_errno("mknod")?;
        Ok(self.entry(cx, &inode))
    }

    pub(crate) async fn mkdir(&self, cx: &Context, r: Mkdir<'_>) -> Result<Entry, Errno> {
        self.writable(cx)?;
        not_virtual(r.parent)?;
        let user = self.user(cx);
        let _change = self.names_change(r.parent);
        let made = self.cluster.mkdir(&user, at(r.parent, r.name), r.mode & 0o7777);
        let inode = self.run(cx, made).await.or_errno("mkdir")?;
        let node = self.nodes.add(&inode);
        self.readers.note_name(&node, r.parent, r.name);
        Ok(self.plain_entry(cx, &inode))
    }

    pub(crate) async fn unlink(&self, cx: &Context, r: Unlink<'_>) -> Result<(), Errno> {
        self.writable(cx)?;
        if from_ino(r.parent) == InodeId::IOV_DIR {
            return self.unregister_iov(r.name);
        }
        not_virtual(r.parent)?;
        let user = self.user(cx);
        self.hold_readers(&user, r.parent, r.name).await;
        let _change = self.name_removal(r.parent);
        self.run(cx, self.cluster.unlink(&user, at(r.parent, r.name))).await.or_errno("unlink")
    }

    pub(crate) async fn rmdir(&self, cx: &Context, r: Rmdir<'_>) -> Result<(), Errno> {
        self.writable(cx)?;
        not_virtual(r.parent)?;
        let user = self.user(cx);
        let _change = self.names_change(r.parent);
        self.run(cx, self.cluster.rmdir(&user, at(r.parent, r.name))).await.or_errno("rmdir")
    }

    pub(crate) async fn symlink(self: &Arc<Self>, cx: &Context, r: Symlink<'_>) -> Result<Entry, Errno> {
        if is_virtual(from_ino(r.parent)) {
            return self.virtual_symlink(cx, &r).await;
        }
        self.writable(cx)?;
        if let Some(path) = r.target.as_bytes().strip_prefix(virt::MOVE_PREFIX) {
            return self.move_by_symlink(cx, path, r.parent, r.name).await;
        }
        let user = self.user(cx);
        let _change = self.names_change(r.parent);
        let made = self.cluster.symlink(&user, at(r.parent, r.name), text(r.target.as_bytes()));
        let inode = self.run(cx, made).await.or_errno("symlink")?;
        Ok(self.entry(cx, &inode))
    }

    pub(crate) async fn rename(self: &Arc<Self>, cx: &Context, r: Rename<'_>) -> Result<(), Errno> {
        self.writable(cx)?;
        not_virtual(r.parent)?;
        let user = self.user(cx);
        let from = at(r.parent, r.name);
        let _change = (self.names_change(r.parent), self.name_removal(r.new_parent));
        if from_ino(r.new_parent) == InodeId::RM_RF && r.flags == 0 {
            return self.run(cx, self.cluster.remove(&user, from, true)).await.or_errno("rm-rf");
        }
        not_virtual(r.new_parent)?;
        let to = at(r.new_parent, r.new_name);
        match r.flags {
            0 => {
                self.hold_readers(&user, r.new_parent, r.new_name).await;
                let renamed = self.run(cx, self.cluster.rename(&user, from, to, false)).await;
                self.renamed(&renamed.or_errno("rename")?, r.new_parent, r.new_name);
                Ok(())
            }
            RENAME_NOREPLACE | RENAME_EXCHANGE => {
                match self.run(cx, self.cluster.rename_with(&user, from, to, r.flags)).await {
                    // Only Valor can do it atomically, and doing it otherwise would be no help.
                    Err(status) if is_unknown_service(&status) => Err(Errno::EINVAL),
                    result => {
                        self.renamed(&result.or_errno("rename")?, r.new_parent, r.new_name);
                        if r.flags == RENAME_EXCHANGE {
                            // The reply tells only of one of them.
                            let other = self.cluster.stat(&user, at(r.parent, r.name));
                            if let Ok(other) = self.run(cx, other).await {
                                self.renamed(&other, r.parent, r.name);
                            }
                        }
                        Ok(())
                    }
                }
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn renamed(&self, inode: &Inode, parent: u64, name: &OsStr) {
        if let Some(node) = self.nodes.get(inode.id) {
            self.readers.note_name(&node, parent, name);
            node.refresh(inode);
        }
    }

    pub(crate) async fn link(&self, cx: &Context, r: Link<'_>) -> Result<Entry, Errno> {
        self.writable(cx)?;
        if is_virtual(from_ino(r.ino)) {
            return Err(Errno::EISDIR);
        }
        not_virtual(r.new_parent)?;
        let user = self.user(cx);
        let _change = self.names_change(r.new_parent);
        let linked = self.cluster.hard_link(&user, from_ino(r.ino), at(r.new_parent, r.new_name));
        let inode = self.run(cx, linked).await.or_errno("link")?;
        Ok(self.entry(cx, &inode))
    }

    pub(crate) async fn open(self: &Arc<Self>, cx: &Context, r: Open) -> Result<Opened, Errno> {
        let flags = r.flags as i32;
        let changes = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_APPEND;
        if writes(flags) || flags & changes != 0 {
            self.writable(cx)?;
        }
        let node = self.node(r.ino)?;
        let user = self.user(cx);
        let asked = self.now();
        let session = writes(flags).then(|| self.new_session());
        let inode = if session.is_some() {
            let opened = async {
                let opened = self.cluster.open(&user, node.id(), session, OpenFlags(flags)).await;
                if opened.is_ok() {
                    node.dynamic.lock().forget_accepted();
                }
                opened
            };
            let result = if flags & libc::O_TRUNC != 0 {
                // Storage that hangs must not collect everyone who opens the file.
                let patience = self.configs.global().valor.open_patience.get();
                self.exclusively_soon(&node, patience, opened).await?
            } else {
                self.cluster.open(&user, node.id(), session, OpenFlags(flags)).await
            };
            let inode = result.map_err(|status| open_errno(&status))?;
            self.note_opened(&node, &inode, flags);
            let killed = if r.kill_suidgid { self.kill_set_id(cx, &node).await? } else { None };
            killed.unwrap_or(inode)
        } else if flags & libc::O_TRUNC != 0 {
            // The server truncates only for writers.
            self.truncate(cx, &node, 0).await?
        } else {
            self.inode_for_open(cx, &user, &node).await?
        };
        if flags & libc::O_TRUNC == 0 {
            // With it the kernel forgets attributes by itself.
            self.drop_other_attributes(&node, &inode).await;
        }
        let admission = node.coherence.admit(Token::of(&inode), asked, self.keep_cache());
        let cached = self.settings(cx).enable_read_cache || flags & libc::O_NONBLOCK != 0;
        Ok(self.opened(cx, node, flags, session, !cached, admission))
    }

    /// Takes over the server's answer to an open; a truncation covers all earlier writes.
    fn note_opened(&self, node: &Node, inode: &Inode, flags: i32) {
        let mut dynamic = node.dynamic.lock();
        if flags & libc::O_TRUNC != 0 {
            let written = dynamic.written;
            dynamic.update(inode, written, true);
        } else {
            dynamic.update(inode, 0, false);
        }
        node.note_heard();
    }

    fn opened(
        &self,
        cx: &Context,
        node: Arc<Node>,
        flags: i32,
        session: Option<valor_wire::Uuid>,
        uncached: bool,
        admission: Admission,
    ) -> Opened {
        let appends = writes(flags) && flags & libc::O_APPEND != 0;
        // An append may land elsewhere than the kernel thinks, so its cache must not keep the bytes.
        let direct_io = flags & libc::O_DIRECT != 0 || uncached || appends;
        let mut open_flags = if direct_io { abi::FOPEN_DIRECT_IO } else { 0 };
        if direct_io && !appends {
            open_flags |= abi::FOPEN_PARALLEL_DIRECT_WRITES;
        }
        if admission.keep {
            open_flags |= abi::FOPEN_KEEP_CACHE;
        }
        self.readers.handle_opened(&node);
        let fh = self.files.insert(FileHandle::new(node, self.user(cx), flags, session, admission));
        Opened { fh, flags: open_flags, backing_id: 0 }
    }

    pub(crate) async fn create(self: &Arc<Self>, cx: &Context, r: Create<'_>) -> Result<Created, Errno> {
        self.writable(cx)?;
        not_virtual(r.parent)?;
        let kind = r.mode & libc::S_IFMT;
        if kind != libc::S_IFREG && kind != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let flags = r.flags as i32;
        let user = self.user(cx);
        let asked = self.now();
        let session = writes(flags).then(|| self.new_session());
        let path = at(r.parent, r.name);
        let _change = self.names_change(r.parent);
        let created = self.cluster.create(&user, path, session, OpenFlags(flags), r.mode & 0o7777);
        // Given up midway it would leave a session on the server, and the file open for ever.
        let inode = if session.is_some() { created.await } else { self.run(cx, created).await };
        let inode = inode.or_errno("create")?;
        let node = self.nodes.add(&inode);
        self.readers.note_name(&node, r.parent, r.name);
        self.note_opened(&node, &inode, flags);
        let uncached = !self.settings(cx).enable_read_cache;
        let admission = node.coherence.admit(Token::of(&inode), asked, self.keep_cache());
        Ok(Created {
            entry: self.plain_entry(cx, &inode),
            opened: self.opened(cx, node, flags, session, uncached, admission),
        })
    }

    pub(crate) async fn access(&self, cx: &Context, r: Access) -> Result<(), Errno> {
        let id = from_ino(r.ino);
        let user = self.user(cx);
        let inode = if is_virtual(id) {
            self.virtual_inode(cx, id)?
        } else {
            self.run(cx, self.cluster.stat(&user, PathAt::inode(id))).await.or_errno("access")?
        };
        let acl = inode.data.acl;
        let executable = acl.perm & 0o111 != 0 || inode.data.as_directory().is_some();
        let class = match (user.uid == acl.uid, user.in_group(acl.gid) || cx.groups().contains(&acl.gid)) {
            (true, _) => acl.perm >> 6,
            (_, true) => acl.perm >> 3,
            _ => acl.perm,
        };
        let wanted = r.mask & 7;
        let root = user.is_root() && (wanted & 1 == 0 || executable);
        if root || class & wanted == wanted { Ok(()) } else { Err(Errno::EACCES) }
    }
}

impl Node {
    /// Permission bits without set-id bits, if clearing them changes anything. Without group execution the
    /// set-group-id bit means something else and stays.
    pub(crate) fn perm_without_set_id(&self) -> Option<u32> {
        let perm = self.dynamic.lock().acl.perm & 0o7777;
        let clear = if perm & 0o010 == 0 { libc::S_ISUID } else { libc::S_ISUID | libc::S_ISGID };
        (perm & clear != 0).then_some(perm & !clear)
    }
}
