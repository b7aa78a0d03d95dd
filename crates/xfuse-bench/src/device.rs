//! A FUSE connection without any library: the device, mounted.

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use std::path::Path;

/// Opens the device without blocking reads and mounts it. INIT is the first request.
///
/// # Errors
/// When the kernel refuses.
pub fn mount(mountpoint: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let device =
        rustix::fs::open("/dev/fuse", flags, Mode::empty()).map_err(|error| format!("/dev/fuse: {error}"))?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let options = std::ffi::CString::new(options).map_err(|error| error.to_string())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("xfuse-bench", mountpoint, "fuse", flags, options.as_c_str())
        .map_err(|error| format!("mount on {}: {error}", mountpoint.display()))?;
    Ok(device)
}
