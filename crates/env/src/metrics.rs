//! Every metric of the project: name, kind, unit and meaning. Crates use the constants with the `metrics` macros;
//! exporters and documentation read [`TABLE`].

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A current value.
    Gauge,
    /// A distribution.
    Histogram,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name as exported.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What one means: `1` (things), `bytes`, `seconds`.
    pub unit: &'static str,
    /// For operators.
    pub meaning: &'static str,
}

macro_rules! table {
    ($($constant:ident = $name:literal, $kind:ident, $unit:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $constant: &str = $name;)*
        /// All metrics.
        pub const TABLE: &[Metric] =
            &[$(Metric { name: $name, kind: Kind::$kind, unit: $unit, meaning: $meaning }),*];
    };
}

table! {
    RPC_SERVER_REQUESTS = "valor_rpc_server_requests_total", Counter, "1", "Requests handled, by method.";
    RPC_SERVER_ERRORS = "valor_rpc_server_errors_total", Counter, "1", "Requests answered with an error, by method.";
    RPC_SERVER_REFUSED = "valor_rpc_server_refused_total", Counter, "1", "Requests refused because of overload.";
    RPC_SERVER_PANICS = "valor_rpc_server_panics_total", Counter, "1", "Handlers that panicked.";
    RPC_SERVER_BAD_FRAMES = "valor_rpc_server_bad_frames_total", Counter, "1", "Connections closed for a bad frame.";
    RPC_SERVER_LATENCY = "valor_rpc_server_latency_seconds", Histogram, "seconds", "From request read to response written, by method.";
    RPC_SERVER_BYTES_IN = "valor_rpc_server_received_bytes_total", Counter, "bytes", "Bytes of requests received.";
    RPC_SERVER_BYTES_OUT = "valor_rpc_server_sent_bytes_total", Counter, "bytes", "Bytes of responses sent.";
    RPC_SERVER_CONNECTIONS = "valor_rpc_server_connections", Gauge, "1", "Open connections.";
    RPC_SERVER_ACCEPTED = "valor_rpc_server_accepted_total", Counter, "1", "Connections accepted.";
    RPC_SERVER_SHED = "valor_rpc_server_shed_total", Counter, "1", "Connections closed by the server: too many, idle, or stuck inside a frame.";
    RPC_CLIENT_REQUESTS = "valor_rpc_client_requests_total", Counter, "1", "Calls made, by method.";
    RPC_CLIENT_ERRORS = "valor_rpc_client_errors_total", Counter, "1", "Calls that failed in transport, by method.";
    RPC_CLIENT_LATENCY = "valor_rpc_client_latency_seconds", Histogram, "seconds", "Duration of calls, by method.";
    KV_COMMITS = "valor_kv_commits_total", Counter, "1", "Transactions that wrote something and committed.";
    KV_CONFLICTS = "valor_kv_conflicts_total", Counter, "1", "Commits refused because of a conflict.";
    KV_TOO_OLD = "valor_kv_too_old_total", Counter, "1", "Commits refused because the transaction was too old.";
    KV_RETRIES = "valor_kv_retries_total", Counter, "1", "Transactions run again after a failure.";
    KV_FLUSHES = "valor_kv_flushes_total", Counter, "1", "Memtables of the embedded engine written to tables.";
    RPC_CLIENT_CONNECTS = "valor_rpc_client_connects_total", Counter, "1", "Connections opened.";
    CLIENT_STORAGE_RETRIES = "valor_client_storage_retries_total", Counter, "1", "Attempts at storage operations after the first.";
    CLIENT_STORAGE_FAILURES = "valor_client_storage_failures_total", Counter, "1", "Storage operations given up.";
    META_TXN_RETRIES = "valor_meta_transaction_retries_total", Counter, "1", "Tries of metadata transactions after the first.";
    META_BATCH_SIZE = "valor_meta_batch_requests", Histogram, "1", "Requests on one inode merged into a transaction.";
    META_GC_DONE = "valor_meta_gc_done_total", Counter, "1", "Removed files and directories collected.";
    META_GC_FAILED = "valor_meta_gc_failed_total", Counter, "1", "Collections of removed files and directories that failed.";
    CLIENT_META_RETRIES = "valor_client_meta_retries_total", Counter, "1", "Attempts at metadata calls after the first.";
    CLIENT_META_FAILURES = "valor_client_meta_failures_total", Counter, "1", "Metadata calls given up after retries.";
    STORAGE_READS = "valor_storage_reads_total", Counter, "1", "Pieces of chunks read for clients.";
    STORAGE_READ_BYTES = "valor_storage_read_bytes_total", Counter, "bytes", "Bytes read for clients.";
    STORAGE_READ_ERRORS = "valor_storage_read_errors_total", Counter, "1", "Reads of pieces that failed, by status code.";
    STORAGE_CORRUPT_READS = "valor_storage_corrupt_reads_total", Counter, "1", "Reads that met data which does not match its checksum.";
    STORAGE_UPDATES = "valor_storage_updates_total", Counter, "1", "Updates of chunks that succeeded, by kind.";
    STORAGE_UPDATE_BYTES = "valor_storage_update_bytes_total", Counter, "bytes", "Bytes written by updates of chunks.";
    STORAGE_UPDATE_ERRORS = "valor_storage_update_errors_total", Counter, "1", "Updates of chunks that failed, by status code.";
    STORAGE_UPDATES_REPEATED = "valor_storage_updates_repeated_total", Counter, "1", "Updates answered from memory because they were done before.";
    STORAGE_FORWARD_RETRIES = "valor_storage_forward_retries_total", Counter, "1", "Attempts to forward an update after the first.";
    STORAGE_PENDING_COMPLETED = "valor_storage_pending_completed_total", Counter, "1", "Pending versions completed after their update had been given up.";
    STORAGE_PENDING = "valor_storage_pending_chunks", Gauge, "1", "Chunks with a pending version that waits to be completed.";
    STORAGE_CHANNELS = "valor_storage_update_channels", Gauge, "1", "Update channels of clients remembered.";
    STORAGE_TARGETS = "valor_storage_targets", Gauge, "1", "Targets, by state.";
    STORAGE_TARGETS_LOADED = "valor_storage_targets_loaded", Gauge, "1", "Targets opened since the start.";
    STORAGE_DISK_CAPACITY = "valor_storage_disk_capacity_bytes", Gauge, "bytes", "Size of a disk's file system.";
    STORAGE_DISK_AVAILABLE = "valor_storage_disk_available_bytes", Gauge, "bytes", "Bytes of a disk's file system that can be used.";
    STORAGE_DISK_FAILURES = "valor_storage_disk_failures_total", Counter, "1", "Times a disk was taken out of service.";
    STORAGE_FENCED = "valor_storage_fenced", Gauge, "1", "1 while requests are refused for lack of contact to the manager.";
    STORAGE_RESYNC_REMAINING = "valor_storage_resync_remaining_chunks", Gauge, "1", "Chunks that successors still have to be sent.";
    STORAGE_RESYNC_REMAINING_BYTES = "valor_storage_resync_remaining_bytes", Gauge, "bytes", "Bytes of chunks that successors still have to be sent.";
    STORAGE_RESYNC_CHUNKS = "valor_storage_resync_chunks_total", Counter, "1", "Chunks compared for a successor, by what was done.";
    STORAGE_RESYNC_BYTES = "valor_storage_resync_bytes_total", Counter, "bytes", "Bytes sent to fill successors.";
    STORAGE_RESYNC_EXTRA_BYTES = "valor_storage_resync_extra_bytes_total", Counter, "bytes", "Bytes sent beyond what was written, because updates went to a successor being filled as whole chunks.";
    STORAGE_RESYNC_RUNS = "valor_storage_resync_runs_total", Counter, "1", "Attempts to fill a successor, by result.";
    FUSE_REQUESTS = "valor_fuse_requests_total", Counter, "1", "Requests of the kernel answered, by operation.";
    FUSE_ERRORS = "valor_fuse_errors_total", Counter, "1", "Requests of the kernel answered with an error, by operation.";
    FUSE_LATENCY = "valor_fuse_latency_seconds", Gauge, "seconds", "From request read to reply ready since the start, of one request in 8, by operation and quantile.";
    FUSE_IN_FLIGHT = "valor_fuse_requests_in_flight", Gauge, "1", "Requests of the kernel being handled.";
    FUSE_PANICS = "valor_fuse_panics_total", Counter, "1", "Handlers of requests that panicked.";
    FUSE_MALFORMED = "valor_fuse_malformed_requests_total", Counter, "1", "Requests of the kernel that could not be decoded.";
    FUSE_REFUSED_REPLIES = "valor_fuse_refused_replies_total", Counter, "1", "Replies that the kernel refused.";
    FUSE_WAITED = "valor_fuse_waited_requests_total", Counter, "1", "Requests by how they were waited for: label fuse (blocking) or xfuse (adaptive), by channel.";
    FUSE_SPINS = "valor_fuse_spins_total", Counter, "1", "Spins for a request, by outcome and channel.";
    FUSE_SPIN_TIME = "valor_fuse_spin_seconds", Gauge, "seconds", "Time spun for requests since the start, by channel.";
    FUSE_BLOCKED = "valor_fuse_blocked_total", Counter, "1", "Waits for a request that ended by blocking, by channel.";
    FUSE_BLOCK_TIME = "valor_fuse_block_seconds", Gauge, "seconds", "Time blocked for requests since the start, by channel.";
    FUSE_WAKES = "valor_fuse_wakes_total", Counter, "1", "Wake-ups of channels, by channel.";
    FUSE_WINDOW = "valor_fuse_window_seconds", Gauge, "seconds", "Window of the last wait, by channel.";
    FUSE_MIX = "valor_fuse_mix", Gauge, "1", "Share of requests that are waited for by blocking at once.";
    STORAGE_SCRUB_CHUNKS = "valor_storage_scrub_chunks_total", Counter, "1", "Chunks verified in the background, by result: good, busy (skipped), repaired, damaged (not repaired), unreadable, disagrees (with the successor).";
    STORAGE_SCRUB_BYTES = "valor_storage_scrub_bytes_total", Counter, "bytes", "Bytes verified in the background.";
    STORAGE_SCRUB_PASSES = "valor_storage_scrub_passes_total", Counter, "1", "Passes over all chunks.";
    STORAGE_SCRUB_BAD = "valor_storage_scrub_bad_chunks", Gauge, "1", "Chunks that the last pass found damaged, unreadable or in disagreement and could not repair.";
    MGMTD_IS_PRIMARY = "valor_mgmtd_is_primary", Gauge, "1", "1 on the primary manager, 0 on the others.";
    MGMTD_ELECTIONS = "valor_mgmtd_elections_total", Counter, "1", "Times this manager became primary.";
    MGMTD_HEARTBEATS = "valor_mgmtd_heartbeats_total", Counter, "1", "Heartbeats accepted.";
    MGMTD_STALE_TARGET_REPORTS = "valor_mgmtd_stale_target_reports_total", Counter, "1", "Reports about targets that were ignored because the server did not know the chain's last change.";
    MGMTD_CHAIN_CHANGES = "valor_mgmtd_chain_changes_total", Counter, "1", "Changes of chains decided by the manager.";
    MGMTD_WRITE_RETRIES = "valor_mgmtd_write_retries_total", Counter, "1", "Transactions that failed and were tried again.";
    MGMTD_ROUTING_VERSION = "valor_mgmtd_routing_version", Gauge, "1", "Version of the routing information.";
    MGMTD_CONFIG_VERSION = "valor_mgmtd_config_version", Gauge, "1", "Newest version of a node type's configuration.";
    MGMTD_NODES = "valor_mgmtd_nodes", Gauge, "1", "Servers, by type and status.";
    MGMTD_CHAINS = "valor_mgmtd_chains", Gauge, "1", "Chains, by how many of their targets serve.";
    MGMTD_NEWBORN_CHAINS = "valor_mgmtd_newborn_chains", Gauge, "1", "Chains whose targets are still given time to report.";
    MGMTD_TARGETS = "valor_mgmtd_targets", Gauge, "1", "Targets, by state in the chain and on their server.";
    MGMTD_ORPHAN_TARGETS = "valor_mgmtd_orphan_targets", Gauge, "1", "Targets that servers have and no chain names.";
    MGMTD_CLIENT_SESSIONS = "valor_mgmtd_client_sessions", Gauge, "1", "Clients that are alive.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are() {
        for metric in TABLE {
            assert!(metric.name.starts_with("valor_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(metric.unit == "1" || metric.name.contains(metric.unit), "{}", metric.name);
        }
        let mut names: Vec<_> = TABLE.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
