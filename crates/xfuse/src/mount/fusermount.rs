//! Mounting without privileges through the set-uid program `fusermount3`, which sends the device descriptor back over a
//! socket named by `_FUSE_COMMFD`.

use super::{MountError, MountOptions, Mounted};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use std::io::{self, IoSliceMut};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// The helper program in PATH.
pub(super) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    PROGRAMS
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name)))
        .find(|p| p.is_file())
}

fn program() -> Result<PathBuf, MountError> {
    find().ok_or_else(|| MountError::NoHelper { uid: rustix::process::geteuid().as_raw() })
}

pub(super) fn mount(path: PathBuf, options: &MountOptions) -> Result<Mounted, MountError> {
    let program = program()?;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(io::Error::from)?;
    // The helper finds its end by number, so that one must survive exec. The duplicate is the only inheritable one.
    let inherited = rustix::io::dup(&theirs).map_err(io::Error::from)?;
    let mut child = Command::new(program)
        .arg("-o")
        .arg(options.helper_options())
        .arg("--")
        .arg(&path)
        .env("_FUSE_COMMFD", inherited.as_raw_fd().to_string())
        .stderr(Stdio::piped())
        .spawn()?;
    drop((theirs, inherited));
    let received = receive_fd(&ours);
    if options.auto_unmount && received.is_ok() {
        // The helper stays to watch the socket; it is reaped by init when it ends.
        let device = received?;
        return Ok(Mounted { device, path, _auto_unmount: Some(ours) });
    }
    let mut message = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = io::Read::read_to_string(&mut stderr, &mut message);
    }
    let status = child.wait()?;
    match received {
        Ok(device) if status.success() => Ok(Mounted { device, path, _auto_unmount: None }),
        _ if message.trim().is_empty() => Err(MountError::Helper(status.to_string())),
        _ => Err(MountError::Helper(message.trim().to_string())),
    }
}

/// Receives one descriptor.
fn receive_fd(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

pub(super) fn unmount(path: &Path, lazy: bool) -> io::Result<()> {
    let program = find().ok_or(io::ErrorKind::PermissionDenied)?;
    let flags = if lazy { "-uz" } else { "-u" };
    let output = Command::new(program).arg(flags).arg("--").arg(path).output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    // The helper reports a busy mount only as text.
    if message.contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Err(io::Error::other(format!(
        "{}: {}",
        String::from_utf8_lossy(path.as_os_str().as_bytes()),
        message.trim()
    )))
}
