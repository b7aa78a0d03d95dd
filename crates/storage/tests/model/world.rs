//! The schedule: messages, clients, faults and what is checked.

use std::collections::{BTreeMap, BTreeSet};

use valor_protocol::mgmtd::PublicTargetState;
use valor_protocol::status::code;
use valor_protocol::storage::{IOResult, MessageTag, UpdateType, VersionedChainId};
use valor_protocol::{ChainVersion, ChunkVer, Status};

use crate::chain::{CHAIN, Manager};
use crate::node::{CHUNK_SIZE, Effect, Filling, Node, Origin, Wire};
use crate::store::{Change, Content};

const NODES: usize = 3;
const CLIENTS: usize = 3;
const CHUNKS: u8 = 2;
const EVENTS: u32 = 1500;

/// Which faults a schedule has; chances in percent, crashes in all.
#[derive(Clone, Copy)]
pub struct Faults {
    pub drop: u64,
    pub duplicate: u64,
    pub crash: u32,
    pub removals: bool,
    pub full: bool,
}

enum Message {
    Request { to: usize, wire: Wire, origin: Origin, client: usize },
    Reply { to: usize, op: u64, attempt: u32, result: IOResult },
    Answer { client: usize, seqnum: u64, chunk: u8, result: IOResult },
}

impl Message {
    fn copy(&self) -> Message {
        match self {
            Message::Request { to, wire, origin, client } => {
                Message::Request { to: *to, wire: wire.clone(), origin: origin.clone(), client: *client }
            }
            Message::Reply { to, op, attempt, result } => {
                Message::Reply { to: *to, op: *op, attempt: *attempt, result: result.clone() }
            }
            Message::Answer { client, seqnum, chunk, result } => {
                Message::Answer { client: *client, seqnum: *seqnum, chunk: *chunk, result: result.clone() }
            }
        }
    }
}

#[derive(Default)]
struct Client {
    seqnum: u64,
    /// The write under way.
    write: Option<Wire>,
}

pub struct World {
    random: u64,
    faults: Faults,
    manager: Manager,
    nodes: Vec<Node>,
    messages: Vec<Message>,
    clients: Vec<Client>,
    next_op: u64,
    next_write: u16,
    /// Which client each request operation belongs to.
    callers: BTreeMap<u64, usize>,
    /// Content of every version committed anywhere.
    history: BTreeMap<(u8, ChunkVer), Content>,
    /// Updates that were given a version, newest last.
    assigned: BTreeMap<(u8, ChunkVer), Vec<Change>>,
    /// Least version a read may return.
    floor: BTreeMap<u8, ChunkVer>,
    crashes: u32,
    quiet: bool,
    pub acknowledged: u64,
    pub reads: u64,
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> World {
        let mut world = World {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1,
            faults,
            manager: Manager::new(NODES),
            nodes: (1..=NODES as u64).map(Node::new).collect(),
            messages: Vec::new(),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            next_op: 0,
            next_write: 0,
            callers: BTreeMap::new(),
            history: BTreeMap::new(),
            assigned: BTreeMap::new(),
            floor: BTreeMap::new(),
            crashes: 0,
            quiet: false,
            acknowledged: 0,
            reads: 0,
        };
        (0..NODES).for_each(|node| world.learn(node));
        world
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    fn op(&mut self) -> u64 {
        self.next_op += 1;
        self.next_op
    }

    pub fn run(&mut self) {
        for _ in 0..EVENTS {
            self.event();
        }
        self.settle();
    }

    fn event(&mut self) {
        let node = self.roll(NODES as u64) as usize;
        // Retries and timeouts are rarer than messages are fast.
        let busy = self.messages.len() > if self.quiet { 0 } else { 30 };
        match self.roll(20) {
            9 | 13 | 14 if busy => self.deliver(),
            0..=8 if self.chance(40) => self.deliver(),
            0..=8 => self.work(),
            9 if self.chance(30) => self.lose_patience(node),
            9 | 10 => self.learn(node),
            11 => self.report(node),
            12 => self.manager.tick(),
            13 | 14 => self.write(),
            15 => self.read(),
            16 => self.fill(node),
            17 => self.housekeeping(node),
            18 => self.crash_or_start(node),
            _ => {
                self.nodes[node].full =
                    self.faults.full && !self.quiet && self.nodes[node].full ^ self.chance(30);
            }
        }
    }

    // Messages.

    fn deliver(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let at = self.roll(self.messages.len() as u64) as usize;
        let (at, repeatable) = self.in_order(at);
        if !self.quiet && self.chance(self.faults.drop) {
            self.messages.remove(at);
            return;
        }
        let message = if !self.quiet && repeatable && self.chance(self.faults.duplicate) {
            self.messages[at].copy()
        } else {
            self.messages.remove(at)
        };
        let mut effects = Vec::new();
        match message {
            Message::Request { to, wire, origin, client } if self.nodes[to].up => {
                let op = self.op();
                self.callers.insert(op, client);
                self.nodes[to].receive(op, wire, origin, &mut effects);
                self.apply(to, effects);
            }
            Message::Reply { to, op, attempt, result } if self.nodes[to].up => {
                self.nodes[to].replied(op, attempt, Ok(&result), &mut effects);
                self.apply(to, effects);
            }
            Message::Answer { client, seqnum, chunk, result } => {
                self.answered(client, seqnum, chunk, &result)
            }
            _ => {}
        }
    }

    /// With removals a chunk's versions start again from 1, and the numbers alone do not tell an update that its sender gave
    /// up long ago from a new one. There the model relies on what a connection between two servers gives: order, and no
    /// repetition.
    fn in_order(&self, at: usize) -> (usize, bool) {
        let pair = |message: &Message| match message {
            Message::Request { to, origin: Origin::Peer { node, .. }, .. } => Some((*node, *to)),
            _ => None,
        };
        match pair(&self.messages[at]) {
            Some(wanted) if self.faults.removals => {
                let first = self.messages.iter().position(|message| pair(message) == Some(wanted));
                (first.unwrap_or(at), false)
            }
            _ => (at, true),
        }
    }

    fn apply(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, op, attempt, wire } => {
                    let origin = Origin::Peer { node, op, attempt };
                    self.messages.push(Message::Request { to: to.0 as usize - 1, wire, origin, client: 0 });
                }
                Effect::Finished { op, origin, wire, result } => {
                    self.finished(node, op, origin, wire, result)
                }
                Effect::Committed { chunk, ver, content } => self.committed(chunk, ver, content),
                Effect::Assigned { chunk, ver, change } => {
                    self.assigned.entry((chunk, ver)).or_default().push(change);
                }
            }
        }
    }

    fn finished(&mut self, node: usize, op: u64, origin: Origin, wire: Wire, result: IOResult) {
        match origin {
            Origin::Client => {
                let client = self.callers.remove(&op).expect("a client's request");
                let seqnum = wire.tag.channel.seqnum.0;
                self.messages.push(Message::Answer { client, seqnum, chunk: wire.chunk, result });
            }
            Origin::Peer { node, op, attempt } => {
                self.messages.push(Message::Reply { to: node, op, attempt, result });
            }
            Origin::Finish => {}
            Origin::Resync => {
                if let Some(filling) = &mut self.nodes[node].filling
                    && filling.running.remove(&op)
                {
                    filling.failed |= result.length_info.is_err();
                }
            }
        }
    }

    /// Two replicas never commit different contents under one version.
    fn committed(&mut self, chunk: u8, ver: ChunkVer, content: Option<Content>) {
        let Some(content) = content.filter(|_| !self.faults.removals) else { return };
        if let Some(known) = self.history.get(&(chunk, ver)) {
            assert_eq!(*known, content, "version {ver} of chunk {chunk} has two contents");
            return;
        }
        if let Some(changes) = self.assigned.get(&(chunk, ver)) {
            let before = self.history.get(&(chunk, ChunkVer(ver.0 - 1))).cloned().unwrap_or_default();
            let made = changes.iter().any(|change| change.apply(&before) == content);
            assert!(made, "version {ver} of chunk {chunk} is not its predecessor with one update applied");
        }
        self.history.insert((chunk, ver), content);
    }

    // Clients.

    fn write(&mut self) {
        let client = self.roll(CLIENTS as u64) as usize;
        if self.clients[client].write.is_none() {
            if self.quiet {
                return;
            }
            let wire = self.new_write(client);
            self.clients[client].write = Some(wire);
        } else if !self.quiet && self.chance(3) {
            // Gives up; the write may or may not happen.
            self.clients[client].write = None;
            return;
        }
        let Some(&(target, PublicTargetState::Serving)) = self.manager.members.first() else { return };
        let chain = self.current_chain();
        let wire = self.clients[client].write.as_mut().expect("a write under way");
        wire.chain = chain;
        let (wire, to) = (wire.clone(), target.0 as usize - 1);
        self.messages.push(Message::Request { to, wire, origin: Origin::Client, client });
    }

    fn new_write(&mut self, client: usize) -> Wire {
        self.next_write += 1;
        self.clients[client].seqnum += 1;
        let offset = self.roll(CHUNK_SIZE as u64) as usize;
        let cells = 1 + self.roll((CHUNK_SIZE - offset) as u64) as usize;
        let (data, length) = (vec![self.next_write; cells], self.roll(CHUNK_SIZE as u64 + 1) as usize);
        let kind = match self.roll(10) {
            0 => UpdateType::Truncate,
            1 => UpdateType::Extend,
            2 | 3 if self.faults.removals => UpdateType::Remove,
            _ => UpdateType::Write,
        };
        let change = match kind {
            UpdateType::Write => Change { kind, offset, data, length: 0 },
            UpdateType::Remove => Change { kind, offset: 0, data: vec![], length: 0 },
            _ => Change { kind, offset: 0, data: vec![], length },
        };
        let mut tag = MessageTag::default();
        tag.client_id.uuid.0 = [client as u8 + 1; 16];
        tag.channel.id.0 = 1;
        tag.channel.seqnum.0 = self.clients[client].seqnum;
        tag.request_id.0 = u64::from(self.next_write);
        Wire {
            chunk: self.roll(u64::from(CHUNKS)) as u8,
            change,
            update_ver: ChunkVer(0),
            chain: VersionedChainId::default(),
            tag,
            from_client: true,
            syncing: false,
            commit_chain_ver: ChainVersion(0),
        }
    }

    fn answered(&mut self, client: usize, seqnum: u64, chunk: u8, result: &IOResult) {
        let state = &mut self.clients[client];
        if state.write.is_none() || state.seqnum != seqnum {
            return;
        }
        match &result.length_info {
            Ok(_) => {
                assert_eq!(result.commit_ver, result.update_ver, "{result:?}");
                state.write = None;
                self.acknowledged += 1;
                self.raise_floor(chunk, result.commit_ver);
            }
            Err(status) if status.code == code::STORAGE_CLIENT_NO_SPACE => state.write = None,
            Err(status) => {
                let expected = [
                    code::STORAGE_CLIENT_ROUTING_ERROR,
                    code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH,
                    code::STORAGE_TARGET_OFFLINE,
                    code::STORAGE_CHANNEL_IS_LOCKED,
                    code::STORAGE_CHAIN_VERSION_MISMATCH,
                    code::RPC_TIMEOUT,
                ];
                assert!(expected.contains(&status.code), "{status:?}");
            }
        }
    }

    fn raise_floor(&mut self, chunk: u8, ver: ChunkVer) {
        let floor = self.floor.entry(chunk).or_default();
        *floor = ver.max(*floor);
    }

    fn read(&mut self) {
        let serving: Vec<usize> = self
            .manager
            .members
            .iter()
            .filter(|(_, state)| *state == PublicTargetState::Serving)
            .map(|(id, _)| id.0 as usize - 1)
            .collect();
        if serving.is_empty() {
            return;
        }
        let node = serving[self.roll(serving.len() as u64) as usize];
        let chunk = self.roll(u64::from(CHUNKS)) as u8;
        // Clients may be behind, together with the server they ask.
        let behind =
            ChainVersion(self.manager.version - self.roll(3).min(u64::from(self.manager.version) - 1) as u32);
        let chain = VersionedChainId { chain_ver: behind, ..self.current_chain() };
        if !self.nodes[node].up {
            return;
        }
        let floor = self.floor.get(&chunk).copied().unwrap_or_default();
        match self.nodes[node].read(chunk, chain) {
            Ok((ver, content)) => {
                self.reads += 1;
                if !self.faults.removals {
                    assert!(ver >= floor, "read version {ver} of chunk {chunk} after {floor} was known");
                    assert_eq!(self.history.get(&(chunk, ver)), Some(&content));
                    self.raise_floor(chunk, ver);
                }
            }
            Err(code::STORAGE_CHUNK_METADATA_NOT_FOUND) => {
                assert!(
                    self.faults.removals || floor == ChunkVer(0),
                    "chunk {chunk} at {floor} has vanished"
                );
            }
            Err(_) => {}
        }
    }

    fn current_chain(&self) -> VersionedChainId {
        VersionedChainId { chain_id: CHAIN, chain_ver: ChainVersion(self.manager.version) }
    }

    // Nodes.

    fn work(&mut self) {
        let ops = |(node, state): (usize, &Node)| state.ready_ops().into_iter().map(move |id| (node, id));
        let ready: Vec<(usize, u64)> = self.nodes.iter().enumerate().flat_map(ops).collect();
        if ready.is_empty() {
            return self.deliver();
        }
        let (node, id) = ready[self.roll(ready.len() as u64) as usize];
        let give_up = !self.quiet && self.chance(3);
        let mut effects = Vec::new();
        self.nodes[node].run(id, give_up, &mut effects);
        self.apply(node, effects);
    }

    /// An attempt to forward times out.
    fn lose_patience(&mut self, node: usize) {
        let waiting: Vec<u64> =
            self.nodes[node].ops.iter().filter(|(_, op)| op.awaits_reply()).map(|(id, _)| *id).collect();
        if waiting.is_empty() {
            return;
        }
        let id = waiting[self.roll(waiting.len() as u64) as usize];
        let status = Status::new(code::RPC_TIMEOUT, "no reply");
        let mut effects = Vec::new();
        for attempt in 1..=u32::MAX {
            // Only the current attempt counts.
            self.nodes[node].replied(id, attempt, Err(&status), &mut effects);
            if !self.nodes[node].ops.get(&id).is_some_and(|op| op.awaits_reply()) {
                break;
            }
        }
        self.apply(node, effects);
    }

    fn learn(&mut self, node: usize) {
        if self.nodes[node].up {
            let mut effects = Vec::new();
            self.nodes[node].learn(&self.manager.routing(), &mut effects);
            self.apply(node, effects);
        }
    }

    fn report(&mut self, node: usize) {
        if self.nodes[node].up {
            let report = self.nodes[node].report();
            self.manager.heartbeat(&report);
        } else {
            self.manager.lost(self.nodes[node].id);
        }
    }

    fn housekeeping(&mut self, node: usize) {
        if self.nodes[node].up && !self.nodes[node].reopen() {
            let op = self.op();
            self.nodes[node].start_finishing(op);
        }
    }

    fn crash_or_start(&mut self, node: usize) {
        if !self.nodes[node].up {
            self.nodes[node].start();
        } else if !self.quiet && self.crashes < self.faults.crash && self.chance(30) {
            self.crashes += 1;
            self.nodes[node].crash();
        }
    }

    /// One step of filling the successor.
    fn fill(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        let chain = self.nodes[node].map.syncing_chains().first().copied();
        let Some(chain) = chain else {
            self.nodes[node].filling = None;
            return;
        };
        if self.nodes[node].filling.as_ref().is_none_or(|f| f.chain != chain || f.failed) {
            self.nodes[node].filling = self.start_filling(node, chain);
            return;
        }
        let op = self.op();
        let filling = self.nodes[node].filling.as_ref().expect("just seen");
        let (todo, running) = (filling.todo.as_ref().map(Vec::len), filling.running.len());
        match (todo, running) {
            (None, _) => self.nodes[node].compare(),
            (Some(0), 0) => self.sync_done(node, chain),
            (Some(0), _) => {}
            _ => {
                self.nodes[node].start_filling_chunk(op);
            }
        }
    }

    fn start_filling(&mut self, node: usize, chain: VersionedChainId) -> Option<Filling> {
        let successor = self.successor(node)?;
        if !self.quiet && self.chance(self.faults.drop) {
            return None;
        }
        let remote = self.nodes[successor].up.then(|| self.nodes[successor].sync_start(chain))??;
        Some(Filling { chain, todo: None, remote, running: BTreeSet::new(), failed: false })
    }

    fn sync_done(&mut self, node: usize, chain: VersionedChainId) {
        self.nodes[node].filling = None;
        if let Some(successor) = self.successor(node)
            && self.nodes[successor].up
            && (self.quiet || !self.chance(self.faults.drop))
        {
            self.nodes[successor].map.sync_done(chain).ok();
        }
    }

    fn successor(&self, node: usize) -> Option<usize> {
        let successor = self.nodes[node].target().info.successor.as_ref()?;
        Some(successor.target_info.target_id.0 as usize - 1)
    }

    // The end.

    /// Lets everything finish and compares the replicas.
    fn settle(&mut self) {
        self.quiet = true;
        self.nodes.iter_mut().for_each(|node| node.full = false);
        for _ in 0..60_000 {
            self.event();
            if self.is_settled() {
                break;
            }
        }
        assert!(self.is_settled(), "did not come to rest: {}", self.describe());
        for chunk in 0..CHUNKS {
            let local: Vec<_> = self.nodes.iter().map(|node| node.store.chunks.get(&chunk)).collect();
            let contents: Vec<_> =
                local.iter().map(|c| c.and_then(|c| c.committed.clone()).map(|(v, c)| (v.ver, c))).collect();
            assert!(contents.iter().all(|c| c == &contents[0]), "chunk {chunk} differs: {contents:?}");
            if !self.faults.removals {
                let ver = contents[0].as_ref().map_or(ChunkVer(0), |(ver, _)| *ver);
                let floor = self.floor.get(&chunk).copied().unwrap_or_default();
                assert!(ver >= floor, "chunk {chunk} is at {ver}, {floor} was acknowledged or read");
            }
        }
        if self.faults.crash == 0 {
            self.check_applied_once();
        }
    }

    fn is_settled(&self) -> bool {
        let node_settled = |node: &Node| {
            node.up && node.ops.is_empty() && node.store.chunks.values().all(|chunk| chunk.pending.is_none())
        };
        self.manager.all_serving()
            && self.clients.iter().all(|client| client.write.is_none())
            && self.nodes.iter().all(node_settled)
            && self.messages.is_empty()
    }

    /// Each write's cells appear in consecutive versions only: a write applied twice would come back.
    fn check_applied_once(&self) {
        for ((chunk, ver), changes) in &self.assigned {
            for change in changes.iter().filter(|change| change.kind == UpdateType::Write) {
                let again = self.assigned.iter().any(|((c, v), others)| {
                    (c, v) != (chunk, ver)
                        && others.iter().any(|other| other.data == change.data && !change.data.is_empty())
                        && self.history.contains_key(&(*c, *v))
                        && self.history.contains_key(&(*chunk, *ver))
                        && self.made(*c, *v, change)
                        && self.made(*chunk, *ver, change)
                });
                assert!(!again, "write {} was applied twice", change.data[0]);
            }
        }
    }

    /// Whether `change` is what made this version.
    fn made(&self, chunk: u8, ver: ChunkVer, change: &Change) -> bool {
        let before = self.history.get(&(chunk, ChunkVer(ver.0 - 1))).cloned().unwrap_or_default();
        before != self.history[&(chunk, ver)] && change.apply(&before) == self.history[&(chunk, ver)]
    }

    fn describe(&self) -> String {
        let nodes: Vec<String> = self
            .nodes
            .iter()
            .map(|node| {
                let info = node.map.by_id(node.id).map(|t| {
                    format!(
                        "{:?} {:?} v{} head {} succ {:?}",
                        t.info.local_state,
                        t.info.public_state,
                        t.chain_ver(),
                        t.info.is_head,
                        t.info.successor.as_ref().map(|s| s.target_info.target_id)
                    )
                });
                let chunks: Vec<_> = node.store.chunks.keys().map(|c| (*c, node.store.local(*c))).collect();
                format!(
                    "{} up {} waiting {} ops {} {info:?} chunks {chunks:?} filling {:?}",
                    node.id,
                    node.up,
                    node.waiting,
                    node.ops.len(),
                    node.filling
                )
            })
            .collect();
        format!(
            "{:?}\n{}\nmessages {} clients {:?}",
            self.manager.members,
            nodes.join("\n"),
            self.messages.len(),
            self.clients.iter().map(|c| c.write.is_some()).collect::<Vec<_>>()
        )
    }
}
