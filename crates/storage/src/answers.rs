//! Who was answered, passed on to a successor that is filled: chunks alone do not tell. An update whose answer was lost may
//! be repeated towards the successor, when it serves and those that remember are gone.
//!
//! C++ 3FS has no such message: as the successor it refuses it and is filled without; as the predecessor it sends none.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use valor_protocol::mgmtd::PublicTargetState;
use valor_protocol::status::code;
use valor_protocol::storage::{UpdateChannel, VersionedChainId};
use valor_protocol::valor::storage::{
    AnsweredUpdate, RememberUpdates, RememberUpdatesReq, RememberUpdatesRsp,
};
use valor_protocol::{Address, Status};
use valor_rpc::CallOptions;

use crate::dedup::{Answered, Key};
use crate::storage::Storage;

/// Updates in one message.
const BATCH: usize = 4096;
/// Pause between two looks whether earlier updates have ended.
const LOOK: Duration = Duration::from_millis(10);

impl Storage {
    /// Tells a successor that is being filled which updates were answered. Those that came under this version of the chain
    /// it gets itself, under their own tags; those of earlier versions are waited for.
    pub(crate) async fn pass_answers(
        self: &Arc<Self>,
        chain: VersionedChainId,
        address: Address,
        options: &CallOptions,
    ) -> Result<(), Status> {
        let deadline = Instant::now() + options.timeout.unwrap_or_default();
        while self.recent.runs_before(chain.chain_id, chain.chain_ver) {
            self.lookup(chain, false)?;
            if Instant::now() >= deadline {
                return Err(Status::new(code::RPC_TIMEOUT, "updates of earlier chain versions do not end"));
            }
            sleep(LOOK).await;
        }
        let answered = self.recent.answered(chain.chain_id, self.uptime());
        let updates: Vec<_> = answered.into_iter().map(described).collect();
        for updates in updates.chunks(BATCH) {
            let req = RememberUpdatesReq { v_chain_id: chain, updates: updates.to_vec() };
            match self.rpc.call::<RememberUpdates>(address, &req, options).await {
                Ok(rsp) if rsp.left_out == 0 => {}
                Ok(rsp) => {
                    let left_out = rsp.left_out;
                    tracing::warn!(chain = %chain.chain_id, left_out, "successor has no place for all answers, or some have no name");
                }
                Err(status) if is_unknown(status.code) => {
                    tracing::info!(chain = %chain.chain_id, "successor cannot be told who was answered");
                    return Ok(());
                }
                Err(status) => return Err(status),
            }
        }
        Ok(())
    }

    /// The predecessor's side is [`Storage::pass_answers`].
    pub(crate) fn remember_updates(&self, req: RememberUpdatesReq) -> Result<RememberUpdatesRsp, Status> {
        let target = self.lookup(req.v_chain_id, false)?;
        if target.info.public_state != PublicTargetState::Syncing {
            let text = format!("target {} is {:?}", target.info.target_id, target.info.public_state);
            return Err(Status::new(code::STORAGE_SYNC_START_FAILED, text));
        }
        if req.updates.len() > BATCH {
            return Err(Status::new(code::INVALID_ARG, format!("{} updates at once", req.updates.len())));
        }
        let now = self.uptime();
        let learned = req.updates.into_iter().map(|update| {
            let key =
                Key { client: update.client, chain: req.v_chain_id.chain_id, channel: update.channel.id };
            let answered = Answered {
                key,
                seqnum: update.channel.seqnum,
                request_id: update.request_id,
                age: Duration::from_millis(update.age_ms),
                result: update.result,
            };
            answered.result.length_info.is_err() || self.recent.learn(answered, now)
        });
        let left_out = learned.filter(|learned| !learned).count();
        Ok(RememberUpdatesRsp { left_out: left_out.try_into().unwrap_or(u32::MAX) })
    }
}

fn described(answered: Answered) -> AnsweredUpdate {
    AnsweredUpdate {
        client: answered.key.client,
        channel: UpdateChannel { id: answered.key.channel, seqnum: answered.seqnum },
        request_id: answered.request_id,
        age_ms: answered.age.as_millis().try_into().unwrap_or(u64::MAX),
        result: answered.result,
    }
}

/// What peers answer that do not have the method.
fn is_unknown(status: u16) -> bool {
    matches!(status, code::RPC_INVALID_SERVICE_ID | code::RPC_INVALID_METHOD_ID)
}
