//! Whether a session that has the choice uses io_uring, and how many entries its queues get.

use super::start::possible_cpus;
use rustix::process::{Resource, getrlimit};
use rustix::thread::sched_getaffinity;
use std::path::Path;

/// The kernel's switch. Whoever administers the machine sets it; this crate only reads it.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
/// Descriptors of a queue: its ring, and what the runtime of its thread opens.
const DESCRIPTORS: u64 = 4;
/// Memory for the entries of all queues that a session allots on its own. Pages that no request has used take none.
const MEMORY: usize = 512 << 20;
/// Entries of a queue, unless set.
pub(crate) const DEPTH: u16 = 8;
const MIN_DEPTH: u16 = 2;

/// Why the kernel does not offer it, as far as can be told.
pub(crate) const NOT_OFFERED: &str = "the kernel does not offer FUSE over io_uring: that takes Linux 6.14 and \
     `echo Y > /sys/module/fuse/parameters/enable_uring`";

/// Whether queues are worth preparing; else why not.
pub(crate) fn is_worthwhile() -> Result<(), String> {
    if !is_on(Path::new(SWITCH)) {
        return Err(NOT_OFFERED.into());
    }
    // Queues have threads on all CPUs, which a process that was confined to some of them is meant to stay away from.
    let online = crate::wait::calibrate::online_cpus();
    let usable = sched_getaffinity(None).map_or(0, |set| set.count() as usize);
    if usable < online {
        return Err(format!("the process may use {usable} of {online} CPUs, but every CPU has a queue"));
    }
    let queues = possible_cpus().map_err(|error| error.to_string())?;
    affordable(queues, getrlimit(Resource::Nofile).current)
}

fn is_on(switch: &Path) -> bool {
    std::fs::read_to_string(switch).is_ok_and(|text| matches!(text.trim(), "Y" | "1"))
}

/// Queues leave half of the descriptors to the file system.
fn affordable(queues: u16, descriptors: Option<u64>) -> Result<(), String> {
    let needed = u64::from(queues) * DESCRIPTORS;
    match descriptors {
        Some(limit) if needed > limit / 2 => Err(format!(
            "{queues} queues need {needed} descriptors, which is much of RLIMIT_NOFILE ({limit})"
        )),
        _ => Ok(()),
    }
}

/// Entries of each of `queues` queues for which there is no other wish.
pub(super) fn depth(queues: usize, entry: usize) -> u16 {
    let room = MEMORY / (queues.max(1) * entry.max(1));
    u16::try_from(room).unwrap_or(DEPTH).clamp(MIN_DEPTH, DEPTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "uses files")]
    fn only_a_switch_that_is_on_counts() {
        let dir = tempfile::tempdir().unwrap();
        let switch = dir.path().join("switch");
        assert!(!is_on(&switch), "an older kernel has none");
        for (text, on) in [("Y\n", true), ("1\n", true), ("N\n", false), ("", false)] {
            std::fs::write(&switch, text).unwrap();
            assert_eq!(is_on(&switch), on, "{text:?}");
        }
    }

    #[test]
    fn memory_and_descriptors_are_bounded_on_large_machines() {
        const ENTRY: usize = (1 << 20) + 4096;
        assert_eq!((depth(1, ENTRY), depth(32, ENTRY), depth(63, ENTRY)), (8, 8, 8));
        assert_eq!((depth(128, ENTRY), depth(4096, ENTRY)), (3, 2));
        assert_eq!(depth(2, 256 << 20), 2, "requests of any size find a queue");
        assert!(
            (1..=256).all(|queues| queues * usize::from(depth(queues, ENTRY)) * ENTRY <= MEMORY + (8 << 20))
        );
        assert!(affordable(128, Some(1024)).is_ok() && affordable(u16::MAX, None).is_ok());
        assert!(affordable(129, Some(1024)).unwrap_err().contains("RLIMIT_NOFILE"));
    }
}
