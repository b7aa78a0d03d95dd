//! Configuration of a mount: 3FS's FUSE keys (`src/fuse/FuseConfig.h`) and a section of our own.

use crate::coherence::KeepCache;
use serde::{Deserialize, Serialize};
use valor_client::meta::MetaClientConfig;
use valor_client::mgmtd::MgmtdClientConfig;
use valor_client::storage::{ReadOptions, StorageClientConfig, WriteOptions};
use valor_config::{Duration, Size, Tree};
use xfuse::{Transport, WaitPolicy};

/// The whole tree.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct Config {
    /// Gives up a call when the kernel interrupts the request.
    pub enable_interrupt: bool,
    /// Seconds that attributes are cached by the kernel.
    pub attr_timeout: f64,
    /// Seconds that names are cached by the kernel.
    pub entry_timeout: f64,
    /// Seconds that the absence of a name is cached; 0 not at all.
    pub negative_timeout: f64,
    /// Seconds that symlinks are cached.
    pub symlink_timeout: f64,
    /// Refuses all changes.
    pub readonly: bool,
    /// Lets the kernel cache file data.
    pub enable_read_cache: bool,
    /// fsync and close tell the server the end of our own writes, instead of having storage asked. 3FS's default is
    /// false ("for test"); the hint is what this mount wrote and merges with what the server knows.
    pub fsync_length_hint: bool,
    /// fdatasync also updates the length.
    pub fdatasync_update_length: bool,
    /// `ln` into `3fs-virt/rm-rf` must name absolute paths on this mount.
    pub check_rmrf: bool,
    /// Largest piece of a chunk in one request; 0 = the chunk.
    pub chunk_size_limit: Size,
    /// stat writes buffered data out first.
    pub flush_on_stat: bool,
    /// stat brings the length up to date first.
    pub sync_on_stat: bool,
    /// Answers reads and writes without doing them.
    pub dryrun_bench_mode: bool,
    /// Background syncs of files that were written.
    pub periodic_sync: PeriodicSync,
    /// Requests that the kernel may have in flight in the background.
    pub max_background: u16,
    /// Lets the kernel collect writes.
    pub enable_writeback_cache: bool,
    /// Another path prefix under which this mount is seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remount_prefix: Option<String>,
    /// Granularity of times.
    pub time_granularity: Duration,
    /// Threads for invalidations.
    pub notify_inval_threads: usize,
    /// Largest user id that may have settings of its own.
    pub max_uid: u32,
    /// Buffers.
    pub io_bufs: IoBufs,
    /// Workers of shared-memory rings by priority.
    pub io_worker_coros: IoWorkers,
    /// Jobs taken from a shared-memory ring at a time.
    pub max_jobs_per_ioring: u32,
    /// How long a worker of shared-memory rings looks into a queue.
    pub io_job_deq_timeout: Duration,
    /// The manager's client.
    pub mgmtd: MgmtdClientConfig,
    /// The metadata client.
    pub meta: MetaClientConfig,
    /// The storage client.
    pub storage: StorageClientConfig,
    /// How files are read and written.
    pub storage_io: StorageIo,
    /// Keys of our own.
    pub valor: ValorConfig,
}

/// Background syncs.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct PeriodicSync {
    /// Whether they happen.
    pub enable: bool,
    /// How often, give or take 30 %.
    pub interval: Duration,
    /// Files at a time.
    pub limit: usize,
    /// Also write buffered data out.
    pub flush_write_buf: bool,
}

/// Buffer sizes.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct IoBufs {
    /// Largest request from the kernel.
    pub max_buf_size: Size,
    /// Bytes collected before they are written; 0 writes at once.
    pub write_buf_size: Size,
}

/// Workers of shared-memory rings.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct IoWorkers {
    /// For high priority.
    pub hi: u32,
    /// For low priority.
    pub lo: u32,
}

/// How files are read and written.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(default)]
pub struct StorageIo {
    /// Reads.
    pub read: ReadOptions,
    /// Writes.
    pub write: WriteOptions,
}

/// Keys that C++ 3FS does not have.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct ValorConfig {
    /// Channel threads of the classic transport; 0 = one per CPU, at most 4.
    pub channels: usize,
    /// How requests travel: `uring` (FUSE over io_uring), `classic` (`/dev/fuse`), or `auto`: io_uring where the kernel has
    /// it switched on and the process may use all CPUs, else classic.
    pub transport: String,
    /// Over io_uring, threads of the kernel look for answers: lower latency for more CPU time.
    pub sqpoll: bool,
    /// Share of requests that are waited for by blocking at once: "0" (adaptive) to "1" (plain FUSE), or `auto`.
    pub mix: String,
    /// Longest time to spin for a request.
    pub max_window: Duration,
    /// Share of one CPU that spinning may use.
    pub spin_budget: f64,
    /// Keep idle CPUs of the machine polling while mounted: lower latency for more power.
    pub pm_qos: bool,
    /// Bytes of one file that may be on their way to storage while its writer goes on.
    pub write_behind_per_file: Size,
    /// The same for all files of the mount.
    pub write_behind: Size,
    /// The kernel's readahead of this mount (only root can raise it above 128 KiB); 0 leaves it.
    pub read_ahead: Size,
    /// When the kernel keeps a file's pages between opens.
    pub keep_cache: KeepCache,
    /// How long an open that truncates waits for writes that are on their way to storage, before it fails with
    /// ETIMEDOUT.
    pub open_patience: Duration,
    /// close(2) of a file that was written ends its session at once, saving a call; a later write through a duplicated
    /// descriptor opens it again.
    pub close_on_flush: bool,
    /// How long a mount that is stopped may take to send what programs wrote. Then it ends without it, and says what
    /// was not sent.
    pub stop_patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            enable_interrupt: false,
            attr_timeout: 30.0,
            entry_timeout: 30.0,
            negative_timeout: 5.0,
            symlink_timeout: 5.0,
            readonly: false,
            enable_read_cache: true,
            fsync_length_hint: true,
            fdatasync_update_length: false,
            check_rmrf: true,
            chunk_size_limit: Size::new(0),
            flush_on_stat: true,
            sync_on_stat: true,
            dryrun_bench_mode: false,
            periodic_sync: PeriodicSync::default(),
            max_background: 64,
            enable_writeback_cache: false,
            remount_prefix: None,
            time_granularity: Duration::from_secs(1),
            notify_inval_threads: 32,
            max_uid: 1_000_000,
            io_bufs: IoBufs::default(),
            io_worker_coros: IoWorkers::default(),
            max_jobs_per_ioring: 32,
            io_job_deq_timeout: Duration::from_millis(1),
            mgmtd: MgmtdClientConfig::for_client(),
            meta: MetaClientConfig { dynamic_stripe: true, ..MetaClientConfig::default() },
            storage: StorageClientConfig::default(),
            storage_io: StorageIo::default(),
            valor: ValorConfig::default(),
        }
    }
}

impl Default for PeriodicSync {
    fn default() -> Self {
        PeriodicSync { enable: true, interval: Duration::from_secs(30), limit: 1000, flush_write_buf: true }
    }
}

impl Default for IoBufs {
    fn default() -> Self {
        IoBufs { max_buf_size: Size::new(1 << 20), write_buf_size: Size::new(1 << 20) }
    }
}

impl Default for IoWorkers {
    fn default() -> Self {
        IoWorkers { hi: 8, lo: 8 }
    }
}

impl Default for ValorConfig {
    fn default() -> Self {
        ValorConfig {
            channels: 0,
            transport: "auto".into(),
            sqpoll: false,
            mix: "1".into(),
            max_window: Duration::from_micros(50),
            spin_budget: 0.25,
            pm_qos: false,
            write_behind_per_file: Size::new(8 << 20),
            write_behind: Size::new(64 << 20),
            read_ahead: Size::new(1 << 20),
            keep_cache: KeepCache::Never,
            open_patience: Duration::from_secs(60),
            close_on_flush: true,
            stop_patience: STOP_PATIENCE,
        }
    }
}

/// How long a mount that is stopped may take, unless set.
pub const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Most channel threads; more only contend for the kernel's list of requests.
const MAX_CHANNELS: usize = 256;

impl ValorConfig {
    /// How the session waits.
    ///
    /// # Errors
    /// When `mix` is neither a share nor `auto`.
    pub fn wait_policy(&self) -> Result<WaitPolicy, String> {
        let mix = self.mix.parse().map_err(|error| format!("`valor.mix` \"{}\": {error}", self.mix))?;
        let max_window = self.max_window.get();
        Ok(WaitPolicy { mix, max_window, cpu_budget: self.spin_budget, pm_qos: self.pm_qos })
    }

    /// How requests travel.
    ///
    /// # Errors
    /// When there is no such transport.
    pub fn transport(&self) -> Result<Transport, String> {
        let parsed = self.transport.parse();
        parsed.map_err(|error| format!("`valor.transport` \"{}\": {error}", self.transport))
    }

    fn check(&self) -> Result<(), String> {
        self.wait_policy()?;
        self.transport()?;
        if self.channels > MAX_CHANNELS {
            return Err(format!("`valor.channels` must be at most {MAX_CHANNELS}"));
        }
        if self.max_window.get() > std::time::Duration::from_millis(10) {
            return Err("`valor.max_window` must be at most 10ms".into());
        }
        if !(0.0..=1.0).contains(&self.spin_budget) {
            return Err("`valor.spin_budget` must be between 0 and 1 CPU".into());
        }
        Ok(())
    }
}

impl Tree for Config {
    const COLD: &'static [&'static str] = &[
        "max_background",
        "enable_writeback_cache",
        "remount_prefix",
        "time_granularity",
        "notify_inval_threads",
        "max_uid",
        "io_bufs",
        "storage.chunk_checksum_type",
        "storage.traffic_control",
        "meta.max_concurrent_requests",
        "meta.background_closer.max_concurrent",
        "valor.channels",
        "valor.transport",
        "valor.sqpoll",
        "valor.spin_budget",
        "valor.pm_qos",
        "valor.write_behind",
        "valor.read_ahead",
    ];
    const IGNORED: &'static [&'static str] = &[
        "common",
        "client",
        "cluster_id",
        "token_file",
        "mountpoint",
        "allow_other",
        "ib_devices",
        "log",
        "monitor",
        "enable_priority",
        "memset_before_read",
        "max_idle_threads",
        "max_threads",
        "max_readahead",
        "iov_limit",
        "io_jobq_size",
        "io_jobq_sizes",
        "batch_io_coros",
        "rdma_buf_pool_size",
        "submit_wait_jitter",
        "io_bufs.max_readahead",
        "periodic_sync.worker",
        "storage.net_client",
        "storage.net_client_for_updates",
        "storage.create_net_client_for_updates",
        "storage.implementation_type",
        "storage.check_overlapping_read_buffers",
        "storage.check_overlapping_write_buffers",
        "storage.max_inline_read_bytes",
        "storage.max_inline_write_bytes",
        "storage.max_read_io_bytes",
        "storage.traffic_control.*.random_shuffle_requests",
        "storage.traffic_control.*.process_batches_in_parallel",
        "meta.network_type",
        "meta.remove_chunks_max_iters",
        "meta.background_closer.task_scan",
        "meta.background_closer.coroutine_pool",
        "mgmtd.network_type",
        "mgmtd.work_queue_size",
        "storage_io.debug",
        "storage_io.read.debug",
        "storage_io.write.debug",
    ];
    const OPTIONAL: &'static [&'static str] = &["remount_prefix"];

    fn check(&self) -> Result<(), String> {
        for (key, seconds) in [
            ("attr_timeout", self.attr_timeout),
            ("entry_timeout", self.entry_timeout),
            ("negative_timeout", self.negative_timeout),
            ("symlink_timeout", self.symlink_timeout),
        ] {
            if !(0.0..=1e9).contains(&seconds) {
                return Err(format!("`{key}` must be between 0 and 1e9 seconds"));
            }
        }
        if self.io_bufs.max_buf_size.get() < 4096 || self.io_bufs.max_buf_size.get() > 256 << 20 {
            return Err("`io_bufs.max_buf_size` must be between 4KB and 256MB".into());
        }
        if self.io_bufs.write_buf_size.get() > 1 << 30 {
            return Err("`io_bufs.write_buf_size` must be at most 1GB".into());
        }
        if self.periodic_sync.interval.get().is_zero() {
            return Err("`periodic_sync.interval` must be more than 0".into());
        }
        self.valor.check()?;
        self.mgmtd.check().map_err(|error| format!("mgmtd: {error}"))?;
        self.meta.check().map_err(|error| format!("meta: {error}"))?;
        self.storage.check().map_err(|error| format!("storage: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_config::Live;

    #[test]
    fn a_c_plus_plus_configuration_is_accepted() {
        let live = Live::new(Config::default());
        let text = "attr_timeout = 10\nreadonly = true\nenable_priority = false\nmax_threads = 256\n\
                    [io_bufs]\nmax_buf_size = '1MB'\nmax_readahead = '256KB'\n[periodic_sync]\ninterval = '1min'";
        live.apply(text, "hf3fs_fuse_main.toml").unwrap();
        let now = live.get();
        assert!(now.readonly && now.attr_timeout == 10.0);
        assert_eq!(now.periodic_sync.interval, Duration::from_secs(60));
        assert!(live.hot_update("max_background = 7", "test").is_err(), "cold");
        assert!(live.apply("attr_timeout = -1", "test").is_err());
    }

    #[test]
    fn waiting_is_set_by_text_and_changes_while_running() {
        let live = Live::new(Config::default());
        assert_eq!(live.get().valor.wait_policy().unwrap().mix, xfuse::Mix::FUSE);
        live.hot_update("valor.mix = \"0.25\"\nvalor.max_window = \"20us\"", "test").unwrap();
        let policy = live.get().valor.wait_policy().unwrap();
        assert_eq!((policy.mix, policy.max_window.as_micros()), (xfuse::Mix::Fixed(0.25), 20));
        for bad in [
            "mix = \"2\"",
            "max_window = \"1s\"",
            "transport = \"pigeon\"",
            "spin_budget = 2.0",
            "channels = 1000",
        ] {
            assert!(live.apply(&format!("[valor]\n{bad}"), "test").is_err(), "{bad}");
        }
        assert!(live.hot_update("valor.transport = \"uring\"", "test").is_err(), "cold");
    }
}
