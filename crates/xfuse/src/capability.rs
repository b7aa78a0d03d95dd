//! What the running kernel lacks of what this crate can use, and what that means.

use crate::abi::InitFlags;
use parking_lot::Mutex;
use std::collections::BTreeSet;

/// Something that newer kernels have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// Its name.
    pub name: &'static str,
    /// What happens without it.
    pub without: &'static str,
    needs: Needs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// A feature of INIT; it counts only if the file system wants it.
    Flag(InitFlags),
    /// A minor version of the protocol.
    Minor(u32),
}

const fn flag(flag: InitFlags, name: &'static str, without: &'static str) -> Capability {
    Capability { name, without, needs: Needs::Flag(flag) }
}

const fn minor(minor: u32, name: &'static str, without: &'static str) -> Capability {
    Capability { name, without, needs: Needs::Minor(minor) }
}

/// All that may be missing between protocol 7.27 and 7.45.
const ALL: &[Capability] = &[
    flag(InitFlags::PARALLEL_DIROPS, "PARALLEL_DIROPS", "one lookup at a time in each directory"),
    flag(InitFlags::ASYNC_DIO, "ASYNC_DIO", "direct I/O waits for each request"),
    flag(InitFlags::MAX_PAGES, "MAX_PAGES", "requests of at most 128 KiB"),
    flag(InitFlags::BIG_WRITES, "BIG_WRITES", "writes of 4 KiB"),
    flag(InitFlags::DO_READDIRPLUS, "READDIRPLUS", "one LOOKUP for each listed file that is looked at"),
    flag(InitFlags::WRITEBACK_CACHE, "WRITEBACK_CACHE", "the kernel does not collect writes"),
    flag(InitFlags::NO_OPEN_SUPPORT, "NO_OPEN_SUPPORT", "OPEN cannot be left out"),
    flag(InitFlags::NO_OPENDIR_SUPPORT, "NO_OPENDIR_SUPPORT", "OPENDIR cannot be left out"),
    flag(InitFlags::CACHE_SYMLINKS, "CACHE_SYMLINKS", "READLINK each time a link is followed"),
    flag(InitFlags::EXPLICIT_INVAL_DATA, "EXPLICIT_INVAL_DATA", "changed attributes drop cached data"),
    flag(InitFlags::ABORT_ERROR, "ABORT_ERROR", "an abort looks like an unmount"),
    flag(
        InitFlags::HANDLE_KILLPRIV_V2,
        "HANDLE_KILLPRIV_V2",
        "the kernel asks for security.capability before writes",
    ),
    flag(InitFlags::SETXATTR_EXT, "SETXATTR_EXT", "setgid is not cleared with an ACL"),
    flag(InitFlags::INIT_EXT, "INIT_EXT", "no features beyond the first 32"),
    flag(InitFlags::SECURITY_CTX, "SECURITY_CTX", "no security label with the creation of a file"),
    flag(
        InitFlags::CREATE_SUPP_GROUP,
        "CREATE_SUPP_GROUP",
        "no supplementary group with the creation of a file",
    ),
    flag(InitFlags::HAS_EXPIRE_ONLY, "EXPIRE_ONLY", "expired names are dropped with all below them"),
    flag(
        InitFlags::DIRECT_IO_ALLOW_MMAP,
        "DIRECT_IO_ALLOW_MMAP",
        "files in direct mode cannot be mapped for shared use",
    ),
    flag(InitFlags::PASSTHROUGH, "PASSTHROUGH", "reads and writes of backing files go through the daemon"),
    flag(InitFlags::HAS_RESEND, "RESEND", "requests that a dead daemon has read cannot be sent again"),
    flag(InitFlags::ALLOW_IDMAP, "ALLOW_IDMAP", "no mounts with mapped ids"),
    flag(InitFlags::OVER_IO_URING, "OVER_IO_URING", "requests travel through /dev/fuse"),
    flag(InitFlags::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "the kernel waits for ever for an answer"),
    minor(31, "FLUSH with WRITEBACK_CACHE", "close(2) may not flush"),
    minor(34, "SYNCFS", "syncfs(2) and sync(2) do not reach the file system"),
    minor(37, "TMPFILE", "O_TMPFILE is refused"),
    minor(39, "STATX", "no birth time"),
    minor(44, "INC_EPOCH", "cached names can only be distrusted one by one"),
    minor(45, "PRUNE", "the kernel cannot be asked to forget inodes"),
    minor(45, "COPY_FILE_RANGE_64", "copies report at most 4 GiB at a time"),
];

/// What is wanted or always of use, and not there.
pub(crate) fn missing(offered: InitFlags, wanted: InitFlags, kernel_minor: u32) -> Vec<Capability> {
    let lacks = |capability: &&Capability| match capability.needs {
        Needs::Flag(flag) => wanted.contains(flag) && !offered.contains(flag),
        Needs::Minor(needed) => kernel_minor < needed,
    };
    ALL.iter().filter(lacks).copied().collect()
}

/// Logs what is missing, each capability once in the life of the process, however often it mounts.
pub(crate) fn report(missing: &[Capability]) {
    static REPORTED: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut reported = REPORTED.lock();
    for capability in missing {
        if reported.insert(capability.name) {
            tracing::info!(
                missing = capability.name,
                without = capability.without,
                "this kernel lacks a capability"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::default_flags;

    fn names(list: &[Capability]) -> Vec<&'static str> {
        list.iter().map(|capability| capability.name).collect()
    }

    #[test]
    fn a_new_kernel_lacks_nothing() {
        assert_eq!(missing(InitFlags(u64::MAX), InitFlags(u64::MAX), 45), []);
    }

    #[test]
    fn linux_5_15_lacks_what_came_later() {
        let offered = InitFlags(u64::from(u32::MAX)) - InitFlags::INIT_EXT;
        let lacks = names(&missing(offered, default_flags(), 34));
        for name in ["INIT_EXT", "RESEND", "EXPIRE_ONLY", "TMPFILE", "STATX", "INC_EPOCH", "PRUNE"] {
            assert!(lacks.contains(&name), "{name} in {lacks:?}");
        }
        for name in ["SYNCFS", "PASSTHROUGH", "MAX_PAGES"] {
            assert!(!lacks.contains(&name), "{name}: there or not wanted, {lacks:?}");
        }
    }

    #[test]
    fn names_tell_capabilities_apart() {
        let all: BTreeSet<_> = ALL.iter().map(|capability| capability.name).collect();
        assert_eq!(all.len(), ALL.len());
    }
}
