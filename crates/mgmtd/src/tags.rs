//! Tags of nodes and of universal ids.

use crate::error;
use std::collections::BTreeMap;
use valor_protocol::Status;
use valor_protocol::app::{TAG_DISABLE, TagPair};
use valor_protocol::mgmtd::SetTagMode;

/// Refuses tags without a key.
///
/// # Errors
/// 5011.
pub fn check_keys(tags: &[TagPair]) -> Result<(), Status> {
    match tags.iter().any(|tag| tag.key.is_empty()) {
        true => Err(error::invalid_tag("tag key is empty")),
        false => Ok(()),
    }
}

/// The tags after a change, ordered by key.
///
/// # Errors
/// 5011 if tags to be removed have a value.
pub fn changed(mode: SetTagMode, old: &[TagPair], update: &[TagPair]) -> Result<Vec<TagPair>, Status> {
    let map = |tags: &[TagPair]| -> BTreeMap<String, String> {
        tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect()
    };
    let new = match mode {
        SetTagMode::Replace => map(update),
        SetTagMode::Upsert => {
            let mut new = map(old);
            new.extend(map(update));
            new
        }
        SetTagMode::Remove => {
            if let Some(tag) = update.iter().find(|tag| !tag.value.is_empty()) {
                let (key, value) = (&tag.key, &tag.value);
                return Err(error::invalid_tag(format!(
                    "could only pass empty value for REMOVE. key {key} value {value}"
                )));
            }
            let mut new = map(old);
            update.iter().for_each(|tag| drop(new.remove(&tag.key)));
            new
        }
    };
    Ok(new.into_iter().map(|(key, value)| TagPair { key, value }).collect())
}

/// Whether the tags disable a node.
pub fn disable(tags: &[TagPair]) -> bool {
    tags.iter().any(|tag| tag.key == TAG_DISABLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::status::code;

    fn tags(pairs: &[(&str, &str)]) -> Vec<TagPair> {
        pairs.iter().map(|(key, value)| TagPair { key: (*key).into(), value: (*value).into() }).collect()
    }

    #[test]
    fn modes() {
        let old = tags(&[("b", "1"), ("a", "2")]);
        let change = |mode, update: &[(&str, &str)]| changed(mode, &old, &tags(update));
        let exactly = change(SetTagMode::Replace, &[("z", "1"), ("c", "2"), ("z", "3")]);
        assert_eq!(exactly.unwrap(), tags(&[("c", "2"), ("z", "3")]), "the last one of a key counts");
        let more = change(SetTagMode::Upsert, &[("b", "9"), ("c", "")]);
        assert_eq!(more.unwrap(), tags(&[("a", "2"), ("b", "9"), ("c", "")]));
        assert_eq!(change(SetTagMode::Remove, &[("b", ""), ("x", "")]).unwrap(), tags(&[("a", "2")]));
        let error = change(SetTagMode::Remove, &[("b", "1")]).unwrap_err();
        assert_eq!(error.code, code::MGMTD_INVALID_TAG);
        assert_eq!(change(SetTagMode::Upsert, &[]).unwrap(), tags(&[("a", "2"), ("b", "1")]));
        assert!(check_keys(&tags(&[("", "x")])).is_err());
        assert!(disable(&tags(&[("Disable", "")])) && !disable(&old));
    }
}
