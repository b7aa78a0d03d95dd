//! What a storage server needs of the cluster manager.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use valor_client::{MgmtdClient, Routing};
use valor_protocol::mgmtd::{HeartbeatDetail, LocalTargetInfo, StorageHeartbeatInfo};
use valor_protocol::{Status, Uuid};

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The cluster manager as this server sees it: [`MgmtdClient`], or a stand-in in tests.
pub trait Cluster: Send + Sync + 'static {
    /// The newest routing information; of version 0 before any arrived.
    fn routing(&self) -> Arc<Routing>;
    /// Sees every later change of it.
    fn watch(&self) -> watch::Receiver<Arc<Routing>>;
    /// Asks for newer routing information.
    fn refresh(&self) -> BoxFuture<'_, Result<(), Status>>;
    /// Sends a heartbeat with what the [`HeartbeatBoard`] says.
    fn heartbeat(&self) -> BoxFuture<'_, Result<(), Status>>;
    /// Clients that are alive; none while the manager itself does not know.
    fn active_clients(&self) -> BoxFuture<'_, Result<Option<HashSet<Uuid>>, Status>>;
}

impl Cluster for MgmtdClient {
    fn routing(&self) -> Arc<Routing> {
        MgmtdClient::routing(self)
    }

    fn watch(&self) -> watch::Receiver<Arc<Routing>> {
        MgmtdClient::watch(self)
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async { self.refresh_now().await.map(drop) })
    }

    fn heartbeat(&self) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(self.heartbeat_now())
    }

    fn active_clients(&self) -> BoxFuture<'_, Result<Option<HashSet<Uuid>>, Status>> {
        Box::pin(async {
            let sessions = self.list_client_sessions().await?;
            let ids = sessions.sessions.iter().filter_map(|session| session.client_id.parse().ok());
            Ok((!sessions.bootstrapping).then(|| ids.collect()))
        })
    }
}

/// The states of this server's targets for its heartbeats. Made before the [`MgmtdClient`], which asks it, and the
/// storage service, which fills it.
#[derive(Clone, Debug, Default)]
pub struct HeartbeatBoard(Arc<Mutex<Vec<LocalTargetInfo>>>);

impl HeartbeatBoard {
    /// The heartbeat's part about targets, in the form of [`valor_client::mgmtd::Role::Server`].
    pub fn detail(&self) -> Box<dyn Fn() -> HeartbeatDetail + Send + Sync> {
        let board = self.clone();
        Box::new(move || {
            HeartbeatDetail::StorageHeartbeatInfo(StorageHeartbeatInfo { targets: board.read() })
        })
    }

    /// The states of now.
    pub fn read(&self) -> Vec<LocalTargetInfo> {
        self.0.lock().clone()
    }

    pub(crate) fn write(&self, targets: Vec<LocalTargetInfo>) {
        *self.0.lock() = targets;
    }
}
