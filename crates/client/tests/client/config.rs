//! Configuration sections have 3FS's keys and defaults.

use std::collections::BTreeMap;
use valor_client::meta::MetaClientConfig;
use valor_client::mgmtd::MgmtdClientConfig;
use valor_client::storage::{ReadOptions, StorageClientConfig, WriteOptions};

/// Dotted keys and values of a section.
fn flat<T: serde::Serialize>(config: &T) -> BTreeMap<String, String> {
    fn walk(prefix: &str, value: &toml::Value, out: &mut BTreeMap<String, String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&key, value, out);
                }
            }
            toml::Value::String(text) => drop(out.insert(prefix.to_owned(), text.clone())),
            value => drop(out.insert(prefix.to_owned(), value.to_string())),
        }
    }
    let mut out = BTreeMap::new();
    walk("", &toml::Value::try_from(config).unwrap(), &mut out);
    out
}

fn assert_has(config: BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(config.get(*key).map(String::as_str), Some(*value), "{key}");
    }
}

#[test]
fn manager_section() {
    assert_has(
        flat(&MgmtdClientConfig::default()),
        &[
            ("mgmtd_server_addresses", "[]"),
            ("enable_auto_refresh", "true"),
            ("auto_refresh_interval", "10s"),
            ("enable_auto_heartbeat", "true"),
            ("auto_heartbeat_interval", "10s"),
            ("enable_auto_extend_client_session", "false"),
            ("auto_extend_client_session_interval", "10s"),
            ("accept_incomplete_routing_info_during_mgmtd_bootstrapping", "true"),
        ],
    );
    assert_has(flat(&MgmtdClientConfig::for_admin()), &[("auto_refresh_interval", "1s")]);
    assert!(MgmtdClientConfig::for_client().fast().check().is_ok());
    let wrong = MgmtdClientConfig { mgmtd_server_addresses: vec!["nowhere".into()], ..Default::default() };
    assert!(wrong.check().unwrap_err().contains("mgmtd_server_addresses"));
}

#[test]
fn storage_section() {
    assert_has(
        flat(&StorageClientConfig::default()),
        &[
            ("chunk_checksum_type", "CRC32C"),
            ("retry.init_wait_time", "10s"),
            ("retry.max_wait_time", "30s"),
            ("retry.max_retry_time", "1min"),
            ("retry.max_failures_before_failover", "1"),
            ("traffic_control.read.max_batch_size", "128"),
            ("traffic_control.truncate.max_batch_bytes", "4MB"),
            ("traffic_control.query.max_concurrent_requests", "32"),
            ("traffic_control.remove.max_concurrent_requests_per_server", "8"),
        ],
    );
    assert_has(
        flat(&ReadOptions::default()),
        &[
            ("allowReadUncommitted", "false"),
            ("retry.max_retry_time", "0ns"),
            ("retry.retry_permanent_error", "false"),
            ("targetSelection.mode", "Default"),
            ("targetSelection.targetIndex", "0"),
            ("targetSelection.trafficZone", ""),
        ],
    );
    assert_has(flat(&WriteOptions::default()), &[("enableChecksum", "true")]);
    let mut config = StorageClientConfig::default().fast();
    assert!(config.check().is_ok());
    config.traffic_control.read.max_batch_size = 0;
    assert!(config.check().unwrap_err().contains("read"));
}

#[test]
fn metadata_section() {
    assert_has(
        flat(&MetaClientConfig::default()),
        &[
            ("selection_mode", "RandomFollow"),
            ("check_server_interval", "5s"),
            ("max_concurrent_requests", "128"),
            ("remove_chunks_batch_size", "32"),
            ("dynamic_stripe", "false"),
            ("retry_default.rpc_timeout", "5s"),
            ("retry_default.retry_send", "1"),
            ("retry_default.retry_fast", "1s"),
            ("retry_default.retry_init_wait", "500ms"),
            ("retry_default.retry_max_wait", "5s"),
            ("retry_default.retry_total_time", "1min"),
            ("retry_default.max_failures_before_failover", "1"),
            ("background_closer.prune_session_batch_interval", "10s"),
            ("background_closer.prune_session_batch_count", "128"),
            ("background_closer.retry_first_wait", "100ms"),
            ("background_closer.retry_max_wait", "10s"),
        ],
    );
    assert!(MetaClientConfig::default().fast().check().is_ok());
}
