//! What clients do.

pub mod chunks;
pub mod files;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use valor_protocol::status::code;
use valor_wire::Status;

/// What workers share.
#[derive(Default)]
pub struct Shared {
    stopping: AtomicBool,
    clock: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
}

impl Shared {
    /// Asks workers to end after what they are at.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether workers are to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The next position in the order of all calls and returns.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts an operation.
    pub fn count<T>(&self, result: &Result<T, Status>) {
        let counter = if result.is_ok() { &self.done } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Operations that succeeded, and that failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// Handle of [`Shared`].
pub type Hand = Arc<Shared>;

/// Failures that no fault excuses.
fn is_bug(status: &Status) -> bool {
    matches!(
        status.code,
        code::STORAGE_CLIENT_FOUND_BUG
            | code::STORAGE_CLIENT_CHECKSUM_MISMATCH
            | code::STORAGE_CLIENT_INVALID_ARG
    )
}

/// Bytes that belong to a value: reading any others in its place is noticed.
fn fill(value: u64, len: usize) -> Vec<u8> {
    let mut state = value | 1 << 63;
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend_from_slice(&value.to_le_bytes());
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
