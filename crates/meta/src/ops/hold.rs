//! `hold` (an extension for our own clients): keeps the data of a file that is open for reading only, and about to
//! lose its last name, until the session is closed.

use valor_protocol::status::code;
use valor_protocol::valor::{HoldReq, HoldRsp};

use crate::core::{Cx, Operation};
use crate::error::{Result, fail};
use crate::schema::FileSession;
use crate::store::{Read, Tx, require_inode, store_session};

/// Notes a session as an open for writing would. The client has opened the file before, so permissions are not asked
/// for again; a file that waits for collection can still be held.
pub(crate) struct Hold {
    pub(crate) req: HoldReq,
}

impl Operation for Hold {
    type Rsp = HoldRsp;

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<HoldRsp> {
        let req = &self.req;
        if !req.session.is_valid() {
            return fail(code::INVALID_ARG, "session invalid");
        }
        // With conflict: the collector may delete the inode at the same time.
        let stat = require_inode(tx, req.inode, Read::Conflict).await?;
        if stat.data.as_file().is_none() {
            return fail(code::META_NOT_FILE, "");
        }
        store_session(tx, &FileSession::new(stat.id, &req.session, cx.precise_now()));
        Ok(HoldRsp { stat, ..HoldRsp::default() })
    }
}
