//! Metadata service: inodes, directory entries, sessions and garbage collection as transactions.
//!
//! The service keeps nothing but caches: every operation is one transaction on the key-value store, so that any number
//! of servers may share a file system (3FS's `src/meta`). From the outside in:
//!
//! * [`Meta`] answers requests. Operations on one inode's length or attributes, and creation of files, go to the
//!   inode's owner among the servers ([`owner_of`]) and are merged there (`batch`); the others run where they arrive.
//! * `core` tries an operation until its transaction commits; `idempotent` remembers answers for clients that ask
//!   again. The operations are in `ops`.
//! * `resolve` walks paths, `acl` knows permissions, `layout` and `inode_id` provide for new files.
//! * `store` reads and writes records, whose bytes are in [`schema`].
//! * `gc`, `sessions`, `distributor` and `statfs` work in the background.
//!
//! Conflicts are decided by the store: what an operation depends on is read with conflict, and path resolution is not,
//! so that renames of ancestors do not disturb operations below: an operation on a name in a directory is atomic, a walk
//! along a path is not (nor is it in Linux).
//!
//! Storage, mgmtd and the users are behind [`ChunkAccess`], [`Cluster`] and [`Users`], which the file client, the
//! manager's client and the user store implement (`over_client`).

mod acl;
mod acl_cache;
mod batch;
mod cluster;
mod config;
mod core;
mod distributor;
mod error;
mod forward;
mod gc;
mod idempotent;
mod inode_id;
mod layout;
mod ops;
mod over_client;
mod owner;
mod path;
mod resolve;
pub mod schema;
mod service;
mod sessions;
mod statfs;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod times;
mod users;

pub use cluster::{BoxFuture, ChainState, ChunkAccess, Cluster, Space};
pub use config::{
    Config, DistributorConfig, ForwardConfig, GcConfig, RetryTransaction, SessionManagerConfig,
    UserCacheConfig,
};
pub use over_client::user_store;
pub use owner::owner_of;
pub use service::{Deps, Meta, init_fs};
pub use users::Users;
