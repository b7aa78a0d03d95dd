//! A transaction as the service uses it.

use bytes::Bytes;
use valor_kv::{Database, Transaction};

use crate::error::Result;

/// How a read counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// As of the transaction's start.
    Snapshot,
    /// The transaction fails if someone changes what was read before it commits.
    Conflict,
}

/// Some keys with their values.
#[derive(Debug)]
pub(crate) struct Page {
    /// In ascending order.
    pub(crate) items: Vec<(Bytes, Bytes)>,
    /// The limit was reached.
    pub(crate) more: bool,
}

/// One try of an operation.
pub(crate) struct Tx {
    inner: Transaction,
}

impl Tx {
    /// Starts a transaction.
    pub(crate) fn begin(db: &Database) -> Self {
        Self { inner: db.begin() }
    }

    /// Reads a key; sees the transaction's own writes.
    pub(crate) async fn get(&mut self, key: &[u8], read: Read) -> Result<Option<Bytes>> {
        interleave().await;
        Ok(match read {
            Read::Snapshot => self.inner.snapshot_get(key).await?,
            Read::Conflict => self.inner.get(key).await?,
        })
    }

    /// Reads up to `limit` keys of `begin..end`.
    pub(crate) async fn range(&mut self, begin: &[u8], end: &[u8], limit: usize, read: Read) -> Result<Page> {
        if begin >= end {
            return Ok(Page { items: Vec::new(), more: false });
        }
        interleave().await;
        let result = match read {
            Read::Snapshot => self.inner.snapshot_get_range(begin, end, limit, false).await?,
            Read::Conflict => self.inner.get_range(begin, end, limit, false).await?,
        };
        let items = result.items.into_iter().map(|item| (item.key, item.value)).collect();
        Ok(Page { items, more: result.more })
    }

    /// Writes a key.
    pub(crate) fn set(&mut self, key: &[u8], value: impl AsRef<[u8]>) {
        self.inner.set(key, value);
    }

    /// Writes the commit's versionstamp to a key.
    pub(crate) fn set_versionstamp(&mut self, key: &[u8]) {
        self.inner.set_versionstamped_value(key, [0; valor_kv::VERSIONSTAMP_LEN], 0);
    }

    /// Deletes a key.
    pub(crate) fn clear(&mut self, key: &[u8]) {
        self.inner.clear(key);
    }

    /// Fails the transaction if the key changes before it commits. Without effect on a key written here before.
    pub(crate) fn read_conflict(&mut self, key: &[u8]) {
        self.inner.add_read_conflict_key(key);
    }

    /// Makes the writes take effect, all or none.
    pub(crate) async fn commit(self) -> Result<()> {
        interleave().await;
        self.inner.commit().await?;
        Ok(())
    }
}

/// In tests lets other tasks run now and then: the engine in memory never makes anyone wait.
async fn interleave() {
    #[cfg(test)]
    crate::testing::interleave().await;
}
