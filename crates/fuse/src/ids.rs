//! Inode numbers: 3FS's against the kernel's (`src/fuse/FuseOps.cc`).

use valor_protocol::InodeId;

/// The kernel's number of an inode.
pub fn to_ino(id: InodeId) -> u64 {
    match id {
        InodeId::ROOT => 1,
        InodeId::GC_ROOT => 2,
        other => other.0,
    }
}

/// The inode of a kernel's number.
pub fn from_ino(ino: u64) -> InodeId {
    match ino {
        1 => InodeId::ROOT,
        2 => InodeId::GC_ROOT,
        other => InodeId(other),
    }
}

/// True for inodes of the virtual tree, which no server knows.
pub fn is_virtual(id: InodeId) -> bool {
    id.0 >> 60 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_map_back() {
        for id in [InodeId::ROOT, InodeId::GC_ROOT, InodeId(4096), InodeId::VIRT, InodeId::iov(7)] {
            assert_eq!(from_ino(to_ino(id)), id);
        }
        assert_eq!((to_ino(InodeId::ROOT), to_ino(InodeId::GC_ROOT)), (1, 2));
        assert!(is_virtual(InodeId::SET_CONF) && is_virtual(InodeId::virt_temporary(5)));
        assert!(!is_virtual(InodeId(InodeId::NEW_CHUNK_ENGINE | 77)) && !is_virtual(InodeId::ROOT));
    }
}
