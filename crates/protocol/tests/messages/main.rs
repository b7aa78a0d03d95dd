//! Messages recorded from C++ 3FS decode to the values it saw and encode to the bytes it sent.

mod compare;
mod fixture;
mod fuzz;
mod structs;
mod table;
mod tree;

use fixture::{Message, Pair, SETS, load};
use std::collections::BTreeSet;
use table::{METHODS, MethodEntry};
use valor_wire::{FrameHeader, HEADER_LEN, MessagePacket, open_body, to_bytes};

fn entry(pair: &Pair) -> &'static MethodEntry {
    METHODS
        .iter()
        .find(|entry| entry.service_id == pair.service_id && entry.id == pair.method_id)
        .unwrap_or_else(|| panic!("{} has no method", pair.name))
}

/// Opens a frame, checks the envelope against its recorded fields and its own encoding, and returns the payload.
fn open_envelope(message: &Message, context: &str) -> bytes::Bytes {
    let header = message.bytes[..HEADER_LEN].try_into().unwrap();
    let header = FrameHeader::parse(header).unwrap();
    assert_eq!(header.size as usize, message.bytes.len() - HEADER_LEN, "{context}");
    assert_eq!(header.is_compressed(), message.compressed, "{context}");
    let (body, _) = open_body(header, message.bytes.slice(HEADER_LEN..)).unwrap();
    let packet: MessagePacket = valor_wire::from_bytes(body.clone()).unwrap();
    assert_eq!(to_bytes(&packet), body, "{context}: envelope");
    let field = |name: &str| message.packet[name].as_u64().unwrap();
    assert_eq!(packet.uuid, field("uuid"), "{context}");
    assert_eq!(u64::from(packet.service_id), field("serviceId"), "{context}");
    assert_eq!(u64::from(packet.method_id), field("methodId"), "{context}");
    assert_eq!(u64::from(packet.flags), field("flags"), "{context}");
    assert_eq!(packet.payload.len() as u64, field("payload_size"), "{context}");
    compare::compare_debug(
        &message.packet["timestamp"],
        &message.packet["timestamp"],
        &packet.timestamp,
        context,
    );
    packet.payload
}

#[test]
fn every_recorded_message() {
    let mut messages = 0;
    for set in SETS {
        for pair in load(set) {
            let entry = entry(&pair);
            assert_eq!(entry.name, pair.method, "{}", pair.name);
            let context = format!("{set}/{}.req", pair.name);
            (entry.check_req)(&open_envelope(&pair.request, &context), &pair.request, &context);
            let context = format!("{set}/{}.rsp", pair.name);
            (entry.check_rsp)(&open_envelope(&pair.response, &context), &pair.response, &context);
            messages += 2;
        }
    }
    assert_eq!(messages, 2 * 379, "a set is not complete");
}

#[test]
fn every_method_but_three_is_recorded() {
    let recorded: BTreeSet<(u16, u16)> =
        SETS.iter().flat_map(|set| load(set)).map(|pair| (pair.service_id, pair.method_id)).collect();
    let served = [217, 10001, 4, 3];
    let all: BTreeSet<(u16, u16)> =
        METHODS.iter().filter(|m| served.contains(&m.service_id)).map(|m| (m.service_id, m.id)).collect();
    assert_eq!(all.len(), 65);
    assert_eq!(recorded.len(), 62);
    let missing: Vec<_> = all.difference(&recorded).collect();
    assert_eq!(missing, [&(10001, 3), &(10001, 4), &(10001, 6)], "renderConfig, hotUpdateConfig, shutdown");
    assert!(recorded.is_subset(&all));
}

#[test]
fn the_table_has_every_method() {
    use valor_protocol::{core, echo, ib_connect, meta, mgmtd, migration, monitor, rdma_control, storage};
    let declared = [
        (mgmtd::methods::SERVICE_ID, mgmtd::methods::METHODS),
        (core::methods::SERVICE_ID, core::methods::METHODS),
        (meta::methods::SERVICE_ID, meta::methods::METHODS),
        (storage::methods::SERVICE_ID, storage::methods::METHODS),
        (monitor::methods::SERVICE_ID, monitor::methods::METHODS),
        (migration::methods::SERVICE_ID, migration::methods::METHODS),
        (rdma_control::methods::SERVICE_ID, rdma_control::methods::METHODS),
        (ib_connect::methods::SERVICE_ID, ib_connect::methods::METHODS),
        (echo::methods::SERVICE_ID, echo::methods::METHODS),
        (echo::simple_example::methods::SERVICE_ID, echo::simple_example::methods::METHODS),
    ];
    let declared: BTreeSet<_> = declared
        .iter()
        .flat_map(|&(service, methods)| methods.iter().map(move |&(id, _)| (service, id)))
        .collect();
    let table: BTreeSet<_> = METHODS.iter().map(|m| (m.service_id, m.id)).collect();
    assert_eq!(declared, table);
    assert_eq!(table.len(), METHODS.len());
}

#[test]
fn chain_index_lists_of_cpp() {
    use valor_protocol::layout::{ShuffleVariant, shuffle};
    use valor_protocol::meta::{ChainRange, Chains, Layout, Shuffle};
    let mut samples = 0;
    for line in fixture::lines("shuffle.jsonl.zst") {
        let number = |name: &str| line[name].as_u64().unwrap();
        let expected: Vec<u32> =
            line["chain_index_list"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect();
        let shuffled = number("shuffle") == 1;
        let range = ChainRange {
            base_index: number("baseIndex") as u32,
            shuffle: if shuffled { Shuffle::StdShuffleMt19937 } else { Shuffle::NoShuffle },
            seed: number("seed"),
        };
        let layout = Layout {
            stripe_size: number("stripe") as u32,
            chains: Chains::ChainRange(range),
            ..Layout::default()
        };
        assert_eq!(layout.chain_index_list().unwrap(), expected, "{line}");
        if shuffled {
            let mut other: Vec<u32> = (range.base_index..range.base_index + layout.stripe_size).collect();
            shuffle(&mut other, range.seed, ShuffleVariant::Gcc10);
            assert_eq!(other, expected, "{line}");
        }
        samples += 1;
    }
    assert_eq!(samples, 168);
}
