//! What the file system needs of a cluster, as a trait: the real one is [`Clients`](crate::Clients), tests have theirs.

use bytes::Bytes;
use std::future::Future;
use valor_client::file::FileMap;
use valor_client::meta::{FileChange, Permissions};
use valor_protocol::InodeId;
use valor_protocol::meta::{Inode, ListRsp, LockAction, OpenFlags, PathAt, StatFsRsp, VersionedLength};
use valor_protocol::user::UserInfo;
use valor_wire::{Status, UtcTime, Uuid};

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),* $(,)?) -> $out:ty;)*) => {
        /// Metadata and data of a cluster. Every call acts for `user`; failures are those of the services.
        pub trait Cluster: Send + Sync + 'static {
            $($(#[$doc])* fn $name(&self, user: &UserInfo, $($arg: $type),*)
                -> impl Future<Output = Result<$out, Status>> + Send;)*

            /// Ends an open file in the background, without telling failures.
            fn close_later(&self, user: &UserInfo, inode: InodeId, session: Uuid, change: FileChange);
        }
    };
}

calls! {
    /// An inode; a symlink in last place is not followed.
    stat(path: PathAt) -> Inode;
    /// Space of the cluster.
    stat_fs() -> StatFsRsp;
    /// The path of an inode from the root.
    real_path(inode: InodeId) -> bstr::BString;
    /// Opens a file, for writing under a session.
    open(inode: InodeId, session: Option<Uuid>, flags: OpenFlags) -> Inode;
    /// Creates a file, or opens an existing one.
    create(path: PathAt, session: Option<Uuid>, flags: OpenFlags, perm: u32) -> Inode;
    /// Ends an open file.
    close(inode: InodeId, session: Option<Uuid>, change: FileChange) -> Inode;
    /// Tells the server length and times.
    sync(inode: InodeId, change: FileChange) -> Inode;
    /// Changes owner, permissions or flags.
    set_permission(inode: InodeId, new: Permissions) -> Inode;
    /// Changes times.
    utimes(inode: InodeId, atime: Option<UtcTime>, mtime: Option<UtcTime>) -> Inode;
    /// Sets a file's length.
    truncate(inode: InodeId, length: u64) -> Inode;
    /// Makes a file at least this long.
    extend(inode: InodeId, length: u64) -> Inode;
    /// Makes a file use at least `stripe` chains.
    extend_stripe(inode: InodeId, stripe: u32) -> Inode;
    /// Creates a directory.
    mkdir(path: PathAt, perm: u32) -> Inode;
    /// Creates a symlink.
    symlink(path: PathAt, target: Bytes) -> Inode;
    /// Creates another name of an inode.
    hard_link(inode: InodeId, new: PathAt) -> Inode;
    /// Removes a name that is no directory.
    unlink(path: PathAt) -> ();
    /// Removes an empty directory.
    rmdir(path: PathAt) -> ();
    /// Removes a name of any type; `recursive` also a directory that is not empty.
    remove(path: PathAt, recursive: bool) -> ();
    /// Renames.
    rename(from: PathAt, to: PathAt, to_trash: bool) -> Inode;
    /// Renames with flags of renameat2(2), atomically; 2008 if the server is no Valor.
    rename_with(from: PathAt, to: PathAt, flags: u32) -> Inode;
    /// Entries of a directory after a name, with their inodes if asked for.
    list(inode: InodeId, after: bstr::BString, limit: i32, inodes: bool) -> ListRsp;
    /// Locks or unlocks a directory.
    lock_directory(inode: InodeId, action: LockAction) -> ();
    /// An offset for `len` bytes at the end of a file that nobody else is given; 2008 if the server is no Valor.
    reserve_append(inode: InodeId, session: Uuid, len: u64, hint: Option<VersionedLength>) -> u64;
    /// Keeps the data of a file that is read but about to lose its last name; 2008 if the server is no Valor.
    hold(inode: InodeId, session: Uuid) -> ();
    /// Reads; bytes missing before `file_length` are zeros, elsewhere the read is short.
    read(map: &FileMap, offset: u64, length: u32, file_length: u64) -> Vec<Bytes>;
    /// Writes; the number of bytes written.
    write(map: &FileMap, offset: u64, data: Bytes) -> u64;
    /// Removes the whole chunks of a range.
    punch(map: &FileMap, start: u64, end: u64) -> ();
    /// Which of the chunks `first..first + count` exist.
    chunks_present(map: &FileMap, first: u32, count: u32) -> Vec<bool>;
}
