//! Command-line overrides of configuration keys, as 3FS takes them (`src/common/utils/ConfigBase.cc` `parseFlags`):
//! `--config.KEY=VALUE` or `--config.KEY VALUE`, likewise `--app_config.` and `--launcher_config.`.

use std::ffi::OsString;
use toml::{Table, Value};
use valor_config::{ConfigError, Live, Pushable, Tree};

/// Overrides in order of appearance: key and raw value.
#[derive(Debug, Default, Clone)]
pub struct Overrides {
    /// For the main configuration.
    pub main: Vec<(String, String)>,
    /// For the node's identity.
    pub app: Vec<(String, String)>,
    /// For the cluster's identity.
    pub launcher: Vec<(String, String)>,
}

/// Takes the overrides out of the arguments.
///
/// # Errors
/// When an override has no value.
pub fn split(args: impl Iterator<Item = OsString>) -> Result<(Vec<OsString>, Overrides), String> {
    let mut rest = Vec::new();
    let mut overrides = Overrides::default();
    let mut args = args;
    while let Some(arg) = args.next() {
        let Some((list, setting)) = arg.to_str().and_then(|text| recognise(text, &mut overrides)) else {
            rest.push(arg);
            continue;
        };
        let pair = match setting.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => {
                let value = args.next().and_then(|value| value.into_string().ok());
                (setting.to_owned(), value.ok_or_else(|| format!("{} needs a value", arg.to_string_lossy()))?)
            }
        };
        list.push(pair);
    }
    Ok((rest, overrides))
}

type Recognised<'a, 'b> = Option<(&'a mut Vec<(String, String)>, &'b str)>;

fn recognise<'a, 'b>(text: &'b str, overrides: &'a mut Overrides) -> Recognised<'a, 'b> {
    let text = text.strip_prefix("--").or_else(|| text.strip_prefix('-'))?;
    if let Some(setting) = text.strip_prefix("config.") {
        return Some((&mut overrides.main, setting));
    }
    if let Some(setting) = text.strip_prefix("app_config.") {
        return Some((&mut overrides.app, setting));
    }
    text.strip_prefix("launcher_config.").map(|setting| (&mut overrides.launcher, setting))
}

/// Applies overrides to a tree. A value that is not TOML is taken as a string.
///
/// # Errors
/// [`ConfigError`] with `origin` naming the flag.
pub fn apply<T: Tree>(live: &Live<T>, overrides: &[(String, String)], flag: &str) -> Result<(), ConfigError> {
    for (key, text) in overrides {
        let origin = format!("--{flag}.{key}");
        let raw = parse(text);
        let (key, value) = in_array(live, key, raw);
        let first = live.apply(&assignment(&key, value), &origin);
        match first {
            // `--config.x=5` for a key that holds a string.
            Err(ConfigError::BadValue { .. }) if !text.starts_with(['"', '\'', '[', '{']) => {
                let (key, value) = in_array(live, &key, Value::String(text.clone()));
                live.apply(&assignment(&key, value), &origin)?;
            }
            other => other?,
        }
    }
    Ok(())
}

fn parse(text: &str) -> Value {
    let table: Result<Table, _> = toml::from_str(&format!("v = {text}"));
    table.ok().and_then(|mut table| table.remove("v")).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn assignment(key: &str, value: Value) -> String {
    let mut parts = key.rsplit('.');
    let last = parts.next().unwrap_or(key);
    let mut table = Table::from_iter([(last.to_owned(), value)]);
    for part in parts {
        table = Table::from_iter([(part.to_owned(), Value::Table(table))]);
    }
    table.to_string()
}

/// Turns `a.b#1.c = v` into `a.b = [.., {.., c = v}]`, on top of what the array holds now.
fn in_array<T: Tree>(live: &Live<T>, key: &str, value: Value) -> (String, Value) {
    let Some((array_key, rest)) = key.split_once('#') else { return (key.to_owned(), value) };
    let (index, inner) = rest.split_once('.').unwrap_or((rest, ""));
    let Ok(index) = index.parse::<usize>() else { return (key.to_owned(), value) };
    let current = live.render(array_key).ok().map(|text| parse(&text));
    let mut elements = match current {
        Some(Value::Array(elements)) => elements,
        _ => Vec::new(),
    };
    while elements.len() <= index.min(64) {
        elements.push(Value::Table(Table::new()));
    }
    if let (Some(Value::Table(element)), false) = (elements.get_mut(index), inner.is_empty()) {
        let mut table = element;
        let parts: Vec<&str> = inner.split('.').collect();
        for part in &parts[..parts.len() - 1] {
            let entry = table.entry((*part).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if !entry.is_table() {
                *entry = Value::Table(Table::new());
            }
            match entry {
                Value::Table(next) => table = next,
                _ => return (key.to_owned(), value),
            }
        }
        table.insert(parts[parts.len() - 1].to_owned(), value);
    }
    (array_key.to_owned(), Value::Array(elements))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};
    use valor_daemon::BaseConfig;

    #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Sample {
        name: String,
        count: u32,
        base: BaseConfig,
    }

    impl Tree for Sample {}

    #[test]
    fn takes_both_spellings_and_leaves_the_rest() {
        let args =
            ["valor", "meta", "--config.a.b=1", "--config.c", "2", "--app_config.node_id=7", "--dir=x"];
        let (rest, overrides) = split(args.into_iter().map(OsString::from)).unwrap();
        assert_eq!(rest, ["valor", "meta", "--dir=x"]);
        assert_eq!(overrides.main, [("a.b".to_owned(), "1".to_owned()), ("c".to_owned(), "2".to_owned())]);
        assert_eq!(overrides.app, [("node_id".to_owned(), "7".to_owned())]);
        assert!(split(["--config.c"].into_iter().map(OsString::from)).is_err());
    }

    #[test]
    fn values_are_toml_or_plain_text_and_arrays_are_indexed() {
        let live = Live::new(Sample::default());
        let pairs = [("name", "5"), ("count", "6"), ("base.groups#1.listener.listen_port", "8001")];
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        apply(&live, &pairs, "config").unwrap();
        let now = live.get();
        assert_eq!((now.name.as_str(), now.count), ("5", 6));
        assert_eq!(now.base.groups.len(), 2);
        assert_eq!(now.base.groups[1].listener.listen_port, 8001);
        let error = apply(&live, &[("cuont".into(), "1".into())], "config").unwrap_err();
        assert!(
            error.to_string().contains("--config.cuont: unknown key `cuont`; did you mean `count`?"),
            "{error}"
        );
    }
}
