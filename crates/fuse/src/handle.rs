//! Open files and directories, by the number the kernel got for them.

use crate::coherence::{Admission, Ticket};
use crate::dir::Listing;
use crate::inode::Node;
use bstr::BString;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use valor_protocol::InodeId;
use valor_protocol::meta::{Inode, InodeType};
use valor_protocol::user::UserInfo;
use valor_wire::Uuid;

/// An open file.
pub(crate) struct FileHandle {
    pub(crate) node: Arc<Node>,
    /// Who opened it.
    pub(crate) user: UserInfo,
    /// `O_*` at open.
    pub(crate) flags: i32,
    /// Session on the server while it is open for writing.
    pub(crate) session: tokio::sync::Mutex<Option<Uuid>>,
    /// Errors that this handle has learnt of.
    pub(crate) seen_errors: Mutex<u64>,
    /// What its open made the kernel drop.
    pub(crate) ticket: Ticket,
    /// The kernel has closed it.
    pub(crate) released: AtomicBool,
}

impl FileHandle {
    pub(crate) fn new(
        node: Arc<Node>,
        user: UserInfo,
        flags: i32,
        session: Option<Uuid>,
        admission: Admission,
    ) -> Self {
        let seen_errors = Mutex::new(node.errors.position());
        if session.is_none() {
            node.unprotected.fetch_add(1, Ordering::AcqRel);
        }
        let released = AtomicBool::new(false);
        let (session, ticket) = (tokio::sync::Mutex::new(session), Ticket::new(admission));
        FileHandle { node, user, flags, session, seen_errors, ticket, released }
    }

    /// Whether it was opened for writing.
    pub(crate) fn writes(&self) -> bool {
        writes(self.flags)
    }

    /// A request came that the kernel sends only after the open(2) has ended.
    pub(crate) fn open_ended(&self) {
        self.ticket.open_ended(&self.node.coherence);
    }

    /// The error of an acknowledged write that this handle does not know of yet.
    pub(crate) fn take_error(&self) -> Result<(), xfuse::Errno> {
        self.node.errors.take(&self.seen_errors)
    }
}

/// Whether open flags ask for write access.
pub(crate) fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// A directory entry as listed.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: BString,
    pub(crate) id: InodeId,
    pub(crate) kind: InodeType,
    /// The inode, if it came with the listing and was not given to the kernel yet.
    pub(crate) inode: Option<Box<Inode>>,
}

/// An open directory.
#[derive(Default)]
pub(crate) struct DirHandle {
    /// What was listed of it, from the start or since the last rewind.
    pub(crate) listing: tokio::sync::Mutex<Listing>,
}

/// Handles by number.
pub(crate) struct Handles<T> {
    next: AtomicU64,
    map: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Handles<T> {
    pub(crate) fn new() -> Self {
        Handles { next: AtomicU64::new(1), map: RwLock::default() }
    }

    pub(crate) fn insert(&self, handle: T) -> u64 {
        let fh = self.next.fetch_add(1, Ordering::Relaxed);
        self.map.write().insert(fh, Arc::new(handle));
        fh
    }

    pub(crate) fn get(&self, fh: u64) -> Option<Arc<T>> {
        self.map.read().get(&fh).cloned()
    }

    pub(crate) fn remove(&self, fh: u64) -> Option<Arc<T>> {
        self.map.write().remove(&fh)
    }

    pub(crate) fn drain(&self) -> Vec<Arc<T>> {
        std::mem::take(&mut *self.map.write()).into_values().collect()
    }
}
