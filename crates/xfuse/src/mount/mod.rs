//! Attaching a device descriptor to a directory, and detaching it.

mod connection;
mod fusermount;
mod info;
mod options;

pub(crate) use connection::Connection;
pub use info::{MountEntry, mounts};
pub use options::{MountMethod, MountOptions};

use crate::device;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::mount::{MountFlags, UnmountFlags};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long stat(2) of a mount point may take before the mount counts as alive but stuck.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the kernel may take to fail the requests of a daemon that was killed.
const DYING: Duration = Duration::from_secs(2);
/// Times that a stale mount which the kernel does not find is looked for again.
const TRIES: u32 = 3;
/// Pause between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a mount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// `/dev/fuse` cannot be opened.
    #[error(
        "cannot open /dev/fuse: {0}. Load the kernel module (modprobe fuse); in a container, pass the device in \
         (--device /dev/fuse) and allow mounting (--cap-add SYS_ADMIN)"
    )]
    Device(io::Error),
    /// The mount point is no usable directory.
    #[error("mount point {path}: {error}")]
    MountPoint {
        /// The mount point.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// mount(2) failed.
    #[error("mount(2) on {path}: {error}")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// Mounting needs either root or `fusermount3`, and there is neither.
    #[error(
        "mounting as uid {uid} needs the program fusermount3 (package fuse3), which is not in PATH; or run as root"
    )]
    NoHelper {
        /// Effective user id.
        uid: u32,
    },
    /// `fusermount3` refused.
    #[error("fusermount3 failed: {0}")]
    Helper(String),
    /// The kernel and this crate could not agree.
    #[error(transparent)]
    Init(#[from] crate::init::InitError),
    /// The kernel did not send INIT.
    #[error("the kernel sent no INIT request within {0:?}")]
    NoInit(Duration),
    /// The file system's own `init` failed.
    #[error("the file system refused to start: {0}")]
    Refused(crate::Errno),
    /// Threads or descriptors could not be created.
    #[error("starting the session: {0}")]
    Start(#[from] io::Error),
}

/// A fresh mount: the descriptor that serves it and how it was made.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) device: OwnedFd,
    pub(crate) path: PathBuf,
    /// `fusermount3 -o auto_unmount` unmounts when this socket closes, that is when the process ends.
    pub(crate) _auto_unmount: Option<OwnedFd>,
}

/// Mounts on `path`, first clearing what dead daemons left there.
pub(crate) fn mount(path: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
    let bad_path = |error| MountError::MountPoint { path: path.to_path_buf(), error };
    let path = absolute(path).map_err(bad_path)?;
    clear_stale(&path).map_err(bad_path)?;
    if !path.metadata().map_err(bad_path)?.is_dir() {
        return Err(bad_path(io::ErrorKind::NotADirectory.into()));
    }
    let root = rustix::process::geteuid().is_root();
    match options.method {
        MountMethod::Direct => direct(path, options),
        MountMethod::Helper => fusermount::mount(path, options),
        MountMethod::Auto if !root => fusermount::mount(path, options),
        MountMethod::Auto => match direct(path.clone(), options) {
            // Root without CAP_SYS_ADMIN, as in most containers; the set-uid helper may still be allowed to.
            Err(MountError::Mount { error, .. })
                if error.raw_os_error() == Some(libc::EPERM) && fusermount::find().is_some() =>
            {
                fusermount::mount(path, options)
            }
            result => result,
        },
    }
}

/// Mounts with mount(2).
fn direct(path: PathBuf, options: &MountOptions) -> Result<Mounted, MountError> {
    use rustix::fd::AsRawFd;
    let device = device::open().map_err(MountError::Device)?;
    let data = options.kernel_data(device.as_raw_fd());
    let data = std::ffi::CString::new(data).map_err(|error| MountError::Start(error.into()))?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    match rustix::mount::mount(&options.fsname, &path, options.fstype(), flags, data.as_c_str()) {
        Ok(()) => Ok(Mounted { device, path, _auto_unmount: None }),
        Err(error) => Err(MountError::Mount { path, error: error.into() }),
    }
}

/// The absolute path without asking the mount point itself, which may be dead.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize()?.join(name))
        }
        _ => path.canonicalize(),
    }
}

/// Whether unmounting was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Nothing uses the file system any more.
    Clean,
    /// It is out of the directory tree; processes that still have files open keep using it.
    Detached,
}

/// Unmounts `path`; if it is busy, detaches it instead.
pub fn unmount(path: &Path) -> io::Result<Unmounted> {
    match unmount_with(path, false) {
        Ok(()) => Ok(Unmounted::Clean),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            unmount_with(path, true)?;
            Ok(Unmounted::Detached)
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn unmount_with(path: &Path, lazy: bool) -> io::Result<()> {
    let lazy_flag = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | lazy_flag) {
        Err(rustix::io::Errno::PERM) => fusermount::unmount(path, lazy),
        result => Ok(result?),
    }
}

/// State of a path where a FUSE file system may be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountState {
    /// No FUSE file system is mounted there.
    None,
    /// One is, and it answers (or does not answer in time, which cannot be told from being slow).
    Alive,
    /// One is, but its daemon is gone: every access fails with `ENOTCONN`.
    Stale,
}

/// Looks at what is mounted at `path`.
pub fn state(path: &Path) -> io::Result<MountState> {
    let path = absolute(path)?;
    if !mounts()?.iter().any(|entry| entry.mount_point == path && entry.is_fuse()) {
        return Ok(MountState::None);
    }
    let (answer, probe) = mpsc::channel();
    // A live daemon that hangs would hang this thread, so it is one of its own.
    std::thread::Builder::new().name("fuse-probe".into()).spawn(move || answer.send(ask(&path)))?;
    match probe.recv_timeout(PROBE_TIMEOUT) {
        Ok(Some(rustix::io::Errno::NOTCONN)) => Ok(MountState::Stale),
        _ => Ok(MountState::Alive),
    }
}

/// Asks the daemon at `path`, whatever attributes the kernel may have cached. One that was just killed fails requests
/// in other ways before the kernel has cut its connection.
fn ask(path: &Path) -> Option<rustix::io::Errno> {
    let deadline = Instant::now() + DYING;
    loop {
        match statx(CWD, path, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS) {
            // ECANCELED is what a queue of io_uring fails with when its thread dies.
            Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR | rustix::io::Errno::CANCELED)
                if Instant::now() < deadline =>
            {
                std::thread::sleep(LOOK_AGAIN);
            }
            result => return result.err(),
        }
    }
}

/// Detaches dead FUSE mounts stacked at `path`; returns how many there were.
pub fn clear_stale(path: &Path) -> io::Result<usize> {
    let mut cleared = 0;
    let mut in_vain = 0;
    while state(path)? == MountState::Stale {
        match unmount_with(&absolute(path)?, true) {
            // Someone else was faster, `fusermount3 -o auto_unmount` for example; or the mount is locked, since it was
            // inherited from another user namespace.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && in_vain < TRIES => {
                in_vain += 1;
                continue;
            }
            result => result?,
        }
        tracing::warn!(path = %path.display(), "cleared a mount whose daemon is gone");
        cleared += 1;
    }
    Ok(cleared)
}
