//! The collector: looks into the own queues and works off what is due.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bstr::BString;
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use valor_env::metrics as names;
use valor_protocol::meta::{DirEntry, Layout};
use valor_protocol::status::{code, describe};
use valor_protocol::{InodeId, NodeId};
use valor_wire::{Status, UtcTime, Uuid};

use super::name::{QUEUES_PER_SERVER, entry_name, queue_name};
use super::{GcKind, Queue, directory, file};
use crate::acl;
use crate::core::{Core, Cx, Work};
use crate::error::{Result, fail};
use crate::ops;
use crate::store::{
    Read, Tx, list_entries, list_entry_range, load_entry, load_inode, new_directory, new_directory_entry,
    remove_entry, store_entry, store_inode,
};
use crate::users::Users;

/// Longest pause while the own queues are empty. Other servers put entries there without a word.
const IDLE_PAUSE: Duration = Duration::from_secs(2);
/// Time between two looks for queues of other servers.
const REFRESH: Duration = Duration::from_secs(30);

/// What the collector's tasks share.
pub(super) struct Collector {
    pub(super) core: Arc<Core>,
    pub(super) users: Arc<dyn Users>,
    /// Inodes being worked on.
    busy: Mutex<HashSet<InodeId>>,
}

/// An entry that is due.
#[derive(Clone)]
pub(super) struct Task {
    pub(super) kind: GcKind,
    pub(super) entry: DirEntry,
}

/// Opens this server's queues, making them if needed.
///
/// # Errors
/// 3011 `BadFileSystem` without roots, or the store's.
pub(crate) async fn init(core: &Core) -> Result<()> {
    core.transact(CheckRoots).await?;
    let mut own = Vec::new();
    for index in 0..QUEUES_PER_SERVER {
        // The queue without number is a remnant of old versions: worked off, but not made.
        own.extend(core.transact(OpenQueue { node: core.node, index }).await?);
    }
    *core.gc.own.write() = own;
    refresh(core).await
}

struct CheckRoots;

impl Work for CheckRoots {
    type Output = ();

    async fn run(&mut self, _: &Cx<'_>, tx: &mut Tx) -> Result<()> {
        for root in [InodeId::ROOT, InodeId::GC_ROOT] {
            if load_inode(tx, root, Read::Snapshot).await?.is_none() {
                return fail(
                    code::META_BAD_FILE_SYSTEM,
                    "the file system has no roots; initialise the cluster first",
                );
            }
        }
        Ok(())
    }
}

struct OpenQueue {
    node: NodeId,
    index: usize,
}

impl Work for OpenQueue {
    type Output = Option<Queue>;

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<Option<Queue>> {
        let name = queue_name(self.node, self.index);
        let text = name.as_bytes();
        if let Some(entry) = load_entry(tx, InodeId::GC_ROOT, text, Read::Conflict).await? {
            return Ok(Some(Queue { id: entry.data.id, name }));
        }
        if self.index == 0 {
            return Ok(None);
        }
        let id = cx.core.inode_ids.next(cx.core).await?;
        let inode =
            new_directory(id, InodeId::GC_ROOT, text, acl::GC_ROOT, Layout::default(), cx.precise_now());
        store_inode(tx, &inode)?;
        store_entry(tx, &new_directory_entry(InodeId::GC_ROOT, text, id, acl::GC_ROOT, Uuid::ZERO))?;
        Ok(Some(Queue { id, name }))
    }
}

struct ListQueues;

impl Work for ListQueues {
    type Output = Vec<DirEntry>;

    async fn run(&mut self, _: &Cx<'_>, tx: &mut Tx) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        let mut prev = BString::default();
        loop {
            let page = list_entries(tx, InodeId::GC_ROOT, &prev, 1024, Read::Snapshot).await?;
            entries.extend(page.entries);
            match entries.last() {
                Some(last) if page.more => prev = last.name.clone(),
                _ => return Ok(entries),
            }
        }
    }
}

/// Learns the queues of all live servers.
async fn refresh(core: &Core) -> Result<()> {
    let entries = core.transact(ListQueues).await?;
    let mut live: HashSet<String> = core.gc.own.read().iter().map(|queue| queue.name.clone()).collect();
    for node in core.cluster.meta_servers() {
        live.extend((1..QUEUES_PER_SERVER).map(|index| queue_name(node, index)));
    }
    let is_live = |entry: &&DirEntry| std::str::from_utf8(&entry.name).is_ok_and(|name| live.contains(name));
    *core.gc.all.write() = entries.iter().filter(is_live).map(|entry| entry.data.id).collect();
    Ok(())
}

/// Starts the collector on the current runtime.
pub(crate) fn spawn(core: Arc<Core>, users: Arc<dyn Users>, tasks: &mut JoinSet<()>) {
    let collector = Arc::new(Collector { core, users, busy: Mutex::default() });
    let refreshing = Arc::clone(&collector);
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(REFRESH).await;
            if let Err(error) = refresh(&refreshing.core).await {
                tracing::warn!(%error, "queues of other servers cannot be listed");
            }
        }
    });
    tasks.spawn(collect(Arc::clone(&collector), &[GcKind::Directory]));
    tasks.spawn(collect(collector, &[GcKind::Large, GcKind::Medium, GcKind::Small]));
}

async fn collect(collector: Arc<Collector>, kinds: &'static [GcKind]) {
    let directories = kinds.contains(&GcKind::Directory);
    let mut running = JoinSet::new();
    let mut pause = Duration::ZERO;
    let (mut permits, mut limit) = (Arc::new(Semaphore::new(0)), 0);
    loop {
        let gc = collector.core.config.get().gc.clone();
        // One look per interval at most, and ever fewer while nothing comes.
        tokio::time::sleep(gc.scan_interval.get().max(Duration::from_millis(1))).await;
        let woken = &collector.core.gc.woken[usize::from(directories)];
        if tokio::time::timeout(pause, woken.notified()).await.is_ok() {
            pause = Duration::ZERO;
        }
        pause = (pause * 2 + gc.scan_interval.get()).min(IDLE_PAUSE);
        while running.try_join_next().is_some() {}
        if !gc.enable {
            continue;
        }
        if directories {
            delete_symlinks(&collector.core).await;
        }
        let wanted = if directories { gc.gc_directory_concurrent } else { gc.gc_file_concurrent };
        if wanted != limit {
            (permits, limit) = (Arc::new(Semaphore::new(wanted as usize)), wanted);
        }
        for task in due(&collector, kinds).await {
            pause = Duration::ZERO;
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
            let collector = Arc::clone(&collector);
            running.spawn(async move {
                run(&collector, task).await;
                drop(permit);
            });
        }
    }
}

async fn delete_symlinks(core: &Core) {
    let next = || {
        let mut symlinks = core.gc.symlinks.lock();
        let due = symlinks.front().is_some_and(|(time, _)| *time <= Instant::now());
        if due { symlinks.pop_front() } else { None }
    };
    while let Some((_, id)) = next() {
        if let Err(error) = core.transact(DeleteSymlink { id }).await {
            tracing::warn!(%error, %id, "symlink without names stays");
        }
    }
}

struct DeleteSymlink {
    id: InodeId,
}

impl Work for DeleteSymlink {
    type Output = ();

    async fn run(&mut self, _: &Cx<'_>, tx: &mut Tx) -> Result<()> {
        ops::delete_unlinked_symlink(tx, self.id).await
    }
}

/// Entries that are due and not worked on yet; these count as being worked on from now on.
async fn due(collector: &Collector, kinds: &[GcKind]) -> Vec<Task> {
    let queues = collector.core.gc.own.read().clone();
    let mut tasks = Vec::new();
    for queue in &queues {
        for kind in kinds {
            match due_in(&collector.core, queue.id, *kind).await {
                Ok(entries) => {
                    let mut busy = collector.busy.lock();
                    let free = entries.into_iter().filter(|entry| busy.insert(entry.data.id));
                    tasks.extend(free.map(|entry| Task { kind: *kind, entry }));
                }
                Err(error) => tracing::warn!(queue = queue.name, %error, "queue cannot be listed"),
            }
        }
    }
    tasks
}

async fn due_in(core: &Core, queue: InodeId, kind: GcKind) -> Result<Vec<DirEntry>> {
    let gc = &core.config.get().gc;
    let delay = if kind == GcKind::Directory { gc.gc_directory_delay } else { gc.gc_file_delay };
    let look = |delay| core.transact(Due { queue, kind, delay });
    let (entries, waiting) = look(delay.get()).await?;
    if waiting && !delay.get().is_zero() && space_is_short(core).await {
        return Ok(look(Duration::ZERO).await?.0);
    }
    Ok(entries)
}

struct Due {
    queue: InodeId,
    kind: GcKind,
    delay: Duration,
}

impl Work for Due {
    /// Due entries; without any, whether others wait.
    type Output = (Vec<DirEntry>, bool);

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<Self::Output> {
        let delay = i64::try_from(self.delay.as_micros()).unwrap_or(i64::MAX);
        let until = UtcTime(cx.precise_now().0.saturating_sub(delay).max(0));
        let letter = self.kind.letter();
        let begin = letter.to_string();
        let end = entry_name(self.kind, until, InodeId::ROOT);
        let limit = cx.config.gc.scan_batch as usize;
        let page = list_entry_range(tx, self.queue, begin.as_bytes(), end.as_bytes(), limit).await?;
        let behind = [letter as u8 + 1];
        let waiting = page.entries.is_empty()
            && !list_entry_range(tx, self.queue, end.as_bytes(), &behind, 1).await?.entries.is_empty();
        Ok((page.entries, waiting))
    }
}

/// Whether removed files have to make room at once.
async fn space_is_short(core: &Core) -> bool {
    match core.statfs.get(core).await {
        Ok(space) if space.capacity > 0 => {
            let threshold = u128::from(core.config.get().gc.gc_delay_free_space_threshold);
            u128::from(space.free) * 100 < threshold * u128::from(space.capacity)
        }
        _ => false,
    }
}

async fn run(collector: &Collector, task: Task) {
    let id = task.entry.data.id;
    let directory = task.kind == GcKind::Directory;
    let result = if directory {
        directory::collect(collector, &task).await
    } else {
        file::collect(collector, &task).await
    };
    match result {
        Ok(()) => counter!(names::META_GC_DONE).increment(1),
        Err(error) => {
            let status = error.into_status();
            counter!(names::META_GC_FAILED).increment(1);
            tracing::warn!(inode = %id, error = describe(&status), "garbage collection failed");
            if let Err(error) = postpone(collector, &task, &status).await {
                tracing::warn!(inode = %id, %error, "garbage collection cannot be postponed");
            }
        }
    }
    collector.busy.lock().remove(&id);
}

/// Puts a task back that will not succeed soon; others are tried again with the next look.
async fn postpone(collector: &Collector, task: &Task, status: &Status) -> Result<()> {
    let hopeless = matches!(
        status.code,
        code::STORAGE_CLIENT_INVALID_ARG
            | code::STORAGE_CLIENT_CHECKSUM_MISMATCH
            | code::STORAGE_CLIENT_FOUND_BUG
            | 3000..=3999
    );
    if hopeless {
        collector.core.transact(MoveToTail { task: task.clone() }).await?;
    }
    if status.code == code::STORAGE_CLIENT_READ_ONLY_SERVER {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

struct MoveToTail {
    task: Task,
}

impl Work for MoveToTail {
    type Output = ();

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<()> {
        let old = &self.task.entry;
        if load_entry(tx, old.parent, &old.name, Read::Conflict).await?.is_none() {
            return Ok(());
        }
        let delay = i64::try_from(cx.config.gc.retry_delay.get().as_micros()).unwrap_or(i64::MAX);
        let time = UtcTime(cx.precise_now().0.saturating_add(delay));
        let mut new = old.clone();
        new.name = BString::from(entry_name(self.task.kind, time, old.data.id));
        remove_entry(tx, old.parent, &old.name);
        store_entry(tx, &new)
    }
}
