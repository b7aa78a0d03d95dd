//! The rules at work: a chain of storage servers in miniature under random crashes, false alarms, lost manager
//! state, rotations and late messages. What must hold at every moment: whoever serves has every write that was
//! acknowledged, however early or late the manager acts on what it heard. And once the faults stop, every replica
//! serves again with the same data.

use super::*;
use std::collections::BTreeSet;
use valor_protocol::ChainId;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// One storage server with one target.
struct Replica {
    id: TargetId,
    up: bool,
    connected: bool,
    local: Local,
    /// The chain as this server knows it; `None` after a start.
    known: Option<ChainInfo>,
    /// Writes that are on its disk.
    data: BTreeSet<u64>,
}

impl Replica {
    fn state_in(&self, chain: &ChainInfo) -> Public {
        chain.targets.iter().find(|t| t.target_id == self.id).unwrap().public_state
    }

    fn accepts(&self, version: ChainVersion) -> bool {
        self.up && self.known.as_ref().is_some_and(|chain| chain.chain_version == version)
    }

    /// What a storage server does with new routing information (semantics.md C.2).
    fn learn(&mut self, chain: &ChainInfo) {
        match (self.state_in(chain), self.local) {
            (Public::Offline | Public::Lastsrv | Public::Waiting, Local::Uptodate) => {
                self.local = Local::Offline
            }
            (Public::Serving, Local::Online) => self.local = Local::Uptodate,
            _ => {}
        }
        self.known = Some(chain.clone());
    }
}

struct World {
    random: Random,
    chain: ChainInfo,
    /// The manager's idea of each target, by index.
    heard: Vec<Local>,
    /// The manager does not touch the chain: it is new and still listening.
    newborn: bool,
    replicas: Vec<Replica>,
    acknowledged: BTreeSet<u64>,
    writes: u64,
}

impl World {
    fn new(seed: u64, length: u64) -> World {
        let ids = || (1..=length).map(TargetId);
        let serving = |target_id| ChainTargetInfo { target_id, public_state: Public::Serving };
        let start = |id| Replica {
            id,
            up: true,
            connected: true,
            local: Local::Online,
            known: None,
            data: BTreeSet::new(),
        };
        World {
            random: Random(seed),
            chain: ChainInfo {
                chain_id: ChainId(1),
                chain_version: ChainVersion(1),
                targets: ids().map(serving).collect(),
                preferred_target_order: ids().rev().collect(),
            },
            heard: vec![Local::Offline; length as usize],
            newborn: true,
            replicas: ids().map(start).collect(),
            acknowledged: BTreeSet::new(),
            writes: 0,
        }
    }

    fn index(id: TargetId) -> usize {
        id.0 as usize - 1
    }

    fn heartbeat(&mut self, i: usize) {
        let replica = &mut self.replicas[i];
        if !replica.up || !replica.connected {
            return;
        }
        let version = replica.known.as_ref().map(|chain| chain.chain_version);
        if version.is_none_or(|version| version >= self.chain.chain_version) {
            self.heard[i] = replica.local;
        }
        // A target that had to leave is opened again by its server.
        if replica.local == Local::Offline {
            replica.local = Local::Online;
        }
    }

    fn update(&mut self) {
        if self.newborn {
            return;
        }
        let heard = self.heard.clone();
        let follow = self.random.chance(30);
        if let Some(new) = update_chain(&self.chain, |id| heard[Self::index(id)], follow) {
            assert_eq!(new.chain_version, next_version(self.chain.chain_version));
            self.chain = new;
        }
    }

    fn rotate(&mut self) {
        let states = with_local(&self.chain.targets, |id| self.heard[Self::index(id)]);
        let rotated = rotate_as_preferred_order(&states, &self.chain.preferred_target_order);
        if let Some(new) = with_targets(&self.chain, &rotated) {
            self.chain = new;
        }
    }

    fn deliver(&mut self, i: usize) {
        let chain = self.chain.clone();
        let replica = &mut self.replicas[i];
        if replica.up && replica.connected {
            replica.learn(&chain);
        }
    }

    /// A client writes with the chain as some server knows it. Each member hands on to the next.
    fn write(&mut self) {
        let start = self.random.below(self.replicas.len());
        let Some(chain) = self.replicas[start].known.clone() else { return };
        if chain.targets[0].public_state != Public::Serving {
            return;
        }
        self.writes += 1;
        let write = self.writes;
        let lost_at = self.random.below(2 * chain.targets.len());
        for (position, target) in chain.targets.iter().enumerate() {
            if !matches!(target.public_state, Public::Serving | Public::Syncing) {
                break;
            }
            let replica = &mut self.replicas[Self::index(target.target_id)];
            let ready = match target.public_state {
                Public::Serving => replica.local == Local::Uptodate,
                _ => replica.local != Local::Offline,
            };
            if position == lost_at || !ready || !replica.accepts(chain.chain_version) {
                return;
            }
            replica.data.insert(write);
        }
        self.acknowledged.insert(write);
    }

    /// A server fills the one behind it, in the chain both know.
    fn fill(&mut self, i: usize) {
        let replica = &self.replicas[i];
        let Some(chain) = replica.known.clone() else { return };
        let position = chain.targets.iter().position(|t| t.target_id == replica.id).unwrap();
        let ready = replica.up && replica.local == Local::Online;
        if !ready || chain.targets[position].public_state != Public::Syncing {
            return;
        }
        let source = &self.replicas[Self::index(chain.targets[position - 1].target_id)];
        if source.accepts(chain.chain_version) && source.local == Local::Uptodate {
            let data = source.data.clone();
            self.replicas[i].data = data;
            self.replicas[i].local = Local::Uptodate;
        }
    }

    fn crash(&mut self, i: usize) {
        let out =
            self.replicas[i].state_in(&self.chain) == Public::Offline && self.heard[i] == Local::Offline;
        let lose_disk = out && self.random.chance(20);
        let replica = &mut self.replicas[i];
        replica.up = false;
        replica.known = None;
        if lose_disk {
            replica.data.clear();
        }
    }

    fn start(&mut self, i: usize) {
        let replica = &mut self.replicas[i];
        if !replica.up {
            replica.up = true;
            replica.local = Local::Online;
        }
    }

    fn fault(&mut self) {
        let i = self.random.below(self.replicas.len());
        match self.random.below(8) {
            0 => self.crash(i),
            1 | 2 => self.start(i),
            3 => self.replicas[i].connected = !self.replicas[i].connected,
            // A node that is not heard counts as down; it may be alive.
            4 | 5 => self.heard[i] = Local::Offline,
            6 => {
                self.heard.fill(Local::Offline);
                self.newborn = true;
            }
            _ if self.random.chance(10) => (0..self.replicas.len()).for_each(|i| self.crash(i)),
            _ => {}
        }
    }

    fn step(&mut self, faults: bool) {
        let i = self.random.below(self.replicas.len());
        match self.random.below(10) {
            0 | 1 => self.heartbeat(i),
            2 | 3 => self.deliver(i),
            4 | 5 => self.write(),
            6 => self.fill(i),
            7 => self.update(),
            8 => self.newborn = false,
            _ if faults && self.random.chance(5) => self.rotate(),
            _ if faults && self.random.chance(25) => self.fault(),
            _ => {}
        }
    }

    fn check(&self) {
        for target in &self.chain.targets {
            let replica = &self.replicas[Self::index(target.target_id)];
            if target.public_state == Public::Serving {
                let missing: Vec<_> = self.acknowledged.difference(&replica.data).collect();
                assert!(missing.is_empty(), "{:?} serves without {missing:?}", target.target_id);
            }
        }
        let keeps = |t: &ChainTargetInfo| matches!(t.public_state, Public::Serving | Public::Lastsrv);
        assert!(self.chain.targets.iter().any(keeps));
        let syncing = self.chain.targets.iter().filter(|t| t.public_state == Public::Syncing).count();
        assert!(syncing <= 1);
    }

    fn recover(&mut self) {
        self.chain.preferred_target_order = self.chain.targets.iter().map(|t| t.target_id).collect();
        for i in 0..self.replicas.len() {
            self.start(i);
            self.replicas[i].connected = true;
        }
        let mut steps = 0;
        let serves = |w: &World| w.chain.targets.iter().all(|t| t.public_state == Public::Serving);
        while !serves(self) {
            // The wish of before must not keep rotating a chain that is to settle.
            self.chain.preferred_target_order = self.chain.targets.iter().map(|t| t.target_id).collect();
            self.step(false);
            self.check();
            steps += 1;
            assert!(steps < 100_000, "never whole again: {:?}", self.chain);
        }
    }
}

#[test]
fn who_serves_has_every_acknowledged_write() {
    let base: u64 = 0x5eed_0000;
    let mut acknowledged = 0;
    for round in 0..60 {
        let seed = base + round;
        let length = 1 + round % 4;
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed, length);
            for _ in 0..4 {
                for _ in 0..2000 {
                    world.step(true);
                    world.check();
                }
                world.recover();
            }
            (world.acknowledged.len(), world.chain.chain_version.0)
        });
        match run {
            Ok((writes, versions)) => {
                assert!(versions > 5, "nothing happened with seed {seed}");
                acknowledged += writes;
            }
            Err(panic) => {
                eprintln!("seed {seed}, {length} targets");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(acknowledged > 4_000, "{acknowledged} writes were acknowledged");
}
