//! The backward-writing encoder and what it produces.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};

use crate::checksum::{extend_raw_crc32c, extend_storage_crc32c_known};

/// `Bytes` of at least this many bytes become a segment of their own instead of being copied.
pub const LARGE_BYTES: usize = 4096;

/// First allocation of an encoder; most requests fit.
const INITIAL_CAPACITY: usize = 1024;
/// Largest buffer a thread keeps for its next message.
const SCRATCH_MAX: usize = 256 << 10;
/// Results up to this size are copied out of the scratch buffer; larger ones take the buffer with them.
const COPY_OUT_MAX: usize = 16 << 10;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A run of bytes whose storage checksum is already known, so that a frame containing it need not read it again.
///
/// `crc` is 3FS's storage checksum (CRC-32C from `0xffff_ffff` without final inversion, see
/// [`storage_crc32c`](crate::storage_crc32c)) of all of `data`.
#[derive(Clone, Debug)]
pub struct KnownCrc {
    /// The very bytes that the message refers to (matched by address, not by content).
    pub data: Bytes,
    /// Their storage checksum.
    pub crc: u32,
}

/// A large `Bytes` inside the message.
struct Insert {
    /// Small bytes that follow it.
    from_end: usize,
    data: Bytes,
}

/// Writes a message from its end to its start.
pub struct Encoder {
    /// Small bytes: `buf[pos..]` is written, all of it is initialised.
    buf: Vec<u8>,
    pos: usize,
    /// Large segments, last one of the message first.
    inserts: Vec<Insert>,
    inserted: usize,
    known: Vec<KnownCrc>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An empty message. Takes the thread's scratch buffer, so that a small message costs one exact allocation at
    /// [`finish`](Self::finish).
    pub fn new() -> Self {
        let buf = SCRATCH.take();
        Self { pos: buf.len(), buf, inserts: Vec::new(), inserted: 0, known: Vec::new() }
    }

    /// Bytes written so far, large segments included.
    #[inline]
    pub fn len(&self) -> usize {
        self.buf.len() - self.pos + self.inserted
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Declares the checksum of bytes that the message will contain.
    pub fn know_crc(&mut self, known: KnownCrc) {
        self.known.push(known);
    }

    /// Puts `bytes` in front, copied.
    #[inline]
    pub fn put_slice(&mut self, bytes: &[u8]) {
        if self.pos < bytes.len() {
            self.grow(bytes.len());
        }
        let start = self.pos - bytes.len();
        self.buf[start..self.pos].copy_from_slice(bytes);
        self.pos = start;
    }

    /// Puts one byte in front.
    #[inline]
    pub fn put_u8(&mut self, byte: u8) {
        self.put_slice(&[byte]);
    }

    /// Puts `bytes` in front without a length; large ones are referred to, not copied.
    pub fn put_bytes(&mut self, bytes: &Bytes) {
        if bytes.len() < LARGE_BYTES {
            return self.put_slice(bytes);
        }
        self.inserted += bytes.len();
        self.inserts.push(Insert { from_end: self.buf.len() - self.pos, data: bytes.clone() });
    }

    /// Puts an unsigned LEB128 number in front, in its shortest form.
    #[inline]
    pub fn put_varint(&mut self, value: u64) {
        if value < 0x80 {
            return self.put_slice(&[value as u8]);
        }
        let mut bytes = [0; 10];
        let mut rest = value;
        let mut len = 0;
        while rest >= 0x80 {
            bytes[len] = rest as u8 | 0x80;
            rest >>= 7;
            len += 1;
        }
        bytes[len] = rest as u8;
        self.put_slice(&bytes[..=len]);
    }

    /// Puts the number of bytes written since the encoder's length was `end`.
    #[inline]
    pub fn put_length_since(&mut self, end: usize) {
        self.put_varint((self.len() - end) as u64);
    }

    /// Puts a length-prefixed string.
    pub fn put_string(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
        self.put_varint(bytes.len() as u64);
    }

    /// The message so far if it has no large segment.
    pub fn as_slice(&self) -> Option<&[u8]> {
        self.inserts.is_empty().then(|| &self.buf[self.pos..])
    }

    /// The parts of the message in reading order.
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let small = &self.buf[self.pos..];
        let mut at = 0;
        self.inserts
            .iter()
            .rev()
            .flat_map(move |insert| {
                let before = &small[at..small.len() - insert.from_end];
                at = small.len() - insert.from_end;
                [Part::Small(before), Part::Large(&insert.data)]
            })
            .chain(std::iter::once_with(move || {
                Part::Small(
                    &small[small.len() - self.inserts.first().map_or(small.len(), |first| first.from_end)..],
                )
            }))
    }

    /// Raw CRC-32C (initial value 0, no inversion) of the message so far; parts with a known checksum are not read.
    pub fn crc(&self) -> u32 {
        self.parts().fold(0, |crc, part| match part {
            Part::Small(bytes) => extend_raw_crc32c(crc, bytes),
            Part::Large(bytes) => self.crc_of_large(crc, bytes),
        })
    }

    /// Extends a raw checksum by a large segment, tile by tile where tiles of it are known.
    fn crc_of_large(&self, mut crc: u32, bytes: &Bytes) -> u32 {
        let base = bytes.as_ptr() as usize;
        let mut at = 0;
        while at < bytes.len() {
            let tile = self.known.iter().find(|known| {
                let start = known.data.as_ptr() as usize;
                start == base + at && !known.data.is_empty() && known.data.len() <= bytes.len() - at
            });
            if let Some(tile) = tile {
                crc = extend_storage_crc32c_known(crc, tile.crc, tile.data.len());
                at += tile.data.len();
                continue;
            }
            let next = self.known.iter().filter_map(|known| (known.data.as_ptr() as usize).checked_sub(base));
            let next =
                next.filter(|&offset| offset > at && offset < bytes.len()).min().unwrap_or(bytes.len());
            crc = extend_raw_crc32c(crc, &bytes[at..next]);
            at = next;
        }
        crc
    }

    /// Copies the message into one vector, for compression.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        for part in self.parts() {
            all.extend_from_slice(part.bytes());
        }
        all
    }

    /// The finished message.
    pub fn finish(mut self) -> Segments {
        let small_len = self.buf.len() - self.pos;
        let mut small = if small_len <= COPY_OUT_MAX {
            Bytes::copy_from_slice(&self.buf[self.pos..])
        } else {
            let mut bytes = Bytes::from(std::mem::take(&mut self.buf));
            bytes::Buf::advance(&mut bytes, self.pos);
            self.pos = 0;
            bytes
        };
        let inserts = std::mem::take(&mut self.inserts);
        if inserts.is_empty() {
            return Segments { first: small, rest: Vec::new() };
        }
        let mut segments = Segments { first: Bytes::new(), rest: Vec::with_capacity(inserts.len() * 2) };
        for insert in inserts.into_iter().rev() {
            segments.push(small.split_to(small.len() - insert.from_end));
            segments.push(insert.data);
        }
        segments.push(small);
        segments
    }

    #[cold]
    fn grow(&mut self, need: usize) {
        let small = self.buf.len() - self.pos;
        let capacity = (self.buf.len() * 2).max(INITIAL_CAPACITY).max((small + need).next_power_of_two());
        let mut bigger = vec![0; capacity];
        bigger[capacity - small..].copy_from_slice(&self.buf[self.pos..]);
        self.pos = capacity - small;
        self.buf = bigger;
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if self.buf.is_empty() || self.buf.len() > SCRATCH_MAX {
            return;
        }
        // `try_with`: an encoder may be dropped while its thread's locals are.
        let _ = SCRATCH.try_with(|scratch| {
            let kept = scratch.take();
            let buf = std::mem::take(&mut self.buf);
            scratch.set(if kept.len() > buf.len() { kept } else { buf });
        });
    }
}

/// A part of an unfinished message.
enum Part<'a> {
    Small(&'a [u8]),
    Large(&'a Bytes),
}

impl Part<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

/// A message as pieces in reading order. One piece is stored without an allocation.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    first: Bytes,
    rest: Vec<Bytes>,
}

impl Segments {
    /// Total length in bytes.
    pub fn len(&self) -> usize {
        self.iter().map(Bytes::len).sum()
    }

    /// Whether the message is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a piece; empty ones are left out.
    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
        } else if self.first.is_empty() && self.rest.is_empty() {
            self.first = piece;
        } else {
            self.rest.push(piece);
        }
    }

    /// The pieces in reading order. None is empty unless the whole message is.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// The pieces in reading order.
    pub fn into_vec(self) -> Vec<Bytes> {
        let mut all = self.rest;
        all.insert(0, self.first);
        all
    }

    /// The message in one piece; copies only if there are several.
    pub fn to_bytes(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut all = BytesMut::with_capacity(self.len());
        for piece in self.iter() {
            all.extend_from_slice(piece);
        }
        all.freeze()
    }
}

impl From<Bytes> for Segments {
    fn from(bytes: Bytes) -> Self {
        Self { first: bytes, rest: Vec::new() }
    }
}

impl IntoIterator for Segments {
    type Item = Bytes;
    type IntoIter = std::iter::Chain<std::iter::Once<Bytes>, std::vec::IntoIter<Bytes>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.rest)
    }
}
