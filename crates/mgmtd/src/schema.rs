//! The manager's records in the key-value store, byte for byte those of 3FS (`src/mgmtd/store/MgmtdStore.cc`).
//!
//! | key | value |
//! |---|---|
//! | `SINGMgmtdLease` | `MgmtdLeaseInfo` |
//! | `SINGRoutingInfoVersion` | u64, little-endian |
//! | `NODE` node id (u32 LE) | `PersistentNodeInfo` |
//! | `CHIT` table id (u32 LE) table version (u32 LE) | `ChainTable` |
//! | `CHIF` chain id (u32 LE) | `ChainInfo` |
//! | `TGIF` target id (u64 **BE**) | `TargetInfo`, of which only the location counts |
//! | `CONF` length (u8) node type's name, 2^64-1 - version (u64 **BE**) | `ConfigInfo`; the newest sorts first |
//! | `UTGS` universal id | list of `TagPair` |
//!
//! Structs are encoded as on the wire. Users (`USER`) belong to `valor-user`.

use bytes::{BufMut, Bytes, BytesMut};
use valor_protocol::app::TagPair;
use valor_protocol::mgmtd::{
    ChainInfo, ChainTable, ConfigInfo, MgmtdLeaseInfo, NodeType, PersistentNodeInfo, TargetInfo,
};
use valor_protocol::{
    ChainId, ChainTableId, ChainTableVersion, ConfigVersion, NodeId, RoutingInfoVersion, TargetId,
};
use valor_wire::{Wire, from_bytes, to_bytes};

/// First four bytes of every key of a kind.
pub mod prefix {
    /// Nodes.
    pub const NODE: &[u8] = b"NODE";
    /// Chain tables.
    pub const CHAIN_TABLE: &[u8] = b"CHIT";
    /// Chains.
    pub const CHAIN: &[u8] = b"CHIF";
    /// Locations of targets.
    pub const TARGET: &[u8] = b"TGIF";
    /// Configurations.
    pub const CONFIG: &[u8] = b"CONF";
    /// Tags of universal ids.
    pub const UNIVERSAL_TAGS: &[u8] = b"UTGS";
}

/// Key of the primary's lease.
pub const LEASE_KEY: &[u8] = b"SINGMgmtdLease";
/// Key of the routing information's version.
pub const ROUTING_VERSION_KEY: &[u8] = b"SINGRoutingInfoVersion";

/// A record that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {key} of the store: {reason}")]
pub struct CorruptRecord {
    key: String,
    reason: String,
}

impl CorruptRecord {
    fn new(key: &[u8], reason: impl Into<String>) -> Self {
        Self { key: key.escape_ascii().to_string(), reason: reason.into() }
    }
}

/// A change of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// The record gets this value.
    Put(Bytes, Bytes),
    /// The record goes.
    Clear(Bytes),
}

fn key(prefix: &[u8], parts: &[&[u8]]) -> Bytes {
    let mut key = BytesMut::from(prefix);
    for part in parts {
        key.put_slice(part);
    }
    key.freeze()
}

/// Key of a node.
pub fn node_key(node: NodeId) -> Bytes {
    key(prefix::NODE, &[&node.0.to_le_bytes()])
}

/// Key of a version of a chain table.
pub fn chain_table_key(table: ChainTableId, version: ChainTableVersion) -> Bytes {
    key(prefix::CHAIN_TABLE, &[&table.0.to_le_bytes(), &version.0.to_le_bytes()])
}

/// Key of a chain.
pub fn chain_key(chain: ChainId) -> Bytes {
    key(prefix::CHAIN, &[&chain.0.to_le_bytes()])
}

/// Key of a target's location.
pub fn target_key(target: TargetId) -> Bytes {
    key(prefix::TARGET, &[&target.0.to_be_bytes()])
}

/// First bytes of the keys of a node type's configurations.
pub fn config_prefix(node_type: NodeType) -> Bytes {
    let name = node_type.name().as_bytes();
    key(prefix::CONFIG, &[&[name.len() as u8], name])
}

/// Key of a version of a node type's configuration.
pub fn config_key(node_type: NodeType, version: ConfigVersion) -> Bytes {
    key(&config_prefix(node_type), &[&(u64::MAX - version.0).to_be_bytes()])
}

/// Key of a universal id's tags. The id must not be empty.
pub fn universal_tags_key(universal_id: &str) -> Bytes {
    key(prefix::UNIVERSAL_TAGS, &[universal_id.as_bytes()])
}

/// Writes the lease.
pub fn put_lease(lease: &MgmtdLeaseInfo) -> Write {
    Write::Put(Bytes::from_static(LEASE_KEY), to_bytes(lease))
}

/// Writes the routing information's version.
pub fn put_routing_version(version: RoutingInfoVersion) -> Write {
    let value = Bytes::copy_from_slice(&version.0.to_le_bytes());
    Write::Put(Bytes::from_static(ROUTING_VERSION_KEY), value)
}

/// Writes a node.
pub fn put_node(node: &PersistentNodeInfo) -> Write {
    Write::Put(node_key(node.node_id), to_bytes(node))
}

/// Writes a version of a chain table.
pub fn put_chain_table(table: &ChainTable) -> Write {
    Write::Put(chain_table_key(table.chain_table_id, table.chain_table_version), to_bytes(table))
}

/// Writes a chain.
pub fn put_chain(chain: &ChainInfo) -> Write {
    Write::Put(chain_key(chain.chain_id), to_bytes(chain))
}

/// Writes a target's location.
pub fn put_target(target: &TargetInfo) -> Write {
    Write::Put(target_key(target.target_id), to_bytes(target))
}

/// Writes a version of a node type's configuration.
pub fn put_config(node_type: NodeType, config: &ConfigInfo) -> Write {
    Write::Put(config_key(node_type, config.config_version), to_bytes(config))
}

/// Writes a universal id's tags.
pub fn put_universal_tags(universal_id: &str, tags: &[TagPair]) -> Write {
    Write::Put(universal_tags_key(universal_id), to_bytes(&tags.to_vec()))
}

fn value<T: Wire>(key: &[u8], value: Bytes) -> Result<T, CorruptRecord> {
    from_bytes(value).map_err(|error| CorruptRecord::new(key, error.to_string()))
}

fn same<T: PartialEq + std::fmt::Debug>(key: &[u8], in_key: T, in_value: T) -> Result<(), CorruptRecord> {
    if in_key == in_value {
        return Ok(());
    }
    Err(CorruptRecord::new(key, format!("{in_key:?} in the key, {in_value:?} in the value")))
}

fn id<const N: usize>(key: &[u8], prefix: &[u8]) -> Result<[u8; N], CorruptRecord> {
    let rest = key.strip_prefix(prefix).and_then(|rest| rest.try_into().ok());
    rest.ok_or_else(|| CorruptRecord::new(key, "the key has another length"))
}

/// Reads the lease.
///
/// # Errors
/// [`CorruptRecord`] if it is something else.
pub fn read_lease(bytes: Bytes) -> Result<MgmtdLeaseInfo, CorruptRecord> {
    value(LEASE_KEY, bytes)
}

/// Reads the routing information's version; an absent record is version 0.
///
/// # Errors
/// [`CorruptRecord`] if it is something else.
pub fn read_routing_version(bytes: Option<Bytes>) -> Result<RoutingInfoVersion, CorruptRecord> {
    let Some(bytes) = bytes else { return Ok(RoutingInfoVersion(0)) };
    let number: [u8; 8] = bytes[..].try_into().map_err(|_| {
        CorruptRecord::new(ROUTING_VERSION_KEY, format!("{} bytes instead of 8", bytes.len()))
    })?;
    Ok(RoutingInfoVersion(u64::from_le_bytes(number)))
}

/// Reads a node.
///
/// # Errors
/// [`CorruptRecord`] if it is something else.
pub fn read_node(key: &[u8], bytes: Bytes) -> Result<PersistentNodeInfo, CorruptRecord> {
    let in_key = NodeId(u32::from_le_bytes(id(key, prefix::NODE)?));
    let node: PersistentNodeInfo = value(key, bytes)?;
    same(key, in_key, node.node_id)?;
    Ok(node)
}

/// Reads a version of a chain table.
///
/// # Errors
/// [`CorruptRecord`] if it is something else.
pub fn read_chain_table(key: &[u8], bytes: Bytes) -> Result<ChainTable, CorruptRecord> {
    let numbers = u64::from_le_bytes(id(key, prefix::CHAIN_TABLE)?);
    let table: ChainTable = value(key, bytes)?;
    same(key, numbers as u32, table.chain_table_id.0)?;
    same(key, (numbers >> 32) as u32, table.chain_table_version.0)?;
    Ok(table)
}

/// Reads a chain.
///
/// # Errors
/// [`CorruptRecord`] if it is something else.
pub fn read_chain(key: &[u8], bytes: Bytes) -> Result<ChainInfo, CorruptRecord> {
    let in_key = ChainId(u32::from_le_bytes(id(key, prefix::CHAIN)?));
    let chain: ChainInfo = value(key, bytes)?;
    same(key, in_key, chain.chain_id)?;
    Ok(chain)
}

/// Reads a target's location.
///
/// # Errors
/// [`CorruptRecord`] if it is something else.
pub fn read_target(key: &[u8], bytes: Bytes) -> Result<TargetInfo, CorruptRecord> {
    let in_key = TargetId(u64::from_be_bytes(id(key, prefix::TARGET)?));
    let target: TargetInfo = value(key, bytes)?;
    same(key, in_key, target.target_id)?;
    Ok(target)
}

/// Reads a configuration and whose it is.
///
/// # Errors
/// [`CorruptRecord`] if it is something else.
pub fn read_config(key: &[u8], bytes: Bytes) -> Result<(NodeType, ConfigInfo), CorruptRecord> {
    let (node_type, version) = config_of_key(key)
        .ok_or_else(|| CorruptRecord::new(key, "the key names no node type and version"))?;
    let config: ConfigInfo = value(key, bytes)?;
    same(key, version, config.config_version)?;
    Ok((node_type, config))
}

fn config_of_key(key: &[u8]) -> Option<(NodeType, ConfigVersion)> {
    let rest = key.strip_prefix(prefix::CONFIG)?;
    let (length, rest) = rest.split_first()?;
    let (name, version) = rest.split_at_checked(usize::from(*length))?;
    let node_type = NodeType::from_name(std::str::from_utf8(name).ok()?)?;
    let version = u64::from_be_bytes(version.try_into().ok()?);
    Some((node_type, ConfigVersion(u64::MAX - version)))
}

/// Reads a universal id and its tags.
///
/// # Errors
/// [`CorruptRecord`] if it is something else.
pub fn read_universal_tags(key: &[u8], bytes: Bytes) -> Result<(String, Vec<TagPair>), CorruptRecord> {
    let id = key.strip_prefix(prefix::UNIVERSAL_TAGS).filter(|id| !id.is_empty());
    let id = id.and_then(|id| std::str::from_utf8(id).ok());
    let id = id.ok_or_else(|| CorruptRecord::new(key, "the key names no universal id"))?;
    Ok((id.to_owned(), value(key, bytes)?))
}
