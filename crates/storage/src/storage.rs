//! The service: its state, its start and its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use valor_config::Live;
use valor_env::Env;
use valor_env::mutation::{Mutation, broken};
use valor_protocol::status::code;
use valor_protocol::storage::VersionedChainId;
use valor_protocol::{NodeId, Status};
use valor_rpc::Client;

use crate::admin::SpaceCache;
use crate::cluster::{Cluster, HeartbeatBoard};
use crate::config::Config;
use crate::disks::Disks;
use crate::fills::Fills;
use crate::metrics::Metrics;
use crate::recent::RecentUpdates;
use crate::replica::roles::{LocalTarget, TargetMap};
use crate::resync::Pace;
use crate::target::OpenTarget;

/// How long updates under way may take to end when the server stops.
const DRAIN_TIME: Duration = Duration::from_secs(5);
const DRAIN_PAUSE: Duration = Duration::from_millis(5);

/// An update being worked on.
pub(crate) struct UpdateCount<'a>(&'a AtomicUsize);

impl Drop for UpdateCount<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Targets and their places.
pub(crate) type Map = TargetMap<Arc<OpenTarget>>;
/// A target at the moment of a request.
pub(crate) type Local = Arc<LocalTarget<Arc<OpenTarget>>>;

/// Who a server is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Node.
    pub node_id: NodeId,
    /// Where its heartbeats look for the states of its targets.
    pub board: HeartbeatBoard,
}

/// A storage server. Shared by all shards of the process.
pub struct Storage {
    pub(crate) env: Env,
    pub(crate) config: Arc<Live<Config>>,
    pub(crate) identity: Identity,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) rpc: Arc<Client>,
    pub(crate) metrics: Metrics,
    pub(crate) disks: Disks,
    map: ArcSwap<Map>,
    /// Held while the map is changed.
    pub(crate) map_change: tokio::sync::Mutex<()>,
    /// Counts changes of the map.
    changes: watch::Sender<u64>,
    /// mgmtd may still take the targets for alive that an earlier run of this server had.
    pub(crate) joining: watch::Sender<bool>,
    pub(crate) heartbeat_wanted: Notify,
    /// Somebody seems to have newer routing information.
    pub(crate) refresh_wanted: Notify,
    /// Client id of this server's own updates.
    pub(crate) uuid: [u8; 16],
    pub(crate) recent: RecentUpdates,
    pub(crate) pace: Pace,
    pub(crate) scrub_pace: Pace,
    pub(crate) space_cache: SpaceCache,
    pub(crate) filling: Arc<Semaphore>,
    pub(crate) fills: Fills,
    next_generation: AtomicU32,
    next_request: AtomicU64,
    /// Updates being worked on.
    updates: AtomicUsize,
    started: Instant,
    /// Milliseconds from the start to the last contact with mgmtd.
    contact: AtomicU64,
    fenced: AtomicBool,
    stopping: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Storage {
    /// Opens all targets and begins to take part in the cluster: reports its targets as offline until the manager knows
    /// that (so that nobody counts on what this process has forgotten), then offers them.
    ///
    /// # Errors
    /// 4018 without a usable disk. A target that does not open is left out and logged.
    pub async fn start(
        env: Env,
        config: Arc<Live<Config>>,
        identity: Identity,
        cluster: Arc<dyn Cluster>,
        rpc: Arc<Client>,
    ) -> Result<Arc<Storage>, Status> {
        let tree = config.get();
        let paths: Vec<PathBuf> = tree.targets.target_paths.clone();
        if paths.is_empty() {
            return Err(Status::new(code::STORAGE_STORAGE_INIT_FAILED, "targets.target_paths is empty"));
        }
        let storage = Arc::new(Storage {
            recent: RecentUpdates::new(tree.reliable_update.max_channels),
            filling: Arc::new(Semaphore::new(tree.sync_worker.pool.threads_num as usize)),
            fills: Fills::default(),
            disks: Disks::new(paths),
            env: env.clone(),
            config,
            identity,
            cluster,
            rpc,
            metrics: Metrics::default(),
            map: ArcSwap::default(),
            map_change: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
            joining: watch::Sender::new(true),
            heartbeat_wanted: Notify::new(),
            refresh_wanted: Notify::new(),
            uuid: env.random_uuid(),
            pace: Pace::default(),
            scrub_pace: Pace::default(),
            space_cache: SpaceCache::default(),
            next_generation: AtomicU32::new(1),
            next_request: AtomicU64::new(1),
            updates: AtomicUsize::new(0),
            started: Instant::now(),
            contact: AtomicU64::new(0),
            fenced: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
            tasks: Mutex::default(),
        });
        storage.open_targets().await?;
        storage.spawn(|storage| async move { storage.join_cluster().await });
        storage.spawn(|storage| async move { storage.keep_beating().await });
        storage.spawn(|storage| async move { storage.keep_refreshing().await });
        storage.spawn(|storage| async move { storage.check_disks().await });
        storage.spawn(|storage| async move { storage.reopen_targets().await });
        storage.spawn(|storage| async move { storage.fill_successors().await });
        storage.spawn(|storage| async move { storage.complete_pending().await });
        storage.spawn(|storage| async move { storage.forget_clients().await });
        storage.spawn(|storage| async move { storage.keep_scrubbing().await });
        Ok(storage)
    }

    /// Waits until the server has joined the cluster and knows its targets' places.
    pub async fn joined(&self) {
        // The sender lives as long as `self`.
        let _ = self.joining.subscribe().wait_for(|joining| !joining).await;
    }

    /// Ends background work, tells the manager that all targets are gone, lets updates under way end, and closes the
    /// targets.
    pub async fn stop(&self) {
        self.stopping.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // A task that panicked has ended too.
            let _ = task.await;
        }
        self.identity.board.write(self.map().heartbeat(true, |target| target.used()));
        if let Err(error) = self.cluster.heartbeat().await {
            tracing::warn!(%error, "last heartbeat failed");
        }
        let deadline = Instant::now() + DRAIN_TIME;
        while self.updates.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            sleep(DRAIN_PAUSE).await;
        }
        self.close_targets().await;
    }

    /// Counts an update until it is dropped.
    pub(crate) fn count_update(&self) -> UpdateCount<'_> {
        self.updates.fetch_add(1, Ordering::AcqRel);
        UpdateCount(&self.updates)
    }

    /// Ends background work at once and tells nobody, as a crash would (for simulations and tests).
    pub fn abandon(&self) {
        self.stopping.send_replace(true);
        for task in std::mem::take(&mut *self.tasks.lock()) {
            task.abort();
        }
        self.abandon_targets();
    }

    /// Runs a background task until the server stops.
    fn spawn<F>(self: &Arc<Self>, task: impl FnOnce(Arc<Storage>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut stopping = self.stopping.subscribe();
        let task = task(Arc::clone(self));
        let handle = tokio::spawn(async move {
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => {}
                () = task => {}
            }
        });
        self.tasks.lock().push(handle);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    // The map.

    /// The targets and their places of now.
    pub(crate) fn map(&self) -> Arc<Map> {
        self.map.load_full()
    }

    /// Sees that the map has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Makes a map the valid one and reports it. Only under `map_change`.
    pub(crate) fn publish(&self, map: Map) {
        self.identity.board.write(map.heartbeat(*self.joining.borrow(), |target| target.used()));
        self.metrics.targets(map.targets().map(|target| target.info.local_state));
        self.map.store(Arc::new(map));
        self.changes.send_modify(|count| *count += 1);
        self.heartbeat_wanted.notify_one();
    }

    /// The target of a chain; see [`TargetMap::by_chain`].
    pub(crate) fn lookup(&self, chain: VersionedChainId, any_version: bool) -> Result<Local, Status> {
        self.check_contact()?;
        let any_version = any_version || broken(Mutation::SkipChainVersionCheck);
        self.map.load().by_chain(chain, any_version).cloned()
    }

    pub(crate) fn next_generation(&self) -> u32 {
        self.next_generation.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn next_request(&self) -> u64 {
        self.next_request.fetch_add(1, Ordering::Relaxed)
    }

    // Time.

    /// Time since the start.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The manager was reached by a request sent at this moment.
    pub(crate) fn had_contact(&self, sent: Instant) {
        let millis = sent.duration_since(self.started).as_millis() as u64;
        self.contact.fetch_max(millis, Ordering::Relaxed);
        if self.fenced.swap(false, Ordering::Relaxed) {
            tracing::warn!("contact to the manager again, requests are served");
            self.metrics.fenced(false);
        }
    }

    /// When the last request was sent that reached the manager.
    pub(crate) fn last_contact(&self) -> Instant {
        self.started + Duration::from_millis(self.contact.load(Ordering::Relaxed))
    }

    /// Time since the last contact, if that is too long.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let limit = self.config.get().fence_after.get();
        let contact = Duration::from_millis(self.contact.load(Ordering::Relaxed));
        let silence = self.uptime().saturating_sub(contact);
        (!limit.is_zero() && silence >= limit).then_some(silence)
    }

    /// Refuses when the manager may have given this server up without it knowing.
    pub(crate) fn check_contact(&self) -> Result<(), Status> {
        if *self.joining.borrow() {
            return Ok(());
        }
        let Some(silence) = self.silence() else { return Ok(()) };
        if broken(Mutation::ServeWithoutContact) {
            return Ok(());
        }
        if !self.fenced.swap(true, Ordering::Relaxed) {
            tracing::error!(?silence, "no contact to the manager, requests are refused");
            self.metrics.fenced(true);
        }
        Err(Status::new(code::STORAGE_TARGET_OFFLINE, format!("no contact to the manager for {silence:?}")))
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("identity", &self.identity).finish_non_exhaustive()
    }
}
