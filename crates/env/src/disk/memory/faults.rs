//! Failures on demand.

use std::io;
use std::path::Path;

/// Kinds of calls that change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// A write to a file.
    Write,
    /// A sync of a file or directory.
    Sync,
    /// A change of a file's length or allocated space.
    Resize,
    /// Creation, renaming or removal of a name.
    Name,
}

/// A failure to come.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which calls it hits; `None`: all that change something.
    pub kind: Option<OpKind>,
    /// Which files: those whose name contains this.
    pub name_contains: String,
    /// How many such calls go well first.
    pub after: u64,
    /// How many fail then.
    pub times: u64,
    /// With which errno. Failing calls change nothing.
    pub errno: i32,
    /// Whether reads are hit instead of changes.
    pub reads: bool,
}

impl Default for Fault {
    fn default() -> Self {
        Fault { kind: None, name_contains: String::new(), after: 0, times: 1, errno: libc::EIO, reads: false }
    }
}

impl Fault {
    fn hits(&mut self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if self.times == 0 || !name.contains(&self.name_contains) {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

#[derive(Default)]
pub(super) struct Faults {
    list: Vec<Fault>,
    pub(super) stop_at: Option<u64>,
    pub(super) stopped: bool,
}

/// The error of a disk that was stopped.
pub(super) fn stopped() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.list.push(fault);
    }

    pub(super) fn check_alive(&self) -> io::Result<()> {
        if self.stopped { Err(stopped()) } else { Ok(()) }
    }

    /// Whether the disk stops in the middle of this change.
    pub(super) fn check(&mut self, number: u64, kind: OpKind, path: &Path) -> io::Result<bool> {
        self.check_alive()?;
        let concerned = |fault: &&mut Fault| !fault.reads && fault.kind.is_none_or(|wanted| wanted == kind);
        for fault in self.list.iter_mut().filter(concerned) {
            if fault.hits(path) {
                return Err(io::Error::from_raw_os_error(fault.errno));
            }
        }
        self.stopped = self.stop_at.is_some_and(|stop| number >= stop);
        Ok(self.stopped)
    }

    pub(super) fn check_read(&mut self, path: &Path) -> io::Result<()> {
        self.check_alive()?;
        match self.list.iter_mut().filter(|fault| fault.reads).find_map(|f| f.hits(path).then_some(f.errno)) {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}
