//! Which chunks a returned replica has to be sent (`src/storage/sync/ResyncWorker.cc`, handleSync).

use super::version::{LocalChunk, Version};
use valor_protocol::storage::{ChunkMeta, ChunkState};
use valor_protocol::{ChainVersion, ChunkVer};

/// What to do about one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The successor has it and this replica does not: remove it there.
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
    /// Being written here; the write itself brings it to the successor.
    LocalWriting,
    /// The successor committed it under a chain version this replica never had it under.
    RemoteNewer,
    /// Both committed, versions differ.
    VersionsDiffer,
    /// Same version, different checksums.
    ChecksumsDiffer,
}

/// Compares one chunk. `current` is the chain version of now, `full` asks to send equal chunks too.
pub fn compare(
    local: &LocalChunk,
    remote: Option<&ChunkMeta>,
    current: ChainVersion,
    full: bool,
) -> Decision {
    let Some(remote) = remote else {
        return if local.is_absent() {
            Decision::Skip(Reason::Same)
        } else {
            Decision::Write(Reason::RemoteMissing)
        };
    };
    if local.is_absent() {
        return Decision::Remove;
    }
    let newest = offered(local);
    let settled = local.pending.is_none();
    if newest.chain_ver > remote.chain_ver {
        return Decision::Write(Reason::RemoteOlder);
    }
    if remote.update_ver != remote.commit_ver || remote.chunk_state != ChunkState::Commit {
        return Decision::Write(Reason::RemoteUncommitted);
    }
    if newest.chain_ver < remote.chain_ver {
        return if settled {
            Decision::Fatal(Reason::RemoteNewer)
        } else {
            Decision::Skip(Reason::LocalWriting)
        };
    }
    if newest.ver != remote.commit_ver {
        return differ(settled && newest.chain_ver != current, Reason::VersionsDiffer);
    }
    if full {
        return Decision::Write(Reason::FullSync);
    }
    if newest.checksum != remote.checksum {
        return differ(newest.chain_ver != current, Reason::ChecksumsDiffer);
    }
    Decision::Skip(Reason::Same)
}

/// The content a successor is sent: the newest, but of a chunk being removed the committed one (the removal follows).
pub fn offered(local: &LocalChunk) -> Version {
    local.pending.filter(|p| !p.remove).map(|p| p.version).or(local.committed).unwrap_or_default()
}

/// A difference under the current chain version comes from a write on its way.
fn differ(diverged: bool, reason: Reason) -> Decision {
    if diverged { Decision::Fatal(reason) } else { Decision::Skip(Reason::LocalWriting) }
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
        assert_eq!(decide(&committed(3, 2), &committed(3, 4)), Decision::Fatal(Reason::RemoteNewer));
        assert_eq!(decide(&writing(2, 1, 2), &committed(3, 4)), Decision::Skip(Reason::LocalWriting));
        assert_eq!(decide(&committed(3, 2), &committed(4, 2)), Decision::Fatal(Reason::VersionsDiffer));
        assert_eq!(decide(&committed(4, 5), &committed(3, 5)), Decision::Skip(Reason::LocalWriting));
        assert_eq!(decide(&writing(3, 2, 2), &committed(3, 2)), Decision::Skip(Reason::LocalWriting));
        let mut other = committed(3, 2);
        other.committed.as_mut().unwrap().checksum.value = 9;
        assert_eq!(decide(&committed(3, 2), &other), Decision::Fatal(Reason::ChecksumsDiffer));
        let mut other = committed(3, 5);
        other.committed.as_mut().unwrap().checksum.value = 9;
        assert_eq!(decide(&committed(3, 5), &other), Decision::Skip(Reason::LocalWriting));
    }

    #[test]
    fn chunk_being_removed_still_brings_the_successor_up_to_date() {
        let mut removing = committed(3, 4);
        removing.pending = Some(Pending { version: version(4, 5), remove: true });
        assert_eq!(decide(&removing, &committed(2, 2)), Decision::Write(Reason::RemoteOlder));
        assert_eq!(decide(&removing, &committed(3, 4)), Decision::Skip(Reason::Same));
        assert_eq!(decide(&removing, &committed(4, 5)), Decision::Skip(Reason::LocalWriting));
    }

    #[test]
    fn pending_versions_are_reported_as_not_committed() {
        let meta = describe(ChunkId::default(), &writing(3, 2, 5));
        assert_eq!((meta.update_ver, meta.commit_ver), (ChunkVer(4), ChunkVer(3)));
        assert_eq!(meta.chunk_state, ChunkState::Clean);
        assert_eq!(meta.chain_ver, NOW);
    }
}
