//! 3FS's binary encoding ("serde"), message frame, checksums and compression.
//!
//! Byte for byte what C++ 3FS (`src/common/serde/Serde.h`, `src/common/net/WriteItem.h`) sends; `docs/wire-format.md`
//! has the byte tables. Nothing here knows a message of 3FS: those are in `valor-protocol`. Nothing here does I/O.
//!
//! Two properties shape the types:
//! * The [`Encoder`] writes from the end of a message to its start, since every struct is preceded by its length, and
//!   keeps large [`Bytes`] as segments of their own, so that bulk data is never copied.
//! * The [`Decoder`] reads from one [`Bytes`] and hands out slices of it.

mod checksum;
mod decode;
mod encode;
mod frame;
mod impls;
mod murmur3;
mod packet;
mod types;

use bytes::Bytes;

pub use checksum::{
    BodyCrc, combine_storage_crc32, combine_storage_crc32c, extend_raw_crc32c, extend_storage_crc32,
    extend_storage_crc32c, raw_crc32, raw_crc32c, shift_crc32c, storage_crc32, storage_crc32c,
};
pub use decode::{DecodeError, Decoder};
pub use encode::{Encoder, KnownCrc, LARGE_BYTES, Segments};
pub use frame::{
    Compression, FrameError, FrameHeader, HEADER_LEN, MAX_FRAME, encode_frame, open_body, seal_frame,
};
pub use murmur3::murmur3_x64_128;
pub use packet::{MessagePacket, PacketHead, PacketVersion, Timestamp, encode_message, flags};
pub use types::{BigEndian, Duration64, ParseUuidError, Status, UtcTime, Uuid, Varint32, Varint64, Void};
pub use valor_wire_derive::Wire;

// The derive macro names this crate by its absolute path; so do the derives inside it.
extern crate self as valor_wire;

/// A type with a 3FS binary encoding.
///
/// `encode` writes **backwards**: the last field first, and a length after what it counts. Most types derive it.
pub trait Wire: Sized {
    /// The fewest bytes a value takes. Bounds what a decoder reserves for a count it was sent, so it must not be
    /// larger than what an encoding may have.
    const MIN_SIZE: usize;

    /// Appends the encoding in front of what `out` holds.
    fn encode(&self, out: &mut Encoder);

    /// Reads one value from the front of `input`.
    ///
    /// # Errors
    /// [`DecodeError`] when the input is not an encoding of `Self`. Never panics, whatever the input.
    fn decode(input: &mut Decoder) -> Result<Self, DecodeError>;

    /// Encodes elements without their count. Overridden where a whole slice can be copied.
    #[doc(hidden)]
    fn encode_slice(items: &[Self], out: &mut Encoder) {
        for item in items.iter().rev() {
            item.encode(out);
        }
    }

    /// Decodes `count` elements. Overridden where a whole slice can be copied.
    #[doc(hidden)]
    fn decode_vec(count: usize, input: &mut Decoder) -> Result<Vec<Self>, DecodeError> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(Self::decode(input)?);
        }
        Ok(items)
    }
}

/// The encoding of `value` in one piece.
pub fn to_bytes<T: Wire>(value: &T) -> Bytes {
    let mut out = Encoder::new();
    value.encode(&mut out);
    out.finish().to_bytes()
}

/// Decodes a value from the front of `bytes`. Surplus bytes are ignored, as 3FS does.
///
/// # Errors
/// [`DecodeError`] when `bytes` do not start with an encoding of `T`.
pub fn from_bytes<T: Wire>(bytes: Bytes) -> Result<T, DecodeError> {
    T::decode(&mut Decoder::new(bytes))
}
