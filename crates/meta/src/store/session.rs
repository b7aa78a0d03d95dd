//! Sessions of files opened for writing (`src/meta/store/FileSession.cc`).

use valor_protocol::InodeId;
use valor_wire::{Uuid, from_bytes, to_bytes};

use super::{Read, Tx};
use crate::error::{Result, corrupt};
use crate::schema::{FileSession, PRUNE_INODE, key_after, prefix_end, session_key, session_prefix};

fn decode(value: bytes::Bytes) -> Result<FileSession> {
    from_bytes(value).map_err(|error| corrupt("session", &error))
}

/// Writes a session.
pub(crate) fn store_session(tx: &mut Tx, session: &FileSession) {
    tx.set(&session_key(session.inode_id, session.session_id), to_bytes(session));
}

/// Reads a session.
pub(crate) async fn load_session(
    tx: &mut Tx,
    inode: InodeId,
    session: Uuid,
    read: Read,
) -> Result<Option<FileSession>> {
    tx.get(&session_key(inode, session), read).await?.map(decode).transpose()
}

/// Deletes a session.
pub(crate) fn remove_session(tx: &mut Tx, inode: InodeId, session: Uuid) {
    tx.clear(&session_key(inode, session));
}

/// True if someone has the file open for writing.
pub(crate) async fn any_session(tx: &mut Tx, inode: InodeId, read: Read) -> Result<bool> {
    let prefix = session_prefix(inode);
    let page = tx.range(&prefix, &prefix_end(&prefix), 1, read).await?;
    Ok(!page.items.is_empty())
}

/// The sessions of a file.
pub(crate) async fn list_sessions(tx: &mut Tx, inode: InodeId) -> Result<Vec<FileSession>> {
    let prefix = session_prefix(inode);
    let end = prefix_end(&prefix);
    let mut begin = prefix.to_vec();
    let mut sessions = Vec::new();
    loop {
        let page = tx.range(&begin, &end, 1024, Read::Snapshot).await?;
        let last = page.items.last().map(|(key, _)| key_after(key));
        for (_, value) in page.items {
            sessions.push(decode(value)?);
        }
        match last {
            Some(next) if page.more => begin = next.to_vec(),
            _ => return Ok(sessions),
        }
    }
}

/// Up to `limit` sessions of all files, after `prev`, without those that are listed to be pruned.
pub(crate) async fn scan_sessions(
    tx: &mut Tx,
    prev: Option<&FileSession>,
    limit: usize,
) -> Result<(Vec<FileSession>, bool)> {
    let begin = match prev {
        Some(session) => key_after(&session_key(session.inode_id, session.session_id)).to_vec(),
        None => crate::schema::SESSION_PREFIX.to_vec(),
    };
    let page = tx.range(&begin, &session_prefix(PRUNE_INODE), limit, Read::Snapshot).await?;
    let sessions = page.items.into_iter().map(|(_, value)| decode(value)).collect::<Result<_>>()?;
    Ok((sessions, page.more))
}

/// What clients asked to prune, at most `limit`.
pub(crate) async fn prune_list(tx: &mut Tx, limit: usize) -> Result<Vec<FileSession>> {
    let prefix = session_prefix(PRUNE_INODE);
    let page = tx.range(&prefix, &prefix_end(&prefix), limit, Read::Snapshot).await?;
    page.items.into_iter().map(|(_, value)| decode(value)).collect()
}
