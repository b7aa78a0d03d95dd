//! Operations on open files: reading, space, holes (`src/fuse/FuseOps.cc`, `src/fuse/PioV.cc`).

use crate::cluster::Cluster;
use crate::core::Core;
use crate::errno::OrErrno;
use crate::ids::from_ino;
use crate::inode::Node;
use crate::sync::Reason;
use crate::write::Incoming;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use valor_protocol::meta::PathAt;
use valor_protocol::user::UserInfo;
use xfuse::request::*;
use xfuse::{Context, Data, Errno, Offset, Totals, Written, abi};

/// Unit of statfs.
const STATFS_BLOCK: u64 = 2 << 20;
/// Chunks asked about at a time when looking for data or holes.
const PROBE: u32 = 256;
/// Zeros written into parts of chunks, at a time.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];
/// What a dry run reads.
static DRY: [u8; 64 << 10] = [0; 64 << 10];

impl<C: Cluster> Core<C> {
    pub(crate) async fn read(self: &Arc<Self>, cx: &Context, r: Read) -> Result<Data, Errno> {
        if self.settings(cx).dryrun_bench_mode {
            return Ok(dry(r.size));
        }
        let node = match self.files.get(r.fh) {
            Some(handle) => {
                handle.open_ended();
                handle.node.clone()
            }
            None => self.nodes.get(from_ino(r.ino)).ok_or(Errno::EBADF)?,
        };
        let map = node.map().or_errno("read")?;
        self.flush_for_read(&node, r.offset, u64::from(r.size)).await;
        let length = {
            let mut dynamic = node.dynamic.lock();
            dynamic.atime = Some(self.now());
            dynamic.known_length()
        };
        let user = self.user(cx);
        let segments = self.run(cx, self.cluster.read(&user, map, r.offset, r.size, length)).await;
        Ok(segments.or_errno("read")?.into())
    }

    pub(crate) async fn write_request(self: &Arc<Self>, cx: &Context, r: Write) -> Result<Written, Errno> {
        let settings = self.settings(cx);
        if settings.dryrun_bench_mode {
            return Ok(Written(r.data.len() as u32));
        }
        if settings.readonly {
            return Err(Errno::EROFS);
        }
        let handle = self.file(r.fh)?;
        // It may be sent after the answer.
        let data = r.data.keep().await;
        if r.kill_suidgid {
            self.kill_set_id(cx, &handle.node).await?;
        }
        let flags = r.flags as i32;
        // Pages written back by the kernel have their place already.
        let append = flags & libc::O_APPEND != 0 && !r.from_cache;
        let direct = flags & libc::O_DIRECT != 0;
        let incoming = Incoming { user: self.user(cx), offset: r.offset, data, direct, append };
        self.write(&handle, incoming).await.map(Written)
    }

    pub(crate) async fn statfs(&self, cx: &Context) -> Result<Totals, Errno> {
        let user = self.user(cx);
        let space = self.run(cx, self.cluster.stat_fs(&user)).await.or_errno("statfs")?;
        Ok(Totals(abi::Kstatfs {
            blocks: space.capacity / STATFS_BLOCK,
            bfree: space.free / STATFS_BLOCK,
            bavail: space.free / STATFS_BLOCK,
            bsize: STATFS_BLOCK as u32,
            frsize: STATFS_BLOCK as u32,
            namelen: 255,
            ..Default::default()
        }))
    }

    /// The file's length after all that was written here.
    pub(crate) async fn current_length(
        self: &Arc<Self>,
        user: &UserInfo,
        node: &Arc<Node>,
    ) -> Result<u64, Errno> {
        let synced = self.sync(user, node, Reason::Regular).await.or_errno("sync")?;
        if synced.is_none() {
            let inode = self.cluster.stat(user, PathAt::inode(node.id())).await.or_errno("stat")?;
            node.refresh(&inode);
        }
        Ok(node.dynamic.lock().known_length())
    }

    pub(crate) async fn fallocate(self: &Arc<Self>, cx: &Context, r: Fallocate) -> Result<(), Errno> {
        self.writable(cx)?;
        let handle = self.file(r.fh)?;
        if !handle.writes() {
            return Err(Errno::EBADF);
        }
        let node = &handle.node;
        let user = self.user(cx);
        let end = r.offset.checked_add(r.length).ok_or(Errno::EFBIG)?;
        let keep_size = r.mode as i32 & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zeroes = match r.mode as i32 & !libc::FALLOC_FL_KEEP_SIZE {
            0 => false,
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => true,
            libc::FALLOC_FL_ZERO_RANGE => true,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        self.flush(node).await;
        handle.take_error()?;
        let length = self.current_length(&user, node).await?;
        if zeroes {
            self.zero(&user, node, r.offset..end.min(length), length).await?;
        }
        if !keep_size && end > length {
            self.extend(cx, node, end).await?;
        }
        Ok(())
    }

    /// Makes a range read as zeros: removes whole chunks, writes zeros into parts of chunks. The chunk in which the file
    /// ends is kept, since servers find the file's length by it.
    async fn zero(
        self: &Arc<Self>,
        user: &UserInfo,
        node: &Arc<Node>,
        range: Range<u64>,
        length: u64,
    ) -> Result<(), Errno> {
        if range.start >= range.end {
            return Ok(());
        }
        let map = node.map().or_errno("punch hole")?;
        let size = u64::from(map.chunk_size());
        let last_chunk = (length - 1) / size * size;
        let whole = range.start.next_multiple_of(size)..(range.end / size * size).min(last_chunk);
        let parts = if whole.start < whole.end {
            vec![range.start..whole.start, whole.end..range.end]
        } else {
            vec![range]
        };
        let change = async {
            if whole.start < whole.end {
                self.cluster.punch(user, map, whole.start, whole.end).await.or_errno("punch hole")?;
            }
            for part in parts {
                self.write_zeros(user, node, part).await?;
            }
            Ok(())
        };
        let result = self.exclusively(node, change).await;
        self.note_change(node, user.uid);
        result
    }

    /// The contents are others now, though the length is not: the next sync has to say so.
    pub(crate) fn note_change(&self, node: &Node, writer: u32) {
        let mut dynamic = node.dynamic.lock();
        let version = dynamic.truncate_ver;
        dynamic.finish_write(version, Some(0), writer, self.now());
        drop(dynamic);
        self.mark_dirty(node.id());
    }

    async fn write_zeros(&self, user: &UserInfo, node: &Node, range: Range<u64>) -> Result<(), Errno> {
        let map = node.map().or_errno("punch hole")?;
        let size = u64::from(map.chunk_size());
        let mut at = range.start;
        while at < range.end {
            let chunk_end = (at / size + 1) * size;
            let end = range.end.min(chunk_end).min(at + ZEROS.len() as u64);
            let index = u32::try_from(at / size).map_err(|_| Errno::EFBIG)?;
            let present = self.cluster.chunks_present(user, map, index, 1).await.or_errno("punch hole")?;
            if present.first() != Some(&true) {
                // Already a hole.
                at = range.end.min(chunk_end);
                continue;
            }
            let zeros = Bytes::from_static(&ZEROS[..(end - at) as usize]);
            let written = self.cluster.write(user, map, at, zeros).await.or_errno("punch hole")?;
            if written == 0 {
                return Err(Errno::EIO);
            }
            at += written;
        }
        Ok(())
    }

    /// Finds data or a hole: what chunk is there is data, what is not is a hole.
    pub(crate) async fn lseek(self: &Arc<Self>, cx: &Context, r: Lseek) -> Result<Offset, Errno> {
        let want_data = match r.whence as i32 {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(Errno::EINVAL),
        };
        let handle = self.file(r.fh)?;
        let node = &handle.node;
        let user = self.user(cx);
        self.flush(node).await;
        let length = self.current_length(&user, node).await?;
        if r.offset >= length {
            return Err(Errno::ENXIO);
        }
        let map = node.map().or_errno("lseek")?;
        let size = u64::from(map.chunk_size());
        let chunks = u32::try_from(length.div_ceil(size)).map_err(|_| Errno::EFBIG)?;
        let mut first = (r.offset / size) as u32;
        while first < chunks {
            let count = PROBE.min(chunks - first);
            let present = self.cluster.chunks_present(&user, map, first, count).await.or_errno("lseek")?;
            if let Some(found) = present.iter().position(|present| *present == want_data) {
                return Ok(Offset((u64::from(first) + found as u64).saturating_mul(size).max(r.offset)));
            }
            first += count;
        }
        // The end of the file counts as a hole.
        if want_data { Err(Errno::ENXIO) } else { Ok(Offset(length)) }
    }
}

fn dry(size: u32) -> Data {
    let mut rest = size as usize;
    let mut segments = Vec::new();
    while rest > 0 {
        let part = rest.min(DRY.len());
        segments.push(Bytes::from_static(&DRY[..part]));
        rest -= part;
    }
    segments.into()
}
