//! A FUSE session layer in pure Rust: kernel ABI, parallel channels, async handlers.
//!
//! A [`Filesystem`] has one async method per kernel operation. A [`Session`] mounts it and serves requests on N channels.
//! A channel is one thread with a current-thread tokio runtime and its own descriptor of `/dev/fuse`; a request is
//! read, handled and answered on the same thread, with one read(2) and one writev(2).
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

pub mod abi;
mod buffer;
mod channel;
mod context;
pub mod decode;
mod device;
mod dirbuf;
mod dispatch;
mod errno;
mod fs;
mod inflight;
pub mod init;
pub mod mix;
pub mod mount;
mod notify;
mod pod;
mod reply;
pub mod request;
mod session;
pub mod stats;
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
pub use reply::{
    Attr, Block, Copied, Created, Data, Entry, IoctlReply, Lock, Offset, Opened, Ready, StatxReply, Totals,
    Written, Xattr,
};
pub use session::{Session, SessionBuilder};
pub use transport::Transport;
pub use wait::{WaitHandle, WaitPolicy};
