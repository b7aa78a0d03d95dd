//! Typed replies and how they become the segments of one writev(2).

use crate::abi::{self, Pod};
use crate::channel::uring::Lent;
use crate::dirbuf::{DirBuffer, DirPlusBuffer};
use crate::request::split_duration;
use bytes::Bytes;
use std::io::IoSlice;
use std::time::Duration;

/// Reply to LOOKUP, MKNOD, MKDIR, SYMLINK, LINK: an inode and how long it may be cached.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry {
    /// Inode id, 0 for a negative entry ("no such name", cacheable).
    pub nodeid: u64,
    /// Tells apart inodes that use the same id at different times.
    pub generation: u64,
    /// How long the name may be cached.
    pub entry_valid: Duration,
    /// How long the attributes may be cached.
    pub attr_valid: Duration,
    /// The attributes.
    pub attr: abi::Attr,
}

impl Entry {
    /// "No such name", remembered for `valid`.
    pub fn negative(valid: Duration) -> Self {
        Entry { entry_valid: valid, ..Entry::default() }
    }

    pub(crate) fn to_abi(self) -> abi::EntryOut {
        let (entry_valid, entry_valid_nsec) = split_duration(self.entry_valid);
        let (attr_valid, attr_valid_nsec) = split_duration(self.attr_valid);
        abi::EntryOut {
            nodeid: self.nodeid,
            generation: self.generation,
            entry_valid,
            attr_valid,
            entry_valid_nsec,
            attr_valid_nsec,
            attr: self.attr,
        }
    }
}

/// Reply to GETATTR and SETATTR.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attr {
    /// How long the attributes may be cached.
    pub valid: Duration,
    /// The attributes.
    pub attr: abi::Attr,
}

/// Reply to STATX.
#[derive(Debug, Clone, Copy, Default)]
pub struct StatxReply {
    /// How long the attributes may be cached.
    pub valid: Duration,
    /// The attributes.
    pub stat: abi::StatxAttr,
}

/// Reply to OPEN and OPENDIR.
#[derive(Debug, Clone, Copy, Default)]
pub struct Opened {
    /// Handle passed to later requests.
    pub fh: u64,
    /// `FOPEN_*`.
    pub flags: u32,
    /// Backing file with `FOPEN_PASSTHROUGH`.
    pub backing_id: i32,
}

/// Reply to CREATE and TMPFILE.
#[derive(Debug, Clone, Copy, Default)]
pub struct Created {
    /// The new inode; gains one reference.
    pub entry: Entry,
    /// Its handle.
    pub opened: Opened,
}

/// Reply to READ and READLINK: segments that are sent without joining them first, or what was made in a
/// [`Room`](crate::Room).
#[derive(Debug, Default)]
pub struct Data(Segments);

#[derive(Debug, Default)]
enum Segments {
    #[default]
    Empty,
    One(Bytes),
    Many(Vec<Bytes>),
    /// So many bytes where they are to be.
    Lent(Lent, usize),
}

impl Data {
    /// No bytes: end of file.
    pub fn empty() -> Self {
        Data(Segments::Empty)
    }

    /// The first `len` bytes of what is lent.
    pub(crate) fn lent(lent: Lent, len: usize) -> Self {
        let len = len.min(lent.len());
        Data(Segments::Lent(lent, len))
    }

    /// The segments in reading order.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let (list, lent): (&[Bytes], _) = match &self.0 {
            Segments::Empty => (&[], None),
            Segments::One(bytes) => (std::slice::from_ref(bytes), None),
            Segments::Many(list) => (list, None),
            Segments::Lent(lent, len) => (&[], Some(&lent.as_ref()[..*len])),
        };
        list.iter().map(|bytes| &bytes[..]).chain(lent)
    }

    /// Total bytes.
    pub fn len(&self) -> usize {
        self.segments().map(<[u8]>::len).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Data {
    fn from(bytes: Bytes) -> Self {
        Data(Segments::One(bytes))
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Data(Segments::One(bytes.into()))
    }
}

impl From<Vec<Bytes>> for Data {
    fn from(segments: Vec<Bytes>) -> Self {
        Data(Segments::Many(segments))
    }
}

/// Reply to WRITE: bytes taken.
#[derive(Debug, Clone, Copy)]
pub struct Written(pub u32);

/// Reply to STATFS.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals(pub abi::Kstatfs);

/// Reply to GETXATTR and LISTXATTR.
#[derive(Debug, Clone)]
pub enum Xattr {
    /// The length, when the request's size was 0.
    Size(u32),
    /// The value, or names each followed by NUL.
    Value(Bytes),
}

impl Xattr {
    /// The right form for a request with room for `size` bytes; `ERANGE` if the value does not fit.
    pub fn for_size(value: impl Into<Bytes>, size: u32) -> Result<Self, crate::Errno> {
        let value = value.into();
        if size == 0 {
            return Ok(Xattr::Size(value.len() as u32));
        }
        if value.len() > size as usize { Err(crate::Errno::ERANGE) } else { Ok(Xattr::Value(value)) }
    }
}

/// Reply to GETLK: the conflicting lock, or one of type `F_UNLCK`.
#[derive(Debug, Clone, Copy)]
pub struct Lock(pub abi::FileLock);

/// Reply to BMAP.
#[derive(Debug, Clone, Copy)]
pub struct Block(pub u64);

/// Reply to LSEEK.
#[derive(Debug, Clone, Copy)]
pub struct Offset(pub u64);

/// Reply to COPY_FILE_RANGE: bytes copied.
#[derive(Debug, Clone, Copy)]
pub struct Copied(pub u64);

/// Reply to POLL: `POLL*` that are ready.
#[derive(Debug, Clone, Copy)]
pub struct Ready(pub u32);

/// Reply to IOCTL.
#[derive(Debug, Clone)]
pub enum IoctlReply {
    /// Finished.
    Done {
        /// Return value of ioctl(2), not negative.
        result: i32,
        /// Output, at most the request's `out_size`.
        output: Bytes,
    },
    /// The kernel shall copy these ranges of the caller's memory and ask again (only with `IOCTL_UNRESTRICTED`).
    Retry {
        /// Ranges to read.
        input: Vec<abi::IoctlIovec>,
        /// Ranges to write.
        output: Vec<abi::IoctlIovec>,
    },
}

/// A sink that sends one reply; implemented by each kind of channel.
pub(crate) trait Sink {
    /// Sends the segments after an [`abi::OutHeader`] with error 0.
    fn send(&self, parts: &[IoSlice<'_>]) -> std::io::Result<()>;

    /// The same for the first `len` bytes of what is lent, which is given back.
    fn send_lent(&self, lent: &Lent, len: usize) -> std::io::Result<()>;
}

/// How a reply type is written to a sink.
pub(crate) trait Reply {
    /// Gives the reply's bytes to `send` in one call.
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()>;

    /// What the kernel would give back one day, had it taken the reply.
    fn given(&self) -> Given {
        Given::default()
    }
}

/// What a reply hands out: references of inodes, and an open file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    /// Inodes, each with one lookup.
    pub(crate) nodes: Vec<u64>,
    pub(crate) handle: Option<u64>,
}

impl Entry {
    fn given_node(&self) -> Vec<u64> {
        // A negative entry is none.
        Vec::from_iter((self.nodeid != 0).then_some(self.nodeid))
    }
}

fn send_pod<T: Pod>(sink: &impl Sink, value: &T) -> std::io::Result<()> {
    sink.send(&[IoSlice::new(value.as_bytes())])
}

impl Reply for () {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        sink.send(&[])
    }
}

impl Reply for Entry {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        send_pod(sink, &self.to_abi())
    }

    fn given(&self) -> Given {
        Given { nodes: self.given_node(), handle: None }
    }
}

impl Reply for Attr {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        let (attr_valid, attr_valid_nsec) = split_duration(self.valid);
        send_pod(sink, &abi::AttrOut { attr_valid, attr_valid_nsec, dummy: 0, attr: self.attr })
    }
}

impl Reply for StatxReply {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        let (attr_valid, attr_valid_nsec) = split_duration(self.valid);
        send_pod(
            sink,
            &abi::StatxOut { attr_valid, attr_valid_nsec, flags: 0, spare: [0; 2], stat: self.stat },
        )
    }
}

fn open_out(opened: Opened) -> abi::OpenOut {
    abi::OpenOut { fh: opened.fh, open_flags: opened.flags, backing_id: opened.backing_id }
}

impl Reply for Opened {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        send_pod(sink, &open_out(*self))
    }

    fn given(&self) -> Given {
        Given { nodes: Vec::new(), handle: Some(self.fh) }
    }
}

impl Reply for Created {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        let (entry, opened) = (self.entry.to_abi(), open_out(self.opened));
        sink.send(&[IoSlice::new(entry.as_bytes()), IoSlice::new(opened.as_bytes())])
    }

    fn given(&self) -> Given {
        Given { nodes: self.entry.given_node(), handle: Some(self.opened.fh) }
    }
}

/// Segments sent straight from the list; a longer list is joined first (writev takes at most 1024).
const MAX_SEGMENTS: usize = 64;

impl Reply for Data {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        let segments = match &self.0 {
            Segments::Empty => &[],
            Segments::One(bytes) => return sink.send(&[IoSlice::new(bytes)]),
            Segments::Many(list) => &list[..],
            Segments::Lent(lent, len) => return sink.send_lent(lent, *len),
        };
        if segments.len() <= MAX_SEGMENTS {
            let mut parts = [IoSlice::new(&[]); MAX_SEGMENTS];
            for (part, segment) in parts.iter_mut().zip(segments) {
                *part = IoSlice::new(segment);
            }
            return sink.send(&parts[..segments.len()]);
        }
        sink.send(&[IoSlice::new(&segments.concat())])
    }
}

impl Reply for Written {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        send_pod(sink, &abi::WriteOut { size: self.0, padding: 0 })
    }
}

impl Reply for Totals {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        send_pod(sink, &abi::StatfsOut { st: self.0 })
    }
}

impl Reply for Xattr {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        match self {
            Xattr::Size(size) => send_pod(sink, &abi::GetxattrOut { size: *size, padding: 0 }),
            Xattr::Value(value) => sink.send(&[IoSlice::new(value)]),
        }
    }
}

impl Reply for DirBuffer {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        sink.send(&[IoSlice::new(self.bytes())])
    }
}

impl Reply for DirPlusBuffer {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        sink.send(&[IoSlice::new(self.bytes())])
    }

    fn given(&self) -> Given {
        Given { nodes: self.nodes(), handle: None }
    }
}

impl Reply for Lock {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        send_pod(sink, &abi::LkOut { lk: self.0 })
    }
}

impl Reply for Block {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        send_pod(sink, &abi::BmapOut { block: self.0 })
    }
}

impl Reply for Offset {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        send_pod(sink, &abi::LseekOut { offset: self.0 })
    }
}

impl Reply for Copied {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        send_pod(sink, &abi::CopyFileRangeOut { bytes_copied: self.0 })
    }
}

impl Reply for Ready {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        send_pod(sink, &abi::PollOut { revents: self.0, padding: 0 })
    }
}

impl Reply for IoctlReply {
    fn reply(&self, sink: &impl Sink) -> std::io::Result<()> {
        match self {
            IoctlReply::Done { result, output } => {
                let head = abi::IoctlOut { result: *result, ..Default::default() };
                sink.send(&[IoSlice::new(head.as_bytes()), IoSlice::new(output)])
            }
            IoctlReply::Retry { input, output } => {
                let (in_iovs, out_iovs) = (input.len() as u32, output.len() as u32);
                let head = abi::IoctlOut { result: 0, flags: abi::IOCTL_RETRY, in_iovs, out_iovs };
                let mut ranges =
                    Vec::with_capacity((input.len() + output.len()) * size_of::<abi::IoctlIovec>());
                for range in input.iter().chain(output) {
                    ranges.extend_from_slice(range.as_bytes());
                }
                sink.send(&[IoSlice::new(head.as_bytes()), IoSlice::new(&ranges)])
            }
        }
    }
}
