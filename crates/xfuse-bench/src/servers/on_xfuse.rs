//! A backend served by xfuse.

use super::backend::{Backend, MAX_BACKGROUND, MAX_IO, Node, Result};
use rustix::fs::Stat;
use std::path::Path;
use std::time::Duration;
use xfuse::request::*;
use xfuse::{
    Attr, Context, Created, Data, Entry, Errno, Filesystem, InitConfig, Mix, Opened, Session, Transport,
    WaitPolicy, Written, abi,
};

/// What distinguishes one xfuse server from another.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    transport: Transport,
    /// Channels of the classic transport; 0 is xfuse's default.
    channels: usize,
    mix: Mix,
    /// Share of one CPU that spinning may use; negative is xfuse's default.
    budget: f64,
    /// io_uring polled by the kernel.
    sqpoll: bool,
}

impl Settings {
    /// Classic channels that only block.
    pub const CLASSIC: Settings =
        Settings { transport: Transport::Classic, channels: 0, mix: Mix::FUSE, budget: -1.0, sqpoll: false };
    /// io_uring queues that only block.
    pub const URING: Settings = Settings { transport: Transport::Uring, ..Settings::CLASSIC };
    /// The same, polled by threads of the kernel.
    pub const SQPOLL: Settings = Settings { sqpoll: true, ..Settings::URING };
    /// Everything chosen by xfuse itself.
    pub const AUTO: Settings = Settings { transport: Transport::Auto, mix: Mix::Auto, ..Settings::CLASSIC };

    /// Whether io_uring is asked for.
    pub fn is_uring(&self) -> bool {
        self.transport == Transport::Uring
    }

    /// So many classic channels.
    pub const fn channels(self, channels: usize) -> Self {
        Settings { channels, ..self }
    }

    /// This share of requests obtained by blocking at once, the others by spinning, for which a whole CPU may be used.
    pub const fn mix(self, fuse: f64) -> Self {
        Settings { mix: Mix::Fixed(fuse), budget: 1.0, ..self }
    }
}

/// Serves until unmounted.
///
/// # Errors
/// When mounting failed.
pub fn serve<B: Backend>(
    backend: B,
    mountpoint: &Path,
    settings: Settings,
) -> std::result::Result<(), String> {
    let init = InitConfig {
        max_write: MAX_IO as u32,
        max_readahead: MAX_IO as u32,
        max_background: MAX_BACKGROUND,
        ..InitConfig::default()
    };
    let mut builder = Session::builder(OnXfuse(backend)).init(init);
    if settings.channels > 0 {
        builder = builder.channels(settings.channels);
    }
    let mut policy = WaitPolicy { mix: settings.mix, ..WaitPolicy::default() };
    if settings.budget >= 0.0 {
        policy.cpu_budget = settings.budget;
    }
    let session = builder
        .transport(settings.transport)
        .sqpoll(settings.sqpoll)
        .wait(policy)
        .mount(mountpoint)
        .map_err(|error| error.to_string())?;
    // A fallback would be measured under the wrong name.
    let used = session.transport();
    if let (Transport::Uring, Some(reason)) = (settings.transport, &used.fallback) {
        let reason = format!("{} instead of uring: {reason}", used.transport);
        let _ = session.abort();
        return Err(reason);
    }
    session.wait();
    Ok(())
}

struct OnXfuse<B>(B);

fn errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

fn attr(stat: &Stat) -> abi::Attr {
    abi::Attr {
        ino: stat.st_ino,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: stat.st_atime as u64,
        mtime: stat.st_mtime as u64,
        ctime: stat.st_ctime as u64,
        atimensec: stat.st_atime_nsec as u32,
        mtimensec: stat.st_mtime_nsec as u32,
        ctimensec: stat.st_ctime_nsec as u32,
        mode: stat.st_mode,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

fn entry(node: Result<Node>) -> std::result::Result<Entry, Errno> {
    let node = node.map_err(errno)?;
    Ok(Entry { nodeid: node.ino, attr: attr(&node.stat), ..Entry::default() })
}

fn opened<B: Backend>(fh: u64) -> Opened {
    Opened { fh, flags: if B::DIRECT { abi::FOPEN_DIRECT_IO } else { 0 }, backing_id: 0 }
}

impl<B: Backend> Filesystem for OnXfuse<B> {
    fn forget(&self, ino: u64, nlookup: u64) {
        self.0.forget(ino, nlookup);
    }

    async fn lookup(&self, _: &Context, r: Lookup<'_>) -> std::result::Result<Entry, Errno> {
        entry(self.0.lookup(r.parent, r.name))
    }

    async fn getattr(&self, _: &Context, r: Getattr) -> std::result::Result<Attr, Errno> {
        let stat = self.0.getattr(r.ino).map_err(errno)?;
        Ok(Attr { valid: Duration::ZERO, attr: attr(&stat) })
    }

    async fn setattr(&self, cx: &Context, r: Setattr) -> std::result::Result<Attr, Errno> {
        if let Some(size) = r.size {
            self.0.truncate(r.ino, size).map_err(errno)?;
        }
        self.getattr(cx, Getattr { ino: r.ino, fh: None }).await
    }

    async fn mkdir(&self, _: &Context, r: Mkdir<'_>) -> std::result::Result<Entry, Errno> {
        entry(self.0.mkdir(r.parent, r.name, r.mode))
    }

    async fn unlink(&self, _: &Context, r: Unlink<'_>) -> std::result::Result<(), Errno> {
        self.0.unlink(r.parent, r.name, false).map_err(errno)
    }

    async fn rmdir(&self, _: &Context, r: Rmdir<'_>) -> std::result::Result<(), Errno> {
        self.0.unlink(r.parent, r.name, true).map_err(errno)
    }

    async fn create(&self, _: &Context, r: Create<'_>) -> std::result::Result<Created, Errno> {
        let (node, fh) = self.0.create(r.parent, r.name, r.mode, r.flags).map_err(errno)?;
        Ok(Created { entry: entry(Ok(node))?, opened: opened::<B>(fh) })
    }

    async fn open(&self, _: &Context, r: Open) -> std::result::Result<Opened, Errno> {
        self.0.open(r.ino, r.flags).map(opened::<B>).map_err(errno)
    }

    async fn release(&self, _: &Context, r: Release) -> std::result::Result<(), Errno> {
        self.0.release(r.fh);
        Ok(())
    }

    async fn read(&self, cx: &Context, r: Read) -> std::result::Result<Data, Errno> {
        let mut room = cx.room(r.size);
        let count = self.0.read_into(r.fh, r.offset, &mut room).map_err(errno)?;
        Ok(room.filled(count))
    }

    async fn write(&self, _: &Context, r: Write) -> std::result::Result<Written, Errno> {
        self.0.write(r.fh, r.offset, &r.data).map(|count| Written(count as u32)).map_err(errno)
    }
}
