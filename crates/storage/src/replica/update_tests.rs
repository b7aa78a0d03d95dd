//! Every way through an update.

use super::super::version::Version;
use super::*;

const NOW: ChainVersion = ChainVersion(3);

fn sum(value: u32) -> ChecksumInfo {
    ChecksumInfo { r#type: ChecksumType::Crc32c, value }
}

fn version(ver: u32) -> Version {
    Version { ver: ChunkVer(ver), chain_ver: ChainVersion(2), length: 100, checksum: sum(ver) }
}

fn chunk(committed: u32) -> LocalChunk {
    LocalChunk { committed: (committed > 0).then(|| version(committed)), pending: None }
}

fn with_pending(committed: u32, remove: bool) -> LocalChunk {
    LocalChunk { pending: Some(Pending { version: version(committed + 1), remove }), ..chunk(committed) }
}

fn update(kind: UpdateType, update_ver: u32) -> Update {
    let intent =
        Intent { kind, update_ver: ChunkVer(update_ver), chain_ver: NOW, syncing: false, content: None };
    Update::new(intent, 50)
}

fn prepared(value: u32) -> Result<Prepared, Status> {
    Ok(Prepared { length: 120, checksum: sum(value) })
}

fn done(step: Step) -> IOResult {
    match step {
        Step::Done(result) => result,
        other => panic!("{other:?}"),
    }
}

fn code_of(step: Step) -> u16 {
    done(step).length_info.unwrap_err().code
}

fn committed_as(ver: u32, value: u32) -> Forwarded {
    Forwarded::Committed { ver: ChunkVer(ver), chain_ver: NOW, checksum: sum(value), syncing: false }
}

fn failed(code: u16, refused: bool) -> Forwarded {
    Forwarded::Failed { status: Status::new(code, "x"), refused }
}

/// A write at a replica that has version 4, up to the forward of version 5.
fn forwarding() -> Update {
    let mut update = update(UpdateType::Write, 0);
    let step = update.begin(&chunk(4));
    assert_eq!(step, Step::Prepare { ver: ChunkVer(5), chain_ver: NOW, replace: false });
    assert_eq!(update.prepared(prepared(9)), Step::Forward(ChunkVer(5)));
    update
}

#[test]
fn tail_commits_with_the_chain_version_of_now() {
    let mut update = forwarding();
    let step = update.forwarded(Forwarded::Tail { chain_ver: ChainVersion(7) });
    assert_eq!(step, Step::Commit { ver: ChunkVer(5), chain_ver: ChainVersion(7) });
    let result = done(update.committed(Ok(())));
    let expect = IOResult {
        length_info: Ok(50),
        commit_ver: ChunkVer(5),
        update_ver: ChunkVer(5),
        checksum: sum(9),
        commit_chain_ver: ChainVersion(7),
    };
    assert_eq!(result, expect);
    assert_eq!((update.retained(), update.holds_pending()), (ChunkVer(5), false));
}

#[test]
fn version_put_without_a_successor_gets_the_same_answer() {
    let mut other = update(UpdateType::Write, 0);
    other.begin(&chunk(4));
    let put = done(other.put(prepared(9), ChainVersion(7)));
    let mut usual = forwarding();
    usual.forwarded(Forwarded::Tail { chain_ver: ChainVersion(7) });
    assert_eq!(put, done(usual.committed(Ok(()))));
    assert_eq!((other.retained(), other.holds_pending()), (ChunkVer(5), false));

    let mut full = update(UpdateType::Write, 0);
    full.begin(&chunk(4));
    let refused = full.put(Err(Status::new(code::STORAGE_CLIENT_NO_SPACE, "x")), ChainVersion(7));
    assert_eq!(code_of(refused), code::STORAGE_CLIENT_NO_SPACE);
    assert_eq!((full.retained(), full.holds_pending()), (ChunkVer(0), false));
}

#[test]
fn others_commit_with_the_chain_version_of_the_tail() {
    let mut update = forwarding();
    let step = update.forwarded(committed_as(5, 9));
    assert_eq!(step, Step::Commit { ver: ChunkVer(5), chain_ver: NOW });
}

#[test]
fn disagreement_with_the_successor_stops_the_commit() {
    let mut update = forwarding();
    assert_eq!(code_of(update.forwarded(committed_as(6, 9))), code::STORAGE_CHUNK_VERSION_MISMATCH);
    let mut update = forwarding();
    assert_eq!(code_of(update.forwarded(committed_as(5, 8))), code::STORAGE_CLIENT_CHECKSUM_MISMATCH);
    assert!(update.holds_pending());
}

#[test]
fn removals_excuse_a_side_without_the_chunk() {
    let none = ChecksumInfo::default();
    let answer =
        |checksum, syncing| Forwarded::Committed { ver: ChunkVer(5), chain_ver: NOW, checksum, syncing };
    for (checksum, syncing, fine) in
        [(sum(9), false, true), (none, false, true), (sum(8), true, true), (sum(8), false, false)]
    {
        let mut update = update(UpdateType::Remove, 5);
        update.begin(&chunk(4));
        update.prepared(prepared(9));
        let step = update.forwarded(answer(checksum, syncing));
        assert_eq!(matches!(step, Step::Commit { .. }), fine, "{checksum:?} {syncing}");
    }
    // Nothing here to remove: forwarded all the same, nothing to commit.
    let mut update = update(UpdateType::Remove, 0);
    assert_eq!(update.begin(&chunk(0)), Step::Forward(ChunkVer(1)));
    let result = done(update.forwarded(Forwarded::Tail { chain_ver: NOW }));
    assert_eq!((result.length_info, result.commit_ver, result.checksum), (Ok(0), ChunkVer(1), none));
}

#[test]
fn lengths_answered_depend_on_the_kind() {
    for (kind, length) in [
        (UpdateType::Write, 50),
        (UpdateType::Truncate, 120),
        (UpdateType::Extend, 120),
        (UpdateType::Remove, 0),
    ] {
        let mut update = update(kind, 0);
        update.begin(&chunk(4));
        update.prepared(prepared(9));
        update.forwarded(Forwarded::Tail { chain_ver: NOW });
        assert_eq!(done(update.committed(Ok(()))).length_info, Ok(length), "{kind:?}");
    }
}

#[test]
fn committed_update_is_answered_at_once_and_a_pending_one_sent_on() {
    let mut again = update(UpdateType::Write, 4);
    let result = done(again.begin(&chunk(4)));
    assert_eq!((result.length_info, result.commit_ver, result.checksum), (Ok(50), ChunkVer(4), sum(4)));
    assert_eq!(result.commit_chain_ver, ChainVersion(2));

    let mut stale = update(UpdateType::Write, 5);
    assert_eq!(stale.begin(&with_pending(4, false)), Step::Forward(ChunkVer(5)));
    assert!(stale.holds_pending());
    assert!(matches!(stale.forwarded(committed_as(5, 5)), Step::Commit { .. }));
}

#[test]
fn new_update_waits_for_the_pending_one() {
    let mut update = update(UpdateType::Write, 0);
    let local = with_pending(4, true);
    assert_eq!(update.begin(&local), Step::FinishPending(local.pending.unwrap()));
    assert!(matches!(update.begin(&chunk(5)), Step::Prepare { ver: ChunkVer(6), .. }));
}

#[test]
fn only_what_nobody_behind_has_is_dropped() {
    let mut update = forwarding();
    assert_eq!(update.forwarded(failed(code::STORAGE_CLIENT_NO_SPACE, true)), Step::Abort(ChunkVer(5)));
    assert_eq!(code_of(update.aborted(true)), code::STORAGE_CLIENT_NO_SPACE);
    assert_eq!((update.retained(), update.holds_pending()), (ChunkVer(0), false));

    let mut update = forwarding();
    update.forwarded(failed(code::STORAGE_CLIENT_NO_SPACE, true));
    assert_eq!(code_of(update.aborted(false)), code::RPC_TIMEOUT);
    assert_eq!((update.retained(), update.holds_pending()), (ChunkVer(5), true));

    // An earlier run may have sent it on.
    let mut stale = self::update(UpdateType::Write, 5);
    stale.begin(&with_pending(4, false));
    assert_eq!(code_of(stale.forwarded(failed(code::STORAGE_CLIENT_NO_SPACE, true))), code::RPC_TIMEOUT);

    let mut update = forwarding();
    assert_eq!(
        code_of(update.forwarded(failed(code::STORAGE_TARGET_OFFLINE, false))),
        code::STORAGE_TARGET_OFFLINE
    );
    assert!(update.holds_pending());
}

#[test]
fn failed_prepare_leaves_nothing() {
    let full = || Err(Status::new(code::STORAGE_CLIENT_NO_SPACE, ""));
    let mut update = update(UpdateType::Write, 5);
    update.begin(&chunk(4));
    assert_eq!(code_of(update.prepared(full())), code::STORAGE_CLIENT_NO_SPACE);
    assert_eq!((update.retained(), update.holds_pending()), (ChunkVer(0), false));

    // A replacement of a version that is here already must not be taken for refused.
    let intent = Intent {
        kind: UpdateType::Write,
        update_ver: ChunkVer(4),
        chain_ver: NOW,
        syncing: true,
        content: None,
    };
    let mut replacement = Update::new(intent, 50);
    assert!(matches!(replacement.begin(&chunk(4)), Step::Prepare { replace: true, .. }));
    assert_eq!(code_of(replacement.prepared(full())), code::RPC_TIMEOUT);
}

#[test]
fn commit_that_was_done_before_is_done() {
    let mut update = forwarding();
    update.forwarded(committed_as(5, 9));
    let stale = Err(Status::new(code::STORAGE_CHUNK_STALE_COMMIT, ""));
    assert_eq!(done(update.committed(stale)).length_info, Ok(50));
    let mut update = forwarding();
    update.forwarded(committed_as(5, 9));
    let broken = Err(Status::new(code::STORAGE_CHUNK_WRITE_FAILED, ""));
    assert_eq!(code_of(update.committed(broken)), code::STORAGE_CHUNK_WRITE_FAILED);
    assert!(update.holds_pending());
}

#[test]
fn replacements_keep_their_chain_version() {
    let intent = Intent {
        kind: UpdateType::Write,
        update_ver: ChunkVer(9),
        chain_ver: NOW,
        syncing: true,
        content: None,
    };
    let mut update = Update::new(intent, 50);
    assert!(matches!(
        update.begin(&with_pending(4, false)),
        Step::Prepare { ver: ChunkVer(9), replace: true, .. }
    ));
    update.prepared(prepared(9));
    assert_eq!(update.replacement_chain_ver(ChainVersion(8)), NOW);
    let step = update.forwarded(Forwarded::Tail { chain_ver: ChainVersion(8) });
    assert_eq!(step, Step::Commit { ver: ChunkVer(9), chain_ver: NOW });
}

fn answer(code: u16) -> IOResult {
    IOResult::error(code, "")
}

#[test]
fn answers_that_end_an_attempt() {
    let judge_code = |code, uncertain| judge(NOW, Ok(&answer(code)), false, uncertain);
    let refused = |reply| matches!(reply, Reply::Final(Forwarded::Failed { refused: true, .. }));
    let again = |reply| match reply {
        Reply::Again { maybe_applied, .. } => Some(maybe_applied),
        Reply::Final(_) => None,
    };
    assert!(refused(judge_code(code::STORAGE_CLIENT_NO_SPACE, false)));
    assert!(!refused(judge_code(code::STORAGE_CLIENT_NO_SPACE, true)));
    for code in [code::STORAGE_CLIENT_DUPLICATE_UPDATE, code::STORAGE_CLIENT_FOUND_BUG, code::INVALID_ARG] {
        assert!(again(judge_code(code, false)).is_none() && !refused(judge_code(code, false)), "{code}");
    }
    for code in [code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH, code::STORAGE_TARGET_OFFLINE] {
        assert_eq!(again(judge_code(code, false)), Some(false), "{code}");
    }
    for code in [code::STORAGE_CHANNEL_IS_LOCKED, code::STORAGE_CHUNK_MISSING_UPDATE, code::RPC_TIMEOUT] {
        assert_eq!(again(judge_code(code, false)), Some(true), "{code}");
    }
    for (code, applied) in
        [(code::RPC_CONNECT_FAILED, false), (code::RPC_TIMEOUT, true), (code::RPC_SEND_FAILED, true)]
    {
        assert_eq!(again(judge(NOW, Err(&Status::new(code, "")), false, false)), Some(applied), "{code}");
    }
}

#[test]
fn successor_ahead_of_the_chain_version_is_asked_again() {
    let mut result =
        IOResult { length_info: Ok(50), commit_chain_ver: ChainVersion(4), ..Default::default() };
    assert!(matches!(judge(NOW, Ok(&result), false, false), Reply::Again { maybe_applied: true, .. }));
    result.commit_chain_ver = NOW;
    assert!(matches!(judge(NOW, Ok(&result), false, false), Reply::Final(Forwarded::Committed { .. })));
}

#[test]
fn successor_being_filled_gets_whole_chunks() {
    let write = UpdateType::Write;
    assert_eq!(form(false, write, 10, 5, 100, false), Form::AsIs);
    assert_eq!(form(true, write, 0, 100, 100, false), Form::Replacement);
    assert_eq!(form(true, write, 0, 99, 100, false), Form::WholeChunk);
    assert_eq!(form(true, write, 0, 100, 100, true), Form::WholeChunk);
    assert_eq!(form(true, UpdateType::Truncate, 0, 100, 100, false), Form::WholeChunk);
    assert_eq!(form(true, UpdateType::Remove, 0, 0, 100, true), Form::Replacement);
    assert_eq!(form(false, UpdateType::Remove, 0, 0, 100, false), Form::AsIs);
}
