//! Limits of requests in flight.

use super::config::Limits;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use valor_protocol::NodeId;

/// Admits requests of one kind.
pub(super) struct Gate {
    limits: Limits,
    total: Semaphore,
    servers: RwLock<HashMap<NodeId, Arc<Semaphore>>>,
}

/// Leave for one request.
pub(super) struct Pass<'a> {
    _server: Option<OwnedSemaphorePermit>,
    _total: Option<SemaphorePermit<'a>>,
}

impl Gate {
    pub(super) fn new(limits: &Limits) -> Gate {
        Gate {
            total: Semaphore::new(limits.max_concurrent_requests),
            limits: limits.clone(),
            servers: RwLock::default(),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    fn server(&self, node: NodeId) -> Arc<Semaphore> {
        if let Some(server) = self.servers.read().get(&node) {
            return server.clone();
        }
        let limit = self.limits.max_concurrent_requests_per_server;
        self.servers.write().entry(node).or_insert_with(|| Arc::new(Semaphore::new(limit))).clone()
    }

    /// Waits for leave to send a request to a server.
    pub(super) async fn enter(&self, node: NodeId) -> Pass<'_> {
        // Neither semaphore is ever closed.
        let server = self.server(node).acquire_owned().await.ok();
        let total = self.total.acquire().await.ok();
        Pass { _server: server, _total: total }
    }

    /// Requests in flight to a server.
    pub(super) fn in_flight(&self, node: NodeId) -> usize {
        let servers = self.servers.read();
        let free = servers.get(&node).map(|server| server.available_permits());
        free.map_or(0, |free| self.limits.max_concurrent_requests_per_server.saturating_sub(free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn both_limits_hold() {
        let limits =
            Limits { max_concurrent_requests: 3, max_concurrent_requests_per_server: 2, ..Limits::default() };
        let gate = Gate::new(&limits);
        let blocked = async |node| timeout(Duration::from_secs(1), gate.enter(NodeId(node))).await.is_err();
        let first = gate.enter(NodeId(1)).await;
        let _second = gate.enter(NodeId(1)).await;
        assert!(blocked(1).await);
        assert_eq!((gate.in_flight(NodeId(1)), gate.in_flight(NodeId(2))), (2, 0));
        let _third = gate.enter(NodeId(2)).await;
        assert!(blocked(2).await, "three in all");
        drop(first);
        assert!(!blocked(2).await);
    }
}
