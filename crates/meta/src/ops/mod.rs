//! The operations, one file each, as units of work within a transaction.

mod get_real_path;
mod hard_link;
mod hold;
mod init_fs;
mod list;
mod lock_directory;
mod mkdirs;
mod open;
mod prune_session;
mod remove;
mod rename;
pub(crate) mod set_attr;
mod stat;
mod symlink;

pub(crate) use get_real_path::GetRealPath;
pub(crate) use hard_link::HardLink;
pub(crate) use hold::Hold;
pub(crate) use init_fs::InitFs;
pub(crate) use list::List;
pub(crate) use lock_directory::LockDirectory;
pub(crate) use mkdirs::Mkdirs;
pub(crate) use open::{Open, may_open, prepare_write, set_initial_stripe};
pub(crate) use prune_session::PruneSession;
pub(crate) use remove::Remove;
pub(crate) use rename::{Existing, Rename, delete_unlinked_symlink};
pub(crate) use set_attr::SetAttr;
pub(crate) use stat::{BatchStat, BatchStatByPath, Stat, TestRpc};
pub(crate) use symlink::MakeSymlink;

use bstr::BString;
use valor_protocol::meta::{Acl, DirEntry, Inode, InodeType, ReqBase};
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_wire::{Status, Uuid};

use crate::acl;
use crate::error::{Result, fail, status};
use crate::path::join;
use crate::store::{Read, Tx, list_entries};

/// Links a file can have.
pub(crate) const MAX_LINKS: u16 = u16::MAX;

/// The entry was made by this very request before.
pub(crate) fn is_replay(entry: &DirEntry, base: &ReqBase) -> bool {
    !entry.data.uuid.is_zero() && entry.data.uuid == base.uuid
}

/// The request's ids, if both are set.
pub(crate) fn request_ids(base: &ReqBase) -> Option<(Uuid, Uuid)> {
    base.check_uuid().is_ok().then_some((base.client.uuid, base.uuid))
}

/// Whether the user may add and remove entries of a directory: write permission, and no lock of another client.
pub(crate) fn check_parent(parent: &Inode, base: &ReqBase) -> std::result::Result<(), Status> {
    acl::check(&parent.data.acl, &base.user, acl::WRITE)?;
    match parent.data.as_directory() {
        Some(directory) => acl::check_lock(directory, &base.client),
        None => Err(status(code::META_NOT_DIRECTORY, "")),
    }
}

/// The path of a directory from the names of its ancestors, innermost first.
pub(crate) fn path_of(ancestors: &[Inode], name: &[u8]) -> BString {
    let mut path = BString::from(name);
    for ancestor in ancestors {
        if let Some(directory) = ancestor.data.as_directory() {
            path = join(&directory.name, &path);
        }
    }
    path
}

/// Entries per list call when subdirectories are checked.
const CHECK_BATCH: usize = 128;
/// A directory with so many entries and no subdirectory among them is taken for one without.
const CHECK_ENOUGH: usize = 1024;

/// Checks that `user` may remove what is below a directory: the permissions of subdirectories, with at most `limit`
/// list calls. The garbage collector checks again, for everything.
///
/// # Errors
/// 3008 `NoPermission`.
pub(crate) async fn check_recursive_remove(
    tx: &mut Tx,
    directory: valor_protocol::InodeId,
    user: &UserInfo,
    limit: u32,
) -> Result<()> {
    let mut left = limit as usize;
    let mut queue = std::collections::VecDeque::from([directory]);
    while let Some(current) = queue.pop_front() {
        let mut prev = BString::default();
        let mut seen = 0;
        let mut found = false;
        while left > 0 {
            left -= 1;
            let page = list_entries(tx, current, &prev, CHECK_BATCH, Read::Snapshot).await?;
            seen += page.entries.len();
            for entry in &page.entries {
                let Some(acl) = &entry.data.dir_acl else { continue };
                found = true;
                check_below(entry, acl, user)?;
                if queue.len() < left {
                    queue.push_back(entry.data.id);
                }
            }
            match page.entries.last() {
                Some(last) if page.more && (found || seen <= CHECK_ENOUGH) => prev = last.name.clone(),
                _ => break,
            }
        }
    }
    Ok(())
}

fn check_below(entry: &DirEntry, acl: &Acl, user: &UserInfo) -> Result<()> {
    debug_assert_eq!(entry.data.r#type, InodeType::Directory);
    match acl::check_recursive_remove(acl, user, false) {
        Ok(()) => Ok(()),
        Err(reason) => {
            let text = format!("{:?} of {}: {}", entry.name, entry.parent, reason.message);
            fail(code::META_NO_PERMISSION, text)
        }
    }
}
