//! The serving side: one shard's listeners, limits and services.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use valor_env::metrics::{
    RPC_SERVER_ACCEPTED, RPC_SERVER_BAD_FRAMES, RPC_SERVER_BYTES_IN, RPC_SERVER_BYTES_OUT, RPC_SERVER_REFUSED,
};
use valor_env::{Endpoint, Env, Listener, Stream};
use valor_protocol::echo;

use crate::budget::Budget;
use crate::config::ServerConfig;
use crate::registry::Registry;
use crate::router::{Handler, Router};
use crate::session::Session;

/// Pause after a failure to accept that is likely to repeat (no descriptors, no memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Longest time between two looks for useless connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Least time between warnings about misbehaving peers.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);

/// An RPC server of one shard. Several of them may listen on the same TCP address.
pub struct Server;

impl Server {
    /// A server without services but echo.
    pub fn builder(env: Env, config: ServerConfig) -> ServerBuilder {
        ServerBuilder { env, config, routers: Vec::new() }.service(
            Router::new(echo::methods::SERVICE_ID, echo::methods::SERVICE)
                .method::<echo::methods::Echo, _, _>(|_, message| async move { Ok(message) }),
        )
    }
}

/// A server being set up.
#[derive(Debug)]
pub struct ServerBuilder {
    env: Env,
    config: ServerConfig,
    routers: Vec<Router>,
}

impl ServerBuilder {
    /// Adds a service, in place of an earlier one with the same number.
    #[must_use]
    pub fn service(mut self, router: Router) -> Self {
        self.routers.retain(|earlier| earlier.id() != router.id());
        self.routers.push(router);
        self
    }

    /// Listens and serves, on the current runtime, until the handle is stopped or dropped.
    ///
    /// # Errors
    /// When one of the endpoints cannot be listened on; then none is.
    pub fn listen(self, endpoints: &[Endpoint]) -> io::Result<ServerHandle> {
        let Self { env, config, routers } = self;
        let listeners = endpoints
            .iter()
            .map(|endpoint| env.bind(endpoint, true))
            .collect::<io::Result<Vec<Listener>>>()?;
        let addresses = listeners.iter().map(|listener| listener.local().clone()).collect();
        let shared = Arc::new(Shared {
            budget: Budget::new(config.max_in_flight_bytes),
            env,
            config,
            routers,
            registry: Registry::new(),
            metrics: Metrics::new(),
            running: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            rest: Notify::new(),
            last_complaint: Mutex::default(),
        });
        let mut tasks: Vec<_> = listeners
            .into_iter()
            .map(|listener| tokio::spawn(accept(Arc::clone(&shared), listener)))
            .collect();
        tasks.push(tokio::spawn(sweep(Arc::clone(&shared))));
        Ok(ServerHandle { shared, addresses, tasks })
    }
}

/// A running server. Dropping it stops the server without waiting for anything.
pub struct ServerHandle {
    shared: Arc<Shared>,
    addresses: Vec<Endpoint>,
    tasks: Vec<JoinHandle<()>>,
}

impl ServerHandle {
    /// Where it listens, in the order in which that was asked for, with chosen ports.
    pub fn addresses(&self) -> &[Endpoint] {
        &self.addresses
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.shared.registry.len()
    }

    /// Requests being handled.
    pub fn running(&self) -> usize {
        self.shared.running.load(Relaxed)
    }

    /// Stops: no more connections, no more requests; those running may finish within `grace` and are answered, then
    /// all connections are closed.
    pub async fn stop(mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.shared.stopping.store(true, Relaxed);
        for task in self.tasks.drain(..) {
            task.abort();
            // Cancelled, which is what was asked for; waiting makes sure that the listener is gone.
            let _ = task.await;
        }
        let finish = async {
            loop {
                let notified = self.shared.rest.notified();
                if self.shared.running.load(Relaxed) == 0 {
                    break;
                }
                notified.await;
            }
            for session in self.shared.registry.all() {
                session.finished().await;
            }
        };
        if timeout_at(deadline, finish).await.is_err() {
            tracing::warn!(running = self.running(), "stopping with requests unfinished");
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Relaxed);
        for task in &self.tasks {
            task.abort();
        }
        for session in self.shared.registry.all() {
            session.close();
        }
    }
}

impl std::fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerHandle").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// What a server's connections share.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) config: ServerConfig,
    routers: Vec<Router>,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) budget: Arc<Budget>,
    running: AtomicUsize,
    stopping: AtomicBool,
    /// No request is running.
    rest: Notify,
    last_complaint: Mutex<Option<Instant>>,
}

impl Shared {
    /// Whether to log at full level what a peer can provoke at will: once a second.
    pub(crate) fn may_complain(&self) -> bool {
        let mut last = self.last_complaint.lock();
        let may = last.is_none_or(|last| last.elapsed() >= COMPLAINT_INTERVAL);
        if may {
            *last = Some(Instant::now());
        }
        may
    }

    pub(crate) fn find(&self, service: u16, method: u16) -> Option<&Arc<dyn Handler>> {
        self.routers.iter().find(|router| router.id() == service)?.find(method)
    }
}

/// Counters without labels, looked up once.
pub(crate) struct Metrics {
    pub(crate) refused: metrics::Counter,
    pub(crate) bad_frames: metrics::Counter,
    pub(crate) bytes_in: metrics::Counter,
    pub(crate) bytes_out: metrics::Counter,
    accepted: metrics::Counter,
}

impl Metrics {
    fn new() -> Self {
        Self {
            refused: metrics::counter!(RPC_SERVER_REFUSED),
            bad_frames: metrics::counter!(RPC_SERVER_BAD_FRAMES),
            bytes_in: metrics::counter!(RPC_SERVER_BYTES_IN),
            bytes_out: metrics::counter!(RPC_SERVER_BYTES_OUT),
            accepted: metrics::counter!(RPC_SERVER_ACCEPTED),
        }
    }
}

/// A request being handled; counts until dropped.
pub(crate) struct Running(Arc<Shared>);

impl Running {
    /// Admits a request, or says why not.
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Self, &'static str> {
        if shared.stopping.load(Relaxed) {
            return Err("server is stopping");
        }
        let guard = Self(Arc::clone(shared));
        if shared.running.fetch_add(1, Relaxed) >= shared.config.max_processing_requests {
            return Err("too many requests");
        }
        Ok(guard)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Relaxed) == 1 {
            self.0.rest.notify_waiters();
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: Listener) {
    loop {
        match listener.accept().await {
            Ok(stream) => admit(&shared, stream),
            Err(error) => {
                let shed = if is_exhaustion(&error) { shared.registry.shed_idle() } else { 0 };
                if shared.may_complain() {
                    tracing::warn!(%error, shed, "cannot accept a connection");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether closing other connections would help.
fn is_exhaustion(error: &io::Error) -> bool {
    const EXHAUSTED: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| EXHAUSTED.iter().any(|errno| errno.raw_os_error() == code))
}

/// Serves a new connection; in the place of idle ones if there are too many, and not at all if none is idle.
fn admit(shared: &Arc<Shared>, stream: Stream) {
    shared.metrics.accepted.increment(1);
    if shared.registry.len() >= shared.config.max_connections && shared.registry.shed_idle() == 0 {
        shared.registry.count_shed(1);
        return;
    }
    let session = Session::new(Arc::clone(shared), stream);
    let key = shared.registry.add(&session);
    let registration = Registration { shared: Arc::clone(shared), key };
    tokio::spawn(async move {
        let _registration = registration;
        session.run().await;
    });
}

/// Takes a connection off the registry however its task ends.
struct Registration {
    shared: Arc<Shared>,
    key: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.registry.remove(self.key);
    }
}

async fn sweep(shared: Arc<Shared>) {
    let config = &shared.config;
    let period = (config.half_frame_timeout.min(config.idle_expiration) / 4)
        .clamp(Duration::from_millis(10), SWEEP_INTERVAL);
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.registry.sweep(config.idle_expiration);
    }
}
