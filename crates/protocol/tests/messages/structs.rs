//! Single structs recorded from C++ 3FS.

use crate::compare::check;
use crate::fixture::structs;
use bytes::Bytes;
use serde_json::Value;
use valor_protocol::{Address, Status, app::*, meta::*, mgmtd::*, storage::*, user::UserInfo};

type Check = fn(&Bytes, &Value, &Value, &str);

/// Scalars, containers and the envelope, which `valor-wire` compares itself.
const OF_WIRE: [&str; 38] = [
    "u8",
    "u16",
    "u32",
    "u64",
    "i32_neg",
    "i64_neg",
    "bool_true",
    "bool_false",
    "f64",
    "string_empty",
    "string_abc",
    "string_200",
    "string_20000",
    "optional_none_u32",
    "optional_some_u32",
    "optional_some_string",
    "vector_u32",
    "vector_string",
    "vector_empty",
    "vector_u8",
    "set_string",
    "map_string_u32",
    "unordered_map_one",
    "varint32_1",
    "varint32_300",
    "varint64_big",
    "duration_1500ms",
    "utctime",
    "size_1MB",
    "uuid",
    "path",
    "status_ok",
    "status_code_only",
    "status_msg",
    "result_u32_ok",
    "result_u32_err",
    "result_void_ok",
    "result_void_err",
];

fn check_of(name: &str) -> Option<Check> {
    Some(match name.split('_').next().unwrap() {
        "client" => check::<ClientId>,
        "address" => check::<Address>,
        "meta" => check::<ChunkId>,
        "UserInfo" => check::<UserInfo>,
        "Acl" => check::<Acl>,
        "Layout" => check::<Layout>,
        "File" => check::<File>,
        "Directory" => check::<Directory>,
        "Symlink" => check::<Symlink>,
        "Inode" => check::<Inode>,
        "InodeData" => check::<InodeData>,
        "DirEntry" => check::<DirEntry>,
        "PathAt" => check::<PathAt>,
        "VersionedLength" => check::<VersionedLength>,
        "SessionInfo" => check::<SessionInfo>,
        "StatReq" => check::<StatReq>,
        "StatRsp" => check::<StatRsp>,
        "Result" => check::<Result<StatRsp, Status>>,
        "CreateReq" => check::<CreateReq>,
        "BatchStatRsp" => check::<BatchStatRsp>,
        "BatchStatByPathRsp" => check::<BatchStatByPathRsp>,
        "GlobalKey" => check::<GlobalKey>,
        "ChecksumInfo" => check::<ChecksumInfo>,
        "RDMARemoteBuf" => check::<RDMARemoteBuf>,
        "ReadIO" => check::<ReadIO>,
        "MessageTag" => check::<MessageTag>,
        "BatchReadReq" => check::<BatchReadReq>,
        "UpdateIO" => check::<UpdateIO>,
        "WriteReq" => check::<WriteReq>,
        "UpdateReq" => check::<UpdateReq>,
        "IOResult" => check::<IOResult>,
        "BatchReadRsp" => check::<BatchReadRsp>,
        "WriteRsp" => check::<WriteRsp>,
        "QueryLastChunkOp" => check::<QueryLastChunkOp>,
        "QueryLastChunkResult" => check::<QueryLastChunkResult>,
        "UInt8Vector" => check::<UInt8Vector>,
        "FbsAppInfo" => check::<FbsAppInfo>,
        "NodeInfo" => check::<NodeInfo>,
        "ChainInfo" => check::<ChainInfo>,
        "ChainTable" => check::<ChainTable>,
        "TargetInfo" => check::<TargetInfo>,
        "RoutingInfo" => check::<RoutingInfo>,
        "HeartbeatInfo" => check::<HeartbeatInfo>,
        _ => return None,
    })
}

#[test]
fn every_recorded_struct() {
    let mut checked = 0;
    for (name, bytes, raw, readable) in structs() {
        if OF_WIRE.contains(&name.as_str()) {
            continue;
        }
        let check = check_of(&name).unwrap_or_else(|| panic!("{name} has no type"));
        check(&bytes, &raw, &readable, &name);
        checked += 1;
    }
    assert_eq!(checked + OF_WIRE.len(), 94);
}

#[test]
fn storage_checksum_of_hello() {
    assert_eq!(valor_wire::storage_crc32c(b"hello"), 1_703_822_515);
}
