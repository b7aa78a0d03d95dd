//! The table of recent updates, in parts so that shards seldom meet.

use std::collections::HashSet;
use std::time::Duration;

use parking_lot::Mutex;
use valor_protocol::storage::{IOResult, UpdateType};
use valor_protocol::{ChainId, ChainVersion, ChannelSeqNum, ChunkVer, Uuid};

use crate::dedup::{Admission, Answered, Key, Request, Table};

const PARTS: usize = 16;

/// A [`Table`] shared by threads.
#[derive(Debug)]
pub(crate) struct RecentUpdates(Vec<Mutex<Table>>);

/// An admitted request. Dropping it without a result unlocks its channel.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    table: &'a Mutex<Table>,
    /// Channel.
    pub key: Key,
    /// Request.
    pub request: Request,
    /// Version to run under, 0 if none yet.
    pub ver: ChunkVer,
    finished: bool,
}

impl RecentUpdates {
    pub(crate) fn new(limit: usize) -> Self {
        RecentUpdates((0..PARTS).map(|_| Mutex::new(Table::new(limit.div_ceil(PARTS)))).collect())
    }

    fn part(&self, key: &Key) -> &Mutex<Table> {
        let [a, b, ..] = key.client.0;
        let mix = usize::from(a) ^ usize::from(b) ^ usize::from(key.channel.0) ^ key.chain.0 as usize;
        &self.0[mix % PARTS]
    }

    /// Admits a request, or says what to answer.
    pub(crate) fn admit(&self, key: Key, request: Request, now: Duration) -> Result<Admitted<'_>, IOResult> {
        let table = self.part(&key);
        match table.lock().admit(key, &request, now) {
            Admission::Run(ver) => Ok(Admitted { table, key, request, ver, finished: false }),
            Admission::Answer(result) => Err(result),
            Admission::Refuse(status) => Err(IOResult { length_info: Err(status), ..IOResult::default() }),
        }
    }

    /// See [`Table::resolve`].
    pub(crate) fn resolve(&self, key: Key, seqnum: ChannelSeqNum, result: &IOResult) {
        self.part(&key).lock().resolve(key, seqnum, result);
    }

    /// See [`Table::expire`].
    pub(crate) fn expire(&self, active: &HashSet<Uuid>, timeout: Duration, now: Duration) -> usize {
        self.0.iter().map(|part| part.lock().expire(active, timeout, now)).sum()
    }

    /// See [`Table::answered`].
    pub(crate) fn answered(&self, chain: ChainId, now: Duration) -> Vec<Answered> {
        self.0.iter().flat_map(|part| part.lock().answered(chain, now)).collect()
    }

    /// See [`Table::runs_before`].
    pub(crate) fn runs_before(&self, chain: ChainId, chain_ver: ChainVersion) -> bool {
        self.0.iter().any(|part| part.lock().runs_before(chain, chain_ver))
    }

    /// See [`Table::learn`].
    pub(crate) fn learn(&self, answered: Answered, now: Duration) -> bool {
        self.part(&answered.key).lock().learn(answered, now)
    }

    /// See [`Table::is_latest`].
    pub(crate) fn is_latest(&self, key: Key, seqnum: ChannelSeqNum) -> bool {
        self.part(&key).lock().is_latest(key, seqnum)
    }

    /// Channels known.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|part| part.lock().len()).sum()
    }
}

impl Admitted<'_> {
    /// The result that somebody else's completion of this request yielded in the meantime.
    pub(crate) fn resolved(&self) -> Option<IOResult> {
        if self.ver == ChunkVer(0) || self.request.update_ver != ChunkVer(0) {
            return None;
        }
        let mut result = self.table.lock().resolved(self.key, self.request.seqnum).cloned()?;
        if self.request.kind != UpdateType::Extend {
            result.length_info = Ok(self.request.length);
        }
        Some(result)
    }

    /// Remembers the result; see [`Table::finish`].
    pub(crate) fn finish(mut self, result: &IOResult, retained: ChunkVer, now: Duration) {
        self.finished = true;
        self.table.lock().finish(self.key, &self.request, result, retained, now);
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.table.lock().release(self.key);
        }
    }
}
