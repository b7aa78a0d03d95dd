//! Properties of arbitrary values and arbitrary bytes. A failing case prints its seed and is kept in
//! `proptest-regressions`.

use std::collections::{BTreeMap, BTreeSet};

use bstr::BString;
use bytes::Bytes;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use valor_wire::{
    Compression, Encoder, FrameHeader, HEADER_LEN, KnownCrc, MessagePacket, Status, Uuid, Varint64, Wire,
    encode_frame, from_bytes, open_body, raw_crc32c, storage_crc32c, to_bytes,
};

#[derive(Clone, Debug, Default, PartialEq, Wire)]
struct Leaf {
    number: i32,
    text: String,
    uuid: Uuid,
}

#[derive(Clone, Debug, PartialEq, Wire)]
#[wire(variant)]
enum Choice {
    Leaf(Leaf),
    #[wire(name = "many")]
    Many(Vec<Leaf>),
}

impl Default for Choice {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Wire)]
struct Everything {
    #[wire(base)]
    base: Leaf,
    bytes: Bytes,
    path: Option<BString>,
    map: BTreeMap<u16, Vec<u64>>,
    set: BTreeSet<String>,
    results: Vec<Result<Leaf, Status>>,
    choice: Choice,
    pair: (bool, Varint64),
    boxed: Option<Box<Leaf>>,
}

fn leaf() -> impl Strategy<Value = Leaf> {
    (any::<i32>(), ".{0,8}", any::<[u8; 16]>()).prop_map(|(number, text, uuid)| Leaf {
        number,
        text,
        uuid: Uuid(uuid),
    })
}

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn everything() -> impl Strategy<Value = Everything> {
    let status = (any::<u16>(), ".{0,8}").prop_map(|(code, text)| Status::new(code, text));
    let result = prop_oneof![leaf().prop_map(Ok), status.prop_map(Err)];
    let choice = prop_oneof![leaf().prop_map(Choice::Leaf), vec(leaf(), 0..4).prop_map(Choice::Many)];
    (
        leaf(),
        bytes(10_000),
        proptest::option::of(vec(any::<u8>(), 0..20)),
        btree_map(any::<u16>(), vec(any::<u64>(), 0..4), 0..4),
        btree_set(".{0,4}", 0..4),
        vec(result, 0..4),
        choice,
        (any::<bool>(), any::<u64>()),
        proptest::option::of(leaf()),
    )
        .prop_map(|(base, bytes, path, map, set, results, choice, (flag, number), boxed)| Everything {
            base,
            bytes,
            path: path.map(BString::from),
            map,
            set,
            results,
            choice,
            pair: (flag, Varint64(number)),
            boxed: boxed.map(Box::new),
        })
}

/// Pieces of a message, to be put in front of each other.
fn pieces() -> impl Strategy<Value = Vec<Bytes>> {
    vec(prop_oneof![bytes(20), bytes(9000)], 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn values_survive(value in everything()) {
        let encoded = to_bytes(&value);
        prop_assert_eq!(from_bytes::<Everything>(encoded), Ok(value));
    }

    #[test]
    fn every_cut_is_an_error(value in everything(), cut in any::<prop::sample::Index>()) {
        let encoded = to_bytes(&value);
        let cut = cut.index(encoded.len());
        prop_assert!(from_bytes::<Everything>(encoded.slice(..cut)).is_err());
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in bytes(300)) {
        let _ = from_bytes::<Everything>(bytes.clone());
        let _ = from_bytes::<MessagePacket>(bytes.clone());
        let _ = from_bytes::<Vec<Everything>>(bytes.clone());
        let _ = from_bytes::<Result<Choice, Status>>(bytes);
    }

    #[test]
    fn damaged_values_do_not_panic(value in everything(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut encoded = to_bytes(&value).to_vec();
        for (at, byte) in damage {
            let at = at.index(encoded.len());
            encoded[at] = byte;
        }
        // What decodes is a value like any other.
        if let Ok(decoded) = from_bytes::<Everything>(encoded.into()) {
            prop_assert_eq!(from_bytes::<Everything>(to_bytes(&decoded)), Ok(decoded));
        }
    }

    #[test]
    fn the_encoder_equals_concatenation(pieces in pieces()) {
        let mut out = Encoder::new();
        let mut model = Vec::new();
        for piece in pieces.iter().rev() {
            let end = out.len();
            out.put_bytes(piece);
            out.put_length_since(end);
        }
        for piece in &pieces {
            let mut length = piece.len();
            while length >= 0x80 {
                model.push(length as u8 | 0x80);
                length >>= 7;
            }
            model.push(length as u8);
            model.extend_from_slice(piece);
        }
        prop_assert_eq!(out.len(), model.len());
        prop_assert_eq!(out.crc(), raw_crc32c(&model));
        let segments = out.finish();
        for piece in pieces.iter().filter(|piece| piece.len() >= valor_wire::LARGE_BYTES) {
            prop_assert!(segments.iter().any(|segment| segment.as_ptr() == piece.as_ptr()), "a large piece is not copied");
        }
        prop_assert_eq!(segments.to_bytes(), model);
    }

    #[test]
    fn known_checksums_give_the_same(pieces in pieces(), cuts in vec((any::<prop::sample::Index>(), any::<bool>()), 0..6)) {
        let (mut plain, mut informed) = (Encoder::new(), Encoder::new());
        for piece in &pieces {
            plain.put_bytes(piece);
            informed.put_bytes(piece);
            // Tiles of the piece, of which some are known.
            let mut at = 0;
            for (cut, known) in &cuts {
                let next = at + cut.index(piece.len() - at + 1);
                let data = piece.slice(at..next);
                if *known {
                    informed.know_crc(KnownCrc { crc: storage_crc32c(&data), data });
                }
                at = next;
            }
        }
        prop_assert_eq!(plain.crc(), informed.crc());
    }

    #[test]
    fn frames_survive(pieces in pieces(), level in 0i32..4, threshold in 0usize..10_000) {
        let body: Vec<u8> = pieces.concat();
        let mut out = Encoder::new();
        for piece in pieces.iter().rev() {
            out.put_bytes(piece);
        }
        let frame = encode_frame(out.finish(), Some(Compression { level, threshold })).concat();
        let header = FrameHeader::parse(frame[..HEADER_LEN].try_into().unwrap()).unwrap();
        prop_assert_eq!(header.is_compressed(), level != 0 && body.len() >= threshold);
        prop_assert_eq!(header.size as usize, frame.len() - HEADER_LEN);
        let (opened, _) = open_body(header, Bytes::from(frame).slice(HEADER_LEN..)).unwrap();
        prop_assert_eq!(opened, body);
    }

    #[test]
    fn damaged_frames_do_not_panic(body in bytes(3000), at in any::<prop::sample::Index>(), byte: u8, compressed: bool) {
        let frame = encode_frame(body.into(), Some(Compression { level: 1, threshold: if compressed { 0 } else { usize::MAX } }));
        let mut frame = frame.concat();
        let at = at.index(frame.len());
        frame[at] = byte;
        if let Ok(mut header) = FrameHeader::parse(frame[..HEADER_LEN].try_into().unwrap()) {
            let body = Bytes::from(frame).slice(HEADER_LEN..);
            // Also with a checksum that is right, so that the damage reaches the decompressor.
            let _ = open_body(header, body.clone());
            header.checksum = FrameHeader::new(raw_crc32c(&body), header.size, header.is_compressed()).checksum;
            let _ = open_body(header, body);
        }
    }
}
