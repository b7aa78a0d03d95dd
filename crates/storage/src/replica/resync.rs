//! Which chunks a returned replica has to be sent (`src/storage/sync/ResyncWorker.cc`, handleSync).

use super::version::{LocalChunk, Version};
use valor_protocol::storage::{ChunkMeta, ChunkState};
use valor_protocol::{ChainVersion, ChunkVer};

/// What to do about one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The successor has it and this replica does not, or not for long: remove it there.
    Remove,
    /// Send the whole chunk.
    Write(Reason),
    /// Nothing to do.
    Skip(Reason),
    /// The successor has committed what this replica has not: it must not serve, an administrator has to look.
    Fatal(Reason),
}

/// Why, for logs and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Same version, same checksum.
    Same,
    /// The successor does not have it.
    RemoteMissing,
    /// The successor's copy is from an older chain version.
    RemoteOlder,
    /// The successor has a pending version.
    RemoteUncommitted,
    /// A full sync was asked for.
    FullSync,
    /// Being written at this moment.
    Writing,
    /// The successor committed a version that this replica never had.
    RemoteNewer,
    /// Same version, different checksums.
    ChecksumsDiffer,
}

/// Compares one chunk; `remote` was seen before `local`.
///
/// Unlike C++ 3FS, a chunk that is being written is sent too: otherwise the successor could begin to serve while an earlier
/// version than one that another replica has served already is all it has. And a successor that lacks a version committed
/// here is not taken for diverged: an update of the previous chain version may have ended between the two looks.
///
/// `current` is the chain version of now, `full` asks to send equal chunks too.
pub fn compare(
    local: &LocalChunk,
    remote: Option<&ChunkMeta>,
    current: ChainVersion,
    full: bool,
) -> Decision {
    let (newest, remote) = match (offer(local), remote) {
        (None, None) => return Decision::Skip(Reason::Same),
        (None, Some(_)) => return Decision::Remove,
        (Some(_), None) => return Decision::Write(Reason::RemoteMissing),
        (Some(newest), Some(remote)) => (newest, remote),
    };
    if newest.chain_ver > remote.chain_ver {
        return Decision::Write(Reason::RemoteOlder);
    }
    if remote.update_ver != remote.commit_ver || remote.chunk_state != ChunkState::Commit {
        return Decision::Write(Reason::RemoteUncommitted);
    }
    if (newest.ver, newest.checksum) == (remote.commit_ver, remote.checksum) {
        return if full { Decision::Write(Reason::FullSync) } else { Decision::Skip(Reason::Same) };
    }
    if remote.chain_ver == newest.chain_ver && remote.commit_ver < newest.ver {
        return Decision::Write(Reason::RemoteOlder);
    }
    if local.pending.is_some() || newest.chain_ver == current {
        return Decision::Write(Reason::Writing);
    }
    let same_version = newest.ver == remote.commit_ver;
    Decision::Fatal(if same_version { Reason::ChecksumsDiffer } else { Reason::RemoteNewer })
}

/// The version of a chunk that a successor is sent: the newest, pending or not, since an update that was forwarded to it
/// already is not applied there again. None if the chunk is to be removed there, for it is absent or being removed here.
pub fn offer(local: &LocalChunk) -> Option<Version> {
    match local.pending {
        Some(pending) if pending.remove => None,
        Some(pending) => Some(pending.version),
        None => local.committed,
    }
}

/// The version under which a successor removes a chunk that [`offer`] has nothing of.
pub fn removal(local: &LocalChunk) -> ChunkVer {
    local.pending.map_or(ChunkVer(1), |pending| pending.version.ver)
}

/// A chunk as syncStart and getAllChunkMetadata report it.
pub fn describe(chunk_id: valor_protocol::storage::ChunkId, chunk: &LocalChunk) -> ChunkMeta {
    let newest = chunk.pending.map(|p| p.version).or(chunk.committed).unwrap_or_default();
    let commit_ver = match chunk.pending {
        // A first version is pending, or a replacement is: the successor to its number is not committed.
        Some(pending) => ChunkVer(pending.version.ver.0.saturating_sub(1)),
        None => newest.ver,
    };
    ChunkMeta {
        chunk_id,
        update_ver: newest.ver,
        commit_ver,
        chain_ver: newest.chain_ver,
        chunk_state: if chunk.pending.is_some() { ChunkState::Clean } else { ChunkState::Commit },
        checksum: newest.checksum,
        length: newest.length,
    }
}

#[cfg(test)]
mod tests {
    use super::super::version::Pending;
    use super::*;
    use valor_protocol::storage::{ChecksumInfo, ChecksumType, ChunkId};

    const NOW: ChainVersion = ChainVersion(5);

    fn version(ver: u32, chain_ver: u32) -> Version {
        let checksum = ChecksumInfo { r#type: ChecksumType::Crc32c, value: ver };
        Version { ver: ChunkVer(ver), chain_ver: ChainVersion(chain_ver), length: 4, checksum }
    }

    fn committed(ver: u32, chain_ver: u32) -> LocalChunk {
        LocalChunk { committed: Some(version(ver, chain_ver)), pending: None }
    }

    fn writing(ver: u32, chain_ver: u32, next_chain_ver: u32) -> LocalChunk {
        let pending = Pending { version: version(ver + 1, next_chain_ver), remove: false };
        LocalChunk { pending: Some(pending), ..committed(ver, chain_ver) }
    }

    fn removing(ver: u32, chain_ver: u32, next_chain_ver: u32) -> LocalChunk {
        let mut chunk = writing(ver, chain_ver, next_chain_ver);
        chunk.pending.as_mut().unwrap().remove = true;
        chunk
    }

    fn decide(local: &LocalChunk, remote: &LocalChunk) -> Decision {
        compare(local, Some(&describe(ChunkId::default(), remote)), NOW, false)
    }

    #[test]
    fn missing_chunks_are_sent_and_surplus_ones_removed() {
        assert_eq!(compare(&committed(1, 1), None, NOW, false), Decision::Write(Reason::RemoteMissing));
        assert_eq!(decide(&LocalChunk::default(), &committed(1, 1)), Decision::Remove);
        assert_eq!(compare(&LocalChunk::default(), None, NOW, false), Decision::Skip(Reason::Same));
    }

    #[test]
    fn equal_chunks_are_skipped_unless_all_are_wanted() {
        assert_eq!(decide(&committed(3, 2), &committed(3, 2)), Decision::Skip(Reason::Same));
        let remote = describe(ChunkId::default(), &committed(3, 2));
        assert_eq!(compare(&committed(3, 2), Some(&remote), NOW, true), Decision::Write(Reason::FullSync));
    }

    #[test]
    fn older_and_uncommitted_copies_are_replaced() {
        assert_eq!(decide(&committed(3, 4), &committed(3, 2)), Decision::Write(Reason::RemoteOlder));
        assert_eq!(decide(&committed(3, 2), &writing(3, 2, 2)), Decision::Write(Reason::RemoteUncommitted));
        let created = LocalChunk { committed: None, ..writing(0, 2, 2) };
        assert_eq!(decide(&committed(1, 2), &created), Decision::Write(Reason::RemoteUncommitted));
    }

    #[test]
    fn divergence_is_fatal_but_a_running_write_is_not() {
        assert_eq!(decide(&committed(3, 2), &committed(3, 4)), Decision::Skip(Reason::Same));
        assert_eq!(decide(&committed(3, 2), &committed(4, 4)), Decision::Fatal(Reason::RemoteNewer));
        assert_eq!(decide(&committed(3, 2), &committed(2, 4)), Decision::Fatal(Reason::RemoteNewer));
        assert_eq!(decide(&writing(1, 1, 2), &committed(3, 4)), Decision::Write(Reason::Writing));
        assert_eq!(decide(&committed(3, 2), &committed(4, 2)), Decision::Fatal(Reason::RemoteNewer));
        assert_eq!(decide(&committed(3, 5), &committed(4, 5)), Decision::Write(Reason::Writing));
        assert_eq!(decide(&committed(4, 5), &committed(3, 5)), Decision::Write(Reason::RemoteOlder));
        assert_eq!(decide(&writing(3, 2, 2), &committed(3, 2)), Decision::Write(Reason::RemoteOlder));
        assert_eq!(decide(&committed(4, 2), &committed(3, 2)), Decision::Write(Reason::RemoteOlder));
        let mut other = committed(3, 2);
        other.committed.as_mut().unwrap().checksum.value = 9;
        assert_eq!(decide(&committed(3, 2), &other), Decision::Fatal(Reason::ChecksumsDiffer));
        let mut other = committed(3, 5);
        other.committed.as_mut().unwrap().checksum.value = 9;
        assert_eq!(decide(&committed(3, 5), &other), Decision::Write(Reason::Writing));
    }

    #[test]
    fn chunk_being_removed_is_removed_there() {
        assert_eq!(decide(&removing(3, 4, 5), &committed(2, 2)), Decision::Remove);
        assert_eq!(decide(&removing(3, 4, 5), &committed(3, 4)), Decision::Remove);
        assert_eq!(compare(&removing(3, 4, 5), None, NOW, false), Decision::Skip(Reason::Same));
    }

    #[test]
    fn newest_version_is_offered() {
        assert_eq!(offer(&LocalChunk::default()), None);
        assert_eq!(offer(&committed(3, 2)), Some(version(3, 2)));
        assert_eq!(offer(&writing(3, 2, 4)), Some(version(4, 4)));
        assert_eq!((offer(&removing(3, 2, 4)), removal(&removing(3, 2, 4))), (None, ChunkVer(4)));
        assert_eq!(removal(&LocalChunk::default()), ChunkVer(1));
    }

    #[test]
    fn pending_versions_are_reported_as_not_committed() {
        let meta = describe(ChunkId::default(), &writing(3, 2, 5));
        assert_eq!((meta.update_ver, meta.commit_ver), (ChunkVer(4), ChunkVer(3)));
        assert_eq!(meta.chunk_state, ChunkState::Clean);
        assert_eq!(meta.chain_ver, NOW);
    }
}
