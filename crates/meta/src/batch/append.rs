//! Appends by several clients at once (an extension for our own clients; C++ peers never see it).
//!
//! `O_APPEND` promises that each write goes to the end of the file as it is then, so that records of several writers
//! never overlap. Clients write to storage directly and metadata learns the length later, so a client first reserves
//! its range here: `AppendReserve` gives an offset no one else was given.
//!
//! **Where reservations live.** In the `payload` of the session under which the file is open (`append END VERSION`):
//! the end of the last range reserved under it, and the version of the length it belongs to. So a reservation lasts
//! exactly as long as its writer: `close`, or the pruning of a dead client's session, removes it with the session. C++
//! servers ignore the payload.
//!
//! **Which offset.** The largest of: the recorded length; the ends reserved by all sessions of the file; the length the
//! client knows (`length_hint`), for what it has written otherwise and not yet synced; and, for a session's first
//! reservation, the length in storage, for what others have written without telling. Other clients' writes that are
//! neither in storage when a session starts to append nor synced later may be overlapped, as they may between any two
//! writers without a lock.
//!
//! **Length.** A reservation does not raise the file's length: a reader never sees a range before something is written
//! behind its start. Writers append out of order; a range that is reserved but not written (yet, or ever, because its
//! client died) reads as zeros once a later one is written. The length is brought up to date by `sync` and `close`
//! with hint or by asking storage, as for any write. A client that buffers must write its buffer out before it
//! reserves, or pass the buffered end as hint, and must not send a `close` with a hint shorter than what it appended.
//!
//! **Truncation** raises the file's version, which makes earlier reservations void. Ranges reserved before and written
//! after a truncation lie beyond its end; the application has to order the two, as it has to without 3FS. A version
//! that rises because storage has less than was recorded (a client died before it wrote what it claimed) is no
//! truncation: reservations are carried over to the new version.
//!
//! **Serialisation.** Reservations run in the owner's batches, so within one server they follow one another; a change
//! of owner makes the transaction of the old one conflict. The caller's session is read with conflict, so that a
//! reservation never brings back a session that was closed or pruned meanwhile.

use valor_protocol::InodeId;
use valor_protocol::meta::Inode;
use valor_protocol::status::code;
use valor_protocol::valor::{AppendReserveReq, AppendReserveRsp};

use super::Batch;
use crate::core::Cx;
use crate::error::{Error, Result, fail};
use crate::schema::FileSession;
use crate::store::{Read, Tx, list_sessions, load_session, store_session};

/// The end reserved under a session, and the version of the length it belongs to.
fn reservation(session: &FileSession) -> Option<(u64, u64)> {
    let (end, version) = session.payload.strip_prefix("append ")?.split_once(' ')?;
    Some((end.parse().ok()?, version.parse().ok()?))
}

fn reserve(session: &mut FileSession, end: u64, version: u64) {
    session.payload = format!("append {end} {version}");
}

/// Ends reserved so far in a batch.
struct Ends {
    reserved: u64,
    /// Length in storage, once asked.
    stored: Option<u64>,
}

impl Batch {
    /// Gives all appends their offsets, in the order of their coming.
    pub(super) async fn append(&mut self, cx: &Cx<'_>, tx: &mut Tx, inode: &Inode) -> Result<()> {
        if self.appends.is_empty() {
            return Ok(());
        }
        let Some(version) = inode.data.as_file().map(|file| file.truncate_ver) else {
            for waiting in &mut self.appends {
                waiting.answer = Some(Err(code::META_NOT_FILE.into()));
            }
            return Ok(());
        };
        let sessions = list_sessions(tx, inode.id).await?;
        let valid = sessions.iter().filter_map(reservation).filter(|(_, of)| *of == version);
        let mut ends = Ends { reserved: valid.map(|(end, _)| end).max().unwrap_or(0), stored: None };
        for waiting in &mut self.appends {
            waiting.answer = Some(match append_one(cx, tx, inode, &waiting.req, &mut ends).await {
                Ok(offset) => Ok(AppendReserveRsp { offset, ..AppendReserveRsp::default() }),
                Err(Error::Status(refusal)) => Err(refusal),
                Err(error) => return Err(error),
            });
        }
        Ok(())
    }
}

async fn append_one(
    cx: &Cx<'_>,
    tx: &mut Tx,
    inode: &Inode,
    req: &AppendReserveReq,
    ends: &mut Ends,
) -> Result<u64> {
    let Some(file) = inode.data.as_file() else {
        return fail(code::META_NOT_FILE, "");
    };
    let session = load_session(tx, inode.id, req.session, Read::Conflict).await?;
    let Some(mut session) = session.filter(|session| session.client_id.uuid == req.base.client.uuid) else {
        return fail(code::META_NOT_FILE, "the file is not open for writing under this session");
    };
    let first = reservation(&session).is_none_or(|(_, of)| of != file.truncate_ver);
    if first && ends.stored.is_none() {
        ends.stored = Some(cx.core.chunks.file_length(inode, cx.config.dynamic_stripe).await?);
    }
    let hint =
        req.length_hint.filter(|hint| hint.truncate_ver == file.truncate_ver).map_or(0, |hint| hint.length);
    let offset = file.length.max(ends.reserved).max(hint).max(ends.stored.unwrap_or(0));
    let Some(end) = offset.checked_add(req.len).filter(|end| *end <= file.layout.max_file_length()) else {
        return fail(code::META_FILE_TOO_LARGE, format!("{} bytes at {offset}", req.len));
    };
    ends.reserved = ends.reserved.max(end);
    reserve(&mut session, end, file.truncate_ver);
    store_session(tx, &session);
    Ok(offset)
}

/// Keeps reservations when the version rises without a truncation.
pub(super) async fn carry_over(tx: &mut Tx, inode: InodeId, from: u64, to: u64) -> Result<()> {
    for mut session in list_sessions(tx, inode).await? {
        if let Some((end, _)) = reservation(&session).filter(|(_, version)| *version == from) {
            let current = load_session(tx, inode, session.session_id, Read::Conflict).await?;
            if current.is_some() {
                reserve(&mut session, end, to);
                store_session(tx, &session);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_of_others_are_no_reservations() {
        let mut session = FileSession::default();
        assert_eq!(reservation(&session), None);
        reserve(&mut session, 12, 3);
        assert_eq!(reservation(&session), Some((12, 3)));
        for payload in ["append", "append 1", "append x 1", "other 1 2"] {
            session.payload = payload.to_owned();
            assert_eq!(reservation(&session), None, "{payload}");
        }
    }
}
