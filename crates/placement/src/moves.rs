//! Adding and draining a node with the least number of replicas moved.

use crate::anneal::{Annealing, Random};
use crate::design::Pairs;
use crate::{Node, Place, Plan, PlanError, Shape, invalid};

const TRIES_PER_MOVE: usize = 2000;
const MAX_TRIES: usize = 2_000_000;

/// A replica that goes from one disk to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Position of the chain in the plan.
    pub chain: usize,
    /// Where it was.
    pub from: Place,
    /// Where it goes; it is filled there at the chain's end.
    pub to: Place,
}

/// A changed plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The plan after all moves.
    pub plan: Plan,
    /// The moves; each chain is in at most one.
    pub moves: Vec<Move>,
    /// The least number of moves after which every node has its share.
    pub least_moves: usize,
}

impl Plan {
    /// Adds a node, which takes its share of replicas from the others.
    ///
    /// # Errors
    /// If the node is there already or has no disk, or the plan is wrong.
    pub fn grow(&self, node: Node, seed: u64) -> Result<Changed, PlanError> {
        self.check()?;
        if self.nodes.iter().any(|known| known.id == node.id) {
            return invalid(format!("node {} is in the plan already", node.id));
        }
        let mut plan = self.clone();
        plan.nodes.push(node);
        plan.check()?;
        let new = plan.nodes.len() - 1;
        let mut sets = plan.sets();
        let members: usize = sets.iter().map(Vec::len).sum();
        let disks: usize = plan.nodes.iter().map(|node| node.disks as usize).sum();
        // By disks, so that a node with more of them gets more; a chain has room for it once.
        let share = (members * node.disks as usize / disks).min(sets.len());
        let mut counts = per_node(&sets, plan.nodes.len());
        let mut pairs = Pairs::of(plan.nodes.len(), plan.replicas(), plan.shape, &sets);
        let mut random = Random::new(seed);
        let mut moved: Vec<(usize, usize)> = Vec::with_capacity(share);
        for _ in 0..share {
            // From the node that has most for its disks; of its chains the one where it evens out most.
            let offset = random.below(sets.len());
            let from = |chain: usize| {
                let set = &sets[chain];
                set.iter().copied().max_by_key(|n| fullness(&plan.nodes, &counts, *n))
            };
            let pick = (0..sets.len())
                .map(|i| (i + offset) % sets.len())
                .filter(|chain| !sets[*chain].contains(&new))
                .filter_map(|chain| Some((chain, from(chain)?)))
                .min_by_key(|(chain, old)| {
                    let gain = pairs.joining(&sets[*chain], Some(*old), new)
                        - pairs.joining(&sets[*chain], Some(*old), *old);
                    (std::cmp::Reverse(fullness(&plan.nodes, &counts, *old)), gain)
                });
            let Some((chain, old)) = pick else { break };
            pairs.replace(&mut sets[chain], old, new);
            counts[old] -= 1;
            counts[new] += 1;
            moved.push((chain, old));
        }
        exchange_sources(&mut sets, &mut pairs, &mut moved, new, &mut random);
        let pairs: Vec<(usize, usize, usize)> =
            moved.iter().map(|(chain, old)| (*chain, *old, new)).collect();
        Ok(plan.apply(&pairs, share))
    }

    /// Moves everything away from a node and takes it out of the plan.
    ///
    /// # Errors
    /// If the node is not there, or too few would be left.
    pub fn drain(&self, node: u32, seed: u64) -> Result<Changed, PlanError> {
        self.check()?;
        let gone = self.index_of(node);
        if gone == usize::MAX {
            return invalid(format!("node {node} is not in the plan"));
        }
        if self.nodes.len() <= self.replicas() {
            return Err(PlanError::TooFewNodes { nodes: self.nodes.len() - 1, replicas: self.replicas() });
        }
        let mut sets = self.sets();
        let mut counts = per_node(&sets, self.nodes.len());
        let mut pairs = Pairs::of(self.nodes.len(), self.replicas(), self.shape, &sets);
        let mut random = Random::new(seed);
        let affected: Vec<usize> = (0..sets.len()).filter(|chain| sets[*chain].contains(&gone)).collect();
        let mut moved: Vec<(usize, usize)> = Vec::with_capacity(affected.len());
        for chain in affected.iter().copied() {
            let offset = random.below(self.nodes.len());
            let free = (0..self.nodes.len())
                .map(|i| (i + offset) % self.nodes.len())
                .filter(|to| *to != gone && !sets[chain].contains(to));
            let to = free.min_by_key(|to| {
                (fullness(&self.nodes, &counts, *to), pairs.joining(&sets[chain], Some(gone), *to))
            });
            let Some(to) = to else { continue };
            pairs.replace(&mut sets[chain], gone, to);
            counts[to] += 1;
            moved.push((chain, to));
        }
        exchange_destinations(&mut sets, &mut pairs, &mut moved, &mut random);
        let moves: Vec<(usize, usize, usize)> = moved.iter().map(|(chain, to)| (*chain, gone, *to)).collect();
        let mut changed = self.apply(&moves, affected.len());
        changed.plan.nodes.remove(gone);
        Ok(changed)
    }

    /// Makes moves between nodes; each goes to the disk that has least, and least in common with the chain's others.
    fn apply(&self, moves: &[(usize, usize, usize)], least_moves: usize) -> Changed {
        let mut plan = self.clone();
        let mut done = Vec::with_capacity(moves.len());
        for (chain, from, to) in moves.iter().copied() {
            let (from, to) = (self.nodes[from], self.nodes[to]);
            let members = &plan.chains[chain];
            let Some(at) = members.iter().position(|place| place.node == from.id) else { continue };
            let old = members[at];
            let peers: Vec<u32> =
                members.iter().map(|place| place.node).filter(|peer| *peer != from.id).collect();
            let disk =
                (0..to.disks).min_by_key(|disk| plan.disk_load(Place { node: to.id, disk: *disk }, &peers));
            let new = Place { node: to.id, disk: disk.unwrap_or(0) };
            plan.chains[chain].remove(at);
            plan.chains[chain].push(new);
            done.push(Move { chain, from: old, to: new });
        }
        Changed { plan, moves: done, least_moves }
    }

    /// Targets of a disk, and how many chains it has in common with these nodes.
    fn disk_load(&self, place: Place, peers: &[u32]) -> (usize, usize) {
        let here = self.chains.iter().filter(|chain| chain.contains(&place));
        let shared = |chain: &&Vec<Place>| chain.iter().filter(|other| peers.contains(&other.node)).count();
        (here.clone().count(), here.map(|chain| shared(&chain)).sum())
    }
}

fn per_node(sets: &[Vec<usize>], nodes: usize) -> Vec<usize> {
    let mut counts = vec![0; nodes];
    sets.iter().flatten().for_each(|node| counts[*node] += 1);
    counts
}

/// Replicas for each of the node's disks, in thousandths.
fn fullness(nodes: &[Node], counts: &[usize], node: usize) -> usize {
    counts[node] * 1000 / nodes[node].disks as usize
}

/// Which chains give a replica to the new node may be exchanged as long as each node gives as many.
fn exchange_sources(
    sets: &mut [Vec<usize>],
    pairs: &mut Pairs,
    moved: &mut [(usize, usize)],
    new: usize,
    random: &mut Random,
) {
    if moved.is_empty() || moved.len() == sets.len() {
        return;
    }
    let mut current = pairs.cost();
    let mut search =
        Annealing::new((moved.len() * TRIES_PER_MOVE).min(MAX_TRIES / sets.len().max(1) + 1000), 0.0);
    while search.go_on() {
        let at = random.below(moved.len());
        let (chain, old) = moved[at];
        let other = random.below(sets.len());
        if sets[other].contains(&new) || !sets[other].contains(&old) {
            continue;
        }
        pairs.replace(&mut sets[chain], new, old);
        pairs.replace(&mut sets[other], old, new);
        let cost = pairs.cost();
        if search.takes(cost - current, random) {
            current = cost;
            moved[at] = (other, old);
        } else {
            pairs.replace(&mut sets[other], new, old);
            pairs.replace(&mut sets[chain], old, new);
        }
    }
}

/// Which of the moved replicas goes where may be exchanged.
fn exchange_destinations(
    sets: &mut [Vec<usize>],
    pairs: &mut Pairs,
    moved: &mut [(usize, usize)],
    random: &mut Random,
) {
    if moved.len() < 2 {
        return;
    }
    let mut current = pairs.cost();
    let mut search =
        Annealing::new((moved.len() * TRIES_PER_MOVE).min(MAX_TRIES / sets.len().max(1) + 1000), 0.0);
    while search.go_on() {
        let (i, j) = (random.below(moved.len()), random.below(moved.len()));
        let ((first, a), (second, b)) = (moved[i], moved[j]);
        if i == j || a == b || sets[first].contains(&b) || sets[second].contains(&a) {
            continue;
        }
        pairs.replace(&mut sets[first], a, b);
        pairs.replace(&mut sets[second], b, a);
        let cost = pairs.cost();
        if search.takes(cost - current, random) {
            current = cost;
            (moved[i].1, moved[j].1) = (b, a);
        } else {
            pairs.replace(&mut sets[first], b, a);
            pairs.replace(&mut sets[second], a, b);
        }
    }
}

impl Shape {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Shape::FullMesh => "full mesh",
            Shape::Ring => "ring",
        }
    }
}
