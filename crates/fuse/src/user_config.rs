//! Settings that each user may change for themselves, and those of the mount that anybody may (`src/fuse/UserConfig.cc`).

use crate::config::Config;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use valor_config::{Live, Pushable};
use valor_protocol::status::{code, with_message};
use valor_wire::Status;

/// Keys of the mount under `sys.`, in the order of their inode numbers.
pub(crate) const SYSTEM_KEYS: [&str; 8] = [
    MAX_TRANSMISSIONS,
    "periodic_sync.enable",
    "periodic_sync.interval",
    "periodic_sync.flush_write_buf",
    "io_worker_coros.hi",
    "io_worker_coros.lo",
    "max_jobs_per_ioring",
    "io_job_deq_timeout",
];
/// Keys of a user under `usr.`, likewise.
pub(crate) const USER_KEYS: [&str; 9] = [
    "enable_read_cache",
    "readonly",
    "dryrun_bench_mode",
    "flush_on_stat",
    "sync_on_stat",
    "attr_timeout",
    "entry_timeout",
    "negative_timeout",
    "symlink_timeout",
];
/// Only kept for programs that set it: bulk data of this client needs no such limit.
const MAX_TRANSMISSIONS: &str = "storage.net_client.rdma_control.max_concurrent_transmission";
const DEFAULT_MAX_TRANSMISSIONS: u32 = 64;

/// The settings in force for one user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Effective {
    pub(crate) enable_read_cache: bool,
    pub(crate) readonly: bool,
    pub(crate) dryrun_bench_mode: bool,
    pub(crate) flush_on_stat: bool,
    pub(crate) sync_on_stat: bool,
    pub(crate) attr_timeout: Duration,
    pub(crate) entry_timeout: Duration,
    pub(crate) negative_timeout: Duration,
    pub(crate) symlink_timeout: Duration,
}

impl From<&Config> for Effective {
    fn from(config: &Config) -> Self {
        let seconds = |value: f64| Duration::try_from_secs_f64(value).unwrap_or_default();
        Effective {
            enable_read_cache: config.enable_read_cache,
            readonly: config.readonly,
            dryrun_bench_mode: config.dryrun_bench_mode,
            flush_on_stat: config.flush_on_stat,
            sync_on_stat: config.sync_on_stat,
            attr_timeout: seconds(config.attr_timeout),
            entry_timeout: seconds(config.entry_timeout),
            negative_timeout: seconds(config.negative_timeout),
            symlink_timeout: seconds(config.symlink_timeout),
        }
    }
}

/// A setting that can be shown or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    /// Of the mount, not of the user.
    pub(crate) system: bool,
    /// Position in its list.
    pub(crate) index: usize,
}

impl Key {
    /// Reads `sys.x` or `usr.x`.
    pub(crate) fn parse(name: &str) -> Result<Key, Status> {
        let (system, keys, rest) = if let Some(rest) = name.strip_prefix("sys.") {
            (true, &SYSTEM_KEYS[..], rest)
        } else if let Some(rest) = name.strip_prefix("usr.") {
            (false, &USER_KEYS[..], rest)
        } else {
            return Err(invalid(format!("key {name} must begin with 'sys.' or 'usr.'")));
        };
        let index = keys.iter().position(|key| *key == rest);
        let index =
            index.ok_or_else(|| invalid(format!("key {name} does not exist or cannot be changed")))?;
        Ok(Key { system, index })
    }

    /// The key at a position of the listing: system keys first.
    pub(crate) fn at(position: usize) -> Option<Key> {
        match position.checked_sub(SYSTEM_KEYS.len()) {
            None => Some(Key { system: true, index: position }),
            Some(index) if index < USER_KEYS.len() => Some(Key { system: false, index }),
            Some(_) => None,
        }
    }

    /// All keys in the order of the listing.
    pub(crate) fn all() -> impl Iterator<Item = Key> {
        (0..).map_while(Key::at)
    }

    /// Position in the listing.
    pub(crate) fn position(self) -> usize {
        if self.system { self.index } else { SYSTEM_KEYS.len() + self.index }
    }

    /// Name without prefix.
    pub(crate) fn path(self) -> &'static str {
        if self.system { SYSTEM_KEYS[self.index] } else { USER_KEYS[self.index] }
    }

    /// Name with prefix.
    pub(crate) fn name(self) -> String {
        format!("{}.{}", if self.system { "sys" } else { "usr" }, self.path())
    }
}

fn invalid(message: String) -> Status {
    with_message(code::INVALID_ARG, message)
}

/// A user's own copy: what the user changed, and the result.
struct Own {
    changes: Vec<String>,
    config: Arc<Config>,
}

/// Settings by user.
pub(crate) struct UserConfigs {
    live: Arc<Live<Config>>,
    users: RwLock<HashMap<u32, Own>>,
    any: AtomicBool,
    max_transmissions: AtomicU32,
}

impl UserConfigs {
    pub(crate) fn new(live: Arc<Live<Config>>) -> Arc<Self> {
        let configs = Arc::new(UserConfigs {
            live: live.clone(),
            users: RwLock::default(),
            any: AtomicBool::new(false),
            max_transmissions: AtomicU32::new(DEFAULT_MAX_TRANSMISSIONS),
        });
        let weak = Arc::downgrade(&configs);
        live.on_update(move |config| {
            if let Some(configs) = weak.upgrade() {
                configs.rebase(config);
            }
        });
        configs
    }

    /// Applies users' changes again after the mount's configuration has changed.
    fn rebase(&self, config: &Arc<Config>) {
        for own in self.users.write().values_mut() {
            own.config = Arc::new(with_changes(config, &own.changes));
        }
    }

    /// The mount's configuration.
    pub(crate) fn global(&self) -> Arc<Config> {
        self.live.get()
    }

    /// The settings in force for a user.
    pub(crate) fn of(&self, uid: u32) -> Effective {
        if self.any.load(Ordering::Acquire)
            && let Some(own) = self.users.read().get(&uid)
        {
            return Effective::from(&*own.config);
        }
        Effective::from(&*self.live.get())
    }

    /// The value of a setting as text.
    pub(crate) fn show(&self, key: Key, uid: u32) -> String {
        if key.path() == MAX_TRANSMISSIONS {
            return self.max_transmissions.load(Ordering::Relaxed).to_string();
        }
        let users = self.users.read();
        let rendered = match users.get(&uid).filter(|_| !key.system) {
            Some(own) => Live::new((*own.config).clone()).render(key.path()),
            None => self.live.render(key.path()),
        };
        rendered.map(|text| plain(&text)).unwrap_or_default()
    }

    /// Changes a setting.
    pub(crate) fn set(&self, key: Key, value: &str, uid: u32) -> Result<(), Status> {
        if key.path() == MAX_TRANSMISSIONS {
            return self.set_max_transmissions(value);
        }
        let text = assignment(key.path(), value);
        let refused = |error: valor_config::ConfigError| invalid(error.to_string());
        if key.system {
            return self.live.hot_update(&text, "3fs-virt/set-conf").map_err(refused);
        }
        let global = self.live.get();
        if key.path() == "readonly" && value != "true" && global.readonly {
            return Err(invalid("the mount is read-only for all".into()));
        }
        if uid > global.max_uid {
            return Err(with_message(
                code::META_NO_PERMISSION,
                format!("uid {uid} is too large for own settings"),
            ));
        }
        let mut users = self.users.write();
        let changes = users.get(&uid).map(|own| own.changes.clone()).unwrap_or_default();
        let candidate = Live::new(with_changes(&global, &changes));
        candidate.apply(&text, "3fs-virt/set-conf").map_err(refused)?;
        let changes = changes.into_iter().chain([text]).collect();
        users.insert(uid, Own { changes, config: candidate.get() });
        self.any.store(true, Ordering::Release);
        Ok(())
    }

    fn set_max_transmissions(&self, value: &str) -> Result<(), Status> {
        match value.parse() {
            Ok(number) if (1..=2 * DEFAULT_MAX_TRANSMISSIONS).contains(&number) => {
                self.max_transmissions.store(number, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(invalid(format!("{value} is not between 1 and {}", 2 * DEFAULT_MAX_TRANSMISSIONS))),
        }
    }
}

/// The configuration with a user's changes; those that have become impossible are left out.
fn with_changes(config: &Config, changes: &[String]) -> Config {
    let live = Live::new(config.clone());
    for change in changes {
        if let Err(error) = live.apply(change, "3fs-virt/set-conf") {
            tracing::warn!(%error, "a user's setting no longer applies");
        }
    }
    let mut result = (*live.get()).clone();
    // A mount that has become read-only is so for all.
    result.readonly |= config.readonly;
    result
}

/// TOML that gives `key` a value written without quotes. Durations need quotes in TOML, numbers must not have them; a
/// number without fraction is fine for a float in neither TOML nor us, so it gets one.
fn assignment(key: &str, value: &str) -> String {
    let float = USER_KEYS[5..].contains(&key);
    let value = match value {
        "true" | "false" => value.to_owned(),
        _ if float && value.parse::<f64>().is_ok_and(f64::is_finite) => {
            format!("{:?}", value.parse::<f64>().unwrap_or_default())
        }
        _ if value.parse::<u64>().is_ok() => value.to_owned(),
        _ => format!("'{}'", value.replace(['\'', '\n', '\r'], "")),
    };
    format!("{key} = {value}")
}

/// A rendered TOML value as 3FS shows it: no quotes, no needless fraction.
fn plain(text: &str) -> String {
    let text = text.trim().trim_matches(['"', '\'']);
    text.strip_suffix(".0").unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs() -> (Arc<Live<Config>>, Arc<UserConfigs>) {
        let live = Live::new(Config::default());
        (live.clone(), UserConfigs::new(live))
    }

    fn key(name: &str) -> Key {
        Key::parse(name).unwrap()
    }

    #[test]
    fn every_key_shows_and_takes_its_own_value() {
        let (_, configs) = configs();
        for key in Key::all() {
            let value = configs.show(key, 5);
            assert!(!value.is_empty(), "{}", key.name());
            configs.set(key, &value, 5).unwrap_or_else(|error| panic!("{} = {value}: {error}", key.name()));
            assert_eq!(Key::parse(&key.name()).unwrap(), key);
            assert_eq!(Key::at(key.position()), Some(key));
        }
        assert_eq!(configs.show(key("usr.attr_timeout"), 5), "30");
        assert_eq!(configs.show(key("sys.periodic_sync.interval"), 5), "30s");
    }

    #[test]
    fn users_change_their_own_only() {
        let (live, configs) = configs();
        configs.set(key("usr.attr_timeout"), "1.5", 5).unwrap();
        configs.set(key("usr.readonly"), "true", 5).unwrap();
        assert_eq!(configs.of(5).attr_timeout, Duration::from_millis(1500));
        assert!(configs.of(5).readonly && !configs.of(6).readonly);
        assert_eq!(configs.show(key("usr.attr_timeout"), 6), "30");
        live.hot_update("attr_timeout = 7.0\nentry_timeout = 8.0", "test").unwrap();
        assert_eq!(configs.of(5).attr_timeout, Duration::from_millis(1500), "own changes stay on top");
        assert_eq!(configs.of(5).entry_timeout, Duration::from_secs(8));
        configs.set(key("sys.periodic_sync.enable"), "false", 6).unwrap();
        assert!(!live.get().periodic_sync.enable);
    }

    #[test]
    fn what_must_not_be_set() {
        let (live, configs) = configs();
        assert_eq!(Key::parse("usr.max_uid").unwrap_err().code, code::INVALID_ARG);
        assert_eq!(Key::parse("attr_timeout").unwrap_err().code, code::INVALID_ARG);
        assert!(configs.set(key("usr.attr_timeout"), "soon", 5).is_err());
        assert!(configs.set(key("usr.attr_timeout"), "-1", 5).is_err());
        assert!(configs.set(key("usr.readonly"), "1\nmax_uid = 3", 5).is_err());
        assert_eq!(
            configs.set(key("usr.readonly"), "true", 2_000_000).unwrap_err().code,
            code::META_NO_PERMISSION
        );
        let transmissions = key(&format!("sys.{MAX_TRANSMISSIONS}"));
        assert!(configs.set(transmissions, "129", 5).is_err());
        configs.set(transmissions, "128", 5).unwrap();
        assert_eq!(configs.show(transmissions, 5), "128");
        live.hot_update("readonly = true", "test").unwrap();
        assert!(configs.set(key("usr.readonly"), "false", 5).is_err());
        assert!(configs.of(5).readonly);
    }
}
