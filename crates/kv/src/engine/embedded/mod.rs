//! The embedded engine: a log of commits in front of an LSM tree, in one directory.
//!
//! | entry | content |
//! |---|---|
//! | `FORMAT` | the text `valor-kv 1\n`; written last when a database is created |
//! | `LOCK` | empty; locked while a process has the database open |
//! | `STATE` | how far the log must reach ([`state`]) |
//! | `log/<version>.log` | commits since the tables ([`record`], [`log`]) |
//! | `tree/` | the tree's tables and manifest (crate `lsm-tree`) |
//!
//! A commit is one record in the log and its entries in the tree's memtable; a full memtable becomes a table behind the commits'
//! back ([`housekeeping`]). What is damaged is reported as [`KvError::Corrupt`]: `FORMAT`, `STATE`, the log and the tree's
//! manifest when the database is opened, tables when the damaged block is read or by [`Engine::verify`].

mod housekeeping;
mod log;
mod manifest;
mod record;
mod recovery;
mod state;
mod tree;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use valor_env::Env;

use self::housekeeping::{Housekeeping, Shared};
use self::log::{Closed, Log};
use self::record::SegmentHeader;
use self::state::{State, StateFile};
use self::tree::Tree;
use super::{AckAfter, ApplyError, Durability, Engine, Scan};
use crate::KvError;
use crate::batch::{Batch, Version};
use crate::key::KeyRange;
use crate::snapshots::Snapshots;

/// Content of `FORMAT`.
const FORMAT: &[u8] = b"valor-kv 1\n";

/// Gap left in the versions after a crash: more than could have been given out and lost, so that no version, and no
/// versionstamp, is used twice.
const VERSION_GAP: Version = 1 << 24;

/// Settings of the embedded engine.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Memory for blocks of tables that were read. Filled as they are read.
    pub cache_bytes: u64,
    /// Size at which a memtable is written to a table. At most a few are in memory at a time.
    pub memtable_bytes: u64,
    /// With [`Durability::Process`]: how long a commit stays unsynced at most; `None` leaves it to the operating system.
    pub background_sync: Option<Duration>,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        EmbeddedOptions {
            cache_bytes: 16 << 20,
            memtable_bytes: 8 << 20,
            background_sync: Some(Duration::from_secs(1)),
        }
    }
}

/// An open database directory.
pub(crate) struct EmbeddedEngine {
    shared: Arc<Shared>,
    housekeeping: Housekeeping,
    durability: Durability,
    memtable_bytes: u64,
    env: Env,
    closed: AtomicBool,
    /// Released with the file.
    _lock: File,
}

impl EmbeddedEngine {
    /// Opens the database in `path`, creating it when there is none. Snapshots older than `max_age` may be dropped.
    pub(crate) fn open(
        env: &Env,
        path: &Path,
        durability: Durability,
        options: &EmbeddedOptions,
        max_age: Duration,
    ) -> Result<(Self, Arc<Snapshots>), KvError> {
        fs::create_dir_all(path).map_err(|error| io_error(path, &error))?;
        let lock = acquire_lock(path)?;
        if !has_format(path)? {
            create(env, path, options)?;
        }
        let boot_id = env.disk().boot_id();
        let state = StateFile::open(&path.join("STATE"))?;
        let tree = Tree::open(&path.join("tree"), options.cache_bytes, false)?;
        let recovered = recovery::recover(&path.join("log"), &tree, state.get().flushed)?;
        let required = state.get().required(boot_id);
        let last = recovered.check(required)?.max(state.get().acked).max(tree.last_version_in_tables());
        let first_readable = if state.get().clean { last } else { last + VERSION_GAP };
        tree.advance_version(first_readable);
        let (log, closed) = recovered.resume(env.random_u64())?;
        let snapshots = Snapshots::new(first_readable, max_age);
        state.update(|state| *state = State { boot_id, clean: false, acked: log.last(), ..*state })?;
        let background_sync = options.background_sync.filter(|_| durability == Durability::Process);
        let shared = Shared::new(tree, log, state, snapshots.clone(), background_sync, closed);
        shared.sync_log()?;
        let engine = EmbeddedEngine {
            housekeeping: Housekeeping::start(&shared)?,
            shared,
            durability,
            memtable_bytes: options.memtable_bytes,
            env: env.clone(),
            closed: AtomicBool::new(false),
            _lock: lock,
        };
        Ok((engine, snapshots))
    }

    /// Closes the memtable and its log segment. On failure both stay open.
    fn rotate(&self, last: Version) {
        match self.shared.log.rotate(self.env.random_u64()) {
            Ok(segment) => {
                self.shared.tree.rotate();
                self.shared.add_closed(Closed { segment, last });
            }
            Err(error) => tracing::warn!(%error, "log segment not closed; trying again with the next commit"),
        }
    }

    fn check_writable(&self) -> Result<(), ApplyError> {
        if let Some(error) = self.shared.log.failure() {
            return Err(ApplyError::NothingWritten(error.clone()));
        }
        if self.shared.is_full() && !self.shared.is_congested() {
            return Err(ApplyError::NothingWritten(KvError::engine("tables cannot be written")));
        }
        Ok(())
    }
}

impl Engine for EmbeddedEngine {
    fn get(&self, key: &[u8], at: Version) -> Result<Option<Bytes>, KvError> {
        self.shared.tree.get(key, at)
    }

    fn scan(&self, range: &KeyRange, at: Version, reverse: bool, limit: usize) -> Result<Scan, KvError> {
        self.shared.tree.scan(range, at, reverse, limit)
    }

    fn next_version(&self) -> Version {
        self.shared.tree.next_version()
    }

    fn apply(&self, batch: &Batch) -> Result<(), ApplyError> {
        self.check_writable()?;
        let first_unsynced = self.shared.log.append(batch)?;
        let memtable_bytes = self.shared.tree.insert(batch);
        if self.durability == Durability::Process {
            self.shared.state.update(|state| state.acked = batch.version).map_err(ApplyError::Unknown)?;
            if first_unsynced {
                self.shared.sync_later();
            }
        }
        if memtable_bytes >= self.memtable_bytes {
            self.rotate(batch.version);
        }
        Ok(())
    }

    fn ack_after(&self) -> AckAfter {
        match self.durability {
            Durability::Process => AckAfter::Apply,
            Durability::Always => AckAfter::Sync,
        }
    }

    fn sync(&self) -> Result<Version, KvError> {
        self.shared.sync_log()
    }

    fn congested(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        self.shared.is_congested().then(|| Box::pin(self.shared.clone().until_relieved()) as _)
    }

    fn close(&self) -> Result<(), KvError> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.housekeeping.stop();
        self.shared.sync_log()?;
        self.shared.state.update(|state| state.clean = true)?;
        self.shared.state.sync()
    }

    fn verify(&self) -> Result<(), KvError> {
        let _files = self.shared.files.write();
        self.shared.tree.verify()
    }
}

fn acquire_lock(dir: &Path) -> Result<File, KvError> {
    let path = dir.join("LOCK");
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = open().map_err(|error| io_error(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(KvError::engine(format!("{} is open in another process", dir.display())))
        }
        Err(TryLockError::Error(error)) => Err(io_error(&path, &error)),
    }
}

/// Whether the directory holds a whole database; `false` when it is new or its creation was interrupted.
fn has_format(dir: &Path) -> Result<bool, KvError> {
    let path = dir.join("FORMAT");
    match fs::read(&path) {
        Ok(content) if content == FORMAT => Ok(true),
        Ok(_) => Err(corrupt(&path, Some(0), "not the format of this version")),
        // An interrupted creation leaves no table and no commit behind.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if has_tables(dir) || log_has_commits(dir) {
                return Err(corrupt(&path, None, "file is missing"));
            }
            Ok(false)
        }
        Err(error) => Err(io_error(&path, &error)),
    }
}

fn has_tables(dir: &Path) -> bool {
    fs::read_dir(dir.join("tree/tables")).is_ok_and(|mut tables| tables.next().is_some())
}

fn log_has_commits(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir.join("log")) else { return false };
    entries.flatten().any(|entry| entry.metadata().is_ok_and(|file| file.len() > record::HEADER_LEN as u64))
}

fn create(env: &Env, dir: &Path, options: &EmbeddedOptions) -> Result<(), KvError> {
    let (log_dir, tree_dir) = (dir.join("log"), dir.join("tree"));
    for stale in [&log_dir, &tree_dir] {
        match fs::remove_dir_all(stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(stale, &error)),
            _ => {}
        }
    }
    fs::create_dir_all(&log_dir).map_err(|error| io_error(&log_dir, &error))?;
    let log = Log::create(&log_dir, SegmentHeader { salt: env.random_u64(), base: 0 })?;
    log.sync(|_| Ok(()))?;
    Tree::open(&tree_dir, options.cache_bytes, true)?;
    StateFile::create(&dir.join("STATE"), State { clean: true, ..State::default() })?;
    log::sync_dir(dir)?;
    let (draft, path) = (dir.join("FORMAT.new"), dir.join("FORMAT"));
    let publish = || {
        fs::write(&draft, FORMAT)?;
        File::open(&draft)?.sync_all()?;
        fs::rename(&draft, &path)
    };
    publish().map_err(|error| io_error(&path, &error))?;
    log::sync_dir(dir)?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        log::sync_dir(parent)?;
    }
    Ok(())
}

fn io_error(path: &Path, error: &io::Error) -> KvError {
    KvError::engine(format!("{}: {error}", path.display()))
}

fn corrupt(file: &Path, offset: Option<u64>, reason: &str) -> KvError {
    KvError::Corrupt { file: PathBuf::from(file), offset, reason: reason.to_owned() }
}
