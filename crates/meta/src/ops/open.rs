//! `open`, and the first half of a `create` with a path (`src/meta/store/ops/Open.cc`).

use bstr::BString;
use valor_protocol::InodeId;
use valor_protocol::meta::{
    AtFlags, CreateReq, CreateRsp, DirEntry, FileFlags, GcInfo, IFlags, Inode, InodeType, OpenFlags, OpenReq,
    PathAt, ReqBase, SessionInfo,
};
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_wire::{Status, Uuid};

use super::is_replay;
use crate::acl;
use crate::config::Config;
use crate::core::{Cx, Operation};
use crate::error::{Result, fail, status};
use crate::inode_id::allocate;
use crate::resolve::Resolver;
use crate::schema::FileSession;
use crate::store::{
    Read, Tx, any_session, entry_inode, new_file, new_file_entry, read_conflict_entry, read_conflict_inode,
    store_entry, store_inode, store_session,
};

/// Opens an existing file or directory.
pub(crate) struct Open {
    base: ReqBase,
    path: PathAt,
    session: Option<SessionInfo>,
    flags: OpenFlags,
    dyn_stripe: bool,
    create: bool,
    /// Where a `create` has to make the file: only the last component of its path is missing.
    pub(crate) missing: Option<(InodeId, BString)>,
    /// Made by an earlier try in place of a truncated file.
    replaced_by: Option<InodeId>,
}

impl From<OpenReq> for Open {
    fn from(req: OpenReq) -> Self {
        Self {
            base: req.base,
            path: req.path,
            session: req.session,
            flags: req.flags,
            dyn_stripe: req.dyn_stripe,
            create: false,
            missing: None,
            replaced_by: None,
        }
    }
}

impl From<&CreateReq> for Open {
    fn from(req: &CreateReq) -> Self {
        Self {
            base: req.base.clone(),
            path: req.path.clone(),
            session: req.session.clone(),
            flags: req.flags,
            dyn_stripe: req.dyn_stripe,
            create: true,
            missing: None,
            replaced_by: None,
        }
    }
}

/// Whether a user may open a file like this: permission bits, the immutable flag and known holes.
///
/// # Errors
/// 3008 `NoPermission`, 3014 `FileHasHole`.
pub(crate) fn may_open(
    config: &Config,
    inode: &Inode,
    user: &UserInfo,
    flags: OpenFlags,
) -> std::result::Result<(), Status> {
    if flags.writes() && inode.data.acl.iflags.contains(IFlags::IMMUTABLE) {
        return Err(status(code::META_NO_PERMISSION, format!("inode {} is immutable", inode.id)));
    }
    acl::check(&inode.data.acl, user, acl::access_of(flags))?;
    let holes = inode.data.as_file().is_some_and(|file| file.flags.contains(FileFlags::HAS_HOLE));
    if holes && !flags.writes() && config.check_file_hole {
        return Err(status(code::META_FILE_HAS_HOLE, format!("inode {} has holes", inode.id)));
    }
    Ok(())
}

/// What opening for write changes in the inode: someone else's write clears the special bits, and a client that cannot
/// extend the stripe fixes it. True if something changed.
pub(crate) fn prepare_write(inode: &mut Inode, user: &UserInfo, flags: OpenFlags, dyn_stripe: bool) -> bool {
    if !flags.writes() {
        return false;
    }
    let mut dirty = false;
    let acl = &mut inode.data.acl;
    if user.uid != acl.uid && acl.perm & acl::SPECIAL_BITS != 0 {
        acl.perm &= !acl::SPECIAL_BITS;
        dirty = true;
    }
    if let Some(file) = inode.data.as_file_mut()
        && !dyn_stripe
        && file.dyn_stripe != 0
        && file.dyn_stripe < file.layout.stripe_size
    {
        file.dyn_stripe = 0;
        dirty = true;
    }
    dirty
}

impl Operation for Open {
    type Rsp = CreateRsp;

    fn read_only(&self) -> bool {
        self.session.is_none()
            && !self.flags.writes()
            && !self.flags.contains(OpenFlags::TRUNC)
            && !self.flags.contains(OpenFlags::CREAT)
    }

    /// What may have an effect is remembered: a session, another file in place of a truncated one.
    fn idempotency(&self, cx: &Cx<'_>) -> Option<(Uuid, Uuid)> {
        let session = self.flags.writes() && self.session.is_some();
        let effect = session || self.flags.contains(OpenFlags::TRUNC);
        cx.shared_ids(&self.base).filter(|_| effect)
    }

    /// A `create` goes on where the name is missing.
    fn refusal_is_answer(&self) -> bool {
        !self.create || self.missing.is_none()
    }

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<CreateRsp> {
        self.open(cx, tx).await
    }
}

impl Open {
    async fn open(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<CreateRsp> {
        self.missing = None;
        // With O_CREAT and O_EXCL a symlink is something that exists, whatever it leads to. C++ 3FS follows it.
        let flags = if self.create && self.flags.contains(OpenFlags::EXCL) {
            AtFlags::SYMLINK_NOFOLLOW
        } else {
            AtFlags::SYMLINK_FOLLOW
        };
        if self.path.path.is_none() {
            let inode = Resolver::new(cx, &self.base.user).inode(tx, &self.path, flags, true).await?;
            return self.existing(cx, tx, None, inode).await;
        }
        let resolved = Resolver::new(cx, &self.base.user).path(tx, &self.path, flags).await?;
        let Some(entry) = resolved.entry else {
            self.missing = resolved.missing.map(|name| (resolved.parent.id(), name));
            return fail(code::META_NOT_FOUND, "");
        };
        let inode = entry_inode(tx, &entry, Read::Snapshot).await?;
        self.existing(cx, tx, Some(entry), inode).await
    }

    async fn existing(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        entry: Option<DirEntry>,
        inode: Inode,
    ) -> Result<CreateRsp> {
        if self.replaced_by == Some(inode.id) {
            return answer(inode, false);
        }
        let is_own = self.create && entry.as_ref().is_some_and(|entry| is_replay(entry, &self.base));
        if self.flags.contains(OpenFlags::EXCL) && !is_own {
            return fail(code::META_EXISTS, "");
        }
        match inode.data.inode_type() {
            InodeType::File => self.file(cx, tx, entry, inode).await,
            InodeType::Directory => {
                if self.flags.writes() || self.flags.contains(OpenFlags::TRUNC) || self.create {
                    return fail(code::META_IS_DIRECTORY, "");
                }
                acl::check(&inode.data.acl, &self.base.user, acl::access_of(self.flags))?;
                answer(inode, false)
            }
            InodeType::Symlink => fail(code::META_NOT_FILE, "a symlink cannot be opened by its inode"),
        }
    }

    async fn file(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        entry: Option<DirEntry>,
        mut inode: Inode,
    ) -> Result<CreateRsp> {
        if self.flags.contains(OpenFlags::DIRECTORY) {
            return fail(code::META_NOT_DIRECTORY, "");
        }
        may_open(&cx.config, &inode, &self.base.user, self.flags)?;
        let truncate = self.flags.contains(OpenFlags::TRUNC);
        if truncate
            && let Some(entry) = &entry
            && let Some(new) = self.replace(cx, tx, entry, &inode).await?
        {
            return answer(new, false);
        }
        let user = &self.base.user;
        let dirty = if self.session.is_some() {
            prepare_write(&mut inode, user, self.flags, self.dyn_stripe)
        } else {
            prepare_write(&mut inode, user, self.flags, true)
        };
        if self.flags.writes() && self.session.is_some() {
            self.store_session(cx, tx, inode.id);
        }
        if dirty {
            read_conflict_inode(tx, inode.id);
            store_inode(tx, &inode)?;
        }
        answer(inode, truncate)
    }

    /// Notes the open file. If the file is removed before this commits, it must not come back to life.
    fn store_session(&self, cx: &Cx<'_>, tx: &mut Tx, inode: InodeId) {
        if let Some(session) = &self.session {
            read_conflict_inode(tx, inode);
            store_session(tx, &FileSession::new(inode, session, cx.precise_now()));
        }
    }

    /// Instead of truncating a large file that nobody writes, gives its name to a new one.
    async fn replace(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        entry: &DirEntry,
        inode: &Inode,
    ) -> Result<Option<Inode>> {
        let Some(file) = inode.data.as_file() else { return Ok(None) };
        if !cx.config.otrunc_replace_file
            || inode.data.nlink != 1
            || file.length < cx.config.otrunc_replace_file_threshold.get()
            || any_session(tx, inode.id, Read::Conflict).await?
        {
            return Ok(None);
        }
        let name = &entry.name;
        let gc_info = GcInfo { user: self.base.user.uid, orig_path: entry.name.clone() };
        crate::gc::remove_entry(cx, tx, entry, &mut inode.clone(), gc_info)?;
        let id = allocate(cx, tx, false).await?;
        let mut new = new_file(id, inode.data.acl, file.layout.clone(), cx.now());
        if cx.config.dynamic_stripe && self.dyn_stripe {
            set_initial_stripe(&cx.config, &mut new);
        }
        read_conflict_inode(tx, entry.parent);
        read_conflict_entry(tx, entry.parent, name);
        store_entry(tx, &new_file_entry(entry.parent, name, id, Uuid::ZERO))?;
        store_inode(tx, &new)?;
        if self.flags.writes() {
            self.store_session(cx, tx, id);
        }
        self.replaced_by = Some(id);
        Ok(Some(new))
    }
}

/// Starts a file's dynamic stripe.
pub(crate) fn set_initial_stripe(config: &Config, inode: &mut Inode) {
    if let Some(file) = inode.data.as_file_mut() {
        file.dyn_stripe = config.dynamic_stripe_initial.min(file.layout.stripe_size);
    }
}

fn answer(stat: Inode, need_truncate: bool) -> Result<CreateRsp> {
    Ok(CreateRsp { stat, need_truncate, ..CreateRsp::default() })
}
