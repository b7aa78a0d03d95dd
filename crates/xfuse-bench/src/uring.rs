//! The kernel's switch for FUSE over io_uring, which is off by default.

use rustix::fs::{FlockOperation, flock};
use std::fs::File;

const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
/// Lock of everybody who changes the switch; xfuse's tests are others.
const LOCK: &str = "xfuse-enable-uring.lock";

/// Switched on for as long as this lives, if it was off.
pub struct Enabled {
    switched: bool,
    _lock: Option<File>,
}

impl Enabled {
    /// Switches it on. A kernel without it fails the servers that need it, with their own reason.
    pub fn ask() -> Self {
        let lock = File::create(std::env::temp_dir().join(LOCK)).ok();
        if let Some(lock) = &lock
            && flock(lock, FlockOperation::NonBlockingLockExclusive).is_err()
        {
            eprintln!("waiting for another program that uses {SWITCH}");
            let _ = flock(lock, FlockOperation::LockExclusive);
        }
        let off = std::fs::read_to_string(SWITCH).is_ok_and(|text| text.trim() == "N");
        Enabled { switched: off && std::fs::write(SWITCH, "Y").is_ok(), _lock: lock }
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        if self.switched {
            let _ = std::fs::write(SWITCH, "N");
        }
    }
}
