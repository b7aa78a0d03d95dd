//! Which nodes each chain is on.

use crate::Shape;
use crate::anneal::{Annealing, Random};

/// Swaps tried per member of a chain, and their bounds.
const TRIES_PER_MEMBER: usize = 400;
const MIN_TRIES: usize = 60_000;
const MAX_TRIES: usize = 4_000_000;
/// Weight of a chain shared by nodes that are no neighbours in a ring.
const FAR: i64 = 1000;

/// How many chains each pair of nodes has in common, and what that costs.
#[derive(Clone)]
pub(crate) struct Pairs {
    nodes: usize,
    counts: Vec<i64>,
    /// Largest distance on the ring; none for a full mesh.
    reach: Option<usize>,
}

impl Pairs {
    pub(crate) fn new(nodes: usize, replicas: usize, shape: Shape) -> Self {
        let reach = (shape == Shape::Ring).then(|| replicas.saturating_sub(1));
        Pairs { nodes, counts: vec![0; nodes * nodes], reach }
    }

    pub(crate) fn of(nodes: usize, replicas: usize, shape: Shape, sets: &[Vec<usize>]) -> Self {
        let mut pairs = Self::new(nodes, replicas, shape);
        for set in sets {
            for (at, a) in set.iter().enumerate() {
                set[at + 1..].iter().for_each(|b| pairs.add(*a, *b, 1));
            }
        }
        pairs
    }

    pub(crate) fn get(&self, a: usize, b: usize) -> i64 {
        self.counts[a * self.nodes + b]
    }

    fn add(&mut self, a: usize, b: usize, more: i64) {
        self.counts[a * self.nodes + b] += more;
        self.counts[b * self.nodes + a] += more;
    }

    /// True if the two may share a chain.
    pub(crate) fn near(&self, a: usize, b: usize) -> bool {
        let distance = a.abs_diff(b).min(self.nodes - a.abs_diff(b));
        self.reach.is_none_or(|reach| distance <= reach)
    }

    /// Extra cost of one more chain in common: the cost is the sum of squares.
    fn one_more(&self, a: usize, b: usize) -> i64 {
        2 * self.get(a, b) + 1 + if self.near(a, b) { 0 } else { FAR }
    }

    /// Extra cost of putting `new` beside the others of a set.
    pub(crate) fn joining(&self, set: &[usize], without: Option<usize>, new: usize) -> i64 {
        set.iter().filter(|member| Some(**member) != without).map(|member| self.one_more(*member, new)).sum()
    }

    /// Puts `new` in the place of `old`, which must be in the set.
    pub(crate) fn replace(&mut self, set: &mut [usize], old: usize, new: usize) {
        for member in set.iter_mut() {
            if *member == old {
                *member = new;
            } else {
                let kept = *member;
                self.add(kept, old, -1);
                self.add(kept, new, 1);
            }
        }
    }

    pub(crate) fn cost(&self) -> i64 {
        let mut cost = 0;
        for a in 0..self.nodes {
            for b in a + 1..self.nodes {
                let count = self.get(a, b);
                cost += count * count + if self.near(a, b) { 0 } else { FAR * count };
            }
        }
        cost
    }
}

/// Sets of `replicas` nodes; node `i` is in `places[i]` of them.
pub(crate) fn node_sets(
    places: &[usize],
    replicas: usize,
    chains: usize,
    shape: Shape,
    random: &mut Random,
) -> Vec<Vec<usize>> {
    let nodes = places.len();
    let even = places.iter().all(|count| *count == places[0]);
    if shape == Shape::Ring && even {
        return ring(nodes, replicas, chains);
    }
    if nodes == replicas || replicas == 1 {
        return greedy(places, replicas, chains, shape, random);
    }
    let mut best = improve(greedy(places, replicas, chains, shape, random), nodes, shape, random);
    if even && places[0].is_multiple_of(replicas) {
        let blocks = circular(nodes, replicas, places[0] / replicas, random);
        let other = improve(blocks, nodes, shape, random);
        if cost(&other, nodes, shape) < cost(&best, nodes, shape) {
            best = other;
        }
    }
    best
}

fn cost(sets: &[Vec<usize>], nodes: usize, shape: Shape) -> i64 {
    Pairs::of(nodes, sets.first().map_or(0, Vec::len), shape, sets).cost()
}

/// Runs of neighbours that cover the circle again and again, shifted by one each time they meet their start.
fn ring(nodes: usize, replicas: usize, chains: usize) -> Vec<Vec<usize>> {
    let lap = lcm(nodes, replicas);
    let first = |chain: usize| chain * replicas + chain * replicas / lap;
    (0..chains).map(|chain| (0..replicas).map(|i| (first(chain) + i) % nodes).collect()).collect()
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

/// Each chain gets the nodes with most places left, which never gets stuck; among equals those that share least.
fn greedy(
    places: &[usize],
    replicas: usize,
    chains: usize,
    shape: Shape,
    random: &mut Random,
) -> Vec<Vec<usize>> {
    let nodes = places.len();
    let mut left = places.to_vec();
    let mut pairs = Pairs::new(nodes, replicas, shape);
    let mut sets = Vec::with_capacity(chains);
    for _ in 0..chains {
        let mut set: Vec<usize> = Vec::with_capacity(replicas);
        while set.len() < replicas {
            let offset = random.below(nodes);
            let free = (0..nodes).map(|i| (i + offset) % nodes).filter(|node| !set.contains(node));
            let key = |node: &usize| (std::cmp::Reverse(left[*node]), pairs.joining(&set, None, *node));
            let Some(node) = free.min_by_key(key) else { break };
            left[node] = left[node].saturating_sub(1);
            set.iter().for_each(|member| pairs.add(*member, node, 1));
            set.push(node);
        }
        sets.push(set);
    }
    sets
}

/// `count` blocks, each developed around the circle of nodes, so chosen that all distances occur about equally often: a
/// difference family where one is found.
fn circular(nodes: usize, replicas: usize, count: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let mut blocks: Vec<Vec<usize>> = (0..count)
        .map(|_| {
            let mut block = vec![0];
            while block.len() < replicas {
                let node = random.below(nodes);
                if !block.contains(&node) {
                    block.push(node);
                }
            }
            block
        })
        .collect();
    let distance = |a: usize, b: usize| a.abs_diff(b).min(nodes - a.abs_diff(b));
    let mut counts = vec![0_i64; nodes / 2 + 1];
    for block in &blocks {
        for (at, a) in block.iter().enumerate() {
            block[at + 1..].iter().for_each(|b| counts[distance(*a, *b)] += 1);
        }
    }
    // Opposite nodes are joined by one distance from both sides.
    let weight = |d: usize| if 2 * d == nodes { 2 } else { 1 };
    let cost = |counts: &[i64]| -> i64 {
        counts.iter().enumerate().skip(1).map(|(d, n)| (n * weight(d)) * (n * weight(d))).sum()
    };
    let mut current = cost(&counts);
    let mut best = (current, blocks.clone());
    let mut search = Annealing::new((count * replicas * TRIES_PER_MEMBER).clamp(MIN_TRIES, MAX_TRIES), 3.0);
    while search.go_on() {
        let block = random.below(count);
        let member = 1 + random.below(replicas - 1);
        let new = random.below(nodes);
        if blocks[block].contains(&new) {
            continue;
        }
        let old = blocks[block][member];
        let others = blocks[block].iter().filter(|other| **other != old).copied().collect::<Vec<_>>();
        for other in &others {
            counts[distance(*other, old)] -= 1;
            counts[distance(*other, new)] += 1;
        }
        let changed = cost(&counts);
        if search.takes(changed - current, random) {
            blocks[block][member] = new;
            current = changed;
            if current < best.0 {
                best = (current, blocks.clone());
            }
        } else {
            for other in &others {
                counts[distance(*other, old)] += 1;
                counts[distance(*other, new)] -= 1;
            }
        }
    }
    let develop = |block: &Vec<usize>| {
        let block = block.clone();
        (0..nodes).map(move |shift| block.iter().map(|node| (node + shift) % nodes).collect())
    };
    best.1.iter().flat_map(develop).collect()
}

/// Swaps members of two chains as long as that evens out what pairs of nodes share.
fn improve(mut sets: Vec<Vec<usize>>, nodes: usize, shape: Shape, random: &mut Random) -> Vec<Vec<usize>> {
    let replicas = sets.first().map_or(0, Vec::len);
    let mut pairs = Pairs::of(nodes, replicas, shape, &sets);
    let members = sets.len() * replicas;
    let shared = members * replicas.saturating_sub(1) / 2;
    // Even pairs cost least: nothing better can be found then.
    let bound = least_cost(shared, nodes * (nodes - 1) / 2);
    let mut current = pairs.cost();
    let mut best = (current, sets.clone());
    let mut search = Annealing::new((members * TRIES_PER_MEMBER).clamp(MIN_TRIES, MAX_TRIES), 3.0);
    while search.go_on() && best.0 > bound && sets.len() > 1 {
        let (i, j) = (random.below(sets.len()), random.below(sets.len()));
        let (a, b) = (sets[i][random.below(replicas)], sets[j][random.below(replicas)]);
        if i == j || sets[i].contains(&b) || sets[j].contains(&a) {
            continue;
        }
        pairs.replace(&mut sets[i], a, b);
        pairs.replace(&mut sets[j], b, a);
        let changed = current + swap_cost(&pairs, &sets[i], &sets[j], a, b);
        if search.takes(changed - current, random) {
            current = changed;
            if current < best.0 {
                best = (current, sets.clone());
            }
        } else {
            pairs.replace(&mut sets[i], b, a);
            pairs.replace(&mut sets[j], a, b);
        }
    }
    best.1
}

/// The extra cost of a swap that was done: `a` went from `first` to `second`, `b` the other way.
fn swap_cost(pairs: &Pairs, first: &[usize], second: &[usize], a: usize, b: usize) -> i64 {
    // Counts that changed twice, by members that both sets have, are back where they were.
    let mut extra = 0;
    let shared = |node: &usize| first.contains(node) && second.contains(node);
    for (set, gone, come) in [(first, a, b), (second, b, a)] {
        for member in set.iter().filter(|member| **member != come && !shared(member)) {
            let far = |x: usize, y: usize| if pairs.near(x, y) { 0 } else { FAR };
            extra += 2 * pairs.get(*member, come) - 1 + far(*member, come);
            extra -= 2 * pairs.get(*member, gone) + 1 + far(*member, gone);
        }
    }
    extra
}

/// Sum of squares of `total` things spread evenly over `boxes`.
fn least_cost(total: usize, boxes: usize) -> i64 {
    let (each, more) = (total / boxes.max(1), total % boxes.max(1));
    ((boxes - more) * each * each + more * (each + 1) * (each + 1)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_of_swaps_is_what_it_says() {
        let mut random = Random::new(3);
        for shape in [Shape::FullMesh, Shape::Ring] {
            let mut sets = greedy(&[6; 8], 3, 16, Shape::FullMesh, &mut random);
            let mut pairs = Pairs::of(8, 3, shape, &sets);
            for _ in 0..2000 {
                let (i, j) = (random.below(16), random.below(16));
                let (a, b) = (sets[i][random.below(3)], sets[j][random.below(3)]);
                if i == j || sets[i].contains(&b) || sets[j].contains(&a) {
                    continue;
                }
                let before = pairs.cost();
                pairs.replace(&mut sets[i], a, b);
                pairs.replace(&mut sets[j], b, a);
                let extra = swap_cost(&pairs, &sets[i], &sets[j], a, b);
                assert_eq!(pairs.cost() - before, extra);
                assert_eq!(pairs.cost(), cost(&sets, 8, shape));
            }
        }
    }

    #[test]
    fn rings_are_even() {
        for (nodes, replicas, chains) in [(6, 3, 12), (6, 3, 2), (5, 3, 10), (4, 2, 6)] {
            let mut counts = vec![0; nodes];
            ring(nodes, replicas, chains).iter().flatten().for_each(|node| counts[*node] += 1);
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
    }
}
