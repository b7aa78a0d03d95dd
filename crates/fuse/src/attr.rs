//! Inodes as the kernel wants them.

use crate::ids::to_ino;
use valor_protocol::meta::{Inode, InodeKind};
use valor_wire::UtcTime;
use xfuse::abi;

const MICROS: i64 = 1_000_000;

/// Seconds and nanoseconds of a time.
pub fn split_time(time: UtcTime) -> (u64, u32) {
    (time.0.div_euclid(MICROS) as u64, (time.0.rem_euclid(MICROS) * 1000) as u32)
}

/// A time from seconds and nanoseconds, to the microsecond; saturates.
pub fn join_time(seconds: i64, nanos: u32) -> UtcTime {
    UtcTime(seconds.saturating_mul(MICROS).saturating_add(i64::from(nanos / 1000)))
}

/// Type and permission bits.
pub fn mode(inode: &Inode) -> u32 {
    let kind = match inode.data.r#type {
        InodeKind::File(_) => libc::S_IFREG,
        InodeKind::Directory(_) => libc::S_IFDIR,
        InodeKind::Symlink(_) => libc::S_IFLNK,
    };
    kind | inode.data.acl.perm & 0o7777
}

/// Attributes as 3FS fills them in.
pub fn attributes(inode: &Inode) -> abi::Attr {
    let data = &inode.data;
    let (size, blocks, blksize) = match &data.r#type {
        InodeKind::File(file) => (file.length, file.length.div_ceil(512), file.layout.chunk_size),
        InodeKind::Directory(dir) => (0, 0, dir.layout.chunk_size),
        InodeKind::Symlink(link) => (link.target.len() as u64, 0, 0),
    };
    let (atime, atimensec) = split_time(data.atime);
    let (mtime, mtimensec) = split_time(data.mtime);
    let (ctime, ctimensec) = split_time(data.ctime);
    abi::Attr {
        ino: to_ino(inode.id),
        size,
        blocks,
        atime,
        mtime,
        ctime,
        atimensec,
        mtimensec,
        ctimensec,
        mode: mode(inode),
        nlink: u32::from(data.nlink),
        uid: data.acl.uid,
        gid: data.acl.gid,
        rdev: 0,
        blksize,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::InodeId;
    use valor_protocol::meta::{Acl, File, InodeData, Layout, Symlink};

    #[test]
    fn files_and_links() {
        let layout = Layout { chunk_size: 512 << 10, ..Layout::default() };
        let file = File { length: 1000, layout, ..File::default() };
        let acl = Acl { uid: 3, gid: 4, perm: 0o104755, ..Acl::default() };
        let data = InodeData {
            r#type: InodeKind::File(file),
            acl,
            mtime: UtcTime(1_500_000),
            ..InodeData::default()
        };
        let attr = attributes(&Inode { data, id: InodeId::ROOT });
        assert_eq!((attr.ino, attr.size, attr.blocks, attr.blksize), (1, 1000, 2, 512 << 10));
        assert_eq!((attr.mode, attr.uid, attr.gid), (libc::S_IFREG | 0o4755, 3, 4));
        assert_eq!((attr.mtime, attr.mtimensec), (1, 500_000_000));
        let link = InodeKind::Symlink(Symlink { target: "abc".into() });
        let attr =
            attributes(&Inode { data: InodeData { r#type: link, ..InodeData::default() }, id: InodeId(9) });
        assert_eq!((attr.size, attr.blocks, attr.blksize), (3, 0, 0));
    }

    #[test]
    fn times_before_1970() {
        assert_eq!(split_time(UtcTime(-1)), (u64::MAX, 999_999_000));
        assert_eq!(join_time(-1, 999_999_000), UtcTime(-1));
        assert_eq!(join_time(i64::MAX, 0), UtcTime(i64::MAX));
    }
}
