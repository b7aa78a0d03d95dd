//! Listing directories (`src/fuse/FuseOps.cc`, `readdirplus`), with `.` and `..`, which C++ 3FS lacks.

use crate::cluster::Cluster;
use crate::core::Core;
use crate::errno::OrErrno;
use crate::handle::{DirHandle, Listed};
use crate::ids::{from_ino, is_virtual, to_ino};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use valor_protocol::InodeId;
use valor_protocol::meta::{Inode, InodeType};
use xfuse::request::{Open, Readdir};
use xfuse::{Context, DirBuffer, DirPlusBuffer, Errno, Opened};

/// Entries fetched at a time.
const LIST_LIMIT: i32 = 1024;
/// Directory entries that come before the listing: `.` and `..`.
const DOTS: u64 = 2;

fn mode(kind: InodeType) -> u32 {
    match kind {
        InodeType::File => libc::S_IFREG,
        InodeType::Directory => libc::S_IFDIR,
        InodeType::Symlink => libc::S_IFLNK,
    }
}

impl<C: Cluster> Core<C> {
    pub(crate) fn opendir(&self, _: &Context, _: Open) -> Opened {
        Opened { fh: self.dirs.insert(DirHandle::default()), ..Opened::default() }
    }

    /// The directory's entries after `.` and `..`. A read from the start fetches them anew.
    async fn listing(&self, cx: &Context, r: &Readdir) -> Result<Arc<Vec<Listed>>, Errno> {
        let handle = self.dirs.get(r.fh).ok_or(Errno::EBADF)?;
        let mut listing = handle.listing.lock().await;
        if let Some(known) = listing.as_ref().filter(|_| r.offset != 0) {
            return Ok(known.clone());
        }
        let id = from_ino(r.ino);
        let mut entries = if is_virtual(id) { Vec::new() } else { self.fetch(cx, id).await? };
        entries.extend(self.virtual_list(id));
        let entries = Arc::new(entries);
        *listing = Some(entries.clone());
        Ok(entries)
    }

    async fn fetch(&self, cx: &Context, id: InodeId) -> Result<Vec<Listed>, Errno> {
        let user = self.user(cx);
        let mut entries: Vec<Listed> = Vec::new();
        loop {
            let after = entries.last().map(|entry| entry.name.clone()).unwrap_or_default();
            let page =
                self.run(cx, self.cluster.list(&user, id, after, LIST_LIMIT)).await.or_errno("readdir")?;
            let more = page.more && !page.entries.is_empty();
            entries.extend(page.entries.into_iter().map(|entry| Listed {
                name: entry.name,
                id: entry.data.id,
                kind: entry.data.r#type,
            }));
            if !more {
                break;
            }
        }
        if id == InodeId::ROOT {
            // The virtual directory hides a real one of its name.
            entries.retain(|entry| entry.name != crate::virt::VIRT_NAME);
        }
        Ok(entries)
    }

    /// Number of a directory's parent, as last heard of.
    fn parent(&self, ino: u64) -> u64 {
        match from_ino(ino) {
            InodeId::VIRT => to_ino(InodeId::ROOT),
            id if is_virtual(id) => to_ino(InodeId::VIRT),
            InodeId::ROOT => ino,
            id => self.nodes.get(id).and_then(|node| node.dynamic.lock().parent).map_or(ino, to_ino),
        }
    }

    pub(crate) async fn readdir(&self, cx: &Context, r: Readdir) -> Result<DirBuffer, Errno> {
        let entries = self.listing(cx, &r).await?;
        let mut buffer = DirBuffer::new(r.size);
        for (next, name) in [(1, "."), (2, "..")] {
            if r.offset < next {
                let ino = if next == 1 { r.ino } else { self.parent(r.ino) };
                if !buffer.add(ino, next, libc::S_IFDIR, OsStr::new(name)) {
                    return Ok(buffer);
                }
            }
        }
        for (next, entry) in numbered(&entries, r.offset) {
            if !buffer.add(to_ino(entry.id), next, mode(entry.kind), OsStr::from_bytes(&entry.name)) {
                break;
            }
        }
        Ok(buffer)
    }

    pub(crate) async fn readdirplus(&self, cx: &Context, r: Readdir) -> Result<DirPlusBuffer, Errno> {
        let entries = self.listing(cx, &r).await?;
        let mut buffer = DirPlusBuffer::new(r.size);
        for (next, name) in [(1, "."), (2, "..")] {
            if r.offset < next {
                let ino = if next == 1 { r.ino } else { self.parent(r.ino) };
                if !buffer.add_plain(ino, next, libc::S_IFDIR, OsStr::new(name)) {
                    return Ok(buffer);
                }
            }
        }
        let mut room = DirPlusBuffer::new(r.size.saturating_sub(buffer.used() as u32));
        let fitting: Vec<(u64, &Listed)> = numbered(&entries, r.offset)
            .take_while(|(next, entry)| room.add_plain(1, *next, 0, OsStr::from_bytes(&entry.name)))
            .collect();
        let inodes = self.inodes(cx, &fitting).await?;
        for (next, entry) in fitting {
            let name = OsStr::from_bytes(&entry.name);
            let added = match inodes.get(&entry.id) {
                Some(inode) if is_virtual(entry.id) => buffer.add(&self.plain_entry(cx, inode), next, name),
                Some(inode) => {
                    let node = self.nodes.add(inode);
                    self.readers.note_name(&node, r.ino, name);
                    buffer.add(&self.plain_entry(cx, inode), next, name)
                }
                // It vanished since the listing.
                None => buffer.add_plain(to_ino(entry.id), next, mode(entry.kind), name),
            };
            if !added {
                // Sizes were computed above.
                return Err(Errno::EIO);
            }
        }
        Ok(buffer)
    }

    /// The inodes of entries that still exist.
    async fn inodes(
        &self,
        cx: &Context,
        entries: &[(u64, &Listed)],
    ) -> Result<HashMap<InodeId, Inode>, Errno> {
        let (virt, real): (Vec<InodeId>, Vec<InodeId>) =
            entries.iter().map(|(_, entry)| entry.id).partition(|id| is_virtual(*id));
        let mut inodes: HashMap<InodeId, Inode> =
            virt.into_iter().filter_map(|id| Some((id, self.virtual_inode(cx, id).ok()?))).collect();
        if !real.is_empty() {
            let user = self.user(cx);
            let found = self.run(cx, self.cluster.batch_stat(&user, real)).await.or_errno("readdirplus")?;
            inodes.extend(found.into_iter().flatten().map(|inode| (inode.id, inode)));
        }
        Ok(inodes)
    }
}

/// Entries from a cookie on, each with the cookie of the next one.
fn numbered(entries: &[Listed], offset: u64) -> impl Iterator<Item = (u64, &Listed)> {
    let skip = usize::try_from(offset.saturating_sub(DOTS)).unwrap_or(usize::MAX).min(entries.len());
    (DOTS + 1 + skip as u64..).zip(&entries[skip..])
}
