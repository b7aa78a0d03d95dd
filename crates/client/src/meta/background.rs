//! What goes on behind calls: closing and pruning that must not be lost, and looking after servers that failed.

use super::MetaClient;
use super::config::BackgroundCloserConfig;
use super::errors::is_retryable;
use crate::backoff::FastPause;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;
use valor_protocol::Uuid;
use valor_protocol::meta::methods::{Close, PruneSession, TestRpc};
use valor_protocol::meta::{CloseReq, PruneSessionReq, TestRpcReq};

/// Something to be done until it succeeds.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// Ends an open file.
    Close(Box<CloseReq>),
    /// Ends open files of which it is not known whether they are open.
    Prune(Vec<Uuid>),
}

pub(super) struct Background {
    /// Where tasks run: callers may be on any thread.
    runtime: Handle,
    /// Sessions that wait for a full batch.
    to_prune: Mutex<Vec<Uuid>>,
    tasks: AtomicUsize,
    at_work: Semaphore,
    stopping: watch::Sender<bool>,
}

impl Background {
    pub(super) fn new(config: &BackgroundCloserConfig) -> Background {
        Background {
            runtime: Handle::current(),
            to_prune: Mutex::default(),
            tasks: AtomicUsize::new(0),
            at_work: Semaphore::new(config.max_concurrent),
            stopping: watch::Sender::new(false),
        }
    }
}

impl MetaClient {
    pub(super) fn start_background(self: &Arc<Self>) {
        for task in [prune_regularly as fn(_) -> _, check_servers] {
            self.spawn(task(Arc::downgrade(self)));
        }
    }

    /// Runs a task until the client stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut stopping = self.background.stopping.subscribe();
        self.background.runtime.spawn(async move {
            tokio::select! {
                // Also ends when the sender is gone.
                _ = stopping.wait_for(|stopping| *stopping) => {}
                () = task => {}
            }
        });
    }

    /// Ends the background tasks. What they could not close ends with the client's session.
    pub fn stop(&self) {
        self.background.stopping.send_replace(true);
    }

    /// Closes and prunes that are not done yet.
    pub fn background_tasks(&self) -> usize {
        self.background.tasks.load(Ordering::Relaxed)
    }

    /// Ends an open file of which it is not known whether it is open: soon, together with others.
    pub fn prune_session(&self, session: Uuid) {
        let limit = self.config.load().background_closer.prune_session_batch_count;
        let mut waiting = self.background.to_prune.lock();
        waiting.push(session);
        if waiting.len() >= limit {
            let batch = std::mem::take(&mut *waiting);
            drop(waiting);
            self.start_task(Task::Prune(batch));
        }
    }

    /// Does something in the background until it succeeds.
    pub(super) fn start_task(&self, task: Task) {
        let limit = self.config.load().background_closer.max_tasks;
        if self.background.tasks.fetch_add(1, Ordering::Relaxed) >= limit {
            self.background.tasks.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(?task, "too many background tasks, dropped");
            return;
        }
        self.spawn(work(self.this.clone(), task));
    }

    /// One attempt; true if it is to be repeated.
    async fn try_task(&self, task: &Task) -> bool {
        // The semaphore is never closed.
        let _permit = self.background.at_work.acquire().await.ok();
        let (error, again) = match task {
            Task::Close(req) => match self.call_once::<Close>(req).await {
                Ok(_) => return false,
                Err(error) => {
                    let again = req.session.is_some() && is_retryable(error.code);
                    (error, again)
                }
            },
            Task::Prune(sessions) => {
                let req = PruneSessionReq {
                    client: self.client_id.clone(),
                    sessions: sessions.clone(),
                    ..PruneSessionReq::default()
                };
                match self.call_once::<PruneSession>(&req).await {
                    Ok(_) => return false,
                    Err(error) => (error, true),
                }
            }
        };
        tracing::info!(%error, again, "background task failed");
        again
    }
}

async fn work(client: Weak<MetaClient>, task: Task) {
    let mut pause: Option<FastPause> = None;
    while let Some(client) = client.upgrade() {
        if !client.try_task(&task).await {
            client.background.tasks.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let config = client.config.load_full();
        drop(client);
        let closer = &config.background_closer;
        let pause = pause.get_or_insert_with(|| {
            FastPause::new(closer.retry_first_wait.get(), closer.retry_max_wait.get())
        });
        sleep(pause.take()).await;
    }
}

type BoxFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn prune_regularly(client: Weak<MetaClient>) -> BoxFuture {
    Box::pin(async move {
        while let Some(client) = client.upgrade() {
            let batch = std::mem::take(&mut *client.background.to_prune.lock());
            if !batch.is_empty() {
                client.start_task(Task::Prune(batch));
            }
            let interval = client.config.load().background_closer.prune_session_batch_interval.get();
            drop(client);
            sleep(interval).await;
        }
    })
}

/// Asks servers that failed whether they answer again.
fn check_servers(client: Weak<MetaClient>) -> BoxFuture {
    Box::pin(async move {
        while let Some(client) = client.upgrade() {
            let config = client.config.load_full();
            for server in client.servers.failed(&client.mgmtd.routing()) {
                let req = TestRpcReq::default();
                if client.call_server::<TestRpc>(server, &req, &config.retry_default).await.is_ok() {
                    tracing::info!(node = %server.node, "metadata server answers again");
                    client.servers.mark_working(server.node);
                }
            }
            drop(client);
            sleep(config.check_server_interval.get()).await;
        }
    })
}
