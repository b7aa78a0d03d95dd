//! Bytes of segments: the header and the frames around records.

use bytes::Bytes;

use super::Lsn;
use crate::codec::{Fields, Malformed, Put};
use crate::geometry::BLOCK;
use crate::patch::Source;
use crate::record::Record;

/// Version of all files' formats.
pub(crate) const FORMAT_VERSION: u32 = 1;
const SEGMENT_MAGIC: &[u8; 8] = b"VALORLOG";
/// First record of a segment.
pub(crate) const SEGMENT_HEADER: u32 = BLOCK as u32;
/// Bytes of the header that mean something, with their checksum.
const SEALED_HEADER: usize = 8 + 4 + 8 + 4 + 4 + 4;
/// Bytes before a record's body.
pub(crate) const FRAME_HEADER: usize = 32;
/// Frames begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;
/// Space an `End` or `Close` record takes.
pub(crate) const END_LEN: u32 = FRAME_HEADER as u32;

/// The first block of a segment file.
pub(crate) fn segment_header(target_id: u64, number: u32, size: u32) -> Bytes {
    let mut header = Vec::with_capacity(BLOCK);
    header.put(SEGMENT_MAGIC);
    header.u32(FORMAT_VERSION);
    header.u64(target_id);
    header.u32(number);
    header.u32(size);
    seal(&mut header);
    header.resize(BLOCK, 0);
    header.into()
}

/// Checks a segment's first block; returns the segment's size.
pub(crate) fn check_segment_header(bytes: &[u8], target_id: u64, number: u32) -> Result<u32, Malformed> {
    let sealed = bytes.get(..SEALED_HEADER).ok_or(Malformed("log segment header"))?;
    let mut fields = Fields(unseal(sealed).map_err(|_| Malformed("log segment header"))?);
    let magic: [u8; 8] = fields.array()?;
    let (version, target, found, size) = (fields.u32()?, fields.u64()?, fields.u32()?, fields.u32()?);
    match (&magic == SEGMENT_MAGIC && version == FORMAT_VERSION, target == target_id, found == number) {
        (false, ..) => Err(Malformed("log segment of an unknown format version")),
        (_, false, _) => Err(Malformed("log segment of another target")),
        (.., false) => Err(Malformed("log segment under another's name")),
        _ => Ok(size),
    }
}

/// A record encoded but for what depends on its place.
pub(crate) struct Encoded {
    head: Vec<u8>,
    pub(crate) data: Vec<Bytes>,
    data_len: usize,
}

impl Encoded {
    pub(crate) fn new(record: &Record, data: Vec<Bytes>) -> Self {
        let data_len = data.iter().map(Bytes::len).sum();
        let mut head = Vec::with_capacity(192);
        head.u32(0);
        head.u32(0);
        head.u32(data_len as u32);
        head.u32(record.kind().into());
        head.resize(FRAME_HEADER, 0);
        record.encode(&mut head);
        let body_len = (head.len() - FRAME_HEADER) as u32;
        head[4..8].copy_from_slice(&body_len.to_le_bytes());
        Encoded { head, data, data_len }
    }

    /// Bytes in the log.
    pub(crate) fn len(&self) -> usize {
        (self.head.len() + self.data_len).next_multiple_of(ALIGNMENT)
    }

    /// Offset of the data from the record's.
    pub(crate) fn data_offset(&self) -> u32 {
        self.head.len() as u32
    }

    /// The frame at its place, in pieces.
    pub(crate) fn place(mut self, lsn: Lsn, durable: Lsn, out: &mut Vec<Bytes>) {
        static ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];
        let padding = self.len() - self.head.len() - self.data_len;
        self.head[16..24].copy_from_slice(&lsn.0.to_le_bytes());
        self.head[24..32].copy_from_slice(&durable.0.to_le_bytes());
        let crc = crc32c::crc32c(&self.head[4..]);
        self.head[..4].copy_from_slice(&crc.to_le_bytes());
        if self.data.is_empty() {
            self.head.resize(self.head.len() + padding, 0);
            out.push(self.head.into());
            return;
        }
        out.push(self.head.into());
        out.append(&mut self.data);
        if padding > 0 {
            out.push(Bytes::from_static(&ZEROS[..padding]));
        }
    }
}

/// A record found in a segment.
pub(crate) struct Frame {
    pub(crate) record: Record,
    /// Everything before was on disk when it was written.
    pub(crate) durable: Lsn,
    /// Whether the data that came with it is what was written.
    pub(crate) data_valid: bool,
    /// Offset of the next frame.
    pub(crate) next: u32,
}

/// Reads the frame at an offset of a segment given as a whole.
pub(crate) fn parse(segment: &[u8], number: u32, offset: u32) -> Result<Frame, Malformed> {
    let lsn = Lsn::new(number, offset);
    let bytes = segment.get(offset as usize..).ok_or(Malformed("end of segment"))?;
    let mut fields = Fields(bytes);
    let (crc, body_len, data_len) = (fields.u32()?, fields.u32()? as usize, fields.u32()? as usize);
    let (kind, place, durable) = (fields.u32()?, fields.u64()?, fields.u64()?);
    if place != lsn.0 {
        return Err(Malformed("log record"));
    }
    let body = fields.bytes(body_len)?;
    if crc32c::crc32c(&bytes[4..FRAME_HEADER + body_len]) != crc {
        return Err(Malformed("checksum of log record"));
    }
    let data_offset = offset as usize + FRAME_HEADER + body_len;
    let kind = u8::try_from(kind).map_err(|_| Malformed("record kind"))?;
    let record = Record::decode(kind, body, lsn, data_offset as u32)?;
    let end = data_offset.checked_add(data_len).map(|end| end.next_multiple_of(ALIGNMENT));
    let next = end.and_then(|end| u32::try_from(end).ok()).ok_or(Malformed("record length"))?;
    let data_valid = check_data(&record, segment, data_offset + data_len);
    Ok(Frame { record, durable: Lsn(durable), data_valid, next })
}

/// Whether a record's patches have the checksums the record says.
fn check_data(record: &Record, segment: &[u8], end: usize) -> bool {
    let (Record::Prepare { pending, .. } | Record::Put { pending, .. }) = record else { return true };
    pending.body.patches().iter().all(|patch| {
        let Source::Log { offset, len, crcs } = &patch.source else { return true };
        let (start, len) = (*offset as usize, *len as usize);
        let Some(data) = segment.get(start..start + len).filter(|_| start + len <= end) else { return false };
        data.chunks(BLOCK).zip(crcs.as_slice()).all(|(block, crc)| crc32c::crc32c(block) == *crc)
    })
}

/// Looks for records at or after an offset, where one was expected and not found. Returns where the last one ends and
/// up to where they say the log was durable.
pub(crate) fn search(segment: &[u8], number: u32, from: u32) -> Option<(u32, Lsn)> {
    let mut found: Option<(u32, Lsn)> = None;
    let mut offset = from.next_multiple_of(ALIGNMENT as u32);
    while offset as usize + FRAME_HEADER <= segment.len() {
        if says_place(segment, Lsn::new(number, offset))
            && let Ok(frame) = parse(segment, number, offset)
        {
            let durable = found.map_or(frame.durable, |(_, durable)| durable.max(frame.durable));
            found = Some((frame.next, durable));
            offset = frame.next;
        } else {
            offset += ALIGNMENT as u32;
        }
    }
    found
}

/// Whether what may be a frame claims to be at this place: a quick look before a thorough one.
fn says_place(segment: &[u8], lsn: Lsn) -> bool {
    let at = lsn.offset() as usize + 16;
    segment.get(at..at + 8) == Some(&lsn.0.to_le_bytes())
}

/// Checksum of a whole, kept beside it.
pub(crate) fn seal(bytes: &mut Vec<u8>) {
    let crc = crc32c::crc32c(bytes);
    bytes.u32(crc);
}

/// Checks a checksum left by [`seal`]; returns what it covers.
pub(crate) fn unseal(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed("too short"))?;
    if crc32c::crc32c(body) == u32::from_le_bytes(*crc) { Ok(body) } else { Err(Malformed("checksum")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChunkId;
    use crate::patch::{Crcs, Patch};
    use crate::record::{Body, Content, Pending};
    use crate::update::Tag;

    fn commit(ver: u32) -> Record {
        Record::Commit { id: ChunkId::new(b"id"), ver, chain_ver: 1 }
    }

    fn overwrite(data: &[u8]) -> Record {
        let crcs = Crcs::from(&[crc32c::crc32c(data)][..]);
        let source = Source::Log { offset: 0, len: data.len() as u32, crcs };
        let patches = vec![Patch { lsn: Lsn(0), start: 0, source }];
        let content = Content { len: data.len() as u32, crc: 1, tail_crc: 2 };
        let body = Body::Same { patches, in_place: false };
        let pending = Pending { ver: 2, chain_ver: 1, content, tag: Tag::default(), body };
        Record::Prepare { id: ChunkId::new(b"id"), chunk_size: 65_536, pending }
    }

    /// A segment with records, and where they begin.
    fn segment() -> (Vec<u8>, Vec<u32>) {
        let mut bytes = segment_header(7, 3, 65_536).to_vec();
        let mut starts = Vec::new();
        let data = Bytes::from(vec![9; 777]);
        for (record, data) in
            [(commit(1), vec![]), (overwrite(&data), vec![data.clone()]), (commit(2), vec![])]
        {
            starts.push(bytes.len() as u32);
            let mut pieces = Vec::new();
            Encoded::new(&record, data).place(
                Lsn::new(3, bytes.len() as u32),
                Lsn::new(3, 4096),
                &mut pieces,
            );
            bytes.extend(pieces.concat());
        }
        starts.push(bytes.len() as u32);
        bytes.resize(65_536, 0);
        (bytes, starts)
    }

    #[test]
    fn frames_follow_each_other() {
        let (bytes, starts) = segment();
        assert_eq!(check_segment_header(&bytes, 7, 3), Ok(65_536));
        assert!(check_segment_header(&bytes, 8, 3).is_err() && check_segment_header(&bytes, 7, 4).is_err());
        let mut offset = SEGMENT_HEADER;
        for start in &starts[..3] {
            assert_eq!(offset, *start);
            let frame = parse(&bytes, 3, offset).unwrap();
            assert!(frame.data_valid);
            offset = frame.next;
        }
        assert!(parse(&bytes, 3, offset).is_err());
        assert!(parse(&bytes, 4, starts[0]).is_err(), "of another life of the file");
        assert_eq!(search(&bytes, 3, starts[0] + 8), Some((starts[3], Lsn::new(3, 4096))));
        assert_eq!(search(&bytes, 3, starts[3]), None);
    }

    /// The bytes are a contract: engines made by earlier versions must open.
    #[test]
    fn pinned_bytes() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let header = segment_header(0x0102, 3, 16 << 20);
        let expected = "56414c4f524c4f4701000000020100000000000003000000000000015c0fa174";
        assert_eq!((header.len(), hex(&header[..32])), (BLOCK, expected.to_owned()));
        let record = Record::Commit { id: ChunkId::new(b"ab"), ver: 7, chain_ver: 9 };
        let mut pieces = Vec::new();
        Encoded::new(&record, vec![]).place(Lsn::new(3, 4096), Lsn::new(2, 8192), &mut pieces);
        let expected = "4eeebb3d0b000000000000000200000000100000030000000020000002000000\
                        02616207000000090000000000000000";
        assert_eq!(hex(&pieces.concat()), expected);
        let mut bytes = Vec::new();
        overwrite(&[9; 100]).encode(&mut bytes);
        let expected = "0269640000010002000000010000006400000001000000020000000000000000\
                        0000000000000000000000000000000000000000000000000000000000000100\
                        0200000000010000000000000064000000da2203c2";
        assert_eq!(hex(&bytes), expected);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (bytes, starts) = segment();
        for at in (0..28).chain(starts[0] as usize..starts[3] as usize) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            if at < 4096 {
                assert!(check_segment_header(&bytes, 7, 3).is_err(), "byte {at}");
                continue;
            }
            let hit = starts.partition_point(|start| *start as usize <= at) - 1;
            let frame = parse(&bytes, 3, starts[hit]);
            let padding = at >= starts[hit + 1] as usize - 7;
            assert!(frame.is_err() || !frame.unwrap().data_valid || padding, "byte {at}");
        }
    }
}
