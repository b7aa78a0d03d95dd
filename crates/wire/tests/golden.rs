//! Decodes what C++ 3FS wrote, compares the values, and encodes them again to the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use bstr::BString;
use bytes::Bytes;
use valor_wire::{
    Duration64, FrameHeader, MessagePacket, PacketHead, PacketVersion, Status, Timestamp, UtcTime, Uuid,
    Varint32, Varint64, Void, Wire, encode_message, flags, from_bytes, open_body, to_bytes,
};

macro_rules! golden {
    ($name:literal) => {
        Bytes::from_static(include_bytes!(concat!("golden/", $name, ".bin")))
    };
}

fn check<T: Wire + PartialEq + Debug>(golden: Bytes, value: T) {
    assert_eq!(from_bytes::<T>(golden.clone()).as_ref(), Ok(&value));
    assert_eq!(to_bytes(&value), golden);
}

const UUID: Uuid = Uuid([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);

#[derive(Debug, Default, PartialEq, Wire)]
struct ClientId {
    uuid: Uuid,
    hostname: String,
}

#[derive(Debug, Default, PartialEq, Wire)]
struct UserInfo {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    token: String,
}

#[derive(Debug, Default, PartialEq, Wire)]
struct ReqBase {
    user: UserInfo,
    client: ClientId,
    forward: u32,
    uuid: Uuid,
}

#[derive(Debug, Default, PartialEq, Wire)]
struct PathAt {
    parent: u64,
    path: Option<BString>,
}

#[derive(Debug, Default, PartialEq, Wire)]
struct StatReq {
    #[wire(base)]
    base: ReqBase,
    path: PathAt,
    flags: i32,
}

fn user() -> UserInfo {
    UserInfo { uid: 1000, gid: 100, groups: vec![4, 27], token: "tok".into() }
}

fn req_base(hostname: &str) -> ReqBase {
    ReqBase { user: user(), client: ClientId { uuid: UUID, hostname: hostname.into() }, ..Default::default() }
}

#[test]
fn numbers_and_text() {
    check(golden!("u8"), 0xabu8);
    check(golden!("u16"), 0x1234u16);
    check(golden!("u32"), 0x1234_5678u32);
    check(golden!("u64"), 0x1122_3344_5566_7788u64);
    check(golden!("i32_neg"), -2i32);
    check(golden!("i64_neg"), -3i64);
    check(golden!("bool_true"), true);
    check(golden!("bool_false"), false);
    check(golden!("f64"), 1.5f64);
    check(golden!("string_empty"), String::new());
    check(golden!("string_abc"), "abc".to_owned());
    check(golden!("string_200"), "x".repeat(200));
    check(golden!("string_20000"), Bytes::from(vec![b'y'; 20_000]));
    check(golden!("path"), BString::from("a/b/c"));
    check(golden!("varint32_1"), Varint32(1));
    check(golden!("varint32_300"), Varint32(300));
    check(golden!("varint64_big"), Varint64(1 << 40));
    check(golden!("duration_1500ms"), Duration64(1_500_000_000));
    check(golden!("utctime"), UtcTime(1_700_000_000_123_456));
    check(golden!("uuid"), UUID);
}

#[test]
fn containers() {
    check(golden!("optional_none_u32"), None::<u32>);
    check(golden!("optional_some_u32"), Some(7u32));
    check(golden!("optional_some_string"), Some("hi".to_owned()));
    check(golden!("vector_u32"), vec![1u32, 2, 3]);
    check(golden!("vector_string"), vec!["a".to_owned(), "bb".to_owned(), String::new()]);
    check(golden!("vector_empty"), Vec::<u32>::new());
    check(golden!("vector_u8"), vec![9u8, 8, 7]);
    check(golden!("vector_u8"), Bytes::from_static(&[9, 8, 7]));
    check(golden!("set_string"), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    check(golden!("map_string_u32"), BTreeMap::from([("k1".to_owned(), 1u32), ("k2".to_owned(), 2)]));
    check(golden!("unordered_map_one"), BTreeMap::from([(5u32, "five".to_owned())]));
}

#[test]
fn statuses_and_results() {
    check(golden!("status_ok"), Status::default());
    check(golden!("status_code_only"), Status::from(3000));
    check(golden!("status_msg"), Status::new(3000, "no such file"));
    check(golden!("result_u32_ok"), Ok::<u32, Status>(42));
    check(golden!("result_u32_err"), Err::<u32, _>(Status::new(4001, "nf")));
    check(golden!("result_void_ok"), Ok::<Void, Status>(Void));
    check(golden!("result_void_err"), Err::<Void, _>(Status::from(2005)));
}

#[test]
fn tables_and_inheritance() {
    check(golden!("client_id"), ClientId { uuid: UUID, hostname: "host-a".into() });
    check(golden!("UserInfo"), user());
    let base = ReqBase { uuid: Uuid(std::array::from_fn(|i| 0xf0 + i as u8)), ..req_base("h") };
    // Decoding the base alone leaves the derived table.
    assert_eq!(from_bytes::<ReqBase>(golden!("StatReq")).as_ref(), Ok(&base));
    check(
        golden!("StatReq"),
        StatReq { base, path: PathAt { parent: 0, path: Some("f".into()) }, flags: 0x100 },
    );
}

fn stat_fs_packet(timestamp: Option<Timestamp>, flags: u16) -> MessagePacket {
    MessagePacket {
        uuid: 0x0102_0304_0506_0708,
        service_id: 4,
        method_id: 1,
        flags,
        version: PacketVersion::default(),
        payload: to_bytes(&req_base("h")),
        timestamp,
    }
}

#[test]
fn packets() {
    check(golden!("MessagePacket_StatFsReq"), stat_fs_packet(None, flags::IS_REQ));
}

fn open(frame: Bytes) -> MessagePacket {
    let header = FrameHeader::parse(frame[..8].try_into().unwrap()).unwrap();
    assert_eq!(header.size as usize, frame.len() - 8);
    let (body, _) = open_body(header, frame.slice(8..)).unwrap();
    from_bytes(body).unwrap()
}

fn seal(packet: &MessagePacket) -> Bytes {
    let head = PacketHead {
        uuid: packet.uuid,
        service_id: packet.service_id,
        method_id: packet.method_id,
        flags: packet.flags,
        version: packet.version,
        timestamp: packet.timestamp,
    };
    encode_message(&head, &req_base("h"), &[], None).to_bytes()
}

#[test]
fn frames() {
    let plain = open(golden!("Message_StatFsReq"));
    assert_eq!(plain, stat_fs_packet(None, flags::IS_REQ));
    assert_eq!(seal(&plain), golden!("Message_StatFsReq"));

    let timed = open(golden!("Message_StatFsReq_timestamp"));
    let timestamp = Timestamp {
        client_called: 1,
        client_serialized: timed.timestamp.unwrap().client_serialized,
        ..Default::default()
    };
    assert_eq!(timed, stat_fs_packet(Some(timestamp), flags::IS_REQ));
    assert_eq!(seal(&timed), golden!("Message_StatFsReq_timestamp"));

    let compressed = open(golden!("Message_StatFsReq_zstd"));
    assert_eq!(compressed, stat_fs_packet(None, flags::IS_REQ | flags::USE_COMPRESS));
}
