//! The order of each chain: who leads it, and who fills whom.
//!
//! A member that comes back goes to the chain's end and is filled by the last one that serves. So the last member
//! fills all others, and is filled by the one before it.

use crate::Plan;
use crate::anneal::{Annealing, Random};

const TRIES_PER_CHAIN: usize = 100;
const MAX_TRIES: usize = 1_000_000;

/// Who fills whom: `fills[a * nodes + b]` chains in which `b` fills `a`.
pub(crate) fn fills(sets: &[Vec<usize>], nodes: usize) -> Vec<i64> {
    let mut fills = vec![0; nodes * nodes];
    sets.iter().for_each(|set| count(&mut fills, nodes, set, 1));
    fills
}

fn count(fills: &mut [i64], nodes: usize, set: &[usize], more: i64) {
    let [.., before, last] = set else { return };
    for member in set {
        let filler = if member == last { before } else { last };
        fills[member * nodes + filler] += more;
    }
}

/// Orders all chains: heads evenly over the nodes, then fillers.
pub(crate) fn arrange(plan: &mut Plan, random: &mut Random) {
    let nodes = plan.nodes.len();
    let mut sets = plan.sets();
    share_heads(&mut sets, nodes);
    share_fills(&mut sets, nodes, random);
    for (chain, set) in plan.chains.iter_mut().zip(&sets) {
        let ids: Vec<u32> = set.iter().map(|index| plan.nodes[*index].id).collect();
        chain.sort_by_key(|place| ids.iter().position(|id| *id == place.node));
    }
}

/// Makes the number of chains that each node leads as equal as its number of chains allows.
fn share_heads(sets: &mut [Vec<usize>], nodes: usize) {
    let mut heads = vec![0_usize; nodes];
    for set in sets.iter_mut() {
        if let Some(at) = (0..set.len()).min_by_key(|at| heads[set[*at]]) {
            set.swap(0, at);
            heads[set[0]] += 1;
        }
    }
    // A node that leads too many gives chains away along the shortest way to one that leads fewer.
    while let Some(path) = shorter_heads(sets, &heads, nodes) {
        for (chain, to) in path {
            let at = sets[chain].iter().position(|node| *node == to).unwrap_or(0);
            heads[sets[chain][0]] -= 1;
            heads[to] += 1;
            sets[chain].swap(0, at);
        }
    }
}

/// Changes of heads, last first, that take one from a node with most heads and give it to one with at least two less.
fn shorter_heads(sets: &[Vec<usize>], heads: &[usize], nodes: usize) -> Option<Vec<(usize, usize)>> {
    let most = *heads.iter().max()?;
    let mut led: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    for (chain, set) in sets.iter().enumerate() {
        led[*set.first()?].push(chain);
    }
    // How each node was reached: by which chain, from whom.
    let mut reached: Vec<Option<(usize, usize)>> = vec![None; nodes];
    let mut open: Vec<usize> = (0..nodes).filter(|node| heads[*node] == most).collect();
    let mut seen = vec![false; nodes];
    open.iter().for_each(|node| seen[*node] = true);
    let mut next = 0;
    while next < open.len() {
        let from = open[next];
        next += 1;
        for chain in &led[from] {
            for to in &sets[*chain][1..] {
                if seen[*to] {
                    continue;
                }
                seen[*to] = true;
                reached[*to] = Some((*chain, from));
                if heads[*to] + 2 <= most {
                    let mut path = Vec::new();
                    let mut node = *to;
                    while let Some((chain, from)) = reached[node] {
                        path.push((chain, node));
                        node = from;
                    }
                    return Some(path);
                }
                open.push(*to);
            }
        }
    }
    None
}

/// Swaps members behind the head until a failed node's chains are filled by as many different others as possible.
fn share_fills(sets: &mut [Vec<usize>], nodes: usize, random: &mut Random) {
    let chains = sets.len();
    let mut counts = fills(sets, nodes);
    let mut search = Annealing::new((chains * TRIES_PER_CHAIN).min(MAX_TRIES), 1.0);
    while search.go_on() {
        let chain = random.below(chains);
        let len = sets[chain].len();
        if len < 3 {
            continue;
        }
        let (a, b) = (1 + random.below(len - 1), len - 1);
        if a == b {
            continue;
        }
        let before = local_cost(&counts, nodes, &sets[chain]);
        count(&mut counts, nodes, &sets[chain], -1);
        sets[chain].swap(a, b);
        count(&mut counts, nodes, &sets[chain], 1);
        let extra = local_cost(&counts, nodes, &sets[chain]) - before;
        if !search.takes(extra, random) {
            count(&mut counts, nodes, &sets[chain], -1);
            sets[chain].swap(a, b);
            count(&mut counts, nodes, &sets[chain], 1);
        }
    }
}

fn local_cost(counts: &[i64], nodes: usize, set: &[usize]) -> i64 {
    let pairs = set.iter().flat_map(|a| set.iter().map(move |b| (a, b)));
    pairs.map(|(a, b)| counts[a * nodes + b] * counts[a * nodes + b]).sum()
}
