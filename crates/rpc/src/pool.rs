//! A thread's connections of one client.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use valor_env::metrics::RPC_CLIENT_CONNECTS;
use valor_env::{Endpoint, Env};

use crate::config::ClientConfig;
use crate::connection::Connection;
use crate::deadlines::Deadlines;

/// The connections of one thread.
#[derive(Default)]
pub(crate) struct Pool {
    lanes: Mutex<HashMap<Endpoint, Arc<Lanes>>>,
    /// Deadlines of the thread's calls.
    pub(crate) deadlines: Arc<Deadlines>,
}

/// The connections to one endpoint.
struct Lanes {
    all: Vec<Lane>,
    next: AtomicUsize,
}

/// A place for one connection.
#[derive(Default)]
struct Lane {
    open: Mutex<Option<Arc<Connection>>>,
    /// Held while connecting. Remembers the last failure, so that those who waited for it share it.
    connecting: tokio::sync::Mutex<Option<FailedConnect>>,
}

struct FailedConnect {
    started: Instant,
    reason: String,
}

impl Pool {
    /// A connection to `to`; the second value says whether it was open already.
    pub(crate) async fn get(
        &self,
        env: &Env,
        config: &ClientConfig,
        to: &Endpoint,
    ) -> Result<(Arc<Connection>, bool), String> {
        let lanes = self.lanes(to, config.max_connections);
        let lane = lanes.choose();
        if let Some(connection) = lane.usable(config) {
            return Ok((connection, true));
        }
        lane.connect(env, config, to).await.map(|connection| (connection, false))
    }

    fn lanes(&self, to: &Endpoint, count: usize) -> Arc<Lanes> {
        let mut lanes = self.lanes.lock();
        if let Some(lanes) = lanes.get(to) {
            return Arc::clone(lanes);
        }
        let all = (0..count.max(1)).map(|_| Lane::default()).collect();
        let new = Arc::new(Lanes { all, next: AtomicUsize::new(0) });
        lanes.insert(to.clone(), Arc::clone(&new));
        new
    }

    /// Closes all connections.
    pub(crate) fn close(&self) {
        for lanes in self.lanes.lock().drain() {
            for lane in &lanes.1.all {
                if let Some(connection) = lane.open.lock().take() {
                    connection.close("client closed");
                }
            }
        }
    }
}

impl Lanes {
    /// Each in turn.
    fn choose(&self) -> &Lane {
        let index = if self.all.len() == 1 { 0 } else { self.next.fetch_add(1, Relaxed) % self.all.len() };
        &self.all[index]
    }
}

impl Lane {
    fn usable(&self, config: &ClientConfig) -> Option<Arc<Connection>> {
        let mut open = self.open.lock();
        let connection = open.as_ref()?;
        let recent = connection.in_flight() > 0 || connection.unused_for() < config.idle_expiration;
        if connection.is_open() && recent && !connection.is_stuck() {
            return Some(Arc::clone(connection));
        }
        connection.close("connection of no more use");
        *open = None;
        None
    }

    async fn connect(
        &self,
        env: &Env,
        config: &ClientConfig,
        to: &Endpoint,
    ) -> Result<Arc<Connection>, String> {
        let arrived = Instant::now();
        let mut last_failure = self.connecting.lock().await;
        if let Some(connection) = self.usable(config) {
            return Ok(connection);
        }
        if let Some(failure) = &*last_failure
            && failure.started >= arrived
        {
            return Err(failure.reason.clone());
        }
        let started = Instant::now();
        let reason = match timeout(config.connect_timeout, env.connect(to)).await {
            Ok(Ok(stream)) => {
                metrics::counter!(RPC_CLIENT_CONNECTS).increment(1);
                let connection = Connection::start(env.clone(), stream);
                *self.open.lock() = Some(Arc::clone(&connection));
                return Ok(connection);
            }
            Ok(Err(error)) => format!("connecting to {to}: {error}"),
            Err(_) => format!("connecting to {to}: no answer within {:?}", config.connect_timeout),
        };
        *last_failure = Some(FailedConnect { started, reason: reason.clone() });
        Err(reason)
    }
}
