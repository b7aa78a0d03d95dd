//! Where a transaction's reads come from and its commit goes to: this process or another.

use std::sync::Arc;

use bytes::Bytes;

use crate::KvError;
use crate::batch::{CommitInfo, CommitRequest, Version};
use crate::engine::Scan;
use crate::key::KeyRange;
use crate::local::LocalStore;
use crate::remote::{RemoteStore, RemoteView};
use crate::snapshots::Snapshot;

/// A database.
#[derive(Clone)]
pub(crate) enum Store {
    Local(Arc<LocalStore>),
    Remote(Arc<RemoteStore>),
}

/// A version of a database that stays readable. Belongs to the store that made it.
pub(crate) enum View {
    Local(Snapshot),
    Remote(RemoteView),
}

impl View {
    /// The version it shows.
    pub(crate) fn version(&self) -> Version {
        match self {
            View::Local(snapshot) => snapshot.version(),
            View::Remote(view) => view.version(),
        }
    }
}

impl Store {
    /// A view of the newest readable version.
    pub(crate) async fn view(&self) -> Result<View, KvError> {
        match self {
            Store::Local(store) => store.view().await.map(View::Local),
            Store::Remote(store) => store.view().await.map(View::Remote),
        }
    }

    pub(crate) async fn get(&self, view: &View, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        match (self, view) {
            (Store::Local(store), View::Local(snapshot)) => store.get(snapshot, key),
            (Store::Remote(store), View::Remote(view)) => store.get(view, key).await,
            _ => Err(foreign_view()),
        }
    }

    /// Up to `limit` entries of `range`; possibly fewer, but at least one, with [`Scan::more`] set.
    pub(crate) async fn scan(
        &self,
        view: &View,
        range: &KeyRange,
        reverse: bool,
        limit: usize,
    ) -> Result<Scan, KvError> {
        match (self, view) {
            (Store::Local(store), View::Local(snapshot)) => store.scan(snapshot, range, reverse, limit),
            (Store::Remote(store), View::Remote(view)) => store.scan(view, range, reverse, limit).await,
            _ => Err(foreign_view()),
        }
    }

    /// Commits what was read from `view`, if anything was.
    pub(crate) async fn commit(
        &self,
        view: Option<&View>,
        request: CommitRequest,
    ) -> Result<CommitInfo, KvError> {
        match (self, view) {
            (Store::Local(store), _) => store.commit(&request).await,
            (Store::Remote(store), Some(View::Remote(view))) => store.commit(Some(view), request).await,
            (Store::Remote(store), _) => store.commit(None, request).await,
        }
    }

    /// Makes a local database durable and ends it.
    pub(crate) fn close(&self) -> Result<(), KvError> {
        match self {
            Store::Local(store) => store.close(),
            Store::Remote(_) => Ok(()),
        }
    }

    /// Reads a local database's files.
    pub(crate) fn verify(&self) -> Result<(), KvError> {
        match self {
            Store::Local(store) => store.verify(),
            Store::Remote(_) => Ok(()),
        }
    }
}

fn foreign_view() -> KvError {
    KvError::engine("a view of another database")
}
