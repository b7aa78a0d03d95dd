//! No library at all: the least a server can do for the file in memory, which shows how much of a round trip is the
//! kernel's. It looks at nothing of a request but whose it is and what it is, and answers what it has prepared.

use super::backend::{FILE, MAX_BACKGROUND, MAX_IO, MEMORY_BYTES, PAGE, ROOT};
use crate::device;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::path::Path;
use xfuse::abi::{self, Opcode, Pod};

const HEADER: usize = size_of::<abi::OutHeader>();

/// A prepared answer. Its payload is on a page of its own where it is one.
#[repr(align(4096))]
struct Answer {
    bytes: [u8; 2 * PAGE],
    start: usize,
    len: usize,
}

impl Answer {
    fn new(error: i32, payload: &[u8]) -> Box<Self> {
        let (start, len) = (PAGE - HEADER, HEADER + payload.len());
        let mut answer = Box::new(Answer { bytes: [0; 2 * PAGE], start, len });
        let header = abi::OutHeader { len: len as u32, error, unique: 0 };
        answer.bytes[start..PAGE].copy_from_slice(header.as_bytes());
        answer.bytes[PAGE..PAGE + payload.len()].copy_from_slice(payload);
        answer
    }

    fn send(&mut self, device: &OwnedFd, unique: u64) -> rustix::io::Result<()> {
        let bytes = &mut self.bytes[self.start..self.start + self.len];
        bytes[8..HEADER].copy_from_slice(&unique.to_ne_bytes());
        rustix::io::write(device, bytes).map(drop)
    }
}

struct Answers {
    init: Box<Answer>,
    root: Box<Answer>,
    file: Box<Answer>,
    lookup: Box<Answer>,
    open: Box<Answer>,
    data: Box<Answer>,
    written: Box<Answer>,
    done: Box<Answer>,
    unknown: Box<Answer>,
}

impl Answers {
    fn new() -> Self {
        let attr = |ino| match ino {
            ROOT => abi::Attr { ino, mode: libc::S_IFDIR | 0o755, nlink: 2, ..Default::default() },
            _ => abi::Attr {
                ino,
                mode: libc::S_IFREG | 0o644,
                nlink: 1,
                size: MEMORY_BYTES,
                blksize: PAGE as u32,
                ..Default::default()
            },
        };
        let attributes = |ino| abi::AttrOut { attr: attr(ino), ..Default::default() };
        let init = abi::InitOut {
            major: abi::KERNEL_VERSION,
            minor: abi::OLDEST_MINOR_VERSION,
            max_background: MAX_BACKGROUND,
            congestion_threshold: MAX_BACKGROUND,
            max_write: MAX_IO as u32,
            ..Default::default()
        };
        let entry = abi::EntryOut { nodeid: FILE, attr: attr(FILE), ..Default::default() };
        let open = abi::OpenOut { open_flags: abi::FOPEN_DIRECT_IO, ..Default::default() };
        let written = abi::WriteOut { size: PAGE as u32, ..Default::default() };
        Answers {
            init: Answer::new(0, init.as_bytes()),
            root: Answer::new(0, attributes(ROOT).as_bytes()),
            file: Answer::new(0, attributes(FILE).as_bytes()),
            lookup: Answer::new(0, entry.as_bytes()),
            open: Answer::new(0, open.as_bytes()),
            data: Answer::new(0, &[0; PAGE]),
            written: Answer::new(0, written.as_bytes()),
            done: Answer::new(0, &[]),
            unknown: Answer::new(-libc::ENOSYS, &[]),
        }
    }

    /// The answer to a request, if it gets one.
    fn to(&mut self, header: &abi::InHeader) -> Option<&mut Answer> {
        Some(match Opcode::from_code(header.opcode) {
            Some(Opcode::Read) => &mut self.data,
            Some(Opcode::Write) => &mut self.written,
            Some(Opcode::Getattr) if header.nodeid == ROOT => &mut self.root,
            Some(Opcode::Getattr) => &mut self.file,
            Some(Opcode::Lookup) => &mut self.lookup,
            Some(Opcode::Open) => &mut self.open,
            Some(Opcode::Release | Opcode::Destroy) => &mut self.done,
            Some(Opcode::Init) => &mut self.init,
            Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt) => return None,
            _ => &mut self.unknown,
        })
    }
}

/// Serves the file in memory until unmounted: reads and writes of one page, aligned.
///
/// # Errors
/// When mounting failed, or the device.
pub fn serve(mountpoint: &Path) -> Result<(), String> {
    let device = device::mount(mountpoint)?;
    rustix::io::ioctl_fionbio(&device, false).map_err(|error| error.to_string())?;
    let mut answers = Answers::new();
    let mut request = vec![0; MAX_IO + PAGE];
    loop {
        let len = match rustix::io::read(&device, &mut request[..]) {
            Ok(len) => len,
            Err(Errno::INTR | Errno::NOENT) => continue,
            Err(Errno::NODEV) => return Ok(()),
            Err(error) => return Err(format!("reading the device: {error}")),
        };
        let header = abi::InHeader::read_from(&request[..len]).ok_or("a request without a header")?;
        if let Some(answer) = answers.to(&header) {
            match answer.send(&device, header.unique) {
                // Whoever asked was killed, or the connection has ended.
                Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
                Err(error) => return Err(format!("answering {}: {error}", header.opcode)),
            }
        }
    }
}
