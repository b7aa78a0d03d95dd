//! The decoder and its errors.

use bytes::Bytes;

/// Tables and boxes inside each other; no message of 3FS nests deeper than ten.
const MAX_DEPTH: u32 = 64;
/// Elements without any byte on the wire (`Vec<Void>`) cannot be bounded by the input; this bounds them.
const MAX_EMPTY_ELEMENTS: usize = 65_536;
/// Memory that element storage may take whatever the size of the input...
const BUDGET_BASE: usize = 64 << 20;
/// ... and per byte of input. Default-valued structs take one byte on the wire and hundreds in memory.
const BUDGET_PER_BYTE: usize = 8;

/// Why bytes are not an encoding of the type wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A length, count or value reaches beyond the input (or table).
    #[error("input ends inside a value: {need} bytes wanted, {have} left")]
    InsufficientLength {
        /// Bytes or elements wanted.
        need: u64,
        /// Bytes left.
        have: u64,
    },
    /// A varint of more than ten bytes, or beyond 64 bits.
    #[error("varint does not fit 64 bits")]
    VarintOverflow,
    /// A variant's type name that the receiver does not know.
    #[error("unknown variant {name:?}")]
    UnknownVariant {
        /// The name sent.
        name: String,
    },
    /// A number that is no value of the enum.
    #[error("{value} is no value of {name}")]
    UnknownEnum {
        /// The enum.
        name: &'static str,
        /// The number sent.
        value: i64,
    },
    /// Text that is not UTF-8 where text is required.
    #[error("text is not UTF-8")]
    InvalidUtf8,
    /// A value outside of what the type may hold.
    #[error("invalid {what}")]
    InvalidValue {
        /// What was being decoded.
        what: &'static str,
    },
    /// Values nested too deep, or so many default-valued elements that decoding them would exhaust memory.
    #[error("message exceeds the decoder's limits")]
    LimitExceeded,
}

impl DecodeError {
    /// The 3FS status code with which this is reported.
    pub fn code(&self) -> u16 {
        match self {
            Self::InsufficientLength { .. } | Self::VarintOverflow | Self::LimitExceeded => 40,
            Self::UnknownVariant { .. } => 42,
            Self::UnknownEnum { .. } => 43,
            Self::InvalidUtf8 => 45,
            Self::InvalidValue { .. } => 3,
        }
    }
}

/// Reads values from the front of a `Bytes`; byte strings come out as slices of it.
#[derive(Debug)]
pub struct Decoder {
    bytes: Bytes,
    pos: usize,
    /// End of the innermost open table.
    end: usize,
    depth: u32,
    budget: usize,
}

impl Decoder {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        let end = bytes.len();
        let budget = BUDGET_BASE.saturating_add(end.saturating_mul(BUDGET_PER_BYTE));
        Self { bytes, pos: 0, end, depth: 0, budget }
    }

    /// Bytes left in the innermost table.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.end - self.pos
    }

    /// Whether the innermost table is used up.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pos == self.end
    }

    #[inline]
    fn advance(&mut self, len: usize) -> Result<usize, DecodeError> {
        if len > self.remaining() {
            return Err(DecodeError::InsufficientLength { need: len as u64, have: self.remaining() as u64 });
        }
        let start = self.pos;
        self.pos += len;
        Ok(start)
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&[u8], DecodeError> {
        let start = self.advance(len)?;
        Ok(&self.bytes[start..start + len])
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The next `len` bytes as a slice sharing the input's memory.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take_bytes(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        let start = self.advance(len)?;
        Ok(self.bytes.slice(start..start + len))
    }

    /// An unsigned LEB128 number.
    ///
    /// # Errors
    /// When it is cut short or beyond 64 bits.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let rest = &self.bytes[self.pos..self.end];
        if let Some(&first) = rest.first()
            && first < 0x80
        {
            self.pos += 1;
            return Ok(u64::from(first));
        }
        let mut value = 0u64;
        for (index, &byte) in rest.iter().take(10).enumerate() {
            if index == 9 && byte > 1 {
                return Err(DecodeError::VarintOverflow);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.pos += index + 1;
                return Ok(value);
            }
        }
        Err(DecodeError::InsufficientLength { need: rest.len() as u64 + 1, have: rest.len() as u64 })
    }

    /// A byte length; never more than what is left.
    ///
    /// # Errors
    /// When it is malformed or reaches beyond the input.
    #[inline]
    pub fn length(&mut self) -> Result<usize, DecodeError> {
        let length = self.varint()?;
        let have = self.remaining() as u64;
        if length > have {
            return Err(DecodeError::InsufficientLength { need: length, have });
        }
        Ok(length as usize)
    }

    /// The element count of a container, checked against what the rest of the input can hold, and against what the
    /// elements may take in memory.
    ///
    /// # Errors
    /// When it is malformed or impossible.
    pub fn count<T: crate::Wire>(&mut self) -> Result<usize, DecodeError> {
        let count = self.varint()?;
        let have = self.remaining() as u64;
        if T::MIN_SIZE == 0 {
            if count > MAX_EMPTY_ELEMENTS as u64 {
                return Err(DecodeError::LimitExceeded);
            }
        } else if count > have / T::MIN_SIZE as u64 {
            return Err(DecodeError::InsufficientLength {
                need: count.saturating_mul(T::MIN_SIZE as u64),
                have,
            });
        }
        let count = count as usize;
        let memory = count.saturating_mul(size_of::<T>());
        self.budget = self.budget.checked_sub(memory).ok_or(DecodeError::LimitExceeded)?;
        Ok(count)
    }

    /// A length-prefixed byte string, sharing the input's memory.
    ///
    /// # Errors
    /// When it is cut short.
    pub fn string(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.length()?;
        self.take_bytes(length)
    }

    /// A length-prefixed byte string, borrowed.
    ///
    /// # Errors
    /// When it is cut short.
    #[inline]
    pub fn str_bytes(&mut self) -> Result<&[u8], DecodeError> {
        let length = self.length()?;
        self.take(length)
    }

    /// Reads one table: `read` sees only its bytes, and what it leaves is skipped.
    ///
    /// # Errors
    /// When the table is cut short, or `read` fails.
    #[inline]
    pub fn table<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let length = self.length()?;
        let outer_end = self.end;
        let table_end = self.pos + length;
        self.end = table_end;
        let result = self.nested(read);
        self.end = outer_end;
        self.pos = table_end;
        result
    }

    /// Runs `read` one level deeper.
    ///
    /// # Errors
    /// [`DecodeError::LimitExceeded`] when too deep, or what `read` fails with.
    #[inline]
    pub fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        if self.depth >= MAX_DEPTH {
            return Err(DecodeError::LimitExceeded);
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// A variant's type name: its index in `names`, or the name when it is none of them.
    ///
    /// # Errors
    /// When the name is cut short.
    pub fn variant(&mut self, names: &[&str]) -> Result<Result<usize, String>, DecodeError> {
        let name = self.str_bytes()?;
        Ok(names
            .iter()
            .position(|known| known.as_bytes() == name)
            .ok_or_else(|| String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned()))
    }

    /// Skips what is left of the innermost table.
    pub fn skip_rest(&mut self) {
        self.pos = self.end;
    }
}
