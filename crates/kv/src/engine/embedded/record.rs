//! Bytes of the log: segment header and commit records. Pure.
//!
//! Segment header, 32 bytes, little endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `VKVLOG1\n` |
//! | 8 | 8 | salt: random per segment, so that bytes of another segment never pass for records of this one |
//! | 16 | 8 | base: version of the last commit before this segment |
//! | 24 | 4 | CRC-32C of bytes 0..24 |
//! | 28 | 4 | zero |
//!
//! Then records without gaps, one per commit:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of the salt followed by bytes 4.. of the record |
//! | 4 | 4 | payload length |
//! | 8 | 8 | version of the commit |
//! | 16 | 8 | version of the commit before it: the previous record's, or the segment's base |
//! | 24 | n | payload: operations |
//!
//! An operation is a tag (0 remove, 1 set), the key's length (2 bytes), for a set the value's length (4 bytes), the key, the value.

use bytes::{Buf, BufMut, Bytes};

use crate::batch::{Batch, Op, Version};

const MAGIC: &[u8; 8] = b"VKVLOG1\n";

/// Length of a segment's header.
pub(crate) const HEADER_LEN: usize = 32;
/// Length of a record before its payload.
const RECORD_HEADER_LEN: usize = 24;

/// Upper bound of a payload: the writes of a transaction and the keys of its cleared ranges, each bounded by
/// [`crate::MAX_TRANSACTION`], with their operations' overhead at one byte per key.
const MAX_PAYLOAD: usize = 256 << 20;

const TAG_REMOVE: u8 = 0;
const TAG_SET: u8 = 1;

/// First bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) salt: u64,
    pub(crate) base: Version,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.salt.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.base.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` when the bytes are not a whole and sound header.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes.get(8..HEADER_LEN)?;
        let header = SegmentHeader { salt: fields.get_u64_le(), base: fields.get_u64_le() };
        (header.encode()[..] == bytes[..HEADER_LEN]).then_some(header)
    }
}

/// Appends the record of `batch` to `out`.
pub(crate) fn encode_record(salt: u64, previous: Version, batch: &Batch, out: &mut Vec<u8>) {
    let start = out.len();
    out.put_bytes(0, 8);
    out.put_u64_le(batch.version);
    out.put_u64_le(previous);
    for op in &batch.ops {
        encode_op(op, out);
    }
    let payload_len = out.len() - start - RECORD_HEADER_LEN;
    debug_assert!(payload_len <= MAX_PAYLOAD);
    out[start + 4..start + 8].copy_from_slice(&(payload_len as u32).to_le_bytes());
    let crc = record_crc(salt, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

fn encode_op(op: &Op, out: &mut Vec<u8>) {
    // Keys and values are bounded far below these integers (crate::key).
    let key_len = op.key.len() as u16;
    match &op.value {
        None => {
            out.put_u8(TAG_REMOVE);
            out.put_u16_le(key_len);
            out.put_slice(&op.key);
        }
        Some(value) => {
            out.put_u8(TAG_SET);
            out.put_u16_le(key_len);
            out.put_u32_le(value.len() as u32);
            out.put_slice(&op.key);
            out.put_slice(value);
        }
    }
}

fn record_crc(salt: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), bytes)
}

/// Takes the record at the front of `input`. `None`, with `input` unchanged, when there is no whole and sound record that
/// follows `previous`.
pub(crate) fn decode_record(salt: u64, previous: Version, input: &mut Bytes) -> Option<Batch> {
    let mut header = input.get(..RECORD_HEADER_LEN)?;
    let crc = header.get_u32_le();
    let payload_len = header.get_u32_le() as usize;
    let version = header.get_u64_le();
    let follows = header.get_u64_le();
    if payload_len > MAX_PAYLOAD || follows != previous || version <= previous {
        return None;
    }
    let record = input.get(4..RECORD_HEADER_LEN + payload_len)?;
    if record_crc(salt, record) != crc {
        return None;
    }
    let ops = decode_ops(input.slice(RECORD_HEADER_LEN..RECORD_HEADER_LEN + payload_len))?;
    input.advance(RECORD_HEADER_LEN + payload_len);
    Some(Batch { version, ops })
}

fn decode_ops(mut payload: Bytes) -> Option<Vec<Op>> {
    let mut ops = Vec::new();
    while payload.has_remaining() {
        let tag = payload.try_get_u8().ok()?;
        let key_len = payload.try_get_u16_le().ok()? as usize;
        let value_len = match tag {
            TAG_REMOVE => None,
            TAG_SET => Some(payload.try_get_u32_le().ok()? as usize),
            _ => return None,
        };
        if payload.remaining() < key_len + value_len.unwrap_or(0) {
            return None;
        }
        let key = payload.split_to(key_len);
        let value = value_len.map(|len| payload.split_to(len));
        ops.push(Op { key, value });
    }
    Some(ops)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(version: Version) -> Batch {
        let ops = vec![
            Op { key: "key".into(), value: Some("value".into()) },
            Op { key: "gone".into(), value: None },
            Op { key: "".into(), value: Some("".into()) },
        ];
        Batch { version, ops }
    }

    #[test]
    fn records_are_pinned() {
        let mut bytes = Vec::new();
        encode_record(7, 4, &batch(5), &mut bytes);
        assert_eq!(bytes.len(), 24 + (7 + 8) + (3 + 4) + 7);
        assert_eq!(&bytes[4..24], &[29, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[24..39], b"\x01\x03\0\x05\0\0\0keyvalue");
        assert_eq!(&bytes[39..46], b"\0\x04\0gone");
        let header = SegmentHeader { salt: 1, base: 2 }.encode();
        assert_eq!(&header[..24], b"VKVLOG1\n\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut bytes = Vec::new();
        encode_record(7, 4, &batch(5), &mut bytes);
        let mut whole = Bytes::from(bytes.clone());
        assert_eq!(decode_record(7, 4, &mut whole), Some(batch(5)));
        assert!(whole.is_empty());
        assert_eq!(decode_record(8, 4, &mut Bytes::from(bytes.clone())), None);
        assert_eq!(decode_record(7, 3, &mut Bytes::from(bytes.clone())), None);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_record(7, 4, &mut Bytes::from(damaged)), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(decode_record(7, 4, &mut Bytes::copy_from_slice(&bytes[..len])), None, "cut at {len}");
        }
        let header = SegmentHeader { salt: 1, base: 2 }.encode();
        for bit in 0..header.len() * 8 {
            let mut damaged = header;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&damaged), None, "bit {bit}");
        }
    }
}
