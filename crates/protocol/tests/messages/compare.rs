//! Compares decoded values with what C++ 3FS decoded, and encodings with its bytes.

use crate::tree::{Node, parse};
use bytes::Bytes;
use serde_json::Value;
use std::fmt::Debug;
use valor_wire::{Wire, from_bytes, to_bytes};

/// Decodes `bytes`, compares every leaf with `raw` (enum names with `readable`), and compares the encoding.
pub fn check<T: Wire + Debug + PartialEq>(bytes: &Bytes, raw: &Value, readable: &Value, context: &str) {
    let value: T =
        from_bytes(bytes.clone()).unwrap_or_else(|error| panic!("{context}: {error} in {bytes:02x?}"));
    compare_debug(raw, readable, &value, context);
    let encoded = to_bytes(&value);
    if mask_empty_layouts(bytes, &encoded) == encoded {
        return;
    }
    // Hash maps were sent in iteration order; ours ascend. Everything else must be there byte by byte.
    assert!(format!("{value:?}").contains(": {"), "{context}: {bytes:02x?} encoded as {encoded:02x?}");
    let sorted = |bytes: &Bytes| {
        let mut bytes = bytes.to_vec();
        bytes.sort_unstable();
        bytes
    };
    assert_eq!(sorted(&mask_empty_layouts(bytes, &encoded)), sorted(&encoded), "{context}");
    assert!(from_bytes::<T>(encoded).unwrap() == value, "{context}");
}

/// Compares a value's leaves with the recorded ones.
pub fn compare_debug<T: Debug>(raw: &Value, readable: &Value, value: &T, context: &str) {
    compare(raw, readable, &parse(&format!("{value:?}")), &mut context.to_owned());
}

/// `bytes` with 0 in the bytes of `Layout::Empty`, which are uninitialised memory in C++.
fn mask_empty_layouts(bytes: &Bytes, encoded: &Bytes) -> Bytes {
    const TAG: &[u8] = b"\x05Empty";
    let mut masked = bytes.to_vec();
    if bytes.len() == encoded.len() {
        for at in TAG.len()..masked.len() {
            if masked[at] != encoded[at] && &bytes[at - TAG.len()..at] == TAG {
                masked[at] = 0;
            }
        }
    }
    masked.into()
}

fn compare(raw: &Value, readable: &Value, node: &Node, path: &mut String) {
    match (raw, node) {
        // Strong typedefs and optional values.
        (raw, Node::Tuple(name, items)) if name == "Some" || is_newtype(raw, items) => {
            compare(raw, readable, &items[0], path);
        }
        (Value::Null, Node::Word(word)) => assert_eq!(word, "None", "{path}"),
        // A status message that is absent decodes as an empty one.
        (Value::Null, Node::Text(text)) => assert!(text.is_empty(), "{path}"),
        (Value::Bool(value), Node::Word(word)) => assert_eq!(&value.to_string(), word, "{path}"),
        (Value::Number(number), Node::Word(word)) => number_or_enum(number, readable, word, path),
        (Value::Number(number), Node::Struct(fields)) => address(number, fields, path),
        (Value::String(text), Node::Text(bytes)) => assert_eq!(&latin1(text), bytes, "{path}"),
        (Value::String(text), node) => opaque(text, node, path),
        (Value::Array(items), Node::Map(entries)) => map(items, readable, entries, path),
        (Value::Array(items), Node::List(nodes)) => {
            assert_eq!(items.len(), nodes.len(), "{path}");
            for (index, (item, node)) in items.iter().zip(nodes).enumerate() {
                nested(item, &readable[index], node, path, &index.to_string());
            }
        }
        (Value::Object(object), node) => struct_or_special(object, raw, readable, node, path),
        (raw, node) => panic!("{path}: {raw} against {node:?}"),
    }
}

fn is_newtype(raw: &Value, items: &[Node]) -> bool {
    raw.is_number() && items.len() == 1
}

fn nested(raw: &Value, readable: &Value, node: &Node, path: &mut String, step: &str) {
    let length = path.len();
    path.push('/');
    path.push_str(step);
    compare(raw, readable, node, path);
    path.truncate(length);
}

/// A number, or the unit variant that 3FS's readable form names.
fn number_or_enum(number: &serde_json::Number, readable: &Value, word: &str, path: &str) {
    if word.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        let equal = number.to_string() == *word || number.as_f64() == word.parse().ok();
        return assert!(equal, "{path}: {number} against {word}");
    }
    let name = readable.as_str().unwrap_or_else(|| panic!("{path}: {word} has no readable form"));
    assert_eq!(name.replace('_', "").to_lowercase(), word.to_lowercase(), "{path}");
}

/// Addresses are recorded as one integer.
fn address(number: &serde_json::Number, fields: &[(String, Node)], path: &str) {
    let address = valor_protocol::Address::from_u64(number.as_u64().unwrap());
    let Node::Struct(expected) = parse(&format!("{address:?}")) else { unreachable!() };
    assert_eq!(expected, fields, "{path}");
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect()
}

/// Leaves whose recorded form is a string of another kind than ours.
fn opaque(text: &str, node: &Node, path: &str) {
    match node {
        Node::Word(word) if word == "Void" => assert_eq!(text, "<void: 0 bytes>", "{path}"),
        Node::Word(word) => {
            assert_eq!(text.strip_prefix("hex:"), Some(word.replace('-', "").as_str()), "{path}");
        }
        Node::Tuple(name, items) if name == "ChunkId" => {
            let hex: String = latin1(text).iter().map(|byte| format!("{byte:02X}")).collect();
            let Some(Node::Word(word)) = items.first() else { return assert_eq!(text, "", "{path}") };
            assert_eq!(hex, word.replace('-', ""), "{path}");
        }
        node => panic!("{path}: {text:?} against {node:?}"),
    }
}

/// Sets are arrays of keys, maps are arrays of pairs, both in any order.
fn map(items: &[Value], readable: &Value, entries: &[(Node, Option<Node>)], path: &mut String) {
    assert_eq!(items.len(), entries.len(), "{path}");
    let key_of = |node: &Node| match node {
        Node::Word(word) => word.clone(),
        Node::Text(text) => String::from_utf8(text.clone()).unwrap(),
        Node::Tuple(_, items) => match &items[0] {
            Node::Word(word) => word.clone(),
            node => panic!("key {node:?}"),
        },
        node => panic!("key {node:?}"),
    };
    let text_of = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for item in items {
        let (key, value) = match item {
            Value::Array(pair) => (text_of(&pair[0]), Some(&pair[1])),
            key => (text_of(key), None),
        };
        let (_, node) = entries.iter().find(|(node, _)| key_of(node) == key).expect("key is there");
        match (value, node) {
            (Some(value), Some(node)) => nested(value, &readable[&key], node, path, &key),
            (None, None) => {}
            other => panic!("{path}: {other:?}"),
        }
    }
}

fn struct_or_special(
    object: &serde_json::Map<String, Value>,
    raw: &Value,
    readable: &Value,
    node: &Node,
    path: &mut String,
) {
    match node {
        // Variants: the tag is the Rust variant.
        Node::Tuple(name, items) if object.contains_key("$type") => {
            assert_eq!(raw["$type"], **name, "{path}");
            if name != "Empty" {
                nested(&raw["value"], &readable["value"], &items[0], path, name);
            }
        }
        Node::Tuple(name, items) if name == "Ok" => {
            nested(&raw["value"], &readable["value"], &items[0], path, name)
        }
        Node::Tuple(name, items) if name == "Err" => {
            nested(&raw["error"], &readable["error"], &items[0], path, name)
        }
        Node::Text(bytes) => byte_vector(object, bytes, path),
        Node::Struct(fields) => {
            let mut flat = Vec::new();
            flatten(fields, object, &mut flat);
            for (key, value) in object {
                let name = rust_name(key);
                if name == "rdmabuf" && object.contains_key("addr") {
                    // The keys of a remote buffer are recorded as JSON text.
                    let inner: Value = serde_json::from_str(value.as_str().unwrap()).unwrap();
                    let (_, rkeys) = flat.iter().find(|(name, _)| *name == "rkeys").expect("rkeys");
                    nested(&inner["rkeys"], &inner["rkeys"], rkeys, path, "rkeys");
                    continue;
                }
                // The last of two equal names: `PruneSessionReq` repeats its base's `client`.
                let (_, node) = flat
                    .iter()
                    .rfind(|(field, _)| *field == name)
                    .unwrap_or_else(|| panic!("{path}: no field {name}"));
                nested(value, &readable[key], node, path, key);
            }
            let names: std::collections::BTreeSet<_> = flat.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), object.len(), "{path}: {names:?} against {:?}", object.keys());
        }
        node => panic!("{path}: {raw} against {node:?}"),
    }
}

/// Fields of a struct and of its base class, which the recording shows as one object.
fn flatten<'a>(
    fields: &'a [(String, Node)],
    object: &serde_json::Map<String, Value>,
    out: &mut Vec<(&'a str, &'a Node)>,
) {
    for (name, node) in fields {
        match node {
            Node::Struct(inner) if !object.keys().any(|key| rust_name(key) == *name) => {
                flatten(inner, object, out);
            }
            node => out.push((name, node)),
        }
    }
}

/// `removeChunksBatchSize` as `remove_chunks_batch_size`.
fn rust_name(name: &str) -> String {
    let mut out = String::new();
    for letter in name.trim_start_matches('_').chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    match out.as_str() {
        "msg" => "message".into(),
        _ => out,
    }
}

/// Byte vectors are recorded as length, first bytes and checksum.
fn byte_vector(object: &serde_json::Map<String, Value>, bytes: &[u8], path: &str) {
    assert_eq!(object["$bytes"], bytes.len(), "{path}");
    let head: String = bytes.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(object["$head"].as_str().unwrap(), head, "{path}");
    assert_eq!(object["$crc32c"], valor_wire::storage_crc32c(bytes), "{path}");
}
