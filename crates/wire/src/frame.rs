//! The frame around every message (`src/common/net/MessageHeader.h`, `WriteItem.h`): eight bytes, then the body.

use std::io::Read;

use bytes::Bytes;

use crate::checksum::{BodyCrc, raw_crc32c};
use crate::{Encoder, Segments};

/// Length of a frame's header.
pub const HEADER_LEN: usize = 8;
/// A body must be shorter than this, compressed or not.
pub const MAX_FRAME: usize = 512 << 20;

/// Low byte of the checksum field, whose lowest bit says "compressed".
const MAGIC: u32 = 0x86;
const COMPRESSED: u32 = 1;

/// When and how hard to compress a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// ZSTD level; 0 is off.
    pub level: i32,
    /// Bodies shorter than this stay as they are, in bytes.
    pub threshold: usize,
}

/// Why a frame is refused. The connection it came from is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not the start of a frame.
    #[error("bad magic {0:#04x} at the start of a frame")]
    BadMagic(u8),
    /// The body would be 512 MiB or more.
    #[error("frame body of {0} bytes exceeds the limit")]
    TooLarge(u64),
    /// The body is not what was sent.
    #[error("frame checksum mismatch")]
    BadChecksum,
    /// The body is no ZSTD frame.
    #[error("frame body does not decompress")]
    BadCompression,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Checksum, magic and compression flag as on the wire.
    pub checksum: u32,
    /// Bytes of body that follow.
    pub size: u32,
}

impl FrameHeader {
    /// The header of a body with the raw CRC-32C `crc`.
    pub fn new(crc: u32, size: u32, compressed: bool) -> Self {
        Self { checksum: (crc & !0xff) | MAGIC | u32::from(compressed), size }
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError::BadMagic`] and [`FrameError::TooLarge`].
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [c0, c1, c2, c3, s0, s1, s2, s3] = *bytes;
        let header = Self {
            checksum: u32::from_le_bytes([c0, c1, c2, c3]),
            size: u32::from_le_bytes([s0, s1, s2, s3]),
        };
        if u32::from(c0) & !COMPRESSED != MAGIC {
            return Err(FrameError::BadMagic(c0));
        }
        if header.size as usize >= MAX_FRAME {
            return Err(FrameError::TooLarge(u64::from(header.size)));
        }
        Ok(header)
    }

    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [c0, c1, c2, c3] = self.checksum.to_le_bytes();
        let [s0, s1, s2, s3] = self.size.to_le_bytes();
        [c0, c1, c2, c3, s0, s1, s2, s3]
    }

    /// Whether the body is compressed.
    pub fn is_compressed(self) -> bool {
        self.checksum & COMPRESSED != 0
    }

    /// Compares with the raw CRC-32C of the body received.
    ///
    /// # Errors
    /// [`FrameError::BadChecksum`].
    pub fn verify(self, crc: u32) -> Result<(), FrameError> {
        if (crc ^ self.checksum) & !0xff == 0 { Ok(()) } else { Err(FrameError::BadChecksum) }
    }
}

/// Turns what `body` holds into a frame. The header goes into the encoder's own buffer.
pub fn seal_frame(mut body: Encoder, compression: Option<Compression>) -> Segments {
    if let Some(Compression { level, threshold }) = compression
        && level != 0
        && body.len() >= threshold
        && let Ok(compressed) = zstd::bulk::compress(&body.to_vec(), level)
    {
        return compressed_frame(&compressed);
    }
    let size = body.len() as u32;
    let header = FrameHeader::new(body.crc(), size, false);
    body.put_slice(&header.to_bytes());
    body.finish()
}

fn compressed_frame(body: &[u8]) -> Segments {
    let mut out = Encoder::new();
    out.put_bytes(&Bytes::copy_from_slice(body));
    let header = FrameHeader::new(raw_crc32c(body), body.len() as u32, true);
    out.put_slice(&header.to_bytes());
    out.finish()
}

/// Frames a body that is already encoded.
pub fn encode_frame(body: Segments, compression: Option<Compression>) -> Vec<Bytes> {
    let mut out = Encoder::new();
    for segment in body.into_vec().iter().rev() {
        out.put_bytes(segment);
    }
    seal_frame(out, compression).into_vec()
}

/// Verifies and, if need be, decompresses a received body.
///
/// The second value is the checksum work done on the way; it knows the storage checksums of slices of the body (unless
/// it was compressed).
///
/// # Errors
/// [`FrameError`]: the connection is to be closed.
pub fn open_body(header: FrameHeader, body: Bytes) -> Result<(Bytes, BodyCrc), FrameError> {
    let crc = BodyCrc::new(body.clone());
    header.verify(crc.crc())?;
    if header.is_compressed() { Ok((decompress(&body)?, crc)) } else { Ok((body, crc)) }
}

/// Decompresses into a buffer that grows with what actually comes out: neither the size that the frame declares nor
/// its compression ratio decides what is allocated up front.
fn decompress(body: &[u8]) -> Result<Bytes, FrameError> {
    const TRUSTED_RATIO: usize = 8;
    let declared = zstd::zstd_safe::get_frame_content_size(body).map_err(|_| FrameError::BadCompression)?;
    if let Some(declared) = declared
        && declared >= MAX_FRAME as u64
    {
        return Err(FrameError::TooLarge(declared));
    }
    let trusted = body.len().saturating_mul(TRUSTED_RATIO).max(64 << 10);
    if let Some(declared) = declared
        && declared <= trusted as u64
    {
        let out = zstd::bulk::decompress(body, declared as usize).map_err(|_| FrameError::BadCompression)?;
        return Ok(out.into());
    }
    let mut out = Vec::with_capacity(trusted);
    let decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(|_| FrameError::BadCompression)?;
    let read =
        decoder.take(MAX_FRAME as u64).read_to_end(&mut out).map_err(|_| FrameError::BadCompression)?;
    if read >= MAX_FRAME {
        return Err(FrameError::TooLarge(read as u64));
    }
    Ok(out.into())
}
