//! The state file: up to which version the log must reach when the database is opened.
//!
//! A log alone cannot tell a record that was never acknowledged, and may be cut off, from one that was, and is damaged. This
//! file can. It is one record of 64 bytes, rewritten in place with every acknowledgement (a page-cache write of well under a
//! microsecond, or after the log's sync), and relies on the disk writing a sector whole:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `VKVSTAT1` |
//! | 8 | 16 | boot id of the machine when `acked` was written |
//! | 24 | 8 | acked: last acknowledged commit; the log holds it as long as the machine runs |
//! | 32 | 8 | durable: last commit known to be on the disk |
//! | 40 | 8 | flushed: commits up to here are in the tree's tables, their log segments may be gone |
//! | 48 | 8 | 1 after an orderly close, else 0 |
//! | 56 | 4 | CRC-32C of bytes 0..56 |
//! | 60 | 4 | zero |

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Buf;
use parking_lot::Mutex;

use super::corrupt;
use crate::KvError;
use crate::batch::Version;

const MAGIC: &[u8; 8] = b"VKVSTAT1";
const LEN: usize = 64;

/// Content of the state file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) boot_id: [u8; 16],
    pub(crate) acked: Version,
    pub(crate) durable: Version,
    pub(crate) flushed: Version,
    pub(crate) clean: bool,
}

impl State {
    fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..24].copy_from_slice(&self.boot_id);
        let numbers = [self.acked, self.durable, self.flushed, u64::from(self.clean)];
        for (place, number) in bytes[24..56].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..56]);
        bytes[56..60].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut boot_id = [0; 16];
        boot_id.copy_from_slice(bytes.get(8..24)?);
        let mut numbers = bytes.get(24..56)?;
        let state = State {
            boot_id,
            acked: numbers.get_u64_le(),
            durable: numbers.get_u64_le(),
            flushed: numbers.get_u64_le(),
            clean: numbers.get_u64_le() == 1,
        };
        (state.encode()[..] == *bytes).then_some(state)
    }

    /// The version that a sound log reaches at least, on a machine whose boot id is `boot_id`.
    pub(crate) fn required(&self, boot_id: [u8; 16]) -> Version {
        let same_boot = self.boot_id == boot_id && boot_id != [0; 16];
        if same_boot { self.acked.max(self.durable) } else { self.durable }
    }
}

/// The open state file.
#[derive(Debug)]
pub(crate) struct StateFile {
    file: File,
    path: PathBuf,
    state: Mutex<State>,
}

impl StateFile {
    /// Writes a new file.
    pub(crate) fn create(path: &Path, state: State) -> Result<Self, KvError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
        let file = StateFile {
            file: file.map_err(|error| super::io_error(path, &error))?,
            path: path.to_owned(),
            state: Mutex::new(state),
        };
        file.update(|_| ())?;
        file.sync()?;
        Ok(file)
    }

    /// Opens an existing file.
    pub(crate) fn open(path: &Path) -> Result<Self, KvError> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt(path, None, "file is missing"));
            }
            Err(error) => return Err(super::io_error(path, &error)),
        };
        let len = file.metadata().map_err(|error| super::io_error(path, &error))?.len();
        let mut bytes = [0; LEN];
        if len == LEN as u64 {
            file.read_exact_at(&mut bytes, 0).map_err(|error| super::io_error(path, &error))?;
        }
        let state = State::decode(&bytes);
        let state = state.ok_or_else(|| corrupt(path, Some(0), "length or checksum is wrong"))?;
        Ok(StateFile { file, path: path.to_owned(), state: Mutex::new(state) })
    }

    pub(crate) fn get(&self) -> State {
        *self.state.lock()
    }

    /// Changes the state and hands it to the operating system.
    pub(crate) fn update(&self, change: impl FnOnce(&mut State)) -> Result<(), KvError> {
        let mut state = self.state.lock();
        change(&mut state);
        let written = self.file.write_all_at(&state.encode(), 0);
        written.map_err(|error| super::io_error(&self.path, &error))
    }

    /// Makes the state durable.
    pub(crate) fn sync(&self) -> Result<(), KvError> {
        self.file.sync_data().map_err(|error| super::io_error(&self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let state = State { boot_id: [3; 16], acked: 5, durable: 4, flushed: 2, clean: true };
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes), Some(state));
        for bit in 0..LEN * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(State::decode(&damaged), None, "bit {bit}");
        }
        assert_eq!(State::decode(&bytes[..LEN - 1]), None);
    }

    #[test]
    fn acknowledged_commits_are_required_until_the_machine_reboots() {
        let state = State { boot_id: [3; 16], acked: 5, durable: 4, ..State::default() };
        assert_eq!(state.required([3; 16]), 5);
        assert_eq!(state.required([4; 16]), 4);
        assert_eq!(State { boot_id: [0; 16], ..state }.required([0; 16]), 4);
    }
}
