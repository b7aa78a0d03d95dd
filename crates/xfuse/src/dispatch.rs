//! From a request's bytes to the handler, and from its result to the reply.

use crate::abi::{self, InHeader, Opcode};
use crate::buffer::Pool;
use crate::channel::uring::{self, Lent};
use crate::context::Context;
use crate::decode::{self, Body, Decode, DecodeError, Shape};
use crate::device;
use crate::errno::Errno;
use crate::fs::Filesystem;
use crate::inflight::{Inflight, SlotGuard};
use crate::interrupt::{self, Interrupt};
use crate::notify::{self, Retrieved};
use crate::payload::Rooms;
use crate::reply::{Copied, Given, Reply, Sink, Written};
use crate::request::*;
use crate::stats::ChannelStats;
use crate::wait::WaitState;
use bytes::Bytes;
use rustix::fd::OwnedFd;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll as TaskPoll, Waker};
use tokio::time::Instant;

/// What all channels of a session share.
pub(crate) struct Shared<F> {
    pub(crate) fs: F,
    pub(crate) shape: Shape,
    pub(crate) pool: Pool,
    pub(crate) notify: Arc<notify::Inner>,
    pub(crate) lanes: Vec<Arc<Lane>>,
}

/// What belongs to one channel.
pub(crate) struct Lane {
    /// The channel's descriptor; for a queue, the one that interrupts are answered on.
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) port: Port,
    pub(crate) stats: Arc<ChannelStats>,
    pub(crate) inflight: Arc<Inflight>,
    pub(crate) wait: Arc<WaitState>,
}

/// Where a channel's requests come from.
pub(crate) enum Port {
    /// Its descriptor of the device.
    Device,
    /// A queue of io_uring.
    Queue(Arc<uring::Queue>),
}

/// Where the answer to one request goes.
pub(crate) enum Route {
    /// The descriptor that it was read from.
    Device,
    /// The entry that it arrived in.
    Entry(uring::Ticket),
}

impl From<uring::Ticket> for Route {
    fn from(ticket: uring::Ticket) -> Self {
        Route::Entry(ticket)
    }
}

/// Largest error number that a FUSE reply may carry.
const MAX_ERRNO: i32 = 511;

/// Requests up to this size leave the page-aligned buffer, so that the next read uses the same, cached memory.
pub(crate) const SMALL: usize = 256;

/// The bytes of one request.
#[allow(clippy::large_enum_variant)] // The small variant is meant to live inside the task, without an allocation.
pub(crate) enum RequestBytes {
    /// A copy in the task itself.
    Small([u8; SMALL], u16),
    /// The page-aligned buffer.
    Large(Bytes),
    /// In the entry that it arrived in, which cannot be answered as long as this exists.
    Lent(Bytes),
}

impl RequestBytes {
    pub(crate) fn small(request: &[u8]) -> Self {
        let mut copy = [0; SMALL];
        copy[..request.len()].copy_from_slice(request);
        RequestBytes::Small(copy, request.len() as u16)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            RequestBytes::Small(bytes, len) => &bytes[..usize::from(*len)],
            RequestBytes::Large(bytes) | RequestBytes::Lent(bytes) => bytes,
        }
    }
}

/// One request being handled.
struct Job<F> {
    shared: Arc<Shared<F>>,
    lane: Arc<Lane>,
    header: InHeader,
    opcode: Opcode,
    request: RequestBytes,
    cx: Context,
    route: Route,
    /// If its latency is measured.
    started: Option<Instant>,
}

/// Answers one request on its channel.
struct Replier<'a> {
    lane: &'a Lane,
    route: &'a Route,
    unique: u64,
}

impl Sink for Replier<'_> {
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.lane.send(self.route, self.unique, 0, parts)
    }

    fn send_lent(&self, lent: &Lent, len: usize) -> io::Result<()> {
        match self.route {
            Route::Entry(ticket) => ticket.send_lent(lent, len),
            Route::Device => self.send(&[IoSlice::new(&lent.as_ref()[..len])]),
        }
    }
}

impl Lane {
    fn send(&self, route: &Route, unique: u64, error: i32, parts: &[IoSlice<'_>]) -> io::Result<()> {
        match route {
            Route::Device => device::send(&self.fd, unique, error, parts),
            Route::Entry(ticket) => ticket.send(error, parts),
        }
    }

    /// Sends an error reply; failures are only counted, the kernel has then given up the request.
    fn send_error(&self, route: &Route, unique: u64, errno: Errno) {
        let result = self.send(route, unique, -errno.0, &[]);
        self.count_failure(unique, result);
    }

    fn count_failure(&self, unique: u64, result: io::Result<()>) -> bool {
        let Err(error) = result else { return false };
        match error.raw_os_error() {
            // The caller was killed, or the connection has ended.
            Some(libc::ENOENT | libc::ENODEV | libc::ECONNABORTED | libc::ENOTCONN) => {
                self.stats.late_replies.fetch_add(1, Relaxed);
                false
            }
            _ => {
                self.stats.refused_replies.fetch_add(1, Relaxed);
                tracing::error!(unique, %error, "the kernel refused a reply");
                true
            }
        }
    }
}

impl<F: Filesystem> Job<F> {
    fn decode<'a, R: Decode<'a>>(&'a self) -> Result<R, DecodeError> {
        let bytes = self.request.bytes();
        let (_, body, _) = decode::split(bytes)?;
        let mut body = match &self.request {
            RequestBytes::Small(..) => Body::new(body),
            RequestBytes::Large(base) => Body::in_buffer(body, base),
            RequestBytes::Lent(base) => Body::lent(body, base, &self.shared.pool),
        };
        R::decode(&self.header, &mut body, self.shared.shape)
    }

    /// Decodes the arguments and runs the handler.
    async fn run<'a, R, T, H, Fut>(&'a self, handler: H) -> Result<T, Errno>
    where
        R: Decode<'a>,
        H: FnOnce(&'a F, &'a Context, R) -> Fut,
        Fut: Future<Output = Result<T, Errno>>,
    {
        self.handle(self.decode::<R>(), handler).await
    }

    /// Runs the handler on decoded arguments.
    async fn handle<'a, R, T, H, Fut>(
        &'a self,
        request: Result<R, DecodeError>,
        handler: H,
    ) -> Result<T, Errno>
    where
        H: FnOnce(&'a F, &'a Context, R) -> Fut,
        Fut: Future<Output = Result<T, Errno>>,
    {
        match request {
            Ok(request) => {
                self.contain(async move { handler(&self.shared.fs, &self.cx, request).await }).await
            }
            Err(error) => {
                self.lane.stats.malformed.fetch_add(1, Relaxed);
                tracing::error!(opcode = self.opcode.name(), unique = self.header.unique, %error, "malformed request");
                Err(Errno::EINVAL)
            }
        }
    }

    /// Turns a panic of the handler into `EIO`.
    async fn contain<T>(&self, handler: impl Future<Output = Result<T, Errno>>) -> Result<T, Errno> {
        let mut handler = pin!(handler);
        poll_fn(|task| {
            catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(task))).unwrap_or_else(|_| {
                self.lane.stats.panics.fetch_add(1, Relaxed);
                tracing::error!(opcode = self.opcode.name(), unique = self.header.unique, "handler panicked");
                TaskPoll::Ready(Err(Errno::EIO))
            })
        })
        .await
    }

    /// The errno as the kernel takes it; it would refuse any other.
    fn contained(&self, errno: Errno) -> Errno {
        if (1..=MAX_ERRNO).contains(&errno.0) {
            return errno;
        }
        self.lane.stats.bad_errnos.fetch_add(1, Relaxed);
        tracing::error!(opcode = self.opcode.name(), errno = errno.0, "a handler returned no errno");
        Errno::EIO
    }

    /// The kernel has not taken the reply, so it will never forget or release what that gave it.
    fn take_back(&self, given: Given) {
        // CREATE's own inode, else the one that was opened.
        let ino = given.nodes.first().copied().unwrap_or(self.header.nodeid);
        for node in given.nodes {
            let forget = || self.shared.fs.forget(node, 1);
            if catch_unwind(AssertUnwindSafe(forget)).is_err() {
                self.lane.stats.panics.fetch_add(1, Relaxed);
            }
        }
        let Some(fh) = given.handle else { return };
        let (shared, opcode) = (self.shared.clone(), self.opcode);
        let InHeader { uid, gid, pid, .. } = self.header;
        tokio::spawn(async move {
            let cx = Context::detached(uid, gid, pid);
            let release = Release { ino, fh, flags: 0, flush: false, flock_owner: None };
            let _ = match opcode {
                Opcode::Opendir => shared.fs.releasedir(&cx, release).await,
                _ => shared.fs.release(&cx, release).await,
            };
        });
    }

    fn record(&self, failed: bool) {
        self.lane.stats.record(self.opcode, self.started.map(|started| started.elapsed()), failed);
    }

    fn answer<T: Reply>(&self, outcome: Result<T, Errno>) {
        let unique = self.header.unique;
        // Before the reply, so that a caller who has got it finds it counted.
        self.record(outcome.is_err());
        match outcome {
            Ok(reply) => {
                let sent = reply.reply(&Replier { lane: &self.lane, route: &self.route, unique });
                let failed = sent.is_err();
                let refused = self.lane.count_failure(unique, sent);
                if failed {
                    self.take_back(reply.given());
                }
                if refused {
                    self.lane.send_error(&self.route, unique, Errno::EIO);
                }
            }
            Err(errno) => self.lane.send_error(&self.route, unique, self.contained(errno)),
        }
    }
}

/// Runs a task until it first has to wait, and only then spawns it: requests that need no waiting are answered without
/// a detour through the scheduler.
fn launch(task: impl Future<Output = ()> + Send + 'static) {
    let mut task = Box::pin(task);
    let mut poll_once = std::task::Context::from_waker(Waker::noop());
    if task.as_mut().poll(&mut poll_once).is_pending() {
        // The spawned task is polled again soon, which registers its own waker.
        tokio::spawn(task);
    }
}

/// Handles one request that was read on `lane`; returns as soon as it is answered or has to wait.
pub(crate) fn dispatch<F: Filesystem>(
    shared: &Arc<Shared<F>>,
    lane: &Arc<Lane>,
    request: RequestBytes,
    slot: SlotGuard,
    route: Route,
) {
    dispatch_at(None, shared, lane, request, slot, route);
}

/// The same for a request that was read at `started`, if that is known.
pub(crate) fn dispatch_at<F: Filesystem>(
    started: Option<Instant>,
    shared: &Arc<Shared<F>>,
    lane: &Arc<Lane>,
    request: RequestBytes,
    slot: SlotGuard,
    route: Route,
) {
    let (header, groups) = match decode::split(request.bytes())
        .and_then(|(header, _, extensions)| Ok((header, decode::supplementary_groups(extensions)?)))
    {
        Ok(split) => split,
        Err(error) => return refuse_request(lane, &route, request, error),
    };
    let Some(opcode) = Opcode::from_code(header.opcode) else {
        lane.stats.unknown.fetch_add(1, Relaxed);
        tracing::debug!(opcode = header.opcode, "unknown operation");
        return lane.send_error(&route, header.unique, Errno::ENOSYS);
    };
    let started = lane.stats.begin(opcode).then(|| started.unwrap_or_else(Instant::now));
    let mut cx = Context::new(&header, groups, slot);
    if opcode == Opcode::Read {
        cx = cx.with_rooms(rooms(shared, &route));
    }
    let (shared, lane) = (shared.clone(), lane.clone());
    start(Job { shared, lane, header, opcode, request, cx, route, started });
}

/// Where the answer to a READ can be made.
fn rooms<F>(shared: &Shared<F>, route: &Route) -> Rooms {
    let entry = match route {
        Route::Entry(ticket) => Some(ticket.room()),
        Route::Device => None,
    };
    Rooms::new(shared.pool.clone(), entry)
}

/// Answers a request whose header or extensions make no sense.
fn refuse_request(lane: &Lane, route: &Route, request: RequestBytes, error: DecodeError) {
    let unique = <InHeader as abi::Pod>::read_from(request.bytes()).map(|header| header.unique);
    let len = request.bytes().len();
    // It may lie where the answer goes.
    drop(request);
    refuse(lane, route, unique, len, error);
}

/// Counts a request that makes no sense, and answers it if that is possible.
pub(crate) fn refuse(lane: &Lane, route: &Route, unique: Option<u64>, len: usize, error: DecodeError) {
    lane.stats.malformed.fetch_add(1, Relaxed);
    tracing::error!(len, %error, "malformed request");
    if let Some(unique) = unique {
        lane.send_error(route, unique, Errno::EIO);
    }
}

/// Starts the handler of the request's operation.
fn start<F: Filesystem>(job: Job<F>) {
    macro_rules! to {
        ($method:ident: $request:ty) => {
            launch(async move {
                let outcome = job.run(|fs, cx, request: $request| fs.$method(cx, request)).await;
                job.answer(outcome);
            })
        };
    }
    match job.opcode {
        Opcode::Lookup => to!(lookup: Lookup),
        Opcode::Getattr => to!(getattr: Getattr),
        Opcode::Statx => to!(statx: Statx),
        Opcode::Setattr => to!(setattr: Setattr),
        Opcode::Readlink => to!(readlink: Readlink),
        Opcode::Symlink => to!(symlink: Symlink),
        Opcode::Mknod => to!(mknod: Mknod),
        Opcode::Mkdir => to!(mkdir: Mkdir),
        Opcode::Unlink => to!(unlink: Unlink),
        Opcode::Rmdir => to!(rmdir: Rmdir),
        Opcode::Rename | Opcode::Rename2 => to!(rename: Rename),
        Opcode::Link => to!(link: Link),
        Opcode::Open => to!(open: Open),
        Opcode::Create => to!(create: Create),
        Opcode::Tmpfile => to!(tmpfile: Tmpfile),
        Opcode::Read => to!(read: Read),
        Opcode::Write => write(job),
        Opcode::Statfs => to!(statfs: Statfs),
        Opcode::Flush => to!(flush: Flush),
        Opcode::Release => to!(release: Release),
        Opcode::Fsync => to!(fsync: Fsync),
        Opcode::Setxattr => to!(setxattr: Setxattr),
        Opcode::Getxattr => to!(getxattr: Getxattr),
        Opcode::Listxattr => to!(listxattr: Listxattr),
        Opcode::Removexattr => to!(removexattr: Removexattr),
        Opcode::Opendir => to!(opendir: Open),
        Opcode::Readdir => to!(readdir: Readdir),
        Opcode::Readdirplus => to!(readdirplus: Readdir),
        Opcode::Releasedir => to!(releasedir: Release),
        Opcode::Fsyncdir => to!(fsyncdir: Fsync),
        Opcode::Getlk => to!(getlk: Lk),
        Opcode::Setlk => to!(setlk: Lk),
        Opcode::Setlkw => to!(setlkw: Lk),
        Opcode::Access => to!(access: Access),
        Opcode::Bmap => to!(bmap: Bmap),
        Opcode::Ioctl => to!(ioctl: Ioctl),
        Opcode::Poll => to!(poll: Poll),
        Opcode::Fallocate => to!(fallocate: Fallocate),
        Opcode::Lseek => to!(lseek: Lseek),
        Opcode::CopyFileRange => launch(async move {
            let copied = job.run(|fs, cx, request: CopyFileRange| fs.copy_file_range(cx, request)).await;
            job.answer(copied.map(|Copied(bytes)| Written(u32::try_from(bytes).unwrap_or(u32::MAX))));
        }),
        Opcode::CopyFileRange64 => to!(copy_file_range: CopyFileRange),
        Opcode::Setupmapping => to!(setupmapping: Setupmapping),
        Opcode::Removemapping => to!(removemapping: Removemapping),
        Opcode::Syncfs => to!(syncfs: Syncfs),
        Opcode::Forget | Opcode::BatchForget => forget(&job),
        Opcode::Interrupt => match job.decode::<Interrupt>() {
            Ok(Interrupt(target)) => interrupt::deliver(job.shared, job.lane, job.header.unique, target),
            Err(_) => drop(job.lane.stats.malformed.fetch_add(1, Relaxed)),
        },
        Opcode::NotifyReply => notify_reply(&job),
        Opcode::Destroy => job.answer(Ok(())),
        Opcode::Init | Opcode::CuseInit => job.answer::<()>(Err(Errno::EIO)),
    }
}

fn write<F: Filesystem>(mut job: Job<F>) {
    launch(async move {
        let request = job.decode::<Write>();
        // From here on only the handler has the data.
        job.request = RequestBytes::small(&[]);
        let outcome = job.handle(request, |fs, cx, request| fs.write(cx, request)).await;
        job.answer(outcome);
    });
}

fn forget<F: Filesystem>(job: &Job<F>) {
    struct Forgets(Vec<abi::ForgetOne>);
    impl<'a> Decode<'a> for Forgets {
        fn decode(header: &InHeader, body: &mut Body<'a>, _: Shape) -> Result<Self, DecodeError> {
            decode_forgets(header, body).map(Forgets)
        }
    }
    match job.decode::<Forgets>() {
        Ok(Forgets(list)) => {
            let apply = || list.iter().for_each(|one| job.shared.fs.forget(one.nodeid, one.nlookup));
            if catch_unwind(AssertUnwindSafe(apply)).is_err() {
                job.lane.stats.panics.fetch_add(1, Relaxed);
            }
        }
        Err(error) => {
            job.lane.stats.malformed.fetch_add(1, Relaxed);
            tracing::error!(%error, "malformed forget");
        }
    }
    job.record(false);
}

fn notify_reply<F: Filesystem>(job: &Job<F>) {
    struct Pages(Retrieved);
    impl<'a> Decode<'a> for Pages {
        fn decode(_: &InHeader, body: &mut Body<'a>, _: Shape) -> Result<Self, DecodeError> {
            let arg: abi::NotifyRetrieveIn = body.take()?;
            let data = body.payload((arg.size as usize).min(body.remaining()))?;
            Ok(Pages(Retrieved { offset: arg.offset, data }))
        }
    }
    match job.decode::<Pages>() {
        Ok(Pages(retrieved)) => job.shared.notify.retrieved(job.header.unique, retrieved),
        Err(error) => {
            job.lane.stats.malformed.fetch_add(1, Relaxed);
            tracing::error!(%error, "malformed notification reply");
        }
    }
}
