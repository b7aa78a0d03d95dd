//! Which disk of each node a chain is on.

use crate::anneal::{Annealing, Random};
use crate::{Node, Place};

const TRIES_PER_CHAIN: usize = 200;
const MAX_TRIES: usize = 400_000;

/// Gives the members of each chain disks: each disk of a node gets the same number of chains, and the chains that a
/// node shares with another are spread over its disks.
pub(crate) fn assign(nodes: &[Node], sets: Vec<Vec<usize>>, random: &mut Random) -> Vec<Vec<Place>> {
    let mut chains: Vec<Vec<Place>> = sets
        .iter()
        .map(|set| set.iter().map(|node| Place { node: nodes[*node].id, disk: 0 }).collect())
        .collect();
    for (index, node) in nodes.iter().enumerate() {
        let mine: Vec<usize> = (0..sets.len()).filter(|chain| sets[*chain].contains(&index)).collect();
        let peers: Vec<Vec<usize>> = mine
            .iter()
            .map(|chain| sets[*chain].iter().copied().filter(|peer| *peer != index).collect())
            .collect();
        let disks = spread(&peers, node.disks as usize, nodes.len(), random);
        for (chain, disk) in mine.into_iter().zip(disks) {
            if let Some(place) = chains[chain].iter_mut().find(|place| place.node == node.id) {
                place.disk = disk as u32;
            }
        }
    }
    chains
}

/// A disk for each chain of one node, of which the peers are given.
fn spread(peers: &[Vec<usize>], disks: usize, nodes: usize, random: &mut Random) -> Vec<usize> {
    let mut disk_of: Vec<usize> = (0..peers.len()).map(|chain| chain % disks).collect();
    if disks < 2 || peers.len() < 2 {
        return disk_of;
    }
    let mut counts = vec![0_i64; disks * nodes];
    for (chain, disk) in disk_of.iter().enumerate() {
        peers[chain].iter().for_each(|peer| counts[disk * nodes + peer] += 1);
    }
    let mut current: i64 = counts.iter().map(|n| n * n).sum();
    let mut best = (current, disk_of.clone());
    let mut search = Annealing::new((peers.len() * TRIES_PER_CHAIN).min(MAX_TRIES), 2.0);
    while search.go_on() {
        let (i, j) = (random.below(peers.len()), random.below(peers.len()));
        let (d, e) = (disk_of[i], disk_of[j]);
        if d == e {
            continue;
        }
        let shift = |counts: &mut [i64], chain: usize, from: usize, to: usize| -> i64 {
            let mut extra = 0;
            for peer in &peers[chain] {
                let (from, to) = (from * nodes + peer, to * nodes + peer);
                extra += 1 - 2 * counts[from];
                counts[from] -= 1;
                extra += 2 * counts[to] + 1;
                counts[to] += 1;
            }
            extra
        };
        let extra = shift(&mut counts, i, d, e) + shift(&mut counts, j, e, d);
        if search.takes(extra, random) {
            (disk_of[i], disk_of[j]) = (e, d);
            current += extra;
            if current < best.0 {
                best = (current, disk_of.clone());
            }
        } else {
            shift(&mut counts, i, e, d);
            shift(&mut counts, j, d, e);
        }
    }
    best.1
}
