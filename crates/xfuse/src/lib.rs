//! A FUSE session layer in pure Rust: kernel ABI, parallel channels, async handlers, adaptive waiting.
//!
//! A [`Filesystem`] has one async method per kernel operation. A [`Session`] mounts it and serves requests on N channels.
//! A channel is one thread with a current-thread tokio runtime; a request is read, handled and answered on the same
//! thread. A handler that waits does not keep its channel from other requests.
//!
//! # Transports
//! [`Transport::Classic`]: each channel has a descriptor of `/dev/fuse`; one read(2) and one writev(2) per request.
//! All channels share the kernel's list of requests. [`Transport::Uring`] (Linux 6.14, module parameter
//! `enable_uring`): a queue for each CPU, served by a thread pinned to it, so that small requests need no wake-up of
//! another CPU (it leaves that while data is read ahead, since then the caller goes on). Of several
//! large transfers in one queue, some are handled by the threads of other queues that wait. Handlers read WRITE data in the memory that the queue shares with the kernel ([`Payload`]), and can make
//! the answer to a READ there ([`Context::room`]); other answers are copied there. It falls back to classic where the
//! kernel says no, and [`Session::transport`] tells why. A queue has 8 entries of `max_write` bytes (fewer on machines
//! with many CPUs, see [`SessionBuilder::queue_depth`]), which take memory as far as requests have used them; and a
//! thread, a ring and a runtime for each CPU that the kernel could have. [`Transport::Auto`], the default, is
//! io_uring where all that is to be had, else classic. [`SessionBuilder::sqpoll`] has io_uring polled by threads of the kernel.
//!
//! # Waiting
//! Waking a thread on another CPU costs more than all else in a small request. With a [`WaitPolicy`] that allows it, a
//! channel that expects the next request sooner than that spins for it, then blocks ([`wait`]). The [`Mix`] says which
//! share of requests is waited for by plain blocking: 1 is plain FUSE (the default), 0 spins whenever it is worth it,
//! `auto` chooses from the counters. It can be changed while mounted, through [`Session::wait_handle`]. An idle
//! session has no timers and does not wake up.
//!
//! # Misbehaviour
//! Requests are decoded with all lengths checked; malformed ones are answered and counted. A handler that panics,
//! returns too much or an error that is none becomes `EIO`; one that never answers keeps only its caller. [`stats`]
//! counts all of it.
//!
//! ```no_run
//! use xfuse::{Context, Entry, Errno, Filesystem, Session, request::Lookup};
//! use std::time::Duration;
//!
//! struct Empty;
//! impl Filesystem for Empty {
//!     async fn lookup(&self, _: &Context, _: Lookup<'_>) -> Result<Entry, Errno> {
//!         Ok(Entry::negative(Duration::from_secs(1)))
//!     }
//! }
//!
//! let session = Session::builder(Empty).mount("/mnt/empty")?;
//! session.wait();
//! # Ok::<(), xfuse::MountError>(())
//! ```

// Some unit tests share code with the tests beside the crate.
#[cfg(test)]
extern crate self as xfuse;

pub mod abi;
mod buffer;
#[cfg(test)]
mod buffer_tests;
pub mod capability;
mod channel;
mod context;
pub mod decode;
mod device;
mod dirbuf;
mod dispatch;
mod errno;
mod fs;
mod inflight;
#[cfg(test)]
mod inflight_tests;
pub mod init;
mod interrupt;
pub mod mix;
pub mod mount;
mod notify;
mod payload;
mod pod;
mod reply;
pub mod request;
mod session;
pub mod stats;
mod sync;
pub mod transport;
pub mod wait;

pub use context::Context;
pub use dirbuf::{DirBuffer, DirPlusBuffer, dirent_type};
pub use errno::Errno;
pub use fs::{Filesystem, SessionInfo};
pub use init::{InitConfig, Negotiated};
pub use mix::Mix;
pub use mount::{MountError, MountMethod, MountOptions, Unmounted};
pub use notify::{Notifier, Pending, Retrieved};
pub use payload::{Payload, Room};
pub use reply::{
    Attr, Block, Copied, Created, Data, Entry, IoctlReply, Lock, Offset, Opened, Ready, StatxReply, Totals,
    Written, Xattr,
};
pub use session::{Session, SessionBuilder};
pub use transport::Transport;
pub use wait::{WaitHandle, WaitPolicy};
