//! A file system with one read-only file. Usage: `hello MOUNTPOINT`.

use std::ffi::OsStr;
use std::time::Duration;
use xfuse::request::{Getattr, Lookup, Read, Readdir};
use xfuse::{Attr, Context, Data, DirBuffer, Entry, Errno, Filesystem, Session, abi};

const TEXT: &[u8] = b"Hello, world!\n";
const FILE: u64 = 2;
const CACHE: Duration = Duration::from_secs(60);

struct Hello;

fn attributes(ino: u64) -> Result<abi::Attr, Errno> {
    match ino {
        abi::ROOT_ID => Ok(abi::Attr { ino, mode: libc::S_IFDIR | 0o755, nlink: 2, ..Default::default() }),
        FILE => {
            let size = TEXT.len() as u64;
            Ok(abi::Attr { ino, mode: libc::S_IFREG | 0o444, nlink: 1, size, ..Default::default() })
        }
        _ => Err(Errno::ENOENT),
    }
}

impl Filesystem for Hello {
    async fn lookup(&self, _: &Context, request: Lookup<'_>) -> Result<Entry, Errno> {
        if (request.parent, request.name) != (abi::ROOT_ID, OsStr::new("hello")) {
            return Ok(Entry::negative(CACHE));
        }
        let attr = attributes(FILE)?;
        Ok(Entry { nodeid: FILE, generation: 0, entry_valid: CACHE, attr_valid: CACHE, attr })
    }

    async fn getattr(&self, _: &Context, request: Getattr) -> Result<Attr, Errno> {
        Ok(Attr { valid: CACHE, attr: attributes(request.ino)? })
    }

    async fn read(&self, _: &Context, request: Read) -> Result<Data, Errno> {
        let start = (request.offset as usize).min(TEXT.len());
        let end = (start + request.size as usize).min(TEXT.len());
        Ok(bytes::Bytes::from_static(&TEXT[start..end]).into())
    }

    async fn readdir(&self, _: &Context, request: Readdir) -> Result<DirBuffer, Errno> {
        let entries = [(abi::ROOT_ID, "."), (abi::ROOT_ID, ".."), (FILE, "hello")];
        let mut buffer = DirBuffer::new(request.size);
        for (next, (ino, name)) in (1..).zip(entries).skip(request.offset as usize) {
            if !buffer.add(ino, next, attributes(ino)?.mode, OsStr::new(name)) {
                break;
            }
        }
        Ok(buffer)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mountpoint = std::env::args_os().nth(1).ok_or("usage: hello MOUNTPOINT")?;
    Session::builder(Hello).mount(mountpoint)?.wait();
    Ok(())
}
