//! Has the kernel write what only it has of a mount: pages changed through memory maps, or in its write-back cache.
//!
//! A process of its own does it. The kernel waits for answers of the mount there, in a way that nothing interrupts; in
//! the mount's own process, such a thread would keep the device open, and the mount with it, after a kill -9.

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx, sync, syncfs};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Where distributions mount the control file system of FUSE.
const CONTROL: &str = "/sys/fs/fuse/connections";
/// How long opening the mount's root may take, which may ask a metadata server.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
/// The kernel's requests are waited for as long as they become fewer at least this often, since others may always come;
/// less if the whole is to take less than four times this.
const NO_PROGRESS: Duration = Duration::from_secs(3);
/// How often they are counted.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Requests reach the mount at once as a rule, where they cannot be counted.
const UNCOUNTED: Duration = Duration::from_millis(300);

/// A mount, for the process that has it written.
#[derive(clap::Args, Debug)]
pub struct WriteBackArgs {
    /// Where it is mounted.
    mount_point: PathBuf,
    /// Number of its device, `major:minor`.
    device: String,
    /// Milliseconds for the whole.
    patience: u64,
}

/// The number of the device that is mounted on a path.
///
/// # Errors
/// When the list of mounts cannot be read, or it is not there.
pub fn device_of(mount_point: &Path) -> std::io::Result<String> {
    let mut list = xfuse::mount::mounts()?;
    list.reverse();
    let found = list.into_iter().find(|entry| entry.mount_point == mount_point);
    found.map(|entry| entry.device).ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

/// Has another process do it, and waits for its end.
///
/// # Errors
/// Why it may not have been done.
pub async fn request(mount_point: &Path, device: &str, patience: Duration) -> Result<(), String> {
    let ended = tokio::process::Command::new("/proc/self/exe")
        .arg("write-back")
        .args([mount_point.as_os_str(), device.as_ref()])
        .arg(patience.as_millis().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status();
    match timeout(patience, ended).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it has not done so within {patience:?}")),
    }
}

/// What the process does: returns when the mount has been given all that the kernel had when it began.
///
/// # Errors
/// A message for the log.
pub fn run(args: &WriteBackArgs) -> Result<(), String> {
    match root(args) {
        Some(root) => syncfs(root).map_err(|error| format!("syncfs: {error}"))?,
        // Under another mount or detached, no path leads there.
        None => sync(),
    }
    // The kernel does not wait until the mount has answered.
    wait_for_requests(&args.device, NO_PROGRESS.min(Duration::from_millis(args.patience) / 4))
}

/// The root of the mount, if the path leads there, and it can be opened in time.
fn root(args: &WriteBackArgs) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = openat(CWD, &args.mount_point, flags, Mode::empty()).ok()?;
    let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(&top, c"", how, StatxFlags::empty()).ok()?;
    if format!("{}:{}", found.stx_dev_major, found.stx_dev_minor) != args.device {
        return None;
    }
    let (opened, root) = mpsc::channel();
    std::thread::spawn(move || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        opened.send(openat(top, c".", flags, Mode::empty()).ok())
    });
    root.recv_timeout(OPEN_PATIENCE).ok().flatten()
}

fn wait_for_requests(device: &str, no_progress: Duration) -> Result<(), String> {
    let Some(control) = control() else {
        std::thread::sleep(UNCOUNTED);
        return Ok(());
    };
    let path = format!("{}/waiting", device.rsplit(':').next().unwrap_or_default());
    let (mut fewest, mut since) = (u64::MAX, Instant::now());
    loop {
        let count = count(&control, &path).map_err(|error| format!("{path}: {error}"))?;
        if count < fewest {
            (fewest, since) = (count, Instant::now());
        }
        if count == 0 || since.elapsed() > no_progress {
            return Ok(());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Requests that the mount has not answered.
fn count(control: &OwnedFd, path: &str) -> std::io::Result<u64> {
    let file = openat(control, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text)?;
    text.trim().parse().map_err(std::io::Error::other)
}

/// The control file system, mounted nowhere if this process may do so, or where it usually is.
fn control() -> Option<OwnedFd> {
    let detached = || {
        let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    detached().or_else(|_| openat(CWD, CONTROL, flags, Mode::empty())).ok()
}
