//! Who a process is: node, release, client identity, tags (`src/common/app`).

use crate::address::ServiceGroupInfo;
use crate::id::NodeId;
use valor_wire::{Status, UtcTime, Uuid, Wire};

/// A key with a value attached to nodes and clients. `Disable` and `TrafficZone` are reserved keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
pub struct TagPair {
    /// Key, never empty.
    pub key: String,
    /// Value, may be empty.
    pub value: String,
}

/// Tag key that disables a node.
pub const TAG_DISABLE: &str = "Disable";
/// Tag key that restricts which clients read from a node.
pub const TAG_TRAFFIC_ZONE: &str = "TrafficZone";

/// Identity of a client process; equal when the uuids are equal.
#[derive(Clone, Debug, Default, Wire)]
pub struct ClientId {
    /// Random per process.
    pub uuid: Uuid,
    /// Host the process runs on, for people.
    pub hostname: String,
}

impl ClientId {
    /// True for the placeholder of "no client".
    pub fn is_zero(&self) -> bool {
        self.uuid == Uuid::default()
    }
}

impl PartialEq for ClientId {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}

impl Eq for ClientId {}

impl std::hash::Hash for ClientId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uuid.0.hash(state);
    }
}

/// Version of the software, 3FS's form.
#[derive(Clone, Debug, PartialEq, Eq, Wire)]
pub struct ReleaseVersion {
    /// 1 selects the field reuse below.
    pub major_version: u8,
    /// Major version 1: 1 for a release build, else 0.
    pub minor_version: u8,
    /// Unused with major version 1.
    pub patch_version: u8,
    /// First four bytes of the commit id.
    pub commit_hash_short: u32,
    /// Major version 1: tag date << 32 | patch number.
    pub build_time_in_seconds: u64,
    /// Build pipeline number.
    pub build_pipeline_id: u32,
}

impl Default for ReleaseVersion {
    fn default() -> Self {
        ReleaseVersion {
            major_version: 1,
            minor_version: 0,
            patch_version: 0,
            commit_hash_short: 0,
            build_time_in_seconds: 0,
            build_pipeline_id: 0,
        }
    }
}

impl ReleaseVersion {
    /// Order of releases as mgmtd compares them before taking over a lease (`src/common/app/AppInfo.cc`). Major
    /// version 1 orders by tag date, then release builds before others, then patch; the build is left out, so two
    /// unequal versions may compare equal.
    pub fn compare(&self, other: &Self) -> std::cmp::Ordering {
        self.major_version.cmp(&other.major_version).then_with(|| {
            if self.major_version == 1 {
                let key = |v: &Self| {
                    (v.build_time_in_seconds >> 32, v.minor_version == 0, v.build_time_in_seconds as u32)
                };
                return key(self).cmp(&key(other));
            }
            let key = |v: &Self| {
                let build = (v.build_pipeline_id, v.build_time_in_seconds, v.commit_hash_short);
                (v.minor_version, v.patch_version, build)
            };
            key(self).cmp(&key(other))
        })
    }
}

/// What a server tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct FbsAppInfo {
    /// Node id from its configuration.
    pub node_id: NodeId,
    /// Host name.
    pub hostname: String,
    /// Process id.
    pub pid: u32,
    /// Services and where they listen.
    pub service_groups: Vec<ServiceGroupInfo>,
    /// Software version.
    pub release_version: ReleaseVersion,
    /// Container name, empty outside containers.
    pub podname: String,
}

/// How a process stands towards the configuration that mgmtd distributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Wire)]
#[repr(u8)]
pub enum ConfigStatus {
    /// Applied.
    #[default]
    Normal = 0,
    /// Applied, then changed locally.
    Dirty = 1,
    /// Could not be applied.
    Failed = 2,
    /// Not known.
    Unknown = 3,
    /// Applied, and a newer one is known.
    Stale = 4,
}

/// Outcome of the last configuration update of a process.
#[derive(Clone, Debug, PartialEq, Wire)]
pub struct ConfigUpdateRecord {
    /// When it happened.
    pub update_time: UtcTime,
    /// Whether it was applied.
    pub result: Status,
    /// Where it came from.
    pub description: String,
}

impl Default for ConfigUpdateRecord {
    fn default() -> Self {
        ConfigUpdateRecord {
            update_time: UtcTime::default(),
            result: Status { code: 0, message: String::new() },
            description: String::new(),
        }
    }
}
