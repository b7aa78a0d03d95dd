//! A file's length, as `sync` and `close` bring it up to date (`BatchOperation.cc:107-303`).

use valor_protocol::meta::{CloseReq, Inode, SyncReq, Validate, VersionedLength};
use valor_protocol::status::code;
use valor_wire::{Status, UtcTime};

use super::Batch;
use crate::core::Cx;
use crate::distributor::Stamp;
use crate::error::{Result, fail, status};
use crate::ops::set_attr::set_time;
use crate::store::{Tx, remove_session};
use crate::times::touch_content;

/// What was learnt about the length in earlier tries of the same batch.
#[derive(Debug, Default)]
pub(super) struct LengthState {
    stamp: Option<Stamp>,
    current: Option<VersionedLength>,
    next: Option<VersionedLength>,
}

impl LengthState {
    /// Starts a try. An answer of storage is used again unless the owner, or the stored length, changed meanwhile.
    pub(super) fn restart(&mut self, stamp: Stamp, inode: &Inode) {
        let stored = inode.data.as_file().map(|file| file.versioned_length());
        let known = stored == self.current || stored == self.next;
        if self.stamp != Some(stamp) || !known {
            *self = Self { stamp: Some(stamp), current: stored, next: None };
        }
    }
}

/// Everything the requests of a batch say about the length.
struct Merged {
    update: bool,
    truncated: bool,
    /// The largest length claimed; none if a request wants storage to be asked.
    hint: Option<VersionedLength>,
}

impl Merged {
    fn add(&mut self, update: bool, hint: Option<VersionedLength>) {
        if update {
            self.update = true;
            // The longest hint counts whatever its version: one that is out of date makes us ask storage.
            self.hint = match (self.hint, hint) {
                (Some(old), Some(new)) => Some(if old.length >= new.length { old } else { new }),
                _ => None,
            };
        }
    }
}

impl Batch {
    /// Does all `sync`s and `close`s. True if the inode changed.
    pub(super) async fn sync_and_close(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        inode: &mut Inode,
    ) -> Result<bool> {
        let mut merged = Merged { update: false, truncated: false, hint: Some(VersionedLength::default()) };
        let mut dirty = false;
        for waiting in &mut self.syncs {
            match sync(cx, inode, &waiting.req, &mut merged) {
                Ok(changed) => dirty |= changed,
                Err(error) => waiting.answer = Some(Err(error)),
            }
        }
        for waiting in &mut self.closes {
            match close(cx, tx, inode, &waiting.req, &mut merged) {
                Ok(changed) => dirty |= changed,
                Err(error) => waiting.answer = Some(Err(error)),
            }
        }
        if merged.truncated {
            merged.update = true;
            merged.hint = None;
        }
        if merged.update {
            dirty |= self.update_length(cx, tx, inode, &merged).await?;
            // Who wants the length updated has written.
            dirty |= touch_content(cx, inode);
        }
        Ok(dirty)
    }

    async fn update_length(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        inode: &mut Inode,
        merged: &Merged,
    ) -> Result<bool> {
        let Some(old) = inode.data.as_file().map(|file| file.versioned_length()) else {
            return fail(code::META_FOUND_BUG, "length of something else than a file");
        };
        let new = match self.length.next {
            Some(next) => next,
            None => next_length(cx, inode, old, merged).await?,
        };
        self.length.next = Some(new);
        if new == old {
            return Ok(false);
        }
        if (new.truncate_ver, new.length) < (old.truncate_ver, old.length) {
            tracing::error!(inode = %inode.id, ?old, ?new, "length goes back in the same version");
            return fail(code::META_FOUND_BUG, "length goes back in the same version");
        }
        let now = Some(cx.now());
        set_time(cx, &mut inode.data.mtime, now, true);
        if new.truncate_ver != old.truncate_ver {
            set_time(cx, &mut inode.data.ctime, now, true);
            if !merged.truncated {
                super::append::carry_over(tx, inode.id, old.truncate_ver, new.truncate_ver).await?;
            }
        }
        if let Some(file) = inode.data.as_file_mut() {
            file.length = new.length;
            file.truncate_ver = new.truncate_ver;
        }
        Ok(true)
    }
}

async fn next_length(
    cx: &Cx<'_>,
    inode: &Inode,
    old: VersionedLength,
    merged: &Merged,
) -> Result<VersionedLength> {
    if let Some(hint) = merged.hint.filter(|_| !cx.config.ignore_length_hint) {
        if old.truncate_ver >= hint.truncate_ver && old.length >= hint.length {
            return Ok(old);
        }
        // C++ compares the hint's length with the version, so do we: at worst storage is asked once more.
        if hint.truncate_ver == old.truncate_ver && hint.length > old.truncate_ver {
            return Ok(hint);
        }
    }
    let length = cx.core.chunks.file_length(inode, cx.config.dynamic_stripe).await?;
    let shorter = merged.truncated || length < old.length;
    Ok(VersionedLength { length, truncate_ver: old.truncate_ver + u64::from(shorter) })
}

/// Times only move forward.
fn move_times(cx: &Cx<'_>, inode: &mut Inode, atime: Option<UtcTime>, mtime: Option<UtcTime>) -> bool {
    let atime = set_time(cx, &mut inode.data.atime, atime, true);
    let mtime = set_time(cx, &mut inode.data.mtime, mtime, true);
    atime || mtime
}

fn not_file() -> Status {
    status(code::META_NOT_FILE, "only files have a length")
}

fn sync(
    cx: &Cx<'_>,
    inode: &mut Inode,
    req: &SyncReq,
    merged: &mut Merged,
) -> std::result::Result<bool, Status> {
    req.valid()?;
    let file = inode.data.as_file();
    if (req.update_length || req.truncated || req.length_hint.is_some()) && file.is_none() {
        return Err(not_file());
    }
    if let (Some(hint), Some(file)) = (req.length_hint, file)
        && hint.truncate_ver > file.truncate_ver
    {
        let text =
            format!("hint of version {} for a file of version {}", hint.truncate_ver, file.truncate_ver);
        return Err(status(code::META_FOUND_BUG, text));
    }
    let mut dirty = move_times(cx, inode, req.atime, req.mtime);
    if req.truncated {
        let time = req.mtime.unwrap_or_else(|| cx.precise_now());
        dirty |= set_time(cx, &mut inode.data.ctime, Some(time), true);
    }
    merged.add(req.update_length, req.length_hint);
    merged.truncated |= req.truncated;
    Ok(dirty)
}

fn close(
    cx: &Cx<'_>,
    tx: &mut Tx,
    inode: &mut Inode,
    req: &CloseReq,
    merged: &mut Merged,
) -> std::result::Result<bool, Status> {
    req.valid()?;
    if (req.session.is_some() || req.update_length) && inode.data.as_file().is_none() {
        return Err(not_file());
    }
    let dirty = move_times(cx, inode, req.atime, req.mtime);
    merged.add(req.update_length, req.length_hint);
    if let Some(session) = &req.session {
        remove_session(tx, inode.id, session.session);
    }
    Ok(dirty)
}
