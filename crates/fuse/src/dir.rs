//! Listing directories (`src/fuse/FuseOps.cc`, `readdirplus`), with `.` and `..`, which C++ 3FS lacks.
//!
//! A directory is listed page by page, with the inodes if the kernel wants them (one call where C++ 3FS needs two). A
//! cookie is a position in what was listed through the handle, so what was once given out stays as it is. The rest is
//! listed again, after the last name given out, if it has become old: the kernel would cache it for as long again. What
//! this mount itself has changed since a page was asked for must not reach the kernel as something new:
//!
//! * After a change of a name in the directory the rest is listed again. The kernel lets no change of names run at the
//!   same time as a listing, so one look at the start of a request is enough.
//! * An entry whose inode was heard of since then, or has bytes on their way, goes without its inode. So does one with
//!   several names if a name was removed anywhere, as nobody tells which inode that name was of.

use crate::cluster::Cluster;
use crate::core::Core;
use crate::errno::OrErrno;
use crate::handle::Listed;
use crate::ids::{from_ino, is_virtual, to_ino};
use crate::inode::tick;
use bstr::BString;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use valor_protocol::InodeId;
use valor_protocol::meta::{InodeType, ListRsp};
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_wire::Status;
use xfuse::request::{Open, Readdir};
use xfuse::{Context, DirBuffer, DirPlusBuffer, Errno, Opened};

/// Most entries fetched at a time.
const LIST_LIMIT: u32 = 1024;
/// Fewest entries fetched at a time.
const LIST_LEAST: u32 = 64;
/// Directory entries that come before the listing: `.` and `..`.
const DOTS: u64 = 2;
/// Bytes of a reply that an entry takes, without its name and with a short one.
const ENTRY_SIZE: u32 = 40;
/// The same with attributes.
const ENTRY_PLUS_SIZE: u32 = 168;
/// How old a page may be when it is given to the kernel.
const FRESH: Duration = Duration::from_secs(1);

fn mode(kind: InodeType) -> u32 {
    match kind {
        InodeType::File => libc::S_IFREG,
        InodeType::Directory => libc::S_IFDIR,
        InodeType::Symlink => libc::S_IFLNK,
    }
}

/// What was listed of a directory.
#[derive(Default)]
pub(crate) struct Listing {
    entries: Vec<Listed>,
    /// Entries from the servers; virtual ones come after all of them.
    real: usize,
    /// The last name that the servers told, whether or not it is shown.
    after: BString,
    /// Entries given to the kernel; those after it may be listed again.
    served: usize,
    /// Everything is listed.
    complete: bool,
    /// Size of the next page; pages grow with the directory.
    limit: u32,
    page: Option<Page>,
}

/// The page that was fetched last.
#[derive(Clone, Copy)]
struct Page {
    /// The moment before it was asked for.
    asked: u64,
    at: Instant,
    inodes: bool,
}

impl Listing {
    /// Drops what follows the entries given out.
    fn drop_rest(&mut self) {
        if self.page.take().is_some() {
            self.entries.truncate(self.served);
            if self.served <= self.real {
                self.real = self.served;
                self.after = self.entries.last().map(|entry| entry.name.clone()).unwrap_or_default();
            }
            self.complete = false;
        }
    }

    /// The end was given out: nothing follows, however old it is.
    fn has_ended(&self) -> bool {
        self.complete && self.served == self.entries.len()
    }

    /// Whether servers may have more to tell.
    fn wants_real(&self) -> bool {
        self.entries.len() == self.real
    }

    /// Adds what servers told, without the name that a virtual entry hides.
    fn add_real(&mut self, entries: impl Iterator<Item = Listed>, hidden: Option<&str>) {
        for entry in entries {
            self.after.clone_from(&entry.name);
            if hidden.is_none_or(|hidden| entry.name != hidden) {
                self.entries.push(entry);
            }
        }
        self.real = self.entries.len();
    }

    /// Adds the virtual entries of the directory, less those given out before the rest was dropped.
    fn add_virtual(&mut self, entries: impl Iterator<Item = Listed>) {
        let given = self.entries.len() - self.real;
        self.entries.extend(entries.skip(given));
    }
}

/// When this mount last changed names, as far as the inodes in its table do not tell.
#[derive(Default)]
pub(crate) struct NameChanges {
    /// In the root, which is not in the table.
    root: AtomicU64,
    /// A name that may have been one of several of its inode was removed.
    removal: AtomicU64,
}

/// A change of names in a directory, noted when it has happened or failed.
pub(crate) struct NamesChange<'a, C> {
    core: &'a Core<C>,
    parent: u64,
    removes: bool,
}

impl<C> Drop for NamesChange<'_, C> {
    fn drop(&mut self) {
        let (id, changes, now) = (from_ino(self.parent), &self.core.name_changes, tick());
        if id == InodeId::ROOT {
            changes.root.fetch_max(now, Ordering::AcqRel);
        } else if let Some(node) = self.core.nodes.get(id) {
            node.names_changed.fetch_max(now, Ordering::AcqRel);
        }
        if self.removes {
            changes.removal.fetch_max(now, Ordering::AcqRel);
        }
    }
}

impl<C: Cluster> Core<C> {
    /// To be held while a name in a directory changes.
    pub(crate) fn names_change(&self, parent: u64) -> NamesChange<'_, C> {
        NamesChange { core: self, parent, removes: false }
    }

    /// The same while a name in a directory may be removed from what it was a name of.
    pub(crate) fn name_removal(&self, parent: u64) -> NamesChange<'_, C> {
        NamesChange { core: self, parent, removes: true }
    }

    /// When this mount last changed a name in a directory that is open.
    fn names_changed(&self, id: InodeId) -> u64 {
        if id == InodeId::ROOT {
            return self.name_changes.root.load(Ordering::Acquire);
        }
        self.nodes.get(id).map_or(0, |node| node.names_changed.load(Ordering::Acquire))
    }

    pub(crate) fn opendir(&self, _: &Context, _: Open) -> Opened {
        Opened { fh: self.dirs.insert(Default::default()), ..Opened::default() }
    }

    /// Makes sure that the listing has entries at the request's position, unless there are none.
    async fn fill(&self, cx: &Context, r: &Readdir, listing: &mut Listing, plus: bool) -> Result<(), Errno> {
        let id = from_ino(r.ino);
        if r.offset == 0 {
            let per_entry = if plus { ENTRY_PLUS_SIZE } else { ENTRY_SIZE };
            let limit = (r.size / per_entry).clamp(LIST_LEAST, LIST_LIMIT);
            *listing = Listing { limit, ..Listing::default() };
        }
        let old = |page: &Page| {
            page.at.elapsed() > FRESH || self.names_changed(id) > page.asked || (plus && !page.inodes)
        };
        let position = position(r.offset);
        // What is given out without more is as good as ever.
        if position >= listing.served && !listing.has_ended() && listing.page.as_ref().is_some_and(old) {
            listing.drop_rest();
        }
        while !listing.complete && listing.entries.len() <= position {
            self.fetch(cx, id, listing, plus).await?;
        }
        Ok(())
    }

    /// Fetches one page.
    async fn fetch(&self, cx: &Context, id: InodeId, listing: &mut Listing, plus: bool) -> Result<(), Errno> {
        let (asked, at) = (tick(), Instant::now());
        listing.page = Some(Page { asked, at, inodes: plus });
        if !is_virtual(id) && listing.wants_real() {
            let user = self.user(cx);
            let after = listing.after.clone();
            let page =
                self.run(cx, self.page(&user, id, after, listing.limit, plus)).await.or_errno("readdir")?;
            listing.complete = !page.more || page.entries.is_empty();
            listing.limit = LIST_LIMIT;
            let mut inodes = page.inodes.into_iter();
            let entries = page.entries.into_iter().map(|entry| {
                let inode = inodes.next().filter(|inode| inode.id == entry.data.id).map(Box::new);
                Listed { name: entry.name, id: entry.data.id, kind: entry.data.r#type, inode }
            });
            listing.add_real(entries, (id == InodeId::ROOT).then_some(crate::virt::VIRT_NAME));
        } else {
            listing.complete = true;
        }
        if listing.complete {
            let virt = self.virtual_list(id).into_iter();
            listing.add_virtual(
                virt.map(|entry| Listed {
                    inode: self.virtual_inode(cx, entry.id).ok().map(Box::new),
                    ..entry
                }),
            );
        }
        Ok(())
    }

    async fn page(
        &self,
        user: &UserInfo,
        id: InodeId,
        after: BString,
        limit: u32,
        inodes: bool,
    ) -> Result<ListRsp, Status> {
        let limit = limit as i32;
        match self.cluster.list(user, id, after.clone(), limit, inodes).await {
            // One inode that is missing must not hide all names.
            Err(status) if inodes && status.code == code::META_INCONSISTENT => {
                self.cluster.list(user, id, after, limit, false).await
            }
            result => result,
        }
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

    /// `.` and `..` as far as they come after a position, each with the next one and its inode.
    fn dots(&self, r: &Readdir) -> impl Iterator<Item = (u64, u64, &'static OsStr)> {
        let offset = r.offset;
        [(1, r.ino, "."), (2, self.parent(r.ino), "..")]
            .into_iter()
            .filter(move |(next, ..)| offset < *next)
            .map(|(next, ino, name)| (next, ino, OsStr::new(name)))
    }

    pub(crate) async fn readdir(&self, cx: &Context, r: Readdir) -> Result<DirBuffer, Errno> {
        let handle = self.dirs.get(r.fh).ok_or(Errno::EBADF)?;
        let mut listing = handle.listing.lock().await;
        self.fill(cx, &r, &mut listing, false).await?;
        let mut buffer = DirBuffer::new(r.size);
        for (next, ino, name) in self.dots(&r) {
            if !buffer.add(ino, next, libc::S_IFDIR, name) {
                return Ok(buffer);
            }
        }
        let mut end = listing.served;
        for (index, next) in numbered(&listing.entries, r.offset) {
            let entry = &listing.entries[index];
            if !buffer.add(to_ino(entry.id), next, mode(entry.kind), OsStr::from_bytes(&entry.name)) {
                break;
            }
            end = end.max(index + 1);
        }
        listing.served = end;
        Ok(buffer)
    }

    pub(crate) async fn readdirplus(&self, cx: &Context, r: Readdir) -> Result<DirPlusBuffer, Errno> {
        let handle = self.dirs.get(r.fh).ok_or(Errno::EBADF)?;
        let mut listing = handle.listing.lock().await;
        self.fill(cx, &r, &mut listing, true).await?;
        let mut buffer = DirPlusBuffer::new(r.size);
        for (next, ino, name) in self.dots(&r) {
            if !buffer.add_plain(ino, next, libc::S_IFDIR, name) {
                return Ok(buffer);
            }
        }
        let asked = listing.page.map_or(0, |page| page.asked);
        let removed = self.name_changes.removal.load(Ordering::Acquire) > asked;
        for (index, next) in numbered(&listing.entries, r.offset) {
            if !buffer.fits(listing.entries[index].name.len()) {
                break;
            }
            // An inode is given once: later it would be old.
            let inode = listing.entries[index].inode.take().filter(|_| index >= listing.served);
            let entry = &listing.entries[index];
            let name = OsStr::from_bytes(&entry.name);
            let added = match &inode {
                Some(inode) if is_virtual(entry.id) => buffer.add(&self.plain_entry(cx, inode), next, name),
                Some(inode) if removed && inode.data.nlink > 1 => {
                    buffer.add_plain(to_ino(entry.id), next, mode(entry.kind), name)
                }
                Some(inode) => match self.nodes.add_listed(inode, asked) {
                    Some(node) => {
                        self.readers.note_name(&node, r.ino, name);
                        buffer.add(&self.plain_entry(cx, inode), next, name)
                    }
                    None => buffer.add_plain(to_ino(entry.id), next, mode(entry.kind), name),
                },
                None => buffer.add_plain(to_ino(entry.id), next, mode(entry.kind), name),
            };
            if !added {
                // It was found to fit.
                return Err(Errno::EIO);
            }
            listing.served = listing.served.max(index + 1);
        }
        Ok(buffer)
    }
}

/// The place of a cookie in the listing.
fn position(offset: u64) -> usize {
    usize::try_from(offset.saturating_sub(DOTS)).unwrap_or(usize::MAX)
}

/// Places of entries from a cookie on, each with the cookie of the next one.
fn numbered(entries: &[Listed], offset: u64) -> impl Iterator<Item = (usize, u64)> + use<> {
    let skip = position(offset).min(entries.len());
    (skip..entries.len()).map(|index| (index, index as u64 + DOTS + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str]) -> Vec<Listed> {
        let entry = |name: &&str| Listed {
            name: (*name).into(),
            id: InodeId(9),
            kind: InodeType::Directory,
            inode: None,
        };
        names.iter().map(entry).collect()
    }

    /// What comes of a listing of `real` and `virt` whose rest is dropped after `served` entries.
    fn dropped(real: &[&str], virt: &[&str], served: usize) -> Listing {
        let page = Some(Page { asked: tick(), at: Instant::now(), inodes: false });
        let mut listing = Listing { page, served, complete: true, ..Listing::default() };
        listing.add_real(listed(real).into_iter(), Some("v"));
        listing.add_virtual(listed(virt).into_iter());
        listing.drop_rest();
        listing
    }

    fn names(listing: &Listing) -> String {
        listing.entries.iter().map(|entry| entry.name.to_string()).collect()
    }

    #[test]
    fn servers_are_asked_for_what_follows_the_last_real_name_given_out() {
        for (served, rest, after) in [(0, "", ""), (1, "a", "a"), (2, "ab", "b"), (3, "abw", "w")] {
            let mut listing = dropped(&["a", "b", "v", "w"], &["v"], served);
            assert_eq!((names(&listing).as_str(), listing.after.to_string().as_str()), (rest, after));
            assert!(listing.wants_real() && !listing.complete);
            listing.add_real(listed(&["x"]).into_iter(), Some("v"));
            listing.add_virtual(listed(&["v"]).into_iter());
            assert_eq!(names(&listing), format!("{rest}xv"));
        }
    }

    #[test]
    fn virtual_entries_given_out_are_not_given_again() {
        let mut listing = dropped(&["a"], &["v", "w", "x"], 3);
        assert!(!listing.wants_real(), "the servers have told all before the first virtual one");
        listing.add_virtual(listed(&["v", "w", "x"]).into_iter());
        assert_eq!(names(&listing), "avwx");
    }

    #[test]
    fn a_page_that_shows_nothing_is_not_asked_for_again() {
        let mut listing = Listing::default();
        listing.add_real(listed(&["v"]).into_iter(), Some("v"));
        assert_eq!((names(&listing).as_str(), listing.after.to_string().as_str()), ("", "v"));
    }
}
