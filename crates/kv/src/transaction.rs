//! Transactions: reads at one version, own writes on top, conflict ranges, commit.
//!
//! Semantics are FoundationDB's as 3FS uses it (`src/common/kv/ITransaction.h`, `src/fdb/FDBTransaction.cc`).

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::batch::{CommitInfo, CommitRequest, Mutation, Version};
use crate::key::{
    KeyRange, KeyValue, MAX_TRANSACTION, check_range, check_readable, check_stamped, check_value,
    check_writable, coalesce, prefix_end,
};
use crate::overlay::{Lookup, Overlay, covered_to, rest_after, unreadable};
use crate::store::{Store, View};
use crate::{KvError, faults};

/// Entries a range read asks the store for at a time.
const SCAN_CHUNK: usize = 1024;

/// Entries of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    /// Entries in ascending order of keys, descending for a reverse read.
    pub items: Vec<KeyValue>,
    /// The limit was reached; there may be further entries behind the last one.
    pub more: bool,
}

/// A transaction.
///
/// Reads see the database at one version, the *read version*, fixed by the first read, with the transaction's own writes laid over
/// it. [`Transaction::get`] and [`Transaction::get_range`] add what they read to the read conflict ranges: if another transaction
/// writes there and commits first, [`Transaction::commit`] fails with [`KvError::Conflict`]. Snapshot reads do not. A transaction
/// that wrote nothing always commits, without a check.
///
/// Writes stay in memory until commit. A write that breaks a limit or touches a reserved key is reported by `commit` and by every
/// later read.
///
/// Clones are handles of one transaction; reads may run concurrently. Dropping all handles abandons it.
#[derive(Clone)]
pub struct Transaction {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    faults: Option<faults::Injector>,
    view: OnceCell<View>,
    state: Mutex<State>,
    attempt: Attempt,
}

/// Which run of a body of [`crate::Database::run`] this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) number: u32,
    pub(crate) after_maybe_committed: bool,
}

#[derive(Default)]
struct State {
    overlay: Overlay,
    read_conflicts: Vec<KeyRange>,
    write_conflicts: Vec<KeyRange>,
    /// Bytes of keys, values and conflict ranges so far.
    size: usize,
    error: Option<KvError>,
    over: bool,
}

impl Transaction {
    pub(crate) fn new(store: Store, faults: Option<faults::Injector>, attempt: Attempt) -> Self {
        let inner = Inner { store, faults, view: OnceCell::new(), state: Mutex::default(), attempt };
        Transaction { inner: Arc::new(inner) }
    }

    /// The version that reads see; fixes it if no read has.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn read_version(&self) -> Result<Version, KvError> {
        Ok(self.view().await?.version())
    }

    /// Number of this run of the body of [`crate::Database::run`], from 0.
    pub fn attempt(&self) -> u32 {
        self.inner.attempt.number
    }

    /// Whether an earlier run of the body ended with [`KvError::MaybeCommitted`]: what this one is about to do may already be
    /// done.
    pub fn after_maybe_committed(&self) -> bool {
        self.inner.attempt.after_maybe_committed
    }

    /// The value of `key`, or `None`. Adds `key` to the read conflicts unless the transaction itself wrote it.
    ///
    /// # Errors
    /// [`KvError::Illegal`] if the transaction set the key to a versionstamped value; failures of the store.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, KvError> {
        self.read_key(key.as_ref(), false).await
    }

    /// Like [`Transaction::get`], without adding a read conflict.
    ///
    /// # Errors
    /// As for `get`.
    pub async fn snapshot_get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, KvError> {
        self.read_key(key.as_ref(), true).await
    }

    /// Entries from `begin` (inclusive) to `end` (exclusive), at most `limit`, from the end with `reverse`. Adds the range, up
    /// to the last returned entry if the limit was reached, to the read conflicts. The result is as large as the range and
    /// the limit allow: give a limit unless the range is known to be small.
    ///
    /// # Errors
    /// As for `get`.
    pub async fn get_range(
        &self,
        begin: impl AsRef<[u8]>,
        end: impl AsRef<[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<RangeResult, KvError> {
        self.read_range(begin.as_ref(), end.as_ref(), limit, reverse, false).await
    }

    /// Like [`Transaction::get_range`], without adding a read conflict.
    ///
    /// # Errors
    /// As for `get`.
    pub async fn snapshot_get_range(
        &self,
        begin: impl AsRef<[u8]>,
        end: impl AsRef<[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<RangeResult, KvError> {
        self.read_range(begin.as_ref(), end.as_ref(), limit, reverse, true).await
    }

    /// [`Transaction::get_range`] of the keys that start with `prefix`, ascending.
    ///
    /// # Errors
    /// As for `get`.
    pub async fn get_prefix(&self, prefix: impl AsRef<[u8]>, limit: usize) -> Result<RangeResult, KvError> {
        let prefix = prefix.as_ref();
        self.read_range(prefix, &prefix_end(prefix), limit, false, false).await
    }

    /// [`Transaction::snapshot_get_range`] of the keys that start with `prefix`, ascending.
    ///
    /// # Errors
    /// As for `get`.
    pub async fn snapshot_get_prefix(
        &self,
        prefix: impl AsRef<[u8]>,
        limit: usize,
    ) -> Result<RangeResult, KvError> {
        let prefix = prefix.as_ref();
        self.read_range(prefix, &prefix_end(prefix), limit, false, true).await
    }

    /// Sets `key`, which must not be empty, to `value`.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.write(|state| {
            check_writable(key)?;
            check_value(value)?;
            state.grow(key.len() + value.len())?;
            state.overlay.set(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            Ok(())
        });
    }

    /// Removes `key`.
    pub fn clear(&self, key: impl AsRef<[u8]>) {
        let key = key.as_ref();
        self.write(|state| {
            check_writable(key)?;
            state.grow(key.len())?;
            state.overlay.clear(Bytes::copy_from_slice(key));
            Ok(())
        });
    }

    /// Removes all keys from `begin` (inclusive) to `end` (exclusive).
    pub fn clear_range(&self, begin: impl AsRef<[u8]>, end: impl AsRef<[u8]>) {
        self.write(|state| {
            let range = checked_range(begin.as_ref(), end.as_ref())?;
            state.grow(range.size())?;
            state.overlay.clear_range(range);
            Ok(())
        });
    }

    /// Sets `key` to `value`, of which the 10 bytes from `offset` on will be the commit's versionstamp. Until commit the
    /// transaction cannot read the key. The only way to write [`crate::METADATA_VERSION_KEY`].
    pub fn set_versionstamped_value(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, offset: usize) {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.write(|state| {
            check_stamped(key, value, offset)?;
            state.grow(key.len() + value.len())?;
            state.overlay.set_stamped(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value), offset);
            Ok(())
        });
    }

    /// Adds `key` to the read conflicts as if it had been read, unless the transaction itself wrote it. Takes effect only if
    /// something is read, which fixes the read version.
    pub fn add_read_conflict_key(&self, key: impl AsRef<[u8]>) {
        let key = key.as_ref();
        self.write(|state| {
            check_readable(key)?;
            if state.overlay.lookup(key) == Lookup::Unknown {
                state.add_read_conflict(KeyRange::single(key))?;
            }
            Ok(())
        });
    }

    /// Adds a range to the read conflicts as if it had been read. Takes effect only if something is read.
    pub fn add_read_conflict_range(&self, begin: impl AsRef<[u8]>, end: impl AsRef<[u8]>) {
        self.write(|state| state.add_read_conflict(checked_range(begin.as_ref(), end.as_ref())?));
    }

    /// Makes the commit count as a write of `key`, for the conflicts of others.
    pub fn add_write_conflict_key(&self, key: impl AsRef<[u8]>) {
        let key = key.as_ref();
        self.write(|state| {
            check_readable(key)?;
            state.add_write_conflict(KeyRange::single(key))
        });
    }

    /// Makes the commit count as a write of a range, for the conflicts of others.
    pub fn add_write_conflict_range(&self, begin: impl AsRef<[u8]>, end: impl AsRef<[u8]>) {
        self.write(|state| state.add_write_conflict(checked_range(begin.as_ref(), end.as_ref())?));
    }

    /// Commits: all writes take effect together, or none.
    ///
    /// # Errors
    /// [`KvError::Conflict`] and [`KvError::TooOld`] when what was read may have changed, [`KvError::MaybeCommitted`] when
    /// it is unknown whether the writes took effect, the first illegal or too large write, and failures of the store.
    pub async fn commit(&self) -> Result<CommitInfo, KvError> {
        let request = self.finish()?;
        if request.mutations.is_empty() && request.write_conflicts.is_empty() {
            return Ok(CommitInfo { version: request.read_version.unwrap_or(0), versionstamp: None });
        }
        match &self.inner.faults {
            Some(faults) => {
                faults.around_commit(self.inner.store.commit(self.inner.view.get(), request)).await
            }
            None => self.inner.store.commit(self.inner.view.get(), request).await,
        }
    }

    fn finish(&self) -> Result<CommitRequest, KvError> {
        let state = {
            let mut state = self.inner.state.lock();
            state.check()?;
            std::mem::replace(&mut *state, State { over: true, ..State::default() })
        };
        let mutations = state.overlay.mutations();
        Ok(CommitRequest {
            read_version: self.inner.view.get().map(View::version),
            ends: None,
            read_conflicts: coalesce(state.read_conflicts),
            write_conflicts: write_ranges(&mutations, state.write_conflicts),
            mutations,
        })
    }

    fn write(&self, change: impl FnOnce(&mut State) -> Result<(), KvError>) {
        let mut state = self.inner.state.lock();
        if let Err(error) = state.check().and_then(|()| change(&mut state)) {
            state.error.get_or_insert(error);
        }
    }

    async fn view(&self) -> Result<&View, KvError> {
        self.inner.view.get_or_try_init(|| self.inner.store.view()).await
    }

    async fn read_key(&self, key: &[u8], snapshot: bool) -> Result<Option<Bytes>, KvError> {
        {
            let mut state = self.inner.state.lock();
            state.check()?;
            check_readable(key)?;
            match state.overlay.lookup(key) {
                Lookup::Known(value) => return Ok(value),
                Lookup::Unreadable => return Err(unreadable()),
                Lookup::Unknown if snapshot => {}
                // Before the read: it must not be lost when the caller drops the read's future.
                Lookup::Unknown => state.add_read_conflict(KeyRange::single(key))?,
            }
        }
        if let Some(faults) = &self.inner.faults {
            faults.before_read()?;
        }
        self.inner.store.get(self.view().await?, key).await
    }

    async fn read_range(
        &self,
        begin: &[u8],
        end: &[u8],
        limit: usize,
        reverse: bool,
        snapshot: bool,
    ) -> Result<RangeResult, KvError> {
        let range = checked_range(begin, end)?;
        self.inner.state.lock().check()?;
        if range.is_empty() || limit == 0 {
            return Ok(RangeResult { items: Vec::new(), more: limit == 0 && !range.is_empty() });
        }
        if let Some(faults) = &self.inner.faults {
            faults.before_read()?;
        }
        let view = self.view().await?;
        let mut items = Vec::new();
        let mut rest = range.clone();
        loop {
            let wanted = (limit - items.len()).min(SCAN_CHUNK);
            let scan = self.inner.store.scan(view, &rest, reverse, wanted).await?;
            let last = scan.entries.last().map(|entry| entry.key.clone()).filter(|_| scan.more);
            let covered = match &last {
                Some(last) => covered_to(&rest, last, reverse),
                None => rest.clone(),
            };
            let merged = self.inner.state.lock().overlay.merge(scan.entries, &covered, reverse)?;
            items.extend(merged.into_iter().take(limit - items.len()));
            match last {
                Some(last) if items.len() < limit => rest = rest_after(&rest, &last, reverse),
                _ => break,
            }
        }
        let more = items.len() == limit;
        if !snapshot {
            let read = match items.last() {
                Some(last) if more => covered_to(&range, &last.key, reverse),
                _ => range,
            };
            self.inner.state.lock().add_read_conflict(read)?;
        }
        Ok(RangeResult { items, more })
    }
}

/// What a commit counts as having written: its writes and the ranges declared as such.
pub(crate) fn write_ranges(mutations: &[Mutation], declared: Vec<KeyRange>) -> Vec<KeyRange> {
    let mut ranges = declared;
    ranges.extend(mutations.iter().map(|mutation| match mutation {
        Mutation::ClearRange(range) => range.clone(),
        Mutation::Set { key, .. } | Mutation::Clear { key } | Mutation::SetVersionstamped { key, .. } => {
            KeyRange::single(key)
        }
    }));
    coalesce(ranges)
}

fn checked_range(begin: &[u8], end: &[u8]) -> Result<KeyRange, KvError> {
    check_range(begin, end)?;
    Ok(KeyRange { begin: Bytes::copy_from_slice(begin), end: Bytes::copy_from_slice(end) })
}

impl State {
    fn check(&self) -> Result<(), KvError> {
        if self.over {
            return Err(KvError::illegal("the transaction was committed"));
        }
        self.error.clone().map_or(Ok(()), Err)
    }

    fn grow(&mut self, bytes: usize) -> Result<(), KvError> {
        self.size += bytes;
        if self.size > MAX_TRANSACTION {
            return Err(KvError::TooLarge { what: "transaction", size: self.size, limit: MAX_TRANSACTION });
        }
        Ok(())
    }

    fn add_read_conflict(&mut self, range: KeyRange) -> Result<(), KvError> {
        // Reads in a loop of the same key are common; the last one is a cheap place to look.
        if range.is_empty() || self.read_conflicts.last() == Some(&range) {
            return Ok(());
        }
        self.grow(range.size())?;
        self.read_conflicts.push(range);
        Ok(())
    }

    fn add_write_conflict(&mut self, range: KeyRange) -> Result<(), KvError> {
        if !range.is_empty() {
            self.grow(range.size())?;
            self.write_conflicts.push(range);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.inner.state.lock();
        f.debug_struct("Transaction")
            .field("attempt", &self.inner.attempt.number)
            .field("bytes", &state.size)
            .field("over", &state.over)
            .finish_non_exhaustive()
    }
}
