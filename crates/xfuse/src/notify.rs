//! Notifications: messages to the kernel that no request asked for.
//!
//! Some of them take locks that a process may hold while it waits for us (a directory's lock during LOOKUP, a page's
//! lock during READ). Those are written by helper threads behind a bounded queue, never by a channel thread.

use crate::abi::{self, NotifyCode, Pod};
use crate::device;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak, mpsc};
use tokio::sync::oneshot;

/// Notifications waiting for a helper thread; further ones are refused with `ENOBUFS`.
const QUEUE: usize = 4096;

/// Sends notifications to the kernel. Cheap to clone; outlives the session harmlessly (calls then fail with ENOTCONN).
#[derive(Clone, Debug)]
pub struct Notifier {
    inner: Weak<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    fd: Arc<OwnedFd>,
    queue: mpsc::SyncSender<Job>,
    retrievals: Mutex<HashMap<u64, oneshot::Sender<Retrieved>>>,
    next_retrieval: AtomicU64,
}

/// One message for a helper thread.
struct Job {
    code: NotifyCode,
    head: Vec<u8>,
    data: Bytes,
    done: Option<oneshot::Sender<io::Result<()>>>,
}

/// What the page cache held.
#[derive(Debug, Clone)]
pub struct Retrieved {
    /// Offset of the data.
    pub offset: u64,
    /// The data, possibly less than asked for.
    pub data: Bytes,
}

/// The result of a notification that a helper thread sends. Dropping it does not take the notification back.
#[derive(Debug)]
#[must_use = "await it, or call `detach` to not care"]
pub struct Pending(Result<oneshot::Receiver<io::Result<()>>, io::Error>);

impl Pending {
    /// Lets the notification happen without waiting for its result.
    pub fn detach(self) {}

    /// Waits until the kernel has taken the notification. `ENOENT` says there was nothing to invalidate.
    pub async fn sent(self) -> io::Result<()> {
        self.0?.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOTCONN)
}

impl Inner {
    /// Starts `threads` helpers that write to `fd`. They end when the returned value is dropped.
    pub(crate) fn start(fd: Arc<OwnedFd>, threads: usize) -> io::Result<Arc<Self>> {
        let (queue, jobs) = mpsc::sync_channel::<Job>(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        for index in 0..threads.max(1) {
            let (jobs, fd) = (jobs.clone(), fd.clone());
            std::thread::Builder::new()
                .name(format!("fuse-notify-{index}"))
                .spawn(move || serve(&jobs, &fd))?;
        }
        Ok(Arc::new(Inner { fd, queue, retrievals: Mutex::default(), next_retrieval: AtomicU64::new(1) }))
    }

    pub(crate) fn notifier(self: &Arc<Self>) -> Notifier {
        Notifier { inner: Arc::downgrade(self) }
    }

    /// Hands the data of a NOTIFY_REPLY to whoever asked for it.
    pub(crate) fn retrieved(&self, unique: u64, retrieved: Retrieved) {
        if let Some(waiter) = self.retrievals.lock().remove(&unique) {
            let _ = waiter.send(retrieved);
        }
    }
}

fn serve(jobs: &Mutex<mpsc::Receiver<Job>>, fd: &OwnedFd) {
    loop {
        // The lock is held while waiting: one helper waits for a job, the others for the lock.
        let Ok(job) = jobs.lock().recv() else { return };
        let result = write(fd, job.code, &job.head, &job.data);
        if let Err(error) = &result
            && error.raw_os_error() != Some(libc::ENOENT)
        {
            tracing::debug!(code = job.code.name(), %error, "notification refused");
        }
        if let Some(done) = job.done {
            let _ = done.send(result);
        }
    }
}

fn write(fd: &OwnedFd, code: NotifyCode, head: &[u8], data: &[u8]) -> io::Result<()> {
    let parts = [IoSlice::new(head), IoSlice::new(data)];
    let used = if data.is_empty() { 1 - usize::from(head.is_empty()) } else { 2 };
    device::send(fd, 0, code.code() as i32, &parts[..used])
}

/// A struct followed by a NUL-terminated name.
fn with_name(head: &impl Pod, name: &OsStr) -> Vec<u8> {
    [head.as_bytes(), name.as_bytes(), b"\0"].concat()
}

impl Notifier {
    /// A notifier without a session, for tests: every call fails with ENOTCONN.
    pub fn disconnected() -> Self {
        Notifier { inner: Weak::new() }
    }

    fn queue(&self, code: NotifyCode, head: Vec<u8>, data: Bytes) -> Pending {
        let Some(inner) = self.inner.upgrade() else { return Pending(Err(gone())) };
        let (done, result) = oneshot::channel();
        let job = Job { code, head, data, done: Some(done) };
        Pending(match inner.queue.try_send(job) {
            Ok(()) => Ok(result),
            Err(_) => Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
        })
    }

    fn direct(&self, code: NotifyCode, head: &[u8]) -> io::Result<()> {
        let inner = self.inner.upgrade().ok_or_else(gone)?;
        write(&inner.fd, code, head, &[])
    }

    /// Drops cached attributes of an inode and, with a non-negative offset, cached data of that range (`len` 0 means up
    /// to the end). Waits in the kernel for reads and writes of those pages.
    pub fn inval_inode(&self, ino: u64, offset: i64, len: i64) -> Pending {
        let head = abi::NotifyInvalInodeOut { ino, off: offset, len };
        self.queue(NotifyCode::InvalInode, head.as_bytes().to_vec(), Bytes::new())
    }

    /// Drops only the cached attributes of an inode.
    pub fn inval_attr(&self, ino: u64) -> Pending {
        self.inval_inode(ino, -1, 0)
    }

    /// Drops a cached name. Takes the directory's lock in the kernel.
    pub fn inval_entry(&self, parent: u64, name: &OsStr) -> Pending {
        self.entry(parent, name, 0)
    }

    /// Makes a cached name be looked up again without dropping what hangs on it (HAS_EXPIRE_ONLY).
    pub fn expire_entry(&self, parent: u64, name: &OsStr) -> Pending {
        self.entry(parent, name, abi::EXPIRE_ONLY)
    }

    fn entry(&self, parent: u64, name: &OsStr, flags: u32) -> Pending {
        let head = abi::NotifyInvalEntryOut { parent, namelen: name.len() as u32, flags };
        self.queue(NotifyCode::InvalEntry, with_name(&head, name), Bytes::new())
    }

    /// Drops a cached name whose inode was deleted, telling inotify. Takes the directory's lock in the kernel.
    pub fn delete(&self, parent: u64, child: u64, name: &OsStr) -> Pending {
        let head = abi::NotifyDeleteOut { parent, child, namelen: name.len() as u32, padding: 0 };
        self.queue(NotifyCode::Delete, with_name(&head, name), Bytes::new())
    }

    /// Puts data into the page cache of an inode.
    pub fn store(&self, ino: u64, offset: u64, data: Bytes) -> Pending {
        let head = abi::NotifyStoreOut { nodeid: ino, offset, size: data.len() as u32, padding: 0 };
        self.queue(NotifyCode::Store, head.as_bytes().to_vec(), data)
    }

    /// Gets data from the page cache of an inode.
    pub async fn retrieve(&self, ino: u64, offset: u64, size: u32) -> io::Result<Retrieved> {
        let (sender, receiver) = oneshot::channel();
        let unique = {
            let inner = self.inner.upgrade().ok_or_else(gone)?;
            let unique = inner.next_retrieval.fetch_add(1, Ordering::Relaxed);
            inner.retrievals.lock().insert(unique, sender);
            unique
        };
        let head = abi::NotifyRetrieveOut { notify_unique: unique, nodeid: ino, offset, size, padding: 0 };
        let sent = self.queue(NotifyCode::Retrieve, head.as_bytes().to_vec(), Bytes::new()).sent().await;
        if let Err(error) = sent {
            if let Some(inner) = self.inner.upgrade() {
                inner.retrievals.lock().remove(&unique);
            }
            return Err(error);
        }
        receiver.await.map_err(|_| gone())
    }

    /// Asks the kernel to forget inodes that nobody uses (7.45).
    pub fn prune(&self, inodes: &[u64]) -> Pending {
        let head = abi::NotifyPruneOut { count: inodes.len() as u32, ..Default::default() };
        let list = inodes.iter().flat_map(|ino| ino.to_ne_bytes()).collect::<Vec<u8>>();
        self.queue(NotifyCode::Prune, head.as_bytes().to_vec(), list.into())
    }

    /// Wakes the pollers that gave `handle` (see [`Poll::notify`](crate::request::Poll)).
    pub fn poll(&self, handle: u64) -> io::Result<()> {
        self.direct(NotifyCode::Poll, abi::NotifyPollWakeupOut { kh: handle }.as_bytes())
    }

    /// Makes the kernel send all unanswered requests again (HAS_RESEND).
    pub fn resend(&self) -> io::Result<()> {
        self.direct(NotifyCode::Resend, &[])
    }

    /// Makes the kernel distrust every cached name (7.44).
    pub fn inc_epoch(&self) -> io::Result<()> {
        self.direct(NotifyCode::IncEpoch, &[])
    }
}
