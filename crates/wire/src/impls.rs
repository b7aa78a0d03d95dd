//! [`Wire`] for the types of the standard library, `bytes` and `bstr`.

use std::collections::{BTreeMap, BTreeSet};

use bstr::BString;
use bytes::Bytes;

use crate::{DecodeError, Decoder, Encoder, Status, Wire};

macro_rules! impl_number {
    ($($ty:ty),*) => {$(
        impl Wire for $ty {
            const MIN_SIZE: usize = size_of::<$ty>();

            #[inline]
            fn encode(&self, out: &mut Encoder) {
                out.put_slice(&self.to_le_bytes());
            }

            #[inline]
            fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
                Ok(Self::from_le_bytes(input.array()?))
            }

            fn decode_vec(count: usize, input: &mut Decoder) -> Result<Vec<Self>, DecodeError> {
                let bytes = input.take(count * size_of::<$ty>())?;
                let (chunks, _) = bytes.as_chunks::<{ size_of::<$ty>() }>();
                Ok(chunks.iter().map(|&chunk| Self::from_le_bytes(chunk)).collect())
            }
        }
    )*};
}

impl_number!(i8, u16, i16, u32, i32, u64, i64, f32, f64);

impl Wire for u8 {
    const MIN_SIZE: usize = 1;

    #[inline]
    fn encode(&self, out: &mut Encoder) {
        out.put_u8(*self);
    }

    #[inline]
    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        Ok(input.array::<1>()?[0])
    }

    fn encode_slice(items: &[Self], out: &mut Encoder) {
        out.put_slice(items);
    }

    fn decode_vec(count: usize, input: &mut Decoder) -> Result<Vec<Self>, DecodeError> {
        Ok(input.take(count)?.to_vec())
    }
}

impl Wire for bool {
    const MIN_SIZE: usize = 1;

    #[inline]
    fn encode(&self, out: &mut Encoder) {
        out.put_u8(u8::from(*self));
    }

    #[inline]
    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        Ok(u8::decode(input)? != 0)
    }
}

impl<const N: usize> Wire for [u8; N] {
    const MIN_SIZE: usize = N;

    fn encode(&self, out: &mut Encoder) {
        out.put_slice(self);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        input.array()
    }
}

impl Wire for () {
    const MIN_SIZE: usize = 0;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder) -> Result<Self, DecodeError> {
        Ok(())
    }
}

/// UTF-8 only: text that is not is refused.
impl Wire for String {
    const MIN_SIZE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        out.put_string(self.as_bytes());
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        let text = std::str::from_utf8(input.str_bytes()?).map_err(|_| DecodeError::InvalidUtf8)?;
        Ok(text.to_owned())
    }
}

impl Wire for BString {
    const MIN_SIZE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        out.put_string(self);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        Ok(input.str_bytes()?.into())
    }
}

/// A byte string or `vec<u8>`. Decoded without a copy: the value keeps the whole message's memory alive.
impl Wire for Bytes {
    const MIN_SIZE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        out.put_bytes(self);
        out.put_varint(self.len() as u64);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        input.string()
    }
}

/// Any tag other than 1 is absence, as in 3FS.
impl<T: Wire> Wire for Option<T> {
    const MIN_SIZE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        if let Some(value) = self {
            value.encode(out);
        }
        out.put_u8(u8::from(self.is_some()));
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        if u8::decode(input)? == 1 { Ok(Some(T::decode(input)?)) } else { Ok(None) }
    }
}

/// Transparent; a C++ `unique_ptr`, which may be null, is an `Option<Box<T>>`.
impl<T: Wire> Wire for Box<T> {
    const MIN_SIZE: usize = T::MIN_SIZE;

    fn encode(&self, out: &mut Encoder) {
        (**self).encode(out);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        input.nested(|input| Ok(Self::new(T::decode(input)?)))
    }
}

impl<T: Wire> Wire for Result<T, Status> {
    const MIN_SIZE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        match self {
            Ok(value) => value.encode(out),
            Err(status) => status.encode(out),
        }
        out.put_u8(u8::from(self.is_ok()));
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        Ok(if bool::decode(input)? { Ok(T::decode(input)?) } else { Err(Status::decode(input)?) })
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    const MIN_SIZE: usize = A::MIN_SIZE + B::MIN_SIZE;

    fn encode(&self, out: &mut Encoder) {
        self.1.encode(out);
        self.0.encode(out);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        Ok((A::decode(input)?, B::decode(input)?))
    }
}

impl<T: Wire> Wire for Vec<T> {
    const MIN_SIZE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        T::encode_slice(self, out);
        out.put_varint(self.len() as u64);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        let count = input.count::<T>()?;
        T::decode_vec(count, input)
    }
}

/// Ascending on the wire. A repeated key keeps its first value, as in 3FS.
impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    const MIN_SIZE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        for (key, value) in self.iter().rev() {
            value.encode(out);
            key.encode(out);
        }
        out.put_varint(self.len() as u64);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        let count = input.count::<(K, V)>()?;
        let mut map = Self::new();
        for _ in 0..count {
            let (key, value) = <(K, V)>::decode(input)?;
            map.entry(key).or_insert(value);
        }
        Ok(map)
    }
}

/// Ascending on the wire.
impl<T: Wire + Ord> Wire for BTreeSet<T> {
    const MIN_SIZE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        for item in self.iter().rev() {
            item.encode(out);
        }
        out.put_varint(self.len() as u64);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        let count = input.count::<T>()?;
        let mut set = Self::new();
        for _ in 0..count {
            set.insert(T::decode(input)?);
        }
        Ok(set)
    }
}
