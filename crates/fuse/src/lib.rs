//! The 3FS FUSE file system: kernel requests to cluster calls (`src/fuse` of 3FS).
//!
//! [`FuseFs`] implements [`xfuse::Filesystem`] over a [`Cluster`], in production [`Clients`]; [`mount`] mounts it. From
//! the outside in:
//!
//! * `fs` takes the kernel's operations; `names`, `data`, `dir`, `xattr` and `ioctl` carry them out, `virt` those on
//!   `3fs-virt`. Errors become errno values in `errno`.
//! * `write` collects bytes and sends them behind the writer's back, `pipeline` keeps account of what is on its way,
//!   and `sync` tells the metadata service. `remains` does so for all files at the end, and knows what was not sent.
//! * `coherence` decides at each open what the kernel may keep of what it has cached.
//! * `inode` and `handle` hold what the kernel refers to; `dynamic` is the pure bookkeeping of lengths and times.
//!
//! Nothing here knows of connections, retries or chunk placement, and no path is ever resolved but those users give to
//! the virtual tree.

mod attr;
mod clients;
mod cluster;
mod coherence;
mod config;
mod connect;
mod core;
mod data;
mod dir;
mod dynamic;
mod errno;
mod fs;
mod handle;
mod ids;
mod inode;
mod ioctl;
mod mount;
mod names;
mod paths;
mod pipeline;
mod readers;
mod remains;
mod sync;
mod user_config;
mod virt;
mod write;
mod xattr;

pub use clients::Clients;
pub use cluster::Cluster;
pub use coherence::KeepCache;
pub use config::{Config, IoBufs, IoWorkers, PeriodicSync, STOP_PATIENCE, StorageIo, ValorConfig};
pub use connect::{Connection, Joining};
pub use core::MountParams;
pub use fs::FuseFs;
pub use mount::mount;
pub use remains::{Remains, Unsent, Unwritten};
