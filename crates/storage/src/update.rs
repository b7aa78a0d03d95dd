//! Updates of chunks: from clients at the head, from the predecessor elsewhere, and our own that complete what was left
//! pending. The steps are those of [`crate::replica::update`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use valor_chunk_engine::{EngineError, Tag};
use valor_env::mutation::{Mutation, broken};
use valor_protocol::mgmtd::PublicTargetState;
use valor_protocol::status::code;
use valor_protocol::storage::{
    ChecksumInfo, ChecksumType, ChunkId, FeatureFlags, GlobalKey, IOResult, MessageTag, UpdateChannel,
    UpdateIO, UpdateOptions, UpdateReq, UpdateType, VersionedChainId,
};
use valor_protocol::{ChainVersion, ChannelId, ChannelSeqNum, ChunkVer, RequestId, Status, TargetId};

use crate::dedup;
use crate::recent::Admitted;
use crate::replica::update::{Forwarded, Step, Update};
use crate::replica::version::{Intent, Pending, Version, in_bounds};
use crate::storage::{Local, Storage};
use crate::target::{Change, OpenTarget, Unfinished, crc32c, update_status};

/// Pause between two looks for pending versions to complete.
const COMPLETE_INTERVAL: Duration = Duration::from_millis(200);
/// Pending versions of one target completed in one look.
const COMPLETE_BATCH: usize = 64;

/// An update as it came, with what is known of its data.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    /// The request; `from_client` tells whose.
    pub req: UpdateReq,
    /// Storage CRC-32C of its data.
    pub crc: u32,
}

impl Incoming {
    /// An update that carries no data.
    pub(crate) fn without_data(req: UpdateReq) -> Self {
        Incoming { req, crc: valor_wire::storage_crc32c(&[]) }
    }

    fn chunk(&self) -> &ChunkId {
        &self.req.payload.key.chunk_id
    }

    fn chain(&self) -> VersionedChainId {
        self.req.payload.key.v_chain_id
    }

    fn intent(&self, update_ver: ChunkVer) -> Intent {
        let (io, options) = (&self.req.payload, &self.req.options);
        let whole = options.is_syncing && io.update_type == UpdateType::Write;
        Intent {
            kind: io.update_type,
            update_ver,
            chain_ver: if options.is_syncing {
                options.commit_chain_ver
            } else {
                io.key.v_chain_id.chain_ver
            },
            syncing: options.is_syncing,
            content: whole.then(|| crc32c(self.crc)),
        }
    }

    fn change(&self, now_us: i64) -> Change {
        let (io, tag) = (&self.req.payload, &self.req.tag);
        Change {
            kind: io.update_type,
            offset: io.offset,
            length: io.length,
            data: io.inlinebuf.data.clone(),
            crc: self.crc,
            chunk_size: io.chunk_size,
            tag: Tag {
                request_id: tag.request_id.0,
                client: tag.client_id.uuid.0,
                node_id: 0,
                timestamp_us: now_us,
            },
        }
    }
}

fn failed(status: Status) -> IOResult {
    IOResult { length_info: Err(status), ..IOResult::error(0, "") }
}

fn error(code: u16, message: impl Into<String>) -> IOResult {
    IOResult::error(code, message)
}

impl Storage {
    /// An update with recognition of retries (`ReliableUpdate.cc`).
    pub(crate) async fn reliable_update(self: &Arc<Self>, incoming: Incoming) -> IOResult {
        let target = match self.lookup(incoming.chain(), false) {
            Ok(target) => target,
            Err(status) => return self.refused_at_door(status),
        };
        let _counted = self.count_update();
        let io = &incoming.req.payload;
        let result = if io.update_type == UpdateType::Remove && incoming.req.tag.channel.id == ChannelId(0) {
            self.handle_update(&incoming, &target, None).await
        } else {
            self.admit_update(&incoming, &target).await
        };
        match &result.length_info {
            Ok(length) => {
                let bytes = if io.update_type == UpdateType::Write { u64::from(*length) } else { 0 };
                self.metrics.updated(io.update_type, bytes);
            }
            Err(status) => {
                self.metrics.update_failed(status.code);
                tracing::debug!(chunk = %incoming.chunk(), chain = %incoming.chain().chain_id, %status, "update failed");
            }
        }
        result
    }

    /// A request that does not find its target may come from somebody with newer routing information.
    pub(crate) fn refused_at_door(&self, status: Status) -> IOResult {
        if status.code == code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH {
            self.refresh_wanted.notify_one();
        }
        self.metrics.update_failed(status.code);
        failed(status)
    }

    async fn admit_update(self: &Arc<Self>, incoming: &Incoming, target: &Local) -> IOResult {
        if self.is_stopping() {
            return error(code::RPC_REQUEST_REFUSED, "storage server is stopping");
        }
        let Some(open) = &target.store else {
            return error(code::STORAGE_TARGET_OFFLINE, "target is offline");
        };
        let io = &incoming.req.payload;
        let key = dedup::Key::new(open.chain_id, &incoming.req.tag);
        let request = dedup::Request {
            seqnum: incoming.req.tag.channel.seqnum,
            request_id: incoming.req.tag.request_id,
            update_ver: io.update_ver,
            length: io.length,
            kind: io.update_type,
            generation: open.generation,
            chain_ver: incoming.chain().chain_ver,
        };
        match self.recent.admit(key, request, self.uptime()) {
            Ok(admitted) => self.handle_update(incoming, target, Some(admitted)).await,
            Err(answer) => {
                if answer.length_info.is_ok() {
                    self.metrics.repeated.increment(1);
                }
                answer
            }
        }
    }

    /// Checks an update, waits for its chunk and runs it (`StorageOperator.cc`, handleUpdate).
    async fn handle_update(
        self: &Arc<Self>,
        incoming: &Incoming,
        target: &Local,
        admitted: Option<Admitted<'_>>,
    ) -> IOResult {
        match self.checked_update(incoming, target, admitted.as_ref()).await {
            Ok((result, retained)) => {
                if let Some(admitted) = admitted {
                    admitted.finish(&result, retained, self.uptime());
                }
                result
            }
            // Nothing was begun, so nothing is to be remembered; what is known of an earlier try stays.
            Err(result) => result,
        }
    }

    async fn checked_update(
        self: &Arc<Self>,
        incoming: &Incoming,
        target: &Local,
        admitted: Option<&Admitted<'_>>,
    ) -> Result<(IOResult, ChunkVer), IOResult> {
        let config = self.config.get();
        check_request(incoming, target.info.is_head, config.storage.read_only)?;
        let open =
            target.store.as_ref().ok_or_else(|| error(code::STORAGE_TARGET_OFFLINE, "target is offline"))?;
        let waiters = config.storage.max_waiters_per_chunk as usize;
        let lock = open.locks.lock(incoming.chunk(), waiters).await;
        let _lock =
            lock.map_err(|_| error(code::STORAGE_CHUNK_IS_LOCKED, "too many updates wait for the chunk"))?;
        if let Some(result) = admitted.and_then(Admitted::resolved) {
            return Ok((result, ChunkVer(0)));
        }
        // The chain may have changed while the update waited, and the target may have been opened again.
        let now = self.lookup(incoming.chain(), false).map_err(failed)?;
        if now.store.as_ref().is_none_or(|store| store.generation != open.generation) {
            return Err(error(code::STORAGE_TARGET_OFFLINE, "target was closed"));
        }
        let io = &incoming.req.payload;
        let mut local = open.local(incoming.chunk());
        let creates = io.update_type != UpdateType::Remove && local.is_absent();
        if creates && incoming.req.options.from_client && now.info.reject_create_chunk {
            return Err(error(code::STORAGE_CLIENT_NO_SPACE, "disk is too full for new chunks"));
        }
        let replaces = incoming.req.options.is_syncing && io.update_type == UpdateType::Remove;
        if replaces && local.pending.is_some() {
            if let Err(failure) = open.discard(incoming.chunk()).await {
                self.engine_failed(&open.dir, &failure);
                return Err(failed(update_status(&failure)));
            }
            local = open.local(incoming.chunk());
        }
        let mut update_ver = admitted.map_or(io.update_ver, |admitted| admitted.ver);
        if incoming.req.options.from_client
            && update_ver == ChunkVer(0)
            && let Some(ver) = open.applied().version(incoming.chunk(), &incoming.req.tag)
        {
            if local.pending.is_some_and(|pending| pending.version.ver == ver) {
                update_ver = ver;
            } else {
                // It was committed; the chunk may have been removed since, and even made anew.
                return Ok((repeated(incoming, ver, &local.committed.unwrap_or_default()), ver));
            }
        }
        let mut update = Update::new(incoming.intent(update_ver), io.length);
        let first = update.begin(&local);
        let result = self.drive(&mut update, first, incoming, open).await;
        self.note_pending(open, incoming.chunk(), &update, admitted);
        Ok((result, update.retained()))
    }

    /// Runs an update's steps. The chunk is locked.
    async fn drive(
        self: &Arc<Self>,
        update: &mut Update,
        first: Step,
        incoming: &Incoming,
        open: &Arc<OpenTarget>,
    ) -> IOResult {
        let chunk = incoming.chunk();
        let mut step = first;
        loop {
            step = match step {
                Step::Prepare { ver, chain_ver, replace } => {
                    open.unfinished.lock().remove(chunk);
                    self.store_version(update, incoming, open, ver, (chain_ver, replace)).await
                }
                Step::FinishPending(pending) => {
                    let finish = || Box::pin(self.finish_pending(open, chunk, pending, incoming.chain()));
                    let has_tag = open.takes_tag(chunk);
                    let mut finished = finish().await;
                    if finished.is_err() && has_tag && !open.takes_tag(chunk) {
                        // What the successor remembers of that update is not an answer to this one.
                        finished = finish().await;
                    }
                    match finished {
                        Ok(()) => update.begin(&open.local(chunk)),
                        Err(status) => Step::Done(failed(status)),
                    }
                }
                Step::Forward(_) if broken(Mutation::AckBeforeForward) => {
                    let (storage, incoming, open) = (Arc::clone(self), incoming.clone(), Arc::clone(open));
                    let (chain_ver, copy) = (incoming.chain().chain_ver, update.clone());
                    tokio::spawn(async move { storage.forward(&incoming, &copy, &open, true).await });
                    update.forwarded(Forwarded::Tail { chain_ver })
                }
                Step::Forward(_) => {
                    let forwarded = match self.forward(incoming, update, open, true).await {
                        Forwarded::Failed { .. } if broken(Mutation::CommitUnforwarded) => {
                            Forwarded::Tail { chain_ver: incoming.chain().chain_ver }
                        }
                        other => other,
                    };
                    update.forwarded(forwarded)
                }
                Step::Commit { ver, chain_ver } => {
                    let committed = open.commit(chunk, ver, chain_ver).await;
                    let step = update.committed(committed.map_err(|failure| {
                        self.engine_failed(&open.dir, &failure);
                        update_status(&failure)
                    }));
                    if let Step::Done(result) = &step
                        && result.length_info.is_ok()
                    {
                        self.resolve(open, chunk, ver, result);
                    }
                    step
                }
                Step::Abort(_) => {
                    let dropped = open.discard(chunk).await;
                    if let Err(failure) = &dropped {
                        self.engine_failed(&open.dir, failure);
                    }
                    update.aborted(dropped.is_ok())
                }
                Step::Done(result) => return result,
            };
        }
    }

    /// Puts an update's version on disk: pending, or as the committed one at once if there is nobody to send it to.
    async fn store_version(
        self: &Arc<Self>,
        update: &mut Update,
        incoming: &Incoming,
        open: &OpenTarget,
        ver: ChunkVer,
        (chain_ver, replace): (ChainVersion, bool),
    ) -> Step {
        let chunk = incoming.chunk();
        let change = incoming.change(self.env.utc_now().0);
        let failed = |failure: EngineError| {
            self.engine_failed(&open.dir, &failure);
            update_status(&failure)
        };
        // Held until the version is there: a successor that comes meanwhile is compared with it afterwards.
        let putting = open.puts.read().await;
        let alone = self.same_opening(incoming, open, true).ok().filter(|now| now.info.successor.is_none());
        match alone {
            Some(now) if !replace => {
                let stored = open.put(chunk, change, ver, now.chain_ver()).await;
                update.put(stored.map_err(failed), now.chain_ver())
            }
            _ => {
                drop(putting);
                let prepared = open.prepare(chunk, change, ver, chain_ver, replace).await;
                update.prepared(prepared.map_err(failed))
            }
        }
    }

    // Pending versions left behind.

    /// Remembers that a version stays pending with nobody working on it.
    fn note_pending(
        &self,
        open: &OpenTarget,
        chunk: &ChunkId,
        update: &Update,
        admitted: Option<&Admitted<'_>>,
    ) {
        let Some(pending) = open.local(chunk).pending else { return };
        let ver = pending.version.ver;
        let mut unfinished = open.unfinished.lock();
        if unfinished.get(chunk).is_some_and(|known| known.ver == ver) {
            return;
        }
        let update =
            admitted.filter(|_| update.holds_pending()).map(|admitted| (admitted.key, admitted.request));
        unfinished.insert(chunk.clone(), Unfinished { ver, update, tag_refused: false });
    }

    /// A version was committed: an update that had failed with it pending succeeded after all.
    pub(crate) fn resolve(&self, open: &OpenTarget, chunk: &ChunkId, ver: ChunkVer, result: &IOResult) {
        let unfinished = open.unfinished.lock().remove(chunk);
        if let Some(Unfinished { ver: left, update: Some((key, request)), .. }) = unfinished
            && left == ver
        {
            self.recent.resolve(key, request.seqnum, result);
        }
    }

    /// Completes a pending version, or drops it if it is none to be completed. The chunk is locked.
    async fn finish_pending(
        self: &Arc<Self>,
        open: &Arc<OpenTarget>,
        chunk: &ChunkId,
        pending: Pending,
        chain: VersionedChainId,
    ) -> Result<(), Status> {
        let local = open.local(chunk);
        if local.update_ver() > local.commit_ver() {
            return self.complete(open, chunk, pending, chain).await;
        }
        // Left over from being filled or mended.
        open.discard(chunk).await.map_err(|failure| {
            self.engine_failed(&open.dir, &failure);
            update_status(&failure)
        })
    }

    /// Completes a pending version. The chunk is locked.
    async fn complete(
        self: &Arc<Self>,
        open: &Arc<OpenTarget>,
        chunk: &ChunkId,
        pending: Pending,
        chain: VersionedChainId,
    ) -> Result<(), Status> {
        let incoming = self.resend(open, chunk, pending, chain).await?;
        let mut update = Update::new(incoming.intent(pending.version.ver), incoming.req.payload.length);
        let first = update.begin(&open.local(chunk));
        let result = self.drive(&mut update, first, &incoming, open).await;
        result.length_info.map(|_| {
            self.metrics.completed.increment(1);
            tracing::info!(target = %open.id, %chunk, version = %pending.version.ver, "pending version completed");
        })
    }

    /// The pending version as an update that yields the same content on a replica that has the committed one.
    async fn resend(
        &self,
        open: &OpenTarget,
        chunk: &ChunkId,
        pending: Pending,
        chain: VersionedChainId,
    ) -> Result<Incoming, Status> {
        let meta = open.engine().get_meta(chunk.as_slice());
        let committed = meta.as_ref().and_then(|meta| meta.committed).map_or(0, |version| version.length);
        let length = pending.version.length;
        let mut io = UpdateIO {
            length,
            chunk_size: meta.map_or(0, |meta| meta.chunk_size),
            key: GlobalKey { v_chain_id: chain, chunk_id: chunk.clone() },
            update_ver: pending.version.ver,
            ..UpdateIO::default()
        };
        let mut crc = valor_wire::storage_crc32c(&[]);
        if pending.remove {
            io.update_type = UpdateType::Remove;
            io.length = 0;
        } else if length < committed || length == 0 {
            io.update_type = UpdateType::Truncate;
        } else {
            let read = open.read(chunk, 0, length, true).await.map_err(|failure| update_status(&failure))?;
            io.update_type = UpdateType::Write;
            crc = read.checksum;
            io.checksum = crc32c(crc);
            io.inlinebuf.data = read.data;
        }
        let flags = if io.update_type == UpdateType::Write {
            FeatureFlags::SEND_DATA_INLINE
        } else {
            FeatureFlags(0)
        };
        let tag = self.tag_of(open, chunk, pending.version.ver);
        let req = UpdateReq { payload: io, tag, feature_flags: flags, ..UpdateReq::default() };
        Ok(Incoming { req, crc })
    }

    /// The tag under which the successor gets a version that stayed pending: that of the update that left it, if it is
    /// known and the client has not gone on to another, so that the successor recognises a repetition; else one of this
    /// server.
    pub(crate) fn tag_of(&self, open: &OpenTarget, chunk: &ChunkId, ver: ChunkVer) -> MessageTag {
        let left = open.unfinished.lock().get(chunk).copied();
        let left = left.filter(|left| left.ver == ver && !left.tag_refused);
        match left.and_then(|left| left.update) {
            Some((key, request)) if self.recent.is_latest(key, request.seqnum) => {
                let mut tag = MessageTag { request_id: request.request_id, ..MessageTag::default() };
                tag.client_id.uuid = key.client;
                tag.channel = UpdateChannel { id: key.channel, seqnum: request.seqnum };
                tag
            }
            _ => self.own_tag(),
        }
    }

    /// A tag of this server, on a channel that is used once.
    pub(crate) fn own_tag(&self) -> MessageTag {
        let number = self.next_request();
        let mut tag = MessageTag::default();
        tag.client_id.uuid.0 = self.uuid;
        tag.request_id = RequestId(number);
        // One channel per chunk of the number space: replies to different updates never depend on each other's order.
        tag.channel.id = ChannelId((number % u64::from(u16::MAX)) as u16 + 1);
        tag.channel.seqnum = ChannelSeqNum(number);
        tag
    }

    /// Completes pending versions that nobody works on, on targets that serve.
    pub(crate) async fn complete_pending(self: Arc<Self>) {
        loop {
            sleep(COMPLETE_INTERVAL).await;
            let (todo, count) = self.to_complete();
            for (target, chunk) in todo {
                // Looked up each time, so that this work does not keep a target that lost its place from being
                // opened anew.
                let map = self.map();
                let Ok(target) = map.by_id(target).cloned() else { continue };
                drop(map);
                if let Some(open) = target.store.clone() {
                    self.complete_one(&target, &open, &chunk).await;
                }
            }
            self.metrics.pending.set(count as f64);
        }
    }

    /// Chunks of serving targets with a pending version to complete, and how many there are in all.
    fn to_complete(&self) -> (Vec<(TargetId, ChunkId)>, usize) {
        let map = self.map();
        let (mut todo, mut count) = (Vec::new(), 0);
        for target in map.targets() {
            let Some(open) = &target.store else { continue };
            let unfinished = open.unfinished.lock();
            count += unfinished.len();
            if target.info.public_state == PublicTargetState::Serving {
                let chunks = unfinished.keys().take(COMPLETE_BATCH).cloned();
                todo.extend(chunks.map(|chunk| (target.info.target_id, chunk)));
            }
        }
        (todo, count)
    }

    async fn complete_one(self: &Arc<Self>, target: &Local, open: &Arc<OpenTarget>, chunk: &ChunkId) {
        // Somebody who works on the chunk completes it.
        let Some(_lock) = open.locks.try_lock(chunk) else { return };
        let local = open.local(chunk);
        let Some(pending) = local.pending else {
            open.unfinished.lock().remove(chunk);
            return;
        };
        if let Err(status) = self.finish_pending(open, chunk, pending, target.info.v_chain_id).await {
            tracing::warn!(target = %open.id, %chunk, %status, "pending version not completed");
        }
    }
}

/// The result of an update that was applied before the process started.
fn repeated(incoming: &Incoming, ver: ChunkVer, committed: &Version) -> IOResult {
    let request = incoming.req.tag.request_id;
    tracing::info!(chunk = %incoming.chunk(), version = %ver, %request, "update from before the start repeated");
    let length = match incoming.req.payload.update_type {
        UpdateType::Extend => committed.length.max(incoming.req.payload.length),
        UpdateType::Remove => 0,
        _ => incoming.req.payload.length,
    };
    IOResult {
        length_info: Ok(length),
        update_ver: ver,
        commit_ver: ver,
        commit_chain_ver: committed.chain_ver,
        checksum: committed.checksum,
    }
}

/// What can be said about an update without looking at its chunk.
fn check_request(incoming: &Incoming, is_head: bool, read_only: bool) -> Result<(), IOResult> {
    let (io, options) = (&incoming.req.payload, &incoming.req.options);
    if options.from_client && !is_head {
        return Err(error(
            code::STORAGE_CLIENT_ROUTING_ERROR,
            "non-head node receive a client update request",
        ));
    }
    if options.from_client && read_only {
        return Err(error(code::READ_ONLY_MODE, "storage is readonly!"));
    }
    if io.key.chunk_id.is_empty() || io.key.chunk_id.len() > valor_chunk_engine::MAX_ID_LEN {
        return Err(error(code::INVALID_ARG, "length of chunk id"));
    }
    let resizes = matches!(io.update_type, UpdateType::Truncate | UpdateType::Extend);
    if options.is_syncing && resizes {
        return Err(error(code::INVALID_ARG, "truncate or extend while syncing"));
    }
    if matches!(io.update_type, UpdateType::Invalid | UpdateType::Commit) {
        return Err(error(code::INVALID_ARG, "kind of update"));
    }
    check_data(incoming)?;
    if !in_bounds(io.update_type, io.offset, io.length, io.chunk_size) {
        return Err(error(code::INVALID_ARG, "write beyond the chunk's size"));
    }
    Ok(())
}

/// The data must be in the message, whole and undamaged.
fn check_data(incoming: &Incoming) -> Result<(), IOResult> {
    let io = &incoming.req.payload;
    if io.update_type != UpdateType::Write {
        return Ok(());
    }
    if !incoming.req.feature_flags.contains(FeatureFlags::SEND_DATA_INLINE) {
        return Err(error(code::INVALID_ARG, "update no RDMA socket"));
    }
    if io.inlinebuf.data.len() != io.length as usize {
        let text =
            format!("inline buffer size {} not equal to update size {}", io.inlinebuf.data.len(), io.length);
        return Err(error(code::STORAGE_CLIENT_FOUND_BUG, text));
    }
    if io.length == 0 || matches_data(io.checksum, incoming.crc, &io.inlinebuf.data) {
        return Ok(());
    }
    let text = format!("checksum of data is {:08x}, not {:08x}", incoming.crc, io.checksum.value);
    // C++ 3FS answers with the checksum of nothing.
    Err(IOResult { checksum: crc32c(!0), ..error(code::STORAGE_CHECKSUM_MISMATCH, text) })
}

/// Compares with the checksum that came with the data; CRC-32 (IEEE) is computed here, as nobody else needs it.
fn matches_data(told: ChecksumInfo, crc: u32, data: &Bytes) -> bool {
    match told.r#type {
        ChecksumType::None => true,
        ChecksumType::Crc32c => told.value == crc,
        ChecksumType::Crc32 => told.value == valor_wire::storage_crc32(data),
    }
}

/// An update with options of a client.
pub(crate) fn from_client(payload: UpdateIO, tag: MessageTag, feature_flags: &FeatureFlags) -> UpdateReq {
    let options = UpdateOptions { from_client: true, ..UpdateOptions::default() };
    UpdateReq { payload, options, tag, feature_flags: *feature_flags, ..UpdateReq::default() }
}
