//! `create` of names in one directory (`BatchOperation.cc:343-605`).

use std::collections::BTreeMap;

use bstr::BString;
use valor_protocol::meta::{
    Acl, CreateReq, CreateRsp, DirEntry, IFlags, Inode, InodeType, OpenFlags, Validate,
};
use valor_protocol::status::code;
use valor_wire::Status;

use super::{Batch, Waiting};
use crate::acl;
use crate::core::Cx;
use crate::error::{Error, Result, fail, is_remembered};
use crate::idempotent;
use crate::inode_id::allocate;
use crate::ops::{check_parent, is_replay, may_open, prepare_write, set_initial_stripe};
use crate::path::file_name;
use crate::schema::FileSession;
use crate::store::{
    Read, Tx, entry_inode, load_entry, new_file, new_file_entry, read_conflict_entry, read_conflict_inode,
    store_entry, store_inode, store_session,
};
use crate::times;

impl Batch {
    /// Does all `create`s. Of several for one name the first that may makes the file, the others open it.
    /// True if the directory changed.
    pub(super) async fn create(&mut self, cx: &Cx<'_>, tx: &mut Tx, parent: &mut Inode) -> Result<bool> {
        let Some(directory) = parent.data.as_directory() else {
            for waiting in &mut self.creates {
                waiting.answer = Some(Err(code::META_NOT_DIRECTORY.into()));
            }
            return Ok(false);
        };
        let old_counter = directory.chain_alloc_counter;
        let mut counter = old_counter;
        let mut names: BTreeMap<BString, Vec<usize>> = BTreeMap::new();
        for (index, waiting) in self.creates.iter_mut().enumerate() {
            if let Some((client, request)) = cx.shared_ids(&waiting.req.base)
                && let Some(result) = idempotent::load(tx, client, request).await?
            {
                waiting.answer = Some(result);
                continue;
            }
            match waiting.req.path.path.as_ref().and_then(|path| file_name(path)) {
                Some(name) => names.entry(name.to_owned()).or_default().push(index),
                None => waiting.answer = Some(Err(code::INVALID_ARG.into())),
            }
        }
        for (name, indexes) in names {
            self.create_name(cx, tx, parent, &mut counter, &name, &indexes).await?;
            for index in indexes {
                let Waiting { req, answer, remembered, .. } = &mut self.creates[index];
                let answer =
                    answer.as_ref().filter(|answer| answer.as_ref().map_or_else(is_answer, |_| true));
                if let (Some((client, request)), Some(answer)) = (cx.shared_ids(&req.base), answer) {
                    idempotent::store(cx, tx, client, request, answer);
                    *remembered = true;
                }
            }
        }
        if let Some(directory) = parent.data.as_directory_mut() {
            directory.chain_alloc_counter = counter;
        }
        Ok(counter != old_counter)
    }

    async fn create_name(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        parent: &Inode,
        counter: &mut u32,
        name: &[u8],
        indexes: &[usize],
    ) -> Result<()> {
        let entry = match load_entry(tx, parent.id, name, Read::Snapshot).await {
            Ok(entry) => entry,
            // A name that no entry can have concerns only those who sent it.
            Err(Error::Status(refusal)) if refusal.code == code::META_NAME_TOO_LONG => {
                for index in indexes {
                    self.creates[*index].answer = Some(Err(refusal.clone()));
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(entry) = entry {
            let inode = entry_inode(tx, &entry, Read::Snapshot).await?;
            return self.open_all(cx, tx, &entry, inode, indexes);
        }
        for (position, index) in indexes.iter().enumerate() {
            let waiting = &mut self.creates[*index];
            match make(cx, tx, parent, counter, name, &waiting.req).await {
                Ok((entry, stat)) => {
                    waiting.answer = Some(Ok(CreateRsp { stat: stat.clone(), ..CreateRsp::default() }));
                    return self.open_all(cx, tx, &entry, stat, &indexes[position + 1..]);
                }
                Err(Error::Status(refusal)) => waiting.answer = Some(Err(refusal)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn open_all(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        entry: &DirEntry,
        mut inode: Inode,
        indexes: &[usize],
    ) -> Result<()> {
        let mut dirty = false;
        for index in indexes {
            let waiting = &mut self.creates[*index];
            let req = &waiting.req;
            let opened = if is_replay(entry, &req.base) { Ok(false) } else { open(cx, tx, &mut inode, req) };
            let need_truncate = req.flags.contains(OpenFlags::TRUNC);
            waiting.answer = Some(match opened {
                Ok(changed) => {
                    dirty |= changed;
                    let stat = inode.clone();
                    Ok(CreateRsp { stat, need_truncate, ..CreateRsp::default() })
                }
                Err(Error::Status(refusal)) => Err(refusal),
                Err(error) => return Err(error),
            });
        }
        if dirty {
            read_conflict_inode(tx, inode.id);
            store_inode(tx, &inode)?;
        }
        Ok(())
    }
}

/// Whether the client gets this refusal: after the others the request goes on, with another directory that has the path
/// now, or with newer chain tables.
fn is_answer(refusal: &Status) -> bool {
    let goes_on = matches!(refusal.code, code::META_NOT_FOUND | code::META_INVALID_FILE_LAYOUT);
    !goes_on && is_remembered(refusal)
}

/// Makes a file.
async fn make(
    cx: &Cx<'_>,
    tx: &mut Tx,
    parent: &Inode,
    counter: &mut u32,
    name: &[u8],
    req: &CreateReq,
) -> Result<(DirEntry, Inode)> {
    req.valid()?;
    let Some(directory) = parent.data.as_directory().filter(|_| parent.data.nlink != 0) else {
        return fail(code::META_NOT_FOUND, format!("directory {} is removed", parent.id));
    };
    check_parent(parent, &req.base)?;
    let iflags = parent.data.acl.iflags;
    let layout = req.layout.clone().unwrap_or_else(|| directory.layout.clone());
    let counter = iflags.contains(IFlags::CHAIN_ALLOCATION).then_some(counter);
    let layout = cx.core.chains.allocate(cx.core.cluster.as_ref(), layout, counter)?;
    let new_engine = cx.config.enable_new_chunk_engine || iflags.contains(IFlags::CHUNK_ENGINE);
    let id = allocate(cx, tx, new_engine).await?;
    let user = &req.base.user;
    let gid = if parent.data.acl.perm & acl::SET_GROUP_ID != 0 { parent.data.acl.gid } else { user.gid };
    let acl = Acl { uid: user.uid, gid, perm: req.perm & acl::ALL_PERMS, iflags: IFlags::default() };
    let mut inode = new_file(id, acl, layout, cx.now());
    if cx.config.dynamic_stripe && req.dyn_stripe {
        set_initial_stripe(&cx.config, &mut inode);
    }
    let entry = new_file_entry(parent.id, name, id, req.base.uuid);
    read_conflict_inode(tx, parent.id);
    read_conflict_entry(tx, parent.id, name);
    store_entry(tx, &entry)?;
    store_inode(tx, &inode)?;
    times::touch_directory(cx, tx, parent.id);
    note_session(cx, tx, &inode, req);
    Ok((entry, inode))
}

/// Opens the file that has the name. True if its inode changed.
fn open(cx: &Cx<'_>, tx: &mut Tx, inode: &mut Inode, req: &CreateReq) -> Result<bool> {
    req.valid()?;
    // C++ 3FS looks for a directory first here, and for O_EXCL first when it resolves a path; POSIX wants the latter.
    if req.flags.contains(OpenFlags::EXCL) {
        return fail(code::META_EXISTS, "");
    }
    match inode.data.inode_type() {
        InodeType::File => {}
        InodeType::Directory => return fail(code::META_IS_DIRECTORY, ""),
        // The path has to be resolved again, through the symlink.
        InodeType::Symlink => return fail(code::META_BUSY, "the name belongs to a symlink"),
    }
    may_open(&cx.config, inode, &req.base.user, req.flags)?;
    let dyn_stripe = req.dyn_stripe || req.session.is_none();
    let dirty = prepare_write(inode, &req.base.user, req.flags, dyn_stripe);
    note_session(cx, tx, inode, req);
    Ok(dirty)
}

/// Notes the open file of a client that writes. If the file is removed before this commits, it must not come back.
fn note_session(cx: &Cx<'_>, tx: &mut Tx, inode: &Inode, req: &CreateReq) {
    if let Some(session) = req.session.as_ref().filter(|_| req.flags.writes()) {
        read_conflict_inode(tx, inode.id);
        store_session(tx, &FileSession::new(inode.id, session, cx.precise_now()));
    }
}
