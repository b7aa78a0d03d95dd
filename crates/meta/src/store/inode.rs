//! Inodes (`src/meta/store/Inode.cc`).

use valor_protocol::InodeId;
use valor_protocol::meta::{
    Acl, DirEntry, Directory, File, IFlags, Inode, InodeData, InodeKind, Layout, Symlink,
};
use valor_protocol::status::code;
use valor_wire::{UtcTime, from_bytes, to_bytes};

use super::{Read, Tx, list_entries, load_entry};
use crate::acl;
use crate::error::{Result, corrupt, fail};
use crate::schema::inode_key;

/// Reads an inode.
pub(crate) async fn load_inode(tx: &mut Tx, id: InodeId, read: Read) -> Result<Option<Inode>> {
    match tx.get(&inode_key(id), read).await? {
        Some(value) => {
            let data: InodeData =
                from_bytes(value).map_err(|error| corrupt(&format!("inode {id}"), &error))?;
            Ok(Some(Inode { data, id }))
        }
        None => Ok(None),
    }
}

/// Reads an inode that must be there (3000 `NotFound`).
pub(crate) async fn require_inode(tx: &mut Tx, id: InodeId, read: Read) -> Result<Inode> {
    match load_inode(tx, id, read).await? {
        Some(inode) => Ok(inode),
        None => fail(code::META_NOT_FOUND, format!("inode {id} not found")),
    }
}

/// Fails the transaction if the inode changes before it commits.
pub(crate) fn read_conflict_inode(tx: &mut Tx, id: InodeId) {
    tx.read_conflict(&inode_key(id));
}

/// Writes an inode, unless it is one that no operation may have produced.
pub(crate) fn store_inode(tx: &mut Tx, inode: &Inode) -> Result<()> {
    if let Err(reason) = check_storable(inode) {
        tracing::error!(inode = %inode.id, reason, "refused to store an invalid inode");
        return fail(code::META_FOUND_BUG, format!("inode {}: {reason}", inode.id));
    }
    tx.set(&inode_key(inode.id), to_bytes(&inode.data));
    Ok(())
}

fn check_storable(inode: &Inode) -> std::result::Result<(), &'static str> {
    let roots = [(InodeId::ROOT, acl::ROOT), (InodeId::GC_ROOT, acl::GC_ROOT)];
    if let Some((_, expected)) = roots.iter().find(|(id, _)| *id == inode.id) {
        let name = inode.data.as_directory().map(|directory| directory.name.as_slice());
        if !matches!(name, Some(b"" | b"/")) {
            return Err("a tree root must be the directory \"/\"");
        }
        let expected = Acl { iflags: inode.data.acl.iflags, ..*expected };
        return if inode.data.acl == expected { Ok(()) } else { Err("a tree root keeps its permissions") };
    }
    match &inode.data.r#type {
        InodeKind::Directory(directory) => match directory.name.as_slice() {
            b"." | b".." => Err("a directory cannot have that name"),
            name if name.contains(&b'/') => Err("a name cannot contain a separator"),
            _ => Ok(()),
        },
        InodeKind::File(file) => file.layout.valid(false).map_err(|_| "a file needs a complete layout"),
        InodeKind::Symlink(_) => Ok(()),
    }
}

/// Deletes an inode; roots and immutable ones stay.
pub(crate) fn remove_inode(tx: &mut Tx, id: InodeId, iflags: IFlags) -> Result<()> {
    if id.is_tree_root() || iflags.contains(IFlags::IMMUTABLE) {
        tracing::error!(inode = %id, "refused to delete a root or immutable inode");
        return fail(code::META_FOUND_BUG, format!("inode {id} must not be deleted"));
    }
    tx.clear(&inode_key(id));
    Ok(())
}

/// A new file.
pub(crate) fn new_file(id: InodeId, acl: Acl, layout: Layout, now: UtcTime) -> Inode {
    new_inode(id, acl, now, InodeKind::File(File { layout, ..File::default() }))
}

/// A new directory.
pub(crate) fn new_directory(
    id: InodeId,
    parent: InodeId,
    name: &[u8],
    acl: Acl,
    layout: Layout,
    now: UtcTime,
) -> Inode {
    let directory = Directory { parent, layout, name: name.into(), ..Directory::default() };
    new_inode(id, acl, now, InodeKind::Directory(directory))
}

/// A new symlink; everyone may do everything with it, as POSIX says.
pub(crate) fn new_symlink(id: InodeId, target: &[u8], uid: u32, gid: u32, now: UtcTime) -> Inode {
    let acl = Acl { uid, gid, perm: 0o777, iflags: IFlags::default() };
    new_inode(id, acl, now, InodeKind::Symlink(Symlink { target: target.into() }))
}

fn new_inode(id: InodeId, acl: Acl, now: UtcTime, kind: InodeKind) -> Inode {
    let data = InodeData { r#type: kind, acl, nlink: 1, atime: now, ctime: now, mtime: now };
    Inode { data, id }
}

/// The entry that leads to a directory (3000 if it was removed meanwhile).
pub(crate) async fn directory_entry(tx: &mut Tx, inode: &Inode) -> Result<DirEntry> {
    let Some(directory) = inode.data.as_directory() else {
        return fail(code::META_NOT_DIRECTORY, format!("inode {} is not a directory", inode.id));
    };
    let entry = if directory.name.is_empty() {
        search_entry(tx, directory.parent, inode.id).await?
    } else {
        load_entry(tx, directory.parent, &directory.name, Read::Snapshot).await?
    };
    match entry {
        Some(entry) if entry.data.id == inode.id => Ok(entry),
        _ => fail(code::META_NOT_FOUND, format!("directory {} has no entry", inode.id)),
    }
}

/// Directories made by old versions do not know their names.
async fn search_entry(tx: &mut Tx, parent: InodeId, id: InodeId) -> Result<Option<DirEntry>> {
    let mut prev = Vec::new();
    loop {
        let page = list_entries(tx, parent, &prev, 128, Read::Snapshot).await?;
        match page.entries.last() {
            Some(last) => prev = last.name.to_vec(),
            None => return Ok(None),
        }
        if let Some(entry) = page.entries.into_iter().find(|entry| entry.data.id == id) {
            return Ok(Some(entry));
        }
        if !page.more {
            return Ok(None);
        }
    }
}

/// A directory and everything above it up to a root, read with conflict: no ancestor may move until the commit.
pub(crate) async fn ancestors(tx: &mut Tx, directory: InodeId) -> Result<Vec<Inode>> {
    let mut chain: Vec<Inode> = Vec::new();
    let mut current = directory;
    loop {
        if chain.iter().any(|inode| inode.id == current) {
            tracing::error!(inode = %current, "the directory tree contains a loop");
            return fail(code::META_INCONSISTENT, "directory tree contains a loop");
        }
        let inode = require_inode(tx, current, Read::Conflict).await?;
        let Some(parent) = inode.data.as_directory().map(|directory| directory.parent) else {
            return fail(code::META_NOT_DIRECTORY, format!("inode {current} is not a directory"));
        };
        chain.push(inode);
        if parent == current {
            return Ok(chain);
        }
        current = parent;
    }
}
