//! What `valor up` will run: processes, directories, ports, targets and chains. Pure, apart from reading and
//! writing the remembered plan.

use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Node ids as in 3FS's deployment guide.
const MGMTD_NODE: u32 = 1;
const META_NODE: u32 = 100;
const FIRST_STORAGE_NODE: u32 = 10_001;
/// Chains per storage node when targets are plain directories: enough to keep all nodes busy, few enough to list.
const CHAINS_PER_NODE: u32 = 2;

/// The remembered shape of a cluster: `cluster.toml` in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the cluster; every process of it must have the same (3FS: under 32 characters).
    pub cluster_id: String,
    /// Number of storage processes.
    pub storage_nodes: u32,
    /// Number of managers.
    #[serde(default = "one")]
    pub mgmtd_nodes: u32,
    /// Number of metadata processes.
    #[serde(default = "one")]
    pub meta_nodes: u32,
    /// Managers and metadata processes keep everything in the store of a process of its own. Otherwise there is one
    /// manager with its own store, and one metadata process with its own, or several that use the manager's (clusters
    /// made before there was a process for it).
    #[serde(default)]
    pub shared_store: bool,
    /// Targets per chain.
    pub replicas: u32,
    /// Chunk size of new files in bytes: a power of two, 64 KiB to 64 MiB.
    pub chunk_size: u32,
    /// Loop devices that hold targets, 0 for plain directories.
    #[serde(default)]
    pub loop_devices: u32,
    /// Bytes of each loop device.
    #[serde(default)]
    pub loop_size: u64,
    /// `always` or `process` (SEMANTICS.md).
    pub sync: String,
    /// TCP ports on the loopback interface, chosen free and kept while they stay free.
    pub ports: Ports,
}

/// Ports of the service group and the Core group of each process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Ports {
    /// Mgmtd and its Core.
    pub mgmtd: [u16; 2],
    /// The same of further managers.
    #[serde(default)]
    pub more_mgmtd: Vec<[u16; 2]>,
    /// MetaSerde and its Core.
    pub meta: [u16; 2],
    /// The same of further metadata processes.
    #[serde(default)]
    pub more_meta: Vec<[u16; 2]>,
    /// StorageSerde and its Core, one pair a node.
    pub storage: Vec<[u16; 2]>,
}

fn one() -> u32 {
    1
}

/// A manager or a metadata process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedServer {
    /// Short name, also of its directory.
    pub name: String,
    pub node_id: u32,
    /// Of its service and of Core.
    pub ports: [u16; 2],
}

/// Names of the processes (and directories) with the two parts of what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stores {
    /// Nodes, chains, configurations, users.
    pub manager: &'static str,
    /// Inodes and names.
    pub metadata: &'static str,
}

/// One storage target of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedTarget {
    pub target_id: u64,
    pub node_id: u32,
    /// Index into the node's `target_paths`.
    pub disk_index: u32,
    pub chain_id: u32,
}

impl Plan {
    /// Checks the numbers against each other.
    ///
    /// # Errors
    /// A sentence that names the option to change.
    pub fn check(&self) -> Result<(), String> {
        if self.storage_nodes == 0 || self.storage_nodes > 64 {
            return Err("--storage-nodes must be 1 to 64".into());
        }
        if self.mgmtd_nodes == 0 || self.mgmtd_nodes > 16 {
            return Err("--mgmtd-nodes must be 1 to 16".into());
        }
        if self.meta_nodes == 0 || self.meta_nodes > 16 {
            return Err("--meta-nodes must be 1 to 16".into());
        }
        if self.replicas == 0 || self.replicas > self.storage_nodes {
            return Err(format!(
                "--replicas {} does not fit {} storage nodes: the replicas of a chain live on different nodes; \
                 lower --replicas or raise --storage-nodes",
                self.replicas, self.storage_nodes
            ));
        }
        if !self.chunk_size.is_power_of_two() || !(64 << 10..=64 << 20).contains(&self.chunk_size) {
            return Err("--chunk-size must be a power of two from 64KB to 64MB".into());
        }
        if self.loop_devices > 0 {
            if !self.loop_devices.is_multiple_of(self.storage_nodes) {
                return Err(format!(
                    "--loop-devices {} cannot be shared evenly by {} storage nodes; use a multiple",
                    self.loop_devices, self.storage_nodes
                ));
            }
            if self.loop_size < 64 << 20 {
                return Err("--loop-size must be at least 64MB".into());
            }
        }
        if self.sync != "always" && self.sync != "process" {
            return Err(format!("--sync must be `always` or `process`, not `{}`", self.sync));
        }
        Ok(())
    }

    /// The managers.
    pub fn mgmtds(&self) -> Vec<PlannedServer> {
        servers("mgmtd", MGMTD_NODE, self.mgmtd_nodes, self.ports.mgmtd, &self.ports.more_mgmtd)
    }

    /// The metadata processes.
    pub fn metas(&self) -> Vec<PlannedServer> {
        servers("meta", META_NODE, self.meta_nodes, self.ports.meta, &self.ports.more_meta)
    }

    /// Which process has what.
    pub fn stores(&self) -> Stores {
        let (manager, metadata) = match (self.shared_store, self.meta_nodes) {
            (true, _) => ("kv", "kv"),
            (false, 1) => ("mgmtd", "meta"),
            (false, _) => ("mgmtd", "mgmtd"),
        };
        Stores { manager, metadata }
    }

    /// Node ids of the storage processes.
    pub fn storage_node_ids(&self) -> impl Iterator<Item = u32> + use<> {
        (0..self.storage_nodes).map(|index| FIRST_STORAGE_NODE + index)
    }

    /// Disks (directories or loop file systems) of each storage node.
    pub fn disks_per_node(&self) -> u32 {
        if self.loop_devices > 0 { self.loop_devices / self.storage_nodes } else { 1 }
    }

    /// Number of chains; each holds `replicas` targets on different nodes.
    pub fn chains(&self) -> u32 {
        if self.loop_devices > 0 {
            self.loop_devices / self.replicas
        } else {
            self.storage_nodes * CHAINS_PER_NODE
        }
    }

    /// Targets of each chain, head first. Heads rotate over the nodes so that they share the work.
    pub fn chain_targets(&self) -> Vec<Vec<PlannedTarget>> {
        let mut placed = vec![0_u32; self.storage_nodes as usize];
        (0..self.chains())
            .map(|chain| {
                let first = chain * if self.loop_devices > 0 { self.replicas } else { 1 };
                (0..self.replicas)
                    .map(|replica| {
                        let node = (first + replica) % self.storage_nodes;
                        let nth = placed[node as usize];
                        placed[node as usize] += 1;
                        let disk_index = if self.loop_devices > 0 { nth } else { 0 };
                        let node_id = FIRST_STORAGE_NODE + node;
                        PlannedTarget {
                            target_id: target_id(node_id, disk_index, nth),
                            node_id,
                            disk_index,
                            chain_id: 900_100_001 + chain,
                        }
                    })
                    .collect()
            })
            .collect()
    }

    /// Chains of a file's stripe.
    pub fn stripe_size(&self) -> u32 {
        self.chains().min(self.storage_nodes)
    }

    /// Reads the plan of an earlier `up`, if there was one.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged; the message names it.
    pub fn load(data_dir: &Path) -> io::Result<Option<Self>> {
        let path = Self::path(data_dir);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        };
        toml::from_str(&text).map(Some).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        })
    }

    /// Remembers the plan; atomic.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, data_dir: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let path = Self::path(data_dir);
        let temporary = path.with_extension("toml.new");
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, &path)
    }

    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("cluster.toml")
    }
}

fn servers(
    kind: &str,
    first_node: u32,
    count: u32,
    first: [u16; 2],
    more: &[[u16; 2]],
) -> Vec<PlannedServer> {
    let ports = [first].into_iter().chain(more.iter().copied());
    let named = |(index, ports)| {
        let name = if count == 1 { kind.to_owned() } else { format!("{kind}-{}", index + 1) };
        PlannedServer { name, node_id: first_node + index, ports }
    };
    (0..count).zip(ports).map(named).collect()
}

/// Target ids as 3FS's `gen_chain_table.py` makes them (prefix 1).
fn target_id(node_id: u32, disk_index: u32, nth: u32) -> u64 {
    let disk = u64::from(disk_index) + 1;
    ((1_000_000 + u64::from(node_id)) * 1000 + disk) * 100 + u64::from(nth) % 99 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn plan(storage_nodes: u32, replicas: u32, loop_devices: u32) -> Plan {
        Plan {
            cluster_id: "test".into(),
            storage_nodes,
            mgmtd_nodes: 1,
            meta_nodes: 1,
            shared_store: false,
            replicas,
            chunk_size: 1 << 20,
            loop_devices,
            loop_size: 1 << 30,
            sync: "process".into(),
            ports: Ports::default(),
        }
    }

    #[test]
    fn replicas_are_on_different_nodes_and_loads_are_even() {
        for (nodes, replicas, loops) in
            [(3, 3, 0), (3, 2, 0), (3, 1, 0), (5, 3, 0), (1, 1, 0), (3, 3, 6), (4, 2, 8), (3, 1, 3)]
        {
            let plan = plan(nodes, replicas, loops);
            plan.check().unwrap();
            let mut per_node = BTreeMap::<u32, u32>::new();
            let mut ids = BTreeSet::new();
            let mut disks = BTreeSet::new();
            for chain in plan.chain_targets() {
                assert_eq!(chain.len(), replicas as usize);
                let on: BTreeSet<_> = chain.iter().map(|t| t.node_id).collect();
                assert_eq!(on.len(), replicas as usize, "{nodes} {replicas} {loops}");
                for target in chain {
                    *per_node.entry(target.node_id).or_default() += 1;
                    assert!(ids.insert(target.target_id));
                    assert!(target.disk_index < plan.disks_per_node());
                    if loops > 0 {
                        assert!(
                            disks.insert((target.node_id, target.disk_index)),
                            "one target a loop device"
                        );
                    }
                }
            }
            assert_eq!(per_node.values().collect::<BTreeSet<_>>().len(), 1, "{per_node:?}");
        }
    }

    #[test]
    fn bad_numbers_name_the_option() {
        assert!(plan(2, 3, 0).check().unwrap_err().contains("--replicas"));
        assert!(plan(3, 3, 4).check().unwrap_err().contains("--loop-devices"));
        assert!(Plan { chunk_size: 100_000, ..plan(3, 3, 0) }.check().unwrap_err().contains("--chunk-size"));
    }

    #[test]
    fn old_plans_keep_their_stores() {
        let text = toml::to_string(&Plan { meta_nodes: 2, ..plan(3, 3, 0) }).unwrap();
        let old: String = text
            .lines()
            .filter(|line| !line.starts_with("mgmtd_nodes") && !line.starts_with("shared_store"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let old: Plan = toml::from_str(&old).unwrap();
        assert_eq!((old.mgmtd_nodes, old.meta_nodes), (1, 2));
        assert_eq!(old.stores(), Stores { manager: "mgmtd", metadata: "mgmtd" });
        assert_eq!(plan(3, 3, 0).stores(), Stores { manager: "mgmtd", metadata: "meta" });
        let shared = Plan { shared_store: true, ..old };
        assert_eq!(shared.stores(), Stores { manager: "kv", metadata: "kv" });
    }

    #[test]
    fn plan_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Plan::load(dir.path()).unwrap().is_none());
        let plan = plan(3, 3, 0);
        plan.save(dir.path()).unwrap();
        assert_eq!(Plan::load(dir.path()).unwrap(), Some(plan));
        std::fs::write(dir.path().join("cluster.toml"), "storage_nodes = [").unwrap();
        assert!(Plan::load(dir.path()).unwrap_err().to_string().contains("cluster.toml"));
    }
}
