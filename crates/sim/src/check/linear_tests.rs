//! Known histories, and a comparison with all orders tried one by one.

use super::Action::{Read, Write};
use super::*;
use crate::rng::Rng;

fn history(ops: &[(u64, u64, Action)]) -> Vec<Op> {
    ops.iter()
        .zip(1..)
        .map(|((call, ret, action), client)| Op { client, action: *action, call: *call, ret: *ret })
        .collect()
}

const NEVER: u64 = u64::MAX;

#[test]
fn good_histories() {
    for ops in [
        &[][..],
        &[(0, 1, Read(0))],
        &[(0, 1, Write(1)), (2, 3, Read(1))],
        // A read beside a write may see either value.
        &[(0, 9, Write(1)), (1, 2, Read(0)), (3, 4, Read(1))],
        // Two writes at the same time, seen in either order.
        &[(0, 5, Write(1)), (1, 6, Write(2)), (7, 8, Read(1)), (9, 10, Read(1))],
        // A write that never returned takes effect late, or never.
        &[(0, NEVER, Write(1)), (1, 2, Read(0)), (3, 4, Read(1))],
        &[(0, NEVER, Write(1)), (1, 2, Write(2)), (3, 4, Read(2)), (5, 6, Read(1))],
        &[(0, NEVER, Write(1)), (1, 2, Read(0)), (3, 4, Read(0))],
    ] {
        assert_eq!(check(&history(ops)), Ok(()), "{ops:?}");
    }
}

#[test]
fn bad_histories() {
    for (what, ops) in [
        ("a value nobody wrote", &[(0, 1, Read(7))][..]),
        ("an acknowledged write is lost", &[(0, 1, Write(1)), (2, 3, Read(0))]),
        ("a stale read", &[(0, 1, Write(1)), (2, 3, Write(2)), (4, 5, Read(1))]),
        ("a read from the future", &[(0, 1, Read(1)), (2, 3, Write(1))]),
        ("new, then old", &[(0, 9, Write(1)), (1, 2, Read(1)), (3, 4, Read(0))]),
        (
            "a retried write applied twice",
            &[(0, 9, Write(1)), (1, 2, Read(1)), (3, 4, Write(2)), (5, 6, Read(2)), (7, 8, Read(1))],
        ),
        (
            "two readers disagree about the order",
            &[(0, 1, Write(1)), (2, 9, Write(2)), (3, 4, Read(2)), (5, 6, Read(1))],
        ),
        (
            "a write of unknown outcome seen and taken back",
            &[(0, NEVER, Write(1)), (1, 2, Read(1)), (3, 4, Read(0))],
        ),
    ] {
        assert!(check(&history(ops)).is_err(), "{what}");
    }
}

/// Tries every order of the operations.
fn by_force(ops: &[Op], done: &mut Vec<usize>, value: u64) -> bool {
    let open = |index: &usize| !done.contains(index);
    let required = |index: &usize| ops[*index].ret != NEVER;
    if (0..ops.len()).filter(open).all(|index| !required(&index)) {
        return true;
    }
    let first_return = (0..ops.len()).filter(open).map(|index| ops[index].ret).min().unwrap_or(NEVER);
    let candidates: Vec<usize> =
        (0..ops.len()).filter(open).filter(|index| ops[*index].call <= first_return).collect();
    for index in candidates {
        let next = match ops[index].action {
            Write(written) => written,
            Read(found) if found == value => value,
            Read(_) => continue,
        };
        done.push(index);
        if by_force(ops, done, next) {
            return true;
        }
        done.pop();
    }
    false
}

#[test]
fn agrees_with_trying_every_order() {
    let mut rng = Rng::new(7);
    let mut verdicts = [0; 2];
    for round in 0..3000 {
        let count = 2 + rng.index(6);
        let mut times: Vec<u64> = (0..2 * count as u64).collect();
        let mut ops = Vec::new();
        for client in 0..count as u32 {
            let mut take = || times.remove(rng.index(times.len().min(6)));
            let (a, b) = (take(), take());
            let unknown = rng.chance(0.15);
            let write = rng.chance(0.5);
            let action =
                if write { Write(u64::from(client) + 1) } else { Read(rng.below(0..count as u64 + 1)) };
            let ret = if unknown && write { NEVER } else { a.max(b) };
            ops.push(Op { client, action, call: a.min(b), ret });
        }
        let expected = by_force(&ops, &mut Vec::new(), 0);
        assert_eq!(check(&ops).is_ok(), expected, "round {round}: {ops:?}");
        verdicts[usize::from(expected)] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 100), "both verdicts occur: {verdicts:?}");
}
