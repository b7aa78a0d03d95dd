//! Applying a TOML table on top of another, key by key.

use crate::{ConfigError, Part, Tree};
use toml::{Table, Value};

/// What a tree accepts, by dotted path.
pub(crate) struct Schema<'a> {
    pub ignored: Vec<String>,
    pub optional: Vec<String>,
    pub origin: &'a str,
}

/// A tree's own list and those of its parts, all from the root.
pub(crate) fn gather<T: Tree>(
    own: &[&str],
    of_part: impl Fn(&Part) -> &'static [&'static str],
) -> Vec<String> {
    let parts = T::PARTS.iter().flat_map(|part| {
        of_part(part).iter().map(|path| format!("{}.{path}", part.prefix)).collect::<Vec<_>>()
    });
    own.iter().map(|path| (*path).to_owned()).chain(parts).collect()
}

/// Leaves of an update in document order, with their dotted paths.
pub(crate) type Leaves = Vec<(String, Value)>;

/// Splits `update` into leaves that exist in `current`, dropping ignored keys.
///
/// # Errors
/// [`ConfigError::UnknownKey`] for the first key that neither exists nor is ignored.
pub(crate) fn leaves(
    current: &Table,
    update: &Table,
    schema: &Schema<'_>,
) -> Result<(Leaves, Vec<String>), ConfigError> {
    let mut found = Vec::new();
    let mut ignored = Vec::new();
    walk(Some(current), update, "", schema, &mut found, &mut ignored)?;
    Ok((found, ignored))
}

fn walk(
    current: Option<&Table>,
    update: &Table,
    prefix: &str,
    schema: &Schema<'_>,
    found: &mut Leaves,
    ignored: &mut Vec<String>,
) -> Result<(), ConfigError> {
    for (key, value) in update {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let here = current.and_then(|table| table.get(key));
        if here.is_none() && covers(&schema.ignored, &path) {
            ignored.push(path);
            continue;
        }
        match (here, value) {
            (Some(Value::Table(old)), Value::Table(new)) if !old.is_empty() => {
                walk(Some(old), new, &path, schema, found, ignored)?;
            }
            (None, Value::Table(new))
                if leads_to(&schema.optional, &path) || leads_to(&schema.ignored, &path) =>
            {
                walk(None, new, &path, schema, found, ignored)?;
            }
            (Some(_), _) => found.push((path, value.clone())),
            (None, _) if covers(&schema.optional, &path) => found.push((path, value.clone())),
            (None, _) => {
                let hint =
                    nearest(current, key).map(|k| format!("; did you mean `{k}`?")).unwrap_or_default();
                return Err(ConfigError::UnknownKey { origin: schema.origin.to_owned(), key: path, hint });
            }
        }
    }
    Ok(())
}

/// Puts one leaf into `table`, making tables on the way.
pub(crate) fn put(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((head, rest)) => {
            let entry = table.entry(head.to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if !entry.is_table() {
                *entry = Value::Table(Table::new());
            }
            if let Value::Table(inner) = entry {
                put(inner, rest, value);
            }
        }
    }
}

/// The value at a dotted path.
pub(crate) fn get<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        None => table.get(path),
        Some((head, rest)) => table.get(head)?.as_table().and_then(|inner| get(inner, rest)),
    }
}

/// Whether a pattern list covers `path`: some pattern is a prefix of it by components (`*` matches any one).
pub(crate) fn covers(patterns: &[String], path: &str) -> bool {
    patterns.iter().any(|pattern| {
        let mut parts = path.split('.');
        pattern.split('.').all(|want| parts.next().is_some_and(|have| want == "*" || want == have))
    })
}

/// Whether `path` is on the way to some pattern.
fn leads_to(patterns: &[String], path: &str) -> bool {
    patterns.iter().any(|pattern| {
        let mut wants = pattern.split('.');
        path.split('.').all(|have| wants.next().is_some_and(|want| want == "*" || want == have))
    })
}

fn nearest<'a>(table: Option<&'a Table>, key: &str) -> Option<&'a str> {
    table?
        .keys()
        .map(|k| (distance(k, key), k.as_str()))
        .filter(|(d, _)| *d <= 3 && *d < key.len())
        .min()
        .map(|(_, k)| k)
}

/// Levenshtein distance; keys are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
