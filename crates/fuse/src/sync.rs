//! Telling the metadata service lengths and times: on stat, fsync, close, and regularly
//! (`src/fuse/FuseOps.cc`, `syncEntry`, `periodicSync`).

use crate::cluster::Cluster;
use crate::core::Core;
use crate::errno::OrErrno;
use crate::handle::FileHandle;
use crate::ids::to_ino;
use crate::inode::Node;
use crate::remains::for_each;
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use valor_client::meta::FileChange;
use valor_protocol::InodeId;
use valor_protocol::meta::Inode;
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_wire::Status;
use xfuse::Errno;

/// Syncs of the regular round at work at a time.
const PERIODIC_WORKERS: usize = 4;

/// Why a file is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// lookup or stat.
    Stat,
    /// The regular round.
    Regular,
    /// fsync(2) or close(2).
    Fsync,
    /// The ioctl, which has storage asked in any case.
    Force,
}

impl<C: Cluster> Core<C> {
    /// Brings the server up to date about a file, as far as the reason demands. Gives the inode if the server was asked.
    pub(crate) async fn sync(
        self: &Arc<Self>,
        user: &UserInfo,
        node: &Arc<Node>,
        reason: Reason,
    ) -> Result<Option<Inode>, Status> {
        if !node.is_file() {
            return Ok(None);
        }
        if reason != Reason::Stat || self.configs.of(user.uid).flush_on_stat {
            self.flush(node).await;
        }
        let fsync = matches!(reason, Reason::Fsync | Reason::Force);
        self.unmark_dirty(node.id());
        let unsynced = node.dynamic.lock().unsynced(fsync, reason == Reason::Force);
        let Some(unsynced) = unsynced else { return Ok(None) };
        let hinted = match reason {
            Reason::Force => false,
            Reason::Fsync => self.configs.global().fsync_length_hint,
            Reason::Stat | Reason::Regular => true,
        };
        let length_hint = unsynced.hint.filter(|_| hinted);
        let change =
            FileChange { update_length: true, atime: unsynced.atime, mtime: unsynced.mtime, length_hint };
        let inode = match self.cluster.sync(user, node.id(), change).await {
            Ok(inode) => inode,
            Err(status) => {
                node.dynamic.lock().sync_failed();
                return Err(status);
            }
        };
        let surprising = self.take_over(node, &inode, unsynced.written, fsync);
        if reason != Reason::Stat && surprising {
            self.notifier().inval_attr(to_ino(node.id())).detach();
        }
        Ok(Some(inode))
    }

    /// Notes the server's answer to a sync of the first `written` writes. True if the length is another than expected, so
    /// that the kernel's knowledge is out of date.
    pub(crate) fn take_over(&self, node: &Node, inode: &Inode, written: u64, fsync: bool) -> bool {
        let mut dynamic = node.dynamic.lock();
        let expected = dynamic.known_length();
        dynamic.update(inode, written, fsync);
        if node.pipeline.is_clear() {
            dynamic.settle();
        }
        node.note_heard();
        dynamic.known_length() != expected
    }

    /// fsync(2), and what close(2) does.
    pub(crate) async fn fsync(
        self: &Arc<Self>,
        handle: &FileHandle,
        user: &UserInfo,
        data_only: bool,
    ) -> Result<(), Errno> {
        let node = &handle.node;
        self.flush(node).await;
        let synced = if data_only && !self.configs.global().fdatasync_update_length {
            Ok(None)
        } else {
            self.sync(user, node, Reason::Fsync).await
        };
        handle.take_error()?;
        synced.or_errno("sync").map(drop)
    }

    /// close(2) of a descriptor.
    pub(crate) async fn flush_handle(
        self: &Arc<Self>,
        handle: &Arc<FileHandle>,
        user: &UserInfo,
    ) -> Result<(), Errno> {
        if !handle.writes() {
            return Ok(());
        }
        let node = &handle.node;
        self.flush(node).await;
        if self.closes_early(node) {
            let closed = self.close_session(handle, user).await;
            self.protect_later(handle);
            handle.take_error()?;
            return closed.or_errno("close");
        }
        let synced = self.sync(user, node, Reason::Fsync).await;
        handle.take_error()?;
        synced.or_errno("sync").map(drop)
    }

    /// Tells the server of all writes of a file before its times are set. Who sets times usually has finished writing (as
    /// `cp -a` and `tar` do before they close), so the session of the handle it is done through ends, which saves
    /// the call that would end it later.
    pub(crate) async fn tell_writes(
        self: &Arc<Self>,
        user: &UserInfo,
        node: &Arc<Node>,
        fh: Option<u64>,
    ) -> Result<(), Errno> {
        self.flush(node).await;
        let handle = fh.and_then(|fh| self.files.get(fh)).filter(|handle| handle.writes());
        if let Some(handle) = handle
            && self.closes_early(node)
        {
            let closed = self.close_session(&handle, user).await;
            self.protect_later(&handle);
            return closed.or_errno("close");
        }
        self.sync(user, node, Reason::Fsync).await.or_errno("sync").map(drop)
    }

    /// Whether the sync of what was written may end a session.
    fn closes_early(&self, node: &Node) -> bool {
        let unsynced = node.dynamic.lock().unsynced(true, false).is_some();
        // A removed file lives only by its sessions.
        unsynced && self.configs.global().valor.close_on_flush && !node.removed.load(Ordering::Acquire)
    }

    /// Ends the handle's session, telling length and times as an fsync would.
    async fn close_session(self: &Arc<Self>, handle: &FileHandle, user: &UserInfo) -> Result<(), Status> {
        let node = &handle.node;
        let mut held = handle.session.lock().await;
        let Some(session) = *held else {
            drop(held);
            return self.sync(user, node, Reason::Fsync).await.map(drop);
        };
        // Places of appends are reserved under the session: those that came meanwhile have to be written before it ends.
        self.flush(node).await;
        self.unmark_dirty(node.id());
        let (written, change) = {
            let dynamic = node.dynamic.lock();
            let hint = dynamic.hint.filter(|_| self.configs.global().fsync_length_hint);
            let update_length = dynamic.written > dynamic.fsynced;
            let (atime, mtime) = (dynamic.atime, dynamic.mtime);
            let length_hint = hint.filter(|_| update_length);
            (dynamic.written, FileChange { update_length, atime, mtime, length_hint })
        };
        // Whether it succeeds or goes on in the background: the session is over.
        *held = None;
        node.unprotected.fetch_add(1, Ordering::AcqRel);
        match self.cluster.close(user, node.id(), Some(session), change).await {
            Ok(inode) => {
                if self.take_over(node, &inode, written, true) {
                    self.notifier().inval_attr(to_ino(node.id())).detach();
                }
                Ok(())
            }
            Err(status) => {
                node.dynamic.lock().sync_failed();
                Err(status)
            }
        }
    }

    /// The last descriptor of an open file is gone. Nobody sees the result.
    pub(crate) async fn release_handle(self: &Arc<Self>, handle: &FileHandle) {
        let node = &handle.node;
        handle.released.store(true, Ordering::Release);
        if handle.writes() {
            // close(2) has flushed; this is for descriptors that died without one.
            self.flush(node).await;
            if handle.session.lock().await.is_some()
                && let Err(status) = self.close_session(handle, &handle.user).await
            {
                tracing::warn!(inode = %node.id(), %status, "closing a file failed");
            }
        }
        // Without a session by now, whatever it was.
        node.unprotected.fetch_sub(1, Ordering::AcqRel);
        self.handle_gone(handle);
    }

    /// Syncs everything that was written, for the end of the mount and syncfs(2).
    pub(crate) async fn sync_all(self: &Arc<Self>) {
        let mut files = self.nodes.all();
        files.retain(|node| {
            let told = node.pipeline.is_clear() && node.dynamic.lock().unsynced(true, false).is_none();
            node.is_file() && !told
        });
        for_each(files, |node| {
            let core = self.clone();
            async move {
                let writer = node.dynamic.lock().writer;
                let user = core.user_of(writer, writer);
                if let Err(status) = core.sync(&user, &node, Reason::Fsync).await {
                    tracing::error!(inode = %node.id(), %status, "syncing a file failed");
                    if status.code == code::META_NOT_FOUND {
                        node.removed.store(true, Ordering::Release);
                    }
                }
            }
        })
        .await;
    }

    /// The next files to sync after `last`, in turn.
    fn next_dirty(&self, last: InodeId, limit: usize) -> Vec<InodeId> {
        let dirty = self.dirty.lock();
        let after = dirty.range((Bound::Excluded(last), Bound::Unbounded));
        let before = dirty.range(..=last);
        after.chain(before).take(limit).copied().collect()
    }

    /// One regular round.
    pub(crate) async fn periodic_round(self: &Arc<Self>, last: &mut InodeId) {
        let config = self.configs.global();
        if !config.periodic_sync.enable || config.readonly {
            return;
        }
        let ids = self.next_dirty(*last, config.periodic_sync.limit);
        if let Some(id) = ids.last() {
            *last = *id;
        }
        for group in ids.chunks(PERIODIC_WORKERS) {
            let mut tasks = tokio::task::JoinSet::new();
            for id in group {
                let (core, id) = (self.clone(), *id);
                tasks.spawn(async move { core.sync_regularly(id).await });
            }
            tasks.join_all().await;
        }
    }

    async fn sync_regularly(self: Arc<Self>, id: InodeId) {
        let Some(node) = self.nodes.get(id) else { return self.unmark_dirty(id) };
        let writer = node.dynamic.lock().writer;
        if self.configs.of(writer).readonly {
            return;
        }
        let user = self.user_of(writer, writer);
        if let Err(status) = self.sync(&user, &node, Reason::Regular).await {
            tracing::warn!(inode = %id, %status, "regular sync failed");
        }
    }
}

/// Runs regular rounds until the mount is gone.
pub(crate) async fn periodic<C: Cluster>(core: Weak<Core<C>>) {
    let mut last = InodeId(0);
    loop {
        let Some(pause) = core.upgrade().map(|core| core.periodic_pause()) else { return };
        tokio::time::sleep(pause).await;
        let Some(core) = core.upgrade() else { return };
        core.periodic_round(&mut last).await;
    }
}

impl<C: Cluster> Core<C> {
    /// The interval, give or take 30 %, so that clients do not sync in step.
    fn periodic_pause(&self) -> std::time::Duration {
        let spread = (self.env.random_u64() % 1000) as f64 / 1000.0;
        self.configs.global().periodic_sync.interval.get().mul_f64(0.7 + 0.6 * spread)
    }
}
