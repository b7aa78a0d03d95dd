//! What the service keeps in the key-value store, byte for byte as C++ 3FS does (except where noted).
//!
//! | key | value |
//! |---|---|
//! | `INOD` inode u64 LE | `InodeData` |
//! | `DENT` parent u64 LE, name | `DirEntryData` |
//! | `INOS` inode u64 LE, session uuid | [`FileSession`] |
//! | `IDEM` request uuid, client uuid | [`IdempotentRecord`] |
//! | `META` | [`ServerMap`] |
//! | `META-` node id as `%08d` | 10-byte versionstamp |
//! | `\xff/metadataVersion` | 10-byte versionstamp |
//! | `SING-inode-alloc-` shard in decimal | counter u64 LE |
//! | `VTIM` directory u64 LE | time of the last change of its entries, i64 LE microseconds (Valor only) |
//!
//! Little-endian ids spread consecutive inodes over the key space. Names sort bytewise within their directory.

mod records;

pub use records::{FileSession, IdempotentRecord, ServerMap};
pub use valor_kv::METADATA_VERSION_KEY;
pub(crate) use valor_kv::{key_after, prefix_end};

use bytes::Bytes;
use valor_protocol::{InodeId, NodeId};
use valor_wire::Uuid;

/// Prefix of inodes.
pub const INODE_PREFIX: &[u8; 4] = b"INOD";
/// Prefix of directory entries.
pub const ENTRY_PREFIX: &[u8; 4] = b"DENT";
/// Prefix of sessions.
pub const SESSION_PREFIX: &[u8; 4] = b"INOS";
/// Prefix of remembered results.
pub const IDEMPOTENT_PREFIX: &[u8; 4] = b"IDEM";
/// Prefix of directory times (Valor only).
pub const TIME_PREFIX: &[u8; 4] = b"VTIM";
/// Key of the map of metadata servers.
pub const SERVER_MAP_KEY: &[u8] = b"META";
/// Prefix of the servers' signs of life.
pub const SERVER_ALIVE_PREFIX: &[u8] = b"META-";
/// Under this inode id the sessions are listed that are to be pruned.
pub const PRUNE_INODE: InodeId = InodeId(u64::MAX);
/// Shards of the inode id counter.
pub const INODE_ID_SHARDS: u64 = 32;

fn with_inode(prefix: &[u8; 4], inode: InodeId) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(prefix);
    key[4..].copy_from_slice(&inode.0.to_le_bytes());
    key
}

/// Key of an inode.
#[must_use]
pub fn inode_key(inode: InodeId) -> [u8; 12] {
    with_inode(INODE_PREFIX, inode)
}

/// Key of a directory's time record (Valor only).
#[must_use]
pub fn time_key(inode: InodeId) -> [u8; 12] {
    with_inode(TIME_PREFIX, inode)
}

/// Key of the entry `name` of a directory; with an empty name the first key of the directory.
#[must_use]
pub fn entry_key(parent: InodeId, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(12 + name.len());
    key.extend_from_slice(&with_inode(ENTRY_PREFIX, parent));
    key.extend_from_slice(name);
    key
}

/// Parent and name of an entry's key.
#[must_use]
pub fn parse_entry_key(key: &Bytes) -> Option<(InodeId, Bytes)> {
    let inode = key.strip_prefix(ENTRY_PREFIX)?.first_chunk::<8>()?;
    Some((InodeId(u64::from_le_bytes(*inode)), key.slice(12..)))
}

/// Key of a session.
#[must_use]
pub fn session_key(inode: InodeId, session: Uuid) -> [u8; 28] {
    let mut key = [0; 28];
    key[..12].copy_from_slice(&session_prefix(inode));
    key[12..].copy_from_slice(&session.0);
    key
}

/// First key of an inode's sessions.
#[must_use]
pub fn session_prefix(inode: InodeId) -> [u8; 12] {
    with_inode(SESSION_PREFIX, inode)
}

/// Key of a remembered result. The random part comes first to spread the load.
#[must_use]
pub fn idempotent_key(request: Uuid, client: Uuid) -> [u8; 36] {
    let mut key = [0; 36];
    key[..4].copy_from_slice(IDEMPOTENT_PREFIX);
    key[4..20].copy_from_slice(&request.0);
    key[20..].copy_from_slice(&client.0);
    key
}

/// Key of a server's sign of life.
#[must_use]
pub fn server_alive_key(node: NodeId) -> Vec<u8> {
    format!("META-{:08}", node.0).into_bytes()
}

/// The server of a sign of life.
#[must_use]
pub fn parse_server_alive_key(key: &[u8]) -> Option<NodeId> {
    let digits = key.strip_prefix(SERVER_ALIVE_PREFIX)?;
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|node| *node != 0).map(NodeId)
}

/// Key of one shard of the inode id counter.
#[must_use]
pub fn inode_id_key(shard: u64) -> Vec<u8> {
    format!("SING-inode-alloc-{shard}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_3fs_bytes() {
        let inode = InodeId(0x0102_0304_0506_0708);
        let le = [8, 7, 6, 5, 4, 3, 2, 1];
        assert_eq!(inode_key(inode).as_slice(), [b"INOD".as_slice(), &le].concat());
        assert_eq!(entry_key(inode, b"name"), [b"DENT".as_slice(), &le, b"name"].concat());
        let session = Uuid(std::array::from_fn(|i| i as u8));
        assert_eq!(session_key(inode, session).as_slice(), [b"INOS".as_slice(), &le, &session.0].concat());
        let client = Uuid([9; 16]);
        assert_eq!(
            idempotent_key(session, client).as_slice(),
            [b"IDEM".as_slice(), &session.0, &client.0].concat()
        );
        assert_eq!(server_alive_key(NodeId(50)), b"META-00000050");
        assert_eq!(parse_server_alive_key(b"META-00000050"), Some(NodeId(50)));
        assert_eq!(parse_server_alive_key(b"META"), None);
        assert_eq!(parse_server_alive_key(b"META-0000x"), None);
        assert_eq!(inode_id_key(31), b"SING-inode-alloc-31");
    }

    #[test]
    fn entry_keys_come_apart() {
        let key = Bytes::from(entry_key(InodeId(7), b"a/\xff"));
        assert_eq!(parse_entry_key(&key), Some((InodeId(7), Bytes::from_static(b"a/\xff"))));
        assert_eq!(parse_entry_key(&Bytes::from_static(b"DENTxxx")), None);
    }
}
