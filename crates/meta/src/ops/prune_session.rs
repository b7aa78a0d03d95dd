//! `pruneSession` (`src/meta/store/ops/PruneSession.cc`): notes sessions that no `close` will end; the session scan
//! ends them.

use valor_protocol::meta::{PruneSessionReq, PruneSessionRsp, SessionInfo};

use crate::core::{Cx, Operation};
use crate::error::Result;
use crate::schema::{FileSession, PRUNE_INODE};
use crate::store::{Tx, store_session};

/// Notes sessions to be pruned.
pub(crate) struct PruneSession {
    pub(crate) req: PruneSessionReq,
}

impl Operation for PruneSession {
    type Rsp = PruneSessionRsp;

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<PruneSessionRsp> {
        for session in &self.req.sessions {
            let info = SessionInfo { client: self.req.client.clone(), session: *session };
            store_session(tx, &FileSession::new(PRUNE_INODE, &info, cx.precise_now()));
        }
        Ok(PruneSessionRsp::default())
    }
}
