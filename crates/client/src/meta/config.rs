//! Configuration of the metadata client: 3FS's section `meta_client`.

use serde::{Deserialize, Serialize};
use valor_config::Duration;

/// Settings of a [`MetaClient`](super::MetaClient).
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct MetaClientConfig {
    /// How servers are chosen.
    pub selection_mode: ServerSelectionMode,
    /// How often servers that failed are asked whether they answer again.
    pub check_server_interval: Duration,
    /// Calls in flight.
    pub max_concurrent_requests: usize,
    /// Chunks removed per chain and request when truncating.
    pub remove_chunks_batch_size: u32,
    /// Use only as many chains of a new file as it needs.
    pub dynamic_stripe: bool,
    /// Pauses and deadlines.
    pub retry_default: MetaRetryConfig,
    /// Closing and pruning in the background.
    pub background_closer: BackgroundCloserConfig,
}

/// How servers are chosen.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServerSelectionMode {
    /// In turn.
    RoundRobin,
    /// At random.
    UniformRandom,
    /// A random one, then always the same while it works.
    #[default]
    RandomFollow,
}

/// Pauses and deadlines.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct MetaRetryConfig {
    /// Deadline of a call.
    pub rpc_timeout: Duration,
    /// Times a request is sent again within a call if it was not sent completely.
    pub retry_send: u32,
    /// Longest pause after failures that pass quickly: an overloaded or unreachable server, or a busy inode.
    pub retry_fast: Duration,
    /// First of these pauses; it doubles (3FS: `retry_init_wait` at once).
    pub retry_fast_init_wait: Duration,
    /// Pause after the first failure of another kind; it doubles.
    pub retry_init_wait: Duration,
    /// Longest of these pauses.
    pub retry_max_wait: Duration,
    /// No call starts when this is over.
    pub retry_total_time: Duration,
    /// A call that changes something and may have been executed is repeated for this long: less than servers remember their
    /// answers (`idempotent_record_expire`). Then it fails, and what became of it is not known; one that may be made twice goes on
    /// under another name. Valor only.
    pub retry_unclear_time: Duration,
    /// Failures of a server before another is chosen.
    pub max_failures_before_failover: u32,
}

impl Default for MetaRetryConfig {
    fn default() -> Self {
        MetaRetryConfig {
            rpc_timeout: Duration::from_secs(5),
            retry_send: 1,
            retry_fast: Duration::from_secs(1),
            retry_fast_init_wait: Duration::from_millis(10),
            retry_init_wait: Duration::from_millis(500),
            retry_max_wait: Duration::from_secs(5),
            retry_total_time: Duration::from_secs(60),
            retry_unclear_time: Duration::from_secs(25 * 60),
            max_failures_before_failover: 1,
        }
    }
}

/// Closing and pruning in the background.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct BackgroundCloserConfig {
    /// Sessions to prune are sent at the latest after this time.
    pub prune_session_batch_interval: Duration,
    /// Sessions to prune are sent when there are so many.
    pub prune_session_batch_count: usize,
    /// Pause before the first repetition.
    pub retry_first_wait: Duration,
    /// Longest pause.
    pub retry_max_wait: Duration,
    /// Tasks that may wait; more are dropped, and their sessions end with the client.
    pub max_tasks: usize,
    /// Tasks at work at a time.
    pub max_concurrent: usize,
}

impl Default for BackgroundCloserConfig {
    fn default() -> Self {
        BackgroundCloserConfig {
            prune_session_batch_interval: Duration::from_secs(10),
            prune_session_batch_count: 128,
            retry_first_wait: Duration::from_millis(100),
            retry_max_wait: Duration::from_secs(10),
            max_tasks: 65_536,
            max_concurrent: 8,
        }
    }
}

impl Default for MetaClientConfig {
    fn default() -> Self {
        MetaClientConfig {
            selection_mode: ServerSelectionMode::default(),
            check_server_interval: Duration::from_secs(5),
            max_concurrent_requests: 128,
            remove_chunks_batch_size: 32,
            dynamic_stripe: false,
            retry_default: MetaRetryConfig::default(),
            background_closer: BackgroundCloserConfig::default(),
        }
    }
}

impl MetaClientConfig {
    /// Keys below this section that a hot update must not change.
    pub const COLD: &'static [&'static str] =
        &["max_concurrent_requests", "background_closer.max_concurrent"];
    /// Keys below this section that C++ 3FS has and that have no effect here.
    pub const IGNORED: &'static [&'static str] = &[
        "network_type",
        "remove_chunks_max_iters",
        "background_closer.task_scan",
        "background_closer.coroutine_pool",
    ];

    /// Short pauses, for clusters on one machine and for tests.
    #[must_use]
    pub fn fast(self) -> Self {
        let retry_default = MetaRetryConfig {
            retry_init_wait: Duration::from_millis(50),
            retry_max_wait: Duration::from_secs(1),
            retry_total_time: Duration::from_secs(30),
            retry_unclear_time: Duration::from_secs(4 * 60),
            ..self.retry_default
        };
        Self { check_server_interval: Duration::from_secs(1), retry_default, ..self }
    }

    /// Rules between and within values.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("max_concurrent_requests", self.max_concurrent_requests),
            ("remove_chunks_batch_size", self.remove_chunks_batch_size as usize),
            ("background_closer.prune_session_batch_count", self.background_closer.prune_session_batch_count),
            ("background_closer.max_concurrent", self.background_closer.max_concurrent),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{key} must be more than 0"));
        }
        let times = [
            ("check_server_interval", self.check_server_interval),
            ("retry_default.rpc_timeout", self.retry_default.rpc_timeout),
            ("retry_default.retry_init_wait", self.retry_default.retry_init_wait),
            (
                "background_closer.prune_session_batch_interval",
                self.background_closer.prune_session_batch_interval,
            ),
            ("background_closer.retry_first_wait", self.background_closer.retry_first_wait),
        ];
        match times.iter().find(|(_, value)| value.get().is_zero()) {
            Some((key, _)) => Err(format!("{key} must be more than 0")),
            None => Ok(()),
        }
    }
}
