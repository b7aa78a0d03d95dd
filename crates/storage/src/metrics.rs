//! Handles of the storage service's metrics; their meaning is in `valor_env::metrics`.

use metrics::{Counter, Gauge, counter, gauge};
use valor_env::metrics::*;
use valor_protocol::mgmtd::LocalTargetState;
use valor_protocol::storage::UpdateType;

/// Handles that are used with every request, looked up once.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) reads: Counter,
    pub(crate) read_bytes: Counter,
    pub(crate) corrupt_reads: Counter,
    writes: Counter,
    removes: Counter,
    truncates: Counter,
    extends: Counter,
    pub(crate) update_bytes: Counter,
    pub(crate) repeated: Counter,
    pub(crate) forward_retries: Counter,
    pub(crate) completed: Counter,
    pub(crate) pending: Gauge,
    pub(crate) channels: Gauge,
    pub(crate) loaded: Gauge,
    pub(crate) resync_remaining: Gauge,
    pub(crate) resync_remaining_bytes: Gauge,
    pub(crate) resync_bytes: Counter,
    pub(crate) resync_extra_bytes: Counter,
    pub(crate) scrub_bytes: Counter,
    pub(crate) scrub_passes: Counter,
    pub(crate) scrub_bad: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let kind = |kind: &'static str| counter!(STORAGE_UPDATES, "kind" => kind);
        Metrics {
            reads: counter!(STORAGE_READS),
            read_bytes: counter!(STORAGE_READ_BYTES),
            corrupt_reads: counter!(STORAGE_CORRUPT_READS),
            writes: kind("write"),
            removes: kind("remove"),
            truncates: kind("truncate"),
            extends: kind("extend"),
            update_bytes: counter!(STORAGE_UPDATE_BYTES),
            repeated: counter!(STORAGE_UPDATES_REPEATED),
            forward_retries: counter!(STORAGE_FORWARD_RETRIES),
            completed: counter!(STORAGE_PENDING_COMPLETED),
            pending: gauge!(STORAGE_PENDING),
            channels: gauge!(STORAGE_CHANNELS),
            loaded: gauge!(STORAGE_TARGETS_LOADED),
            resync_remaining: gauge!(STORAGE_RESYNC_REMAINING),
            resync_remaining_bytes: gauge!(STORAGE_RESYNC_REMAINING_BYTES),
            resync_bytes: counter!(STORAGE_RESYNC_BYTES),
            resync_extra_bytes: counter!(STORAGE_RESYNC_EXTRA_BYTES),
            scrub_bytes: counter!(STORAGE_SCRUB_BYTES),
            scrub_passes: counter!(STORAGE_SCRUB_PASSES),
            scrub_bad: gauge!(STORAGE_SCRUB_BAD),
        }
    }
}

impl Metrics {
    /// An update succeeded.
    pub(crate) fn updated(&self, kind: UpdateType, bytes: u64) {
        match kind {
            UpdateType::Remove => self.removes.increment(1),
            UpdateType::Truncate => self.truncates.increment(1),
            UpdateType::Extend => self.extends.increment(1),
            UpdateType::Write | UpdateType::Invalid | UpdateType::Commit => self.writes.increment(1),
        }
        self.update_bytes.increment(bytes);
    }

    /// An update failed.
    pub(crate) fn update_failed(&self, code: u16) {
        counter!(STORAGE_UPDATE_ERRORS, "code" => code.to_string()).increment(1);
    }

    /// A read failed.
    pub(crate) fn read_failed(&self, code: u16) {
        counter!(STORAGE_READ_ERRORS, "code" => code.to_string()).increment(1);
    }

    /// States of all targets.
    pub(crate) fn targets(&self, states: impl Iterator<Item = LocalTargetState>) {
        let states: Vec<_> = states.collect();
        let names = [
            (LocalTargetState::Uptodate, "UPTODATE"),
            (LocalTargetState::Online, "ONLINE"),
            (LocalTargetState::Offline, "OFFLINE"),
        ];
        for (state, name) in names {
            let count = states.iter().filter(|s| **s == state).count();
            gauge!(STORAGE_TARGETS, "state" => name).set(count as f64);
        }
    }

    /// Whether requests are refused for lack of contact to the manager.
    pub(crate) fn fenced(&self, fenced: bool) {
        gauge!(STORAGE_FENCED).set(if fenced { 1.0 } else { 0.0 });
    }

    /// A disk was taken out of service.
    pub(crate) fn disk_failed(&self, index: usize) {
        counter!(STORAGE_DISK_FAILURES, "disk" => index.to_string()).increment(1);
    }

    /// Space of a disk.
    pub(crate) fn disk_space(&self, index: usize, capacity: u64, available: u64) {
        gauge!(STORAGE_DISK_CAPACITY, "disk" => index.to_string()).set(capacity as f64);
        gauge!(STORAGE_DISK_AVAILABLE, "disk" => index.to_string()).set(available as f64);
    }

    /// Chunks compared for a successor.
    pub(crate) fn resync_compared(&self, done: &'static str, count: u64) {
        counter!(STORAGE_RESYNC_CHUNKS, "done" => done).increment(count);
    }

    /// A chunk was verified.
    pub(crate) fn scrubbed(&self, result: &'static str, bytes: u64) {
        counter!(STORAGE_SCRUB_CHUNKS, "result" => result).increment(1);
        self.scrub_bytes.increment(bytes);
    }

    /// An attempt to fill a successor ended.
    pub(crate) fn resync_ended(&self, result: &'static str) {
        counter!(STORAGE_RESYNC_RUNS, "result" => result).increment(1);
    }
}
