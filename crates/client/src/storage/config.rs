//! Configuration of the storage client: 3FS's section `storage_client` and its IO options.

use serde::{Deserialize, Serialize};
use std::time::Duration as StdDuration;
use valor_config::{Duration, Size};
use valor_protocol::storage::ChecksumType;

/// Settings of a [`StorageClient`](super::StorageClient).
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(default)]
pub struct StorageClientConfig {
    /// Checksum of data written, and of data read when reads are verified.
    pub chunk_checksum_type: Checksum,
    /// Pauses, deadlines and failover.
    pub retry: RetryConfig,
    /// Limits of requests.
    pub traffic_control: TrafficControl,
}

/// A kind of checksum by 3FS's name.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "UPPERCASE")]
pub enum Checksum {
    /// None.
    None,
    /// CRC-32C.
    #[default]
    Crc32c,
    /// CRC-32.
    Crc32,
}

impl Checksum {
    /// The protocol's name for it.
    pub fn kind(self) -> ChecksumType {
        match self {
            Checksum::None => ChecksumType::None,
            Checksum::Crc32c => ChecksumType::Crc32c,
            Checksum::Crc32 => ChecksumType::Crc32,
        }
    }
}

/// Pauses and deadlines. An attempt's deadline grows from `init_wait_time` to `max_wait_time`; after a failure the rest
/// of it is waited for, or less: see `fast_retry_*`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct RetryConfig {
    /// Deadline of the first attempt.
    pub init_wait_time: Duration,
    /// Deadline of later attempts at most.
    pub max_wait_time: Duration,
    /// No attempt starts with less than `init_wait_time` of this left.
    pub max_retry_time: Duration,
    /// Beyond that time an operation is repeated for this long from its start, as long as the chain does not serve or
    /// cannot be reached, as opposed to a server that answers that it cannot read its disk. 0 = not. Valor only.
    pub wait_for_chain: Duration,
    /// Failures after which reads prefer another replica.
    pub max_failures_before_failover: u32,
    /// Pause after the first failure that came before its deadline. It doubles from failure to failure.
    pub fast_retry_init_wait: Duration,
    /// Longest of these pauses. 3FS waits for the attempt's whole deadline: set both to `max_wait_time` to do so too.
    pub fast_retry_max_wait: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        RetryConfig {
            init_wait_time: Duration::from_secs(10),
            max_wait_time: Duration::from_secs(30),
            max_retry_time: Duration::from_secs(60),
            wait_for_chain: Duration::from_secs(0),
            max_failures_before_failover: 1,
            fast_retry_init_wait: Duration::from_millis(10),
            fast_retry_max_wait: Duration::from_secs(1),
        }
    }
}

impl RetryConfig {
    /// Short deadlines, for clusters on one machine and for tests.
    pub fn fast() -> Self {
        RetryConfig {
            init_wait_time: Duration::from_secs(2),
            max_wait_time: Duration::from_secs(5),
            max_retry_time: Duration::from_secs(30),
            ..RetryConfig::default()
        }
    }

    /// This with the overrides of one call.
    pub(super) fn merged(&self, options: &RetryOptions) -> RetryConfig {
        let pick = |over: Duration, own: Duration| if over.get().is_zero() { own } else { over };
        RetryConfig {
            init_wait_time: pick(options.init_wait_time, self.init_wait_time),
            max_wait_time: pick(options.max_wait_time, self.max_wait_time),
            max_retry_time: pick(options.max_retry_time, self.max_retry_time),
            ..self.clone()
        }
    }
}

/// A call's own pauses and deadlines; 0 = the client's.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(default)]
pub struct RetryOptions {
    /// See [`RetryConfig`].
    pub init_wait_time: Duration,
    /// See [`RetryConfig`].
    pub max_wait_time: Duration,
    /// See [`RetryConfig`].
    pub max_retry_time: Duration,
    /// Also repeat what fails with errors that will not go away.
    pub retry_permanent_error: bool,
}

impl RetryOptions {
    /// Gives up after a time, of which a third is an attempt's deadline.
    pub fn within(time: StdDuration) -> RetryOptions {
        let (first, all) = (Duration::new(time / 3), Duration::new(time));
        RetryOptions { init_wait_time: first, max_wait_time: all, max_retry_time: all, ..Default::default() }
    }
}

/// Limits of the requests of one kind.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct Limits {
    /// Operations per request.
    pub max_batch_size: usize,
    /// Bytes per request.
    pub max_batch_bytes: Size,
    /// Requests in flight.
    pub max_concurrent_requests: usize,
    /// Requests in flight to one server.
    pub max_concurrent_requests_per_server: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_batch_size: 128,
            max_batch_bytes: Size::new(4 << 20),
            max_concurrent_requests: 32,
            max_concurrent_requests_per_server: 8,
        }
    }
}

/// Limits by kind of request.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct TrafficControl {
    /// Reads.
    pub read: Limits,
    /// Writes.
    pub write: Limits,
    /// Queries.
    pub query: Limits,
    /// Removals.
    pub remove: Limits,
    /// Changes of length.
    pub truncate: Limits,
    /// Update channels: updates of all kinds under way at a time.
    pub max_update_channels: u16,
}

impl Default for TrafficControl {
    fn default() -> Self {
        TrafficControl {
            read: Limits::default(),
            write: Limits::default(),
            query: Limits::default(),
            remove: Limits::default(),
            truncate: Limits::default(),
            max_update_channels: 4096,
        }
    }
}

/// Which replica of a chain a request goes to.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TargetSelectionMode {
    /// Reads: `LoadBalance`; the rest: `HeadTarget`.
    #[default]
    Default,
    /// The server with the fewest requests of this client.
    LoadBalance,
    /// In turn.
    RoundRobin,
    /// At random.
    RandomTarget,
    /// The last.
    TailTarget,
    /// The first.
    HeadTarget,
    /// By number.
    ManualMode,
}

/// Which replica of a chain a request goes to.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(default)]
pub struct TargetSelection {
    /// How to choose.
    pub mode: TargetSelectionMode,
    /// Replica's number for `ManualMode`.
    #[serde(rename = "targetIndex")]
    pub target_index: u32,
    /// Only servers tagged with one of these traffic zones (separated by commas); empty = all.
    #[serde(rename = "trafficZone")]
    pub traffic_zone: String,
}

/// How to read.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct ReadOptions {
    /// Have the server send a checksum and compare it with the data. Nearly free, since the frame's checksum is computed
    /// anyway; 3FS's default is off.
    #[serde(rename = "enableChecksum")]
    pub verify_checksum: bool,
    /// Also accept data that is not committed yet.
    #[serde(rename = "allowReadUncommitted")]
    pub allow_read_uncommitted: bool,
    /// Pauses and deadlines.
    pub retry: RetryOptions,
    /// Which replica.
    #[serde(rename = "targetSelection")]
    pub target_selection: TargetSelection,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions {
            verify_checksum: true,
            allow_read_uncommitted: false,
            retry: RetryOptions::default(),
            target_selection: TargetSelection::default(),
        }
    }
}

/// How to write, remove and change lengths.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct WriteOptions {
    /// Send a checksum with the data.
    #[serde(rename = "enableChecksum")]
    pub checksum: bool,
    /// Pauses and deadlines.
    pub retry: RetryOptions,
    /// Which replica; servers refuse all but the head.
    #[serde(rename = "targetSelection")]
    pub target_selection: TargetSelection,
}

impl Default for WriteOptions {
    fn default() -> Self {
        WriteOptions {
            checksum: true,
            retry: RetryOptions::default(),
            target_selection: TargetSelection::default(),
        }
    }
}

impl StorageClientConfig {
    /// Keys below this section that a hot update must not change.
    pub const COLD: &'static [&'static str] = &["chunk_checksum_type", "traffic_control"];
    /// Keys below this section that C++ 3FS has and that have no effect here.
    pub const IGNORED: &'static [&'static str] = &[
        "net_client",
        "net_client_for_updates",
        "create_net_client_for_updates",
        "implementation_type",
        "check_overlapping_read_buffers",
        "check_overlapping_write_buffers",
        "max_inline_read_bytes",
        "max_inline_write_bytes",
        "max_read_io_bytes",
        "traffic_control.*.random_shuffle_requests",
        "traffic_control.*.process_batches_in_parallel",
    ];

    /// Short deadlines, for clusters on one machine and for tests.
    #[must_use]
    pub fn fast(self) -> Self {
        Self { retry: RetryConfig::fast(), ..self }
    }

    /// Rules between and within values.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn check(&self) -> Result<(), String> {
        let traffic = &self.traffic_control;
        let all = [
            ("read", &traffic.read),
            ("write", &traffic.write),
            ("query", &traffic.query),
            ("remove", &traffic.remove),
            ("truncate", &traffic.truncate),
        ];
        for (name, limits) in all {
            let counts = [
                limits.max_batch_size,
                limits.max_concurrent_requests,
                limits.max_concurrent_requests_per_server,
            ];
            if counts.contains(&0) || limits.max_batch_bytes.get() == 0 {
                return Err(format!("traffic_control.{name}: every limit must be more than 0"));
            }
        }
        if traffic.max_update_channels == 0 {
            return Err("traffic_control.max_update_channels must be more than 0".into());
        }
        if self.retry.init_wait_time.get().is_zero() {
            return Err("retry.init_wait_time must be more than 0".into());
        }
        Ok(())
    }
}
