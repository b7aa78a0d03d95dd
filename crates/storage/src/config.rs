//! Configuration of a storage server: 3FS's `server` section without `base` (`src/storage/service/Components.h`).

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;
use valor_client::mgmtd::MgmtdClientConfig;
use valor_config::{Duration, Size, Tree};

/// What an acknowledged update survives at every replica of its chain. Valor only.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// Loss of power.
    #[default]
    Always,
    /// The end of the process.
    Process,
}

/// The whole section.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct Config {
    /// What an acknowledged update survives. Valor only.
    pub sync: Sync,
    /// Without contact to mgmtd for this long the server answers 4030, because its chains may have gone on without it.
    /// Must be less than mgmtd's `heartbeat_fail_interval`; 3FS's design asks for half of it. 0 = never. Valor only.
    pub fence_after: Duration,
    /// Without contact to mgmtd for this long the process ends: what it would have to forget is more than a restart
    /// costs, and a supervisor or administrator sees it. 0 = never. Valor only.
    pub exit_after: Duration,
    /// The manager's client.
    pub mgmtd: MgmtdClientConfig,
    /// Disks.
    pub targets: TargetsConfig,
    /// Requests.
    pub storage: OperatorConfig,
    /// Passing updates on to the successor.
    pub reliable_forwarding: ForwardingConfig,
    /// Recognising retried updates.
    pub reliable_update: ReliableUpdateConfig,
    /// Filling a successor.
    pub sync_worker: SyncWorkerConfig,
    /// Looking after disks.
    pub check_worker: CheckWorkerConfig,
    /// Verifying what is stored. Valor only.
    pub scrub: ScrubConfig,
}

/// `targets`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct TargetsConfig {
    /// Directories that hold targets, one per disk; the position is the disk index.
    pub target_paths: Vec<PathBuf>,
    /// Age at which disk space is looked up again.
    pub space_info_cache_timeout: Duration,
    /// Space of each disk that is left unused. Valor only.
    pub reserve_bytes: Size,
}

/// `storage`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct OperatorConfig {
    /// Chunks looked at in one step of a query or removal.
    pub max_num_results_per_query: u32,
    /// Serves reads whatever chain version they carry.
    pub batch_read_ignore_chain_version: bool,
    /// Refuses updates from clients (34).
    pub read_only: bool,
    /// Updates that may wait for the same chunk; more are refused (4091). Valor only.
    pub max_waiters_per_chunk: u32,
    /// Bytes that one batchRead may ask for. Valor only.
    pub max_batch_read_bytes: Size,
}

/// `reliable_forwarding`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct ForwardingConfig {
    /// First pause between two attempts.
    pub retry_first_wait: Duration,
    /// Longest pause.
    pub retry_max_wait: Duration,
    /// Time for all attempts.
    pub retry_total_time: Duration,
}

/// `reliable_update`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct ReliableUpdateConfig {
    /// Forgets channels of clients that mgmtd does not know any more.
    pub clean_up_expired_clients: bool,
    /// Silence after which it may.
    pub expired_clients_timeout: Duration,
    /// Channels remembered; with more in use within ten minutes new ones are refused (7012). Valor only.
    pub max_channels: usize,
}

/// `sync_worker`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct SyncWorkerConfig {
    /// Chunks of a chain on their way at the same time.
    pub batch_size: u32,
    /// Deadline of syncStart and syncDone.
    pub sync_start_timeout: Duration,
    /// Chains of which equal chunks are sent too, with `full_sync_level` HEAVY; none = all.
    pub full_sync_chains: BTreeSet<u32>,
    /// Whether equal chunks are sent.
    pub full_sync_level: FullSyncLevel,
    /// Chains being filled at the same time.
    pub pool: PoolConfig,
    /// Bytes sent per second over all chains; 0 = no limit. Valor only.
    pub max_bytes_per_second: Size,
    /// Pause before a chain that failed is tried again. Valor only.
    pub retry_interval: Duration,
}

/// How thorough filling a successor is.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "UPPERCASE")]
pub enum FullSyncLevel {
    /// Chunks that differ in version or checksum.
    #[default]
    None,
    /// As NONE.
    Light,
    /// All chunks.
    Heavy,
}

/// A pool's size.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct PoolConfig {
    /// Tasks.
    pub threads_num: u32,
}

/// `check_worker`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct CheckWorkerConfig {
    /// How often the bytes used by targets are counted.
    pub update_target_size_interval: Duration,
    /// Share of a disk in use from which it is reported as low on space.
    pub disk_low_space_threshold: f64,
    /// Share of a disk in use from which clients cannot create chunks (7021).
    pub disk_reject_create_chunk_threshold: f64,
    /// How often disks are probed. Valor only.
    pub check_disk_interval: Duration,
}

/// `scrub`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct ScrubConfig {
    /// Whether chunks are verified in the background.
    pub enable: bool,
    /// Bytes verified per second, all disks together; 0 = no limit.
    pub max_bytes_per_second: Size,
    /// Whether a chunk is also compared with what the successor says of it.
    pub compare_replicas: bool,
    /// Time from the start to the first pass.
    pub start_after: Duration,
    /// Time from the end of a pass to the next one.
    pub pause: Duration,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        ScrubConfig {
            enable: true,
            max_bytes_per_second: Size::new(8 << 20),
            compare_replicas: true,
            start_after: Duration::from_secs(60),
            pause: Duration::from_secs(3600),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            sync: Sync::default(),
            fence_after: Duration::from_secs(30),
            exit_after: Duration::from_secs(30),
            mgmtd: MgmtdClientConfig::default(),
            targets: TargetsConfig::default(),
            storage: OperatorConfig::default(),
            reliable_forwarding: ForwardingConfig::default(),
            reliable_update: ReliableUpdateConfig::default(),
            sync_worker: SyncWorkerConfig::default(),
            check_worker: CheckWorkerConfig::default(),
            scrub: ScrubConfig::default(),
        }
    }
}

impl Default for TargetsConfig {
    fn default() -> Self {
        TargetsConfig {
            target_paths: Vec::new(),
            space_info_cache_timeout: Duration::from_secs(5),
            reserve_bytes: Size::new(64 << 20),
        }
    }
}

impl Default for OperatorConfig {
    fn default() -> Self {
        OperatorConfig {
            max_num_results_per_query: 100,
            batch_read_ignore_chain_version: false,
            read_only: false,
            max_waiters_per_chunk: 1024,
            max_batch_read_bytes: Size::new(256 << 20),
        }
    }
}

impl Default for ForwardingConfig {
    fn default() -> Self {
        ForwardingConfig {
            retry_first_wait: Duration::from_millis(100),
            retry_max_wait: Duration::from_secs(1),
            retry_total_time: Duration::from_secs(60),
        }
    }
}

impl Default for ReliableUpdateConfig {
    fn default() -> Self {
        ReliableUpdateConfig {
            clean_up_expired_clients: false,
            expired_clients_timeout: Duration::from_secs(3600),
            max_channels: 1 << 20,
        }
    }
}

impl Default for SyncWorkerConfig {
    fn default() -> Self {
        SyncWorkerConfig {
            batch_size: 16,
            sync_start_timeout: Duration::from_secs(10),
            full_sync_chains: BTreeSet::new(),
            full_sync_level: FullSyncLevel::None,
            pool: PoolConfig::default(),
            max_bytes_per_second: Size::new(0),
            retry_interval: Duration::from_secs(30),
        }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig { threads_num: 8 }
    }
}

impl Default for CheckWorkerConfig {
    fn default() -> Self {
        CheckWorkerConfig {
            update_target_size_interval: Duration::from_secs(10),
            disk_low_space_threshold: 0.96,
            disk_reject_create_chunk_threshold: 0.98,
            check_disk_interval: Duration::from_secs(3),
        }
    }
}

impl Config {
    /// Short intervals, for clusters on one machine and for tests.
    pub fn fast() -> Self {
        Config {
            fence_after: Duration::from_millis(1500),
            // A manager of this machine that is started again finds its servers.
            exit_after: Duration::from_secs(10),
            mgmtd: MgmtdClientConfig::default().fast(),
            reliable_forwarding: ForwardingConfig {
                retry_first_wait: Duration::from_millis(20),
                retry_max_wait: Duration::from_millis(200),
                retry_total_time: Duration::from_secs(15),
            },
            sync_worker: SyncWorkerConfig {
                retry_interval: Duration::from_millis(500),
                ..SyncWorkerConfig::default()
            },
            check_worker: CheckWorkerConfig {
                update_target_size_interval: Duration::from_secs(1),
                check_disk_interval: Duration::from_secs(1),
                ..CheckWorkerConfig::default()
            },
            ..Config::default()
        }
    }
}

impl Tree for Config {
    const COLD: &'static [&'static str] =
        &["sync", "targets.target_paths", "targets.reserve_bytes", "reliable_update.max_channels"];
    const IGNORED: &'static [&'static str] = &[
        "aio_read_worker",
        "allocate_worker",
        "buffer_pool",
        "check_worker.emergency_recycling_ratio",
        "client",
        "coroutines_pool_default",
        "coroutines_pool_read",
        "coroutines_pool_sync",
        "coroutines_pool_update",
        "dump_worker",
        "forward_client",
        "mgmtd.network_type",
        "mgmtd.work_queue_size",
        "reliable_forwarding.max_inline_forward_bytes",
        "speed_up_quit",
        "storage.apply_transmission_before_getting_semaphore",
        "storage.batch_read_job_split_size",
        "storage.event_trace_log",
        "storage.max_concurrent_rdma_reads",
        "storage.max_concurrent_rdma_writes",
        "storage.post_buffer_per_bytes",
        "storage.rdma_transmission_req_timeout",
        "storage.write_worker",
        "sync_meta_kv_worker",
        "sync_worker.batch_concurrency_limiter",
        "sync_worker.num_channels",
        "sync_worker.num_threads",
        "sync_worker.pool.coroutines_num",
        "sync_worker.pool.enable_work_stealing",
        "sync_worker.pool.queue_size",
        "targets.allow_disk_without_uuid",
        "targets.collect_all_fds",
        "targets.create_engine_path",
        "targets.storage_target",
        "targets.target_num_per_path",
        "use_coroutines_pool_read",
        "use_coroutines_pool_update",
    ];

    fn check(&self) -> Result<(), String> {
        self.mgmtd.check().map_err(|error| format!("mgmtd.{error}"))?;
        let share = |key: &str, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => Err(format!("check_worker.{key} must be between 0 and 1")),
        };
        share("disk_low_space_threshold", self.check_worker.disk_low_space_threshold)?;
        share("disk_reject_create_chunk_threshold", self.check_worker.disk_reject_create_chunk_threshold)?;
        let periods = [
            ("check_worker.update_target_size_interval", self.check_worker.update_target_size_interval),
            ("check_worker.check_disk_interval", self.check_worker.check_disk_interval),
            ("reliable_forwarding.retry_first_wait", self.reliable_forwarding.retry_first_wait),
            ("reliable_forwarding.retry_total_time", self.reliable_forwarding.retry_total_time),
            ("sync_worker.sync_start_timeout", self.sync_worker.sync_start_timeout),
        ];
        if let Some((key, _)) = periods.iter().find(|(_, period)| period.get().is_zero()) {
            return Err(format!("{key} must be more than 0"));
        }
        let counts = [
            ("storage.max_num_results_per_query", u64::from(self.storage.max_num_results_per_query)),
            ("storage.max_waiters_per_chunk", u64::from(self.storage.max_waiters_per_chunk)),
            ("reliable_update.max_channels", self.reliable_update.max_channels as u64),
            ("sync_worker.batch_size", u64::from(self.sync_worker.batch_size)),
            ("sync_worker.pool.threads_num", u64::from(self.sync_worker.pool.threads_num)),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((key, _)) => Err(format!("{key} must be more than 0")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_config::Live;

    #[test]
    fn configuration_of_a_3fs_cluster_is_accepted() {
        let live = Live::new(Config::default());
        let text = r#"
            speed_up_quit = true
            [targets]
            target_paths = ["/storage/data1/3fs", "/storage/data2/3fs"]
            allow_disk_without_uuid = false
            [targets.storage_target.kv_store]
            type = "RocksDB"
            [reliable_forwarding]
            retry_total_time = "1min 30s"
            max_inline_forward_bytes = "0"
            [sync_worker]
            full_sync_chains = [1]
            full_sync_level = "HEAVY"
            [sync_worker.pool]
            threads_num = 4
            coroutines_num = 64
            [check_worker]
            disk_low_space_threshold = 0.9
            [mgmtd]
            mgmtd_server_addresses = ["RDMA://10.0.0.1:8000"]
        "#;
        live.apply(text, "test").unwrap();
        let config = live.get();
        assert_eq!(config.targets.target_paths.len(), 2);
        assert_eq!(config.sync_worker.full_sync_level, FullSyncLevel::Heavy);
        assert_eq!(config.reliable_forwarding.retry_total_time, Duration::from_secs(90));
        assert!(live.hot_update("[targets]\ntarget_paths = [\"/x\"]", "test").is_err());
        assert!(live.hot_update("sync = \"process\"", "test").is_err());
        live.hot_update("[storage]\nread_only = true", "test").unwrap();
        assert!(live.get().storage.read_only);
    }

    #[test]
    fn nonsense_is_refused() {
        let refuses = |text: &str| Live::new(Config::fast()).apply(text, "test").is_err();
        assert!(refuses("[check_worker]\ndisk_low_space_threshold = 1.5"));
        assert!(refuses("[sync_worker]\nbatch_size = 0"));
        assert!(refuses("[reliable_forwarding]\nretry_total_time = \"0ns\""));
        assert!(refuses("sync = \"never\""));
        assert!(!refuses("sync = \"process\""));
    }
}
