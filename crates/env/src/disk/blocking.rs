//! The machine's files through plain system calls.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, DiskFile, IoFuture, OpenOptions, Space};

/// The machine's disk, every call made on the calling thread.
#[derive(Default)]
pub(super) struct BlockingDisk {}

struct BlockingFile {
    file: std::fs::File,
}

impl Disk for BlockingDisk {
    fn open(&self, path: &Path, options: OpenOptions) -> IoFuture<Arc<dyn DiskFile>> {
        let opened =
            open_file(path, options).map(|file| Arc::new(BlockingFile { file }) as Arc<dyn DiskFile>);
        IoFuture::ready(opened)
    }

    fn create_dir_all(&self, path: &Path) -> IoFuture<()> {
        IoFuture::ready(std::fs::create_dir_all(path))
    }

    fn remove_file(&self, path: &Path) -> IoFuture<()> {
        IoFuture::ready(std::fs::remove_file(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> IoFuture<()> {
        IoFuture::ready(std::fs::rename(from, to))
    }

    fn list(&self, path: &Path) -> IoFuture<Vec<PathBuf>> {
        IoFuture::ready(list(path))
    }

    fn sync_dir(&self, path: &Path) -> IoFuture<()> {
        IoFuture::ready(std::fs::File::open(path).and_then(|dir| dir.sync_all()))
    }

    fn space(&self, path: &Path) -> IoFuture<Space> {
        IoFuture::ready(space(path))
    }

    fn exists(&self, path: &Path) -> IoFuture<bool> {
        IoFuture::ready(path.try_exists())
    }

    fn boot_id(&self) -> [u8; 16] {
        boot_id()
    }
}

impl DiskFile for BlockingFile {
    fn sync_data(&self) -> IoFuture<()> {
        IoFuture::ready(self.file.sync_data())
    }

    fn len(&self) -> IoFuture<u64> {
        IoFuture::ready(self.file.metadata().map(|m| m.len()))
    }

    fn set_len(&self, len: u64) -> IoFuture<()> {
        IoFuture::ready(rustix::fs::ftruncate(self.file.as_fd(), len).map_err(io::Error::from))
    }
}

pub(super) fn open_file(path: &Path, options: OpenOptions) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(options.write)
        .create(options.create && !options.exclusive)
        .create_new(options.create && options.exclusive)
        .truncate(options.truncate)
        .open(path)
}

pub(super) fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries =
        std::fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable();
    Ok(entries)
}

pub(super) fn space(path: &Path) -> io::Result<Space> {
    let s = rustix::fs::statvfs(path)?;
    Ok(Space {
        capacity: s.f_blocks * s.f_frsize,
        free: s.f_bfree * s.f_frsize,
        available: s.f_bavail * s.f_frsize,
    })
}

/// The kernel's random id of this boot; zero where there is none, and then a restart of the machine is not noticed.
pub(super) fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut id = [0; 16];
    let mut digits = text.bytes().filter_map(|b| (b as char).to_digit(16));
    for byte in &mut id {
        let (Some(high), Some(low)) = (digits.next(), digits.next()) else { break };
        *byte = (high * 16 + low) as u8;
    }
    id
}
