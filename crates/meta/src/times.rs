//! Times beyond what C++ 3FS keeps, with `posix_times`.
//!
//! POSIX moves a directory's `mtime` and `ctime` when an entry is made or removed. Writing the directory's inode for
//! that would make all changes in one directory conflict, so the time goes to a record of its own (`VTIM`) which is
//! written without reading, and is laid over the inode where it is returned. Servers without the option, and C++
//! ones, ignore the record.
//!
//! It also moves a file's `ctime` when its contents change, and here more is promised: each change that a client tells
//! (`sync`, `close` and truncation) gives a `ctime` larger than any before. Valor's mount relies on it to keep the
//! kernel's page cache from one open to the next.

use bytes::Bytes;
use valor_protocol::InodeId;
use valor_protocol::meta::Inode;
use valor_wire::UtcTime;

use crate::core::Cx;
use crate::error::Result;
use crate::schema::time_key;
use crate::store::{Read, Tx};

/// Notes that entries of a directory change now.
pub(crate) fn touch_directory(cx: &Cx<'_>, tx: &mut Tx, directory: InodeId) {
    if cx.config.posix_times {
        tx.set(&time_key(directory), Bytes::copy_from_slice(&cx.now().0.to_le_bytes()));
    }
}

/// Forgets the record of a directory that goes away, or whose times are set.
pub(crate) fn forget_directory(cx: &Cx<'_>, tx: &mut Tx, directory: InodeId) {
    if cx.config.posix_times {
        tx.clear(&time_key(directory));
    }
}

/// Sets the change time of an inode that is changed now, where C++ 3FS would not.
pub(crate) fn touch_inode(cx: &Cx<'_>, inode: &mut Inode) -> bool {
    if cx.config.posix_times && inode.data.ctime < cx.now() {
        inode.data.ctime = cx.now();
        return true;
    }
    false
}

/// Gives a file whose contents may have changed a `ctime` that it never had before, so that clients can tell versions of
/// contents apart: whatever the clock does, and however often they change within one of its steps.
pub(crate) fn touch_content(cx: &Cx<'_>, inode: &mut Inode) -> bool {
    if cx.config.posix_times {
        inode.data.ctime = cx.now().max(UtcTime(inode.data.ctime.0.saturating_add(1)));
    }
    cx.config.posix_times
}

/// Lays a directory's record over its inode.
pub(crate) async fn overlay(cx: &Cx<'_>, tx: &mut Tx, inode: &mut Inode) -> Result<()> {
    if !cx.config.posix_times || inode.data.as_directory().is_none() {
        return Ok(());
    }
    if let Some(value) = tx.get(&time_key(inode.id), Read::Snapshot).await?
        && let Some(bytes) = value.first_chunk::<8>()
    {
        let time = UtcTime(i64::from_le_bytes(*bytes));
        inode.data.mtime = inode.data.mtime.max(time);
        inode.data.ctime = inode.data.ctime.max(time);
    }
    Ok(())
}
