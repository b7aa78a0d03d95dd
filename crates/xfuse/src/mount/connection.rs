//! One connection between the kernel and a daemon, by which it can be aborted wherever it is mounted now.

use super::{mounts, unmount_with};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags, fsconfig_create, fsmount, fsopen,
};
use std::io;
use std::path::{Path, PathBuf};

/// Where distributions mount the control file system of FUSE.
const CONTROL: &str = "/sys/fs/fuse/connections";

/// A mount that this process made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Device number of the file system as `major:minor`. It is not given to another while the connection lives.
    device: String,
    path: PathBuf,
}

impl Connection {
    /// The connection of the FUSE file system that was just mounted on `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let mounted = mounts()?.into_iter().rev().find(|entry| entry.mount_point == path && entry.is_fuse());
        let device = mounted.ok_or(io::ErrorKind::NotFound)?.device;
        Ok(Connection { device, path: path.to_path_buf() })
    }

    /// Fails all requests, present and future, which ends the session; and takes the mount out of the directory tree.
    ///
    /// By the control file system of FUSE, which knows detached mounts too and lets the user abort who mounted; if that
    /// cannot be had, by unmounting with force.
    ///
    /// # Errors
    /// Why the last way failed; `NotFound` if the connection has ended already.
    pub(crate) fn abort(&self) -> io::Result<()> {
        match self.abort_by_control() {
            Ok(()) => {
                if self.is_on_top() {
                    let _ = unmount_with(&self.path, true);
                }
                Ok(())
            }
            Err(_) if self.is_on_top() => {
                // MNT_FORCE makes the kernel abort the connection; whether the unmount succeeds does not matter.
                let flags = UnmountFlags::FORCE | UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
                Ok(rustix::mount::unmount(&self.path, flags)?)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether it is this connection that the path leads to.
    pub(crate) fn is_on_top(&self) -> bool {
        let Ok(table) = mounts() else { return false };
        let top = table.iter().rev().find(|entry| entry.mount_point == self.path);
        top.is_some_and(|entry| entry.device == self.device)
    }

    fn abort_by_control(&self) -> io::Result<()> {
        let number = self.device.rsplit(':').next().unwrap_or_default();
        let file = format!("{number}/abort");
        let (flags, mode) = (OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let fd = match open(format!("{CONTROL}/{file}"), flags, mode) {
            Ok(fd) => fd,
            // Perhaps it is only not mounted there.
            Err(first) => match detached_control() {
                Ok(control) => openat(control, file, flags, mode)?,
                Err(_) => return Err(first.into()),
            },
        };
        rustix::io::write(fd, b"1")?;
        Ok(())
    }
}

/// The control file system, mounted nowhere. It needs the right to mount.
fn detached_control() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}
