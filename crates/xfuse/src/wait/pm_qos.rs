//! Keeping idle CPUs polling while a file system is mounted, so that waking the caller needs no interrupt.

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::io;

/// The system-wide latency constraint of the kernel's power management.
const DEVICE: &str = "/dev/cpu_dma_latency";

/// Holds the constraint "wake up at once" for as long as it lives. Costs power on every CPU of the machine.
#[derive(Debug)]
pub struct PmQosGuard {
    /// The kernel drops the constraint when this closes, also when the process dies.
    _device: OwnedFd,
}

impl PmQosGuard {
    /// Takes the constraint. Needs root.
    pub fn hold() -> io::Result<Self> {
        let device = rustix::fs::open(DEVICE, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&device, &0i32.to_ne_bytes())?;
        Ok(PmQosGuard { _device: device })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "looks at the system")]
    fn is_held_or_refused_with_a_reason() {
        match PmQosGuard::hold() {
            Ok(guard) => drop(guard),
            Err(error) => assert!(error.raw_os_error().is_some(), "{error}"),
        }
    }
}
