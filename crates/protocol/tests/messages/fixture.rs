//! Reads `tests/golden`, see its README.

use bytes::Bytes;
use serde_json::Value;
use std::path::Path;

pub const SETS: [&str; 5] = ["1_init", "2_fuse", "3_rpc", "4_rpc_zstd", "5_replica2"];

/// One message as recorded.
pub struct Message {
    pub bytes: Bytes,
    pub compressed: bool,
    pub packet: Value,
    pub raw: Value,
    pub readable: Value,
}

/// A request and its response.
pub struct Pair {
    pub name: String,
    pub service_id: u16,
    pub method_id: u16,
    pub method: String,
    pub request: Message,
    pub response: Message,
}

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let compressed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    zstd::decode_all(&compressed[..]).unwrap()
}

pub fn lines(name: &str) -> Vec<Value> {
    file(name)
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

pub fn load(set: &str) -> Vec<Pair> {
    let mut blob = Bytes::from(file(&format!("{set}.bin.zst")));
    let mut message = |side: &Value| Message {
        bytes: blob.split_to(side["size"].as_u64().unwrap() as usize),
        compressed: side["compressed"].as_bool().unwrap(),
        packet: side["packet"].clone(),
        raw: side["raw"].clone(),
        readable: side["readable"].clone(),
    };
    let pairs = lines(&format!("{set}.jsonl.zst"))
        .iter()
        .map(|line| Pair {
            name: text(&line["name"]),
            service_id: line["service_id"].as_u64().unwrap() as u16,
            method_id: line["method_id"].as_u64().unwrap() as u16,
            method: text(&line["method"]),
            request: message(&line["request"]),
            response: message(&line["response"]),
        })
        .collect();
    assert!(blob.is_empty(), "{set}: bytes without a line");
    pairs
}

/// Name, encoding and values of the single structs.
pub fn structs() -> Vec<(String, Bytes, Value, Value)> {
    let mut blob = Bytes::from(file("structs.bin.zst"));
    lines("structs.jsonl.zst")
        .iter()
        .map(|line| {
            let bytes = blob.split_to(line["size"].as_u64().unwrap() as usize);
            (text(&line["name"]), bytes, line["raw"].clone(), line["readable"].clone())
        })
        .collect()
}
