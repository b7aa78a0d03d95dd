//! What every plan must be, and how close to the bound the usual sizes come.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use valor_placement::{Node, Plan, PlanError, Shape, Spec, plan};

fn nodes(count: u32, disks: u32) -> Vec<Node> {
    (0..count).map(|i| Node { id: 10 + i, disks }).collect()
}

fn spec(count: u32, disks: u32, targets_per_disk: u32, replicas: usize) -> Spec {
    Spec { nodes: nodes(count, disks), replicas, targets_per_disk, shape: Shape::FullMesh, seed: 1 }
}

fn per_node(plan: &Plan) -> BTreeMap<u32, usize> {
    let mut counts: BTreeMap<u32, usize> = plan.nodes.iter().map(|node| (node.id, 0)).collect();
    plan.chains.iter().flatten().for_each(|place| *counts.entry(place.node).or_default() += 1);
    counts
}

fn spread(counts: impl Iterator<Item = usize>) -> usize {
    let counts: Vec<usize> = counts.collect();
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_valid_and_even(
        count in 1_u32..12,
        disks in 1_u32..5,
        targets in 1_u32..5,
        replicas in 1_usize..5,
        ring: bool,
        seed: u64,
    ) {
        let shape = if ring { Shape::Ring } else { Shape::FullMesh };
        let spec = Spec { shape, seed, ..spec(count, disks, targets, replicas) };
        let made = match plan(&spec) {
            Ok(made) => made,
            Err(PlanError::TooFewNodes { .. }) => {
                prop_assert!((count as usize) < replicas);
                return Ok(());
            }
            // Too few places for one chain.
            Err(_) => {
                prop_assert!((count * disks * targets) as usize / replicas < (disks * targets) as usize
                    || (count * disks * targets) < replicas as u32);
                return Ok(());
            }
        };
        prop_assert!(made.check().is_ok());
        prop_assert_eq!(made.chains.len(), (count * disks * targets) as usize / replicas);
        prop_assert!(made.chains.iter().all(|chain| chain.len() == replicas));
        prop_assert!(spread(per_node(&made).into_values()) <= 1);
        let quality = made.quality();
        prop_assert!(quality.targets_per_disk.most <= targets as usize);
        prop_assert!(quality.heads.most <= quality.heads.bound + usize::from(replicas == 1));
        prop_assert!(quality.shared_by_nodes.most >= quality.shared_by_nodes.bound.min(1) || replicas == 1);
        prop_assert_eq!(&made, &plan(&spec).unwrap(), "the same seed gives the same plan");
        if ring && ((count * disks * targets) as usize).is_multiple_of(replicas) {
            prop_assert_eq!(quality.far_pairs, 0);
        }
    }

    #[test]
    fn a_node_is_added_with_the_least_moves(
        count in 3_u32..10,
        disks in 1_u32..4,
        targets in 1_u32..5,
        replicas in 1_usize..4,
        seed: u64,
    ) {
        let old = plan(&spec(count, disks, targets, replicas)).unwrap();
        let changed = old.grow(Node { id: 99, disks }, seed).unwrap();
        prop_assert!(changed.plan.check().is_ok());
        prop_assert_eq!(changed.moves.len(), changed.least_moves);
        prop_assert_eq!(changed.plan.chains.len(), old.chains.len());
        let moved: BTreeSet<usize> = changed.moves.iter().map(|m| m.chain).collect();
        prop_assert_eq!(moved.len(), changed.moves.len(), "a chain moves once");
        prop_assert!(changed.moves.iter().all(|m| m.to.node == 99));
        for (at, (before, after)) in old.chains.iter().zip(&changed.plan.chains).enumerate() {
            let differ = before.iter().filter(|place| !after.contains(place)).count();
            prop_assert_eq!(differ, usize::from(moved.contains(&at)));
        }
        prop_assert!(spread(per_node(&changed.plan).into_values()) <= 2, "{:?}", per_node(&changed.plan));
    }

    #[test]
    fn a_node_is_drained_with_the_least_moves(
        count in 4_u32..10,
        disks in 1_u32..4,
        targets in 1_u32..5,
        replicas in 1_usize..4,
        victim in 0_u32..4,
        seed: u64,
    ) {
        let old = plan(&spec(count, disks, targets, replicas)).unwrap();
        let gone = 10 + victim;
        let changed = old.drain(gone, seed).unwrap();
        prop_assert!(changed.plan.check().is_ok());
        prop_assert_eq!(changed.moves.len(), per_node(&old)[&gone]);
        prop_assert!(changed.plan.chains.iter().flatten().all(|place| place.node != gone));
        prop_assert!(spread(per_node(&changed.plan).into_values()) <= 3, "{:?}", per_node(&changed.plan));
        prop_assert!(changed.plan.quality().targets_per_disk.most <= old.quality().targets_per_disk.most
            + (changed.moves.len()).div_ceil((count as usize - 1) * disks as usize) + 1);
    }
}

/// Sizes for which an exactly even design exists: every pair shares the same number of chains.
#[test]
fn known_designs_are_found() {
    for (count, per_node, replicas, shared) in [
        (7, 3, 3, 1),
        (13, 4, 4, 1),
        (9, 4, 3, 1),
        (6, 5, 3, 2),
        (5, 4, 2, 1),
        (4, 3, 3, 2),
        (21, 5, 5, 1),
        (15, 7, 3, 1),
    ] {
        let quality = plan(&spec(count, 1, per_node, replicas)).unwrap().quality();
        let measure = quality.shared_by_nodes;
        assert_eq!(
            (measure.least, measure.most, measure.bound),
            (shared, shared, shared),
            "{count} {replicas}"
        );
    }
}

#[test]
fn usual_sizes_come_close_to_the_bound() {
    for (count, disks, targets, replicas) in
        [(5, 4, 6, 3), (6, 16, 2, 2), (10, 4, 6, 3), (16, 16, 3, 3), (30, 16, 3, 3), (12, 8, 3, 2)]
    {
        let made = plan(&spec(count, disks, targets, replicas)).unwrap();
        let quality = made.quality();
        let (nodes, fills) = (quality.shared_by_nodes, quality.fills);
        println!("{count} nodes, {disks} disks, {targets} targets, {replicas} replicas: {quality:?}");
        assert!(nodes.most <= nodes.bound + 1, "{count}: {nodes:?}");
        assert!(fills.most <= fills.bound + 2, "{count}: {fills:?}");
        assert!(
            quality.shared_by_disks.most <= quality.shared_by_disks.bound + 1,
            "{:?}",
            quality.shared_by_disks
        );
    }
}

#[test]
fn different_nodes_get_different_shares() {
    let mut spec = spec(4, 2, 6, 2);
    spec.nodes[0].disks = 4;
    let made = plan(&spec).unwrap();
    let counts = per_node(&made);
    assert_eq!(counts[&10], 24);
    assert_eq!(counts[&11], 12);
    spec.nodes[0].disks = 40;
    assert!(matches!(plan(&spec), Err(PlanError::TooLarge { node: 10, .. })));
}

#[test]
fn a_grown_plan_stays_even_between_nodes() {
    let old = plan(&spec(9, 4, 6, 3)).unwrap();
    let grown = old.grow(Node { id: 99, disks: 4 }, 5).unwrap();
    let quality = grown.plan.quality();
    println!("{} moves (least {}), {quality:?}", grown.moves.len(), grown.least_moves);
    assert!(quality.shared_by_nodes.most <= quality.shared_by_nodes.bound + 2, "{quality:?}");
    let back = grown.plan.drain(99, 5).unwrap();
    assert_eq!(back.moves.len(), grown.moves.len());
    assert!(back.plan.quality().shared_by_nodes.most <= old.quality().shared_by_nodes.most + 2);
}

#[test]
fn wrong_plans_are_refused() {
    let mut made = plan(&spec(4, 1, 3, 2)).unwrap();
    assert!(made.grow(Node { id: 10, disks: 1 }, 0).is_err(), "known already");
    assert!(made.drain(77, 0).is_err());
    made.chains[0][0].disk = 7;
    assert!(made.check().is_err());
    assert!(matches!(plan(&spec(2, 1, 3, 3)), Err(PlanError::TooFewNodes { .. })));
    let two = plan(&spec(2, 1, 3, 2)).unwrap();
    assert!(matches!(two.drain(10, 0), Err(PlanError::TooFewNodes { .. })));
}
