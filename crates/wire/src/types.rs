//! Value types that belong to the encoding rather than to a service.

use std::fmt;
use std::str::FromStr;

use bstr::BString;

use crate::{DecodeError, Decoder, Encoder, Wire};

/// A 3FS status: a code (see `valor_protocol::status`) and a text. The error type of the RPC surface.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Status {
    /// 0 is success; `valor_protocol::status::code` names the others.
    pub code: u16,
    /// For people; may be empty.
    pub message: String,
}

impl Status {
    /// A status with a text.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<u16> for Status {
    fn from(code: u16) -> Self {
        Self { code, message: String::new() }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "status {}", self.code)
        } else {
            write!(f, "status {}: {}", self.code, self.message)
        }
    }
}

/// A decode failure as the status it is reported with.
impl From<DecodeError> for Status {
    fn from(error: DecodeError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

impl Wire for Status {
    const MIN_SIZE: usize = 3;

    fn encode(&self, out: &mut Encoder) {
        if self.message.is_empty() {
            out.put_u8(0);
        } else {
            out.put_string(self.message.as_bytes());
            out.put_u8(1);
        }
        self.code.encode(out);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        let code = u16::decode(input)?;
        // A peer's message text must never make its status undecodable, so it is not required to be UTF-8.
        let message = Option::<BString>::decode(input)?.unwrap_or_default().to_string();
        Ok(Self { code, message })
    }
}

/// Nothing: zero bytes. The `dummy` field of 3FS structs without content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Void;

impl Wire for Void {
    const MIN_SIZE: usize = 0;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder) -> Result<Self, DecodeError> {
        Ok(Self)
    }
}

/// Wall clock time: microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
pub struct UtcTime(pub i64);

impl UtcTime {
    /// The time as seconds and the nanoseconds beyond them, as `stat` wants it.
    pub fn to_timespec(self) -> (i64, u32) {
        (self.0.div_euclid(1_000_000), self.0.rem_euclid(1_000_000) as u32 * 1000)
    }

    /// From seconds and nanoseconds; saturates, and drops what is below a microsecond.
    pub fn from_timespec(seconds: i64, nanoseconds: u32) -> Self {
        Self(seconds.saturating_mul(1_000_000).saturating_add(i64::from(nanoseconds / 1000)))
    }
}

/// A span of time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
pub struct Duration64(pub i64);

/// Sixteen bytes, in the order of their text.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// All zero bytes, which 3FS takes for "none".
    pub const ZERO: Self = Self([0; 16]);

    /// Whether this is [`ZERO`](Self::ZERO).
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a UUID in its hyphenated form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")]
pub struct ParseUuidError;

impl FromStr for Uuid {
    type Err = ParseUuidError;

    fn from_str(text: &str) -> Result<Self, ParseUuidError> {
        let text = text.as_bytes();
        if text.len() != 36 {
            return Err(ParseUuidError);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8).ok_or(ParseUuidError);
        let mut uuid = [0; 16];
        let mut at = 0;
        for (index, byte) in uuid.iter_mut().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                if text[at] != b'-' {
                    return Err(ParseUuidError);
                }
                at += 1;
            }
            *byte = digit(text[at])? << 4 | digit(text[at + 1])?;
            at += 2;
        }
        Ok(uuid.into())
    }
}

impl From<[u8; 16]> for Uuid {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// An unsigned LEB128 number of up to 64 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Varint64(pub u64);

impl Wire for Varint64 {
    const MIN_SIZE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        out.put_varint(self.0);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        input.varint().map(Self)
    }
}

/// An unsigned LEB128 number of up to 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Varint32(pub u32);

impl Wire for Varint32 {
    const MIN_SIZE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        out.put_varint(u64::from(self.0));
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        u32::try_from(input.varint()?).map(Self).map_err(|_| DecodeError::VarintOverflow)
    }
}

/// An integer stored most significant byte first, so that keys sort by it. Only in KV keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BigEndian<T>(pub T);

macro_rules! impl_big_endian {
    ($($ty:ty),*) => {$(
        impl Wire for BigEndian<$ty> {
            const MIN_SIZE: usize = size_of::<$ty>();

            fn encode(&self, out: &mut Encoder) {
                out.put_slice(&self.0.to_be_bytes());
            }

            fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
                Ok(Self(<$ty>::from_be_bytes(input.array()?)))
            }
        }
    )*};
}

impl_big_endian!(u16, u32, u64, i16, i32, i64);
