//! One update on one replica, step by step (`src/storage/service/StorageOperator.cc`, handleUpdate).
//!
//! The caller holds the chunk's lock from [`Update::begin`] to [`Step::Done`], performs the step it is told and reports
//! what came of it.

use super::version::{Intent, LocalChunk, Pending, Verdict, Version, decide};
use valor_protocol::status::code;
use valor_protocol::storage::{ChecksumInfo, ChecksumType, IOResult, UpdateType};
use valor_protocol::{ChainVersion, ChunkVer, Status};

/// What the replica has to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make the change durable as pending version `ver`; then [`Update::prepared`].
    Prepare {
        /// Version it gets.
        ver: ChunkVer,
        /// Chain version it is prepared under.
        chain_ver: ChainVersion,
        /// Drop whatever content there is, committed or pending.
        replace: bool,
    },
    /// Complete the pending version that is in the way, then call [`Update::begin`] again.
    FinishPending(Pending),
    /// Send the update on under this version; then [`Update::forwarded`].
    Forward(ChunkVer),
    /// Make the pending version the committed one; then [`Update::committed`].
    Commit {
        /// Version to commit.
        ver: ChunkVer,
        /// Chain version to commit it with.
        chain_ver: ChainVersion,
    },
    /// Drop the pending version: no replica behind has it. Then [`Update::aborted`].
    Abort(ChunkVer),
    /// Finished, with the answer to the predecessor or the client. A version may stay pending that somebody has to
    /// complete.
    Done(IOResult),
}

/// What a local prepare yielded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Length of the whole chunk.
    pub length: u32,
    /// Checksum of the whole chunk.
    pub checksum: ChecksumInfo,
}

/// What came of forwarding.
#[derive(Clone, Debug, PartialEq)]
pub enum Forwarded {
    /// There is no successor: this replica is the tail.
    Tail {
        /// The chain version of now.
        chain_ver: ChainVersion,
    },
    /// The successor has committed it.
    Committed {
        /// Version it committed.
        ver: ChunkVer,
        /// Chain version it committed it with.
        chain_ver: ChainVersion,
        /// Checksum of its whole chunk.
        checksum: ChecksumInfo,
        /// It is being filled.
        syncing: bool,
    },
    /// It did not succeed.
    Failed {
        /// Why.
        status: Status,
        /// Certainly no replica behind this one has the version, and none will get it later.
        refused: bool,
    },
}

/// An update in progress.
#[derive(Clone, Debug)]
pub struct Update {
    intent: Intent,
    /// Bytes written, or the length asked for by a truncate or extend.
    length: u32,
    ver: ChunkVer,
    /// Result so far: versions and checksum.
    result: IOResult,
    /// A pending version exists here that this update made or found.
    holds_pending: bool,
    /// This run made it: no earlier run can have sent it on.
    fresh: bool,
    /// The version, or a later one, was here before this run.
    present: bool,
}

impl Update {
    /// An update with `length` as in the request.
    pub fn new(intent: Intent, length: u32) -> Self {
        Update {
            intent,
            length,
            ver: intent.update_ver,
            result: IOResult::default(),
            holds_pending: false,
            fresh: false,
            present: false,
        }
    }

    /// Version the update runs under; 0 before one is assigned.
    pub fn assigned(&self) -> ChunkVer {
        self.ver
    }

    /// Version that the update has on this replica, pending or committed; 0 if it left nothing here. A retry has to run
    /// under it.
    pub fn retained(&self) -> ChunkVer {
        if self.holds_pending || self.result.length_info.is_ok() { self.ver } else { ChunkVer(0) }
    }

    /// True if a version that this update made or found here is pending.
    pub fn holds_pending(&self) -> bool {
        self.holds_pending
    }

    /// True if this replica is being filled with it.
    pub fn is_replacement(&self) -> bool {
        self.intent.syncing
    }

    /// Chain version that a successor being filled has to commit it with: a replacement keeps the one it came with,
    /// so that all replicas have the version under the same one.
    pub fn replacement_chain_ver(&self, current: ChainVersion) -> ChainVersion {
        if self.intent.syncing { self.intent.chain_ver } else { current }
    }

    /// Looks at what is here and starts.
    pub fn begin(&mut self, local: &LocalChunk) -> Step {
        let newest = local.pending.map(|p| p.version).or(local.committed).unwrap_or_default();
        self.result.commit_ver = local.commit_ver();
        self.result.update_ver = newest.ver;
        self.result.commit_chain_ver = newest.chain_ver;
        self.result.checksum = newest.checksum;
        match decide(local, &self.intent) {
            Verdict::Prepare(ver) => {
                self.ver = ver;
                self.present = newest.ver >= ver;
                Step::Prepare { ver, chain_ver: self.intent.chain_ver, replace: self.intent.syncing }
            }
            Verdict::Vacuous(ver) => {
                self.ver = ver;
                self.result.length_info = Ok(0);
                self.result.update_ver = ver;
                self.result.commit_ver = ver;
                self.result.commit_chain_ver = self.intent.chain_ver;
                Step::Forward(ver)
            }
            Verdict::Stale(pending) => {
                self.holds_pending = true;
                self.hold(Prepared { length: pending.version.length, checksum: pending.version.checksum });
                Step::Forward(self.ver)
            }
            Verdict::Committed(version) => self.already_committed(version),
            Verdict::Blocked(pending) => Step::FinishPending(pending),
            Verdict::Reject(code, why) => self.fail(Status::new(code, why)),
        }
    }

    /// The local prepare ended.
    pub fn prepared(&mut self, outcome: Result<Prepared, Status>) -> Step {
        match outcome {
            Ok(prepared) => {
                self.holds_pending = true;
                self.fresh = true;
                self.hold(prepared);
                Step::Forward(self.ver)
            }
            Err(status) => self.fail(status),
        }
    }

    /// In place of [`Update::prepared`] where nobody comes after: the version is the committed one already, or nothing
    /// was changed.
    pub fn put(&mut self, outcome: Result<Prepared, Status>, chain_ver: ChainVersion) -> Step {
        match outcome {
            Ok(prepared) => {
                self.hold(prepared);
                self.result.commit_chain_ver = chain_ver;
                self.succeed()
            }
            Err(status) => self.fail(status),
        }
    }

    /// Forwarding ended.
    pub fn forwarded(&mut self, outcome: Forwarded) -> Step {
        match outcome {
            Forwarded::Tail { chain_ver } => self.commit(chain_ver),
            Forwarded::Committed { ver, chain_ver, checksum, syncing } => {
                if ver != self.ver {
                    let text = format!("successor committed version {ver}, local version is {}", self.ver);
                    return self.fail(Status::new(code::STORAGE_CHUNK_VERSION_MISMATCH, text));
                }
                if !self.checksums_agree(checksum, syncing) {
                    let text = format!("local checksum {:?}, successor's {checksum:?}", self.result.checksum);
                    return self.fail(Status::new(code::STORAGE_CLIENT_CHECKSUM_MISMATCH, text));
                }
                self.commit(chain_ver)
            }
            Forwarded::Failed { status, refused } => {
                if refused && self.fresh {
                    self.result.length_info = Err(status);
                    return Step::Abort(self.ver);
                }
                self.fail(status)
            }
        }
    }

    /// The pending version was dropped, or could not be.
    pub fn aborted(&mut self, dropped: bool) -> Step {
        self.holds_pending = !dropped;
        self.done()
    }

    /// The local commit ended. A version that was committed already (4023) counts as done.
    pub fn committed(&mut self, outcome: Result<(), Status>) -> Step {
        match outcome {
            Ok(()) => self.succeed(),
            Err(status) if status.code == code::STORAGE_CHUNK_STALE_COMMIT => self.succeed(),
            Err(status) => self.fail(status),
        }
    }

    fn succeed(&mut self) -> Step {
        self.holds_pending = false;
        self.result.commit_ver = self.ver;
        self.done()
    }

    fn commit(&mut self, chain_ver: ChainVersion) -> Step {
        // The others take the tail's.
        let chain_ver = self.replacement_chain_ver(chain_ver);
        self.result.commit_chain_ver = chain_ver;
        if self.holds_pending { Step::Commit { ver: self.ver, chain_ver } } else { self.succeed() }
    }

    /// The update's content is pending here: fill in the successful answer.
    fn hold(&mut self, prepared: Prepared) {
        self.result.length_info = Ok(match self.intent.kind {
            UpdateType::Truncate | UpdateType::Extend => prepared.length,
            UpdateType::Remove => 0,
            _ => self.length,
        });
        self.result.update_ver = self.ver;
        self.result.commit_chain_ver = self.intent.chain_ver;
        self.result.checksum = prepared.checksum;
    }

    fn already_committed(&mut self, version: Version) -> Step {
        self.result.length_info = Ok(self.length);
        self.result.update_ver = self.ver;
        self.result.commit_ver = self.ver;
        self.result.commit_chain_ver = version.chain_ver;
        self.result.checksum = version.checksum;
        self.done()
    }

    fn fail(&mut self, status: Status) -> Step {
        self.result.length_info = Err(status);
        self.done()
    }

    /// "No space" tells the predecessor that it may drop the version. That must not be said while it may be here.
    fn done(&mut self) -> Step {
        if let Err(status) = &mut self.result.length_info
            && (self.holds_pending || self.present)
            && status.code == code::STORAGE_CLIENT_NO_SPACE
        {
            status.code = code::RPC_TIMEOUT;
        }
        Step::Done(self.result.clone())
    }

    /// Replicas must agree on the whole chunk. A removal may find the chunk on one side only.
    fn checksums_agree(&self, successor: ChecksumInfo, syncing: bool) -> bool {
        let local = self.result.checksum;
        let none = |c: ChecksumInfo| c.r#type == ChecksumType::None;
        let excused = self.intent.kind == UpdateType::Remove && (syncing || none(local) || none(successor));
        excused || local == successor
    }
}

/// What a reply from the successor, or the lack of one, means for the sender.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// It is final.
    Final(Forwarded),
    /// Try again, after a pause or a change of the chain; `status` is reported if time runs out.
    Again {
        /// What went wrong.
        status: Status,
        /// The update may have been applied, or may still be on its way.
        maybe_applied: bool,
    },
}

/// Judges one attempt. `local` is the sender's chain version, `uncertain` tells that an earlier attempt may have been
/// applied or may still be.
pub fn judge(
    local: ChainVersion,
    answer: Result<&IOResult, &Status>,
    syncing: bool,
    uncertain: bool,
) -> Reply {
    let status = match answer {
        Ok(result) => match &result.length_info {
            Ok(_) => return judge_success(local, result, syncing),
            Err(status) => status,
        },
        // The transport gave up: whatever the reason, the request may have arrived.
        Err(status) => {
            return Reply::Again { status: status.clone(), maybe_applied: may_have_arrived(status.code) };
        }
    };
    match status.code {
        code::STORAGE_CLIENT_NO_SPACE => {
            Reply::Final(Forwarded::Failed { status: status.clone(), refused: !uncertain })
        }
        code::STORAGE_CLIENT_CHECKSUM_MISMATCH
        | code::STORAGE_CLIENT_DUPLICATE_UPDATE
        | code::STORAGE_CLIENT_FOUND_BUG
        | code::INVALID_ARG
        | code::STORAGE_CHUNK_SIZE_MISMATCH => {
            Reply::Final(Forwarded::Failed { status: status.clone(), refused: false })
        }
        // An earlier attempt of this very update is being worked on.
        code::STORAGE_CHANNEL_IS_LOCKED => Reply::Again { status: status.clone(), maybe_applied: true },
        // Refused at the door.
        code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH
        | code::STORAGE_CLIENT_ROUTING_ERROR
        | code::STORAGE_TARGET_OFFLINE
        | code::STORAGE_CHUNK_IS_LOCKED
        | code::RPC_REQUEST_REFUSED => Reply::Again { status: status.clone(), maybe_applied: false },
        _ => Reply::Again { status: status.clone(), maybe_applied: true },
    }
}

fn judge_success(local: ChainVersion, result: &IOResult, syncing: bool) -> Reply {
    if result.commit_chain_ver > local {
        // The chain has moved on and this replica has not heard of it yet.
        let text = format!("successor is at chain version {}, local is {local}", result.commit_chain_ver);
        return Reply::Again {
            status: Status::new(code::STORAGE_CHAIN_VERSION_MISMATCH, text),
            maybe_applied: true,
        };
    }
    Reply::Final(Forwarded::Committed {
        ver: result.commit_ver,
        chain_ver: result.commit_chain_ver,
        checksum: result.checksum,
        syncing,
    })
}

/// Transport errors after which the request certainly was not delivered.
fn may_have_arrived(code: u16) -> bool {
    !matches!(
        code,
        code::RPC_CONNECT_FAILED
            | code::RPC_INVALID_ADDR
            | code::RPC_REQUEST_REFUSED
            | code::STORAGE_NO_SUCCESSOR_ADDR
    )
}

/// In which form an update goes to the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it came.
    AsIs,
    /// As it came, marked as a replacement of the whole chunk.
    Replacement,
    /// The whole local chunk, pending content included, as a replacement.
    WholeChunk,
}

/// Chooses the form (`ReliableForwarding.cc`, doForward): a successor being filled gets whole chunks only, and of an
/// update that is itself a replacement the local chunk.
pub fn form(
    successor_syncing: bool,
    kind: UpdateType,
    offset: u32,
    length: u32,
    chunk_size: u32,
    is_replacement: bool,
) -> Form {
    if !successor_syncing {
        return Form::AsIs;
    }
    let whole = kind == UpdateType::Write && offset == 0 && length == chunk_size && !is_replacement;
    if kind == UpdateType::Remove || whole { Form::Replacement } else { Form::WholeChunk }
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
