//! Settings of an engine.

/// What an acknowledged update survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// The end of the process (page cache). A loss of power may take the last updates back or damage them; damage is
    /// detected.
    #[default]
    Process,
    /// Loss of power: data and log are synced before a call returns.
    Always,
}

/// Settings of one engine. None of them is part of the format: they may differ at each open.
#[derive(Debug, Clone)]
pub struct Options {
    /// Id in the file headers; an engine made with another id does not open.
    pub target_id: u64,
    /// What an acknowledged update survives.
    pub sync: SyncMode,
    /// New data are refused when the file system has fewer bytes available.
    pub reserve_bytes: u64,
    /// Usual size of a log segment. Two are preallocated.
    pub log_segment_bytes: u32,
    /// A checkpoint is written when the log has grown by this much since the last one (and by the size of that). About
    /// twice as much log is kept.
    pub checkpoint_log_bytes: u64,
    /// Memory for checksum tables; 1 KiB covers a chunk of 1 MiB.
    pub table_cache_bytes: usize,
    /// With [`SyncMode::Always`], appends up to this size go through the log, which takes one sync instead of two.
    pub logged_append_max: usize,
    /// Freed space that is kept for reuse; more is given back to the file system.
    pub reusable_bytes_max: u64,
    /// Overwrites kept apart from their chunk; more are folded into it in the background.
    pub patches_per_chunk_max: usize,
    /// Chunks which have such overwrites.
    pub patched_chunks_max: usize,
}

impl Options {
    /// Defaults for a target.
    pub fn new(target_id: u64) -> Self {
        Options {
            target_id,
            sync: SyncMode::Process,
            reserve_bytes: 64 << 20,
            log_segment_bytes: 16 << 20,
            checkpoint_log_bytes: 64 << 20,
            table_cache_bytes: 16 << 20,
            logged_append_max: 64 << 10,
            reusable_bytes_max: 1 << 30,
            patches_per_chunk_max: 64,
            patched_chunks_max: 16_384,
        }
    }
}
