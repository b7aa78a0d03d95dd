//! Places in the chain, one routing information after the other.

use super::*;
use LocalTargetState::{Offline as Down, Online, Uptodate};
use PublicTargetState::{Lastsrv, Offline, Serving, Syncing, Waiting};
use std::collections::BTreeSet;
use valor_protocol::mgmtd::ChainTargetInfo;
use valor_protocol::{NodeId, ServiceGroupInfo};

/// Handle: the chain the target was created for.
type Map = TargetMap<u32>;

const CHAIN: ChainId = ChainId(7);

fn target(id: u64) -> LocalTarget<u32> {
    let info = Target { target_id: TargetId(id), chain_id: CHAIN, local_state: Online, ..Default::default() };
    LocalTarget { info, path: PathBuf::from(format!("/disk{}/{id}", id / 10)), store: Some(CHAIN.0) }
}

fn map(ids: &[u64]) -> Map {
    let mut map = Map::default();
    for id in ids {
        map.add(target(*id)).unwrap();
    }
    map
}

/// Routing information with one chain; target id = node id.
fn routing(version: u32, members: &[(u64, PublicTargetState)]) -> RoutingInfo {
    let mut info =
        RoutingInfo { routing_info_version: RoutingInfoVersion(u64::from(version)), ..Default::default() };
    let mut chain = ChainInfo { chain_id: CHAIN, chain_version: ChainVersion(version), ..Default::default() };
    for &(id, public_state) in members {
        let target_id = TargetId(id);
        let node_id = NodeId(id as u32);
        chain.targets.push(ChainTargetInfo { target_id, public_state });
        let target = TargetInfo { target_id, public_state, node_id: Some(node_id), ..Default::default() };
        info.targets.insert(target_id, target);
        let endpoint = Address { ip: [10, 0, 0, id as u8], port: 1, ..Default::default() };
        let mut node = NodeInfo::default();
        node.app.service_groups = vec![ServiceGroupInfo {
            services: BTreeSet::from(["StorageSerde".into()]),
            endpoints: vec![endpoint],
        }];
        info.nodes.insert(node_id, node);
    }
    info.chains.insert(CHAIN, chain);
    info
}

fn apply(map: &mut Map, version: u32, members: &[(u64, PublicTargetState)]) -> Effects<u32> {
    map.apply(&routing(version, members), |chain| ChainId(*chain)).unwrap()
}

fn get(map: &Map, id: u64) -> &LocalTarget<u32> {
    map.by_id(TargetId(id)).unwrap()
}

fn at(version: u32) -> VersionedChainId {
    VersionedChainId { chain_id: CHAIN, chain_ver: ChainVersion(version) }
}

#[test]
fn places_in_the_chain() {
    let members = [(1, Serving), (2, Serving), (3, Syncing), (4, Waiting), (5, Offline)];
    let expect = [(true, false, Some(2)), (false, false, Some(3)), (false, true, None), (false, false, None)];
    for (id, (head, tail, next)) in (1..).zip(expect) {
        let mut map = map(&[id]);
        apply(&mut map, 3, &members);
        let target = get(&map, id);
        assert_eq!((target.info.is_head, target.info.is_tail), (head, tail), "{id}");
        let successor = target.info.successor.as_ref().map(|s| s.target_info.target_id.0);
        assert_eq!(successor, next, "{id}");
        assert_eq!(target.info.v_chain_id, at(3));
        if let Some(next) = next {
            assert_eq!(target.successor_address().unwrap().ip, [10, 0, 0, next as u8]);
        } else {
            assert_eq!(target.successor_address().unwrap_err().code, code::STORAGE_NO_SUCCESSOR_TARGET);
        }
    }
}

#[test]
fn only_the_immediate_next_target_is_successor() {
    let mut map = map(&[1]);
    apply(&mut map, 3, &[(1, Serving), (2, Waiting), (3, Serving)]);
    assert!(get(&map, 1).info.is_tail);
    assert!(map.syncing_chains().is_empty());
    apply(&mut map, 4, &[(1, Serving), (3, Syncing), (2, Waiting)]);
    assert!(get(&map, 1).successor_is_syncing());
    assert_eq!(map.syncing_chains(), [at(4)]);
}

#[test]
fn lookups_tell_what_is_wrong() {
    let mut map = map(&[1]);
    let code_of = |map: &Map, chain, any| map.by_chain(chain, any).map(|_| ()).map_err(|s| s.code);
    assert_eq!(code_of(&map, at(3), false), Err(code::STORAGE_CLIENT_ROUTING_ERROR));
    apply(&mut map, 3, &[(1, Serving)]);
    assert_eq!(code_of(&map, at(3), false), Ok(()));
    assert_eq!(code_of(&map, at(2), false), Err(code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH));
    assert_eq!(code_of(&map, at(9999), false), Err(code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH));
    assert_eq!(code_of(&map, at(9999), true), Ok(()));
    let text = map.by_chain(at(9999), false).unwrap_err().message;
    assert_eq!(text, "chain ChainId(7) version mismatch request ChainVersion(9999) != local ChainVersion(3)");
    map.take_offline(TargetId(1)).unwrap();
    assert_eq!(code_of(&map, at(3), false), Err(code::STORAGE_TARGET_OFFLINE));
    assert_eq!(code_of(&map, at(2), false), Err(code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH));
}

#[test]
fn losing_the_place_closes_an_up_to_date_target_only() {
    for state in [Offline, Lastsrv, Waiting] {
        let mut map = map(&[1]);
        apply(&mut map, 1, &[(1, Serving)]);
        assert_eq!(get(&map, 1).info.local_state, Uptodate);
        let effects = apply(&mut map, 2, &[(1, state)]);
        assert_eq!(effects.closed, [(TargetId(1), CHAIN.0)], "{state:?}");
        assert_eq!(get(&map, 1).info.local_state, Down);
        assert!(get(&map, 1).store.is_none() && !get(&map, 1).unrecoverably_offline());
        // Opened again it waits without harm, and another report does not close it.
        map.add(target(1)).unwrap();
        assert!(apply(&mut map, 3, &[(1, state)]).closed.is_empty());
        assert_eq!(get(&map, 1).info.local_state, Online);
    }
    let mut map = map(&[1]);
    apply(&mut map, 1, &[(2, Serving), (1, Syncing)]);
    assert!(apply(&mut map, 2, &[(2, Serving), (1, Offline)]).closed.is_empty());
}

#[test]
fn being_filled_ends_with_sync_done() {
    let mut map = map(&[1]);
    apply(&mut map, 4, &[(2, Serving), (1, Syncing)]);
    assert_eq!(get(&map, 1).info.local_state, Online);
    assert!(map.sync_done(at(3)).is_err());
    assert_eq!(get(&map, 1).info.local_state, Online);
    assert_eq!(map.sync_done(at(4)).unwrap(), TargetId(1));
    assert_eq!(get(&map, 1).info.local_state, Uptodate);
    let effects = apply(&mut map, 5, &[(2, Serving), (1, Serving)]);
    assert!(effects.closed.is_empty() && effects.commit_pending.is_empty());
}

#[test]
fn missed_chain_versions_cost_being_up_to_date() {
    let mut map = map(&[1]);
    apply(&mut map, 4, &[(2, Serving), (1, Syncing)]);
    map.sync_done(at(4)).unwrap();
    let mut again = routing(5, &[(2, Serving), (1, Syncing)]);
    again.chains.get_mut(&CHAIN).unwrap().chain_version = ChainVersion(4);
    map.apply(&again, |chain| ChainId(*chain)).unwrap();
    assert_eq!(get(&map, 1).info.local_state, Uptodate);
    apply(&mut map, 6, &[(2, Serving), (1, Syncing)]);
    assert_eq!(get(&map, 1).info.local_state, Online);
    map.sync_done(at(6)).unwrap();
    apply(&mut map, 7, &[(2, Serving), (1, Serving)]);
    assert_eq!(get(&map, 1).info.local_state, Uptodate);
    // Serving, then filled again: it was out of the chain in between.
    assert_eq!(apply(&mut map, 9, &[(2, Serving), (1, Syncing)]).closed.len(), 1);
    assert_eq!(get(&map, 1).info.local_state, Down);
}

#[test]
fn last_serving_target_commits_what_is_pending_when_it_returns() {
    for state in [Serving, Syncing, Waiting] {
        let mut map = map(&[1]);
        assert!(apply(&mut map, 1, &[(1, Lastsrv)]).commit_pending.is_empty());
        let effects = apply(&mut map, 2, &[(1, state)]);
        assert_eq!(effects.commit_pending, [(CHAIN.0, ChainVersion(2))], "{state:?}");
        assert!(apply(&mut map, 3, &[(1, state)]).commit_pending.is_empty());
    }
    // Also when its time as last-serving target passed unseen.
    let mut map = map(&[1]);
    apply(&mut map, 1, &[(1, Offline)]);
    assert_eq!(apply(&mut map, 2, &[(1, Serving)]).commit_pending, [(CHAIN.0, ChainVersion(2))]);
}

#[test]
fn older_routing_is_refused_and_oddities_are_reported() {
    let mut map = map(&[1, 2]);
    apply(&mut map, 5, &[(1, Serving), (3, Serving)]);
    let error = map.apply(&routing(4, &[(1, Serving)]), |c| ChainId(*c)).unwrap_err();
    assert_eq!(error.code, code::STORAGE_CLIENT_ROUTING_ERROR);
    assert!(get(&map, 1).info.is_head);

    let effects = map.apply(&routing(6, &[(1, Serving)]), |_| ChainId(8)).unwrap();
    assert_eq!(effects.complaints.len(), 1);
    assert!(map.by_chain(at(6), true).is_err());

    let mut unknown = routing(7, &[(1, Serving)]);
    unknown.targets.clear();
    assert_eq!(map.apply(&unknown, |c| ChainId(*c)).unwrap().complaints.len(), 1);

    // A second local target in the same chain stays out of it.
    apply(&mut map, 8, &[(1, Serving), (2, Serving)]);
    assert_eq!(get(&map, 2).info.v_chain_id, VersionedChainId::default());
    assert_eq!(map.by_chain(at(8), false).unwrap().info.target_id, TargetId(1));
}

#[test]
fn failing_disk_takes_its_own_targets_only() {
    let mut map = map(&[11, 12, 21]);
    let failed: Vec<u64> = map.fail_disk(Path::new("/disk1")).into_iter().map(|(id, _)| id.0).collect();
    assert_eq!(failed, [11, 12]);
    assert!(get(&map, 11).unrecoverably_offline() && get(&map, 12).unrecoverably_offline());
    assert_eq!(get(&map, 21).info.local_state, Online);
    assert!(map.fail_disk(Path::new("/disk1")).is_empty());
    map.set_space(Path::new("/disk2"), true, true);
    assert!(get(&map, 21).info.reject_create_chunk && !get(&map, 11).info.reject_create_chunk);
}

#[test]
fn heartbeats_report_states() {
    let mut map = map(&[1, 2]);
    apply(&mut map, 5, &[(1, Serving), (3, Serving)]);
    map.take_offline(TargetId(2)).unwrap();
    assert_eq!(map.take_offline(TargetId(2)).unwrap_err().code, code::STORAGE_TARGET_OFFLINE);
    let report = map.heartbeat(false, |_| 100);
    assert_eq!((report[0].local_state, report[0].used_size, report[0].chain_version.0), (Uptodate, 100, 5));
    assert_eq!((report[1].local_state, report[1].used_size, report[1].chain_version.0), (Down, 0, 0));
    assert!(map.heartbeat(true, |_| 100).iter().all(|t| t.local_state == Down && t.used_size == 0));
}

#[test]
fn restarted_node_waits_until_it_is_taken_for_offline() {
    let mut map = map(&[1]);
    assert!(map.all_noticed_offline());
    for (version, state) in (1..).zip([Serving, Syncing, Waiting]) {
        apply(&mut map, version, &[(1, state)]);
        assert!(!map.all_noticed_offline(), "{state:?}");
    }
    apply(&mut map, 9, &[(1, Lastsrv)]);
    assert!(map.all_noticed_offline());
}

#[test]
fn removed_target_leaves_no_trace() {
    let mut map = map(&[1]);
    apply(&mut map, 1, &[(1, Serving)]);
    assert!(map.add(target(1)).is_err());
    map.remove(TargetId(1)).unwrap();
    assert!(map.by_chain(at(1), false).is_err() && map.by_id(TargetId(1)).is_err());
    assert!(map.remove(TargetId(1)).is_err());
    map.add(target(1)).unwrap();
}
