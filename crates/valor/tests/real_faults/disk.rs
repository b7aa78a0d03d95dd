//! A disk that can fail: a file system of its own on a loop device, which is shut down in the middle of its work.

use super::{run, try_run};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// `FS_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`, and its argument for "at once, without writing the log".
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
const NO_LOG_FLUSH: u32 = 2;
/// Bytes, sparse.
const SIZE: u64 = 2 << 30;
/// How long its last user may take to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mounted disk; unmounted when dropped.
pub struct Disk {
    image: PathBuf,
    mount_point: PathBuf,
}

impl Disk {
    /// Makes one; `None` where loop devices or ext4 are missing.
    pub fn make(image: PathBuf, mount_point: &Path) -> Option<Disk> {
        std::fs::create_dir_all(mount_point).expect("directory");
        File::create(&image).and_then(|file| file.set_len(SIZE)).expect("image");
        let disk = Disk { image, mount_point: mount_point.into() };
        let made = try_run(&["mkfs.ext4", "-q", "-F", text(&disk.image)]);
        (made && try_run(&disk.mount())).then_some(disk)
    }

    fn mount(&self) -> [&str; 5] {
        ["mount", "-o", "loop,noatime", text(&self.image), text(&self.mount_point)]
    }

    /// Everything on it fails from now on; what was not synced is lost.
    pub fn fail(&self) {
        let root = File::open(&self.mount_point).expect("open the file system");
        let how = NO_LOG_FLUSH;
        // SAFETY: the descriptor is open, and the kernel only reads the number behind the pointer.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &raw const how) };
        assert_eq!(result, 0, "shut down: {}", std::io::Error::last_os_error());
    }

    /// Takes it out and puts it in again. Nobody may use it any more.
    pub fn replug(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !try_run(&["umount", text(&self.mount_point)]) {
            assert!(Instant::now() < deadline, "the failed disk stays in use");
            std::thread::sleep(Duration::from_millis(100));
        }
        run(&self.mount());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        try_run(&["umount", "-l", text(&self.mount_point)]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of this test")
}
