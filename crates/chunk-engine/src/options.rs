//! Settings of an engine.

/// What an acknowledged update survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// The end of the process (page cache). A loss of power may take the last updates back or damage them; damage is detected.
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
    /// New chunk data are refused when the file system has fewer bytes available.
    pub reserve_bytes: u64,
}

impl Options {
    /// Defaults for a target.
    pub fn new(target_id: u64) -> Self {
        Options { target_id, sync: SyncMode::Process, reserve_bytes: 64 << 20 }
    }
}
