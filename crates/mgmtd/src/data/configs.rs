//! Configurations by node type and version.

use std::collections::BTreeMap;
use valor_protocol::mgmtd::{ConfigInfo, NodeType};
use valor_protocol::status::code;
use valor_protocol::{ConfigVersion, Status};

/// All versions. Every node type has version 0: nothing.
#[derive(Debug)]
pub struct Configs(BTreeMap<NodeType, BTreeMap<ConfigVersion, ConfigInfo>>);

impl Default for Configs {
    fn default() -> Self {
        let nothing = || BTreeMap::from([(ConfigVersion(0), ConfigInfo::default())]);
        Self(NodeType::ALL.into_iter().map(|node_type| (node_type, nothing())).collect())
    }
}

impl Configs {
    /// Adds a version.
    pub fn insert(&mut self, node_type: NodeType, config: ConfigInfo) {
        self.0.entry(node_type).or_default().insert(config.config_version, config);
    }

    /// The newest version's number.
    pub fn latest_version(&self, node_type: NodeType) -> ConfigVersion {
        self.latest(node_type).map_or(ConfigVersion(0), |config| config.config_version)
    }

    /// The newest version.
    pub fn latest(&self, node_type: NodeType) -> Option<&ConfigInfo> {
        self.0.get(&node_type)?.values().next_back()
    }

    /// One version.
    pub fn exact(&self, node_type: NodeType, version: ConfigVersion) -> Option<&ConfigInfo> {
        self.0.get(&node_type)?.get(&version)
    }

    /// The newest version, if it is newer than the one somebody has.
    ///
    /// # Errors
    /// 5006 if somebody has a version that does not exist yet.
    pub fn newer(&self, node_type: NodeType, has: ConfigVersion) -> Result<Option<ConfigInfo>, Status> {
        let latest = self.latest_version(node_type);
        if has > latest {
            return Err(Status::new(
                code::MGMTD_INVALID_CONFIG_VERSION,
                format!("ConfigVersion {has} of {} is newer than server's {latest}", node_type.name()),
            ));
        }
        Ok(if has < latest { self.latest(node_type).cloned() } else { None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_counts() {
        let mut configs = Configs::default();
        assert_eq!(configs.newer(NodeType::Meta, ConfigVersion(0)), Ok(None));
        for version in [1, 3, 2] {
            let config = ConfigInfo { config_version: ConfigVersion(version), ..ConfigInfo::default() };
            configs.insert(NodeType::Meta, config);
        }
        assert_eq!(configs.latest_version(NodeType::Meta), ConfigVersion(3));
        let newer = |version| configs.newer(NodeType::Meta, ConfigVersion(version));
        assert_eq!(newer(1).unwrap().unwrap().config_version, ConfigVersion(3));
        assert_eq!(newer(3), Ok(None));
        assert_eq!(newer(4).unwrap_err().code, code::MGMTD_INVALID_CONFIG_VERSION);
        assert!(configs.exact(NodeType::Meta, ConfigVersion(0)).is_some());
        assert!(configs.exact(NodeType::Fuse, ConfigVersion(1)).is_none());
    }
}
