//! A storage node of the model: what the service does around the rules, with every step a separate event.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use valor_protocol::mgmtd::{LocalTargetInfo, LocalTargetState, PublicTargetState, RoutingInfo};
use valor_protocol::status::code;
use valor_protocol::storage::{IOResult, MessageTag, Target, UpdateType, VersionedChainId};
use valor_protocol::{ChainId, ChainVersion, ChunkVer, Status, TargetId};
use valor_storage::dedup::{Admission, Key, Request, Table};
use valor_storage::replica::roles::{LocalTarget, TargetMap};
use valor_storage::replica::update::{Form, Forwarded, Reply, Step, Update, form, judge};
use valor_storage::replica::version::{Intent, LocalChunk};
use valor_storage::replica::{read, resync};

use crate::chain::CHAIN;
use crate::store::{Change, Content, Store, checksum};

/// Size of all chunks, in cells.
pub const CHUNK_SIZE: usize = 4;
const NOW: Duration = Duration::from_secs(1);

/// A request as it travels.
#[derive(Clone, Debug)]
pub struct Wire {
    pub chunk: u8,
    pub change: Change,
    pub update_ver: ChunkVer,
    pub chain: VersionedChainId,
    pub tag: MessageTag,
    pub from_client: bool,
    pub syncing: bool,
    pub commit_chain_ver: ChainVersion,
}

/// Who waits for an update's result.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    Client,
    /// Operation of another node, and which of its attempts.
    Peer {
        node: usize,
        op: u64,
        attempt: u32,
    },
    /// The node itself.
    Finish,
    Resync,
}

#[derive(Clone, Debug)]
enum State {
    WaitLock,
    Ready(Step),
    Begin,
    AwaitReply { attempt: u32, syncing: bool },
    Backoff,
}

pub struct Op {
    pub wire: Wire,
    pub origin: Origin,
    update: Update,
    /// The update that completes a pending version in the way.
    inner: Option<(Update, Wire)>,
    state: State,
    attempts: u32,
    uncertain: bool,
    dedup: Option<(Key, Request)>,
    generation: u32,
}

impl Op {
    pub fn awaits_reply(&self) -> bool {
        matches!(self.state, State::AwaitReply { .. })
    }

    fn current(&mut self) -> &mut Update {
        self.inner.as_mut().map_or(&mut self.update, |(update, _)| update)
    }

    fn sent(&self) -> &Wire {
        self.inner.as_ref().map_or(&self.wire, |(_, wire)| wire)
    }
}

/// What a node does to its surroundings.
#[derive(Debug)]
pub enum Effect {
    Send {
        to: TargetId,
        op: u64,
        attempt: u32,
        wire: Wire,
    },
    Finished {
        op: u64,
        origin: Origin,
        wire: Wire,
        result: IOResult,
    },
    Committed {
        chunk: u8,
        ver: ChunkVer,
        content: Option<Content>,
    },
    /// The head gave this version to this update.
    Assigned {
        chunk: u8,
        ver: ChunkVer,
        change: Change,
    },
}

/// One chain's filling of the successor.
#[derive(Debug)]
pub struct Filling {
    pub chain: VersionedChainId,
    pub todo: Option<Vec<u8>>,
    pub remote: BTreeMap<u8, valor_protocol::storage::ChunkMeta>,
    pub running: BTreeSet<u64>,
    pub failed: bool,
}

pub struct Node {
    pub id: TargetId,
    pub store: Store,
    pub up: bool,
    /// Started, but mgmtd may still take it for alive.
    pub waiting: bool,
    pub map: TargetMap<u32>,
    pub ops: BTreeMap<u64, Op>,
    pub filling: Option<Filling>,
    /// Disk full: prepares of new data fail.
    pub full: bool,
    dedup: Table,
    locks: BTreeMap<u8, VecDeque<u64>>,
    /// Chunks with a pending version nobody works on, and the update that left it.
    unfinished: BTreeMap<u8, (ChunkVer, Option<(Key, Request)>)>,
    generation: u32,
    next_tag: u8,
}

impl Node {
    pub fn new(id: u64) -> Node {
        let mut node = Node {
            id: TargetId(id),
            store: Store::default(),
            up: true,
            waiting: false,
            map: TargetMap::default(),
            ops: BTreeMap::new(),
            filling: None,
            full: false,
            dedup: Table::new(64),
            locks: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            generation: 0,
            next_tag: 0,
        };
        node.open();
        node
    }

    fn open(&mut self) {
        self.generation += 1;
        let info = Target {
            target_id: self.id,
            chain_id: CHAIN,
            local_state: LocalTargetState::Online,
            ..Default::default()
        };
        let target = LocalTarget { info, path: PathBuf::from("/d/t"), store: Some(self.generation) };
        self.map.add(target).expect("target was closed");
    }

    pub fn crash(&mut self) {
        let generation = self.generation;
        let store = std::mem::take(&mut self.store);
        *self = Node { store, up: false, map: TargetMap::default(), generation, ..Node::new(self.id.0) };
    }

    pub fn start(&mut self) {
        self.up = true;
        self.waiting = true;
        self.open();
    }

    pub fn target(&self) -> &LocalTarget<u32> {
        self.map.by_id(self.id).expect("own target")
    }

    pub fn report(&self) -> LocalTargetInfo {
        self.map.heartbeat(self.waiting, |_| 0).remove(0)
    }

    pub fn learn(&mut self, routing: &RoutingInfo, effects: &mut Vec<Effect>) {
        if self.waiting {
            let mut copy = self.map.clone();
            copy.apply(routing, |_| CHAIN).ok();
            if !copy.all_noticed_offline() {
                return;
            }
            self.waiting = false;
        }
        let Ok(todo) = self.map.apply(routing, |_| CHAIN) else { return };
        assert!(todo.complaints.is_empty(), "{:?}", todo.complaints);
        for (_, chain_ver) in todo.commit_pending {
            let pending: Vec<_> = self.store.chunks.keys().copied().collect();
            for chunk in pending {
                if let Some(pending) = self.store.local(chunk).pending {
                    let version = pending.version;
                    let content = self.store.commit(chunk, version.ver, chain_ver);
                    let result = IOResult {
                        length_info: Ok(version.length),
                        update_ver: version.ver,
                        commit_ver: version.ver,
                        commit_chain_ver: chain_ver,
                        checksum: version.checksum,
                    };
                    self.resolve(chunk, &result);
                    effects.push(Effect::Committed { chunk, ver: pending.version.ver, content });
                }
            }
        }
    }

    /// Opens a closed target again once nobody uses its last opening.
    pub fn reopen(&mut self) -> bool {
        let closed = self.target().info.local_state == LocalTargetState::Offline;
        if closed && !self.ops.values().any(|op| op.generation == self.generation) {
            self.open();
            return true;
        }
        false
    }

    // Updates.

    pub fn receive(&mut self, op: u64, wire: Wire, origin: Origin, effects: &mut Vec<Effect>) {
        let answer = match self.admit(&wire) {
            Ok((dedup, ver, generation)) => {
                self.enqueue(op, Wire { update_ver: ver, ..wire }, origin, Some(dedup), generation);
                return;
            }
            Err(answer) => answer,
        };
        effects.push(Effect::Finished { op, origin, wire, result: answer });
    }

    fn admit(&mut self, wire: &Wire) -> Result<((Key, Request), ChunkVer, u32), IOResult> {
        let failed = |status: Status| IOResult::error(status.code, status.message);
        let target = self.map.by_chain(wire.chain, false).map_err(failed)?;
        if wire.from_client && !target.info.is_head {
            return Err(IOResult::error(code::STORAGE_CLIENT_ROUTING_ERROR, ""));
        }
        let generation = target.store.expect("open target");
        let key = Key::new(ChainId(1), &wire.tag);
        let request = Request {
            seqnum: wire.tag.channel.seqnum,
            request_id: wire.tag.request_id,
            update_ver: wire.update_ver,
            length: wire.change.wire_length(),
            kind: wire.change.kind,
            generation,
            chain_ver: wire.chain.chain_ver,
        };
        match self.dedup.admit(key, &request, NOW) {
            Admission::Run(ver) => Ok(((key, request), ver, generation)),
            Admission::Answer(result) => Err(result),
            Admission::Refuse(status) => Err(failed(status)),
        }
    }

    fn enqueue(
        &mut self,
        op: u64,
        wire: Wire,
        origin: Origin,
        dedup: Option<(Key, Request)>,
        generation: u32,
    ) {
        let chain_ver = if wire.syncing { wire.commit_chain_ver } else { wire.chain.chain_ver };
        let intent = Intent {
            kind: wire.change.kind,
            update_ver: wire.update_ver,
            chain_ver,
            syncing: wire.syncing,
            content: wire.syncing.then(|| checksum(&wire.change.data)),
        };
        let update = Update::new(intent, wire.change.wire_length());
        let queue = self.locks.entry(wire.chunk).or_default();
        queue.push_back(op);
        let state = if queue.len() == 1 { State::Begin } else { State::WaitLock };
        let op_state =
            Op { wire, origin, update, inner: None, state, attempts: 0, uncertain: false, dedup, generation };
        self.ops.insert(op, op_state);
    }

    /// Completes a pending version nobody works on.
    pub fn start_finishing(&mut self, op: u64) -> bool {
        let target = self.target();
        let chain = target.info.v_chain_id;
        if target.info.public_state != PublicTargetState::Serving || target.store.is_none() {
            return false;
        }
        let Some(&chunk) = self.unfinished.keys().find(|chunk| !self.locks.contains_key(chunk)) else {
            return false;
        };
        let local = self.store.local(chunk);
        if local.pending.is_none() {
            self.unfinished.remove(&chunk);
            return false;
        }
        if local.update_ver() <= local.commit_ver() {
            // Left over from being filled.
            self.store.discard(chunk);
            self.unfinished.remove(&chunk);
            return false;
        }
        let wire = self.resend(chunk, chain);
        self.enqueue(op, wire, Origin::Finish, None, self.generation);
        true
    }

    /// A version was committed: the update that had left it pending succeeded.
    fn resolve(&mut self, chunk: u8, result: &IOResult) {
        if let Some((ver, Some((key, request)))) = self.unfinished.remove(&chunk)
            && ver == result.commit_ver
        {
            self.dedup.resolve(key, request.seqnum, result);
        }
    }

    /// The pending version as an update that yields the same content on a replica that has the committed one.
    fn resend(&mut self, chunk: u8, chain: VersionedChainId) -> Wire {
        let local = self.store.local(chunk);
        let pending = local.pending.expect("a pending version");
        let committed = local.committed.map_or(0, |v| v.length);
        let length = pending.version.length as usize;
        let shrinks = pending.version.length < committed || length == 0;
        let change = match pending.remove {
            true => Change { kind: UpdateType::Remove, offset: 0, data: vec![], length: 0 },
            false if shrinks => Change { kind: UpdateType::Truncate, offset: 0, data: vec![], length },
            false => Change { kind: UpdateType::Write, offset: 0, data: self.store.newest(chunk), length: 0 },
        };
        Wire {
            chunk,
            change,
            update_ver: pending.version.ver,
            chain,
            tag: self.own_tag(),
            from_client: false,
            syncing: false,
            commit_chain_ver: ChainVersion(0),
        }
    }

    fn own_tag(&mut self) -> MessageTag {
        self.next_tag = self.next_tag.wrapping_add(1);
        let mut tag = MessageTag::default();
        tag.client_id.uuid.0[0] = 100 + self.id.0 as u8;
        tag.client_id.uuid.0[1..5].copy_from_slice(&self.generation.to_le_bytes());
        tag.client_id.uuid.0[5] = self.next_tag;
        tag.channel.id.0 = 1;
        tag.channel.seqnum.0 = 1;
        tag
    }

    pub fn ready_ops(&self) -> Vec<u64> {
        let ready = |op: &Op| matches!(op.state, State::Ready(_) | State::Begin | State::Backoff);
        self.ops.iter().filter(|(_, op)| ready(op)).map(|(id, _)| *id).collect()
    }

    /// Runs one step of an operation. `give_up` ends one that pauses between attempts.
    pub fn run(&mut self, id: u64, give_up: bool, effects: &mut Vec<Effect>) {
        let op = self.ops.get_mut(&id).expect("a running operation");
        match std::mem::replace(&mut op.state, State::WaitLock) {
            State::Begin => self.begin(id, effects),
            State::Ready(step) => self.perform(id, step, effects),
            State::Backoff if give_up => {
                let status = Status::new(code::RPC_TIMEOUT, "gave up");
                let step = op.current().forwarded(Forwarded::Failed { status, refused: false });
                op.state = State::Ready(step);
            }
            State::Backoff => self.forward(id, effects),
            other => op.state = other,
        }
    }

    fn begin(&mut self, id: u64, effects: &mut Vec<Effect>) {
        let op = &self.ops[&id];
        if op.origin == Origin::Resync {
            return self.begin_resync(id, effects);
        }
        let (chunk, chain) = (op.wire.chunk, op.wire.chain);
        let known = op.dedup.filter(|_| op.wire.update_ver != ChunkVer(0));
        if let Some((key, request)) = known
            && op.wire.from_client
            && let Some(result) = self.dedup.resolved(key, request.seqnum)
        {
            let result = result.clone();
            return self.finish(id, result, effects);
        }
        // The chain may have changed while the operation waited for the lock.
        let step = match self.map.by_chain(chain, false) {
            Err(status) => {
                let op = self.ops.get_mut(&id).expect("present");
                if let Some((key, _)) = op.dedup.take() {
                    self.dedup.release(key);
                }
                Step::Done(IOResult::error(status.code, ""))
            }
            Ok(_) => {
                let local = self.store.local(chunk);
                self.ops.get_mut(&id).expect("present").update.begin(&local)
            }
        };
        self.ops.get_mut(&id).expect("present").state = State::Ready(step);
    }

    fn perform(&mut self, id: u64, step: Step, effects: &mut Vec<Effect>) {
        let op = self.ops.get_mut(&id).expect("present");
        let (chunk, change) = (op.wire.chunk, op.wire.change.clone());
        let next = match step {
            Step::Prepare { ver, chain_ver, replace } => {
                if self.full && change.kind == UpdateType::Write {
                    op.update.prepared(Err(Status::new(code::STORAGE_CLIENT_NO_SPACE, "full")))
                } else {
                    if op.wire.from_client {
                        effects.push(Effect::Assigned { chunk, ver, change: change.clone() });
                    }
                    self.unfinished.remove(&chunk);
                    let prepared = self.store.prepare(chunk, &change, ver, chain_ver, replace);
                    op.update.prepared(Ok(prepared))
                }
            }
            Step::FinishPending(_) => {
                let chain = op.wire.chain;
                let wire = self.resend(chunk, chain);
                let op = self.ops.get_mut(&id).expect("present");
                let intent = Intent {
                    kind: wire.change.kind,
                    update_ver: wire.update_ver,
                    chain_ver: chain.chain_ver,
                    syncing: false,
                    content: None,
                };
                let mut update = Update::new(intent, wire.change.wire_length());
                let step = update.begin(&self.store.local(chunk));
                op.inner = Some((update, wire));
                step
            }
            Step::Forward(_) => return self.forward(id, effects),
            Step::Commit { ver, chain_ver } => {
                let content = self.store.commit(chunk, ver, chain_ver);
                effects.push(Effect::Committed { chunk, ver, content });
                let next = op.current().committed(Ok(()));
                if let Step::Done(result) = &next {
                    self.resolve(chunk, result);
                }
                next
            }
            Step::Abort(_) => {
                self.store.discard(chunk);
                self.unfinished.remove(&chunk);
                op.current().aborted(true)
            }
            Step::Done(result) if op.inner.is_some() => {
                op.inner = None;

                match result.length_info {
                    Ok(_) => op.update.begin(&self.store.local(chunk)),
                    Err(_) => Step::Done(result),
                }
            }
            Step::Done(result) => return self.finish(id, result, effects),
        };

        self.ops.get_mut(&id).expect("present").state = State::Ready(next);
    }

    /// Starts an attempt, or finds that there is nobody to send to.
    fn forward(&mut self, id: u64, effects: &mut Vec<Effect>) {
        let op = self.ops.get_mut(&id).expect("present");
        let any_version = op.origin != Origin::Resync;
        let target = match self.map.by_chain(op.sent().chain, any_version) {
            Ok(target) => target.clone(),
            Err(status) => {
                let step = op.current().forwarded(Forwarded::Failed { status, refused: false });
                op.state = State::Ready(step);
                return;
            }
        };
        let chain = target.info.v_chain_id;
        let Some(successor) = &target.info.successor else {
            let step = op.current().forwarded(Forwarded::Tail { chain_ver: chain.chain_ver });
            op.state = State::Ready(step);
            return;
        };
        let syncing = target.successor_is_syncing();
        let mut wire = Wire { from_client: false, chain, ..op.sent().clone() };
        let update = op.current();
        wire.update_ver = update.assigned();
        wire.commit_chain_ver = update.replacement_chain_ver(chain.chain_ver);
        let (kind, offset, length) = (wire.change.kind, wire.change.offset as u32, wire.change.wire_length());
        let form = form(syncing, kind, offset, length, CHUNK_SIZE as u32, update.is_replacement());
        wire.syncing = form != Form::AsIs;
        if form == Form::WholeChunk {
            let data = self.store.newest(wire.chunk);
            wire.change = Change { kind: UpdateType::Write, offset: 0, length: 0, data };
        }
        op.attempts += 1;
        op.state = State::AwaitReply { attempt: op.attempts, syncing };
        effects.push(Effect::Send {
            to: successor.target_info.target_id,
            op: id,
            attempt: op.attempts,
            wire,
        });
    }

    /// An attempt ended, by a reply or for lack of one.
    pub fn replied(
        &mut self,
        id: u64,
        attempt: u32,
        answer: Result<&IOResult, &Status>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let State::AwaitReply { attempt: current, syncing } = op.state else { return };
        if current != attempt {
            return;
        }
        let chain = self.map.by_chain(op.sent().chain, true).map(|t| t.chain_ver()).unwrap_or_default();
        let reply = judge(chain, answer, syncing, op.uncertain);
        if op.origin == Origin::Resync {
            let result = match (&reply, answer) {
                (Reply::Final(Forwarded::Committed { .. }), Ok(result)) => result.clone(),
                (Reply::Final(_), _) => IOResult::error(code::RPC_TIMEOUT, "resync failed"),
                (Reply::Again { status, .. }, _) => {
                    if status.code != code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH {
                        op.state = State::Backoff;
                        return;
                    }
                    IOResult::error(status.code, "chain changed")
                }
            };
            return self.finish(id, result, effects);
        }
        op.state = match reply {
            Reply::Final(outcome) => State::Ready(op.current().forwarded(outcome)),
            Reply::Again { maybe_applied, .. } => {
                op.uncertain |= maybe_applied;
                State::Backoff
            }
        };
    }

    fn finish(&mut self, id: u64, result: IOResult, effects: &mut Vec<Effect>) {
        let op = self.ops.remove(&id).expect("present");
        if let Some(pending) = self.store.local(op.wire.chunk).pending {
            let left = (pending.version.ver, op.dedup.filter(|_| op.update.holds_pending()));
            let known = self.unfinished.get(&op.wire.chunk).filter(|(ver, _)| *ver == left.0);
            let left = known.copied().unwrap_or(left);
            self.unfinished.insert(op.wire.chunk, left);
        }
        if let Some((key, request)) = &op.dedup {
            self.dedup.finish(*key, request, &result, op.update.retained(), NOW);
        }
        let queue = self.locks.get_mut(&op.wire.chunk).expect("the operation holds the lock");
        assert_eq!(queue.pop_front(), Some(id));
        match queue.front() {
            Some(next) => self.ops.get_mut(next).expect("waiting").state = State::Begin,
            None => {
                self.locks.remove(&op.wire.chunk);
            }
        }
        effects.push(Effect::Finished { op: id, origin: op.origin, wire: op.wire, result });
    }

    // Reads.

    pub fn read(&self, chunk: u8, chain: VersionedChainId) -> Result<(ChunkVer, Content), u16> {
        let target = self.map.by_chain(chain, false).map_err(|s| s.code)?;
        if !target.is_up_to_date() {
            return Err(code::STORAGE_TARGET_STATE_INVALID);
        }
        let source = read::source(&self.store.local(chunk), false)?;
        let (_, content) = self.store.chunks[&chunk].committed.clone().expect("committed");
        Ok((source.version().ver, content))
    }

    // Filling a successor.

    /// What syncStart answers.
    pub fn sync_start(
        &self,
        chain: VersionedChainId,
    ) -> Option<BTreeMap<u8, valor_protocol::storage::ChunkMeta>> {
        let target = self.map.by_chain(chain, false).ok()?;
        let ready = target.info.public_state == PublicTargetState::Syncing
            && target.info.local_state == LocalTargetState::Online;
        let describe = |chunk: u8| resync::describe(Default::default(), &self.store.local(chunk));
        ready.then(|| self.store.chunks.keys().map(|chunk| (*chunk, describe(*chunk))).collect())
    }

    /// Compares, after the successor's list has come.
    pub fn compare(&mut self) {
        let Some(filling) = &mut self.filling else { return };
        let mut todo = Vec::new();
        let chunks: BTreeSet<u8> = filling.remote.keys().chain(self.store.chunks.keys()).copied().collect();
        for chunk in chunks {
            let local = self.store.local(chunk);
            match resync::compare(&local, filling.remote.get(&chunk), filling.chain.chain_ver, false) {
                resync::Decision::Remove | resync::Decision::Write(_) => todo.push(chunk),
                resync::Decision::Skip(_) => {}
                resync::Decision::Fatal(reason) => {
                    panic!(
                        "replicas diverged: {reason:?}, local {local:?}, remote {:?}",
                        filling.remote.get(&chunk)
                    )
                }
            }
        }
        filling.todo = Some(todo);
    }

    pub fn start_filling_chunk(&mut self, op: u64) -> bool {
        let tag = self.own_tag();
        let generation = self.generation;
        let Some(filling) = &mut self.filling else { return false };
        let Some(chunk) = filling.todo.as_mut().and_then(Vec::pop) else { return false };
        filling.running.insert(op);
        let wire = Wire {
            chunk,
            change: Change { kind: UpdateType::Write, offset: 0, data: vec![], length: 0 },
            update_ver: ChunkVer(1),
            chain: filling.chain,
            tag,
            from_client: false,
            syncing: true,
            commit_chain_ver: filling.chain.chain_ver,
        };
        self.enqueue(op, wire, Origin::Resync, None, generation);
        true
    }

    fn begin_resync(&mut self, id: u64, effects: &mut Vec<Effect>) {
        let op = self.ops.get_mut(&id).expect("present");
        let local: LocalChunk = self.store.local(op.wire.chunk);
        match resync::offer(&local) {
            None => {
                op.wire.change.kind = UpdateType::Remove;
                op.wire.update_ver = resync::removal(&local);
            }
            Some(version) => {
                op.wire.update_ver = version.ver;
                op.wire.commit_chain_ver = version.chain_ver;
            }
        }
        let intent = Intent {
            kind: op.wire.change.kind,
            update_ver: op.wire.update_ver,
            chain_ver: op.wire.commit_chain_ver,
            syncing: true,
            content: None,
        };
        op.update = Update::new(intent, 0);
        self.forward(id, effects);
    }
}
