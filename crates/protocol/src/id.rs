//! Strong integers: the identifiers and versions of 3FS (`src/fbs/mgmtd/MgmtdTypes.h`).

use valor_wire::Wire;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($int:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
        pub struct $name(pub $int);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$int> for $name {
            fn from(value: $int) -> Self {
                Self(value)
            }
        }
    )*};
}

ids! {
    /// A process of the cluster (mgmtd, meta or storage server).
    NodeId(u32);
    /// A replication chain.
    ChainId(u32);
    /// Version of a chain, raised with every change of its targets or their states.
    ChainVersion(u32);
    /// A table of chains that files are laid over.
    ChainTableId(u32);
    /// Version of a chain table; 0 asks for the newest.
    ChainTableVersion(u32);
    /// One replica's home: a storage target on one disk of one node.
    TargetId(u64);
    /// Version of the whole routing information.
    RoutingInfoVersion(u64);
    /// Version of a node type's configuration.
    ConfigVersion(u64);
    /// Counter of one server's heartbeats.
    HeartbeatVersion(u64);
    /// Counter of one client's session extensions.
    ClientSessionVersion(u64);
    /// Version of a chunk's content.
    ChunkVer(u32);
    /// A client's update channel; 0 means none.
    ChannelId(u16);
    /// Sequence number on an update channel.
    ChannelSeqNum(u64);
    /// A client's request number.
    RequestId(u64);
}

/// An inode number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
pub struct InodeId(pub u64);

impl InodeId {
    /// Root of the directory tree.
    pub const ROOT: InodeId = InodeId(0);
    /// Directory that holds what waits for garbage collection.
    pub const GC_ROOT: InodeId = InodeId(1);
    /// `3fs-virt`, known to clients only.
    pub const VIRT: InodeId = InodeId(0xffff_ffff_ffff_fffe);
    /// `3fs-virt/rm-rf`.
    pub const RM_RF: InodeId = InodeId(0xffff_ffff_ffff_fffd);
    /// `3fs-virt/iovs`.
    pub const IOV_DIR: InodeId = InodeId(0xffff_ffff_8000_0000);
    /// `3fs-virt/get-conf`.
    pub const GET_CONF: InodeId = InodeId(0xffff_ffff_0000_0000);
    /// `3fs-virt/set-conf`.
    pub const SET_CONF: InodeId = InodeId(0xffff_fffe_8000_0000);
    /// Bit that marks a file whose chunks live in the new chunk engine.
    pub const NEW_CHUNK_ENGINE: u64 = 1 << 56;

    /// The registered buffer number `n` under `3fs-virt/iovs`.
    pub fn iov(n: u32) -> InodeId {
        InodeId(Self::IOV_DIR.0 - 65535 - u64::from(n))
    }

    /// A temporary inode of the virtual tree.
    pub fn virt_temporary(x: u64) -> InodeId {
        InodeId((100u64 << 30).wrapping_neg().wrapping_sub(x))
    }

    /// True if the file's chunks live in the new chunk engine.
    pub fn uses_new_chunk_engine(self) -> bool {
        self.0 & Self::NEW_CHUNK_ENGINE != 0 && self.0 >> 57 == 0
    }

    /// True for the roots of the real trees, which cannot be removed or renamed.
    pub fn is_tree_root(self) -> bool {
        self == Self::ROOT || self == Self::GC_ROOT
    }
}

impl std::fmt::Display for InodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{:016x}", self.0)
    }
}

impl From<u64> for InodeId {
    fn from(value: u64) -> Self {
        Self(value)
    }
}
