//! Buffers for READDIR and READDIRPLUS replies with the kernel's exact size accounting.

use crate::abi::{self, Pod};
use crate::reply::Entry;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The file type of a directory entry, `DT_*`, from a mode.
pub const fn dirent_type(mode: u32) -> u32 {
    (mode & libc::S_IFMT) >> 12
}

/// Entries of a READDIR reply.
#[derive(Debug)]
pub struct DirBuffer {
    bytes: Vec<u8>,
    limit: usize,
}

impl DirBuffer {
    /// A buffer for a request with room for `size` bytes.
    pub fn new(size: u32) -> Self {
        DirBuffer { bytes: Vec::with_capacity((size as usize).min(64 << 10)), limit: size as usize }
    }

    /// Adds an entry. `next` is the cookie with which the kernel asks for what follows this entry; `mode` gives its
    /// type. Returns false, adding nothing, if it does not fit: the reply is then complete.
    #[must_use]
    pub fn add(&mut self, ino: u64, next: u64, mode: u32, name: &OsStr) -> bool {
        if self.bytes.len() + abi::dirent_size(name.len()) > self.limit {
            return false;
        }
        push_dirent(&mut self.bytes, ino, next, mode, name);
        true
    }

    /// Whether no entry was added, which means the end of the directory.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Entries of a READDIRPLUS reply.
#[derive(Debug)]
pub struct DirPlusBuffer {
    bytes: Vec<u8>,
    limit: usize,
}

impl DirPlusBuffer {
    /// A buffer for a request with room for `size` bytes.
    pub fn new(size: u32) -> Self {
        DirPlusBuffer { bytes: Vec::with_capacity((size as usize).min(64 << 10)), limit: size as usize }
    }

    /// Bytes used so far.
    pub fn used(&self) -> usize {
        self.bytes.len()
    }

    /// Whether an entry with a name of that length fits.
    pub fn fits(&self, name_len: usize) -> bool {
        self.bytes.len() + abi::direntplus_size(name_len) <= self.limit
    }

    /// Adds an entry with its attributes. It counts as a lookup: the inode gains a reference. Returns false, adding
    /// nothing and gaining no reference, if it does not fit.
    #[must_use]
    pub fn add(&mut self, entry: &Entry, next: u64, name: &OsStr) -> bool {
        let (ino, mode) = (entry.attr.ino, entry.attr.mode);
        self.push(&entry.to_abi(), ino, next, mode, name)
    }

    /// Adds an entry without attributes, as needed for `.` and `..` and for inodes that vanished. It is no lookup.
    #[must_use]
    pub fn add_plain(&mut self, ino: u64, next: u64, mode: u32, name: &OsStr) -> bool {
        self.push(&abi::EntryOut::default(), ino, next, mode, name)
    }

    fn push(&mut self, entry: &abi::EntryOut, ino: u64, next: u64, mode: u32, name: &OsStr) -> bool {
        if !self.fits(name.len()) {
            return false;
        }
        self.bytes.extend_from_slice(entry.as_bytes());
        push_dirent(&mut self.bytes, ino, next, mode, name);
        true
    }

    /// Whether no entry was added, which means the end of the directory.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The inodes that gained a reference.
    pub(crate) fn nodes(&self) -> Vec<u64> {
        let (mut nodes, mut rest) = (Vec::new(), &self.bytes[..]);
        while let Some(record) = abi::DirentPlus::read_from(rest) {
            nodes.extend(Some(record.entry.nodeid).filter(|id| *id != 0));
            rest = rest.get(abi::direntplus_size(record.dirent.namelen as usize)..).unwrap_or_default();
        }
        nodes
    }
}

fn push_dirent(bytes: &mut Vec<u8>, ino: u64, next: u64, mode: u32, name: &OsStr) {
    let head = abi::Dirent { ino, off: next, namelen: name.len() as u32, typ: dirent_type(mode) };
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(name.as_bytes());
    // Both record heads are multiples of 8 bytes, so aligning the whole aligns the record.
    bytes.resize(abi::rec_align(bytes.len()), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_exactly_to_the_limit() {
        let mut buffer = DirBuffer::new(64);
        assert!(buffer.add(1, 1, libc::S_IFDIR, OsStr::new("12345678")));
        assert!(buffer.add(2, 2, libc::S_IFREG, OsStr::new("1")));
        assert_eq!(buffer.bytes().len(), 64);
        let mut buffer = DirBuffer::new(63);
        assert!(buffer.add(1, 1, libc::S_IFDIR, OsStr::new("12345678")));
        assert!(!buffer.add(2, 2, libc::S_IFREG, OsStr::new("1")));
        assert_eq!(buffer.bytes().len(), 32);
    }

    #[test]
    fn records_are_aligned_and_typed() {
        let mut buffer = DirPlusBuffer::new(4096);
        assert!(buffer.add_plain(7, 9, libc::S_IFLNK | 0o777, OsStr::new("abc")));
        let bytes = buffer.bytes();
        assert_eq!(bytes.len(), 160);
        let plus = abi::DirentPlus::read_from(bytes).unwrap();
        assert_eq!((plus.dirent.ino, plus.dirent.off, plus.dirent.namelen), (7, 9, 3));
        assert_eq!(plus.dirent.typ, u32::from(libc::DT_LNK));
        assert_eq!(plus.entry.nodeid, 0);
        assert_eq!(&bytes[152..156], b"abc\0");
        let entry = Entry { nodeid: 5, ..Entry::default() };
        assert!(buffer.add(&entry, 10, OsStr::new("a name")) && buffer.add(&entry, 11, OsStr::new("b")));
        assert_eq!(buffer.nodes(), [5, 5]);
    }
}
