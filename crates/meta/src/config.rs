//! Configuration of the metadata service: the `server.meta` section with 3FS's key names and defaults
//! (`src/meta/base/Config.h`). Every key can change while running.

use serde::{Deserialize, Serialize};
use valor_config::{Duration, Size, Tree};

/// The whole section.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct Config {
    /// Refuses every operation that would change metadata (34 `ReadOnlyMode`).
    pub readonly: bool,
    /// Checks user tokens; otherwise the user in a request is trusted.
    pub authenticate: bool,
    /// Symlinks within the targets of symlinks.
    pub max_symlink_depth: u32,
    /// Symlinks followed while resolving one path.
    pub max_symlink_count: u32,
    /// How long a directory's permissions may be remembered; 0 reads them each time.
    pub acl_cache_time: Duration,
    /// Entries of a `list` without limit.
    pub list_default_limit: u32,
    /// `stat` by id also finds inodes that are waiting for garbage collection.
    pub allow_stat_deleted_inodes: bool,
    /// Always asks storage for a file's length, whatever the client claims.
    pub ignore_length_hint: bool,
    /// Times are rounded down to a multiple of this.
    pub time_granularity: Duration,
    /// Gives new files of clients that support it a growing number of chains.
    pub dynamic_stripe: bool,
    /// Chains a file with a dynamic stripe starts with.
    pub dynamic_stripe_initial: u32,
    /// Factor by which a dynamic stripe grows, at least 2.
    pub dynamic_stripe_growth: u32,
    /// Requests that may wait for a batch on one inode; 0 is unlimited.
    pub max_batch_operations: u32,
    /// Marks new files for the new chunk engine of C++ 3FS (bit 56 of the inode id).
    pub enable_new_chunk_engine: bool,
    /// The owner, not only root, may set the immutable flag.
    pub allow_owner_change_immutable: bool,
    /// Refuses reading files marked as having holes (3014).
    pub check_file_hole: bool,
    /// Looks up each allocated inode id before use.
    #[serde(rename = "inodeId_check_unique")]
    pub inode_id_check_unique: bool,
    /// `O_TRUNC` of a large file without writers makes a new inode instead of truncating.
    pub otrunc_replace_file: bool,
    /// Length from which [`Self::otrunc_replace_file`] applies.
    pub otrunc_replace_file_threshold: Size,
    /// Age at which the cached file system size is no longer returned.
    pub statfs_cache_time: Duration,
    /// Age at which the cached file system size is asked for again.
    pub statfs_update_interval: Duration,
    /// Permits setting `FS_INDEX_FL` (a directory's own chain counter).
    pub iflags_chain_allocation: bool,
    /// Permits setting `FS_SECRM_FL` (new chunk engine below a directory).
    pub iflags_chunk_engine: bool,
    /// A recursive remove needs ownership of the directory.
    pub recursive_remove_check_owner: bool,
    /// List calls spent on checking subdirectories before a recursive remove; 0 checks none.
    pub recursive_remove_perm_check: u32,
    /// A plain rename may move a directory below `/trash`.
    pub allow_directly_move_to_trash: bool,
    /// Age at which a remembered result of a retried request is dropped.
    pub idempotent_record_expire: Duration,
    /// Time between two rounds of dropping them.
    pub idempotent_record_clean: Duration,
    /// Valor only: remembered results beyond this number are dropped, the oldest first.
    pub idempotent_record_limit: u64,
    /// Remembers results of every remove, not only of recursive ones.
    pub idempotent_remove: bool,
    /// Remembers results of renames.
    pub idempotent_rename: bool,
    /// Time for one operation with all its retries; 0 is unlimited.
    pub operation_timeout: Duration,
    /// Valor only: times change when POSIX says so. C++ 3FS leaves a directory's times alone when its entries change,
    /// and `ctime` when a file is renamed, written or its times are set; see the module `times`.
    pub posix_times: bool,
    /// Retries of a transaction.
    pub retry_transaction: RetryTransaction,
    /// Garbage collection.
    pub gc: GcConfig,
    /// Sessions of dead clients.
    pub session_manager: SessionManagerConfig,
    /// The map of metadata servers.
    pub distributor: DistributorConfig,
    /// Requests passed on to the owner of an inode.
    pub forward: ForwardConfig,
    /// Users remembered for authentication.
    pub user_cache: UserCacheConfig,
}

/// `retry_transaction`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct RetryTransaction {
    /// Longest pause between two tries.
    pub max_backoff: Duration,
    /// Tries after the first.
    pub max_retry_count: u32,
}

/// `gc`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct GcConfig {
    /// Collects at all.
    pub enable: bool,
    /// Pause between two looks into the own queues.
    pub scan_interval: Duration,
    /// Tasks taken from one queue and kind.
    pub scan_batch: u32,
    /// Chunks removed per chain and request.
    pub remove_chunks_batch_size: u32,
    /// Time a removed file keeps its data.
    pub gc_file_delay: Duration,
    /// Files collected at the same time.
    pub gc_file_concurrent: u32,
    /// Time a removed directory tree stays whole.
    pub gc_directory_delay: Duration,
    /// Directories collected at the same time.
    pub gc_directory_concurrent: u32,
    /// Entries of a directory per transaction.
    pub gc_directory_entry_batch: u32,
    /// Time until a task that failed for good, or whose file is open, is tried again.
    pub retry_delay: Duration,
    /// Free space in per cent below which delays are ignored.
    pub gc_delay_free_space_threshold: u32,
    /// Keeps files with writers.
    pub check_session: bool,
    /// Spreads removals over the queues of all servers.
    pub distributed_gc: bool,
    /// A file with fewer chunks is small.
    pub small_file_chunks: u32,
    /// A file with at least this many chunks is large.
    pub large_file_chunks: u32,
    /// Checks permissions below a removed directory; what must not be removed moves to `/trash/gc-orphans`.
    pub recursive_perm_check: bool,
}

/// `session_manager`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct SessionManagerConfig {
    /// Scans at all.
    pub enable: bool,
    /// Time between two scans.
    pub scan_interval: Duration,
    /// Sessions read per transaction.
    pub scan_batch: u32,
    /// Updates the file's length before dropping a dead session.
    pub sync_on_prune_session: bool,
    /// A client whose session with mgmtd was not extended for this long is dead.
    pub session_timeout: Duration,
}

/// `distributor`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct DistributorConfig {
    /// Time between two signs of life.
    pub update_interval: Duration,
    /// A server without sign of life for this long loses its inodes.
    pub timeout: Duration,
}

/// `forward`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct ForwardConfig {
    /// Time for the owner's answer.
    pub timeout: Duration,
}

/// `user_cache`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct UserCacheConfig {
    /// How long a known user is remembered.
    pub exist_ttl: Duration,
    /// How long an unknown user is remembered.
    pub inexist_ttl: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            readonly: false,
            authenticate: false,
            max_symlink_depth: 4,
            max_symlink_count: 10,
            acl_cache_time: Duration::from_secs(15),
            list_default_limit: 128,
            allow_stat_deleted_inodes: true,
            ignore_length_hint: false,
            time_granularity: Duration::from_secs(1),
            dynamic_stripe: false,
            dynamic_stripe_initial: 16,
            dynamic_stripe_growth: 2,
            max_batch_operations: 4096,
            enable_new_chunk_engine: false,
            allow_owner_change_immutable: false,
            check_file_hole: false,
            inode_id_check_unique: true,
            otrunc_replace_file: true,
            otrunc_replace_file_threshold: Size::new(1 << 30),
            statfs_cache_time: Duration::from_secs(60),
            statfs_update_interval: Duration::from_secs(5),
            iflags_chain_allocation: false,
            iflags_chunk_engine: true,
            recursive_remove_check_owner: true,
            recursive_remove_perm_check: 1024,
            allow_directly_move_to_trash: false,
            idempotent_record_expire: Duration::from_secs(30 * 60),
            idempotent_record_clean: Duration::from_secs(60),
            idempotent_record_limit: 16 << 20,
            idempotent_remove: true,
            idempotent_rename: false,
            operation_timeout: Duration::from_secs(5),
            posix_times: false,
            retry_transaction: RetryTransaction::default(),
            gc: GcConfig::default(),
            session_manager: SessionManagerConfig::default(),
            distributor: DistributorConfig::default(),
            forward: ForwardConfig::default(),
            user_cache: UserCacheConfig::default(),
        }
    }
}

impl Default for RetryTransaction {
    fn default() -> Self {
        Self { max_backoff: Duration::from_secs(1), max_retry_count: 10 }
    }
}

impl Default for GcConfig {
    fn default() -> Self {
        Self {
            enable: true,
            scan_interval: Duration::from_millis(200),
            scan_batch: 4096,
            remove_chunks_batch_size: 32,
            gc_file_delay: Duration::from_secs(5 * 60),
            gc_file_concurrent: 32,
            gc_directory_delay: Duration::from_secs(0),
            gc_directory_concurrent: 4,
            gc_directory_entry_batch: 32,
            retry_delay: Duration::from_secs(10 * 60),
            gc_delay_free_space_threshold: 5,
            check_session: true,
            distributed_gc: true,
            small_file_chunks: 32,
            large_file_chunks: 128,
            recursive_perm_check: true,
        }
    }
}

impl Default for SessionManagerConfig {
    fn default() -> Self {
        Self {
            enable: true,
            scan_interval: Duration::from_secs(5 * 60),
            scan_batch: 1024,
            sync_on_prune_session: false,
            session_timeout: Duration::from_secs(5 * 60),
        }
    }
}

impl Default for DistributorConfig {
    fn default() -> Self {
        Self { update_interval: Duration::from_secs(1), timeout: Duration::from_secs(30) }
    }
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10) }
    }
}

impl Default for UserCacheConfig {
    fn default() -> Self {
        Self { exist_ttl: Duration::from_secs(5 * 60), inexist_ttl: Duration::from_secs(10) }
    }
}

impl Config {
    /// Values for a cluster of our own clients on one machine (`valor up`): POSIX times in microseconds, and
    /// space of removed files that comes back soon.
    #[must_use]
    pub fn fast() -> Self {
        Self {
            time_granularity: Duration::from_micros(1),
            posix_times: true,
            iflags_chain_allocation: true,
            statfs_update_interval: Duration::from_secs(2),
            idempotent_record_expire: Duration::from_secs(5 * 60),
            gc: GcConfig {
                gc_file_delay: Duration::from_secs(10),
                retry_delay: Duration::from_secs(10),
                ..GcConfig::default()
            },
            distributor: DistributorConfig {
                update_interval: Duration::from_secs(1),
                timeout: Duration::from_secs(5),
            },
            session_manager: SessionManagerConfig {
                scan_interval: Duration::from_secs(60),
                sync_on_prune_session: true,
                ..SessionManagerConfig::default()
            },
            ..Self::default()
        }
    }
}

impl Tree for Config {
    const IGNORED: &'static [&'static str] = &[
        "background_hole_checker",
        "batch_stat_by_path_concurrent",
        "batch_stat_concurrent",
        "event_trace_log",
        "forward.addr_type",
        "forward.debug",
        "gc.gc_directory_entry_concurrent",
        "gc.retry_remove_chunks",
        "gc.txn_low_priority",
        "gc.workers",
        "grv_cache",
        "inodeId_abort_on_duplicate",
        "max_directory_depth",
        "max_remove_chunks_per_request",
        "retry_remove_chunks",
        "session_manager.close_workers",
        "session_manager.scan_workers",
        "statfs_space_imbalance_threshold",
        "sync_on_prune_session",
        "user_cache.buckets",
    ];

    fn check(&self) -> Result<(), String> {
        let granularity = self.time_granularity.get();
        if granularity.as_micros() == 0 || granularity.as_secs() > 86_400 {
            return Err("time_granularity: must be between 1us and 1day".to_owned());
        }
        let positive = [
            ("list_default_limit", self.list_default_limit),
            ("dynamic_stripe_initial", self.dynamic_stripe_initial),
            ("gc.scan_batch", self.gc.scan_batch),
            ("gc.remove_chunks_batch_size", self.gc.remove_chunks_batch_size),
            ("gc.gc_file_concurrent", self.gc.gc_file_concurrent),
            ("gc.gc_directory_concurrent", self.gc.gc_directory_concurrent),
            ("gc.gc_directory_entry_batch", self.gc.gc_directory_entry_batch),
            ("session_manager.scan_batch", self.session_manager.scan_batch),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("{key}: must be at least 1")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_config::Live;

    #[test]
    fn cpp_keys_are_accepted() {
        let live = Live::new(Config::default());
        let text = r#"
            inodeId_check_unique = false
            otrunc_replace_file_threshold = "2GB"
            time_granularity = "1ms"
            grv_cache = true
            batch_stat_concurrent = 4
            [gc]
            gc_file_delay = "1min"
            [gc.workers]
            coroutines_num = 8
            [event_trace_log]
            enabled = false
        "#;
        live.hot_update(text, "test").unwrap();
        let config = live.get();
        assert!(!config.inode_id_check_unique);
        assert_eq!(config.otrunc_replace_file_threshold, Size::new(2 << 30));
        assert_eq!(config.gc.gc_file_delay, Duration::from_secs(60));
    }

    #[test]
    fn a_zero_granularity_is_refused() {
        let live = Live::new(Config::default());
        assert!(live.hot_update("time_granularity = \"0s\"", "test").is_err());
        assert!(Config::fast().check().is_ok());
    }
}
