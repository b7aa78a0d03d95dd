//! A mounted file system: INIT, the channel threads, and the end.

use crate::abi::{InHeader, InitFlags, Opcode, Pod};
use crate::buffer::Pool;
use crate::capability;
use crate::channel::run::{self, Ends, Finish};
use crate::channel::uring::start::{self, Worker};
use crate::channel::uring::{self, choice};
use crate::decode::{self, Shape};
use crate::device;
use crate::dispatch::{Lane, Port, Shared};
use crate::fs::{Filesystem, SessionInfo};
use crate::inflight::Inflight;
use crate::init::{self, InitConfig, Negotiated};
use crate::mount::{self, Connection, MountError, MountOptions, Mounted, Unmounted};
use crate::notify::{self, Notifier};
use crate::stats::{ChannelStats, Stats};
use crate::transport::{InUse, Transport};
use crate::wait::pm_qos::PmQosGuard;
use crate::wait::{WaitHandle, WaitPolicy, WaitState};
use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long the kernel may take to send INIT; it does so right after the mount.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests may take to end after the kernel has gone, unless set.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Stack of a channel thread. Handlers run on it, and unoptimised ones need much; what is not used costs nothing.
pub(crate) const STACK: usize = 8 << 20;

/// Runs on each channel thread inside its runtime, before the first request.
type StartHook = Arc<dyn Fn(usize) + Send + Sync>;

/// Settings of a session.
pub struct SessionBuilder<F> {
    fs: F,
    mount: MountOptions,
    init: InitConfig,
    channels: usize,
    max_in_flight: u32,
    buffers: usize,
    notify_threads: usize,
    on_channel_start: Option<StartHook>,
    wait: WaitPolicy,
    transport: Transport,
    queue_depth: Option<u16>,
    sqpoll: bool,
    drain_timeout: Duration,
    fault: bool,
    refuse_sqpoll: bool,
}

/// A mounted file system being served. Dropping it detaches the mount.
pub struct Session {
    path: PathBuf,
    /// Unknown after [`SessionBuilder::attach`].
    connection: Option<Connection>,
    negotiated: Negotiated,
    stats: Stats,
    wait: WaitHandle,
    transport: InUse,
    notify: Arc<notify::Inner>,
    ends: Ends,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The queues of io_uring.
    queues: Vec<Weak<uring::Queue>>,
    /// Keeps the helper of an unprivileged mount from unmounting.
    _mounted: Option<OwnedFd>,
    _pm_qos: Option<PmQosGuard>,
}

impl Session {
    /// Starts the settings of a session that serves `fs`.
    pub fn builder<F: Filesystem>(fs: F) -> SessionBuilder<F> {
        SessionBuilder {
            fs,
            mount: MountOptions::default(),
            init: InitConfig::default(),
            channels: std::thread::available_parallelism().map_or(1, usize::from).min(4),
            max_in_flight: 1024,
            buffers: 128,
            notify_threads: 4,
            on_channel_start: None,
            wait: WaitPolicy::default(),
            transport: Transport::Auto,
            queue_depth: None,
            sqpoll: false,
            drain_timeout: DRAIN_TIMEOUT,
            fault: false,
            refuse_sqpoll: false,
        }
    }
}

impl<F: Filesystem> SessionBuilder<F> {
    /// Mount options.
    pub fn mount_options(mut self, options: MountOptions) -> Self {
        self.mount = options;
        self
    }

    /// What to ask of the kernel.
    pub fn init(mut self, config: InitConfig) -> Self {
        self.init = config;
        self
    }

    /// Number of channel threads (default: one per CPU, at most 4).
    pub fn channels(mut self, count: usize) -> Self {
        self.channels = count.max(1);
        self
    }

    /// Most requests a channel works on at once (default 1024); it reads no more until one ends.
    pub fn max_in_flight(mut self, count: u32) -> Self {
        self.max_in_flight = count.max(1);
        self
    }

    /// Most request buffers of the session (default 128), each `max_write` and 4 KiB. A handler that keeps WRITE data
    /// after answering must bound it well below this, since without a buffer no request can be read.
    pub fn buffers(mut self, count: usize) -> Self {
        self.buffers = count;
        self
    }

    /// Helper threads for notifications that may wait in the kernel (default 4).
    pub fn notify_threads(mut self, count: usize) -> Self {
        self.notify_threads = count;
        self
    }

    /// Calls `hook` with the channel's number on each channel thread, inside its runtime, before the first request.
    /// Tasks that it starts run there, between requests. A classic channel with tasks that do not end waits with
    /// epoll(7), at two system calls more for each request than one whose handlers all answer at once.
    pub fn on_channel_start(mut self, hook: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.on_channel_start = Some(Arc::new(hook));
        self
    }

    /// How requests travel (default: [`Transport::Auto`]). What the kernel does not offer falls back to classic.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Entries of each io_uring queue (at most 64), that is requests of one CPU at a time. Each has a buffer of
    /// `max_write` bytes, whose pages take memory once a request has used them. Default: 8, fewer where all that would be
    /// more than 512 MiB, but 2 at least.
    pub fn queue_depth(mut self, entries: u16) -> Self {
        self.queue_depth = Some(entries);
        self
    }

    /// With io_uring, lets a thread of the kernel for each queue, on the queue's CPU, look for answers and deliver requests
    /// (`IORING_SETUP_SQPOLL`; default off). Handlers run on another CPU then, and need no system calls to answer: the
    /// lowest latency where CPUs are to spare, but bulk data takes several times the CPU time. The kernel's threads sleep
    /// when nothing came for a millisecond. Where the kernel does not permit it, queues go on without.
    pub fn sqpoll(mut self, polled: bool) -> Self {
        self.sqpoll = polled;
        self
    }

    /// How long requests may take to end after the kernel has gone (default 30 s), before the session ends without
    /// them.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Makes starting the queues of io_uring fail half-way, for tests of the way back.
    #[doc(hidden)]
    pub fn fail_queues(mut self) -> Self {
        self.fault = true;
        self
    }

    /// Makes it seem that SQPOLL is not permitted, for tests of what follows.
    #[doc(hidden)]
    pub fn refuse_sqpoll(mut self) -> Self {
        self.refuse_sqpoll = true;
        self
    }

    /// How channels wait for requests (default: they block).
    pub fn wait(mut self, policy: WaitPolicy) -> Self {
        self.wait = policy;
        self
    }

    /// Mounts on `path` and starts serving. Blocks until the kernel and the file system have agreed.
    pub fn mount(self, path: impl AsRef<Path>) -> Result<Session, MountError> {
        let mounted = mount::mount(path.as_ref(), &self.mount)?;
        let path = mounted.path.clone();
        let connection = Connection::of(&path)
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "the mount cannot be aborted"),
            )
            .ok();
        self.serve(mounted, connection.clone()).inspect_err(|_| {
            // The connection may have begun, with nobody to serve it.
            if connection.is_none_or(|connection| connection.abort().is_err()) {
                // Without the right to abort it, at least nobody new gets there.
                let _ = mount::unmount_with(&path, true);
            }
        })
    }

    /// Serves a connection that someone else has mounted, given its device descriptor, from INIT on. The session does
    /// not unmount. More than one channel needs a real device; any other packet socket serves for tests.
    pub fn attach(self, device: OwnedFd) -> Result<Session, MountError> {
        self.serve(Mounted { device, path: PathBuf::new(), _auto_unmount: None }, None)
    }

    fn serve(mut self, mounted: Mounted, connection: Option<Connection>) -> Result<Session, MountError> {
        let Mounted { device, path, _auto_unmount } = mounted;
        let device = Arc::new(device);
        let notify = notify::Inner::start(device.clone(), self.notify_threads)?;
        let (mut workers, mut fallback) = self.prepare_queues(&device, connection.is_some());
        let most = self.channels.max(workers.len() + 1);
        let mut runtimes = Spare::new(most)?;
        let mut negotiated = self.handshake(&device, notify.notifier(), most)?;
        if !workers.is_empty()
            && let Err(reason) = self.start_queues(&workers, &negotiated)
        {
            fallback = Some(reason);
            workers.clear();
            negotiated.flags = negotiated.flags - InitFlags::OVER_IO_URING;
        }
        let uring = !workers.is_empty();
        if let (Some(reason), false) = (&fallback, uring) {
            self.tell_why_not(reason);
        }
        let sqpoll = uring && workers.iter().all(|worker| worker.queue.is_polled());
        let transport = if uring { Transport::Uring } else { Transport::Classic };
        // Before the channels measure what a wake-up costs.
        let pm_qos = hold_pm_qos(&self.wait);
        let lanes = self.lanes(&device, &workers)?;
        let (wait, waiting) = (lanes[0].wait.clone(), if uring { workers.len() } else { lanes.len() });
        let pool = Pool::new(negotiated.max_write as usize, self.buffers.max(2 * lanes.len()));
        let per_lane = lanes.iter().map(|lane| (lane.stats.clone(), lane.inflight.clone())).collect();
        let stats = Stats::new(per_lane, waiting, pool.clone());
        let shared = Arc::new(Shared {
            fs: self.fs,
            shape: Shape::new(negotiated.flags),
            pool,
            notify: notify.clone(),
            lanes: lanes.clone(),
        });
        let (finish, ends) = Finish::new(lanes.len(), uring, self.drain_timeout, connection.clone());
        let finish = Arc::new(finish);
        let mut threads = Vec::new();
        let queues = workers.iter().map(|worker| Arc::downgrade(&worker.queue)).collect();
        let mut workers = workers.into_iter();
        for (index, (lane, runtime)) in lanes.into_iter().zip(&mut runtimes.0).enumerate() {
            let (shared, finish, hook) = (shared.clone(), finish.clone(), self.on_channel_start.clone());
            let main = move || {
                let runtime = Arc::new(runtime);
                if let Some(hook) = hook {
                    runtime.block_on(async { hook(index) });
                }
                run::run(&runtime, index, &shared, &lane, &finish);
                // What requests hold goes before their queue does.
                drop(runtime);
                if let Port::Queue(queue) = &lane.port {
                    uring::finish(queue);
                }
            };
            match workers.next() {
                Some(worker) => {
                    worker.run(main);
                    threads.push(worker.thread);
                }
                None => {
                    let name = if uring { "fuse-side".to_owned() } else { format!("fuse-{index}") };
                    let thread = std::thread::Builder::new().name(name).stack_size(STACK);
                    threads.push(thread.spawn(main)?);
                }
            }
        }
        Ok(Session {
            path,
            connection,
            negotiated,
            stats,
            wait: WaitHandle(wait),
            transport: InUse { transport, sqpoll, fallback },
            notify,
            ends,
            threads: Mutex::new(threads),
            queues,
            _mounted: _auto_unmount,
            _pm_qos: pm_qos,
        })
    }

    fn tell_why_not(&self, reason: &str) {
        match self.transport {
            Transport::Auto => tracing::info!(reason, "FUSE over io_uring is not used"),
            _ => tracing::warn!(reason, "FUSE over io_uring is not used"),
        }
    }

    /// Threads with rings, if io_uring is wanted and possible as far as can be told before INIT; else why not.
    fn prepare_queues(&mut self, device: &Arc<OwnedFd>, can_abort: bool) -> (Vec<Worker>, Option<String>) {
        self.init.want = self.init.want - InitFlags::OVER_IO_URING;
        if self.transport == Transport::Classic {
            return (Vec::new(), None);
        }
        if !can_abort {
            return (
                Vec::new(),
                Some("the session does not know its mount, which it may have to abort".into()),
            );
        }
        if let (Transport::Auto, Err(reason)) = (self.transport, choice::is_worthwhile()) {
            return (Vec::new(), Some(reason));
        }
        let mut refused = None;
        let mut prepared = match self.sqpoll && self.refuse_sqpoll {
            true => Err("a test does not permit it".to_owned()),
            false => start::prepare(device, self.queue_depth, self.sqpoll),
        };
        if let (Err(reason), true) = (&prepared, self.sqpoll) {
            tracing::warn!(reason, "no SQPOLL rings");
            refused = Some(format!("no SQPOLL rings: {reason}"));
            prepared = start::prepare(device, self.queue_depth, false);
        }
        match prepared {
            Ok(workers) => {
                self.init.want |= InitFlags::OVER_IO_URING | InitFlags::INIT_EXT;
                (workers, refused)
            }
            Err(reason) => (Vec::new(), Some(reason)),
        }
    }

    fn start_queues(&self, workers: &[Worker], negotiated: &Negotiated) -> Result<(), String> {
        if !negotiated.flags.contains(InitFlags::OVER_IO_URING) {
            return Err(choice::NOT_OFFERED.into());
        }
        start::register(workers, negotiated, self.queue_depth, self.fault)
    }

    /// A lane for each queue and one for the device; or one for each classic channel.
    fn lanes(&self, device: &Arc<OwnedFd>, workers: &[Worker]) -> io::Result<Vec<Arc<Lane>>> {
        let classic = if workers.is_empty() { self.channels } else { 1 };
        let waiting = if workers.is_empty() { classic } else { workers.len() };
        let stats: Vec<_> = (0..workers.len() + classic).map(|_| Arc::new(ChannelStats::new())).collect();
        let wait = WaitState::new(&self.wait, stats[..waiting].to_vec());
        let mut lanes = Vec::new();
        for (index, stats) in stats.into_iter().enumerate() {
            let worker = workers.get(index);
            let fd = match (index, worker) {
                // The first descriptor is the mount's own, the others are clones.
                (0, _) | (_, Some(_)) => device.clone(),
                _ if !workers.is_empty() => device.clone(),
                _ => Arc::new(device::clone(device)?),
            };
            device::set_nonblocking(&fd, true)?;
            // What serves the device beside the queues has no request worth spinning for.
            let wait = if index < waiting {
                wait.clone()
            } else {
                WaitState::new(&WaitPolicy::default(), Vec::new())
            };
            let (port, room) = match worker {
                // Handlers whose callers were let go keep their places, while their entries are used again.
                Some(worker) => (
                    Port::Queue(worker.queue.clone()),
                    16 * u32::from(self.queue_depth.unwrap_or(choice::DEPTH).max(1)),
                ),
                None => (Port::Device, self.max_in_flight),
            };
            lanes.push(Arc::new(Lane { fd, port, stats, inflight: Inflight::new(room), wait }));
        }
        Ok(lanes)
    }

    /// Reads INIT and answers it.
    fn handshake(
        &self,
        device: &OwnedFd,
        notifier: Notifier,
        channels: usize,
    ) -> Result<Negotiated, MountError> {
        if !device::wait_readable(device, INIT_TIMEOUT)? {
            return Err(MountError::NoInit(INIT_TIMEOUT));
        }
        let mut request = vec![0; crate::abi::MIN_READ_BUFFER];
        let len = rustix::io::read(device, &mut request).map_err(io::Error::from)?;
        let (header, body, _) = decode::split(&request[..len]).map_err(|_| init::InitError::NotInit)?;
        if header.opcode != Opcode::Init.code() {
            return Err(init::InitError::NotInit.into());
        }
        let refuse = |header: &InHeader, errno: i32| {
            let _ = device::send(device, header.unique, -errno, &[]);
        };
        let offer = init::Offer::decode(body)?;
        let (negotiated, reply) = init::negotiate(&offer, &self.init, init::max_pages_limit())
            .inspect_err(|_| refuse(&header, libc::EPROTO))?;
        let info = SessionInfo { negotiated: negotiated.clone(), notifier, channels };
        if let Err(errno) = self.fs.init(&info) {
            refuse(&header, errno.0);
            return Err(MountError::Refused(errno));
        }
        device::send(device, header.unique, 0, &[IoSlice::new(reply.as_bytes())])?;
        capability::report(&negotiated.missing);
        tracing::debug!(?negotiated, "FUSE session established");
        Ok(negotiated)
    }
}

/// Runtimes made in advance, so that a start that succeeds so far does not fail for want of them. Those left over end
/// without being waited for: the session may be started from within another runtime, where waiting is not allowed.
struct Spare(std::vec::IntoIter<Runtime>);

impl Spare {
    fn new(count: usize) -> io::Result<Self> {
        let mut made = Spare(Vec::new().into_iter());
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => all.push(runtime),
                Err(error) => {
                    made.0 = all.into_iter();
                    return Err(error);
                }
            }
        }
        made.0 = all.into_iter();
        Ok(made)
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.0.by_ref().for_each(Runtime::shutdown_background);
    }
}

/// The guard, if it is wanted and allowed.
fn hold_pm_qos(policy: &WaitPolicy) -> Option<PmQosGuard> {
    if !policy.pm_qos {
        return None;
    }
    PmQosGuard::hold()
        .inspect_err(|error| {
            tracing::warn!(%error, "idle CPUs will sleep: /dev/cpu_dma_latency cannot be held (it needs root)");
        })
        .ok()
}

impl Session {
    /// Where the file system is mounted; empty after [`SessionBuilder::attach`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The outcome of INIT.
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Sends notifications.
    pub fn notifier(&self) -> Notifier {
        self.notify.notifier()
    }

    /// Live statistics.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The transport in use.
    pub fn transport(&self) -> &InUse {
        &self.transport
    }

    /// Makes the queues of io_uring fail, for tests of what follows.
    #[doc(hidden)]
    pub fn break_queues(&self) {
        self.queues.iter().filter_map(Weak::upgrade).for_each(|queue| queue.break_it());
    }

    /// Reads and changes how channels wait; it may be kept elsewhere.
    pub fn wait_handle(&self) -> WaitHandle {
        self.wait.clone()
    }

    /// Whether the session has ended: unmounted or aborted, and `destroy` done.
    pub fn is_ended(&self) -> bool {
        *self.ends.ended.borrow()
    }

    /// Whether the kernel has ended the connection. What it asked for before may still be at work.
    pub fn is_gone(&self) -> bool {
        *self.ends.gone.borrow()
    }

    /// Completes when the session has ended.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.ends.ended.clone();
        async move {
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// Unmounts, or detaches if files are in use. The session ends when the last user is gone.
    ///
    /// # Errors
    /// `EINVAL` if it is mounted there no more, even if something else is.
    pub fn unmount(&self) -> io::Result<Unmounted> {
        if !self.is_mounted() {
            return Err(rustix::io::Errno::INVAL.into());
        }
        mount::unmount(&self.path)
    }

    /// Whether the path still leads here, as far as that can be told.
    fn is_mounted(&self) -> bool {
        // The number of a connection that has ended may be another's by now.
        !self.is_gone()
            && !self.path.as_os_str().is_empty()
            && self.connection.as_ref().is_none_or(Connection::is_on_top)
    }

    /// Fails all requests and ends the session, whoever still uses it.
    pub fn abort(&self) -> io::Result<()> {
        // The number of a connection that has ended may be another's by now.
        let connection = self.connection.as_ref().filter(|_| !self.is_gone());
        connection.ok_or(io::ErrorKind::NotFound)?.abort()
    }

    /// Blocks until the session has ended and its threads are gone.
    pub fn wait(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a channel thread panicked");
            }
        }
    }

    /// Unmounts and waits for the end. If files are in use, the mount is only detached, and serving goes on in the
    /// background until they are closed.
    pub fn close(self) -> io::Result<Unmounted> {
        let outcome = self.unmount()?;
        if outcome == Unmounted::Clean {
            self.wait();
        }
        Ok(outcome)
    }

    /// Sets the kernel's readahead for this mount. INIT can only lower it, so this needs root.
    pub fn set_readahead_kb(&self, kib: u32) -> io::Result<()> {
        let table = mount::mounts()?;
        let entry = table.iter().rev().find(|entry| entry.mount_point == self.path && entry.is_fuse());
        let device = &entry.ok_or(io::ErrorKind::NotFound)?.device;
        std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.is_ended()
            && self.is_mounted()
            && let Err(error) = mount::unmount_with(&self.path, true)
            // It may have been unmounted already and only wait for its last user.
            && error.raw_os_error() != Some(libc::EINVAL)
        {
            tracing::warn!(path = %self.path.display(), %error, "detaching a dropped mount");
        }
    }
}
