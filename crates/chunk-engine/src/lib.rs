//! Chunks on local disks: allocation, metadata log, checksums and crash recovery.
//!
//! An [`Engine`] keeps the chunks of one storage target in one directory. It knows chunk replication only so far as each chunk
//! has a committed version, which is read, and at most one pending version beside it, which is on disk and waits for its
//! commit. Which versions may follow each other is the caller's business.
//!
//! The disk format is described in `docs/disk-format.md`.

mod engine;
mod error;
mod id;
mod options;
mod update;

pub use engine::{Engine, SpaceInfo};
pub use error::{EngineError, Result};
pub use id::{ChunkId, MAX_ID_LEN};
pub use options::{Options, SyncMode};
pub use update::{ChunkMeta, MAX_CHUNK_SIZE, PendingMeta, ReadOutput, Tag, Update, UpdateKind, VersionMeta};
