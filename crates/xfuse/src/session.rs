//! A mounted file system: INIT, the channel threads, and the end.

use crate::abi::{InHeader, Opcode, Pod};
use crate::buffer::Pool;
use crate::channel::classic;
use crate::decode::{self, Shape};
use crate::device;
use crate::dispatch::{Lane, Shared};
use crate::fs::{Filesystem, SessionInfo};
use crate::inflight::Inflight;
use crate::init::{self, InitConfig, Negotiated};
use crate::mount::{self, MountError, MountOptions, Mounted, Unmounted};
use crate::notify::{self, Notifier};
use crate::stats::{ChannelStats, Stats};
use crate::transport::{InUse, Transport};
use crate::wait::pm_qos::PmQosGuard;
use crate::wait::{WaitHandle, WaitPolicy, WaitState};
use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Barrier, watch};

/// How long the kernel may take to send INIT; it does so right after the mount.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests may take to end after the kernel has gone.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

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
}

/// A mounted file system being served. Dropping it detaches the mount.
pub struct Session {
    path: PathBuf,
    negotiated: Negotiated,
    stats: Stats,
    wait: WaitHandle,
    transport: InUse,
    notify: Arc<notify::Inner>,
    ended: watch::Receiver<bool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
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
    pub fn on_channel_start(mut self, hook: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.on_channel_start = Some(Arc::new(hook));
        self
    }

    /// How requests travel (default: [`Transport::Auto`]). What the kernel does not offer falls back to classic.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
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
        self.serve(mounted).inspect_err(|_| {
            let _ = mount::unmount_with(&path, true);
        })
    }

    /// Serves a connection that someone else has mounted, given its device descriptor, from INIT on. The session does
    /// not unmount. More than one channel needs a real device; any other packet socket serves for tests.
    pub fn attach(self, device: OwnedFd) -> Result<Session, MountError> {
        self.serve(Mounted { device, path: PathBuf::new(), _auto_unmount: None })
    }

    fn serve(self, mounted: Mounted) -> Result<Session, MountError> {
        let Mounted { device, path, _auto_unmount } = mounted;
        let device = Arc::new(device);
        let notify = notify::Inner::start(device.clone(), self.notify_threads)?;
        let negotiated = self.handshake(&device, notify.notifier())?;
        let pool = Pool::new(negotiated.max_write as usize, self.buffers.max(2 * self.channels));
        let lanes = open_lanes(&device, self.channels, self.max_in_flight)?;
        let wait = WaitState::new(&self.wait, lanes.iter().map(|lane| lane.stats.clone()).collect());
        let pm_qos = hold_pm_qos(&self.wait);
        let fallback = (self.transport == Transport::Uring).then(|| "io_uring is not built in yet".to_owned());
        let transport = InUse { transport: Transport::Classic, fallback };
        if let Some(reason) = &transport.fallback {
            tracing::warn!(reason, "FUSE over io_uring is not used");
        }
        let per_lane = lanes.iter().map(|lane| (lane.stats.clone(), lane.inflight.clone())).collect();
        let stats = Stats::new(per_lane, pool.clone());
        let shared = Arc::new(Shared {
            fs: self.fs,
            shape: Shape::new(negotiated.flags),
            pool,
            notify: notify.clone(),
            inflight: lanes.iter().map(|lane| lane.inflight.clone()).collect(),
            wait: wait.clone(),
        });
        let (end, ended) = watch::channel(false);
        let finish = Arc::new(Finish { barrier: Barrier::new(lanes.len()), end });
        let mut threads = Vec::new();
        for (index, lane) in lanes.into_iter().enumerate() {
            let (shared, finish, hook) = (shared.clone(), finish.clone(), self.on_channel_start.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let main = move || {
                runtime.block_on(async {
                    if let Some(hook) = hook {
                        hook(index);
                    }
                    run_channel(index, &shared, &lane, &finish).await;
                });
            };
            threads.push(std::thread::Builder::new().name(format!("fuse-{index}")).spawn(main)?);
        }
        let threads = Mutex::new(threads);
        Ok(Session {
            path,
            negotiated,
            stats,
            wait: WaitHandle(wait),
            transport,
            notify,
            ended,
            threads,
            _mounted: _auto_unmount,
            _pm_qos: pm_qos,
        })
    }

    /// Reads INIT and answers it.
    fn handshake(&self, device: &OwnedFd, notifier: Notifier) -> Result<Negotiated, MountError> {
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
        let info = SessionInfo { negotiated: negotiated.clone(), notifier, channels: self.channels };
        if let Err(errno) = self.fs.init(&info) {
            refuse(&header, errno.0);
            return Err(MountError::Refused(errno));
        }
        device::send(device, header.unique, 0, &[IoSlice::new(reply.as_bytes())])?;
        tracing::debug!(?negotiated, "FUSE session established");
        Ok(negotiated)
    }
}

/// One descriptor per channel: the first is the mount's own, the others are clones.
fn open_lanes(device: &Arc<OwnedFd>, count: usize, max_in_flight: u32) -> io::Result<Vec<Arc<Lane>>> {
    (0..count)
        .map(|index| {
            let fd = if index == 0 { device.clone() } else { Arc::new(device::clone(device)?) };
            device::set_nonblocking(&fd)?;
            let (stats, inflight) = (Arc::new(ChannelStats::new()), Inflight::new(max_in_flight));
            Ok(Arc::new(Lane { fd, stats, inflight }))
        })
        .collect()
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

/// Brings the channels together at the end.
struct Finish {
    barrier: Barrier,
    end: watch::Sender<bool>,
}

async fn run_channel<F: Filesystem>(
    index: usize,
    shared: &Arc<Shared<F>>,
    lane: &Arc<Lane>,
    finish: &Finish,
) {
    match classic::serve(index, shared, lane).await {
        Ok(classic::End::Gone) => tracing::debug!(index, "the kernel has gone"),
        // Other channels go on; this one only helps with the end.
        Err(error) => tracing::error!(index, %error, "channel failed"),
    }
    if tokio::time::timeout(DRAIN_TIMEOUT, lane.inflight.drained()).await.is_err() {
        tracing::error!(index, "requests still unfinished after the kernel has gone");
    }
    // All channels' tasks keep running until `destroy` has finished.
    if finish.barrier.wait().await.is_leader() {
        shared.fs.destroy().await;
        finish.end.send_replace(true);
    }
    let _ = finish.end.subscribe().wait_for(|ended| *ended).await;
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

    /// Reads and changes how channels wait; it may be kept elsewhere.
    pub fn wait_handle(&self) -> WaitHandle {
        self.wait.clone()
    }

    /// Whether the session has ended: unmounted or aborted, and `destroy` done.
    pub fn is_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Completes when the session has ended.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.ended.clone();
        async move {
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// Unmounts, or detaches if files are in use. The session ends when the last user is gone.
    pub fn unmount(&self) -> io::Result<Unmounted> {
        mount::unmount(&self.path)
    }

    /// Fails all requests and ends the session, whoever still uses it.
    pub fn abort(&self) -> io::Result<()> {
        mount::abort(&self.path)
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
            && !self.path.as_os_str().is_empty()
            && let Err(error) = mount::unmount_with(&self.path, true)
            // It may have been unmounted already and only wait for its last user.
            && error.raw_os_error() != Some(libc::EINVAL)
        {
            tracing::warn!(path = %self.path.display(), %error, "detaching a dropped mount");
        }
    }
}
