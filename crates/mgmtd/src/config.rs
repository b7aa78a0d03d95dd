//! Configuration of the cluster manager: the `server.service` section with 3FS's key names and defaults
//! (`src/mgmtd/service/MgmtdConfig.h`). Every key can change while running.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use valor_config::{Duration, Live, Tree};

/// The whole section.
///
/// Two profiles exist: [`Config::default`] has 3FS's timings, made for clusters of hundreds of nodes;
/// [`Config::fast`] has those of a small cluster that is expected to be back seconds after a restart.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct Config {
    /// How long the primary stays primary after it last wrote its lease.
    pub lease_length: Duration,
    /// How often each manager looks at the lease, and the primary extends it.
    pub extend_lease_interval: Duration,
    /// The lease is no longer trusted this long before it ends, in case clocks differ between managers.
    pub suspicious_lease_interval: Duration,
    /// How far a heartbeat's clock may be from ours; 0 accepts any.
    pub heartbeat_timestamp_valid_window: Duration,
    /// An unknown node that sends a heartbeat is registered.
    pub allow_heartbeat_from_unregistered: bool,
    /// How often nodes, targets, new chains and client sessions are checked for timeouts.
    pub check_status_interval: Duration,
    /// Silence after which a node counts as failed and a target as offline.
    pub heartbeat_fail_interval: Duration,
    /// Longest time a chain is left alone after its creation or a change of the primary, so that its targets can
    /// report first. It ends as soon as all of them have.
    pub new_chain_bootstrap_interval: Duration,
    /// A manager that is not primary sends heartbeats to the primary.
    pub send_heartbeat: bool,
    /// How often it does.
    pub send_heartbeat_interval: Duration,
    /// Silence after which a client is forgotten.
    pub client_session_timeout: Duration,
    /// How long after a change of the primary replies say that the list of clients may be incomplete. Must be longer
    /// than the interval at which clients extend their sessions: metadata servers drop the files held open by
    /// clients that a complete list does not name.
    pub bootstrapping_length: Duration,
    /// How often chains are updated.
    pub update_chains_interval: Duration,
    /// Every write checks in the store that the lease is still ours.
    pub validate_lease_on_write: bool,
    /// How often changes that are not stored (a node's status) are made visible with a new routing version.
    pub bump_routing_info_version_interval: Duration,
    /// A storage server's report about a target is ignored if it knows an older version of the chain.
    pub heartbeat_ignore_stale_targets: bool,
    /// Further attempts, a second apart, after the quick ones of [`RetryTransaction`] failed; -1 never gives up.
    pub retry_times_on_txn_errors: i64,
    /// How often gauges are set.
    pub update_metrics_interval: Duration,
    /// How often locations of targets are stored.
    pub target_info_persist_interval: Duration,
    /// Most locations stored in one transaction.
    pub target_info_persist_batch: u32,
    /// Chains all of whose targets serve are moved step by step to their preferred order.
    pub try_adjust_target_order_as_preferred: bool,
    /// A manager older than the last primary does not take the lease.
    pub extend_lease_check_release_version: bool,
    /// Checks tokens of administrators.
    pub authenticate: bool,
    /// Refuses client ids that are no uuids.
    pub only_accept_client_uuid: bool,
    /// Quick attempts of a transaction.
    pub retry_transaction: RetryTransaction,
    /// Memory of users.
    pub user_cache: UserCache,
}

/// Quick attempts of a transaction (`src/common/kv/TransactionRetry.h`).
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct RetryTransaction {
    /// Longest wait between two attempts; it doubles from 10 ms.
    pub max_backoff: Duration,
    /// Attempts after the first.
    pub max_retry_count: u32,
}

/// How long users are remembered (`src/core/user/UserCache.h`).
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct UserCache {
    /// Of users that exist.
    pub exist_ttl: Duration,
    /// Of user ids that do not exist.
    pub inexist_ttl: Duration,
}

impl Default for RetryTransaction {
    fn default() -> Self {
        Self { max_backoff: Duration::from_secs(1), max_retry_count: 10 }
    }
}

impl Default for UserCache {
    fn default() -> Self {
        Self { exist_ttl: Duration::from_secs(300), inexist_ttl: Duration::from_secs(10) }
    }
}

impl Default for Config {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            lease_length: secs(60),
            extend_lease_interval: secs(10),
            suspicious_lease_interval: secs(20),
            heartbeat_timestamp_valid_window: secs(30),
            allow_heartbeat_from_unregistered: false,
            check_status_interval: secs(10),
            heartbeat_fail_interval: secs(60),
            new_chain_bootstrap_interval: secs(120),
            send_heartbeat: true,
            send_heartbeat_interval: secs(10),
            client_session_timeout: secs(1200),
            bootstrapping_length: secs(120),
            update_chains_interval: secs(1),
            validate_lease_on_write: true,
            bump_routing_info_version_interval: secs(5),
            heartbeat_ignore_stale_targets: true,
            retry_times_on_txn_errors: -1,
            update_metrics_interval: secs(1),
            target_info_persist_interval: secs(1),
            target_info_persist_batch: 1000,
            try_adjust_target_order_as_preferred: false,
            extend_lease_check_release_version: true,
            authenticate: false,
            only_accept_client_uuid: false,
            retry_transaction: RetryTransaction::default(),
            user_cache: UserCache::default(),
        }
    }
}

impl Config {
    /// Timings of a small cluster on machines that can be trusted to answer within a second.
    ///
    /// After everything was killed and started again, chains serve as soon as their storage servers have sent one
    /// heartbeat each. If a server does not come back, its chains go on without it after
    /// `new_chain_bootstrap_interval`; shorter would only cost a refill of a replica that was slow to start, since
    /// the rules never let a replica serve that missed writes. The managers' takeover takes at most `lease_length`
    /// plus `extend_lease_interval`; a manager that is restarted by itself finds its own lease and goes on at once.
    ///
    /// Servers must send heartbeats and refresh their routing information at least every 500 ms: what a server reports
    /// of a chain counts only once it knows the chain's last change, and 2 s without such a report take it out.
    ///
    /// `bootstrapping_length` is not shortened as far as the rest: it does not delay chains, and has to outlast the
    /// 10 s between two session extensions of a C++ client.
    pub fn fast() -> Self {
        let millis = |ms| Duration::new(std::time::Duration::from_millis(ms));
        Self {
            lease_length: millis(4000),
            extend_lease_interval: millis(1000),
            suspicious_lease_interval: millis(1000),
            allow_heartbeat_from_unregistered: true,
            check_status_interval: millis(200),
            heartbeat_fail_interval: millis(2000),
            new_chain_bootstrap_interval: millis(1500),
            send_heartbeat_interval: millis(500),
            bootstrapping_length: millis(15_000),
            update_chains_interval: millis(100),
            bump_routing_info_version_interval: millis(200),
            target_info_persist_interval: millis(500),
            ..Self::default()
        }
    }
}

impl Tree for Config {
    const IGNORED: &'static [&'static str] = &[
        "heartbeat_ignore_unknown_targets", // deprecated in 3FS
        "enable_routinginfo_cache",         // replies are always built from what is known now
        "target_info_load_interval",        // locations are loaded together with everything else
        "user_cache.buckets",
    ];

    fn check(&self) -> Result<(), String> {
        let periods = [
            ("extend_lease_interval", self.extend_lease_interval),
            ("check_status_interval", self.check_status_interval),
            ("send_heartbeat_interval", self.send_heartbeat_interval),
            ("update_chains_interval", self.update_chains_interval),
            ("bump_routing_info_version_interval", self.bump_routing_info_version_interval),
            ("update_metrics_interval", self.update_metrics_interval),
            ("target_info_persist_interval", self.target_info_persist_interval),
            ("heartbeat_fail_interval", self.heartbeat_fail_interval),
            ("client_session_timeout", self.client_session_timeout),
        ];
        if let Some((key, _)) = periods.iter().find(|(_, period)| period.get().is_zero()) {
            return Err(format!("`{key}` must be longer than 0"));
        }
        let margin = self.suspicious_lease_interval.get().saturating_add(self.extend_lease_interval.get());
        if self.lease_length.get() <= margin {
            return Err("`lease_length` must be longer than `suspicious_lease_interval` and \
                        `extend_lease_interval` together, or nobody stays primary"
                .into());
        }
        if self.target_info_persist_batch == 0 {
            return Err("`target_info_persist_batch` must be positive".into());
        }
        if self.retry_times_on_txn_errors < -1 {
            return Err("`retry_times_on_txn_errors` must be -1 or more".into());
        }
        Ok(())
    }
}

/// Where the manager finds its configuration each time it needs it.
#[derive(Clone)]
pub struct ConfigSource(Arc<dyn Fn() -> Arc<Config> + Send + Sync>);

impl ConfigSource {
    /// From a part of a larger tree: `section` returns the current values.
    pub fn new(section: impl Fn() -> Arc<Config> + Send + Sync + 'static) -> Self {
        Self(Arc::new(section))
    }

    /// The values in force now.
    pub fn get(&self) -> Arc<Config> {
        (self.0)()
    }
}

impl From<Arc<Live<Config>>> for ConfigSource {
    fn from(live: Arc<Live<Config>>) -> Self {
        Self::new(move || live.get())
    }
}

impl From<Config> for ConfigSource {
    fn from(config: Config) -> Self {
        let config = Arc::new(config);
        Self::new(move || Arc::clone(&config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The section as the sample file of 3FS and its code defaults have it.
    const CPP_SECTION: &str = r#"
        allow_heartbeat_from_unregistered = true
        authenticate = false
        bootstrapping_length = '2min'
        bump_routing_info_version_interval = '5s'
        check_status_interval = '10s'
        client_session_timeout = '20min'
        enable_routinginfo_cache = true
        extend_lease_check_release_version = true
        extend_lease_interval = '10s'
        heartbeat_fail_interval = '1min'
        heartbeat_ignore_stale_targets = true
        heartbeat_ignore_unknown_targets = false
        heartbeat_timestamp_valid_window = '30s'
        lease_length = '1min'
        new_chain_bootstrap_interval = '2min'
        only_accept_client_uuid = false
        retry_times_on_txn_errors = -1
        send_heartbeat = true
        send_heartbeat_interval = '10s'
        suspicious_lease_interval = '20s'
        target_info_load_interval = '1s'
        target_info_persist_batch = 1000
        target_info_persist_interval = '1s'
        try_adjust_target_order_as_preferred = false
        update_chains_interval = '1s'
        update_metrics_interval = '1s'
        validate_lease_on_write = true
        [retry_transaction]
        max_backoff = '1s'
        max_retry_count = 10
        [user_cache]
        buckets = 127
        exist_ttl = '5min'
        inexist_ttl = '10s'
    "#;

    #[test]
    fn accepts_every_key_of_the_original_with_its_default() {
        let live = Live::new(Config::default());
        live.hot_update(CPP_SECTION, "mgmtd_main.toml").unwrap();
        let expected = Config { allow_heartbeat_from_unregistered: true, ..Config::default() };
        assert_eq!(*live.get(), expected);
    }

    #[test]
    fn profiles_are_valid_and_every_key_is_hot() {
        assert_eq!(Config::default().check(), Ok(()));
        assert_eq!(Config::fast().check(), Ok(()));
        let live = Live::new(Config::default());
        let fast = Live::new(Config::fast());
        live.hot_update(&valor_config::Pushable::render(&*fast, "").unwrap(), "fast").unwrap();
        assert_eq!(live.get(), fast.get());
    }

    #[test]
    fn values_that_stop_the_cluster_are_refused() {
        let live = Live::new(Config::default());
        for text in [
            "extend_lease_interval = '0s'",
            "lease_length = '30s'",
            "suspicious_lease_interval = '50s'",
            "update_chains_interval = 0",
            "target_info_persist_batch = 0",
            "retry_times_on_txn_errors = -2",
        ] {
            assert!(live.hot_update(text, "x").is_err(), "{text}");
        }
        assert_eq!(*live.get(), Config::default());
    }
}
