//! How requests travel between the kernel and the channels.

use std::fmt;
use std::str::FromStr;

/// The wanted transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// io_uring where that is to be had, else classic; [`InUse::fallback`] tells why. It takes a kernel whose
    /// administrator has switched it on (`/sys/module/fuse/parameters/enable_uring`, which this crate never writes), a
    /// process that may run on all CPUs, since every CPU has a queue with a thread, and enough file descriptors.
    #[default]
    Auto,
    /// read(2) and writev(2) on `/dev/fuse`.
    Classic,
    /// FUSE over io_uring, if the kernel has it enabled; classic otherwise, with a warning. Handlers run on threads pinned to a CPU, and
    /// threads that they start are pinned like them; which thread that is may change from request to request.
    Uring,
}

/// Text that names no transport.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a transport is `auto`, `classic` or `uring`")]
pub struct BadTransport;

impl FromStr for Transport {
    type Err = BadTransport;

    fn from_str(text: &str) -> Result<Self, BadTransport> {
        match text {
            "auto" => Ok(Transport::Auto),
            "classic" => Ok(Transport::Classic),
            "uring" => Ok(Transport::Uring),
            _ => Err(BadTransport),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Auto => "auto",
            Transport::Classic => "classic",
            Transport::Uring => "uring",
        })
    }
}

/// The transport in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// [`Transport::Classic`] or [`Transport::Uring`].
    pub transport: Transport,
    /// The kernel polls the rings of io_uring.
    pub sqpoll: bool,
    /// Why it is not what was asked for, or why it is classic where the choice was free.
    pub fallback: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for transport in [Transport::Auto, Transport::Classic, Transport::Uring] {
            assert_eq!(transport.to_string().parse(), Ok(transport));
        }
        assert_eq!("io_uring".parse::<Transport>(), Err(BadTransport));
    }
}
