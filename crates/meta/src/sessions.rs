//! Sessions whose clients are gone (`src/meta/components/SessionManager.cc`). Only the first server looks for them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use valor_protocol::meta::{CloseReq, ReqBase, SessionInfo};
use valor_protocol::status::code;
use valor_wire::{Status, UtcTime, Uuid};

use crate::core::{Core, Cx, Work};
use crate::error::{Error, Result, status};
use crate::schema::{FileSession, PRUNE_INODE};
use crate::service::Meta;
use crate::store::{Tx, prune_list, remove_session, scan_sessions};

/// Sessions to be pruned that one scan looks for.
const MAX_PRUNE: usize = 128 << 10;
/// Sessions deleted per transaction at the end of a scan.
const PRUNE_BATCH: usize = 64;
/// A session this young is spared: its client may be new to mgmtd. Microseconds.
const YOUNG: i64 = 60_000_000;
/// Grace beyond `session_timeout`. Microseconds.
const GRACE: i64 = 10_000_000;

/// True on the server that does what one server has to do.
pub(crate) fn is_first_server(core: &Core) -> bool {
    core.cluster.meta_servers().first() == Some(&core.node)
}

/// Clients that mgmtd hears.
///
/// # Errors
/// 6004 while mgmtd does not know them all yet.
async fn live_clients(core: &Core, now: UtcTime) -> std::result::Result<HashSet<Uuid>, Status> {
    let rsp = core.cluster.client_sessions().await?;
    if rsp.bootstrapping {
        return Err(status(code::MGMTD_CLIENT_ROUTING_INFO_NOT_READY, "mgmtd does not know all clients yet"));
    }
    let timeout = core.config.get().session_manager.session_timeout.get();
    let oldest = now.0 - i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX / 2) - GRACE;
    let mut clients = HashSet::new();
    for session in rsp.sessions.iter().filter(|session| session.last_extend.0 >= oldest) {
        match session.client_id.parse() {
            Ok(uuid) => drop(clients.insert(uuid)),
            Err(_) => tracing::warn!(client = session.client_id, "client id is not a uuid"),
        }
    }
    Ok(clients)
}

struct PruneList;

impl Work for PruneList {
    /// Sessions to be pruned, and when that was asked for.
    type Output = HashMap<Uuid, UtcTime>;

    async fn run(&mut self, _: &Cx<'_>, tx: &mut Tx) -> Result<Self::Output> {
        let records = prune_list(tx, MAX_PRUNE).await?;
        Ok(records.into_iter().map(|record| (record.session_id, record.timestamp)).collect())
    }
}

struct Page<'a> {
    prev: Option<&'a FileSession>,
}

impl Work for Page<'_> {
    type Output = (Vec<FileSession>, bool);

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<Self::Output> {
        scan_sessions(tx, self.prev, cx.config.session_manager.scan_batch as usize).await
    }
}

/// Deletes sessions, and the wishes to prune them.
struct Delete<'a> {
    sessions: &'a [FileSession],
}

impl Work for Delete<'_> {
    type Output = ();

    async fn run(&mut self, _: &Cx<'_>, tx: &mut Tx) -> Result<()> {
        for session in self.sessions {
            remove_session(tx, session.inode_id, session.session_id);
            remove_session(tx, PRUNE_INODE, session.session_id);
        }
        Ok(())
    }
}

/// One scan over all sessions; gives the number of those that ended.
pub(crate) async fn scan(meta: &Arc<Meta>) -> Result<usize> {
    let core = meta.core();
    let now = UtcTime(core.env.utc_now().0);
    let mut prune = core.transact(PruneList).await?;
    let live = live_clients(core, now).await.map_err(Error::Status)?;
    let mut total = 0;
    let mut prev: Option<FileSession> = None;
    loop {
        let (sessions, more) = core.transact(Page { prev: prev.as_ref() }).await?;
        let dead: Vec<FileSession> = sessions
            .iter()
            .filter(|session| {
                prune.remove(&session.session_id).is_some()
                    || (!live.contains(&session.client_id.uuid) && session.timestamp.0 + YOUNG <= now.0)
            })
            .cloned()
            .collect();
        end(meta, &dead).await?;
        total += dead.len();
        match sessions.into_iter().next_back() {
            Some(last) if more => prev = Some(last),
            _ => break,
        }
    }
    // What is left to prune has no session: it was closed after all, or never came into being. An open that is still on
    // its way would make it after all, and nobody would end it: so the wish is kept for a while.
    let done: Vec<FileSession> = prune
        .into_iter()
        .filter(|(_, asked)| asked.0 + YOUNG <= now.0)
        .map(|(session_id, _)| FileSession { inode_id: PRUNE_INODE, session_id, ..FileSession::default() })
        .collect();
    for batch in done.chunks(PRUNE_BATCH) {
        core.transact(Delete { sessions: batch }).await?;
    }
    Ok(total)
}

async fn end(meta: &Arc<Meta>, dead: &[FileSession]) -> Result<()> {
    let core = meta.core();
    let mut rest = Vec::new();
    for session in dead {
        tracing::info!(inode = %session.inode_id, session = %session.session_id, host = session.client_id.hostname,
            "session of a dead client");
        if core.config.get().session_manager.sync_on_prune_session {
            match close(meta, session).await {
                Ok(()) => {}
                Err(error) if error.code == code::META_NOT_FOUND => {}
                Err(error) => tracing::warn!(inode = %session.inode_id, %error, "length is not up to date"),
            }
        }
        rest.push(session.clone());
    }
    for batch in rest.chunks(PRUNE_BATCH) {
        core.transact(Delete { sessions: batch }).await?;
    }
    Ok(())
}

async fn close(meta: &Arc<Meta>, session: &FileSession) -> std::result::Result<(), Status> {
    let client = session.client_id.clone();
    let req = CloseReq {
        base: ReqBase { client: client.clone(), ..ReqBase::default() },
        inode: session.inode_id,
        session: Some(SessionInfo { client, session: session.session_id }),
        update_length: true,
        ..CloseReq::default()
    };
    meta.close(req).await.map(|_| ())
}
