//! Passing an update on to the successor (`src/storage/service/ReliableForwarding.cc`).

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};
use valor_protocol::status::code;
use valor_protocol::storage::methods;
use valor_protocol::storage::{
    FeatureFlags, IOResult, RDMARemoteBuf, UInt8Vector, UpdateOptions, UpdateReq, UpdateType,
};
use valor_protocol::{ChainVersion, Status, TargetId};
use valor_rpc::{CallOptions, KnownCrc};

use crate::replica::update::{Form, Forwarded, Reply, Update, form, judge};
use crate::storage::{Local, Storage};
use crate::target::{OpenTarget, crc32c, update_status};
use crate::update::Incoming;

/// Data at least this large are sent with their known checksum.
const KNOWN_CRC_MIN: usize = 4 << 10;

impl Storage {
    /// Sends an update to the successor until it is committed there, nobody is left to send it to, or time is up. With
    /// `any_version` the chain may change meanwhile. The chunk is locked.
    pub(crate) async fn forward(
        self: &Arc<Self>,
        incoming: &Incoming,
        update: &Update,
        open: &Arc<OpenTarget>,
        any_version: bool,
    ) -> Forwarded {
        let config = self.config.get().reliable_forwarding.clone();
        let deadline = Instant::now() + config.retry_total_time.get();
        let mut pause = config.retry_first_wait.get();
        let mut uncertain = false;
        let mut changes = self.changes();
        for attempt in 0.. {
            changes.borrow_and_update();
            let target = match self.same_opening(incoming, open, any_version) {
                Ok(target) => target,
                Err(status) => return Forwarded::Failed { status, refused: false },
            };
            if target.info.successor.is_none() {
                return Forwarded::Tail { chain_ver: target.chain_ver() };
            }
            if attempt > 0 {
                self.metrics.forward_retries.increment(1);
            }
            let syncing = target.successor_is_syncing();
            let carries;
            if syncing {
                self.fills.uncertain(open.chain_id, &incoming.req.payload.key.chunk_id);
            }
            let answer = match self.outgoing(incoming, update, open, &target, attempt).await {
                Ok((req, crc)) => {
                    carries = req.options.is_syncing && req.payload.update_type == UpdateType::Write;
                    if !incoming.req.options.is_syncing && carries {
                        let extra = req.payload.length.saturating_sub(incoming.req.payload.length);
                        self.metrics.resync_extra_bytes.increment(u64::from(extra));
                    }
                    self.attempt(&target, req, crc, deadline).await
                }
                // What is here cannot be read: another attempt would not help.
                Err(status) => return Forwarded::Failed { status, refused: false },
            };
            let now = self
                .lookup(incoming.req.payload.key.v_chain_id, true)
                .map_or(ChainVersion(0), |t| t.chain_ver());
            let (status, maybe_applied) = match judge(now, answer.as_ref(), syncing, uncertain) {
                Reply::Final(outcome) => {
                    if carries && matches!(outcome, Forwarded::Committed { .. }) {
                        let chunk = &incoming.req.payload.key.chunk_id;
                        self.fills.carried(target.info.v_chain_id, chunk);
                    }
                    if let Forwarded::Failed { .. } = outcome {
                        // It may be what the successor remembers of this tag: the next try has another one.
                        let chunk = &incoming.req.payload.key.chunk_id;
                        if let Some(left) = open.unfinished.lock().get_mut(chunk) {
                            left.tag_refused = true;
                        }
                    }
                    return outcome;
                }
                Reply::Again { status, maybe_applied } => (status, maybe_applied),
            };
            uncertain |= maybe_applied;
            tracing::debug!(chunk = %incoming.req.payload.key.chunk_id, attempt, %status, "forwarding again");
            if !any_version && status.code == code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH {
                return Forwarded::Failed { status, refused: false };
            }
            if Instant::now() >= deadline || self.is_stopping() {
                tracing::warn!(chunk = %incoming.req.payload.key.chunk_id, attempt, %status, "forwarding given up");
                return Forwarded::Failed { status, refused: false };
            }
            if matches!(
                status.code,
                code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH | code::STORAGE_CHAIN_VERSION_MISMATCH
            ) {
                self.refresh_wanted.notify_one();
            }
            let until = (Instant::now() + pause).min(deadline);
            tokio::select! {
                () = sleep_until(until) => pause = (pause * 2).min(config.retry_max_wait.get()),
                _ = changes.changed() => {}
            }
        }
        Forwarded::Failed { status: Status::new(code::RPC_TIMEOUT, "no attempt left"), refused: false }
    }

    /// The target of now, if it is still the one that has prepared the update.
    pub(crate) fn same_opening(
        &self,
        incoming: &Incoming,
        open: &OpenTarget,
        any_version: bool,
    ) -> Result<Local, Status> {
        let target = self.lookup(incoming.req.payload.key.v_chain_id, any_version)?;
        match &target.store {
            Some(store) if store.generation == open.generation => Ok(target),
            _ => Err(Status::new(code::STORAGE_TARGET_OFFLINE, "target was closed")),
        }
    }

    /// One attempt. Ends early when the successor is another one.
    async fn attempt(
        &self,
        target: &Local,
        req: UpdateReq,
        crc: u32,
        deadline: Instant,
    ) -> Result<IOResult, Status> {
        let address = target.successor_address()?;
        let data = &req.payload.inlinebuf.data;
        let known = (data.len() >= KNOWN_CRC_MIN).then(|| KnownCrc { data: data.clone(), crc });
        let options = CallOptions {
            timeout: Some(deadline.saturating_duration_since(Instant::now())),
            // A request that may have arrived must not arrive twice without this side knowing.
            send_retries: Some(0),
            bulk_crc: known.into_iter().collect(),
            ..CallOptions::default()
        };
        let call = self.rpc.call::<methods::Update>(address, &req, &options);
        tokio::select! {
            reply = call => reply.map(|rsp| rsp.result),
            () = self.successor_changed(target) => {
                Err(Status::new(code::RPC_TIMEOUT, "the successor changed"))
            }
        }
    }

    /// Waits until the target has another successor than it had.
    async fn successor_changed(&self, before: &Local) {
        let successor = |target: &Local| -> Option<TargetId> {
            target.info.successor.as_ref().map(|successor| successor.target_info.target_id)
        };
        let mut changes = self.changes();
        loop {
            let now = self.map().by_id(before.info.target_id).ok().map(successor);
            if now != Some(successor(before)) {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The request in the form that the successor needs, and the checksum of its data.
    async fn outgoing(
        &self,
        incoming: &Incoming,
        update: &Update,
        open: &OpenTarget,
        target: &Local,
        attempt: u32,
    ) -> Result<(UpdateReq, u32), Status> {
        let io = &incoming.req.payload;
        let replaces = update.is_replacement();
        let form = form(
            target.successor_is_syncing(),
            io.update_type,
            io.offset,
            io.length,
            io.chunk_size,
            replaces,
        );
        let mut req = incoming.req.clone();
        let mut crc = incoming.crc;
        req.retry_count = attempt;
        req.payload.rdmabuf = RDMARemoteBuf::default();
        req.payload.key.v_chain_id.chain_ver = target.chain_ver();
        req.payload.update_ver = update.assigned();
        req.options = match form {
            Form::AsIs => UpdateOptions::default(),
            Form::Replacement | Form::WholeChunk => UpdateOptions {
                is_syncing: true,
                from_client: false,
                commit_chain_ver: update.replacement_chain_ver(target.chain_ver()),
            },
        };
        if form == Form::WholeChunk {
            let read = open.read(&io.key.chunk_id, 0, u32::MAX, true).await;
            let read = read.map_err(|failure| update_status(&failure))?;
            if read.version.ver != update.assigned().0 {
                let text =
                    format!("chunk is at version {}, update is {}", read.version.ver, update.assigned());
                return Err(Status::new(code::STORAGE_CHUNK_VERSION_MISMATCH, text));
            }
            crc = read.checksum;
            req.payload.update_type = UpdateType::Write;
            req.payload.offset = 0;
            req.payload.length = read.data.len() as u32;
            req.payload.checksum = crc32c(crc);
            req.payload.inlinebuf = UInt8Vector { data: read.data };
            req.feature_flags = FeatureFlags::SEND_DATA_INLINE;
        }
        Ok((req, crc))
    }
}
