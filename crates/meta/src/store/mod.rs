//! Inodes, entries and sessions within a transaction.
//!
//! Nothing here knows operations. Reads are either snapshots, or `Conflict` reads which make the transaction fail if
//! someone else changes the key before it commits; every read-modify-write must have read, or must name, its keys
//! with conflict.

mod entry;
mod inode;
mod session;
mod tx;

pub(crate) use entry::{
    entry_inode, is_empty, list_entries, list_entry_range, load_entry, new_directory_entry, new_file_entry,
    new_symlink_entry, read_conflict_entry, remove_entry, store_entry,
};
pub(crate) use inode::{
    ancestors, directory_entry, load_inode, new_directory, new_file, new_symlink, read_conflict_inode,
    remove_inode, require_inode, store_inode,
};
pub(crate) use session::{
    any_session, list_sessions, load_session, prune_list, remove_session, scan_sessions, store_session,
};
pub(crate) use tx::{Read, Tx};
