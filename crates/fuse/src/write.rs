//! Writing: collecting bytes, and sending them while the writer goes on (`src/fuse/FuseOps.cc`, `flushBuf`).
//!
//! A file has one buffer. Full buffers are sent by tasks, several at a time; a request of the kernel that is a whole
//! aligned buffer by itself is sent as it came, without a copy. Whoever needs the bytes on the servers (fsync, close,
//! a read of the same range, truncation) waits for the tasks; their errors go to every open handle.

use crate::cluster::Cluster;
use crate::core::Core;
use crate::errno::{self, OrErrno};
use crate::handle::FileHandle;
use crate::ids::to_ino;
use crate::inode::Node;
use crate::pipeline::Flight;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::MutexGuard;
use tokio::time::timeout;
use valor_protocol::meta::{OpenFlags, VersionedLength};
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_wire::{Status, Uuid};
use xfuse::Errno;

/// Bytes collected for one file, contiguous.
pub(crate) struct Buffer {
    /// Where they go. For appends to servers that reserve offsets, only a guess.
    offset: u64,
    data: BytesMut,
    user: UserInfo,
    /// The session under which an offset is to be reserved, for appends.
    append: Option<Uuid>,
}

/// What to write and how.
pub(crate) struct Incoming {
    pub(crate) user: UserInfo,
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    /// `O_DIRECT`: done when the reply says so.
    pub(crate) direct: bool,
    /// `O_APPEND`: at the end, wherever that is.
    pub(crate) append: bool,
}

/// Room a buffer begins with; it grows with what is written.
const FIRST_ROOM: usize = 64 << 10;

impl Buffer {
    fn new(offset: u64, user: &UserInfo, append: Option<Uuid>) -> Self {
        Buffer { offset, data: BytesMut::with_capacity(FIRST_ROOM), user: user.clone(), append }
    }

    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

impl<C: Cluster> Core<C> {
    /// Takes bytes from a handle. Gives how many were taken.
    pub(crate) async fn write(
        self: &Arc<Self>,
        handle: &FileHandle,
        incoming: Incoming,
    ) -> Result<u32, Errno> {
        let node = &handle.node;
        let _kept = self.nodes.keep(node);
        handle.take_error()?;
        let session = self.session_for_write(handle).await?;
        let append = session.filter(|_| incoming.append && !self.no_extensions.load(Ordering::Relaxed));
        // Until the bytes are on their way, close(2) of another descriptor must not end what their place is reserved under.
        let held = append.map(|_| session);
        let capacity = self.configs.global().io_bufs.write_buf_size.get() as usize;
        let size = incoming.data.len() as u32;
        let mut writer = node.writer.lock().await;
        if incoming.direct || capacity == 0 {
            self.send_buffer(node, &mut writer).await?;
            let offset = match append {
                Some(session) => {
                    let reserved = self.reserve(node, &incoming.user, session, size.into(), incoming.offset);
                    reserved.await.or_errno("append")?
                }
                None => incoming.offset,
            };
            // Entered under the lock, so that a truncation waits for it; written without, so that others may write too.
            let flight = node.pipeline.enter(offset..offset + u64::from(size), u64::MAX).await;
            drop((writer, held));
            return self.write_through(node, Incoming { offset, ..incoming }, flight).await;
        }
        match append {
            Some(session) => self.collect_append(node, &mut writer, incoming, session, capacity).await?,
            None => self.collect(node, &mut writer, incoming, capacity).await?,
        }
        if writer.is_some() {
            self.mark_dirty(node.id());
        }
        Ok(size)
    }

    /// Adds bytes to the buffer, sending it whenever it is full.
    async fn collect(
        self: &Arc<Self>,
        node: &Arc<Node>,
        writer: &mut Option<Buffer>,
        incoming: Incoming,
        capacity: usize,
    ) -> Result<(), Errno> {
        let Incoming { user, mut offset, data: mut rest, .. } = incoming;
        while !rest.is_empty() {
            if writer.as_ref().is_some_and(|buffer| buffer.append.is_some() || buffer.end() != offset) {
                self.send_buffer(node, writer).await?;
            }
            // Buffers end at multiples of their size, so that they meet the kernel's requests and chunk boundaries.
            let room = capacity - (offset % capacity as u64) as usize;
            let part = rest.split_to(room.min(rest.len()));
            let end = offset + part.len() as u64;
            node.dynamic.lock().accept(end);
            if writer.is_none() && part.len() == capacity {
                self.send(node, user.clone(), offset, part).await;
            } else {
                let buffer = writer.get_or_insert_with(|| Buffer::new(offset, &user, None));
                buffer.data.extend_from_slice(&part);
                node.pipeline.set_buffered(buffer.offset..end, buffer.data.len() as u64);
                if end.is_multiple_of(capacity as u64) {
                    self.send_buffer(node, writer).await?;
                }
            }
            offset = end;
        }
        Ok(())
    }

    /// Adds an append to the buffer. It stays in one piece, so that no other client's append comes between its bytes.
    async fn collect_append(
        self: &Arc<Self>,
        node: &Arc<Node>,
        writer: &mut Option<Buffer>,
        incoming: Incoming,
        session: Uuid,
        capacity: usize,
    ) -> Result<(), Errno> {
        let Incoming { user, offset, data, .. } = incoming;
        let fits =
            |buffer: &Buffer| buffer.append == Some(session) && buffer.data.len() + data.len() <= capacity;
        if !writer.as_ref().is_some_and(fits) {
            self.send_buffer(node, writer).await?;
        }
        let buffer = writer.get_or_insert_with(|| Buffer::new(offset, &user, Some(session)));
        buffer.data.extend_from_slice(&data);
        // The end of the file is not known before an offset is reserved: any read may ask for it.
        node.pipeline.set_buffered(0..u64::MAX, buffer.data.len() as u64);
        if buffer.data.len() >= capacity {
            self.send_buffer(node, writer).await?;
        }
        Ok(())
    }

    /// Writes at once and waits for it. May take less than was given.
    async fn write_through(
        self: &Arc<Self>,
        node: &Arc<Node>,
        incoming: Incoming,
        _flight: Flight,
    ) -> Result<u32, Errno> {
        let Incoming { user, offset, data, .. } = incoming;
        let written = self.write_pass(node, &user, offset, data).await.or_errno("write")?;
        self.mark_dirty(node.id());
        Ok(written as u32)
    }

    /// The handle's session, opened again if close(2) of another descriptor has ended it. Writing goes on without one
    /// if that is refused, since permissions were checked when the handle was opened and may have changed.
    async fn session_for_write<'a>(
        &self,
        handle: &'a FileHandle,
    ) -> Result<MutexGuard<'a, Option<Uuid>>, Errno> {
        if !handle.writes() {
            return Err(Errno::EBADF);
        }
        let mut session = handle.session.lock().await;
        if session.is_none() {
            // A writer that was killed may have closed before its write got here.
            if handle.released.load(Ordering::Acquire) {
                return Err(Errno::EBADF);
            }
            let new = self.new_session();
            let flags = OpenFlags(handle.flags & libc::O_ACCMODE);
            match self.cluster.open(&handle.user, handle.node.id(), Some(new), flags).await {
                Ok(inode) => {
                    handle.node.refresh(&inode);
                    *session = Some(new);
                    handle.node.unprotected.fetch_sub(1, Ordering::AcqRel);
                }
                Err(status) => {
                    tracing::debug!(inode = %handle.node.id(), %status, "no session for a late write")
                }
            }
        }
        Ok(session)
    }

    /// Starts to send the buffer, if there is one. Errs only if no offset could be had for an append; the bytes are
    /// lost then, and all handles learn of it.
    async fn send_buffer(
        self: &Arc<Self>,
        node: &Arc<Node>,
        writer: &mut Option<Buffer>,
    ) -> Result<(), Errno> {
        let Some(Buffer { offset, data, user, append }) = writer.take() else { return Ok(()) };
        let reserved = match append {
            Some(session) => self.reserve(node, &user, session, data.len() as u64, offset).await,
            None => Ok(offset),
        };
        match reserved {
            Ok(at) => {
                if append.is_some() {
                    node.dynamic.lock().accept(at + data.len() as u64);
                    if at != offset {
                        // The kernel took the file's end from its own, older knowledge, and may have cached bytes there.
                        self.notifier().inval_inode(to_ino(node.id()), 0, 0).detach();
                    }
                }
                self.send(node, user, at, data.freeze()).await;
                Ok(())
            }
            Err(status) => {
                let errno = errno::from("append", &status);
                node.pipeline.clear_buffered();
                self.lose(node, data.len() as u64, errno);
                Err(errno)
            }
        }
    }

    /// An offset for an append. Servers that are no Valor leave it to the kernel's guess, as C++ 3FS does.
    async fn reserve(
        &self,
        node: &Node,
        user: &UserInfo,
        session: Uuid,
        len: u64,
        guess: u64,
    ) -> Result<u64, Status> {
        let hint = {
            let dynamic = node.dynamic.lock();
            VersionedLength { length: dynamic.known_length(), truncate_ver: dynamic.truncate_ver }
        };
        match self.cluster.reserve_append(user, node.id(), session, len, Some(hint)).await {
            Err(status) if is_unknown_service(&status) => {
                tracing::warn!(
                    "the metadata service has no atomic appends; concurrent ones may overwrite each other"
                );
                self.no_extensions.store(true, Ordering::Relaxed);
                Ok(guess)
            }
            result => result,
        }
    }

    /// Sends bytes in a task of its own once there is room for them.
    async fn send(self: &Arc<Self>, node: &Arc<Node>, user: UserInfo, offset: u64, data: Bytes) {
        let len = data.len() as u64;
        let limit = self.configs.global().valor.write_behind_per_file.get();
        let flight = node.pipeline.enter(offset..offset + len, limit).await;
        node.pipeline.clear_buffered();
        let share = self.budget(len).await;
        self.mark_dirty(node.id());
        let (core, node, kept) = (self.clone(), node.clone(), self.nodes.keep(node));
        tokio::spawn(async move {
            if let Err(status) = core.write_all(&node, &user, offset, data).await {
                core.lose(&node, len, errno::from("write", &status));
            }
            drop((flight, share, kept));
        });
    }

    async fn write_all(
        &self,
        node: &Node,
        user: &UserInfo,
        offset: u64,
        mut data: Bytes,
    ) -> Result<(), Status> {
        let mut at = offset;
        while !data.is_empty() {
            let written = self.write_pass(node, user, at, data.clone()).await?;
            if written == 0 {
                return Err(valor_protocol::status::with_message(code::FOUND_BUG, "nothing was written"));
            }
            at += written;
            let _ = data.split_to(written as usize);
        }
        Ok(())
    }

    /// One write to storage, with what comes before and after.
    async fn write_pass(
        &self,
        node: &Node,
        user: &UserInfo,
        offset: u64,
        data: Bytes,
    ) -> Result<u64, Status> {
        let map = node.map()?;
        let end = offset.saturating_add(data.len() as u64);
        self.extend_stripe(node, user, end).await?;
        let version = node.dynamic.lock().truncate_ver;
        let result = self.cluster.write(user, map, offset, data).await;
        let reached = match &result {
            Ok(written) if *written > 0 => Some(offset + written),
            Ok(_) => Some(0),
            Err(_) => None,
        };
        node.dynamic.lock().finish_write(version, reached, user.uid, self.now());
        result
    }

    /// Makes the file use enough chains for `end` bytes.
    async fn extend_stripe(&self, node: &Node, user: &UserInfo, end: u64) -> Result<(), Status> {
        let map = node.map()?;
        let needed = || node.dynamic.lock().stripe_needed(end, map.chunk_size(), map.stripe_size());
        if needed().is_none() {
            return Ok(());
        }
        let _one = node.extending.lock().await;
        if let Some(stripe) = needed() {
            let inode = self.cluster.extend_stripe(user, node.id(), stripe).await?;
            node.refresh(&inode);
        }
        Ok(())
    }

    /// Sends what is buffered and waits until all writes of the file are done. Their errors go to the handles.
    pub(crate) async fn flush(self: &Arc<Self>, node: &Arc<Node>) {
        {
            let mut writer = node.writer.lock().await;
            // An error is recorded for the handles.
            let _ = self.send_buffer(node, &mut writer).await;
        }
        node.pipeline.wait_idle().await;
    }

    /// Makes sure that a read of this range sees what was written to it.
    pub(crate) async fn flush_for_read(self: &Arc<Self>, node: &Arc<Node>, offset: u64, len: u64) {
        let range = offset..offset.saturating_add(len);
        if node.pipeline.is_buffered(&range) {
            let mut writer = node.writer.lock().await;
            let _ = self.send_buffer(node, &mut writer).await;
        }
        node.pipeline.wait_for(&range).await;
    }

    /// Runs `change` while nobody writes, after all that was written before. The buffer's lock is held meanwhile.
    pub(crate) async fn exclusively<T>(
        self: &Arc<Self>,
        node: &Arc<Node>,
        change: impl Future<Output = T>,
    ) -> T {
        let _kept = self.nodes.keep(node);
        let mut writer = node.writer.lock().await;
        let _ = self.send_buffer(node, &mut writer).await;
        node.pipeline.wait_idle().await;
        change.await
    }

    /// The same, but gives up waiting for other writers, not `change` itself, after a time.
    pub(crate) async fn exclusively_soon<T>(
        self: &Arc<Self>,
        node: &Arc<Node>,
        patience: Duration,
        change: impl Future<Output = T>,
    ) -> Result<T, Errno> {
        let gave_up = |_| Errno::ETIMEDOUT;
        let _kept = self.nodes.keep(node);
        let mut writer = timeout(patience, node.writer.lock()).await.map_err(gave_up)?;
        // Not to be given up midway: the buffer would be lost.
        let _ = self.send_buffer(node, &mut writer).await;
        timeout(patience, node.pipeline.wait_idle()).await.map_err(gave_up)?;
        Ok(change.await)
    }
}

/// True for answers of servers that do not know our extensions.
pub(crate) fn is_unknown_service(status: &Status) -> bool {
    matches!(status.code, code::RPC_INVALID_SERVICE_ID | code::RPC_INVALID_METHOD_ID)
}
