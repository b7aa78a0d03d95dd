//! No bytes make a decoder panic.

use crate::fixture::{SETS, load};
use crate::table::METHODS;
use bytes::Bytes;
use valor_protocol::layout::Mt19937_64;
use valor_wire::{FrameHeader, HEADER_LEN, MessagePacket, open_body};

const SEED: u64 = 20_240_601;

fn payloads() -> Vec<(usize, bool, Bytes)> {
    let payload = |bytes: &Bytes| {
        let header = FrameHeader::parse(bytes[..HEADER_LEN].try_into().unwrap()).unwrap();
        let (body, _) = open_body(header, bytes.slice(HEADER_LEN..)).unwrap();
        valor_wire::from_bytes::<MessagePacket>(body).unwrap().payload
    };
    let mut out = Vec::new();
    for pair in SETS.iter().flat_map(|set| load(set)) {
        let key = (pair.service_id, pair.method_id);
        let index = METHODS.iter().position(|m| (m.service_id, m.id) == key).unwrap();
        out.push((index, true, payload(&pair.request.bytes)));
        out.push((index, false, payload(&pair.response.bytes)));
    }
    out.retain(|(_, _, bytes)| bytes.len() < 4096);
    out
}

fn try_decode(index: usize, is_request: bool, bytes: Vec<u8>) {
    let entry = &METHODS[index];
    if is_request { (entry.try_req)(bytes.into()) } else { (entry.try_rsp)(bytes.into()) }
}

fn below(random: &mut Mt19937_64, limit: usize) -> usize {
    (random.next_u64() % limit.max(1) as u64) as usize
}

fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Mt19937_64) {
    let at = below(random, bytes.len());
    match random.next_u64() % 6 {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << (random.next_u64() % 8),
        1 if !bytes.is_empty() => bytes[at] = random.next_u64() as u8,
        2 => bytes.truncate(at),
        3 if !bytes.is_empty() => drop(bytes.remove(at)),
        4 => {
            let large = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
            let take = 1 + below(random, large.len());
            bytes.splice(at..at, large[large.len() - take..].iter().copied());
        }
        _ => {
            let from = below(random, other.len());
            bytes.splice(at..at, other[from..].iter().copied().take(64));
        }
    }
}

#[test]
fn mutated_messages() {
    println!("seed {SEED}");
    let mut random = Mt19937_64::new(SEED);
    let payloads = payloads();
    for (index, is_request, payload) in &payloads {
        for _ in 0..60 {
            let mut bytes = payload.to_vec();
            for _ in 0..=random.next_u64() % 3 {
                let (_, _, other) = &payloads[below(&mut random, payloads.len())];
                mutate(&mut bytes, other, &mut random);
            }
            try_decode(*index, *is_request, bytes);
        }
    }
}

#[test]
fn messages_as_every_other_type() {
    let payloads = payloads();
    for (_, _, payload) in payloads.iter().step_by(7) {
        for index in 0..METHODS.len() {
            try_decode(index, true, payload.to_vec());
            try_decode(index, false, payload.to_vec());
        }
    }
}

#[test]
fn random_bytes() {
    println!("seed {SEED}");
    let mut random = Mt19937_64::new(SEED);
    for index in 0..METHODS.len() {
        for round in 0..200 {
            let length = below(&mut random, 120);
            // Small bytes make plausible lengths.
            let mask = if round % 2 == 0 { 0xff } else { 0x0f };
            let bytes: Vec<u8> = (0..length).map(|_| random.next_u64() as u8 & mask).collect();
            try_decode(index, true, bytes.clone());
            try_decode(index, false, bytes);
        }
    }
}
