//! Recognises retried updates (`src/storage/service/ReliableUpdate.cc`): the last update of every channel of every
//! client, with its result.
//!
//! The table lives in memory. It may forget a channel only when no copy of its last request can be under way any more;
//! when it is full of younger ones, new channels are refused.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use valor_env::mutation::{Mutation, broken};
use valor_protocol::status::code;
use valor_protocol::storage::{IOResult, MessageTag, UpdateType};
use valor_protocol::{ChainId, ChainVersion, ChannelId, ChannelSeqNum, ChunkVer, RequestId, Status, Uuid};

mod by_chain;

use by_chain::ByChain;

/// Entries younger than this are kept even when the table is full. Clients that wait for their chain repeat requests for
/// longer: what they know the manager tells, and they are forgotten only when it has not heard them for long.
pub const KEEP: Duration = Duration::from_secs(600);

/// A client's channel on a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Client.
    pub client: Uuid,
    /// Chain.
    pub chain: ChainId,
    /// Channel.
    pub channel: ChannelId,
}

impl Key {
    /// Whether it is that of a client and of one of its channels; others cannot be told from each other.
    fn is_named(&self) -> bool {
        self.client != Uuid::default() && self.channel != ChannelId(0)
    }

    /// The channel of a request.
    pub fn new(chain: ChainId, tag: &MessageTag) -> Key {
        Key { client: tag.client_id.uuid, chain, channel: tag.channel.id }
    }
}

/// What the table looks at in a request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Position on the channel.
    pub seqnum: ChannelSeqNum,
    /// Number among the client's requests.
    pub request_id: RequestId,
    /// Version it carries, 0 from a client.
    pub update_ver: ChunkVer,
    /// Length it asks for.
    pub length: u32,
    /// Kind.
    pub kind: UpdateType,
    /// Which opening of the target it runs on; failures of earlier ones do not count.
    pub generation: u32,
    /// Chain version it runs under.
    pub chain_ver: ChainVersion,
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// Run it, with this version if it is not 0, and call [`Table::finish`] or [`Table::release`]. If it has a version it
    /// may be completed by somebody else until the chunk is locked: ask [`Table::resolved`] then.
    Run(ChunkVer),
    /// It was answered before.
    Answer(IOResult),
    /// It cannot run.
    Refuse(Status),
}

#[derive(Clone, Debug)]
struct Last {
    seqnum: ChannelSeqNum,
    request_id: RequestId,
    generation: u32,
    chain_ver: ChainVersion,
    retained: ChunkVer,
    result: IOResult,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    seqnum: ChannelSeqNum,
    chain_ver: ChainVersion,
}

/// An update that succeeded, as another replica has to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// Channel.
    pub key: Key,
    /// Position on it.
    pub seqnum: ChannelSeqNum,
    /// Number among the client's requests.
    pub request_id: RequestId,
    /// Time since the channel was used.
    pub age: Duration,
    /// The answer.
    pub result: IOResult,
}

#[derive(Debug)]
struct Entry {
    last: Option<Last>,
    running: Option<Running>,
    used: Duration,
    /// Position in the order of use.
    stamp: u64,
}

/// The table. Times are given by the caller, from any fixed start.
#[derive(Debug)]
pub struct Table {
    entries: HashMap<Key, Entry>,
    order: BTreeMap<u64, Key>,
    by_chain: ByChain,
    next_stamp: u64,
    limit: usize,
    /// Entries looked at for [`Table::answered`].
    #[cfg(test)]
    looks: std::cell::Cell<usize>,
}

impl Table {
    /// A table of at most `limit` channels.
    pub fn new(limit: usize) -> Table {
        Table {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            by_chain: ByChain::default(),
            next_stamp: 0,
            limit: limit.max(1),
            #[cfg(test)]
            looks: std::cell::Cell::default(),
        }
    }

    /// Channels known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if no channel is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Decides about a request. After [`Admission::Run`] the channel is locked.
    pub fn admit(&mut self, key: Key, request: &Request, now: Duration) -> Admission {
        if key.channel == ChannelId(0) {
            return refuse(code::STORAGE_CLIENT_FOUND_BUG, "update without a channel");
        }
        if !self.entries.contains_key(&key) && !self.make_room(now) {
            return refuse(code::STORAGE_CLIENT_RESOURCE_BUSY, "too many update channels in use");
        }
        let entry = self.touch(key, now);
        if entry.running.is_some() {
            return refuse(code::STORAGE_CHANNEL_IS_LOCKED, "the channel's update is being worked on");
        }
        let last = entry.last.as_ref().filter(|_| !broken(Mutation::ForgetAnsweredRequests));
        let admission = last.map_or(Admission::Run(request.update_ver), |last| last.judge(request));
        if let Admission::Run(_) = admission {
            entry.running = Some(Running { seqnum: request.seqnum, chain_ver: request.chain_ver });
            self.by_chain.begins(key.chain, request.chain_ver);
        }
        admission
    }

    /// The request ended: remembers its result and unlocks the channel. `retained` is the version it has in this
    /// replica, committed or pending; 0 if none.
    pub fn finish(
        &mut self,
        key: Key,
        request: &Request,
        result: &IOResult,
        retained: ChunkVer,
        now: Duration,
    ) {
        self.release(key);
        let entry = self.touch(key, now);
        if result.length_info.is_err() && entry.resolved(request.seqnum).is_some() {
            return;
        }
        entry.last = Some(Last {
            seqnum: request.seqnum,
            request_id: request.request_id,
            generation: request.generation,
            chain_ver: request.chain_ver,
            retained,
            result: result.clone(),
        });
    }

    /// A request that had failed with a version left pending was completed later: its retry gets this result. Otherwise
    /// the retry could find the chunk removed and made anew, where its version number means another update.
    pub fn resolve(&mut self, key: Key, seqnum: ChannelSeqNum, result: &IOResult) {
        let last = self.entries.get_mut(&key).and_then(|entry| entry.last.as_mut());
        if let Some(last) = last.filter(|last| last.seqnum == seqnum && last.result.length_info.is_err()) {
            last.result = result.clone();
        }
    }

    /// The successful result of a request that was completed by somebody else while it was admitted to run again.
    pub fn resolved(&self, key: Key, seqnum: ChannelSeqNum) -> Option<&IOResult> {
        self.entries.get(&key)?.resolved(seqnum)
    }

    /// The request was given up without a result: unlocks the channel.
    pub fn release(&mut self, key: Key) {
        let running = self.entries.get_mut(&key).and_then(|entry| entry.running.take());
        if let Some(running) = running {
            self.by_chain.ends(key.chain, running.chain_ver);
        }
    }

    /// Forgets clients not heard for `timeout` of which `active` knows nothing; returns how many channels went.
    pub fn expire(&mut self, active: &HashSet<Uuid>, timeout: Duration, now: Duration) -> usize {
        let zero = Uuid::default();
        let before = self.entries.len();
        let mut newest: HashMap<Uuid, Duration> = HashMap::new();
        for (key, entry) in &self.entries {
            let used = newest.entry(key.client).or_default();
            *used = entry.used.max(*used);
        }
        let (order, by_chain) = (&mut self.order, &mut self.by_chain);
        self.entries.retain(|key, entry| {
            let idle = now.saturating_sub(newest[&key.client]) >= timeout;
            let keep = entry.running.is_some() || key.client == zero || active.contains(&key.client) || !idle;
            if !keep {
                order.remove(&entry.stamp);
                by_chain.remove(*key);
            }
            keep
        });
        before - self.entries.len()
    }

    /// Updates of a chain that succeeded: clients that wait for the chain repeat them for long. Without those of clients
    /// that have no name.
    pub fn answered(&self, chain: ChainId, now: Duration) -> Vec<Answered> {
        let answered = self.by_chain.channels(chain).filter(Key::is_named).filter_map(|key| {
            #[cfg(test)]
            self.looks.set(self.looks.get() + 1);
            let entry = self.entries.get(&key)?;
            let last = entry.last.as_ref().filter(|last| last.result.length_info.is_ok())?;
            let age = now.saturating_sub(entry.used);
            let (seqnum, request_id, result) = (last.seqnum, last.request_id, last.result.clone());
            Some(Answered { key, seqnum, request_id, age, result })
        });
        answered.collect()
    }

    /// True if an update of a chain is being worked on that came under an earlier version of it.
    pub fn runs_before(&self, chain: ChainId, chain_ver: ChainVersion) -> bool {
        self.by_chain.oldest_running(chain).is_some_and(|oldest| oldest < chain_ver)
    }

    /// Learns of an update that another replica has answered; what is here was filled from there. False if there is no
    /// place for it, or it has no name: age would not have it forgotten, and it is no answer to anybody.
    pub fn learn(&mut self, answered: Answered, now: Duration) -> bool {
        let key = answered.key;
        if !key.is_named() {
            return false;
        }
        let known = self.entries.get(&key).and_then(|entry| entry.last.as_ref());
        let newer = known.is_none_or(|last| {
            let repeats = last.seqnum == answered.seqnum && last.result.length_info.is_err();
            last.seqnum < answered.seqnum || repeats
        });
        if !newer {
            return true;
        }
        if !self.entries.contains_key(&key) && !self.make_room(now) {
            return false;
        }
        let entry = self.touch(key, now);
        entry.used = now.saturating_sub(answered.age);
        entry.last = Some(Last {
            seqnum: answered.seqnum,
            request_id: answered.request_id,
            // Of no opening and under no chain version of this replica: a predecessor's numbered update is placed by the
            // chunk's versions.
            generation: 0,
            chain_ver: ChainVersion(0),
            retained: answered.result.update_ver,
            result: answered.result,
        });
        true
    }

    /// True if nothing later is known of a channel than this update.
    pub fn is_latest(&self, key: Key, seqnum: ChannelSeqNum) -> bool {
        let entry = self.entries.get(&key);
        entry.is_some_and(|entry| {
            entry.last.as_ref().is_some_and(|last| last.seqnum == seqnum)
                && entry.running.is_none_or(|running| running.seqnum == seqnum)
        })
    }

    fn touch(&mut self, key: Key, now: Duration) -> &mut Entry {
        self.next_stamp += 1;
        let stamp = self.next_stamp;
        let by_chain = &mut self.by_chain;
        let entry = self.entries.entry(key).or_insert_with(|| {
            by_chain.add(key);
            Entry { last: None, running: None, used: now, stamp }
        });
        self.order.remove(&entry.stamp);
        self.order.insert(stamp, key);
        entry.stamp = stamp;
        entry.used = now;
        entry
    }

    /// Makes room for one more, if need be at the cost of the longest unused channel.
    fn make_room(&mut self, now: Duration) -> bool {
        if self.entries.len() < self.limit {
            return true;
        }
        let old = |entry: &Entry| entry.running.is_none() && now.saturating_sub(entry.used) >= KEEP;
        let victim = self.order.values().copied().take_while(|key| self.entries[key].used + KEEP <= now);
        let Some(victim) = victim.into_iter().find(|key| old(&self.entries[key])) else {
            return false;
        };
        if let Some(entry) = self.entries.remove(&victim) {
            self.order.remove(&entry.stamp);
            self.by_chain.remove(victim);
        }
        true
    }
}

impl Entry {
    fn resolved(&self, seqnum: ChannelSeqNum) -> Option<&IOResult> {
        let remembered = |last: &&Last| last.seqnum == seqnum && !broken(Mutation::ForgetAnsweredRequests);
        let last = self.last.as_ref().filter(remembered)?;
        last.result.length_info.is_ok().then_some(&last.result)
    }
}

impl Last {
    fn judge(&self, request: &Request) -> Admission {
        if request.seqnum < self.seqnum {
            return refuse(code::STORAGE_CLIENT_DUPLICATE_UPDATE, "a later update of the channel was seen");
        }
        if request.seqnum > self.seqnum {
            return Admission::Run(request.update_ver);
        }
        // What succeeded before the target was opened again is part of what it was opened with.
        let from_client = request.update_ver == ChunkVer(0);
        let stands = from_client && self.result.length_info.is_ok();
        if request.generation != self.generation && !stands {
            return Admission::Run(request.update_ver);
        }
        if request.request_id != self.request_id {
            return refuse(code::STORAGE_CLIENT_FOUND_BUG, "sequence number belongs to another request");
        }
        // Under another chain version a numbered update may come from a head that forgot the first one and applies it
        // again; the chunk's versions tell what is here.
        if !from_client && request.chain_ver != self.chain_ver {
            return Admission::Run(request.update_ver);
        }
        let same_version = from_client || request.update_ver == self.result.update_ver;
        if self.result.length_info.is_ok() && same_version {
            let mut result = self.result.clone();
            if request.kind != UpdateType::Extend {
                result.length_info = Ok(request.length);
            }
            return Admission::Answer(result);
        }
        // "No space" told the predecessor that it may give the version to another update.
        let refused = |status: &Status| status.code == code::STORAGE_CLIENT_NO_SPACE;
        if !from_client && self.result.length_info.as_ref().is_err_and(refused) {
            return Admission::Answer(self.result.clone());
        }
        // A failed update keeps the version it was given, so that it is not applied a second time under another.
        Admission::Run(if from_client { self.retained } else { request.update_ver })
    }
}

fn refuse(code: u16, why: &'static str) -> Admission {
    Admission::Refuse(Status::new(code, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(1000);

    fn key(client: u8, channel: u16) -> Key {
        Key { client: Uuid([client; 16]), chain: ChainId(1), channel: ChannelId(channel) }
    }

    fn request(seqnum: u64, id: u64) -> Request {
        Request {
            seqnum: ChannelSeqNum(seqnum),
            request_id: RequestId(id),
            update_ver: ChunkVer(0),
            length: 10,
            kind: UpdateType::Write,
            generation: 1,
            chain_ver: ChainVersion(1),
        }
    }

    fn success(ver: u32) -> IOResult {
        IOResult {
            length_info: Ok(10),
            update_ver: ChunkVer(ver),
            commit_ver: ChunkVer(ver),
            ..Default::default()
        }
    }

    fn failure() -> IOResult {
        IOResult::error(code::RPC_TIMEOUT, "")
    }

    fn refused(admission: Admission) -> u16 {
        match admission {
            Admission::Refuse(status) => status.code,
            other => panic!("{other:?}"),
        }
    }

    fn run(table: &mut Table, request: &Request, result: &IOResult, assigned: u32) {
        assert!(matches!(table.admit(key(1, 1), request, AT), Admission::Run(_)));
        table.finish(key(1, 1), request, result, ChunkVer(assigned), AT);
    }

    #[test]
    fn channel_zero_is_a_bug() {
        let mut table = Table::new(4);
        assert_eq!(refused(table.admit(key(1, 0), &request(1, 1), AT)), code::STORAGE_CLIENT_FOUND_BUG);
        assert!(table.is_empty());
    }

    #[test]
    fn retry_gets_the_first_answer() {
        let mut table = Table::new(4);
        run(&mut table, &request(1, 7), &success(3), 3);
        assert_eq!(table.admit(key(1, 1), &request(1, 7), AT), Admission::Answer(success(3)));
        let mut forwarded = request(1, 7);
        forwarded.update_ver = ChunkVer(3);
        assert_eq!(table.admit(key(1, 1), &forwarded, AT), Admission::Answer(success(3)));
        forwarded.chain_ver = ChainVersion(2);
        assert_eq!(table.admit(key(1, 1), &forwarded, AT), Admission::Run(ChunkVer(3)));
        table.finish(key(1, 1), &forwarded, &success(3), ChunkVer(3), AT);
        forwarded.update_ver = ChunkVer(4);
        assert_eq!(table.admit(key(1, 1), &forwarded, AT), Admission::Run(ChunkVer(4)));
    }

    #[test]
    fn answer_carries_the_length_asked_for_unless_extending() {
        let mut table = Table::new(4);
        run(&mut table, &request(1, 7), &success(3), 3);
        let mut retry = request(1, 7);
        retry.length = 12;
        let Admission::Answer(result) = table.admit(key(1, 1), &retry, AT) else { panic!() };
        assert_eq!(result.length_info, Ok(12));
        retry.kind = UpdateType::Extend;
        assert_eq!(table.admit(key(1, 1), &retry, AT), Admission::Answer(success(3)));
    }

    #[test]
    fn running_channel_is_locked_until_finished_or_released() {
        let mut table = Table::new(4);
        assert_eq!(table.admit(key(1, 1), &request(1, 7), AT), Admission::Run(ChunkVer(0)));
        assert_eq!(refused(table.admit(key(1, 1), &request(1, 7), AT)), code::STORAGE_CHANNEL_IS_LOCKED);
        assert_eq!(refused(table.admit(key(1, 1), &request(2, 8), AT)), code::STORAGE_CHANNEL_IS_LOCKED);
        assert_eq!(table.admit(key(1, 2), &request(1, 7), AT), Admission::Run(ChunkVer(0)));
        assert_eq!(table.admit(key(2, 1), &request(1, 7), AT), Admission::Run(ChunkVer(0)));
        table.release(key(1, 1));
        assert_eq!(table.admit(key(1, 1), &request(1, 7), AT), Admission::Run(ChunkVer(0)));
    }

    #[test]
    fn older_sequence_number_is_a_duplicate_and_a_reused_one_a_bug() {
        let mut table = Table::new(4);
        run(&mut table, &request(5, 7), &success(3), 3);
        assert_eq!(
            refused(table.admit(key(1, 1), &request(4, 6), AT)),
            code::STORAGE_CLIENT_DUPLICATE_UPDATE
        );
        assert_eq!(refused(table.admit(key(1, 1), &request(5, 8), AT)), code::STORAGE_CLIENT_FOUND_BUG);
        assert_eq!(table.admit(key(1, 1), &request(6, 9), AT), Admission::Run(ChunkVer(0)));
    }

    #[test]
    fn failed_update_runs_again_with_its_version() {
        let mut table = Table::new(4);
        run(&mut table, &request(5, 7), &failure(), 3);
        assert_eq!(table.admit(key(1, 1), &request(5, 7), AT), Admission::Run(ChunkVer(3)));
        table.finish(key(1, 1), &request(5, 7), &failure(), ChunkVer(0), AT);
        assert_eq!(table.admit(key(1, 1), &request(5, 7), AT), Admission::Run(ChunkVer(0)));
        table.finish(key(1, 1), &request(5, 7), &failure(), ChunkVer(3), AT);
        let mut numbered = request(5, 7);
        numbered.update_ver = ChunkVer(9);
        assert_eq!(table.admit(key(1, 1), &numbered, AT), Admission::Run(ChunkVer(9)));
    }

    #[test]
    fn failed_update_that_was_completed_later_is_answered() {
        let mut table = Table::new(4);
        run(&mut table, &request(5, 7), &failure(), 3);
        table.resolve(key(1, 1), ChannelSeqNum(4), &success(2));
        assert_eq!(table.admit(key(1, 1), &request(5, 7), AT), Admission::Run(ChunkVer(3)));
        table.release(key(1, 1));
        table.resolve(key(1, 1), ChannelSeqNum(5), &success(3));
        table.resolve(key(1, 1), ChannelSeqNum(5), &success(9));
        table.resolve(key(1, 2), ChannelSeqNum(5), &success(3));
        assert_eq!(table.resolved(key(1, 1), ChannelSeqNum(5)), Some(&success(3)));
        table.finish(key(1, 1), &request(5, 7), &failure(), ChunkVer(3), AT);
        assert_eq!(table.admit(key(1, 1), &request(5, 7), AT), Admission::Answer(success(3)));
    }

    #[test]
    fn refusal_for_lack_of_space_is_final_for_the_predecessor() {
        let mut table = Table::new(4);
        let full = IOResult::error(code::STORAGE_CLIENT_NO_SPACE, "");
        let numbered = Request { update_ver: ChunkVer(3), ..request(5, 7) };
        assert_eq!(table.admit(key(1, 1), &numbered, AT), Admission::Run(ChunkVer(3)));
        table.finish(key(1, 1), &numbered, &full, ChunkVer(3), AT);
        assert_eq!(table.admit(key(1, 1), &numbered, AT), Admission::Answer(full.clone()));
        // A client that tries again starts from the beginning.
        run(&mut table, &request(6, 8), &full, 0);
        assert_eq!(table.admit(key(1, 1), &request(6, 8), AT), Admission::Run(ChunkVer(0)));
    }

    #[test]
    fn of_an_earlier_opening_only_success_counts() {
        let mut table = Table::new(4);
        let mut reopened = request(5, 7);
        reopened.generation = 2;
        run(&mut table, &request(5, 7), &success(3), 3);
        assert_eq!(table.admit(key(1, 1), &reopened, AT), Admission::Answer(success(3)));
        let mut forwarded = reopened;
        forwarded.update_ver = ChunkVer(3);
        assert_eq!(table.admit(key(1, 1), &forwarded, AT), Admission::Run(ChunkVer(3)));
        table.release(key(1, 1));
        run(&mut table, &request(6, 8), &failure(), 0);
        reopened = Request { generation: 2, ..request(6, 8) };
        assert_eq!(table.admit(key(1, 1), &reopened, AT), Admission::Run(ChunkVer(0)));
        table.release(key(1, 1));
        reopened.seqnum = ChannelSeqNum(4);
        assert_eq!(refused(table.admit(key(1, 1), &reopened, AT)), code::STORAGE_CLIENT_DUPLICATE_UPDATE);
    }

    #[test]
    fn full_table_gives_up_old_channels_only() {
        let mut table = Table::new(2);
        for channel in [1, 2] {
            assert!(matches!(table.admit(key(1, channel), &request(1, 1), AT), Admission::Run(_)));
        }
        table.finish(key(1, 2), &request(1, 1), &success(1), ChunkVer(1), AT);
        assert_eq!(refused(table.admit(key(1, 3), &request(1, 1), AT)), code::STORAGE_CLIENT_RESOURCE_BUSY);
        // Channel 1 is older but still running.
        assert!(matches!(table.admit(key(1, 3), &request(1, 1), AT + KEEP), Admission::Run(_)));
        assert_eq!(table.len(), 2);
        assert_eq!(
            refused(table.admit(key(1, 1), &request(1, 1), AT + KEEP)),
            code::STORAGE_CHANNEL_IS_LOCKED
        );
        assert_eq!(
            refused(table.admit(key(1, 2), &request(1, 1), AT + KEEP)),
            code::STORAGE_CLIENT_RESOURCE_BUSY
        );
    }

    #[test]
    fn inactive_clients_expire_as_a_whole() {
        let mut table = Table::new(8);
        for client in [0, 1, 2, 3] {
            for channel in [1, 2] {
                let at = if client == 2 && channel == 2 { AT * 2 } else { AT };
                assert!(matches!(table.admit(key(client, channel), &request(1, 1), at), Admission::Run(_)));
                table.finish(key(client, channel), &request(1, 1), &success(1), ChunkVer(1), at);
            }
        }
        let active = HashSet::from([Uuid([3; 16])]);
        assert_eq!(table.expire(&active, Duration::from_secs(100), AT * 2), 2);
        assert_eq!(table.len(), 6);
        assert_eq!((table.order.len(), table.by_chain.len()), (6, 6));
        assert!(matches!(table.admit(key(1, 1), &request(1, 1), AT * 2), Admission::Run(_)));
        assert!(matches!(table.admit(key(2, 1), &request(1, 1), AT * 2), Admission::Answer(_)));
    }

    #[test]
    fn answers_of_another_replica_are_given_and_replace_what_failed_or_is_older() {
        let mut there = Table::new(4);
        there.admit(key(1, 1), &request(5, 50), AT);
        there.finish(key(1, 1), &request(5, 50), &success(7), ChunkVer(7), AT);
        there.admit(key(1, 2), &request(6, 60), AT);
        there.finish(key(1, 2), &request(6, 60), &failure(), ChunkVer(8), AT);
        let later = AT + Duration::from_secs(60);
        let answered = there.answered(ChainId(1), later);
        assert_eq!(answered.len(), 1, "what failed is not passed on");
        assert_eq!(answered[0].age, Duration::from_secs(60));
        assert!(there.answered(ChainId(2), later).is_empty());

        let mut here = Table::new(4);
        here.admit(key(1, 1), &request(5, 50), AT);
        assert!(!here.is_latest(key(1, 1), ChannelSeqNum(5)), "not known yet");
        here.finish(key(1, 1), &request(5, 50), &failure(), ChunkVer(0), AT);
        assert!(here.is_latest(key(1, 1), ChannelSeqNum(5)));
        assert!(here.learn(answered[0].clone(), later));
        let mut other_opening = request(5, 50);
        other_opening.generation = 9;
        assert!(
            matches!(here.admit(key(1, 1), &other_opening, later), Admission::Answer(result) if result.update_ver == ChunkVer(7))
        );

        // A later one stays, and so does one that is being worked on.
        here.admit(key(1, 1), &request(6, 61), later);
        assert!(
            here.runs_before(ChainId(1), ChainVersion(2)) && !here.runs_before(ChainId(1), ChainVersion(1))
        );
        assert!(!here.is_latest(key(1, 1), ChannelSeqNum(5)), "a later one runs");
        here.learn(answered[0].clone(), later);
        here.finish(key(1, 1), &request(6, 61), &success(9), ChunkVer(9), later);
        here.learn(answered[0].clone(), later);
        assert!(matches!(here.admit(key(1, 1), &request(5, 50), later), Admission::Refuse(_)));

        let mut full = Table::new(1);
        full.admit(key(2, 1), &request(1, 1), later);
        assert!(!full.learn(answered[0].clone(), later));
    }

    #[test]
    fn what_has_no_name_is_neither_passed_on_nor_learned() {
        let mut table = Table::new(4);
        table.admit(key(0, 1), &request(1, 1), AT);
        table.finish(key(0, 1), &request(1, 1), &success(7), ChunkVer(7), AT);
        assert!(table.answered(ChainId(1), AT).is_empty());
        let of = |key| Answered {
            key,
            seqnum: ChannelSeqNum(1),
            request_id: RequestId(1),
            age: Duration::ZERO,
            result: success(7),
        };
        let mut here = Table::new(4);
        assert!(!here.learn(of(key(0, 1)), AT) && !here.learn(of(key(1, 0)), AT));
        assert!(here.is_empty());
        assert!(here.learn(of(key(1, 1)), AT));
    }

    #[test]
    fn a_chain_costs_what_its_own_channels_cost() {
        const CHAINS: u32 = 500;
        let mut table = Table::new(10 * CHAINS as usize);
        let key = |chain, channel| Key { chain: ChainId(chain), ..key(1, channel) };
        for chain in 1..=CHAINS {
            for channel in 1..=10 {
                let request = Request { chain_ver: ChainVersion(chain), ..request(1, 1) };
                assert!(matches!(table.admit(key(chain, channel), &request, AT), Admission::Run(_)));
                match channel {
                    1..=7 => table.finish(key(chain, channel), &request, &success(1), ChunkVer(1), AT),
                    8 => table.release(key(chain, channel)),
                    _ => {}
                }
            }
        }
        assert_eq!(table.answered(ChainId(9), AT).len(), 7);
        assert_eq!(table.looks.get(), 10, "of {} channels", table.len());
        // Updates run under the chain's own version, and end one after the other.
        let runs = |table: &Table| [9, 10].map(|ver| table.runs_before(ChainId(9), ChainVersion(ver)));
        assert_eq!(runs(&table), [false, true]);
        table.release(key(9, 9));
        assert_eq!(runs(&table), [false, true]);
        table.release(key(9, 9));
        assert_eq!(runs(&table), [false, true], "released once");
        let request = Request { chain_ver: ChainVersion(9), ..request(1, 1) };
        table.finish(key(9, 10), &request, &failure(), ChunkVer(0), AT);
        assert_eq!(runs(&table), [false, false]);
        // What makes room, or is forgotten, leaves the chain, too.
        let newest = key(CHAINS + 1, 1);
        assert!(matches!(table.admit(newest, &request, AT + KEEP), Admission::Run(_)));
        table.release(newest);
        assert_eq!((table.len(), table.by_chain.len()), (5000, 5000));
        assert_eq!(table.answered(ChainId(1), AT).len(), 6, "its longest unused channel went");
        for chain in 1..=CHAINS {
            (1..=10).for_each(|channel| table.release(key(chain, channel)));
        }
        table.expire(&HashSet::new(), KEEP, AT + 3 * KEEP);
        assert!(table.is_empty() && table.by_chain.len() == 0);
    }
}
