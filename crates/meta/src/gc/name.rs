//! Names of the garbage collector's directories and of the entries that wait in them
//! (`src/meta/components/GcManager.h`).

use valor_protocol::meta::{Inode, InodeKind};
use valor_protocol::{InodeId, NodeId};
use valor_wire::UtcTime;

use crate::config::GcConfig;

/// Queues per server: one from older versions, without number, and four numbered ones.
pub(crate) const QUEUES_PER_SERVER: usize = 5;

/// What waits, in the order of looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GcKind {
    /// A directory tree.
    Directory,
    /// A file of many chunks.
    Large,
    /// A file of some chunks.
    Medium,
    /// A file of few chunks.
    Small,
}

impl GcKind {
    /// First byte of the entry's name.
    pub(crate) fn letter(self) -> char {
        match self {
            Self::Directory => 'd',
            Self::Large => 'L',
            Self::Medium => 'f',
            Self::Small => 'S',
        }
    }

    /// The kind of a removed file or directory; symlinks do not wait.
    pub(crate) fn of(inode: &Inode, config: &GcConfig) -> Option<Self> {
        match &inode.data.r#type {
            InodeKind::Directory(_) => Some(Self::Directory),
            InodeKind::File(file) => {
                let chunks = file.length / u64::from(file.layout.chunk_size.max(1));
                Some(if chunks < u64::from(config.small_file_chunks) {
                    Self::Small
                } else if chunks >= u64::from(config.large_file_chunks) {
                    Self::Large
                } else {
                    Self::Medium
                })
            }
            InodeKind::Symlink(_) => None,
        }
    }
}

/// Name of the queue number `index` of a server.
pub(crate) fn queue_name(node: NodeId, index: usize) -> String {
    if index == 0 { format!("GC-Node-{node}") } else { format!("GC-Node-{node}.{index}") }
}

/// Name of an entry: kind, time from which it may be collected without the delay, inode.
pub(crate) fn entry_name(kind: GcKind, time: UtcTime, inode: InodeId) -> String {
    format!("{}-{:020}-{inode}", kind.letter(), time.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::meta::{File, InodeData, Layout};

    #[test]
    fn names_are_3fs_names() {
        assert_eq!(queue_name(NodeId(50), 0), "GC-Node-50");
        assert_eq!(queue_name(NodeId(50), 4), "GC-Node-50.4");
        let name = entry_name(GcKind::Medium, UtcTime(1_700_000_000_000_001), InodeId(0xf80a));
        assert_eq!(name, "f-00001700000000000001-0x000000000000f80a");
    }

    #[test]
    fn sizes_choose_the_kind() {
        let kind = |length| {
            let layout = Layout { chunk_size: 4096, stripe_size: 1, ..Layout::default() };
            let file = File { length, layout, ..File::default() };
            let data = InodeData { r#type: InodeKind::File(file), ..InodeData::default() };
            GcKind::of(&Inode { data, id: InodeId(5) }, &GcConfig::default()).unwrap()
        };
        assert_eq!(kind(0), GcKind::Small);
        assert_eq!(kind(32 * 4096 - 1), GcKind::Small);
        assert_eq!(kind(32 * 4096), GcKind::Medium);
        assert_eq!(kind(128 * 4096 - 1), GcKind::Medium);
        assert_eq!(kind(128 * 4096), GcKind::Large);
    }
}
