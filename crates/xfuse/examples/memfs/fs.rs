//! The in-memory file system.

use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xfuse::abi::{self, InitFlags};
use xfuse::request::*;
use xfuse::*;

/// Unit of storage. Reads hand out slices of blocks; writes change blocks in place unless a read still uses them.
const BLOCK: usize = 128 << 10;
/// ioctl that returns a constant: `_IOR('x', 1, u32)`.
pub const IOCTL_ANSWER: u32 = 0x8004_7801;
/// What [`IOCTL_ANSWER`] returns.
pub const ANSWER: u32 = 4242;
/// ioctl without a size in its number, so that the kernel must be asked to retry with ranges: `_IO('x', 2)`.
pub const IOCTL_RETRIED: u32 = 0x0000_7802;

/// How the file system behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Open files with `FOPEN_DIRECT_IO`.
    pub direct_io: bool,
    /// Cache lifetime of names and attributes.
    pub ttl: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { direct_io: false, ttl: Duration::from_secs(1) }
    }
}

/// INIT flags for all that is implemented.
pub fn wanted_flags() -> InitFlags {
    InitFlags::DO_READDIRPLUS
        | InitFlags::READDIRPLUS_AUTO
        | InitFlags::HAS_IOCTL_DIR
        | InitFlags::ATOMIC_O_TRUNC
        | InitFlags::AUTO_INVAL_DATA
        | InitFlags::POSIX_LOCKS
}

pub struct MemFs {
    options: Options,
    nodes: Mutex<Nodes>,
    /// References the kernel should hold: lookups minus forgets. A test reads it.
    pub references: AtomicU64,
    /// Whether `destroy` was called.
    pub destroyed: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

struct Nodes {
    map: HashMap<u64, Node>,
    next: u64,
}

struct Node {
    attr: abi::Attr,
    lookups: u64,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    locks: Vec<(u64, abi::FileLock)>,
    kind: Kind,
}

enum Kind {
    Dir { parent: u64, entries: BTreeMap<OsString, u64> },
    File { blocks: Vec<Bytes> },
    Link(Bytes),
    Special,
}

fn now() -> (u64, u32) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs(), now.subsec_nanos())
}

impl Node {
    fn new(ino: u64, mode: u32, cx: &Context, kind: Kind) -> Self {
        let nlink = if matches!(kind, Kind::Dir { .. }) { 2 } else { 1 };
        let attr =
            abi::Attr { ino, mode, nlink, uid: cx.uid(), gid: cx.gid(), blksize: 4096, ..Default::default() };
        let mut node = Node { attr, lookups: 0, xattrs: BTreeMap::new(), locks: Vec::new(), kind };
        (node.attr.atime, node.attr.atimensec) = now();
        node.touch();
        node
    }

    fn touch(&mut self) {
        (self.attr.mtime, self.attr.mtimensec) = now();
        (self.attr.ctime, self.attr.ctimensec) = (self.attr.mtime, self.attr.mtimensec);
    }

    fn entries(&mut self) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
        match &mut self.kind {
            Kind::Dir { entries, .. } => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir { .. })
    }

    fn blocks(&mut self) -> Result<&mut Vec<Bytes>, Errno> {
        match &mut self.kind {
            Kind::File { blocks } => Ok(blocks),
            Kind::Dir { .. } => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    fn set_size(&mut self, size: u64) -> Result<(), Errno> {
        let old = self.attr.size;
        let blocks = self.blocks()?;
        let count = (size as usize).div_ceil(BLOCK);
        blocks.truncate(count);
        blocks.resize_with(count, || Bytes::from_static(&[0; BLOCK]));
        if size < old && !(size as usize).is_multiple_of(BLOCK) {
            let start = size as usize % BLOCK;
            modify(&mut blocks[count - 1], |block| block[start..].fill(0));
        }
        self.attr.size = size;
        self.attr.blocks = size.div_ceil(512);
        self.touch();
        Ok(())
    }

    /// Runs `change` on the parts of blocks that make up a range, which must lie within the file.
    fn each_part(
        &mut self,
        offset: u64,
        len: usize,
        mut change: impl FnMut(usize, &mut [u8]),
    ) -> Result<(), Errno> {
        let blocks = self.blocks()?;
        let mut done = 0;
        while done < len {
            let at = offset as usize + done;
            let (index, start) = (at / BLOCK, at % BLOCK);
            let part = (BLOCK - start).min(len - done);
            modify(&mut blocks[index], |block| change(done, &mut block[start..start + part]));
            done += part;
        }
        self.touch();
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let end = offset + data.len() as u64;
        if end > self.attr.size {
            self.set_size(end)?;
        }
        self.each_part(offset, data.len(), |done, part| part.copy_from_slice(&data[done..done + part.len()]))
    }

    fn read(&mut self, offset: u64, size: usize) -> Result<Vec<Bytes>, Errno> {
        let end = (offset + size as u64).min(self.attr.size) as usize;
        let mut at = offset as usize;
        let blocks = self.blocks()?;
        let mut parts = Vec::new();
        while at < end {
            let (index, start) = (at / BLOCK, at % BLOCK);
            let part = (BLOCK - start).min(end - at);
            parts.push(blocks[index].slice(start..start + part));
            at += part;
        }
        Ok(parts)
    }
}

/// Changes a block in place, or a copy of it if it is in use or static.
fn modify(block: &mut Bytes, change: impl FnOnce(&mut [u8])) {
    let mut own = match std::mem::take(block).try_into_mut() {
        Ok(own) => own,
        Err(shared) => BytesMut::from(&shared[..]),
    };
    change(&mut own);
    *block = own.freeze();
}

impl Nodes {
    fn get(&mut self, ino: u64) -> Result<&mut Node, Errno> {
        self.map.get_mut(&ino).ok_or(Errno::ESTALE)
    }

    fn child(&mut self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        self.get(parent)?.entries()?.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn add(&mut self, cx: &Context, parent: u64, name: &OsStr, mode: u32, kind: Kind) -> Result<u64, Errno> {
        if self.child(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let ino = self.next;
        self.next += 1;
        let is_dir = matches!(kind, Kind::Dir { .. });
        self.map.insert(ino, Node::new(ino, mode, cx, kind));
        let dir = self.get(parent)?;
        dir.entries()?.insert(name.to_os_string(), ino);
        dir.attr.nlink += u32::from(is_dir);
        dir.touch();
        Ok(ino)
    }

    fn remove(&mut self, parent: u64, name: &OsStr, want_dir: bool) -> Result<(), Errno> {
        let ino = self.child(parent, name)?;
        let node = self.get(ino)?;
        match (&node.kind, want_dir) {
            (Kind::Dir { entries, .. }, true) if !entries.is_empty() => return Err(Errno::ENOTEMPTY),
            (Kind::Dir { .. }, false) => return Err(Errno::EISDIR),
            (Kind::Dir { .. }, true) => node.attr.nlink = 0,
            (_, true) => return Err(Errno::ENOTDIR),
            (_, false) => node.attr.nlink -= 1,
        }
        node.touch();
        let dir = self.get(parent)?;
        dir.entries()?.remove(name);
        dir.attr.nlink -= u32::from(want_dir);
        dir.touch();
        self.drop_if_unused(ino);
        Ok(())
    }

    fn drop_if_unused(&mut self, ino: u64) {
        if self.map.get(&ino).is_some_and(|node| node.attr.nlink == 0 && node.lookups == 0) {
            self.map.remove(&ino);
        }
    }

    fn rename(&mut self, r: &Rename<'_>) -> Result<(), Errno> {
        let ino = self.child(r.parent, r.name)?;
        let target = self.child(r.new_parent, r.new_name).ok();
        match (r.flags, target) {
            (libc::RENAME_NOREPLACE, Some(_)) => return Err(Errno::EEXIST),
            (libc::RENAME_EXCHANGE, None) => return Err(Errno::ENOENT),
            (libc::RENAME_EXCHANGE, Some(other)) => {
                self.get(r.parent)?.entries()?.insert(r.name.into(), other);
                self.get(r.new_parent)?.entries()?.insert(r.new_name.into(), ino);
                return Ok(());
            }
            (0 | libc::RENAME_NOREPLACE, None) => {}
            (0, Some(other)) if other == ino => return Ok(()),
            (0, Some(other)) => {
                let is_dir = self.get(other)?.is_dir();
                self.remove(r.new_parent, r.new_name, is_dir)?;
            }
            _ => return Err(Errno::EINVAL),
        }
        self.get(r.parent)?.entries()?.remove(r.name);
        self.get(r.new_parent)?.entries()?.insert(r.new_name.into(), ino);
        let moved = self.get(ino)?;
        if let Kind::Dir { parent, .. } = &mut moved.kind {
            *parent = r.new_parent;
            self.get(r.parent)?.attr.nlink -= 1;
            self.get(r.new_parent)?.attr.nlink += 1;
        }
        self.get(r.parent)?.touch();
        self.get(r.new_parent)?.touch();
        Ok(())
    }

    /// `.`, `..` and the entries of a directory.
    fn list(&mut self, ino: u64) -> Result<Vec<(u64, u32, OsString)>, Errno> {
        let Kind::Dir { parent, entries } = &self.get(ino)?.kind else { return Err(Errno::ENOTDIR) };
        let dots = [(ino, OsString::from(".")), (*parent, OsString::from(".."))];
        let all: Vec<_> =
            dots.into_iter().chain(entries.iter().map(|(name, ino)| (*ino, name.clone()))).collect();
        all.into_iter().map(|(ino, name)| Ok((ino, self.get(ino)?.attr.mode, name))).collect()
    }
}

impl MemFs {
    pub fn new(options: Options) -> Self {
        let kind = Kind::Dir { parent: abi::ROOT_ID, entries: BTreeMap::new() };
        let mut root = Node::new(abi::ROOT_ID, libc::S_IFDIR | 0o755, &Context::detached(0, 0, 0), kind);
        root.lookups = 1;
        let nodes = Nodes { map: HashMap::from([(abi::ROOT_ID, root)]), next: 2 };
        MemFs {
            options,
            nodes: Mutex::new(nodes),
            references: AtomicU64::new(0),
            destroyed: Default::default(),
        }
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().expect("no handler panics while holding the lock")
    }

    fn entry(&self, nodes: &mut Nodes, ino: u64) -> Result<Entry, Errno> {
        let node = nodes.get(ino)?;
        node.lookups += 1;
        self.references.fetch_add(1, Ordering::Relaxed);
        let ttl = self.options.ttl;
        Ok(Entry { nodeid: ino, generation: 0, entry_valid: ttl, attr_valid: ttl, attr: node.attr })
    }

    fn attr(&self, node: &Node) -> Attr {
        Attr { valid: self.options.ttl, attr: node.attr }
    }

    fn opened(&self) -> Opened {
        let flags = if self.options.direct_io {
            abi::FOPEN_DIRECT_IO | abi::FOPEN_PARALLEL_DIRECT_WRITES
        } else {
            abi::FOPEN_KEEP_CACHE
        };
        Opened { fh: 1, flags, backing_id: 0 }
    }
}

impl Filesystem for MemFs {
    async fn destroy(&self) {
        self.destroyed.store(true, Ordering::SeqCst);
    }

    fn forget(&self, ino: u64, nlookup: u64) {
        let mut nodes = self.nodes();
        self.references.fetch_sub(nlookup, Ordering::Relaxed);
        if let Ok(node) = nodes.get(ino) {
            node.lookups -= nlookup;
        }
        nodes.drop_if_unused(ino);
    }

    async fn lookup(&self, _: &Context, r: Lookup<'_>) -> Result<Entry, Errno> {
        let mut nodes = self.nodes();
        match nodes.child(r.parent, r.name) {
            Ok(ino) => self.entry(&mut nodes, ino),
            Err(Errno::ENOENT) if !self.options.ttl.is_zero() => Ok(Entry::negative(self.options.ttl)),
            Err(error) => Err(error),
        }
    }

    async fn getattr(&self, _: &Context, r: Getattr) -> Result<Attr, Errno> {
        Ok(self.attr(self.nodes().get(r.ino)?))
    }

    async fn statx(&self, _: &Context, r: Statx) -> Result<StatxReply, Errno> {
        let mut nodes = self.nodes();
        let attr = &nodes.get(r.ino)?.attr;
        let time = |tv_sec: u64, tv_nsec| abi::SxTime { tv_sec: tv_sec as i64, tv_nsec, reserved: 0 };
        let stat = abi::StatxAttr {
            mask: libc::STATX_BASIC_STATS | libc::STATX_BTIME,
            blksize: attr.blksize,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            mode: attr.mode as u16,
            ino: attr.ino,
            size: attr.size,
            blocks: attr.blocks,
            atime: time(attr.atime, attr.atimensec),
            btime: time(1, 2),
            ctime: time(attr.ctime, attr.ctimensec),
            mtime: time(attr.mtime, attr.mtimensec),
            ..Default::default()
        };
        Ok(StatxReply { valid: self.options.ttl, stat })
    }

    async fn setattr(&self, _: &Context, r: Setattr) -> Result<Attr, Errno> {
        let mut nodes = self.nodes();
        let node = nodes.get(r.ino)?;
        if let Some(size) = r.size {
            node.set_size(size)?;
        }
        let at = |time| match time {
            SetTime::Now => now(),
            SetTime::At(seconds, nanos) => (seconds as u64, nanos),
        };
        let attr = &mut node.attr;
        if let Some(time) = r.atime {
            (attr.atime, attr.atimensec) = at(time);
        }
        if let Some(time) = r.mtime {
            (attr.mtime, attr.mtimensec) = at(time);
        }
        attr.mode = r.mode.map_or(attr.mode, |mode| attr.mode & libc::S_IFMT | mode & 0o7777);
        attr.uid = r.uid.unwrap_or(attr.uid);
        attr.gid = r.gid.unwrap_or(attr.gid);
        (attr.ctime, attr.ctimensec) = now();
        Ok(self.attr(node))
    }

    async fn readlink(&self, _: &Context, r: Readlink) -> Result<Data, Errno> {
        match &self.nodes().get(r.ino)?.kind {
            Kind::Link(target) => Ok(target.clone().into()),
            _ => Err(Errno::EINVAL),
        }
    }

    async fn symlink(&self, cx: &Context, r: Symlink<'_>) -> Result<Entry, Errno> {
        let mut nodes = self.nodes();
        let target = Bytes::copy_from_slice(r.target.as_bytes());
        let size = target.len() as u64;
        let ino = nodes.add(cx, r.parent, r.name, libc::S_IFLNK | 0o777, Kind::Link(target))?;
        nodes.get(ino)?.attr.size = size;
        self.entry(&mut nodes, ino)
    }

    async fn mknod(&self, cx: &Context, r: Mknod<'_>) -> Result<Entry, Errno> {
        let mut nodes = self.nodes();
        let kind = match r.mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File { blocks: Vec::new() },
            _ => Kind::Special,
        };
        let ino = nodes.add(cx, r.parent, r.name, r.mode, kind)?;
        nodes.get(ino)?.attr.rdev = r.rdev;
        self.entry(&mut nodes, ino)
    }

    async fn mkdir(&self, cx: &Context, r: Mkdir<'_>) -> Result<Entry, Errno> {
        let mut nodes = self.nodes();
        let kind = Kind::Dir { parent: r.parent, entries: BTreeMap::new() };
        let ino = nodes.add(cx, r.parent, r.name, libc::S_IFDIR | r.mode, kind)?;
        self.entry(&mut nodes, ino)
    }

    async fn unlink(&self, _: &Context, r: Unlink<'_>) -> Result<(), Errno> {
        self.nodes().remove(r.parent, r.name, false)
    }

    async fn rmdir(&self, _: &Context, r: Rmdir<'_>) -> Result<(), Errno> {
        self.nodes().remove(r.parent, r.name, true)
    }

    async fn rename(&self, _: &Context, r: Rename<'_>) -> Result<(), Errno> {
        self.nodes().rename(&r)
    }

    async fn link(&self, _: &Context, r: Link<'_>) -> Result<Entry, Errno> {
        let mut nodes = self.nodes();
        if nodes.child(r.new_parent, r.new_name).is_ok() {
            return Err(Errno::EEXIST);
        }
        nodes.get(r.new_parent)?.entries()?.insert(r.new_name.into(), r.ino);
        let node = nodes.get(r.ino)?;
        node.attr.nlink += 1;
        node.touch();
        self.entry(&mut nodes, r.ino)
    }

    async fn open(&self, _: &Context, r: Open) -> Result<Opened, Errno> {
        let mut nodes = self.nodes();
        let node = nodes.get(r.ino)?;
        if r.flags & libc::O_TRUNC as u32 != 0 {
            node.set_size(0)?;
        }
        Ok(self.opened())
    }

    async fn create(&self, cx: &Context, r: Create<'_>) -> Result<Created, Errno> {
        let mut nodes = self.nodes();
        let ino = match nodes.child(r.parent, r.name) {
            Ok(_) if r.flags & libc::O_EXCL as u32 != 0 => return Err(Errno::EEXIST),
            Ok(ino) => ino,
            Err(_) => nodes.add(cx, r.parent, r.name, r.mode, Kind::File { blocks: Vec::new() })?,
        };
        Ok(Created { entry: self.entry(&mut nodes, ino)?, opened: self.opened() })
    }

    async fn tmpfile(&self, cx: &Context, r: Tmpfile) -> Result<Created, Errno> {
        let mut nodes = self.nodes();
        let ino = nodes.next;
        nodes.next += 1;
        let mut node = Node::new(ino, r.mode, cx, Kind::File { blocks: Vec::new() });
        node.attr.nlink = 0;
        nodes.map.insert(ino, node);
        Ok(Created { entry: self.entry(&mut nodes, ino)?, opened: self.opened() })
    }

    async fn read(&self, _: &Context, r: Read) -> Result<Data, Errno> {
        Ok(self.nodes().get(r.ino)?.read(r.offset, r.size as usize)?.into())
    }

    async fn write(&self, _: &Context, r: Write) -> Result<Written, Errno> {
        let mut nodes = self.nodes();
        let node = nodes.get(r.ino)?;
        let append = r.flags & libc::O_APPEND as u32 != 0 && !r.from_cache;
        node.write(if append { node.attr.size } else { r.offset }, &r.data)?;
        Ok(Written(r.data.len() as u32))
    }

    async fn statfs(&self, _: &Context, _: Statfs) -> Result<Totals, Errno> {
        Ok(Totals(abi::Kstatfs {
            blocks: 1000,
            bfree: 500,
            bsize: 4096,
            frsize: 4096,
            namelen: 255,
            ..Default::default()
        }))
    }

    async fn flush(&self, _: &Context, r: Flush) -> Result<(), Errno> {
        if let Ok(node) = self.nodes().get(r.ino) {
            node.locks.retain(|(owner, _)| *owner != r.lock_owner);
        }
        Ok(())
    }

    async fn release(&self, _: &Context, _: Release) -> Result<(), Errno> {
        Ok(())
    }

    async fn fsync(&self, _: &Context, _: Fsync) -> Result<(), Errno> {
        Ok(())
    }

    async fn setxattr(&self, _: &Context, r: Setxattr<'_>) -> Result<(), Errno> {
        let mut nodes = self.nodes();
        let xattrs = &mut nodes.get(r.ino)?.xattrs;
        match (r.flags as i32, xattrs.contains_key(r.name)) {
            (libc::XATTR_CREATE, true) => return Err(Errno::EEXIST),
            (libc::XATTR_REPLACE, false) => return Err(Errno::ENODATA),
            _ => xattrs.insert(r.name.into(), r.value.to_vec()),
        };
        Ok(())
    }

    async fn getxattr(&self, _: &Context, r: Getxattr<'_>) -> Result<Xattr, Errno> {
        let mut nodes = self.nodes();
        let value = nodes.get(r.ino)?.xattrs.get(r.name).ok_or(Errno::ENODATA)?;
        Xattr::for_size(value.clone(), r.size)
    }

    async fn listxattr(&self, _: &Context, r: Listxattr) -> Result<Xattr, Errno> {
        let mut nodes = self.nodes();
        let mut names = Vec::new();
        for name in nodes.get(r.ino)?.xattrs.keys() {
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        Xattr::for_size(names, r.size)
    }

    async fn removexattr(&self, _: &Context, r: Removexattr<'_>) -> Result<(), Errno> {
        self.nodes().get(r.ino)?.xattrs.remove(r.name).map(drop).ok_or(Errno::ENODATA)
    }

    async fn opendir(&self, _: &Context, _: Open) -> Result<Opened, Errno> {
        Ok(Opened::default())
    }

    async fn readdir(&self, _: &Context, r: Readdir) -> Result<DirBuffer, Errno> {
        let mut buffer = DirBuffer::new(r.size);
        for (next, (ino, mode, name)) in (1..).zip(self.nodes().list(r.ino)?).skip(r.offset as usize) {
            if !buffer.add(ino, next, mode, &name) {
                break;
            }
        }
        Ok(buffer)
    }

    async fn readdirplus(&self, _: &Context, r: Readdir) -> Result<DirPlusBuffer, Errno> {
        let mut nodes = self.nodes();
        let mut buffer = DirPlusBuffer::new(r.size);
        for (next, (ino, mode, name)) in (1..).zip(nodes.list(r.ino)?).skip(r.offset as usize) {
            let added = if next <= 2 {
                buffer.add_plain(ino, next, mode, &name)
            } else {
                buffer.fits(name.len()) && buffer.add(&self.entry(&mut nodes, ino)?, next, &name)
            };
            if !added {
                break;
            }
        }
        Ok(buffer)
    }

    async fn releasedir(&self, _: &Context, _: Release) -> Result<(), Errno> {
        Ok(())
    }

    async fn fsyncdir(&self, _: &Context, _: Fsync) -> Result<(), Errno> {
        Ok(())
    }

    async fn getlk(&self, _: &Context, r: Lk) -> Result<Lock, Errno> {
        let mut nodes = self.nodes();
        let held = nodes.get(r.ino)?.locks.iter().find(|(owner, lock)| conflict(*owner, lock, &r));
        Ok(Lock(held.map_or(abi::FileLock { typ: libc::F_UNLCK as u32, ..r.lock }, |(_, lock)| *lock)))
    }

    async fn setlk(&self, _: &Context, r: Lk) -> Result<(), Errno> {
        let mut nodes = self.nodes();
        let locks = &mut nodes.get(r.ino)?.locks;
        let unlock = r.lock.typ == libc::F_UNLCK as u32;
        if !unlock && locks.iter().any(|(owner, lock)| conflict(*owner, lock, &r)) {
            return Err(Errno::EAGAIN);
        }
        locks.retain(|(owner, _)| *owner != r.owner);
        if !unlock {
            locks.push((r.owner, r.lock));
        }
        Ok(())
    }

    async fn setlkw(&self, cx: &Context, r: Lk) -> Result<(), Errno> {
        while let Err(error) = self.setlk(cx, r.clone()).await {
            if error != Errno::EAGAIN {
                return Err(error);
            }
            tokio::select! {
                () = cx.interrupted() => return Err(Errno::EINTR),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
        Ok(())
    }

    async fn access(&self, _: &Context, r: Access) -> Result<(), Errno> {
        self.nodes().get(r.ino).map(drop)
    }

    async fn ioctl(&self, _: &Context, r: Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let output = Bytes::copy_from_slice(&ANSWER.to_ne_bytes());
        match r.cmd {
            IOCTL_ANSWER => Ok(IoctlReply::Done { result: 7, output }),
            IOCTL_RETRIED if r.out_size == 0 => {
                let output = vec![abi::IoctlIovec { base: r.arg, len: 4 }];
                Ok(IoctlReply::Retry { input: Vec::new(), output })
            }
            IOCTL_RETRIED => Ok(IoctlReply::Done { result: 0, output }),
            _ => Err(Errno::ENOTTY),
        }
    }

    async fn poll(&self, _: &Context, r: Poll) -> Result<Ready, Errno> {
        Ok(Ready(r.events & (libc::POLLIN | libc::POLLOUT) as u32))
    }

    async fn fallocate(&self, _: &Context, r: Fallocate) -> Result<(), Errno> {
        let mut nodes = self.nodes();
        let node = nodes.get(r.ino)?;
        let end = r.offset + r.length;
        match r.mode as i32 {
            0 if end > node.attr.size => node.set_size(end),
            0 | libc::FALLOC_FL_KEEP_SIZE => Ok(()),
            mode if mode == libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE => {
                let end = end.min(node.attr.size);
                node.each_part(r.offset, end.saturating_sub(r.offset) as usize, |_, part| part.fill(0))
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    async fn lseek(&self, _: &Context, r: Lseek) -> Result<Offset, Errno> {
        let size = self.nodes().get(r.ino)?.attr.size;
        match r.whence as i32 {
            _ if r.offset >= size => Err(Errno::ENXIO),
            libc::SEEK_DATA => Ok(Offset(r.offset)),
            libc::SEEK_HOLE => Ok(Offset(size)),
            _ => Err(Errno::EINVAL),
        }
    }

    async fn copy_file_range(&self, _: &Context, r: CopyFileRange) -> Result<Copied, Errno> {
        let mut nodes = self.nodes();
        let data = nodes.get(r.ino_in)?.read(r.offset_in, r.length as usize)?.concat();
        nodes.get(r.ino_out)?.write(r.offset_out, &data)?;
        Ok(Copied(data.len() as u64))
    }

    async fn syncfs(&self, _: &Context, _: Syncfs) -> Result<(), Errno> {
        Ok(())
    }
}

fn conflict(owner: u64, lock: &abi::FileLock, r: &Lk) -> bool {
    let overlap = lock.start <= r.lock.end && r.lock.start <= lock.end;
    let write = libc::F_WRLCK as u32;
    owner != r.owner && overlap && (lock.typ == write || r.lock.typ == write)
}
