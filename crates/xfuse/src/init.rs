//! INIT: what this side wants, what the kernel offers, and what follows.

use crate::abi::{self, InitFlags, Pod};
use crate::capability::{self, Capability};

/// Kernel's page size assumed for `max_pages`.
pub const PAGE_SIZE: u32 = 4096;
/// `max_pages` of kernels without the MAX_PAGES flag.
const DEFAULT_MAX_PAGES: u32 = 32;
/// What `max_pages_limit` is on kernels without the sysctl.
const DEFAULT_MAX_PAGES_LIMIT: u32 = 256;

/// What the file system wants from the kernel.
#[derive(Debug, Clone)]
pub struct InitConfig {
    /// Largest WRITE and READ in bytes; lowered to what the kernel's page limit allows.
    pub max_write: u32,
    /// Readahead in bytes. INIT can only lower what the kernel offers (128 KiB); see
    /// [`Session::set_readahead_kb`](crate::Session::set_readahead_kb) for more.
    pub max_readahead: u32,
    /// Background requests (readahead, writeback, asynchronous direct I/O) in flight.
    pub max_background: u16,
    /// Background requests from which the device counts as congested; 0 means three quarters of `max_background`.
    pub congestion_threshold: u16,
    /// Granularity of timestamps in nanoseconds, a power of ten up to one second.
    pub time_gran: u32,
    /// Features to use if the kernel has them.
    pub want: InitFlags,
    /// Seconds after which the kernel aborts the connection over an unanswered request, 0 for never.
    pub request_timeout: u16,
    /// Depth of stacking for passthrough, 0 for none.
    pub max_stack_depth: u32,
}

impl Default for InitConfig {
    fn default() -> Self {
        InitConfig {
            max_write: 1 << 20,
            max_readahead: 1 << 20,
            max_background: 64,
            congestion_threshold: 0,
            time_gran: 1,
            want: default_flags(),
            request_timeout: 0,
            max_stack_depth: 0,
        }
    }
}

/// Flags every file system profits from; none of them changes the meaning of a handler.
pub fn default_flags() -> InitFlags {
    InitFlags::ASYNC_READ
        | InitFlags::BIG_WRITES
        | InitFlags::PARALLEL_DIROPS
        | InitFlags::ASYNC_DIO
        | InitFlags::MAX_PAGES
        | InitFlags::ABORT_ERROR
        | InitFlags::SETXATTR_EXT
        | InitFlags::INIT_EXT
        | InitFlags::HAS_RESEND
        | InitFlags::HAS_EXPIRE_ONLY
}

/// The outcome of INIT.
#[derive(Debug, Clone)]
pub struct Negotiated {
    /// Protocol minor version both sides use.
    pub minor: u32,
    /// Features in use.
    pub flags: InitFlags,
    /// What the kernel offered.
    pub offered: InitFlags,
    /// Largest WRITE and READ payload in bytes.
    pub max_write: u32,
    /// Pages per request.
    pub max_pages: u32,
    /// Readahead in bytes.
    pub max_readahead: u32,
    /// Background requests in flight.
    pub max_background: u16,
    /// What this kernel lacks of what was wanted, and of what newer kernels have.
    pub missing: Vec<Capability>,
}

/// Why INIT failed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InitError {
    /// The first request is not a well-formed INIT.
    #[error("the kernel's first request is not a well-formed INIT")]
    NotInit,
    /// The kernel's protocol is too old.
    #[error("the kernel speaks FUSE {0}.{1}, 7.{oldest} is the oldest supported", oldest = abi::OLDEST_MINOR_VERSION)]
    TooOld(u32, u32),
}

/// The kernel's side of INIT.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// Protocol major version.
    pub major: u32,
    /// Protocol minor version.
    pub minor: u32,
    /// Readahead in bytes.
    pub max_readahead: u32,
    /// Features.
    pub flags: InitFlags,
}

impl Offer {
    /// Reads the body of an INIT request of any supported kernel.
    pub fn decode(body: &[u8]) -> Result<Self, InitError> {
        let short = abi::InitInCompat::read_from(body).ok_or(InitError::NotInit)?;
        let mut flags = InitFlags(u64::from(short.flags));
        if flags.contains(InitFlags::INIT_EXT)
            && let Some(long) = abi::InitIn::read_from(body)
        {
            flags |= InitFlags(u64::from(long.flags2) << 32);
        }
        let abi::InitInCompat { major, minor, max_readahead, .. } = short;
        Ok(Offer { major, minor, max_readahead, flags })
    }
}

/// The system's limit on pages per FUSE request (`fs.fuse.max_pages_limit`).
pub fn max_pages_limit() -> u32 {
    std::fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_MAX_PAGES_LIMIT)
}

/// Decides the session's parameters and builds the reply to INIT. `page_limit` is [`max_pages_limit`].
pub fn negotiate(
    offer: &Offer,
    config: &InitConfig,
    page_limit: u32,
) -> Result<(Negotiated, abi::InitOut), InitError> {
    if offer.major != abi::KERNEL_VERSION || offer.minor < abi::OLDEST_MINOR_VERSION {
        return Err(InitError::TooOld(offer.major, offer.minor));
    }
    let mut flags = config.want & offer.flags;
    if !flags.contains(InitFlags::INIT_EXT) {
        flags = flags & InitFlags(u64::from(u32::MAX));
    }
    let wanted_pages = config.max_write.div_ceil(PAGE_SIZE).max(1);
    let page_limit = if flags.contains(InitFlags::MAX_PAGES) { page_limit } else { DEFAULT_MAX_PAGES };
    let max_pages = wanted_pages.clamp(1, page_limit.clamp(1, u32::from(u16::MAX)));
    let max_write = config.max_write.clamp(PAGE_SIZE, max_pages * PAGE_SIZE);
    let max_background = config.max_background.max(1);
    let congestion_threshold = match config.congestion_threshold {
        0 => (u32::from(max_background) * 3 / 4) as u16,
        set => set,
    };
    let negotiated = Negotiated {
        minor: offer.minor.min(abi::KERNEL_MINOR_VERSION),
        flags,
        offered: offer.flags,
        max_write,
        max_pages,
        max_readahead: config.max_readahead.min(offer.max_readahead),
        max_background,
        missing: capability::missing(offer.flags, config.want, offer.minor),
    };
    let reply = abi::InitOut {
        major: abi::KERNEL_VERSION,
        minor: negotiated.minor,
        max_readahead: negotiated.max_readahead,
        flags: flags.0 as u32,
        max_background,
        congestion_threshold,
        max_write,
        time_gran: config.time_gran.clamp(1, 1_000_000_000),
        max_pages: max_pages as u16,
        flags2: (flags.0 >> 32) as u32,
        max_stack_depth: config.max_stack_depth,
        request_timeout: config.request_timeout,
        ..Default::default()
    };
    Ok((negotiated, reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(minor: u32, flags: InitFlags) -> Offer {
        Offer { major: 7, minor, max_readahead: 128 << 10, flags }
    }

    #[test]
    fn modern_kernel_gets_everything_wanted() {
        let all = InitFlags(u64::MAX);
        let (n, out) = negotiate(&offer(45, all), &InitConfig::default(), 256).unwrap();
        assert_eq!((n.minor, n.max_write, n.max_pages, n.max_readahead), (45, 1 << 20, 256, 128 << 10));
        assert_eq!(n.flags, default_flags());
        assert_eq!(n.missing, []);
        assert_eq!(u64::from(out.flags) | u64::from(out.flags2) << 32, default_flags().0);
        assert_eq!(out.congestion_threshold, 48);
    }

    #[test]
    fn page_limit_lowers_max_write() {
        let (n, _) = negotiate(&offer(45, InitFlags(u64::MAX)), &InitConfig::default(), 64).unwrap();
        assert_eq!((n.max_write, n.max_pages), (256 << 10, 64));
        let (n, _) = negotiate(&offer(45, InitFlags::BIG_WRITES), &InitConfig::default(), 256).unwrap();
        assert_eq!((n.max_write, n.max_pages), (128 << 10, 32));
    }

    #[test]
    fn kernel_5_15_has_no_high_flags() {
        let mut config = InitConfig::default();
        config.want |= InitFlags::PASSTHROUGH;
        let flags = InitFlags(u64::from(u32::MAX)) - InitFlags::INIT_EXT;
        let (n, out) = negotiate(&offer(34, flags), &config, 256).unwrap();
        assert_eq!(n.minor, 34);
        assert_eq!((n.flags.0 >> 32, out.flags2, out.minor), (0, 0, 34));
    }

    #[test]
    fn newer_kernels_are_answered_with_our_version() {
        let (n, out) = negotiate(&offer(60, InitFlags(u64::MAX)), &InitConfig::default(), 256).unwrap();
        assert_eq!((n.minor, out.minor), (45, 45));
    }

    #[test]
    fn ancient_kernels_are_refused() {
        assert_eq!(
            negotiate(&offer(26, InitFlags::NONE), &InitConfig::default(), 256).unwrap_err(),
            InitError::TooOld(7, 26)
        );
    }

    #[test]
    fn short_init_is_understood() {
        let short = abi::InitInCompat { major: 7, minor: 34, max_readahead: 1, flags: 1 };
        assert_eq!(Offer::decode(short.as_bytes()).unwrap().flags, InitFlags::ASYNC_READ);
        assert_eq!(Offer::decode(&short.as_bytes()[..12]).unwrap_err(), InitError::NotInit);
        let long = abi::InitIn { major: 7, minor: 45, flags: 1 << 30, flags2: 1 << 7, ..Default::default() };
        let flags = Offer::decode(long.as_bytes()).unwrap().flags;
        assert!(flags.contains(InitFlags::HAS_RESEND));
    }
}
