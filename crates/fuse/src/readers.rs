//! Files open for reading only, by name, so that their data can be kept when the name is removed.
//!
//! 3FS keeps the data of a removed file while a writer has it open, and otherwise for a few minutes. With a metadata
//! service of ours a reader on the mount that removes the name keeps them too.

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
use valor_protocol::user::UserInfo;

/// Directory and name.
type Place = (u64, BString);

/// Files with readers, by the place where they were last found.
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
        if node.readers.load(Ordering::Acquire) > 0 {
            let mut places = self.0.lock();
            if let Some(old) = old {
                places.remove(&old);
            }
            places.insert(place, node.clone());
        }
    }

    /// A handle without a session was opened.
    pub(crate) fn opened(&self, node: &Arc<Node>) {
        let name = node.name.lock();
        if node.readers.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(place) = name.clone()
        {
            self.0.lock().insert(place, node.clone());
        }
    }

    /// A handle without a session was closed; true if it was the last one.
    fn closed(&self, node: &Arc<Node>) -> bool {
        let name = node.name.lock();
        let last = node.readers.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && let Some(place) = &*name {
            let mut places = self.0.lock();
            if places.get(place).is_some_and(|other| Arc::ptr_eq(other, node)) {
                places.remove(place);
            }
        }
        last
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
    /// Keeps the data of a file that this mount reads under a name that is about to go.
    pub(crate) async fn hold_readers(&self, user: &UserInfo, parent: u64, name: &OsStr) {
        if self.no_extensions.load(Ordering::Relaxed) {
            return;
        }
        let Some(node) = self.readers.at(parent, name) else { return };
        let session = self.new_session();
        match self.cluster.hold(user, node.id(), session).await {
            Ok(()) => node.holds.lock().push(session),
            Err(status) if is_unknown_service(&status) => self.no_extensions.store(true, Ordering::Relaxed),
            Err(status) => tracing::info!(inode = %node.id(), %status, "data of a removed file is not kept"),
        }
    }

    /// A reader is gone; with the last one, what kept a removed file's data.
    pub(crate) fn reader_gone(&self, handle: &FileHandle) {
        if self.readers.closed(&handle.node) {
            for session in std::mem::take(&mut *handle.node.holds.lock()) {
                self.cluster.close_later(&handle.user, handle.node.id(), session, Default::default());
            }
        }
    }
}
