//! Which version an update gets, and whether it may be applied (`src/storage/store/ChunkReplica.cc`,
//! `src/storage/chunk_engine/src/core/engine.rs`).

use valor_protocol::status::code;
use valor_protocol::storage::{ChecksumInfo, UpdateType};
use valor_protocol::{ChainVersion, ChunkVer};

/// One version of a chunk's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Number of the version; the first is 1.
    pub ver: ChunkVer,
    /// Chain version it was committed with, or prepared under while pending.
    pub chain_ver: ChainVersion,
    /// Bytes of content.
    pub length: u32,
    /// Checksum of the whole content.
    pub checksum: ChecksumInfo,
}

/// A version that is durable here but not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The version; of a removal the length is that of the committed content.
    pub version: Version,
    /// Committing it removes the chunk.
    pub remove: bool,
}

/// What the local target holds of a chunk. Default: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalChunk {
    /// The committed version; absent if there is no such chunk or its first version is pending.
    pub committed: Option<Version>,
    /// The pending version, at most one.
    pub pending: Option<Pending>,
}

impl LocalChunk {
    /// Number of the committed version, 0 if none.
    pub fn commit_ver(&self) -> ChunkVer {
        self.committed.map_or(ChunkVer(0), |v| v.ver)
    }

    /// Number of the newest version, pending or committed, 0 if none.
    pub fn update_ver(&self) -> ChunkVer {
        self.pending.map_or(self.commit_ver(), |p| p.version.ver)
    }

    /// True if the target knows nothing of the chunk.
    pub fn is_absent(&self) -> bool {
        self.committed.is_none() && self.pending.is_none()
    }
}

/// What an update wants, as far as versions are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Kind of update.
    pub kind: UpdateType,
    /// Version assigned by the head; 0 lets this replica assign it.
    pub update_ver: ChunkVer,
    /// Chain version the update runs under; of a replacement the one it carries.
    pub chain_ver: ChainVersion,
    /// The content replaces whatever this replica has: it is being filled.
    pub syncing: bool,
    /// Checksum of the whole content, where the request tells it.
    pub content: Option<ChecksumInfo>,
}

/// What to do with an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Prepare it as this version.
    Prepare(ChunkVer),
    /// Removal of a chunk that is not here: nothing to prepare or commit, but the others have to hear of it.
    Vacuous(ChunkVer),
    /// It is pending here already (4006): go on forwarding.
    Stale(Pending),
    /// It is committed here already (4008): that is success.
    Committed(Version),
    /// An earlier update is pending and has to be completed first (4012).
    Blocked(Pending),
    /// Not possible: status code and reason.
    Reject(u16, &'static str),
}

/// Decides about an update of `chunk`. Bounds, size and checksum of its data have been checked.
pub fn decide(chunk: &LocalChunk, intent: &Intent) -> Verdict {
    if let Some(committed) = same_content(chunk, intent) {
        return Verdict::Committed(committed);
    }
    if intent.chain_ver < chunk.committed.map_or(ChainVersion(0), |v| v.chain_ver) {
        return Verdict::Reject(
            code::STORAGE_CHAIN_VERSION_MISMATCH,
            "chunk was committed under a newer chain version",
        );
    }
    if intent.kind == UpdateType::Remove && chunk.is_absent() {
        return Verdict::Vacuous(intent.update_ver.max(ChunkVer(1)));
    }
    if intent.syncing {
        return replace(chunk, intent);
    }
    if intent.update_ver == ChunkVer(0) { assign(chunk) } else { place(chunk, intent.update_ver) }
}

/// The committed version that a replacement would repeat. Its chain version may be newer than the replacement's, if the
/// sender has the version pending only.
fn same_content(chunk: &LocalChunk, intent: &Intent) -> Option<Version> {
    let same = |v: &Version| v.ver == intent.update_ver && Some(v.checksum) == intent.content;
    let newer = |v: &Version| v.chain_ver > intent.chain_ver;
    let write = intent.syncing && intent.kind == UpdateType::Write && chunk.pending.is_none();
    chunk.committed.filter(|v| write && same(v) && newer(v))
}

/// A replacement may go back in versions, for its numbers may belong to another life of the chunk, but not behind what was
/// committed under the same chain version: then it was overtaken by a later one.
fn replace(chunk: &LocalChunk, intent: &Intent) -> Verdict {
    if intent.update_ver == ChunkVer(0) {
        return Verdict::Reject(code::INVALID_ARG, "replacement without a version");
    }
    // A removal is no repetition of what it removes.
    let least = if intent.kind == UpdateType::Remove {
        intent.update_ver.0
    } else {
        intent.update_ver.0.saturating_add(1)
    };
    if chunk.committed.is_some_and(|v| v.chain_ver == intent.chain_ver && v.ver.0 >= least) {
        return Verdict::Reject(code::STORAGE_CHUNK_COMMITTED_UPDATE, "a later replacement is committed");
    }
    Verdict::Prepare(intent.update_ver)
}

/// The head numbers a new update.
fn assign(chunk: &LocalChunk) -> Verdict {
    match (chunk.pending, chunk.commit_ver().0.checked_add(1)) {
        (Some(pending), _) => Verdict::Blocked(pending),
        (None, Some(next)) => Verdict::Prepare(ChunkVer(next)),
        (None, None) => Verdict::Reject(code::STORAGE_CHUNK_VERSION_MISMATCH, "chunk version exhausted"),
    }
}

/// A replica behind the head, or the head on a retry, finds where a numbered update belongs.
fn place(chunk: &LocalChunk, ver: ChunkVer) -> Verdict {
    if let Some(committed) = chunk.committed.filter(|v| ver <= v.ver) {
        return Verdict::Committed(committed);
    }
    match chunk.pending {
        Some(pending) if ver <= pending.version.ver => Verdict::Stale(pending),
        None if ver.0 - chunk.commit_ver().0 == 1 => Verdict::Prepare(ver),
        // The predecessor numbers the next one only after this one is committed here, and whoever takes its place has been
        // a successor of that. So only a message can do this that is older than a removal, after which numbers begin anew.
        _ => Verdict::Reject(code::STORAGE_CHUNK_MISSING_UPDATE, "an earlier update is missing"),
    }
}

/// Checks an update's range against the chunk size (not for removals).
pub fn in_bounds(kind: UpdateType, offset: u32, length: u32, chunk_size: u32) -> bool {
    kind == UpdateType::Remove || (offset < chunk_size && length <= chunk_size - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(ver: u32, chain_ver: u32) -> Version {
        Version { ver: ChunkVer(ver), chain_ver: ChainVersion(chain_ver), length: 8, ..Default::default() }
    }

    fn chunk(committed: u32, pending: Option<u32>) -> LocalChunk {
        LocalChunk {
            committed: (committed > 0).then(|| version(committed, 3)),
            pending: pending.map(|p| Pending { version: version(p, 3), remove: false }),
        }
    }

    fn write(update_ver: u32) -> Intent {
        Intent {
            kind: UpdateType::Write,
            update_ver: ChunkVer(update_ver),
            chain_ver: ChainVersion(3),
            syncing: false,
            content: None,
        }
    }

    #[test]
    fn head_numbers_updates_one_above_the_committed_version() {
        assert_eq!(decide(&LocalChunk::default(), &write(0)), Verdict::Prepare(ChunkVer(1)));
        assert_eq!(decide(&chunk(4, None), &write(0)), Verdict::Prepare(ChunkVer(5)));
    }

    #[test]
    fn head_with_a_pending_version_completes_it_first() {
        let blocked = chunk(4, Some(5));
        assert_eq!(decide(&blocked, &write(0)), Verdict::Blocked(blocked.pending.unwrap()));
        let created = chunk(0, Some(1));
        assert_eq!(decide(&created, &write(0)), Verdict::Blocked(created.pending.unwrap()));
    }

    #[test]
    fn numbered_updates_fall_into_their_place() {
        assert_eq!(decide(&chunk(4, None), &write(5)), Verdict::Prepare(ChunkVer(5)));
        assert_eq!(decide(&chunk(4, None), &write(4)), Verdict::Committed(version(4, 3)));
        assert_eq!(decide(&chunk(4, None), &write(1)), Verdict::Committed(version(4, 3)));
        let pending = chunk(4, Some(5));
        assert_eq!(decide(&pending, &write(5)), Verdict::Stale(pending.pending.unwrap()));
        assert_eq!(decide(&pending, &write(4)), Verdict::Committed(version(4, 3)));
        for ver in [6, 7] {
            assert!(
                matches!(
                    decide(&pending, &write(ver)),
                    Verdict::Reject(code::STORAGE_CHUNK_MISSING_UPDATE, _)
                ),
                "{ver}"
            );
        }
        assert!(matches!(
            decide(&chunk(4, None), &write(6)),
            Verdict::Reject(code::STORAGE_CHUNK_MISSING_UPDATE, _)
        ));
        assert!(matches!(
            decide(&chunk(0, None), &write(2)),
            Verdict::Reject(code::STORAGE_CHUNK_MISSING_UPDATE, _)
        ));
        assert_eq!(decide(&chunk(0, None), &write(1)), Verdict::Prepare(ChunkVer(1)));
    }

    #[test]
    fn older_chain_version_than_the_committed_one_is_refused() {
        let mut intent = write(5);
        intent.chain_ver = ChainVersion(2);
        assert!(matches!(
            decide(&chunk(4, None), &intent),
            Verdict::Reject(code::STORAGE_CHAIN_VERSION_MISMATCH, _)
        ));
        intent.syncing = true;
        assert!(matches!(
            decide(&chunk(4, None), &intent),
            Verdict::Reject(code::STORAGE_CHAIN_VERSION_MISMATCH, _)
        ));
        assert_eq!(decide(&LocalChunk::default(), &intent), Verdict::Prepare(ChunkVer(5)));
    }

    #[test]
    fn replacement_takes_its_version_whatever_is_here() {
        let mut intent = write(2);
        intent.syncing = true;
        intent.chain_ver = ChainVersion(4);
        for local in [chunk(0, None), chunk(4, None), chunk(4, Some(5)), chunk(1, None), chunk(2, None)] {
            assert_eq!(decide(&local, &intent), Verdict::Prepare(ChunkVer(2)), "{local:?}");
        }
        intent.update_ver = ChunkVer(0);
        assert!(matches!(decide(&chunk(4, None), &intent), Verdict::Reject(code::INVALID_ARG, _)));
    }

    #[test]
    fn replacement_that_was_overtaken_is_refused() {
        let mut intent = write(2);
        intent.syncing = true;
        assert!(matches!(
            decide(&chunk(4, None), &intent),
            Verdict::Reject(code::STORAGE_CHUNK_COMMITTED_UPDATE, _)
        ));
        assert_eq!(decide(&chunk(2, None), &intent), Verdict::Prepare(ChunkVer(2)));
        intent.kind = UpdateType::Remove;
        for (committed, refused) in [(4, true), (2, true), (1, false)] {
            let verdict = decide(&chunk(committed, None), &intent);
            assert_eq!(matches!(verdict, Verdict::Reject(code::STORAGE_CHUNK_COMMITTED_UPDATE, _)), refused);
        }
        intent.chain_ver = ChainVersion(4);
        assert_eq!(decide(&chunk(4, None), &intent), Verdict::Prepare(ChunkVer(2)));
    }

    #[test]
    fn replacement_by_the_same_content_keeps_the_newer_chain_version() {
        let mut intent = write(4);
        intent.syncing = true;
        intent.chain_ver = ChainVersion(2);
        intent.content = Some(ChecksumInfo::default());
        assert_eq!(decide(&chunk(4, None), &intent), Verdict::Committed(version(4, 3)));
        assert!(matches!(decide(&chunk(4, Some(5)), &intent), Verdict::Reject(..)));
        intent.content = Some(ChecksumInfo { value: 1, ..Default::default() });
        assert!(matches!(
            decide(&chunk(4, None), &intent),
            Verdict::Reject(code::STORAGE_CHAIN_VERSION_MISMATCH, _)
        ));
        // Under the same chain version it is written again: that repairs a damaged copy.
        intent.chain_ver = ChainVersion(3);
        intent.content = Some(ChecksumInfo::default());
        assert_eq!(decide(&chunk(4, None), &intent), Verdict::Prepare(ChunkVer(4)));
    }

    #[test]
    fn removal_of_an_absent_chunk_is_vacuous() {
        let remove = |ver, syncing| {
            let chain_ver = ChainVersion(4);
            Intent { kind: UpdateType::Remove, syncing, chain_ver, ..write(ver) }
        };
        assert_eq!(decide(&chunk(0, None), &remove(0, false)), Verdict::Vacuous(ChunkVer(1)));
        assert_eq!(decide(&chunk(0, None), &remove(7, false)), Verdict::Vacuous(ChunkVer(7)));
        assert_eq!(decide(&chunk(0, None), &remove(7, true)), Verdict::Vacuous(ChunkVer(7)));
        assert_eq!(decide(&chunk(3, None), &remove(0, false)), Verdict::Prepare(ChunkVer(4)));
        assert_eq!(decide(&chunk(3, None), &remove(1, true)), Verdict::Prepare(ChunkVer(1)));
        assert!(matches!(decide(&chunk(0, Some(1)), &remove(0, false)), Verdict::Blocked(_)));
    }

    #[test]
    fn version_numbers_do_not_wrap() {
        assert!(matches!(decide(&chunk(u32::MAX, None), &write(0)), Verdict::Reject(..)));
        assert_eq!(
            decide(&chunk(u32::MAX - 1, None), &write(u32::MAX)),
            Verdict::Prepare(ChunkVer(u32::MAX))
        );
    }

    #[test]
    fn bounds_are_those_of_the_chunk() {
        assert!(in_bounds(UpdateType::Write, 0, 512, 512));
        assert!(in_bounds(UpdateType::Write, 511, 1, 512));
        assert!(!in_bounds(UpdateType::Write, 511, 2, 512));
        assert!(!in_bounds(UpdateType::Write, 512, 0, 512));
        assert!(!in_bounds(UpdateType::Write, u32::MAX, u32::MAX, 512));
        assert!(in_bounds(UpdateType::Truncate, 0, 512, 512));
        assert!(!in_bounds(UpdateType::Extend, 0, 513, 512));
        assert!(in_bounds(UpdateType::Remove, 0, 0, 0));
    }

    /// Numbers the updates of a history as a head does, which commits each; the state after each.
    fn history(kinds: &[UpdateType]) -> Vec<(Intent, LocalChunk)> {
        let mut here = LocalChunk::default();
        let run = |kind: &UpdateType| {
            let intent = Intent { kind: *kind, ..write(0) };
            let (Verdict::Prepare(ver) | Verdict::Vacuous(ver)) = decide(&here, &intent) else {
                panic!("{here:?} refuses {intent:?}")
            };
            here.committed = (*kind != UpdateType::Remove).then(|| version(ver.0, 3));
            (Intent { update_ver: ver, ..intent }, here)
        };
        kinds.iter().map(run).collect()
    }

    /// All histories of up to six writes and removals; a copy of any of their messages comes late at a replica that has
    /// gone on. It changes nothing, except where it is what comes next in the chunk's new life: that is why messages
    /// between two servers keep their order. Without the rule about gaps it would bring removed chunks back.
    #[test]
    fn late_copies_do_not_bring_removed_chunks_back() {
        let mut gaps = 0;
        for bits in 0..64_u32 {
            let kinds: Vec<_> = (0..6)
                .map(|n| if bits >> n & 1 == 1 { UpdateType::Remove } else { UpdateType::Write })
                .collect();
            let history = history(&kinds);
            for (last, (_, here)) in history.iter().enumerate() {
                for (copy, _) in &history[..=last] {
                    let verdict = decide(here, copy);
                    let next = copy.update_ver.0 == here.commit_ver().0 + 1;
                    assert!(next || !matches!(verdict, Verdict::Prepare(_)), "{copy:?} at {here:?}");
                    let gap = matches!(verdict, Verdict::Reject(code::STORAGE_CHUNK_MISSING_UPDATE, _));
                    gaps += u32::from(gap && here.is_absent());
                }
            }
        }
        assert!(gaps > 0, "the rule is needed");
    }
}
