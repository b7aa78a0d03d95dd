//! How even a plan is, and how even it could be at best.

use crate::design::Pairs;
use crate::{Plan, Shape, order};
use std::collections::BTreeMap;

/// The largest of some counts, and the least that the largest can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Least of the counts.
    pub least: usize,
    /// Largest of the counts.
    pub most: usize,
    /// No plan of this size has a smaller largest one. Whether one reaches it is another question.
    pub bound: usize,
}

impl Measure {
    fn of(counts: impl Iterator<Item = usize>, bound: usize) -> Self {
        let counts: Vec<usize> = counts.collect();
        let (least, most) = (counts.iter().min().copied(), counts.iter().max().copied());
        Measure { least: least.unwrap_or(0), most: most.unwrap_or(0), bound }
    }

    /// How much the largest is above the bound, in percent.
    pub fn excess_percent(&self) -> f64 {
        (self.most as f64 / self.bound.max(1) as f64 - 1.0) * 100.0
    }
}

/// How even a plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// Targets of each disk.
    pub targets_per_disk: Measure,
    /// Chains that two nodes share: the part of a failed node's load that another gets.
    pub shared_by_nodes: Measure,
    /// Chains of a disk that another node shares: what of a failed node's load that disk gets.
    pub shared_by_disks: Measure,
    /// Chains that each node leads.
    pub heads: Measure,
    /// Chains of a node that another fills when it comes back.
    pub fills: Measure,
    /// Pairs of nodes that share chains but are no neighbours, in a ring.
    pub far_pairs: usize,
}

impl Plan {
    /// How even this plan is.
    pub fn quality(&self) -> Quality {
        let (nodes, sets) = (self.nodes.len(), self.sets());
        let pairs = Pairs::of(nodes, self.replicas(), self.shape, &sets);
        let others: Vec<usize> =
            (0..nodes).map(|a| (0..nodes).filter(|b| *b != a && pairs.near(a, *b)).count()).collect();
        let shared_of = |a: usize| (0..nodes).map(|b| pairs.get(a, b) as usize).sum::<usize>();
        let all_pairs = || (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b)));
        let near = || all_pairs().filter(|(a, b)| pairs.near(*a, *b));
        let bound = (0..nodes).map(|a| shared_of(a).div_ceil(others[a].max(1))).max().unwrap_or(0);
        let chains_of: Vec<usize> =
            (0..nodes).map(|a| sets.iter().filter(|set| set.contains(&a)).count()).collect();
        let fills = order::fills(&sets, nodes);
        let fill_bound = match self.replicas() {
            0 | 1 => 0,
            _ => (0..nodes).map(|a| chains_of[a].div_ceil(others[a].max(1))).max().unwrap_or(0),
        };
        let heads = |a: usize| sets.iter().filter(|set| set.first() == Some(&a)).count();
        Quality {
            targets_per_disk: self.targets_per_disk(),
            shared_by_nodes: Measure::of(
                near().map(|(a, b)| pairs.get(a, b) as usize),
                self.ring_bound(bound),
            ),
            shared_by_disks: self.shared_by_disks(&pairs),
            heads: Measure::of((0..nodes).map(heads), sets.len().div_ceil(nodes)),
            fills: Measure::of(
                all_pairs()
                    .flat_map(|(a, b)| [fills[a * nodes + b], fills[b * nodes + a]])
                    .map(|n| n as usize),
                fill_bound,
            ),
            far_pairs: all_pairs().filter(|(a, b)| pairs.get(*a, *b) > 0 && !pairs.near(*a, *b)).count(),
        }
    }

    /// In a ring direct neighbours share more than the average: all runs but one that hold a node hold its neighbour.
    fn ring_bound(&self, even: usize) -> usize {
        if self.shape == Shape::FullMesh || self.nodes.len() <= self.replicas() {
            return even;
        }
        let replicas = self.replicas();
        let chains = self.chains.len();
        even.max((chains * replicas.saturating_sub(1)).div_ceil(self.nodes.len()))
    }

    fn disk_counts(&self) -> BTreeMap<(u32, u32), usize> {
        let all = self.nodes.iter().flat_map(|node| (0..node.disks).map(|disk| ((node.id, disk), 0)));
        let mut counts: BTreeMap<(u32, u32), usize> = all.collect();
        for place in self.chains.iter().flatten() {
            *counts.entry((place.node, place.disk)).or_default() += 1;
        }
        counts
    }

    fn targets_per_disk(&self) -> Measure {
        let counts = self.disk_counts();
        let members: usize = self.chains.iter().map(Vec::len).sum();
        Measure::of(counts.values().copied(), members.div_ceil(counts.len().max(1)))
    }

    fn shared_by_disks(&self, pairs: &Pairs) -> Measure {
        let mut counts: BTreeMap<(u32, u32, u32), usize> = BTreeMap::new();
        for chain in &self.chains {
            for place in chain {
                for peer in chain.iter().filter(|peer| peer.node != place.node) {
                    *counts.entry((place.node, place.disk, peer.node)).or_default() += 1;
                }
            }
        }
        let mut bound = 0;
        for (a, node) in self.nodes.iter().enumerate() {
            for b in (0..self.nodes.len()).filter(|b| *b != a) {
                bound = bound.max((pairs.get(a, b) as usize).div_ceil(node.disks as usize));
            }
        }
        Measure::of(counts.values().copied(), bound)
    }
}
