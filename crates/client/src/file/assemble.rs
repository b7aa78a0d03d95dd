//! Puts results of pieces together (`src/fuse/PioV.cc`, `concatIoRes`).
//!
//! A piece that is short or missing is either a hole or lies behind the end of the file: it is a hole if a later piece of
//! the same request has data.

use crate::storage::{ReadDone, UpdateDone};
use bytes::Bytes;
use valor_protocol::Status;
use valor_protocol::status::{code, status};

/// Zeros that holes refer to.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Bytes read, in pieces that refer to the memory they arrived in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileData {
    /// The bytes in order.
    pub segments: Vec<Bytes>,
}

impl FileData {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.segments.iter().map(Bytes::len).sum()
    }

    /// True without any byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in one piece; copied if there are several.
    pub fn to_bytes(&self) -> Bytes {
        match self.segments.as_slice() {
            [only] => only.clone(),
            segments => segments.concat().into(),
        }
    }

    fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.segments.push(data);
        }
    }

    fn push_zeros(&mut self, mut count: u64) {
        while count > 0 {
            let part = count.min(ZEROS.len() as u64);
            self.segments.push(Bytes::from_static(&ZEROS[..part as usize]));
            count -= part;
        }
    }
}

/// What to do about holes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holes {
    /// They read as zeros.
    #[default]
    Zeros,
    /// They are an error: 8001.
    Error,
}

/// Puts together the pieces of one read of `wanted` bytes each. If the file is known to reach `known` bytes from the
/// read's start on, missing bytes before that are holes even if no data follows.
pub(super) fn join_read(
    pieces: impl IntoIterator<Item = (u32, Result<ReadDone, Status>)>,
    holes: Holes,
    known: u64,
) -> Result<FileData, Status> {
    let mut data = FileData::default();
    let (mut total, mut hole) = (0u64, 0u64);
    for (wanted, result) in pieces {
        let bytes = match result {
            Ok(done) => done.data,
            Err(error) if error.code == code::STORAGE_CLIENT_CHUNK_NOT_FOUND => Bytes::new(),
            Err(error) => return Err(error),
        };
        if !bytes.is_empty() && hole > 0 {
            if holes == Holes::Error {
                return Err(status(code::AGENT_HOLE_IN_IO_OUTCOME));
            }
            data.push_zeros(hole);
            total += hole;
            hole = 0;
        }
        hole += u64::from(wanted).saturating_sub(bytes.len() as u64);
        total += bytes.len() as u64;
        data.push(bytes);
    }
    let missing = known.min(total + hole).saturating_sub(total);
    if missing > 0 && holes == Holes::Error {
        return Err(status(code::AGENT_HOLE_IN_IO_OUTCOME));
    }
    data.push_zeros(missing);
    Ok(data)
}

/// Puts together the pieces of one write: the number of bytes written, in order from the start.
pub(super) fn join_write(
    pieces: impl IntoIterator<Item = (u32, Result<UpdateDone, Status>)>,
) -> Result<u64, Status> {
    let (mut total, mut short) = (0, false);
    for (wanted, result) in pieces {
        let written = result?.length;
        if written > 0 && short {
            return Err(status(code::AGENT_HOLE_IN_IO_OUTCOME));
        }
        short |= written < wanted;
        total += u64::from(written);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(wanted: u32, got: &'static str) -> (u32, Result<ReadDone, Status>) {
        let data = Bytes::from_static(got.as_bytes());
        (wanted, Ok(ReadDone { data, ..ReadDone::default() }))
    }

    fn failed(wanted: u32, code: u16) -> (u32, Result<ReadDone, Status>) {
        (wanted, Err(status(code)))
    }

    fn read(pieces: Vec<(u32, Result<ReadDone, Status>)>, holes: Holes, known: u64) -> Result<String, u16> {
        let data = join_read(pieces, holes, known).map_err(|error| error.code)?;
        let bytes = data.to_bytes();
        assert_eq!(bytes.len(), data.len());
        Ok(String::from_utf8(bytes.to_vec()).unwrap().replace('\0', "."))
    }

    #[test]
    fn short_pieces_at_the_end_are_the_end() {
        let all = || vec![piece(4, "abcd"), piece(4, "ef"), failed(4, 7007)];
        assert_eq!(read(all(), Holes::Zeros, 0), Ok("abcdef".into()));
        assert_eq!(read(all(), Holes::Error, 0), Ok("abcdef".into()));
        assert_eq!(read(vec![failed(4, 7007)], Holes::Zeros, 0), Ok(String::new()));
        assert_eq!(read(vec![], Holes::Zeros, 0), Ok(String::new()));
    }

    #[test]
    fn holes_before_data_are_zeros_or_errors() {
        let all = || vec![piece(4, "ab"), failed(4, 7007), piece(4, "xyz"), piece(4, ""), piece(4, "w")];
        assert_eq!(read(all(), Holes::Zeros, 0), Ok("ab......xyz.....w".into()));
        assert_eq!(read(all(), Holes::Error, 0), Err(8001));
    }

    #[test]
    fn a_known_length_tells_holes_from_the_end() {
        let all = || vec![piece(4, "ab"), failed(4, 7007)];
        assert_eq!(read(all(), Holes::Zeros, 5), Ok("ab...".into()));
        assert_eq!(read(all(), Holes::Zeros, 1000), Ok("ab......".into()), "never more than wanted");
        assert_eq!(read(all(), Holes::Zeros, 1), Ok("ab".into()), "never less than found");
        assert_eq!(read(all(), Holes::Error, 5), Err(8001));
    }

    #[test]
    fn the_first_error_wins() {
        let all = vec![piece(4, "ab"), failed(4, 7008), failed(4, 7010), piece(4, "x")];
        assert_eq!(read(all, Holes::Zeros, 0), Err(7008));
    }

    #[test]
    fn large_holes_share_the_zeros() {
        let data = join_read([failed(1 << 30, 7007)], Holes::Zeros, 1 << 30).unwrap();
        assert_eq!(data.len(), 1 << 30);
        assert!(data.segments.iter().all(|segment| segment.as_ptr() == ZEROS.as_ptr()));
    }

    #[test]
    fn writes() {
        let wrote = |length| Ok(UpdateDone { length, ..UpdateDone::default() });
        assert_eq!(join_write([(4, wrote(4)), (4, wrote(2))]), Ok(6));
        assert_eq!(join_write([(4, wrote(2)), (4, wrote(0))]), Ok(2));
        assert_eq!(join_write([(4, wrote(2)), (4, wrote(1))]).unwrap_err().code, 8001);
        assert_eq!(join_write([(4, wrote(4)), (4, Err(status(7021)))]).unwrap_err().code, 7021);
    }
}
