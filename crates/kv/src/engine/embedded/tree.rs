//! The ordered store under the log: an LSM tree (crate `lsm-tree`, the tree of fjall).
//!
//! Sequence numbers of the tree are versions of the database: a snapshot is a number. This module knows the tree's crate and
//! nothing else of the engine does; it turns its errors, and panics, into ours.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Guard, SequenceNumberCounter};

use super::{corrupt, manifest};
use crate::KvError;
use crate::batch::{Batch, Version};
use crate::engine::Scan;
use crate::key::{KeyRange, KeyValue};

/// The tree of an open database.
pub(crate) struct Tree {
    inner: AnyTree,
    dir: PathBuf,
    /// Next version; the tree numbers its own changes of shape from it too.
    versions: SequenceNumberCounter,
}

impl Tree {
    /// Opens the tree in `dir`, or creates it with `create`.
    pub(crate) fn open(dir: &Path, cache_bytes: u64, create: bool) -> Result<Self, KvError> {
        if manifest::exists(dir)? {
            manifest::read(dir)?;
        } else if !create {
            return Err(corrupt(dir, None, "the tree's manifest is missing"));
        }
        remove_temporary_files(dir);
        let versions = SequenceNumberCounter::default();
        let open = || {
            Config::new(dir, versions.clone(), SequenceNumberCounter::default())
                .use_cache(Arc::new(Cache::with_capacity_bytes(cache_bytes)))
                .open()
        };
        let inner = guard(dir, open)?;
        Ok(Tree { inner, dir: dir.to_owned(), versions })
    }

    /// The next version.
    pub(crate) fn next_version(&self) -> Version {
        self.versions.next()
    }

    /// Makes versions begin above `version`.
    pub(crate) fn advance_version(&self, version: Version) {
        self.versions.fetch_max(version + 1);
    }

    /// Highest version in the tables, as far as they still tell.
    pub(crate) fn last_version_in_tables(&self) -> Version {
        self.inner.get_highest_persisted_seqno().unwrap_or(0)
    }

    pub(crate) fn get(&self, key: &[u8], at: Version) -> Result<Option<Bytes>, KvError> {
        // The tree's reads see what is below a number.
        let value = guard(&self.dir, || self.inner.get(key, at + 1))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    pub(crate) fn scan(
        &self,
        range: &KeyRange,
        at: Version,
        reverse: bool,
        limit: usize,
    ) -> Result<Scan, KvError> {
        if range.is_empty() || limit == 0 {
            return Ok(Scan::default());
        }
        let collect = || {
            let found = self.inner.range(&range.begin[..]..&range.end[..], at + 1, None);
            let entry = |item: lsm_tree::IterGuardImpl| {
                let (key, value) = item.into_inner()?;
                Ok(KeyValue { key: Bytes::copy_from_slice(&key), value: Bytes::copy_from_slice(&value) })
            };
            if reverse {
                found.rev().take(limit).map(entry).collect()
            } else {
                found.take(limit).map(entry).collect::<lsm_tree::Result<Vec<_>>>()
            }
        };
        let entries = guard(&self.dir, collect)?;
        Ok(Scan { more: entries.len() == limit, entries })
    }

    /// Puts a batch into the memtable. Returns the memtable's size in bytes.
    pub(crate) fn insert(&self, batch: &Batch) -> u64 {
        let mut size = 0;
        for op in &batch.ops {
            size = match &op.value {
                Some(value) => self.inner.insert(&op.key[..], &value[..], batch.version).1,
                None => self.inner.remove(&op.key[..], batch.version).1,
            };
        }
        size
    }

    /// Closes the memtable, to be written by [`Tree::flush`]. Must not run beside [`Tree::insert`].
    pub(crate) fn rotate(&self) {
        self.inner.rotate_memtable();
    }

    /// Writes the closed memtables to tables, durably. Nobody reads before `oldest`.
    pub(crate) fn flush(&self, oldest: Version) -> Result<(), KvError> {
        guard(&self.dir, || {
            let lock = self.inner.get_flush_lock();
            self.inner.flush(&lock, oldest).map(|_| ())
        })
    }

    /// Merges tables where it pays. Returns whether it did anything.
    pub(crate) fn compact(&self, oldest: Version) -> Result<bool, KvError> {
        let before = self.shape();
        let strategy = Arc::new(lsm_tree::compaction::Leveled::default());
        guard(&self.dir, || self.inner.compact(strategy, oldest))?;
        Ok(self.shape() != before)
    }

    fn shape(&self) -> Vec<usize> {
        (0..7).map_while(|level| self.inner.level_table_count(level)).collect()
    }

    /// Number of tables that every read must look into.
    pub(crate) fn overlapping_tables(&self) -> usize {
        self.inner.l0_run_count()
    }

    /// Reads all tables and compares checksums. Must not run beside [`Tree::flush`] or [`Tree::compact`].
    pub(crate) fn verify(&self) -> Result<(), KvError> {
        verify_files(&self.dir)
    }
}

fn verify_files(dir: &Path) -> Result<(), KvError> {
    manifest::read(dir)?.iter().try_for_each(manifest::TableFile::verify)
}

/// Files that a crash left between writing and renaming.
fn remove_temporary_files(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b".tmp") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Runs an operation of the tree. Its errors, and panics over data it did not expect, become ours.
fn guard<T>(dir: &Path, operation: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T, KvError> {
    // Unwind safety: the tree guards its state with locks that are poisoned by a panic, after which it only panics, and what
    // an operation builds is dropped.
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(explain(dir, &error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown panic");
            Err(locate(dir).unwrap_or_else(|| KvError::engine(format!("{}: {text}", dir.display()))))
        }
    }
}

fn explain(dir: &Path, error: &lsm_tree::Error) -> KvError {
    use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    let lsm_tree::Error::Io(io) = error else {
        return locate(dir).unwrap_or_else(|| corrupt(dir, None, &error.to_string()));
    };
    // What a damaged position or length leads to; other failures are the system's.
    let suspicious = matches!(io.kind(), NotFound | UnexpectedEof | InvalidData | InvalidInput);
    let damage = if suspicious { locate(dir) } else { None };
    damage.unwrap_or_else(|| KvError::engine(format!("{}: {io}", dir.display())))
}

/// Looks for the damaged file, which the tree's errors do not name.
fn locate(dir: &Path) -> Option<KvError> {
    verify_files(dir).err().filter(|error| matches!(error, KvError::Corrupt { .. }))
}
