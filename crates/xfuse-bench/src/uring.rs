//! The kernel's switch for FUSE over io_uring, which is off by default.

const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Switched on for as long as this lives, if it was off.
pub struct Enabled(bool);

impl Enabled {
    /// Switches it on. A kernel without it fails the servers that need it, with their own reason.
    pub fn ask() -> Self {
        let off = std::fs::read_to_string(SWITCH).is_ok_and(|text| text.trim() == "N");
        Enabled(off && std::fs::write(SWITCH, "Y").is_ok())
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        if self.0 {
            let _ = std::fs::write(SWITCH, "N");
        }
    }
}
