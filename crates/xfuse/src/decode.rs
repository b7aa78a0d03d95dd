//! Bounds-checked reading of request bodies. Nothing here trusts the sender.

use crate::abi::{self, InHeader, InitFlags, Pod};
use crate::buffer::Pool;
use crate::payload::Payload;
use bytes::Bytes;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Why a request could not be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the request's structs need, or than its length field says.
    #[error("request is truncated")]
    Truncated,
    /// The length field differs from the bytes received.
    #[error("request length field does not match the bytes received")]
    BadLength,
    /// A name without its terminating NUL, or an empty one where that is not allowed.
    #[error("malformed name")]
    BadName,
    /// The list of extensions is malformed.
    #[error("malformed extension")]
    BadExtension,
}

/// The facts from INIT that change how requests are laid out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shape {
    /// SETXATTR has its long form.
    pub setxattr_ext: bool,
}

impl Shape {
    /// The shape that follows from the negotiated flags.
    pub fn new(flags: InitFlags) -> Self {
        Shape { setxattr_ext: flags.contains(InitFlags::SETXATTR_EXT) }
    }
}

/// Splits a request into header, body and extensions, checking all lengths.
pub fn split(request: &[u8]) -> Result<(InHeader, &[u8], &[u8]), DecodeError> {
    let header = InHeader::read_from(request).ok_or(DecodeError::Truncated)?;
    if header.len as usize != request.len() {
        return Err(DecodeError::BadLength);
    }
    let rest = &request[size_of::<InHeader>()..];
    let ext_len = usize::from(header.total_extlen) * 8;
    let split = rest.len().checked_sub(ext_len).ok_or(DecodeError::BadExtension)?;
    let (body, extensions) = rest.split_at(split);
    Ok((header, body, extensions))
}

/// Supplementary groups from the extensions, if the kernel sent any.
pub fn supplementary_groups(mut extensions: &[u8]) -> Result<Vec<u32>, DecodeError> {
    while !extensions.is_empty() {
        let ext = abi::ExtHeader::read_from(extensions).ok_or(DecodeError::BadExtension)?;
        let size = ext.size as usize;
        if size < size_of::<abi::ExtHeader>() || size > extensions.len() || !size.is_multiple_of(8) {
            return Err(DecodeError::BadExtension);
        }
        let (this, rest) = extensions.split_at(size);
        if ext.typ == abi::EXT_GROUPS {
            return groups(&this[size_of::<abi::ExtHeader>()..]);
        }
        extensions = rest;
    }
    Ok(Vec::new())
}

fn groups(payload: &[u8]) -> Result<Vec<u32>, DecodeError> {
    let head = abi::SuppGroups::read_from(payload).ok_or(DecodeError::BadExtension)?;
    let ids = &payload[size_of::<abi::SuppGroups>()..];
    let count = head.nr_groups as usize;
    if count > ids.len() / 4 {
        return Err(DecodeError::BadExtension);
    }
    let id = |chunk: &[u8]| u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    Ok(ids.chunks_exact(4).take(count).map(id).collect())
}

/// A cursor over the body of one request.
pub struct Body<'a> {
    rest: &'a [u8],
    /// The buffer `rest` points into, when it is reference counted; lets payloads leave without a copy.
    base: Option<&'a Bytes>,
    /// `base` is lent for the time of the request; where to take buffers for what is to be kept.
    lent: Option<&'a Pool>,
}

impl<'a> Body<'a> {
    /// A body in borrowed memory.
    pub fn new(bytes: &'a [u8]) -> Self {
        Body { rest: bytes, base: None, lent: None }
    }

    /// A body that is a part of `base`.
    pub fn in_buffer(bytes: &'a [u8], base: &'a Bytes) -> Self {
        Body { rest: bytes, base: Some(base), lent: None }
    }

    /// A body that is a part of `base`, which is lent for the time of the request.
    pub(crate) fn lent(bytes: &'a [u8], base: &'a Bytes, pool: &'a Pool) -> Self {
        Body { rest: bytes, base: Some(base), lent: Some(pool) }
    }

    /// The next struct.
    pub fn take<T: Pod>(&mut self) -> Result<T, DecodeError> {
        let value = T::read_from(self.rest).ok_or(DecodeError::Truncated)?;
        self.rest = &self.rest[size_of::<T>()..];
        Ok(value)
    }

    /// The next NUL-terminated name; empty ones are refused.
    pub fn name(&mut self) -> Result<&'a OsStr, DecodeError> {
        let name = self.text()?;
        if name.is_empty() { Err(DecodeError::BadName) } else { Ok(name) }
    }

    /// The next NUL-terminated text, which may be empty.
    pub fn text(&mut self) -> Result<&'a OsStr, DecodeError> {
        let end = self.rest.iter().position(|&b| b == 0).ok_or(DecodeError::BadName)?;
        let text = OsStr::from_bytes(&self.rest[..end]);
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        if len > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(taken)
    }

    /// The next `len` bytes as a reference-counted slice; copied only if the body is not in such a buffer.
    pub fn payload(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        let taken = self.bytes(len)?;
        Ok(match self.base {
            Some(base) => base.slice_ref(taken),
            None => Bytes::copy_from_slice(taken),
        })
    }

    /// The next `len` bytes, where they are.
    pub(crate) fn in_place(&mut self, len: usize) -> Result<Payload, DecodeError> {
        let bytes = self.payload(len)?;
        Ok(match self.lent {
            Some(pool) => Payload::lent(bytes, pool.clone()),
            None => Payload::from(bytes),
        })
    }

    /// Bytes not yet taken.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }
}

/// A typed request that can be read from a body.
pub trait Decode<'a>: Sized {
    /// Reads the arguments that follow `header`.
    fn decode(header: &InHeader, body: &mut Body<'a>, shape: Shape) -> Result<Self, DecodeError>;
}
