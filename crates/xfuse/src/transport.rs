//! How requests travel between the kernel and the channels.

use std::fmt;
use std::str::FromStr;

/// The wanted transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// What is never much behind: classic, at present. io_uring is ahead but for large data of many callers.
    #[default]
    Auto,
    /// read(2) and writev(2) on `/dev/fuse`.
    Classic,
    /// FUSE over io_uring, if the kernel has it enabled; classic otherwise. Handlers run on threads pinned to a CPU, and
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
    /// Why it is not what was asked for.
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
