//! What must not be removed with its directory moves to `/trash/gc-orphans/<user>-<date>/`, with a symlink that tells
//! where it was.

use bstr::{BStr, BString};
use valor_protocol::InodeId;
use valor_protocol::meta::{Acl, DirEntry, IFlags, Inode, InodeType, Layout};
use valor_protocol::status::code;
use valor_protocol::user::UserAttr;
use valor_wire::{UtcTime, Uuid};

use crate::core::Cx;
use crate::error::{Result, fail};
use crate::inode_id::allocate;
use crate::path::join;
use crate::store::{
    Read, Tx, entry_inode, load_entry, new_directory, new_directory_entry, new_symlink, new_symlink_entry,
    remove_entry, store_entry, store_inode,
};

/// Name of the symlink that holds the original path.
const ORIGINAL_PATH: &str = "_hf3fs_original_path";
/// Names tried before giving up.
const MAX_TRIES: u32 = 1000;

/// Permissions of the directories made here.
const DIRECTORY_ACL: Acl = Acl { uid: 0, gid: 0, perm: 0o755, iflags: IFlags(0) };

/// Moves `entry` of the removed directory behind `task` to the orphans.
pub(super) async fn keep(
    cx: &Cx<'_>,
    tx: &mut Tx,
    task: &DirEntry,
    entry: &DirEntry,
    mut inode: Inode,
    user: &UserAttr,
) -> Result<()> {
    let now = cx.precise_now();
    let mut parent = InodeId::ROOT;
    let day = format!("{}-{}", user.name.replace('/', "_"), date(now));
    for name in ["trash", "gc-orphans", &day] {
        parent = open_directory(cx, tx, parent, name).await?;
    }
    if entry.data.r#type == InodeType::File {
        parent = open_directory(cx, tx, parent, &entry.parent.to_string()).await?;
    }
    if let Some(info) = &task.data.gc_info {
        let (directory, path) = match entry.data.r#type {
            InodeType::Directory => (inode.id, join(&info.orig_path, &entry.name)),
            _ => (parent, info.orig_path.clone()),
        };
        note_path(cx, tx, directory, &path, info.user).await?;
    }
    let mut kept = entry.clone();
    kept.parent = parent;
    kept.name = free_name(tx, parent, &entry.name, now).await?;
    tracing::warn!(?entry, to = %parent, name = ?kept.name, "no permission to remove: kept as an orphan");
    if let Some(directory) = inode.data.as_directory_mut() {
        directory.parent = parent;
        directory.name = kept.name.clone();
        store_inode(tx, &inode)?;
    }
    store_entry(tx, &kept)?;
    remove_entry(tx, entry.parent, &entry.name);
    Ok(())
}

/// The directory of that name, or of a similar one if something else has the name.
async fn open_directory(cx: &Cx<'_>, tx: &mut Tx, parent: InodeId, name: &str) -> Result<InodeId> {
    for i in 0..MAX_TRIES {
        let name = if i == 0 {
            BString::from(name)
        } else {
            BString::from(format!("{}.{i}", cut(name.as_bytes(), 240)))
        };
        let name = &name;
        match load_entry(tx, parent, name, Read::Conflict).await? {
            Some(entry) if entry.data.r#type == InodeType::Directory => return Ok(entry.data.id),
            Some(_) => {}
            None => {
                let id = allocate(cx, tx, false).await?;
                let inode = new_directory(id, parent, name, DIRECTORY_ACL, Layout::default(), cx.now());
                store_inode(tx, &inode)?;
                store_entry(tx, &new_directory_entry(parent, name, id, DIRECTORY_ACL, Uuid::ZERO))?;
                return Ok(id);
            }
        }
    }
    fail(code::META_EXISTS, "no free name for a directory of orphans")
}

async fn note_path(cx: &Cx<'_>, tx: &mut Tx, directory: InodeId, path: &BString, user: u32) -> Result<()> {
    for i in 0..i64::from(MAX_TRIES) {
        let name = match i {
            0 => ORIGINAL_PATH.to_owned(),
            i => format!("{ORIGINAL_PATH}.{}", cx.precise_now().0 + i),
        };
        let name = name.as_bytes();
        let Some(entry) = load_entry(tx, directory, name, Read::Conflict).await? else {
            let id = allocate(cx, tx, false).await?;
            store_inode(tx, &new_symlink(id, path, user, user, cx.now()))?;
            return store_entry(tx, &new_symlink_entry(directory, name, id, Uuid::ZERO));
        };
        if entry.data.r#type == InodeType::Symlink {
            let inode = entry_inode(tx, &entry, Read::Conflict).await?;
            if inode.data.as_symlink().is_some_and(|symlink| symlink.target == *path) {
                return Ok(());
            }
        }
    }
    fail(code::META_EXISTS, "no free name for an original path")
}

async fn free_name(tx: &mut Tx, parent: InodeId, name: &BString, now: UtcTime) -> Result<BString> {
    for i in 0..i64::from(MAX_TRIES) {
        let name = match i {
            0 => name.clone(),
            i => BString::from(format!("{}.{}", cut(name, 230), now.0 + i)),
        };
        if load_entry(tx, parent, &name, Read::Conflict).await?.is_none() {
            return Ok(name);
        }
    }
    fail(code::META_EXISTS, "no free name for an orphan")
}

fn cut(name: &[u8], length: usize) -> &BStr {
    BStr::new(&name[..name.len().min(length)])
}

/// `YYYYMMDD` in UTC.
fn date(time: UtcTime) -> String {
    let days = time.0.div_euclid(86_400_000_000);
    // Days since 0000-03-01, in eras of 400 years.
    let day = days + 719_468;
    let era = day.div_euclid(146_097);
    let day = day.rem_euclid(146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    format!("{:04}{month:02}{day:02}", year + era * 400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_utc() {
        for (seconds, text) in [
            (0, "19700101"),
            (951_782_400, "20000229"),
            (1_700_000_000, "20231114"),
            (1_735_689_599, "20241231"),
            (1_735_689_600, "20250101"),
        ] {
            assert_eq!(date(UtcTime(seconds * 1_000_000)), text);
        }
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(cut(&[b'a'; 255], 230).len(), 230);
        assert_eq!(cut(b"ab", 230), "ab");
    }
}
