//! Directory entries (`src/meta/store/DirEntry.cc`).

use bstr::BString;
use bytes::Bytes;
use valor_protocol::InodeId;
use valor_protocol::meta::{Acl, DirEntry, DirEntryData, Inode, InodeType, MAX_NAME_LENGTH};
use valor_protocol::status::code;
use valor_wire::{Uuid, from_bytes, to_bytes};

use super::{Read, Tx, load_inode};
use crate::error::{Error, Result, corrupt, fail};
use crate::schema::{entry_key, key_after, parse_entry_key, prefix_end};

/// Entries in the order of their names.
#[derive(Debug)]
pub(crate) struct EntryPage {
    /// The entries.
    pub(crate) entries: Vec<DirEntry>,
    /// More follow.
    pub(crate) more: bool,
}

fn new_entry(parent: InodeId, name: &[u8], id: InodeId, r#type: InodeType, uuid: Uuid) -> DirEntry {
    let data = DirEntryData { id, r#type, uuid, ..DirEntryData::default() };
    DirEntry { data, parent, name: name.into() }
}

/// A new entry of a file.
pub(crate) fn new_file_entry(parent: InodeId, name: &[u8], id: InodeId, uuid: Uuid) -> DirEntry {
    new_entry(parent, name, id, InodeType::File, uuid)
}

/// A new entry of a symlink.
pub(crate) fn new_symlink_entry(parent: InodeId, name: &[u8], id: InodeId, uuid: Uuid) -> DirEntry {
    new_entry(parent, name, id, InodeType::Symlink, uuid)
}

/// A new entry of a directory, with a copy of its permissions.
pub(crate) fn new_directory_entry(
    parent: InodeId,
    name: &[u8],
    id: InodeId,
    acl: Acl,
    uuid: Uuid,
) -> DirEntry {
    let mut entry = new_entry(parent, name, id, InodeType::Directory, uuid);
    entry.data.dir_acl = Some(acl);
    entry
}

fn decode(parent: InodeId, name: BString, value: Bytes) -> Result<DirEntry> {
    let data: DirEntryData =
        from_bytes(value).map_err(|error| corrupt(&format!("entry {name:?} of {parent}"), &error))?;
    Ok(DirEntry { data, parent, name })
}

/// Reads an entry (3017 for a name that no entry can have).
pub(crate) async fn load_entry(
    tx: &mut Tx,
    parent: InodeId,
    name: &[u8],
    read: Read,
) -> Result<Option<DirEntry>> {
    if name.len() > MAX_NAME_LENGTH {
        return fail(code::META_NAME_TOO_LONG, format!("a name of {} bytes", name.len()));
    }
    match tx.get(&entry_key(parent, name), read).await? {
        Some(value) => decode(parent, name.into(), value).map(Some),
        None => Ok(None),
    }
}

/// Fails the transaction if the entry changes, or comes into being, before it commits.
pub(crate) fn read_conflict_entry(tx: &mut Tx, parent: InodeId, name: &[u8]) {
    tx.read_conflict(&entry_key(parent, name));
}

/// Writes an entry.
pub(crate) fn store_entry(tx: &mut Tx, entry: &DirEntry) -> Result<()> {
    let name = entry.name.as_slice();
    if name.len() > MAX_NAME_LENGTH {
        return fail(code::META_NAME_TOO_LONG, format!("a name of {} bytes", name.len()));
    }
    let directory = entry.data.r#type == InodeType::Directory;
    if matches!(name, b"" | b"." | b"..")
        || name.contains(&b'/')
        || entry.data.id.is_tree_root()
        || directory != entry.data.dir_acl.is_some()
    {
        tracing::error!(?entry, "refused to store an invalid entry");
        return fail(code::META_FOUND_BUG, format!("invalid entry {:?} of {}", entry.name, entry.parent));
    }
    tx.set(&entry_key(entry.parent, name), to_bytes(&entry.data));
    Ok(())
}

/// Deletes an entry.
pub(crate) fn remove_entry(tx: &mut Tx, parent: InodeId, name: &[u8]) {
    tx.clear(&entry_key(parent, name));
}

/// The inode an entry leads to. The pseudo entries `.` and `..` may lead to one that is gone (3000); for a stored entry
/// that is a broken file system (3009).
pub(crate) async fn entry_inode(tx: &mut Tx, entry: &DirEntry, read: Read) -> Result<Inode> {
    let Some(inode) = load_inode(tx, entry.data.id, read).await? else {
        if matches!(entry.name.as_slice(), b"." | b"..") {
            return fail(code::META_NOT_FOUND, format!("inode {} not found", entry.data.id));
        }
        return Err(inconsistent(entry, "has no inode"));
    };
    if inode.data.inode_type() != entry.data.r#type {
        return Err(inconsistent(entry, "has an inode of another type"));
    }
    Ok(inode)
}

fn inconsistent(entry: &DirEntry, what: &str) -> Error {
    tracing::error!(?entry, what, "inconsistent metadata");
    let text = format!("entry {:?} of {} {what}", entry.name, entry.parent);
    Error::Status(crate::error::status(code::META_INCONSISTENT, text))
}

/// Up to `limit` entries whose names come after `prev`.
pub(crate) async fn list_entries(
    tx: &mut Tx,
    parent: InodeId,
    prev: &[u8],
    limit: usize,
    read: Read,
) -> Result<EntryPage> {
    let first = entry_key(parent, prev);
    let begin = if prev.is_empty() { first } else { key_after(&first).to_vec() };
    page(tx, &begin, &prefix_end(&entry_key(parent, b"")), limit, read).await
}

/// Up to `limit` entries with names in `begin..end`.
pub(crate) async fn list_entry_range(
    tx: &mut Tx,
    parent: InodeId,
    begin: &[u8],
    end: &[u8],
    limit: usize,
) -> Result<EntryPage> {
    page(tx, &entry_key(parent, begin), &entry_key(parent, end), limit, Read::Snapshot).await
}

async fn page(tx: &mut Tx, begin: &[u8], end: &[u8], limit: usize, read: Read) -> Result<EntryPage> {
    let page = tx.range(begin, end, limit, read).await?;
    let mut entries = Vec::with_capacity(page.items.len());
    for (key, value) in page.items {
        let Some((parent, name)) = parse_entry_key(&key) else {
            return fail(code::DATA_CORRUPTION, "an entry's key is too short");
        };
        entries.push(decode(parent, BString::from(name.to_vec()), value)?);
    }
    Ok(EntryPage { entries, more: page.more })
}

/// True if a directory has no entries; the transaction fails if one is added before it commits.
pub(crate) async fn is_empty(tx: &mut Tx, directory: InodeId) -> Result<bool> {
    let begin = entry_key(directory, b"");
    let page = tx.range(&begin, &prefix_end(&begin), 1, Read::Conflict).await?;
    Ok(page.items.is_empty())
}
