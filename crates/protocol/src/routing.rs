//! Lookups in routing information (`src/fbs/mgmtd/RoutingInfo.cc`).

use crate::id::*;
use crate::mgmtd::{ChainInfo, ChainTable, NodeInfo, RoutingInfo, TargetInfo};

impl RoutingInfo {
    /// A chain table; version 0 = the newest.
    pub fn chain_table(&self, id: ChainTableId, version: ChainTableVersion) -> Option<&ChainTable> {
        let versions = self.chain_tables.get(&id)?;
        if version.0 == 0 { versions.values().next_back() } else { versions.get(&version) }
    }

    /// The chain behind a layout's chain reference. With table id and version both 0, `index` is the chain id
    /// itself; else it counts from 1 and wraps around the table's end.
    pub fn chain_id(&self, table: ChainTableId, version: ChainTableVersion, index: u32) -> Option<ChainId> {
        if table.0 == 0 && version.0 == 0 {
            return Some(ChainId(index));
        }
        let chains = &self.chain_table(table, version)?.chains;
        let position = (index.checked_sub(1)? as usize).checked_rem(chains.len())?;
        chains.get(position).copied()
    }

    /// A chain.
    pub fn chain(&self, id: ChainId) -> Option<&ChainInfo> {
        self.chains.get(&id)
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&NodeInfo> {
        self.nodes.get(&id)
    }

    /// A target.
    pub fn target(&self, id: TargetId) -> Option<&TargetInfo> {
        self.targets.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_wrap() {
        let mut info = RoutingInfo::default();
        let table = |version: u32, chains: &[u32]| ChainTable {
            chain_table_id: ChainTableId(1),
            chain_table_version: ChainTableVersion(version),
            chains: chains.iter().copied().map(ChainId).collect(),
            desc: String::new(),
        };
        let versions = info.chain_tables.entry(ChainTableId(1)).or_default();
        versions.insert(ChainTableVersion(1), table(1, &[10, 11, 12]));
        versions.insert(ChainTableVersion(2), table(2, &[20, 21]));
        versions.insert(ChainTableVersion(3), table(3, &[]));
        let get =
            |t, v, i| info.chain_id(ChainTableId(t), ChainTableVersion(v), i).map(|chain: ChainId| chain.0);
        assert_eq!(get(0, 0, 77), Some(77));
        assert_eq!(get(1, 1, 1), Some(10));
        assert_eq!(get(1, 1, 5), Some(11));
        assert_eq!(get(1, 2, 2), Some(21));
        assert_eq!(get(1, 0, 1), None, "the newest version is empty");
        assert_eq!(get(1, 1, 0), None);
        assert_eq!(get(2, 0, 1), None);
        assert_eq!(get(1, 9, 1), None);
    }
}
