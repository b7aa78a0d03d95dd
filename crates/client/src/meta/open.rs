//! Opening, creating, syncing and closing files.

use super::background::Task;
use super::errors::{is_retryable, may_leave_session};
use super::{MetaClient, MetaRequest, MetaResponse};
use valor_protocol::meta::methods::{Close, Create, Open, Sync};
use valor_protocol::meta::*;
use valor_protocol::status::{code, with_message};
use valor_protocol::user::UserInfo;
use valor_protocol::*;

/// What a close or sync tells about a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileChange {
    /// Bring the recorded length up to date.
    pub update_length: bool,
    /// New access time.
    pub atime: Option<UtcTime>,
    /// New modification time.
    pub mtime: Option<UtcTime>,
    /// The length as this client saw it; without it storage is asked.
    pub length_hint: Option<VersionedLength>,
}

/// Responses of open and create.
trait Opened: MetaResponse {
    fn take(self) -> (Inode, bool);
}

impl Opened for OpenRsp {
    fn take(self) -> (Inode, bool) {
        (self.stat, self.need_truncate)
    }
}

impl Opened for CreateRsp {
    fn take(self) -> (Inode, bool) {
        (self.stat, self.need_truncate)
    }
}

impl MetaClient {
    /// Opens a file or directory. `session` names the open file; it is not sent for read access, which leaves nothing on
    /// the server. With O_TRUNC the file is empty afterwards.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn open(
        &self,
        user: &UserInfo,
        path: PathAt,
        session: Option<Uuid>,
        flags: OpenFlags,
    ) -> Result<Inode, Status> {
        let session = session.filter(|_| flags.writes());
        let config = self.config.load();
        let req = OpenReq {
            base: if session.is_some() { self.named_base(user) } else { self.base(user) },
            path,
            session: session.map(|session| self.session(session)),
            flags,
            remove_chunks_batch_size: config.remove_chunks_batch_size,
            dyn_stripe: config.dynamic_stripe,
        };
        drop(config);
        self.open_or_create::<Open>(user, req, session, flags).await
    }

    /// Creates a file, or opens an existing one.
    ///
    /// # Errors
    /// 3007 with O_EXCL if it exists. As [`MetaClient::call`].
    pub async fn create(
        &self,
        user: &UserInfo,
        path: PathAt,
        session: Option<Uuid>,
        flags: OpenFlags,
        perm: u32,
        layout: Option<Layout>,
    ) -> Result<Inode, Status> {
        let layout = layout.map(|layout| self.with_table_version(layout)).transpose()?;
        let config = self.config.load();
        let req = CreateReq {
            base: self.named_base(user),
            path,
            session: session.map(|session| self.session(session)),
            flags,
            perm: perm & 0o7777,
            layout,
            remove_chunks_batch_size: config.remove_chunks_batch_size,
            dyn_stripe: config.dynamic_stripe,
        };
        drop(config);
        self.open_or_create::<Create>(user, req, session, flags).await
    }

    async fn open_or_create<M>(
        &self,
        user: &UserInfo,
        req: M::Req,
        session: Option<Uuid>,
        flags: OpenFlags,
    ) -> Result<Inode, Status>
    where
        M: Method,
        M::Req: MetaRequest + Validate,
        M::Rsp: Opened,
    {
        let mut may_be_open = false;
        let result = self.call_noting::<M>(req, |error| may_be_open |= may_leave_session(error.code)).await;
        if result.is_err()
            && may_be_open
            && let Some(session) = session
        {
            self.prune_session(session);
        }
        let (inode, need_truncate) = result?.take();
        if !need_truncate {
            return Ok(inode);
        }
        if !flags.contains(OpenFlags::TRUNC) {
            return Err(with_message(code::META_FOUND_BUG, "truncation wanted without O_TRUNC"));
        }
        let truncated = self.truncate_inode(user, &inode, 0).await;
        if truncated.is_err() {
            let change = FileChange { mtime: Some(UtcTime(self.env.utc_now().0)), ..FileChange::default() };
            // What failed is told; closing goes on in the background if need be.
            let _ = self.close(user, inode.id, session, change).await;
        }
        truncated
    }

    /// Brings a file's recorded length and times up to date.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn sync(&self, user: &UserInfo, inode: InodeId, change: FileChange) -> Result<Inode, Status> {
        let FileChange { update_length, atime, mtime, length_hint } = change;
        let base = self.base(user);
        let req = SyncReq { base, inode, update_length, atime, mtime, truncated: false, length_hint };
        Ok(self.call::<Sync>(req).await?.stat)
    }

    /// Ends an open file. If that fails in a way that may pass, it goes on in the background.
    ///
    /// # Errors
    /// As [`MetaClient::call`].
    pub async fn close(
        &self,
        user: &UserInfo,
        inode: InodeId,
        session: Option<Uuid>,
        change: FileChange,
    ) -> Result<Inode, Status> {
        let FileChange { update_length, atime, mtime, length_hint } = change;
        let session = session.map(|session| self.session(session));
        let base = self.base(user);
        let req = CloseReq { base, inode, session, update_length, atime, mtime, length_hint };
        match self.call::<Close>(req.clone()).await {
            Ok(rsp) => Ok(rsp.stat),
            Err(error) => {
                if req.session.is_some() && is_retryable(error.code) {
                    self.start_task(Task::Close(Box::new(req)));
                }
                Err(error)
            }
        }
    }

    /// Ends an open file in the background.
    pub fn close_later(&self, user: &UserInfo, inode: InodeId, session: Uuid, change: FileChange) {
        let FileChange { update_length, atime, mtime, length_hint } = change;
        let (base, session) = (self.base(user), Some(self.session(session)));
        let req = CloseReq { base, inode, session, update_length, atime, mtime, length_hint };
        self.start_task(Task::Close(Box::new(req)));
    }
}
