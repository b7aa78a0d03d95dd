//! Where a transaction's reads come from and its commit goes to: this process or another.

use std::sync::Arc;

use bytes::Bytes;

use crate::KvError;
use crate::batch::{CommitInfo, CommitRequest, Version};
use crate::engine::Scan;
use crate::key::KeyRange;
use crate::local::LocalStore;
use crate::snapshots::Snapshot;

/// A database.
#[derive(Clone)]
pub(crate) enum Store {
    Local(Arc<LocalStore>),
}

/// A version of a database that stays readable.
pub(crate) enum View {
    Local(Snapshot),
}

impl View {
    /// The version it shows.
    pub(crate) fn version(&self) -> Version {
        match self {
            View::Local(snapshot) => snapshot.version(),
        }
    }
}

impl Store {
    /// A view of the newest readable version.
    pub(crate) async fn view(&self) -> Result<View, KvError> {
        match self {
            Store::Local(store) => Ok(View::Local(store.snapshot())),
        }
    }

    pub(crate) async fn get(&self, view: &View, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        match (self, view) {
            (Store::Local(store), View::Local(snapshot)) => store.get(snapshot, key),
        }
    }

    /// Up to `limit` entries of `range`; possibly fewer with [`Scan::more`] set.
    pub(crate) async fn scan(
        &self,
        view: &View,
        range: &KeyRange,
        reverse: bool,
        limit: usize,
    ) -> Result<Scan, KvError> {
        match (self, view) {
            (Store::Local(store), View::Local(snapshot)) => store.scan(snapshot, range, reverse, limit),
        }
    }

    pub(crate) async fn commit(&self, request: CommitRequest) -> Result<CommitInfo, KvError> {
        match self {
            Store::Local(store) => store.commit(&request).await,
        }
    }

    pub(crate) async fn close(&self) -> Result<(), KvError> {
        match self {
            Store::Local(store) => store.close(),
        }
    }

    pub(crate) async fn verify(&self) -> Result<(), KvError> {
        match self {
            Store::Local(store) => store.verify(),
        }
    }
}
