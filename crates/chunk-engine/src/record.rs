//! Records of the log: what happened to chunks.

use crate::ChunkId;
use crate::codec::{Fields, Malformed, Put};
use crate::geometry::{CLASSES, Slot};
use crate::log::Lsn;
use crate::patch::Patch;
use crate::update::{MAX_CHUNK_SIZE, Tag};

/// A record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// A version is on disk, uncommitted.
    Prepare { id: ChunkId, chunk_size: u32, pending: Pending },
    /// A version is on disk and is the committed one: a Prepare and its Commit in one.
    Put { id: ChunkId, chunk_size: u32, pending: Pending },
    /// The pending version is the committed one now; a pending removal is done.
    Commit { id: ChunkId, ver: u32, chain_ver: u32 },
    /// The pending version is forgotten.
    Discard { id: ChunkId, ver: u32 },
    /// The slot with this salt holds all that the committed version's patches up to `upto` hold.
    Fold { id: ChunkId, salt: u32, upto: Lsn },
    /// The process started, on this boot of the machine, for the `opens`th time.
    Open { boot_id: [u8; 16], opens: u32 },
    /// The log goes on in the next segment.
    End,
    /// Everything before is on disk, and nothing follows until the next `Open`.
    Close,
}

/// Numbers that describe a version's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Content {
    pub(crate) len: u32,
    /// Of the whole.
    pub(crate) crc: u32,
    /// Of the bytes in the last block, if that is not full.
    pub(crate) tail_crc: u32,
}

/// A version which waits for its commit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pending {
    pub(crate) ver: u32,
    pub(crate) chain_ver: u32,
    pub(crate) content: Content,
    pub(crate) tag: Tag,
    pub(crate) body: Body,
}

/// How a version differs from the committed one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Body {
    /// Same slot; these patches come on top. `in_place`: bytes were written into the slot beyond the committed end.
    Same { patches: Vec<Patch>, in_place: bool },
    /// A slot of its own.
    Fresh { slot: Slot, salt: u32, patches: Vec<Patch> },
    /// The chunk goes.
    Remove,
}

impl Body {
    pub(crate) fn patches(&self) -> &[Patch] {
        match self {
            Body::Same { patches, .. } | Body::Fresh { patches, .. } => patches,
            Body::Remove => &[],
        }
    }

    fn patches_mut(&mut self) -> &mut [Patch] {
        match self {
            Body::Same { patches, .. } | Body::Fresh { patches, .. } => patches,
            Body::Remove => &mut [],
        }
    }
}

mod kind {
    pub(super) const PREPARE: u8 = 1;
    pub(super) const COMMIT: u8 = 2;
    pub(super) const DISCARD: u8 = 3;
    pub(super) const FOLD: u8 = 4;
    pub(super) const OPEN: u8 = 5;
    pub(super) const END: u8 = 6;
    pub(super) const CLOSE: u8 = 7;
    pub(super) const PUT: u8 = 8;
}

impl Record {
    /// A version to be committed later.
    pub(crate) fn prepare(id: ChunkId, chunk_size: u32, pending: Pending) -> Record {
        Record::Prepare { id, chunk_size, pending }
    }

    /// A version that is committed at once.
    pub(crate) fn put(id: ChunkId, chunk_size: u32, pending: Pending) -> Record {
        Record::Put { id, chunk_size, pending }
    }

    /// Number in the record's header.
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Record::Prepare { .. } => kind::PREPARE,
            Record::Put { .. } => kind::PUT,
            Record::Commit { .. } => kind::COMMIT,
            Record::Discard { .. } => kind::DISCARD,
            Record::Fold { .. } => kind::FOLD,
            Record::Open { .. } => kind::OPEN,
            Record::End => kind::END,
            Record::Close => kind::CLOSE,
        }
    }

    /// Appends the body's bytes. Patches in the log have offsets relative to the data that follows the body.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Record::Prepare { id, chunk_size, pending } | Record::Put { id, chunk_size, pending } => {
                encode_id(id, out);
                out.u32(*chunk_size);
                pending.encode(out, false);
            }
            Record::Commit { id, ver, chain_ver } => {
                encode_id(id, out);
                out.u32(*ver);
                out.u32(*chain_ver);
            }
            Record::Discard { id, ver } => {
                encode_id(id, out);
                out.u32(*ver);
            }
            Record::Fold { id, salt, upto } => {
                encode_id(id, out);
                out.u32(*salt);
                out.u64(upto.0);
            }
            Record::Open { boot_id, opens } => {
                out.put(boot_id);
                out.u32(*opens);
            }
            Record::End | Record::Close => {}
        }
    }

    /// Reads a body of the given kind. `lsn` is the record's place, `data` the offset in the segment of what follows
    /// the body.
    pub(crate) fn decode(kind: u8, body: &[u8], lsn: Lsn, data: u32) -> Result<Record, Malformed> {
        let input = &mut Fields(body);
        let record = match kind {
            kind::PREPARE | kind::PUT => {
                let id = decode_id(input)?;
                let chunk_size = input.u32()?;
                let pending = Pending::decode(input, chunk_size, Some(lsn))?;
                if kind == kind::PUT {
                    Record::Put { id, chunk_size, pending }
                } else {
                    Record::Prepare { id, chunk_size, pending }
                }
            }
            kind::COMMIT => {
                Record::Commit { id: decode_id(input)?, ver: input.u32()?, chain_ver: input.u32()? }
            }
            kind::DISCARD => Record::Discard { id: decode_id(input)?, ver: input.u32()? },
            kind::FOLD => Record::Fold { id: decode_id(input)?, salt: input.u32()?, upto: Lsn(input.u64()?) },
            kind::OPEN => Record::Open { boot_id: input.array()?, opens: input.u32()? },
            kind::END => Record::End,
            kind::CLOSE => Record::Close,
            _ => return Err(Malformed("record kind")),
        };
        input.end()?;
        let mut record = record;
        record.place(lsn, data)?;
        Ok(record)
    }

    /// Tells the record's patches where they are, once that is known.
    pub(crate) fn place(&mut self, lsn: Lsn, data: u32) -> Result<(), Malformed> {
        if let Record::Prepare { pending, .. } | Record::Put { pending, .. } = self {
            for patch in pending.body.patches_mut() {
                patch.lsn = lsn;
                if let crate::patch::Source::Log { offset, .. } = &mut patch.source {
                    *offset = offset.checked_add(data).ok_or(Malformed("patch offset"))?;
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn encode_id(id: &ChunkId, out: &mut Vec<u8>) {
    let bytes = id.as_bytes();
    out.u8(bytes.len() as u8);
    out.put(bytes);
}

pub(crate) fn decode_id(input: &mut Fields<'_>) -> Result<ChunkId, Malformed> {
    let len = input.u8()?;
    if len == 0 {
        return Err(Malformed("empty chunk id"));
    }
    Ok(ChunkId::new(input.bytes(len.into())?))
}

pub(crate) fn encode_tag(tag: &Tag, out: &mut Vec<u8>) {
    out.u64(tag.request_id);
    out.put(&tag.client);
    out.u16(tag.node_id);
    out.u64(tag.timestamp_us as u64);
}

pub(crate) fn decode_tag(input: &mut Fields<'_>) -> Result<Tag, Malformed> {
    Ok(Tag {
        request_id: input.u64()?,
        client: input.array()?,
        node_id: input.u16()?,
        timestamp_us: input.u64()? as i64,
    })
}

impl Content {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.u32(self.len);
        out.u32(self.crc);
        out.u32(self.tail_crc);
    }

    pub(crate) fn decode(input: &mut Fields<'_>, chunk_size: u32) -> Result<Content, Malformed> {
        if chunk_size == 0 || chunk_size > MAX_CHUNK_SIZE {
            return Err(Malformed("chunk size"));
        }
        let content = Content { len: input.u32()?, crc: input.u32()?, tail_crc: input.u32()? };
        if content.len > chunk_size { Err(Malformed("chunk length")) } else { Ok(content) }
    }
}

pub(crate) fn encode_slot(slot: Slot, out: &mut Vec<u8>) {
    out.u8(slot.class);
    out.u32(slot.index);
}

pub(crate) fn decode_slot(input: &mut Fields<'_>) -> Result<Slot, Malformed> {
    let slot = Slot { class: input.u8()?, index: input.u32()? };
    if usize::from(slot.class) < CLASSES { Ok(slot) } else { Err(Malformed("size class")) }
}

impl Pending {
    /// Appends the version's bytes; `places`: with the record each patch came with.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, places: bool) {
        out.u32(self.ver);
        out.u32(self.chain_ver);
        self.content.encode(out);
        encode_tag(&self.tag, out);
        match &self.body {
            Body::Same { in_place, .. } => out.u8(u8::from(*in_place)),
            Body::Fresh { slot, salt, .. } => {
                out.u8(2);
                encode_slot(*slot, out);
                out.u32(*salt);
            }
            Body::Remove => out.u8(3),
        }
        out.u16(self.body.patches().len() as u16);
        for patch in self.body.patches() {
            if places {
                out.u64(patch.lsn.0);
            }
            patch.encode(out);
        }
    }

    /// Reads a version. `lsn`: the record all its patches come with; without one it is read for each.
    pub(crate) fn decode(
        input: &mut Fields<'_>,
        chunk_size: u32,
        lsn: Option<Lsn>,
    ) -> Result<Pending, Malformed> {
        let (ver, chain_ver) = (input.u32()?, input.u32()?);
        let content = Content::decode(input, chunk_size)?;
        let tag = decode_tag(input)?;
        let kind = input.u8()?;
        let fresh = if kind == 2 { Some((decode_slot(input)?, input.u32()?)) } else { None };
        let count = input.u16()?;
        let mut patches = Vec::with_capacity(usize::from(count).min(64));
        for _ in 0..count {
            let lsn = lsn.map_or_else(|| input.u64().map(Lsn), Ok)?;
            patches.push(Patch::decode(input, lsn)?);
        }
        let body = match (kind, fresh) {
            (0 | 1, _) => Body::Same { patches, in_place: kind == 1 },
            (_, Some((slot, salt))) => Body::Fresh { slot, salt, patches },
            (3, _) if patches.is_empty() => Body::Remove,
            _ => return Err(Malformed("kind of pending version")),
        };
        Ok(Pending { ver, chain_ver, content, tag, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::{Crcs, Source};

    fn pending(body: Body) -> Pending {
        let tag = Tag { request_id: 1, client: [2; 16], node_id: 3, timestamp_us: -4 };
        Pending { ver: 5, chain_ver: 6, content: Content { len: 7, crc: 8, tail_crc: 9 }, tag, body }
    }

    #[test]
    fn records_there_and_back() {
        let id = ChunkId::new(b"chunk");
        let lsn = Lsn::new(3, 400);
        let patch = |source| Patch { lsn, start: 1, source };
        let patches = vec![
            patch(Source::Zero { count: 2 }),
            patch(Source::Log { offset: 10, len: 5000, crcs: Crcs::from(&[1, 2][..]) }),
        ];
        let slot = Slot { class: 3, index: 77 };
        let bodies = [
            Body::Same { patches: patches.clone(), in_place: false },
            Body::Same { patches: vec![], in_place: true },
            Body::Fresh { slot, salt: 1, patches },
            Body::Remove,
        ];
        let prepare = |body| Record::Prepare { id: id.clone(), chunk_size: 65_536, pending: pending(body) };
        let put = |body| Record::Put { id: id.clone(), chunk_size: 65_536, pending: pending(body) };
        let puts: Vec<Record> = bodies.iter().cloned().map(put).collect();
        let records = bodies.into_iter().map(prepare).chain(puts).chain([
            Record::Commit { id: id.clone(), ver: 1, chain_ver: 2 },
            Record::Discard { id: id.clone(), ver: 1 },
            Record::Fold { id: id.clone(), salt: 9, upto: Lsn(88) },
            Record::Open { boot_id: [7; 16], opens: 2 },
            Record::End,
            Record::Close,
        ]);
        for mut record in records {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            for len in 0..bytes.len() {
                assert!(Record::decode(record.kind(), &bytes[..len], lsn, 1000).is_err());
            }
            let decoded = Record::decode(record.kind(), &bytes, lsn, 1000).unwrap();
            record.place(lsn, 1000).unwrap();
            assert_eq!(decoded, record);
        }
        assert!(Record::decode(99, &[], lsn, 0).is_err());
    }
}
