//! The kernel module's parameter that allows io_uring: set as a test program needs it, and back at its end.

use std::fs::{self, File};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
/// Another test program may have it meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

static BEFORE: OnceLock<Option<String>> = OnceLock::new();
static ENABLED: OnceLock<bool> = OnceLock::new();

extern "C" fn restore() {
    if let Some(Some(before)) = BEFORE.get() {
        let _ = fs::write(PARAMETER, before.trim());
    }
}

/// Allows io_uring until the program ends; false if the kernel has none.
pub fn enable_uring() -> bool {
    *ENABLED.get_or_init(|| set(true))
}

/// Allows or forbids io_uring; false if the kernel has none.
pub fn set(on: bool) -> bool {
    BEFORE.get_or_init(hold).is_some() && fs::write(PARAMETER, if on { "Y" } else { "N" }).is_ok()
}

/// Whether the kernel has FUSE over io_uring.
pub fn exists() -> bool {
    Path::new(PARAMETER).exists()
}

/// Keeps others from changing it. The value before.
fn hold() -> Option<String> {
    if !exists() {
        eprintln!("skipped: needs Linux 6.14 with FUSE over io_uring");
        return None;
    }
    let lock = File::create(std::env::temp_dir().join("xfuse-enable-uring.lock")).unwrap();
    let started = Instant::now();
    while rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        assert!(started.elapsed() < PATIENCE, "another program that switches io_uring does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Held until the program ends.
    std::mem::forget(lock);
    let before = fs::read_to_string(PARAMETER).unwrap();
    // SAFETY: the handler only reads a static and writes a file.
    unsafe { libc::atexit(restore) };
    Some(before)
}
