//! Keeping the data of files that are open although their names are removed.
//!
//! 3FS keeps the data of a removed file while a session says that a writer has it open, and otherwise for a few minutes.
//! With a metadata service of ours, handles without a session (readers, and writers whose session an early close(2)
//! has ended) get one when this mount removes the name.

use crate::cluster::Cluster;
use crate::core::Core;
use crate::handle::FileHandle;
use crate::inode::Node;
use crate::write::is_unknown_service;
use bstr::BString;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use valor_protocol::user::UserInfo;
use valor_wire::Status;

/// A handle that is still open so long after its session was ended gets one again. Far below the minutes for which
/// servers keep data of removed files.
const PROTECT_AFTER: Duration = Duration::from_secs(1);

/// Directory and name.
type Place = (u64, BString);

/// Files with handles, by the place where they were last found.
#[derive(Default)]
pub(crate) struct Readers(Mutex<HashMap<Place, Arc<Node>>>);

impl Readers {
    /// Notes where an inode was found.
    pub(crate) fn note_name(&self, node: &Arc<Node>, parent: u64, name: &OsStr) {
        let mut known = node.name.lock();
        if known.as_ref().is_some_and(|(dir, old)| *dir == parent && *old == name.as_bytes()) {
            return;
        }
        let place = (parent, BString::from(name.as_bytes()));
        let old = known.replace(place.clone());
        if node.handles.load(Ordering::Acquire) > 0 {
            let mut places = self.0.lock();
            if let Some(old) = old
                && places.get(&old).is_some_and(|other| Arc::ptr_eq(other, node))
            {
                places.remove(&old);
            }
            places.insert(place, node.clone());
        }
    }

    /// A file was opened.
    pub(crate) fn handle_opened(&self, node: &Arc<Node>) {
        let name = node.name.lock();
        if node.handles.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(place) = name.clone()
        {
            self.0.lock().insert(place, node.clone());
        }
    }

    /// A file was closed.
    fn handle_closed(&self, node: &Arc<Node>) {
        let name = node.name.lock();
        if node.handles.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(place) = &*name
        {
            let mut places = self.0.lock();
            if places.get(place).is_some_and(|other| Arc::ptr_eq(other, node)) {
                places.remove(place);
            }
        }
    }

    fn at(&self, parent: u64, name: &OsStr) -> Option<Arc<Node>> {
        let places = self.0.lock();
        if places.is_empty() {
            return None;
        }
        places.get(&(parent, BString::from(name.as_bytes()))).cloned()
    }
}

impl<C: Cluster> Core<C> {
    /// A name is about to go. If this mount has the file open, keeps its data.
    pub(crate) async fn hold_readers(&self, user: &UserInfo, parent: u64, name: &OsStr) {
        let Some(node) = self.readers.at(parent, name) else { return };
        node.removed.store(true, Ordering::Release);
        if node.unprotected.load(Ordering::Acquire) == 0 {
            return;
        }
        let session = self.new_session();
        match self.hold(user, &node, session).await {
            Ok(true) => node.holds.lock().push(session),
            Ok(false) => {}
            Err(status) => tracing::info!(inode = %node.id(), %status, "data of a removed file is not kept"),
        }
    }

    /// Makes a session that keeps a file's data. False if the servers have no such thing.
    async fn hold(&self, user: &UserInfo, node: &Node, session: valor_wire::Uuid) -> Result<bool, Status> {
        if self.no_extensions.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match self.cluster.hold(user, node.id(), session).await {
            Err(status) if is_unknown_service(&status) => {
                self.no_extensions.store(true, Ordering::Relaxed);
                Ok(false)
            }
            result => result.map(|()| true),
        }
    }

    /// A handle whose session was ended by close(2) gets one again if it turns out to live on, as duplicated
    /// descriptors do.
    pub(crate) fn protect_later(self: &Arc<Self>, handle: &Arc<FileHandle>) {
        let (core, handle) = (Arc::downgrade(self), Arc::downgrade(handle));
        tokio::spawn(async move {
            tokio::time::sleep(PROTECT_AFTER).await;
            if let (Some(core), Some(handle)) = (core.upgrade(), handle.upgrade()) {
                core.protect(&handle).await;
            }
        });
    }

    async fn protect(&self, handle: &FileHandle) {
        let mut held = handle.session.lock().await;
        if held.is_some() || handle.released.load(Ordering::Acquire) {
            return;
        }
        let session = self.new_session();
        match self.hold(&handle.user, &handle.node, session).await {
            Ok(true) => {
                *held = Some(session);
                handle.node.unprotected.fetch_sub(1, Ordering::AcqRel);
            }
            Ok(false) => {}
            Err(status) => tracing::debug!(inode = %handle.node.id(), %status, "no session for an open file"),
        }
    }

    /// A handle is gone; with the last one of a file, what kept a removed file's data.
    pub(crate) fn handle_gone(&self, handle: &FileHandle) {
        let node = &handle.node;
        self.readers.handle_closed(node);
        if node.handles.load(Ordering::Acquire) == 0 {
            for session in std::mem::take(&mut *node.holds.lock()) {
                self.cluster.close_later(&handle.user, node.id(), session, Default::default());
            }
        }
    }
}
