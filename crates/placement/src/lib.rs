//! Chain tables that spread recovery load evenly over nodes and disks. Pure: no clock, no network, one seed.
//!
//! Each chain is a set of places (a disk of a node), on different nodes. When a node fails, the other members of its
//! chains take its reads over and later fill it again; so the load is even if every pair of nodes has the same number
//! of chains in common, and a node's chains with another are spread over its disks. Exactly even placements of equal
//! nodes are balanced incomplete block designs. 3FS looks for them with an integer-programming solver; here a
//! construction comes first ([`design`](crate::plan): blocks developed around a circle of nodes, or a greedy choice)
//! and simulated annealing on swaps after it, which keep every node's number of targets. It gives the exact designs for
//! the sizes where they are known to be easy, and [`Quality`] says how far from the bound it is otherwise.
//!
//! Three steps, each with its own cost: which nodes ([`plan`]), which disk of each node, which order (who leads, and
//! who fills whom). [`Plan::grow`] and [`Plan::drain`] change a plan by the least number of replicas moved.

mod anneal;
mod design;
mod disks;
mod moves;
mod order;
mod quality;

pub use moves::{Changed, Move};
pub use quality::{Measure, Quality};

use anneal::Random;
use std::collections::BTreeSet;

/// Most chains of a plan.
pub const MAX_CHAINS: usize = 1 << 20;

/// A node with its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: u32,
    /// Number of disks.
    pub disks: u32,
}

/// Which nodes may share chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Shape {
    /// All: a failed node's load is shared by all others.
    #[default]
    FullMesh,
    /// Neighbours in the order of the list, closed to a circle: fewer sets of nodes whose common loss is a loss of
    /// data, at the price that only neighbours share a failed node's load.
    Ring,
}

/// What to plan.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Nodes, with different ids.
    pub nodes: Vec<Node>,
    /// Members of each chain.
    pub replicas: usize,
    /// Targets of each disk.
    pub targets_per_disk: u32,
    /// Which nodes may share chains.
    pub shape: Shape,
    /// The same seed gives the same plan.
    pub seed: u64,
}

/// A disk of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Node.
    pub node: u32,
    /// Disk's index on it.
    pub disk: u32,
}

/// A placement. Chains are kept in order: chain `i` stays chain `i` in all changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Which nodes may share chains.
    pub shape: Shape,
    /// Places of each chain, head first.
    pub chains: Vec<Vec<Place>>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A number makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Chains need members on different nodes.
    #[error("{nodes} nodes cannot hold {replicas} replicas of a chain on different nodes")]
    TooFewNodes {
        /// Nodes there are.
        nodes: usize,
        /// Nodes a chain needs.
        replicas: usize,
    },
    /// A node has more places than there can be chains.
    #[error(
        "node {node} has {targets} places, more than the {chains} chains that all nodes together can hold"
    )]
    TooLarge {
        /// The node.
        node: u32,
        /// Its places.
        targets: usize,
        /// Chains.
        chains: usize,
    },
}

fn invalid<T>(text: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError::Invalid(text.into()))
}

/// Makes a plan that uses every place of every disk, except for what is left when the number of places is no multiple
/// of the replicas.
///
/// # Errors
/// If the numbers do not fit each other.
pub fn plan(spec: &Spec) -> Result<Plan, PlanError> {
    check_nodes(&spec.nodes)?;
    let (nodes, replicas) = (spec.nodes.len(), spec.replicas);
    if replicas == 0 || spec.targets_per_disk == 0 {
        return invalid("replicas and targets per disk must be more than 0");
    }
    if nodes < replicas {
        return Err(PlanError::TooFewNodes { nodes, replicas });
    }
    let mut places: Vec<usize> =
        spec.nodes.iter().map(|node| node.disks as usize * spec.targets_per_disk as usize).collect();
    let chains = places.iter().sum::<usize>() / replicas;
    if chains == 0 || chains > MAX_CHAINS {
        return invalid(format!("{chains} chains; must be 1 to {MAX_CHAINS}"));
    }
    for (node, targets) in spec.nodes.iter().zip(&places) {
        if *targets > chains {
            return Err(PlanError::TooLarge { node: node.id, targets: *targets, chains });
        }
    }
    leave_out(&mut places, chains * replicas);
    let mut random = Random::new(spec.seed);
    let sets = design::node_sets(&places, replicas, chains, spec.shape, &mut random);
    let mut plan = Plan {
        nodes: spec.nodes.clone(),
        shape: spec.shape,
        chains: disks::assign(&spec.nodes, sets, &mut random),
    };
    order::arrange(&mut plan, &mut random);
    Ok(plan)
}

/// Lets the nodes with most places have less until `total` are left.
fn leave_out(places: &mut [usize], total: usize) {
    for _ in total..places.iter().sum() {
        if let Some(most) = places.iter_mut().rev().max_by_key(|count| **count) {
            *most -= 1;
        }
    }
}

fn check_nodes(nodes: &[Node]) -> Result<(), PlanError> {
    if nodes.is_empty() || nodes.iter().any(|node| node.disks == 0) {
        return invalid("every node needs a disk");
    }
    let ids: BTreeSet<u32> = nodes.iter().map(|node| node.id).collect();
    if ids.len() != nodes.len() { invalid("a node is named twice") } else { Ok(()) }
}

impl Plan {
    /// Checks what was read from elsewhere: members on different known nodes and disks.
    ///
    /// # Errors
    /// Which chain is wrong.
    pub fn check(&self) -> Result<(), PlanError> {
        check_nodes(&self.nodes)?;
        if self.chains.is_empty() || self.chains.len() > MAX_CHAINS {
            return invalid(format!("{} chains; must be 1 to {MAX_CHAINS}", self.chains.len()));
        }
        for (number, chain) in self.chains.iter().enumerate() {
            let nodes: BTreeSet<u32> = chain.iter().map(|place| place.node).collect();
            if chain.is_empty() || nodes.len() != chain.len() {
                return invalid(format!("chain {number} has no members or two on one node"));
            }
            let known = |place: &Place| {
                self.nodes.iter().any(|node| node.id == place.node && place.disk < node.disks)
            };
            if let Some(place) = chain.iter().find(|place| !known(place)) {
                let Place { node, disk } = place;
                return invalid(format!(
                    "chain {number} is on disk {disk} of node {node}, which is not there"
                ));
            }
        }
        Ok(())
    }

    /// Members of the longest chain.
    pub fn replicas(&self) -> usize {
        self.chains.iter().map(Vec::len).max().unwrap_or(0)
    }

    fn index_of(&self, node: u32) -> usize {
        self.nodes.iter().position(|known| known.id == node).unwrap_or(usize::MAX)
    }

    /// Chains as indices of nodes.
    fn sets(&self) -> Vec<Vec<usize>> {
        let index = |place: &Place| self.index_of(place.node);
        self.chains.iter().map(|chain| chain.iter().map(index).collect()).collect()
    }
}
