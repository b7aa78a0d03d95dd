//! Who may do what (`src/fbs/meta/Schema.cc:25-60`).

use valor_protocol::app::ClientId;
use valor_protocol::meta::{Acl, Directory, IFlags, OpenFlags};
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_wire::Status;

use crate::error::status;

/// Search a directory, or execute.
pub(crate) const EXEC: u32 = 1;
/// Change.
pub(crate) const WRITE: u32 = 2;
/// Read.
pub(crate) const READ: u32 = 4;

/// All permission bits, with set-user-id, set-group-id and sticky.
pub(crate) const ALL_PERMS: u32 = 0o7777;
/// Set-user-id, set-group-id and sticky bit, which a write by someone else clears.
pub(crate) const SPECIAL_BITS: u32 = 0o7000;
/// Set-group-id: entries of the directory inherit its group.
pub(crate) const SET_GROUP_ID: u32 = 0o2000;
/// Sticky: only owners remove entries of the directory.
pub(crate) const STICKY: u32 = 0o1000;

/// Permissions of the root directory, which never change.
pub(crate) const ROOT: Acl = Acl { uid: 0, gid: 0, perm: 0o755, iflags: IFlags::IMMUTABLE };
/// Permissions of the garbage collector's directories.
pub(crate) const GC_ROOT: Acl = Acl { uid: 0, gid: 0, perm: 0o700, iflags: IFlags::IMMUTABLE };

/// The access an open asks for.
pub(crate) fn access_of(flags: OpenFlags) -> u32 {
    match flags.access_mode() {
        OpenFlags::RDONLY => READ,
        OpenFlags::WRONLY => WRITE,
        _ => READ | WRITE,
    }
}

/// Exactly one class of bits counts: the owner's, the group's or the others'. The super-user may do everything.
///
/// # Errors
/// 3008 `NoPermission`.
pub(crate) fn check(acl: &Acl, user: &UserInfo, access: u32) -> Result<(), Status> {
    let needed = if user.is_root() {
        0
    } else if user.uid == acl.uid {
        access << 6
    } else if user.in_group(acl.gid) {
        access << 3
    } else {
        access
    };
    if acl.perm & needed == needed {
        return Ok(());
    }
    let text = format!(
        "user {} gid {} has no access {access:o} to {}:{} {:04o}",
        user.uid, user.gid, acl.uid, acl.gid, acl.perm
    );
    Err(status(code::META_NO_PERMISSION, text))
}

/// Whether `user` may remove a directory with everything in it; `owner` asks for ownership too.
///
/// # Errors
/// 3008 `NoPermission`.
pub(crate) fn check_recursive_remove(acl: &Acl, user: &UserInfo, owner: bool) -> Result<(), Status> {
    if acl.iflags.contains(IFlags::IMMUTABLE) {
        return Err(status(code::META_NO_PERMISSION, "immutable"));
    }
    if !user.is_root() && (owner || acl.perm & STICKY != 0) && user.uid != acl.uid {
        return Err(status(code::META_NO_PERMISSION, "not the owner"));
    }
    check(acl, user, READ | WRITE | EXEC)
}

/// Whether the sticky bit of `parent` keeps `user` from removing or renaming an entry of `owner`.
pub(crate) fn sticky_forbids(parent: &Acl, owner: u32, user: &UserInfo) -> bool {
    parent.perm & STICKY != 0 && !user.is_root() && user.uid != parent.uid && user.uid != owner
}

/// A directory locked by another client refuses changes of its entries.
///
/// # Errors
/// 3101 `NoLock`.
pub(crate) fn check_lock(directory: &Directory, client: &ClientId) -> Result<(), Status> {
    match &directory.lock {
        Some(lock) if lock.client.uuid != client.uuid => Err(status(
            code::META_NO_LOCK,
            format!("locked by {} on {}", lock.client.uuid, lock.client.hostname),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32, gid: u32, groups: &[u32]) -> UserInfo {
        UserInfo { uid, gid, groups: groups.to_vec(), token: String::new() }
    }

    fn acl(perm: u32) -> Acl {
        Acl { uid: 10, gid: 20, perm, iflags: IFlags::default() }
    }

    #[test]
    fn one_class_decides() {
        // The owner's bits count for the owner, even where others have more.
        assert!(check(&acl(0o077), &user(10, 20, &[]), READ).is_err());
        assert!(check(&acl(0o070), &user(11, 20, &[]), READ | WRITE | EXEC).is_ok());
        assert!(check(&acl(0o070), &user(11, 21, &[5, 20]), READ).is_ok());
        assert!(check(&acl(0o007), &user(11, 20, &[]), READ).is_err());
        assert!(check(&acl(0o004), &user(11, 21, &[]), READ).is_ok());
        assert_eq!(
            check(&acl(0o004), &user(11, 21, &[]), READ | WRITE).unwrap_err().code,
            code::META_NO_PERMISSION
        );
        assert!(check(&acl(0), &user(0, 0, &[]), READ | WRITE | EXEC).is_ok());
    }

    #[test]
    fn recursive_remove_needs_owner_or_no_sticky() {
        let other = user(11, 20, &[]);
        assert!(check_recursive_remove(&acl(0o777), &other, false).is_ok());
        assert!(check_recursive_remove(&acl(0o777), &other, true).is_err());
        assert!(check_recursive_remove(&acl(0o1777), &other, false).is_err());
        assert!(check_recursive_remove(&acl(0o1700), &user(10, 1, &[]), true).is_ok());
        assert!(check_recursive_remove(&acl(0o500), &user(10, 1, &[]), true).is_err());
        let immutable = Acl { iflags: IFlags::IMMUTABLE, ..acl(0o777) };
        assert!(check_recursive_remove(&immutable, &user(0, 0, &[]), false).is_err());
    }

    #[test]
    fn sticky_spares_owners_and_root() {
        let parent = acl(0o1777);
        assert!(sticky_forbids(&parent, 12, &user(11, 0, &[])));
        assert!(!sticky_forbids(&parent, 11, &user(11, 0, &[])));
        assert!(!sticky_forbids(&parent, 12, &user(10, 0, &[])));
        assert!(!sticky_forbids(&parent, 12, &user(0, 0, &[])));
        assert!(!sticky_forbids(&acl(0o777), 12, &user(11, 0, &[])));
    }

    #[test]
    fn locks_keep_others_out() {
        let holder = ClientId { uuid: valor_wire::Uuid([1; 16]), hostname: "a".into() };
        let lock = Some(valor_protocol::meta::Lock { client: holder.clone() });
        let directory = Directory { lock, ..Directory::default() };
        assert!(check_lock(&directory, &holder).is_ok());
        assert_eq!(check_lock(&directory, &ClientId::default()).unwrap_err().code, code::META_NO_LOCK);
        assert!(check_lock(&Directory::default(), &ClientId::default()).is_ok());
    }
}
