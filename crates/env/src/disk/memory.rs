//! A disk in memory that knows what was synced, and fails when told to: for tests and simulations.
//!
//! Model of the page cache: a write changes cached pages; a sync makes a file's pages durable; at a loss of power each
//! dirty page is on the medium in its old form, its new form or mixed by sectors of 512 bytes, and names are those of
//! some moment since the directory was synced. After a power loss or a restart of the process, files opened before
//! fail, as does every call while the disk is stopped.

mod faults;
mod inode;
mod names;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Disk, DiskFile, IoFuture, OpenOptions, Space};
use crate::buffer::{Pool, PooledBuf};
use faults::Faults;
pub use faults::{Fault, OpKind};
use inode::{Inode, PAGE};
use names::{InodeId, Names, Node};

/// What a disk has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that change something or make it durable; the numbering of [`MemoryDisk::stop_at`].
    pub changes: u64,
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Syncs of files and directories.
    pub syncs: u64,
}

/// How long operations take.
#[derive(Debug, Clone, Copy, Default)]
enum Pace {
    /// Done when the call returns.
    #[default]
    Immediate,
    /// Done after being polled a random number of times, up to this.
    Polls(u32),
    /// Done after a random time of tokio's clock, up to this.
    Sleep(Duration),
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk(Arc<Mutex<State>>);

struct State {
    rng: StdRng,
    names: Names,
    inodes: BTreeMap<InodeId, Inode>,
    next_inode: InodeId,
    /// Boots of the machine.
    boot: u64,
    /// Starts of the process; files belong to the one that opened them.
    life: u64,
    capacity_pages: u64,
    counts: Counts,
    faults: Faults,
    pace: Pace,
    write_back: f64,
}

impl MemoryDisk {
    /// An empty disk; `seed` decides everything random about it.
    pub fn new(seed: u64) -> Self {
        MemoryDisk(Arc::new(Mutex::new(State {
            rng: StdRng::seed_from_u64(seed),
            names: Names::default(),
            inodes: BTreeMap::new(),
            next_inode: 1,
            boot: 1,
            life: 1,
            capacity_pages: (1 << 50) / PAGE as u64,
            counts: Counts::default(),
            faults: Faults::default(),
            pace: Pace::Immediate,
            write_back: 0.0,
        })))
    }

    /// The disk as a trait object.
    pub fn handle(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Limits the space files may take. Holes take none.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.lock().capacity_pages = bytes / PAGE as u64;
    }

    /// Makes operations take up to `polls` polls, so that others happen in between.
    pub fn set_polls(&self, polls: u32) {
        self.0.lock().pace = if polls == 0 { Pace::Immediate } else { Pace::Polls(polls) };
    }

    /// Makes operations take up to `max` of tokio's time.
    pub fn set_latency(&self, max: Duration) {
        self.0.lock().pace = if max.is_zero() { Pace::Immediate } else { Pace::Sleep(max) };
    }

    /// Probability that a change makes the kernel write some of that file's dirty pages back.
    pub fn set_write_back(&self, probability: f64) {
        self.0.lock().write_back = probability;
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.0.lock().counts
    }

    /// Adds a fault. Faults are looked at in the order they were added.
    pub fn inject(&self, fault: Fault) {
        self.0.lock().faults.add(fault);
    }

    /// Stops the disk in the middle of the change with this number (see [`Counts::changes`]; the next one has the
    /// current count): of a write only a part is done. From then on everything fails, until [`MemoryDisk::restart`] or
    /// [`MemoryDisk::lose_power`].
    pub fn stop_at(&self, change: u64) {
        self.0.lock().faults.stop_at = Some(change);
    }

    /// Whether [`MemoryDisk::stop_at`] has happened.
    pub fn stopped(&self) -> bool {
        self.0.lock().faults.stopped
    }

    /// The process ends and is started again: open files are gone, the page cache stays.
    pub fn restart(&self) {
        let state = &mut *self.0.lock();
        state.life += 1;
        state.faults = Faults::default();
    }

    /// The machine loses power and boots: of each page that was not synced, the new form is kept with probability
    /// `keep` (0: nothing unsynced survives; 1: everything does).
    pub fn lose_power(&self, keep: f64) {
        let state = &mut *self.0.lock();
        state.boot += 1;
        state.life += 1;
        state.faults = Faults::default();
        state.names.lose_power(keep, &mut state.rng);
        for inode in state.inodes.values_mut() {
            inode.lose_power(keep, &mut state.rng);
        }
        let names = &state.names;
        state.inodes.retain(|id, _| names.refers_to(*id));
    }

    /// Changes bits of a byte, in the cache and on the medium. False if the file is shorter.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> io::Result<bool> {
        let state = &mut *self.0.lock();
        let id = state.names.file(path)?;
        let inode = state.inode(id)?;
        let mut byte = [0];
        if inode.read(offset, &mut byte) == 0 {
            return Ok(false);
        }
        inode.write(offset, &[byte[0] ^ mask], u64::MAX);
        inode.sync();
        Ok(true)
    }

    /// A file's contents.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = &mut *self.0.lock();
        let id = state.names.file(path)?;
        let inode = state.inode(id)?;
        let mut bytes = vec![0; inode.len() as usize];
        inode.read(0, &mut bytes);
        Ok(bytes)
    }

    /// Replaces a file's contents, durably.
    pub fn set_contents(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let state = &mut *self.0.lock();
        let id = state.names.file(path)?;
        let inode = state.inode(id)?;
        inode.set_len(0);
        inode.write(0, bytes, u64::MAX);
        inode.set_len(bytes.len() as u64);
        inode.sync();
        Ok(())
    }

    /// All files with their lengths and the bytes they take.
    pub fn files(&self) -> Vec<(PathBuf, u64, u64)> {
        let state = self.0.lock();
        let describe = |(path, id): (&PathBuf, InodeId)| {
            let inode = state.inodes.get(&id)?;
            Some((path.clone(), inode.len(), inode.pages() * PAGE as u64))
        };
        state.names.files().filter_map(describe).collect()
    }

    /// A copy as it is now, cache and medium alike; files opened before belong to the original.
    pub fn snapshot(&self, seed: u64) -> MemoryDisk {
        let copy = MemoryDisk::new(seed);
        {
            let from = self.0.lock();
            let to = &mut *copy.0.lock();
            to.boot = from.boot;
            to.life = from.life + 1;
            to.capacity_pages = from.capacity_pages;
            to.names = from.names.clone();
            to.inodes = from.inodes.clone();
            to.next_inode = from.next_inode;
        }
        copy
    }

    /// Does an operation now or, at a slower pace, later.
    fn perform<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut State) -> io::Result<T> + Send + 'static,
    ) -> IoFuture<T> {
        let mut state = self.0.lock();
        let wait = match state.pace {
            Pace::Immediate => return IoFuture::ready(operation(&mut state)),
            Pace::Polls(max) => Wait::Polls(state.rng.random_range(0..=max)),
            Pace::Sleep(max) => Wait::Sleep(Box::pin(tokio::time::sleep(max.mul_f64(state.rng.random())))),
        };
        IoFuture::boxed(Delayed { disk: self.clone(), wait, operation: Some(Box::new(operation)) })
    }
}

/// Work to be done on the disk.
type Operation<T> = Box<dyn FnOnce(&mut State) -> io::Result<T> + Send>;

enum Wait {
    Polls(u32),
    Sleep(Pin<Box<tokio::time::Sleep>>),
}

/// An operation that happens later, or at the latest when its future is dropped: the kernel goes on with what it began.
struct Delayed<T> {
    disk: MemoryDisk,
    wait: Wait,
    operation: Option<Operation<T>>,
}

impl<T> Unpin for Delayed<T> {}

impl<T> Future for Delayed<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.wait {
            Wait::Polls(0) => {}
            Wait::Polls(left) => {
                *left -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Wait::Sleep(sleep) => std::task::ready!(sleep.as_mut().poll(cx)),
        }
        let operation = self.operation.take().expect("a future is not polled after it was ready");
        Poll::Ready(operation(&mut self.disk.0.lock()))
    }
}

impl<T> Drop for Delayed<T> {
    fn drop(&mut self) {
        if let Some(operation) = self.operation.take() {
            let _ = operation(&mut self.disk.0.lock());
        }
    }
}

impl State {
    fn inode(&mut self, id: InodeId) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn room(&self) -> u64 {
        let used: u64 = self.inodes.values().map(Inode::pages).sum();
        self.capacity_pages.saturating_sub(used)
    }

    /// Counts a change and lets faults hit it. `Ok(true)`: the disk stops in the middle of it.
    fn change(&mut self, kind: OpKind, path: &Path) -> io::Result<bool> {
        let number = self.counts.changes;
        self.counts.changes += 1;
        self.faults.check(number, kind, path)
    }

    fn write(&mut self, id: InodeId, path: &Path, offset: u64, data: &[Bytes]) -> io::Result<()> {
        let stopping = self.change(OpKind::Write, path)?;
        let bytes = data.concat();
        let len = if stopping { self.rng.random_range(0..=bytes.len()) } else { bytes.len() };
        let room = self.room();
        let written = self.inode(id)?.write(offset, &bytes[..len], room);
        self.counts.writes += 1;
        self.counts.written_bytes += written as u64;
        if self.write_back > 0.0 && self.rng.random_bool(self.write_back) {
            let inode = self.inodes.get_mut(&id).expect("just written");
            inode.write_back(&mut self.rng);
        }
        match written {
            _ if stopping => Err(faults::stopped()),
            _ if written < bytes.len() => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn open(&mut self, path: &Path, options: OpenOptions) -> io::Result<InodeId> {
        self.faults.check_alive()?;
        let id = match self.names.get(path) {
            Some(_) if options.create && options.exclusive => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(Node::File(id)) => id,
            Some(Node::Directory) => return Err(io::ErrorKind::IsADirectory.into()),
            None if !options.create => return Err(io::ErrorKind::NotFound.into()),
            None => {
                if self.change(OpKind::Name, path)? {
                    return Err(faults::stopped());
                }
                let id = self.next_inode;
                self.next_inode += 1;
                self.names.create(path, Node::File(id))?;
                self.inodes.insert(id, Inode::default());
                id
            }
        };
        if options.truncate {
            self.inode(id)?.set_len(0);
        }
        Ok(id)
    }

    /// Forgets contents no name leads to. Open files of them fail from then on, unlike on a real disk; nobody here
    /// reads removed files.
    fn collect(&mut self) {
        let names = &self.names;
        self.inodes.retain(|id, _| names.refers_to(*id));
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, options: OpenOptions) -> IoFuture<Arc<dyn DiskFile>> {
        let (path, disk) = (path.to_path_buf(), self.clone());
        self.perform(move |state| {
            let id = state.open(&path, options)?;
            Ok(Arc::new(MemoryFile { disk, id, path: path.into(), life: state.life }) as Arc<dyn DiskFile>)
        })
    }

    fn create_dir_all(&self, path: &Path) -> IoFuture<()> {
        let path = path.to_path_buf();
        self.perform(move |state| match state.change(OpKind::Name, &path)? {
            true => Err(faults::stopped()),
            false => state.names.create_directories(&path),
        })
    }

    fn remove_file(&self, path: &Path) -> IoFuture<()> {
        let path = path.to_path_buf();
        self.perform(move |state| {
            if state.change(OpKind::Name, &path)? {
                return Err(faults::stopped());
            }
            state.names.remove(&path)?;
            state.collect();
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> IoFuture<()> {
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        self.perform(move |state| match state.change(OpKind::Name, &from)? {
            true => Err(faults::stopped()),
            false => state.names.rename(&from, &to),
        })
    }

    fn list(&self, path: &Path) -> IoFuture<Vec<PathBuf>> {
        let path = path.to_path_buf();
        self.perform(move |state| state.faults.check_alive().and_then(|()| state.names.list(&path)))
    }

    fn sync_dir(&self, path: &Path) -> IoFuture<()> {
        let path = path.to_path_buf();
        self.perform(move |state| {
            if state.change(OpKind::Sync, &path)? {
                return Err(faults::stopped());
            }
            state.counts.syncs += 1;
            state.names.sync(&path)?;
            state.collect();
            Ok(())
        })
    }

    fn space(&self, _: &Path) -> IoFuture<Space> {
        self.perform(move |state| {
            state.faults.check_alive()?;
            let free = state.room() * PAGE as u64;
            Ok(Space { capacity: state.capacity_pages * PAGE as u64, free, available: free })
        })
    }

    fn exists(&self, path: &Path) -> IoFuture<bool> {
        let path = path.to_path_buf();
        self.perform(move |state| state.faults.check_alive().map(|()| state.names.get(&path).is_some()))
    }

    fn boot_id(&self) -> [u8; 16] {
        u128::from(self.0.lock().boot).to_be_bytes()
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    id: InodeId,
    path: Arc<Path>,
    life: u64,
}

impl MemoryFile {
    fn perform<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut State, InodeId, &Path) -> io::Result<T> + Send + 'static,
    ) -> IoFuture<T> {
        let (id, path, life) = (self.id, Arc::clone(&self.path), self.life);
        self.disk.perform(move |state| {
            if state.life != life {
                return Err(faults::stopped());
            }
            state.faults.check_alive()?;
            operation(state, id, &path)
        })
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, offset: u64, len: usize) -> IoFuture<PooledBuf> {
        self.perform(move |state, id, path| {
            state.faults.check_read(path)?;
            let mut buf = Pool::global().take(len);
            let filled = state.inode(id)?.read(offset, &mut buf);
            buf.resize(filled);
            state.counts.reads += 1;
            state.counts.read_bytes += filled as u64;
            Ok(buf)
        })
    }

    fn write_at(&self, offset: u64, data: &[Bytes]) -> IoFuture<()> {
        let data = data.to_vec();
        self.perform(move |state, id, path| state.write(id, path, offset, &data))
    }

    fn sync_data(&self) -> IoFuture<()> {
        self.perform(move |state, id, path| {
            if state.change(OpKind::Sync, path)? {
                return Err(faults::stopped());
            }
            state.counts.syncs += 1;
            state.inode(id)?.sync();
            Ok(())
        })
    }

    fn size(&self) -> IoFuture<u64> {
        self.perform(move |state, id, _| state.inode(id).map(|inode| inode.len()))
    }

    fn set_len(&self, len: u64) -> IoFuture<()> {
        self.perform(move |state, id, path| match state.change(OpKind::Resize, path)? {
            true => Err(faults::stopped()),
            false => state.inode(id).map(|inode| inode.set_len(len)),
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> IoFuture<()> {
        self.perform(move |state, id, path| {
            if state.change(OpKind::Resize, path)? {
                return Err(faults::stopped());
            }
            let room = state.room();
            match state.inode(id)?.allocate(offset, len, room) {
                true => Ok(()),
                false => Err(io::ErrorKind::StorageFull.into()),
            }
        })
    }

    fn zero_range(&self, offset: u64, len: u64) -> IoFuture<()> {
        self.perform(move |state, id, path| {
            if state.change(OpKind::Resize, path)? {
                return Err(faults::stopped());
            }
            let room = state.room();
            match state.inode(id)?.zero_range(offset, len, room) {
                true => Ok(()),
                false => Err(io::ErrorKind::StorageFull.into()),
            }
        })
    }

    fn punch_hole(&self, offset: u64, len: u64) -> IoFuture<()> {
        self.perform(move |state, id, path| match state.change(OpKind::Resize, path)? {
            true => Err(faults::stopped()),
            false => state.inode(id).map(|inode| inode.punch_hole(offset, len)),
        })
    }
}
