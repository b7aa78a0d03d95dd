//! fsx: random operations on one file, compared with a copy in memory after every step; through read/write, and
//! with mmap mixed in.

mod harness;

use harness::{Cluster, Random};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

const OPERATIONS: usize = 50_000;
const MAX_LEN: u64 = 3 << 20;
const MAX_IO: u64 = 256 << 10;

#[test]
fn fsx_without_mmap() {
    fsx("fsx_without_mmap", false);
}

#[test]
fn fsx_with_mmap() {
    fsx("fsx_with_mmap", true);
}

fn fsx(name: &str, mmap: bool) {
    let mut random = Random::new(name);
    let mut cluster = Cluster::start(&["--chunk-size", "256KB"]);
    let path = cluster.mount().join("fsx");
    let mut checked = Checked::create(&path);
    let mut history: Vec<String> = Vec::new();
    for number in 0..OPERATIONS {
        let operation = checked.random_operation(&mut random, mmap);
        history.push(format!("{number}: {operation:?}"));
        if let Err(problem) = checked.apply(&operation, &path) {
            let last = history.len().saturating_sub(20);
            panic!("{problem}\nlast operations:\n{}", history[last..].join("\n"));
        }
    }
    checked.file.sync_all().expect("fsync");
    drop(checked.file);
    assert!(std::fs::read(&path).expect("read") == checked.model, "contents differ after the last close");
    cluster.down();
    cluster.up();
    assert!(std::fs::read(&path).expect("read") == checked.model, "contents differ after a restart");
    cluster.down();
}

#[derive(Debug)]
enum Operation {
    Write { offset: u64, data: Vec<u8> },
    Read { offset: u64, len: u64 },
    Truncate { len: u64 },
    PunchHole { offset: u64, len: u64 },
    Allocate { offset: u64, len: u64, keep_size: bool },
    MapRead { offset: u64, len: u64 },
    MapWrite { offset: u64, data: Vec<u8> },
    Fsync,
    Reopen,
}

struct Checked {
    file: File,
    model: Vec<u8>,
}

impl Checked {
    fn create(path: &Path) -> Self {
        Self { file: open(path), model: Vec::new() }
    }

    fn random_operation(&self, random: &mut Random, mmap: bool) -> Operation {
        let len = self.model.len() as u64;
        let offset = random.below(MAX_LEN);
        let largest = if random.below(4) == 0 { MAX_IO } else { 8192 };
        let size = 1 + random.below(largest);
        let inside = if len == 0 { 0 } else { random.below(len) };
        match random.below(if mmap { 100 } else { 80 }) {
            0..30 => Operation::Read { offset: inside, len: size },
            30..56 => {
                let offset = if random.below(2) == 0 { inside } else { offset };
                Operation::Write { offset, data: random.bytes(size.min(MAX_LEN - offset) as usize) }
            }
            56..64 => Operation::Truncate { len: if random.below(3) == 0 { inside } else { offset } },
            64..70 => Operation::PunchHole { offset: inside, len: size },
            70..74 => Operation::Allocate {
                offset,
                len: size.min(MAX_LEN - offset),
                keep_size: random.below(2) == 0,
            },
            74..77 => Operation::Fsync,
            77..80 => Operation::Reopen,
            80..90 => Operation::MapRead { offset: inside, len: size },
            _ => Operation::MapWrite { offset: inside, data: random.bytes(size.min(len - inside) as usize) },
        }
    }

    fn apply(&mut self, operation: &Operation, path: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{operation:?}: {error}");
        match operation {
            Operation::Write { offset, data } => {
                self.file.write_all_at(data, *offset).map_err(failed)?;
                self.put(*offset, data);
            }
            Operation::Read { offset, len } => {
                let mut buffer = vec![0xa5; *len as usize];
                let mut have = 0;
                while have < buffer.len() {
                    let read =
                        self.file.read_at(&mut buffer[have..], offset + have as u64).map_err(failed)?;
                    if read == 0 {
                        break;
                    }
                    have += read;
                }
                self.compare(*offset, &buffer[..have], *len)?;
            }
            Operation::Truncate { len } => {
                self.file.set_len(*len).map_err(failed)?;
                self.model.resize(*len as usize, 0);
            }
            Operation::PunchHole { offset, len } => {
                self.fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, *offset, *len)
                    .map_err(failed)?;
                let end = self.model.len().min((offset + len) as usize);
                if let Some(hole) = self.model.get_mut(*offset as usize..end) {
                    hole.fill(0);
                }
            }
            Operation::Allocate { offset, len, keep_size } => {
                if *len == 0 {
                    return Ok(());
                }
                self.fallocate(if *keep_size { libc::FALLOC_FL_KEEP_SIZE } else { 0 }, *offset, *len)
                    .map_err(failed)?;
                if !keep_size && (offset + len) as usize > self.model.len() {
                    self.model.resize((offset + len) as usize, 0);
                }
            }
            Operation::MapRead { offset, len } => {
                let len = (*len).min((self.model.len() as u64).saturating_sub(*offset));
                let data = self.map(*offset, len, None).map_err(failed)?;
                self.compare(*offset, &data, len)?;
            }
            Operation::MapWrite { offset, data } => {
                self.map(*offset, data.len() as u64, Some(data)).map_err(failed)?;
                self.put(*offset, data);
            }
            Operation::Fsync => self.file.sync_all().map_err(failed)?,
            Operation::Reopen => self.file = open(path),
        }
        let size = self.file.metadata().map_err(failed)?.len();
        if size != self.model.len() as u64 {
            return Err(format!("{operation:?}: size is {size}, not {}", self.model.len()));
        }
        Ok(())
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[offset as usize..end].copy_from_slice(data);
    }

    fn compare(&self, offset: u64, got: &[u8], asked: u64) -> Result<(), String> {
        let want = self.model.get(offset as usize..).unwrap_or_default();
        let want = &want[..want.len().min(asked as usize)];
        if got == want {
            return Ok(());
        }
        let place = got.iter().zip(want).position(|(a, b)| a != b);
        Err(format!(
            "read at {offset}: {} bytes, wanted {}; first difference at +{place:?}",
            got.len(),
            want.len()
        ))
    }

    fn fallocate(&self, mode: i32, offset: u64, len: u64) -> std::io::Result<()> {
        // SAFETY: plain system call on a descriptor that lives as long as `self`.
        let result = unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as i64, len as i64) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }

    /// Copies out of, or into, a shared mapping of a range; a written mapping is synced and unmapped.
    fn map(&self, offset: u64, len: u64, write: Option<&[u8]>) -> std::io::Result<Vec<u8>> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let start = offset & !4095;
        let lead = (offset - start) as usize;
        let total = lead + len as usize;
        let protection = libc::PROT_READ | if write.is_some() { libc::PROT_WRITE } else { 0 };
        // SAFETY: a fresh mapping chosen by the kernel; checked below; unmapped before returning.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                total,
                protection,
                libc::MAP_SHARED,
                self.file.as_raw_fd(),
                start as i64,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the mapping covers `total` bytes, all inside the file, and nobody else changes it meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts_mut(base.cast::<u8>().add(lead), len as usize) };
        let mut out = Vec::new();
        let mut result = Ok(());
        match write {
            Some(data) => {
                bytes.copy_from_slice(data);
                // SAFETY: the same mapping.
                if unsafe { libc::msync(base, total, libc::MS_SYNC) } != 0 {
                    result = Err(std::io::Error::last_os_error());
                }
            }
            None => out.extend_from_slice(bytes),
        }
        // SAFETY: the same mapping; `bytes` is not used any more.
        unsafe { libc::munmap(base, total) };
        result.map(|()| out)
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .expect("open the fsx file")
}
