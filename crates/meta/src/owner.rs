//! Which server owns an inode: highest random weight over the active servers (`src/fbs/meta/Utils.h`, `Weight`).

use valor_protocol::{InodeId, NodeId};
use valor_wire::murmur3_x64_128;

/// Weight of a server for an inode; the sixteen bytes compare from the first on.
fn weight(node: NodeId, inode: InodeId) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&u64::from(node.0).to_le_bytes());
    key[8..].copy_from_slice(&inode.0.to_le_bytes());
    let words = murmur3_x64_128(&key, 0);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_le_bytes());
    bytes[8..].copy_from_slice(&words[1].to_le_bytes());
    bytes
}

/// The owner among `active`; the first of equals. None without servers.
#[must_use]
pub fn owner_of(active: &[NodeId], inode: InodeId) -> Option<NodeId> {
    match active {
        [] => None,
        [only] => Some(*only),
        _ => active.iter().rev().max_by_key(|node| weight(**node, inode)).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_inode_has_one_owner_whatever_the_order() {
        let nodes = [NodeId(50), NodeId(51), NodeId(52)];
        let reversed = [NodeId(52), NodeId(51), NodeId(50)];
        let mut owned = [0; 3];
        for inode in (0..3000).map(|i| InodeId(i * 4096 + 7)) {
            let owner = owner_of(&nodes, inode).unwrap();
            assert_eq!(owner_of(&reversed, inode), Some(owner));
            owned[owner.0 as usize - 50] += 1;
            // Another server's departure moves nothing.
            let rest: Vec<_> = nodes.into_iter().filter(|node| *node == owner || node.0 != 50).collect();
            assert_eq!(owner_of(&rest, inode), Some(owner));
        }
        assert!(owned.iter().all(|count| (900..1100).contains(count)), "{owned:?}");
        assert_eq!(owner_of(&[], InodeId(1)), None);
    }
}
