//! Patches: blocks of a chunk whose newest bytes are not (or not provably) in its slot.

use std::sync::Arc;

use crate::codec::{Fields, Malformed, Put};
use crate::crc;
use crate::geometry::{BLOCK, blocks};
use crate::log::Lsn;
use crate::update::MAX_CHUNK_SIZE;

/// Checksums of consecutive blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Crcs {
    One(u32),
    Many(Arc<[u32]>),
}

impl Crcs {
    pub(crate) fn as_slice(&self) -> &[u32] {
        match self {
            Crcs::One(crc) => std::slice::from_ref(crc),
            Crcs::Many(crcs) => crcs,
        }
    }
}

impl From<&[u32]> for Crcs {
    fn from(crcs: &[u32]) -> Self {
        match crcs {
            [crc] => Crcs::One(*crc),
            _ => Crcs::Many(crcs.into()),
        }
    }
}

/// Where the bytes of patched blocks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nowhere: they are zeros.
    Zero { count: u32 },
    /// In the slot, but their checksums are not in its table yet.
    Base { crcs: Crcs },
    /// In the log, with the record that made the patch. Of the last block only the first bytes may be there, up to the
    /// end the chunk had.
    Log { offset: u32, len: u32, crcs: Crcs },
}

/// A run of blocks. Where patches overlap, the later one holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Patch {
    /// Record that made it.
    pub(crate) lsn: Lsn,
    /// First block.
    pub(crate) start: u32,
    pub(crate) source: Source,
}

impl Patch {
    /// Number of blocks.
    pub(crate) fn count(&self) -> usize {
        match &self.source {
            Source::Zero { count } => *count as usize,
            Source::Base { crcs } => crcs.as_slice().len(),
            Source::Log { len, .. } => blocks(*len as usize),
        }
    }

    pub(crate) fn first(&self) -> usize {
        self.start as usize
    }

    /// Block after the last.
    pub(crate) fn end(&self) -> usize {
        self.first() + self.count()
    }

    pub(crate) fn covers(&self, block: usize) -> bool {
        (self.first()..self.end()).contains(&block)
    }

    /// The log segment it needs, if any.
    pub(crate) fn segment(&self) -> Option<u32> {
        matches!(self.source, Source::Log { .. }).then(|| self.lsn.segment())
    }

    /// Bytes of a covered block that the source has.
    pub(crate) fn block_len(&self, block: usize) -> usize {
        match &self.source {
            Source::Log { len, .. } => (*len as usize - (block - self.first()) * BLOCK).min(BLOCK),
            _ => BLOCK,
        }
    }

    /// Checksum of a covered block, over [`Patch::block_len`] bytes.
    pub(crate) fn block_crc(&self, block: usize) -> u32 {
        match &self.source {
            Source::Zero { .. } => crc::zeros(BLOCK),
            Source::Base { crcs } | Source::Log { crcs, .. } => crcs.as_slice()[block - self.first()],
        }
    }

    /// Cuts off blocks from `end` on; false if nothing is left.
    fn cut(&mut self, end: usize) -> bool {
        if end <= self.first() {
            return false;
        }
        let keep = end - self.first();
        if keep < self.count() {
            match &mut self.source {
                Source::Zero { count } => *count = keep as u32,
                Source::Base { crcs } => *crcs = Crcs::from(&crcs.as_slice()[..keep]),
                Source::Log { len, crcs, .. } => {
                    *len = (keep * BLOCK) as u32;
                    *crcs = Crcs::from(&crcs.as_slice()[..keep]);
                }
            }
        }
        true
    }

    /// Takes over a later patch of the slot which continues this one, perhaps replacing its last blocks. A chunk that
    /// is appended to in small steps keeps one patch that way.
    fn absorb(&mut self, later: &Patch) -> bool {
        let (Source::Base { crcs }, Source::Base { crcs: more }) = (&self.source, &later.source) else {
            return false;
        };
        if later.first() < self.first() || later.first() > self.end() || later.end() < self.end() {
            return false;
        }
        let kept = &crcs.as_slice()[..later.first() - self.first()];
        self.source = Source::Base { crcs: Crcs::from(&[kept, more.as_slice()].concat()[..]) };
        self.lsn = later.lsn;
        true
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let (kind, count) = match &self.source {
            Source::Zero { .. } => (0, self.count()),
            Source::Base { .. } => (1, self.count()),
            Source::Log { .. } => (2, self.count()),
        };
        out.u8(kind);
        out.u32(self.start);
        out.u32(count as u32);
        if let Source::Log { offset, len, .. } = &self.source {
            out.u32(*offset);
            out.u32(*len);
        }
        if let Source::Base { crcs } | Source::Log { crcs, .. } = &self.source {
            crcs.as_slice().iter().for_each(|crc| out.u32(*crc));
        }
    }

    pub(crate) fn decode(input: &mut Fields<'_>, lsn: Lsn) -> Result<Patch, Malformed> {
        let (kind, start, count) = (input.u8()?, input.u32()?, input.u32()?);
        let end = start.checked_add(count).ok_or(Malformed("patch range"))?;
        if count == 0 || end as usize > blocks(MAX_CHUNK_SIZE as usize) {
            return Err(Malformed("patch range"));
        }
        let source = match kind {
            0 => Source::Zero { count },
            1 => Source::Base { crcs: decode_crcs(input, count)? },
            2 => {
                let (offset, len) = (input.u32()?, input.u32()?);
                if blocks(len as usize) != count as usize || offset.checked_add(len).is_none() {
                    return Err(Malformed("patch length"));
                }
                Source::Log { offset, len, crcs: decode_crcs(input, count)? }
            }
            _ => return Err(Malformed("patch kind")),
        };
        Ok(Patch { lsn, start, source })
    }
}

fn decode_crcs(input: &mut Fields<'_>, count: u32) -> Result<Crcs, Malformed> {
    let bytes = input.bytes(count as usize * 4)?;
    let crcs: Vec<u32> =
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(Crcs::from(&crcs[..]))
}

/// Adds later patches to a list.
pub(crate) fn extend(patches: &mut Vec<Patch>, later: Vec<Patch>) {
    for patch in later {
        if !patches.last_mut().is_some_and(|last| last.absorb(&patch)) {
            patches.push(patch);
        }
    }
}

/// Cuts a list to a chunk of `end` blocks; returns the patches that went whole.
pub(crate) fn cut(patches: &mut Vec<Patch>, end: usize) -> Vec<Patch> {
    let (mut kept, mut gone) = (Vec::with_capacity(patches.len()), Vec::new());
    for mut patch in patches.drain(..) {
        if patch.cut(end) { kept.push(patch) } else { gone.push(patch) }
    }
    *patches = kept;
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(lsn: u64, start: u32, crcs: &[u32]) -> Patch {
        Patch { lsn: Lsn(lsn), start, source: Source::Base { crcs: crcs.into() } }
    }

    fn logged(lsn: u64, start: u32, len: u32) -> Patch {
        let crcs: Vec<u32> = (0..blocks(len as usize) as u32).collect();
        Patch { lsn: Lsn(lsn), start, source: Source::Log { offset: 77, len, crcs: crcs[..].into() } }
    }

    #[test]
    fn bytes_there_and_back() {
        let zero = Patch { lsn: Lsn(5), start: 3, source: Source::Zero { count: 9 } };
        for patch in [zero, base(5, 0, &[1]), base(5, 7, &[1, 2, 3]), logged(5, 1, 1), logged(5, 1, 8193)] {
            let mut bytes = Vec::new();
            patch.encode(&mut bytes);
            let mut fields = Fields(&bytes);
            assert_eq!(Patch::decode(&mut fields, Lsn(5)), Ok(patch));
            assert_eq!(fields.end(), Ok(()));
            for len in 0..bytes.len() {
                assert!(Patch::decode(&mut Fields(&bytes[..len]), Lsn(5)).is_err());
            }
        }
    }

    #[test]
    fn appends_melt_into_one() {
        let mut list = vec![base(1, 2, &[10, 11])];
        extend(&mut list, vec![base(2, 4, &[12])]);
        extend(&mut list, vec![base(3, 4, &[13, 14])]);
        assert_eq!(list, [base(3, 2, &[10, 11, 13, 14])]);
        extend(&mut list, vec![logged(4, 3, 4096), base(5, 6, &[15])]);
        assert_eq!(list.len(), 3);
    }

    #[test]
    fn cutting() {
        let mut list = vec![base(1, 0, &[1, 2, 3]), logged(2, 2, 9000), logged(3, 4, 10)];
        assert_eq!(cut(&mut list, 4), [logged(3, 4, 10)]);
        assert_eq!(list[1].count(), 2);
        assert_eq!(list[1].block_len(3), 4096);
        assert_eq!(cut(&mut list, 1).len(), 1);
        assert_eq!(list, [base(1, 0, &[1])]);
    }
}
