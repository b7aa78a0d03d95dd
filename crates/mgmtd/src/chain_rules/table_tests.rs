//! Every combination of states of short chains, against a second formulation of the rules and against what must
//! hold whatever the rules are.

use super::*;
use valor_protocol::ChainId;
use valor_protocol::mgmtd::{ChainSetting, ChainTargetSetting};

const PUBLIC: [Public; 6] =
    [Public::Serving, Public::Lastsrv, Public::Syncing, Public::Waiting, Public::Offline, Public::Invalid];
const LOCAL: [Local; 4] = [Local::Uptodate, Local::Online, Local::Offline, Local::Invalid];

fn target(id: u64, public: Public, local: Local) -> TargetState {
    TargetState { target_id: TargetId(id), public, local }
}

fn chain(states: &[(Public, Local)]) -> Vec<TargetState> {
    (1..).zip(states).map(|(id, (public, local))| target(id, *public, *local)).collect()
}

/// Calls `check` with every chain of `length` targets.
fn every_chain(length: usize, check: &mut impl FnMut(&[TargetState])) {
    fn extend(chain: &mut Vec<TargetState>, length: usize, check: &mut impl FnMut(&[TargetState])) {
        if chain.len() == length {
            return check(chain);
        }
        for public in PUBLIC {
            for local in LOCAL {
                chain.push(target(chain.len() as u64 + 1, public, local));
                extend(chain, length, check);
                chain.pop();
            }
        }
    }
    extend(&mut Vec::new(), length, check);
}

/// The rules once more, as statements about each target instead of a procedure over the chain.
fn oracle(old: &[TargetState]) -> Vec<TargetState> {
    let up = |t: &TargetState| t.local == Local::Online || t.local == Local::Uptodate;
    let rank = |public| PUBLIC.iter().position(|p| *p == public).unwrap();
    let stays = |t: &TargetState| t.public == Public::Serving && up(t);
    let filled = |t: &TargetState| t.public == Public::Syncing && t.local == Local::Uptodate;
    let head_alive = old.iter().any(stays);
    let returning =
        if head_alive { None } else { old.iter().position(|t| t.public == Public::Lastsrv && up(t)) };
    let any_serving = head_alive || returning.is_some() || old.iter().any(filled);
    let source_before = |i: usize| head_alive || returning.is_some() || old[..i].iter().any(filled);
    let keeps_filling =
        |i: usize| old[i].public == Public::Syncing && old[i].local == Local::Online && source_before(i);
    let filling = (0..old.len()).any(keeps_filling);
    let out = |t: &TargetState| {
        matches!(t.public, Public::Waiting | Public::Offline | Public::Invalid) && t.local == Local::Online
    };
    let next_to_fill = if any_serving && !filling {
        (0..old.len()).filter(|i| out(&old[*i])).min_by_key(|i| (rank(old[*i].public), *i))
    } else {
        None
    };
    let first_down = old.iter().position(|t| t.public == Public::Serving && !up(t));
    // Those that would have been waited for, had nothing else turned up.
    let left_behind = |i: usize| {
        Some(i) == first_down
            || (old[i].public == Public::Lastsrv
                && !up(&old[i])
                && !head_alive
                && returning.is_none_or(|r| i < r))
    };
    let state = |i: usize| {
        let t = &old[i];
        if stays(t) || filled(t) || Some(i) == returning {
            Public::Serving
        } else if !any_serving && left_behind(i) {
            Public::Lastsrv
        } else if keeps_filling(i) || Some(i) == next_to_fill {
            Public::Syncing
        } else if up(t) && !matches!(t.public, Public::Serving | Public::Lastsrv) {
            Public::Waiting
        } else {
            Public::Offline
        }
    };
    let mut order: Vec<usize> = (0..old.len()).collect();
    order.sort_by_key(|&i| {
        (rank(state(i)), state(i) == Public::Offline && left_behind(i), rank(old[i].public), i)
    });
    order.into_iter().map(|i| TargetState { public: state(i), ..old[i] }).collect()
}

fn count(chain: &[TargetState], public: Public) -> usize {
    chain.iter().filter(|t| t.public == public).count()
}

/// A chain that the rules themselves can produce.
fn well_formed(chain: &[TargetState]) -> bool {
    let serving = count(chain, Public::Serving);
    let syncing = count(chain, Public::Syncing);
    let lastsrv = count(chain, Public::Lastsrv);
    let ordered = chain.windows(2).all(|w| {
        let rank = |t: &TargetState| PUBLIC.iter().position(|p| *p == t.public);
        rank(&w[0]) <= rank(&w[1])
    });
    ordered
        && count(chain, Public::Invalid) == 0
        && syncing <= 1
        && lastsrv <= 1
        && (serving > 0) != (lastsrv > 0)
        && (syncing == 0 || serving > 0)
}

fn ids(chain: &[TargetState]) -> Vec<u64> {
    let mut ids: Vec<u64> = chain.iter().map(|t| t.target_id.0).collect();
    ids.sort_unstable();
    ids
}

fn check_any(old: &[TargetState]) {
    let new = next_states(old);
    assert_eq!(new, oracle(old), "of {old:?}");
    assert_eq!(ids(&new), ids(old), "no target is lost or invented: {old:?}");
    for t in &new {
        let before = old.iter().find(|o| o.target_id == t.target_id).unwrap();
        assert_eq!(t.local, before.local);
        if t.public == Public::Serving {
            let had_data = matches!(before.public, Public::Serving | Public::Lastsrv)
                || (before.public, before.local) == (Public::Syncing, Local::Uptodate);
            assert!(had_data && before.alive(), "{before:?} may not serve; {old:?}");
        }
    }
    let new_serving = count(&new, Public::Serving);
    if old.iter().any(|t| matches!(t.public, Public::Serving | Public::Lastsrv)) {
        assert!(
            new_serving + count(&new, Public::Lastsrv) > 0,
            "who had the data is forgotten: {old:?} -> {new:?}"
        );
    }
    assert!(new_serving == 0 || count(&new, Public::Lastsrv) == 0);
    assert!(new_serving > 0 || count(&new, Public::Syncing) == 0, "nobody can fill: {old:?} -> {new:?}");
    assert!(new.iter().all(|t| t.public != Public::Invalid));
}

fn check_well_formed(old: &[TargetState]) {
    let new = next_states(old);
    assert!(well_formed(&new), "{old:?} -> {new:?}");
    // Serving replicas keep their order, and those that join come after them.
    let was = |t: &TargetState| old.iter().position(|o| o.target_id == t.target_id).unwrap();
    let serving: Vec<usize> = new.iter().filter(|t| t.public == Public::Serving).map(was).collect();
    assert!(serving.is_sorted(), "{old:?} -> {new:?}");
    // A state other than waiting for data agrees with what the node says.
    for t in &new {
        let out = matches!(t.public, Public::Lastsrv | Public::Offline);
        assert_eq!(out, !t.alive(), "{old:?} -> {new:?}");
    }
    if count(&new, Public::Serving) == 0 {
        let down: Vec<&TargetState> = old.iter().filter(|t| t.public == Public::Serving).collect();
        for (i, t) in down.iter().enumerate() {
            let now = new.iter().find(|n| n.target_id == t.target_id).unwrap();
            assert_eq!(now.public, if i == 0 { Public::Lastsrv } else { Public::Offline });
        }
    }
    // Nothing further happens until something further is reported, but one replica that starts to be filled.
    let again = next_states(&new);
    assert!(
        again == new || count(&again, Public::Syncing) > count(&new, Public::Syncing),
        "{old:?} -> {new:?} -> {again:?}"
    );
    assert_eq!(next_states(&again), again, "{old:?}");
}

#[test]
fn every_chain_of_one_two_and_three_targets() {
    let (mut all, mut good) = (0, 0);
    assert!(next_states(&[]).is_empty());
    for length in 1..=3 {
        every_chain(length, &mut |old| {
            all += 1;
            check_any(old);
            if well_formed(old) {
                good += 1;
                check_well_formed(old);
            }
        });
    }
    assert_eq!(all, 24 + 24 * 24 + 24 * 24 * 24);
    assert!(good > 500, "{good} of {all}");
}

#[test]
fn version_grows_if_and_only_if_the_chain_changes() {
    for length in 1..=3 {
        every_chain(length, &mut |old| {
            let before = ChainInfo {
                chain_id: ChainId(7),
                chain_version: ChainVersion(41),
                targets: old.iter().map(|t| t.to_chain()).collect(),
                preferred_target_order: vec![TargetId(1)],
            };
            let local = |id: TargetId| old.iter().find(|t| t.target_id == id).unwrap().local;
            let expected: Vec<_> = next_states(old).iter().map(|t| t.to_chain()).collect();
            match update_chain(&before, local, false) {
                None => assert_eq!(expected, before.targets),
                Some(after) => {
                    assert_ne!(after.targets, before.targets);
                    assert_eq!(after.targets, expected);
                    assert_eq!(after.chain_version, ChainVersion(42));
                    assert_eq!(after.chain_id, before.chain_id);
                    assert_eq!(after.preferred_target_order, before.preferred_target_order);
                }
            }
        });
    }
}

#[test]
fn transition_table_of_single_targets() {
    use Local::{Offline as Dn, Online as On, Uptodate as Up};
    use Public::*;
    // state, reported; alone; behind one that serves; behind one that serves while another is filled
    let table = [
        (Serving, Up, Serving, Serving, Serving),
        (Serving, On, Serving, Serving, Serving),
        (Serving, Dn, Lastsrv, Offline, Offline),
        (Lastsrv, Up, Serving, Offline, Offline),
        (Lastsrv, On, Serving, Offline, Offline),
        (Lastsrv, Dn, Lastsrv, Offline, Offline),
        (Syncing, Up, Serving, Serving, Serving),
        (Syncing, On, Waiting, Syncing, Syncing),
        (Syncing, Dn, Offline, Offline, Offline),
        (Waiting, Up, Waiting, Waiting, Waiting),
        (Waiting, On, Waiting, Syncing, Waiting),
        (Waiting, Dn, Offline, Offline, Offline),
        (Offline, Up, Waiting, Waiting, Waiting),
        (Offline, On, Waiting, Syncing, Waiting),
        (Offline, Dn, Offline, Offline, Offline),
    ];
    for (public, local, alone, behind, third) in table {
        let state = |chain: &[(Public, Local)]| {
            let chain = super::table_tests::chain(chain);
            let id = chain.last().unwrap().target_id;
            next_states(&chain).iter().find(|t| t.target_id == id).unwrap().public
        };
        assert_eq!(state(&[(public, local)]), alone, "{public:?} {local:?} alone");
        assert_eq!(state(&[(Serving, Up), (public, local)]), behind, "{public:?} {local:?} behind SERVING");
        let chain = [(Serving, Up), (Syncing, On), (public, local)];
        assert_eq!(state(&chain), third, "{public:?} {local:?} behind SERVING and SYNCING");
    }
}

#[test]
fn all_serving_down_waits_for_the_first_only() {
    let down = chain(&[(Public::Serving, Local::Offline); 3]);
    let states = |c: &[TargetState]| c.iter().map(|t| (t.target_id.0, t.public)).collect::<Vec<_>>();
    let new = next_states(&down);
    assert_eq!(states(&new), [(1, Public::Lastsrv), (2, Public::Offline), (3, Public::Offline)]);
    let mut others = new.clone();
    others[1].local = Local::Online;
    others[2].local = Local::Uptodate;
    let new = next_states(&others);
    assert_eq!(states(&new), [(1, Public::Lastsrv), (2, Public::Waiting), (3, Public::Waiting)]);
    let mut back = new.clone();
    back[0].local = Local::Online;
    let new = next_states(&back);
    assert_eq!(states(&new), [(1, Public::Serving), (2, Public::Syncing), (3, Public::Waiting)]);
}

#[test]
fn a_shut_down_chain_lets_the_first_to_return_serve() {
    let serving = ChainTargetInfo { target_id: TargetId(1), public_state: Public::Serving };
    let states = |s: Public, id| ChainTargetInfo { target_id: TargetId(id), public_state: s };
    let before =
        [serving, states(Public::Serving, 2), states(Public::Syncing, 3), states(Public::Waiting, 4)];
    let after = shutdown_chain(&before);
    let public: Vec<Public> = after.iter().map(|t| t.public_state).collect();
    assert_eq!(public, [Public::Lastsrv, Public::Lastsrv, Public::Offline, Public::Offline]);
    assert_eq!(shutdown_chain(&after), after);
    let second_is_back = with_local(&after, |id| if id.0 == 2 { Local::Online } else { Local::Offline });
    let new = next_states(&second_is_back);
    assert_eq!((new[0].target_id.0, new[0].public), (2, Public::Serving));
    assert!(new[1..].iter().all(|t| t.public == Public::Offline));
}

#[test]
fn rotate_last_srv_passes_the_wait_to_the_next() {
    for length in 1..=3 {
        every_chain(length, &mut |old| {
            let new = rotate_last_srv(old);
            if length < 2 || old[0].public != Public::Lastsrv {
                return assert_eq!(new, old);
            }
            assert_eq!(new[0].target_id, old[1].target_id);
            assert_eq!(new[0].public, Public::Lastsrv);
            assert_eq!(new.last().unwrap().target_id, old[0].target_id);
            assert!(new[1..].iter().all(|t| t.public == Public::Offline));
            assert_eq!(ids(&new), ids(old));
        });
    }
}

#[test]
fn preferred_order_is_reached_one_rotation_at_a_time() {
    let orders: [[u64; 3]; 6] = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    for order in orders {
        let preferred = order.map(TargetId);
        let mut now = chain(&[(Public::Serving, Local::Uptodate); 3]);
        let mut rotations = 0;
        while now.iter().map(|t| t.target_id.0).ne(order) {
            let new = rotate_as_preferred_order(&now, &preferred);
            assert_ne!(new, now);
            assert_eq!(count(&new, Public::Serving), 2, "only one leaves at a time");
            // It comes back, is filled and serves again.
            let last = new.last().unwrap().target_id;
            let filled = |local| move |t: &TargetState| TargetState { local, ..*t };
            now = next_states(&new.iter().map(filled(Local::Online)).collect::<Vec<_>>());
            assert_eq!(now.last().map(|t| (t.target_id, t.public)), Some((last, Public::Syncing)));
            now = next_states(&now.iter().map(filled(Local::Uptodate)).collect::<Vec<_>>());
            assert_eq!(count(&now, Public::Serving), 3);
            rotations += 1;
            assert!(rotations <= 3, "{order:?}");
        }
        assert_eq!(rotate_as_preferred_order(&now, &preferred), now);
    }
}

#[test]
fn rotation_never_takes_the_last_serving_replica() {
    let orders: [&[u64]; 8] = [&[], &[1], &[2], &[2, 1], &[3, 2, 1], &[9], &[2, 9, 1], &[3, 1, 2, 4]];
    for length in 1..=3 {
        every_chain(length, &mut |old| {
            if !well_formed(old) {
                return;
            }
            for order in orders {
                let preferred: Vec<TargetId> = order.iter().copied().map(TargetId).collect();
                let new = rotate_as_preferred_order(old, &preferred);
                assert_eq!(ids(&new), ids(old));
                if new != old {
                    assert!(count(&new, Public::Serving) > 0, "{old:?} by {order:?} -> {new:?}");
                    assert_eq!(new.last().unwrap().public, Public::Offline);
                }
            }
        });
    }
}

#[test]
fn preferred_order_is_followed_only_by_a_whole_chain() {
    let info = |states: [Public; 2]| ChainInfo {
        chain_id: ChainId(1),
        chain_version: ChainVersion(5),
        targets: (1..)
            .zip(states)
            .map(|(id, s)| ChainTargetInfo { target_id: TargetId(id), public_state: s })
            .collect(),
        preferred_target_order: vec![TargetId(2), TargetId(1)],
    };
    let whole = info([Public::Serving, Public::Serving]);
    let up = |_| Local::Uptodate;
    assert_eq!(update_chain(&whole, up, false), None);
    let new = update_chain(&whole, up, true).unwrap();
    assert_eq!(new.targets[0].target_id, TargetId(2));
    assert_eq!(new.targets[1].public_state, Public::Offline);
    assert_eq!(update_chain(&info([Public::Serving, Public::Syncing]), |_| Local::Online, true), None);
}

#[test]
fn targets_are_added_and_removed() {
    let setting = ChainSetting {
        chain_id: ChainId(9),
        targets: [11, 12].map(|id| ChainTargetSetting { target_id: TargetId(id) }).to_vec(),
        set_preferred_target_order: true,
    };
    let chain = new_chain(&setting);
    assert_eq!(chain.chain_version, ChainVersion(1));
    assert!(chain.targets.iter().all(|t| t.public_state == Public::Serving));
    assert_eq!(chain.preferred_target_order, [TargetId(11), TargetId(12)]);
    let plain = new_chain(&ChainSetting { set_preferred_target_order: false, ..setting.clone() });
    assert!(plain.preferred_target_order.is_empty());

    assert!(same_targets(&chain, &setting));
    let mut other = setting.clone();
    other.targets.reverse();
    assert!(same_targets(&chain, &other));
    other.targets.pop();
    assert!(!same_targets(&chain, &other));

    let three = add_target(&chain, TargetId(13));
    assert_eq!(three.chain_version, ChainVersion(2));
    assert_eq!(three.targets[2].public_state, Public::Offline);
    assert_eq!(three.preferred_target_order, [11, 12, 13].map(TargetId));
    assert!(add_target(&plain, TargetId(13)).preferred_target_order.is_empty());

    assert_eq!(remove_target(&three, TargetId(14)), Err(RemoveTargetError::NotFound));
    assert_eq!(remove_target(&three, TargetId(11)), Err(RemoveTargetError::InUse(Public::Serving)));
    let two = remove_target(&three, TargetId(13)).unwrap();
    assert_eq!((two.targets, two.preferred_target_order), (chain.targets, chain.preferred_target_order));
    assert_eq!(two.chain_version, ChainVersion(3));
    let mut single = plain.clone();
    single.targets.truncate(1);
    single.targets[0].public_state = Public::Offline;
    assert_eq!(remove_target(&single, TargetId(11)), Err(RemoveTargetError::Last));
}

#[test]
fn preferred_orders_are_checked() {
    let setting = ChainSetting {
        chain_id: ChainId(9),
        targets: [11, 12].map(|id| ChainTargetSetting { target_id: TargetId(id) }).to_vec(),
        set_preferred_target_order: false,
    };
    let chain = new_chain(&setting);
    let set =
        |order: &[u64]| preferred_order(&chain, &order.iter().copied().map(TargetId).collect::<Vec<_>>());
    assert_eq!(set(&[]), Err(PreferredOrderError::Empty));
    assert_eq!(set(&[11, 11]), Err(PreferredOrderError::Duplicate));
    assert_eq!(set(&[11, 13]), Err(PreferredOrderError::NotFound(TargetId(13))));
    let new = set(&[12]).unwrap().unwrap();
    assert_eq!(
        (new.preferred_target_order.as_slice(), new.chain_version),
        (&[TargetId(12)][..], ChainVersion(1))
    );
    assert_eq!(preferred_order(&new, &[TargetId(12)]), Ok(None));
}
