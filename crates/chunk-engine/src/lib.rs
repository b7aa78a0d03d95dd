//! Chunks on local disks: allocation, metadata log, checksums and crash recovery.
//!
//! An [`Engine`] keeps the chunks of one storage target in one directory. It knows chunk replication only so far as
//! each chunk has a committed version, which is read, and at most one pending version beside it, which is on disk and
//! waits for its commit. Which versions may follow each other is the caller's business.
//!
//! How bytes come to the disk:
//!
//! * A chunk's content lies in a *slot* of a data file, with a table of the CRC-32C of each 4 KiB block. A new content
//!   is written to a fresh slot; committing it switches the chunk over. Bytes beyond the committed end are written in
//!   place.
//! * A small overwrite goes, as whole blocks, into the log together with its metadata: one write. It becomes a *patch*,
//!   which reads overlay on the slot until it is folded into it in the background.
//! * Metadata live in memory. Each change is a record in the log; a checkpoint from time to time bounds how much of it
//!   is read at open.
//!
//! The disk format is described in `docs/disk-format.md`.

mod checkpoint;
mod codec;
mod crc;
mod drive;
mod engine;
mod error;
mod files;
mod fold;
mod geometry;
mod id;
mod log;
mod maintain;
mod open;
mod options;
mod patch;
mod place;
mod prepare;
mod read;
mod readers;
mod record;
mod signal;
mod slots;
mod state;
mod tables;
mod update;

pub use engine::{Engine, SpaceInfo};
pub use error::{EngineError, Result};
pub use id::{ChunkId, MAX_ID_LEN};
pub use options::{Options, SyncMode};
pub use update::{ChunkMeta, MAX_CHUNK_SIZE, PendingMeta, ReadOutput, Tag, Update, UpdateKind, VersionMeta};
