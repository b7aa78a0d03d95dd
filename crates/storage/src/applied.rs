//! What a target remembers of updates from before the process started: the last ones of each chunk, by the tags that its
//! engine keeps with their versions. A client that repeats one of them must not have it applied again after updates of
//! others. The table of [`crate::dedup`] knows more, but is lost with the process.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use valor_chunk_engine::{ChunkMeta, Engine, VersionMeta};
use valor_env::mutation::{Mutation, broken};
use valor_protocol::storage::{ChunkId, MessageTag};
use valor_protocol::{ChunkVer, RequestId, Uuid};

/// Older updates of a target are not looked at, as of when it was changed last: clients wait for its chain as long as it is
/// down, and repeat what was under way then.
const KEEP: Duration = crate::dedup::KEEP;
/// Chunks remembered at most. Beyond that a repeated update may be applied again, as in C++ 3FS.
const MAX_CHUNKS: usize = 1 << 18;
/// Chunks looked at in one step.
const PAGE: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Mark {
    client: Uuid,
    request: RequestId,
    ver: ChunkVer,
}

/// The last updates of one chunk.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    committed: Option<Mark>,
    /// May be dropped instead of committed, and is forgotten then.
    pending: Option<Mark>,
}

/// The last updates of a target's chunks when it was opened.
#[derive(Debug, Default)]
pub struct Applied(Mutex<HashMap<ChunkId, Marks>>);

impl Applied {
    /// Looks at all chunks of an engine that was just opened.
    pub fn of(engine: &Engine, now_us: i64) -> Applied {
        let mut newest = i64::MIN;
        for_each(engine, |meta| {
            // What a clock that was ahead has left must not make all else old.
            let times = versions(meta).map(|version| version.tag.timestamp_us).filter(|time| *time <= now_us);
            newest = times.fold(newest, i64::max);
        });
        let oldest = newest.saturating_sub(KEEP.as_micros() as i64);
        let mark = |version: &VersionMeta| {
            let tag = version.tag;
            let recent = tag.timestamp_us >= oldest && tag.client != [0; 16];
            let mark = || Mark {
                client: Uuid(tag.client),
                request: RequestId(tag.request_id),
                ver: ChunkVer(version.ver),
            };
            recent.then(mark)
        };
        let mut all = HashMap::new();
        for_each(engine, |meta| {
            let marks = Marks {
                committed: meta.committed.as_ref().and_then(mark),
                pending: meta.pending.as_ref().and_then(|pending| mark(&pending.version)),
            };
            if (marks.committed.is_some() || marks.pending.is_some()) && all.len() < MAX_CHUNKS {
                all.insert(ChunkId::from_slice(meta.id.as_bytes()), marks);
            }
        });
        Applied(Mutex::new(all))
    }

    /// The version that a client's update has had since before the process started, committed or pending.
    pub fn version(&self, chunk: &ChunkId, tag: &MessageTag) -> Option<ChunkVer> {
        if broken(Mutation::ForgetAnsweredRequests) {
            return None;
        }
        let all = self.0.lock();
        let marks = all.get(chunk)?;
        let same = |mark: &&Mark| mark.client == tag.client_id.uuid && mark.request == tag.request_id;
        [&marks.pending, &marks.committed].into_iter().flatten().find(same).map(|mark| mark.ver)
    }

    /// The chunk's pending version was dropped, or other content has taken its place: its update has not happened here.
    pub fn forget_pending(&self, chunk: &ChunkId, ver: ChunkVer) {
        let mut all = self.0.lock();
        let Some(marks) = all.get_mut(chunk) else { return };
        // Another version may be pending by now; what was committed since the start stays known.
        if let Some(mark) = marks.pending.take_if(|mark| mark.ver == ver) {
            tracing::debug!(%chunk, %ver, request = %mark.request, "update from before the start is gone");
        }
    }
}

fn versions(meta: &ChunkMeta) -> impl Iterator<Item = &VersionMeta> {
    meta.committed.iter().chain(meta.pending.iter().map(|pending| &pending.version))
}

fn for_each(engine: &Engine, mut look: impl FnMut(&ChunkMeta)) {
    let mut last: Option<Vec<u8>> = None;
    loop {
        let page = engine.page_ascending(last.as_deref(), PAGE);
        page.iter().for_each(&mut look);
        match page.last() {
            Some(meta) if page.len() == PAGE => last = Some(meta.id.as_bytes().to_vec()),
            _ => return,
        }
    }
}
