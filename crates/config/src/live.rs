//! The configuration of a running process.

use crate::merge::{self, Schema};
use crate::{ConfigError, Tree};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::sync::Arc;
use toml::{Table, Value};

/// Agreement between the running configuration and the last one pushed by mgmtd (3FS `ConfigStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushStatus {
    /// The running values are those of the pushed text on top of the defaults.
    Normal,
    /// Some values differ (hot updates, command-line overrides, keys removed from the text).
    Dirty,
    /// The pushed text cannot be built into a configuration.
    Failed,
}

/// The result of the last pushed update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushRecord {
    /// `None` when it was applied.
    pub error: Option<ConfigError>,
    /// Where the text came from.
    pub description: String,
}

type Listener<T> = Box<dyn Fn(&Arc<T>) + Send + Sync>;

/// The current tree, replaced atomically by updates. Reading is lock-free.
pub struct Live<T: Tree> {
    /// What the process started from (defaults or a profile), below any file or pushed text.
    base: T,
    current: ArcSwap<T>,
    update: Mutex<Updates<T>>,
}

struct Updates<T> {
    listeners: Vec<Listener<T>>,
    pushed: Option<String>,
    status: PushStatus,
    last_record: Option<PushRecord>,
    accept_push: bool,
}

impl<T: Tree> Live<T> {
    /// Starts from a tree, usually `T::default()` or a profile.
    #[must_use]
    pub fn new(tree: T) -> Arc<Self> {
        Arc::new(Self {
            base: tree.clone(),
            current: ArcSwap::from_pointee(tree),
            update: Mutex::new(Updates {
                listeners: Vec::new(),
                pushed: None,
                status: PushStatus::Normal,
                last_record: None,
                accept_push: true,
            }),
        })
    }

    /// A part of this tree as a tree of its own, which follows every update of this one. Update the whole, not the
    /// part.
    #[must_use]
    pub fn part<S: Tree>(&self, pick: impl Fn(&T) -> S + Send + Sync + 'static) -> Arc<Live<S>> {
        let part = Live::new(pick(&self.get()));
        let follower = Arc::clone(&part);
        self.on_update(move |whole| follower.set(pick(whole)));
        part
    }

    fn set(&self, tree: T) {
        let guard = self.update.lock();
        let new = Arc::new(tree);
        self.current.store(Arc::clone(&new));
        for listener in &guard.listeners {
            listener(&new);
        }
    }

    /// The values in force now.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Calls `listener` after every successful update, in the order of registration.
    pub fn on_update(&self, listener: impl Fn(&Arc<T>) + Send + Sync + 'static) {
        self.update.lock().listeners.push(Box::new(listener));
    }

    /// Refuses configurations pushed by mgmtd: the process was started with a local file.
    pub fn refuse_push(&self) {
        self.update.lock().accept_push = false;
    }

    /// Applies a file or override at start, when everything may change. `origin` names it in errors.
    ///
    /// # Errors
    /// Any [`ConfigError`] but `Cold`; nothing is applied then.
    pub fn apply(&self, text: &str, origin: &str) -> Result<(), ConfigError> {
        self.change(text, origin, false)
    }

    /// Applies a partial update to the running process.
    ///
    /// # Errors
    /// Any [`ConfigError`]; nothing is applied then.
    pub fn hot_update(&self, text: &str, origin: &str) -> Result<(), ConfigError> {
        let result = self.change(text, origin, true);
        if result.is_ok() {
            self.refresh_status();
        }
        result
    }

    fn change(&self, text: &str, origin: &str, hot: bool) -> Result<(), ConfigError> {
        let guard = self.update.lock();
        let old = self.get();
        let new = Arc::new(updated(&*old, text, origin, hot)?);
        self.current.store(Arc::clone(&new));
        for listener in &guard.listeners {
            listener(&new);
        }
        Ok(())
    }

    fn refresh_status(&self) {
        let mut guard = self.update.lock();
        let Some(text) = guard.pushed.clone() else { return };
        guard.status = match updated(&self.base, &text, "pushed configuration", false) {
            Ok(expected) if expected == *self.get() => PushStatus::Normal,
            Ok(_) => PushStatus::Dirty,
            Err(_) => PushStatus::Failed,
        };
    }
}

/// What the Core service and the configuration distribution need, whatever the tree.
pub trait Pushable: Send + Sync {
    /// All values as TOML, or the value or section at a dotted `key`.
    ///
    /// # Errors
    /// `KeyNotFound`.
    fn render(&self, key: &str) -> Result<String, ConfigError>;
    /// A partial update by an administrator.
    ///
    /// # Errors
    /// Any [`ConfigError`]; nothing is applied then.
    fn hot_update(&self, text: &str) -> Result<(), ConfigError>;
    /// A whole configuration distributed by mgmtd.
    ///
    /// # Errors
    /// Any [`ConfigError`]; the running values stay.
    fn push(&self, text: &str, description: &str) -> Result<(), ConfigError>;
    /// What `text` would give, without applying it: the rendered result.
    ///
    /// # Errors
    /// Any [`ConfigError`].
    fn try_update(&self, text: &str, hot: bool) -> Result<String, ConfigError>;
    /// Agreement with the last pushed text.
    fn status(&self) -> PushStatus;
    /// The last pushed update, if any.
    fn last_record(&self) -> Option<PushRecord>;
}

impl<T: Tree> Pushable for Live<T> {
    fn render(&self, key: &str) -> Result<String, ConfigError> {
        render(&*self.get(), key)
    }

    fn hot_update(&self, text: &str) -> Result<(), ConfigError> {
        Live::hot_update(self, text, "hot update")
    }

    fn push(&self, text: &str, description: &str) -> Result<(), ConfigError> {
        let accept = self.update.lock().accept_push;
        let result = if accept {
            self.change(text, "pushed configuration", true)
        } else {
            Err(ConfigError::LocalFile)
        };
        {
            let mut guard = self.update.lock();
            guard.last_record = Some(PushRecord {
                error: result.as_ref().err().cloned(),
                description: description.to_owned(),
            });
            if result.is_ok() {
                guard.pushed = Some(text.to_owned());
            }
        }
        self.refresh_status();
        result
    }

    fn try_update(&self, text: &str, hot: bool) -> Result<String, ConfigError> {
        render(&updated(&*self.get(), text, "update", hot)?, "")
    }

    fn status(&self) -> PushStatus {
        self.update.lock().status
    }

    fn last_record(&self) -> Option<PushRecord> {
        self.update.lock().last_record.clone()
    }
}

fn to_table<T: Tree>(tree: &T) -> Table {
    match Value::try_from(tree) {
        Ok(Value::Table(table)) => table,
        // A tree is a struct of strings, numbers, lists and structs, all of which TOML has.
        _ => Table::new(),
    }
}

fn render<T: Tree>(tree: &T, key: &str) -> Result<String, ConfigError> {
    let table = to_table(tree);
    if key.is_empty() {
        return Ok(table.to_string());
    }
    match merge::get(&table, key) {
        Some(Value::Table(inner)) => Ok(inner.to_string()),
        Some(value) => Ok(value.to_string()),
        None => Err(ConfigError::KeyNotFound { key: key.to_owned() }),
    }
}

fn updated<T: Tree>(old: &T, text: &str, origin: &str, hot: bool) -> Result<T, ConfigError> {
    let update: Table = toml::from_str(text)
        .map_err(|error| ConfigError::Parse { origin: origin.to_owned(), reason: error.to_string() })?;
    let table = to_table(old);
    let schema = Schema {
        ignored: merge::gather::<T>(T::IGNORED, |part| part.ignored),
        optional: merge::gather::<T>(T::OPTIONAL, |part| part.optional),
        origin,
    };
    let (leaves, ignored) = merge::leaves(&table, &update, &schema)?;
    for key in ignored {
        tracing::warn!(origin, key, "configuration key of C++ 3FS has no effect here");
    }
    let mut merged = table.clone();
    for (path, value) in &leaves {
        merge::put(&mut merged, path, value.clone());
    }
    let new: T =
        Value::Table(merged).try_into().map_err(|error| culprit::<T>(&table, &leaves, origin, &error))?;
    if hot {
        let after = to_table(&new);
        let cold = merge::gather::<T>(T::COLD, |part| part.cold);
        let changed = leaves.iter().find(|(path, _)| {
            merge::covers(&cold, path) && merge::get(&after, path) != merge::get(&table, path)
        });
        if let Some((key, _)) = changed {
            return Err(ConfigError::Cold { origin: origin.to_owned(), key: key.clone() });
        }
    }
    new.check().map_err(|reason| ConfigError::Check { origin: origin.to_owned(), reason })?;
    Ok(new)
}

/// Finds which leaf makes the tree unbuildable, since the deserializer's message does not say.
fn culprit<T: Tree>(
    table: &Table,
    leaves: &merge::Leaves,
    origin: &str,
    error: &toml::de::Error,
) -> ConfigError {
    for (path, value) in leaves {
        let mut one = table.clone();
        merge::put(&mut one, path, value.clone());
        if let Err(error) = Value::Table(one).try_into::<T>() {
            let reason = error.message().to_owned();
            return ConfigError::BadValue { origin: origin.to_owned(), key: path.clone(), reason };
        }
    }
    ConfigError::Check { origin: origin.to_owned(), reason: error.message().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Duration, Size};
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Sample {
        limit: u32,
        ratio: f64,
        server: Server,
        #[serde(skip_serializing_if = "Option::is_none")]
        remount_prefix: Option<String>,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Server {
        interval: Duration,
        buffer: Size,
        paths: Vec<String>,
    }

    impl Default for Server {
        fn default() -> Self {
            Self { interval: Duration::from_secs(10), buffer: Size::new(1 << 20), paths: vec![] }
        }
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { limit: 5, ratio: 0.5, server: Server::default(), remount_prefix: None }
        }
    }

    impl Tree for Sample {
        const COLD: &'static [&'static str] = &["server.paths"];
        const IGNORED: &'static [&'static str] = &["server.base", "old.*.depth"];
        const OPTIONAL: &'static [&'static str] = &["remount_prefix"];
        fn check(&self) -> Result<(), String> {
            if self.limit == 0 { Err("`limit` must be positive".into()) } else { Ok(()) }
        }
    }

    #[test]
    fn update_is_partial_and_atomic() {
        let live = Live::new(Sample::default());
        live.apply("limit = 7\n[server]\ninterval = \"1min 30s\"", "a.toml").unwrap();
        let now = live.get();
        assert_eq!(
            (now.limit, now.server.interval, now.server.buffer.get()),
            (7, Duration::from_secs(90), 1 << 20)
        );
        let error = live.apply("limit = 9\n[server]\ninterval = \"soon\"", "a.toml").unwrap_err();
        assert_eq!(error.code(), 16);
        assert!(
            error
                .to_string()
                .starts_with("a.toml: bad value for `server.interval`: `soon` is not a duration"),
            "{error}"
        );
        assert_eq!(live.get().limit, 7);
    }

    #[test]
    fn unknown_key_names_file_and_key_and_a_neighbour() {
        let live = Live::new(Sample::default());
        let error = live.apply("[server]\nintervall = \"1s\"", "meta_main.toml").unwrap_err();
        assert_eq!(
            error.to_string(),
            "meta_main.toml: unknown key `server.intervall`; did you mean `interval`?"
        );
        assert_eq!(error.code(), 19);
    }

    #[test]
    fn keys_of_the_other_implementation_are_ignored() {
        let live = Live::new(Sample::default());
        live.apply("remount_prefix = \"/x\"\n[server.base.groups]\nn = 1\n[old.a]\ndepth = 3", "x").unwrap();
        assert_eq!(live.get().remount_prefix.as_deref(), Some("/x"));
        assert!(live.apply("[old.a]\nwidth = 3", "x").is_err());
    }

    #[test]
    fn cold_items_keep_their_value_while_running() {
        let live = Live::new(Sample::default());
        live.apply("[server]\npaths = [\"/a\"]", "x").unwrap();
        assert!(live.hot_update("[server]\npaths = [\"/a\"]", "x").is_ok());
        assert_eq!(live.hot_update("[server]\npaths = [\"/b\"]", "x").unwrap_err().code(), 17);
        assert_eq!(live.hot_update("limit = 0", "x").unwrap_err().code(), 18);
        assert_eq!(live.hot_update("limit = [", "x").unwrap_err().code(), 71);
    }

    #[test]
    fn push_reports_dirty_when_values_differ() {
        let live = Live::new(Sample::default());
        live.push("limit = 8", "v1").unwrap();
        assert_eq!(live.status(), PushStatus::Normal);
        live.push("ratio = 1", "v2").unwrap();
        assert_eq!(
            live.status(),
            PushStatus::Dirty,
            "limit was dropped from the text but keeps its live value"
        );
        assert!(live.push("nonsense = 1", "v3").is_err());
        assert_eq!(live.last_record().unwrap().description, "v3");
        live.refuse_push();
        assert_eq!(live.push("limit = 8", "v4").unwrap_err().code(), 53);
    }

    #[test]
    fn renders_all_or_one_key() {
        let live = Live::new(Sample::default());
        assert_eq!(Pushable::render(&*live, "server.interval").unwrap(), "\"10s\"");
        assert!(Pushable::render(&*live, "").unwrap().contains("[server]"));
        assert_eq!(Pushable::render(&*live, "no.such").unwrap_err().code(), 20);
    }

    #[test]
    fn a_part_follows_the_whole() {
        let live = Live::new(Whole::default());
        let part = live.part(|whole| whole.inner.clone());
        live.hot_update("[inner]\nlimit = 9", "x").unwrap();
        assert_eq!(part.get().limit, 9);
        live.apply("[inner.server]\nbase = 1\npaths = ['/a']", "x").unwrap();
        assert_eq!(live.hot_update("[inner.server]\npaths = ['/b']", "x").unwrap_err().code(), 17);
    }

    #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Whole {
        inner: Sample,
    }

    impl Tree for Whole {
        const PARTS: &'static [crate::Part] = &[crate::Part::of::<Sample>("inner")];
    }

    #[test]
    fn listeners_see_each_update() {
        let live = Live::new(Sample::default());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        live.on_update(move |tree| sink.lock().push(tree.limit));
        live.hot_update("limit = 6", "x").unwrap();
        let _ = live.hot_update("limit = 0", "x");
        assert_eq!(*seen.lock(), [6]);
    }
}
