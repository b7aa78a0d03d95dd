//! The half that calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use valor_env::{Endpoint, Env};
use valor_protocol::Method;
use valor_protocol::status::code as status;
use valor_rpc::{CallOptions, Client};
use valor_wire::Status;

use super::VIEW_AGE_MAX;
use super::protocol::{
    Begin, BeginReq, Commit, CommitReq, End, EndReq, Fence, FenceReq, Get, GetReq, Scan, ScanReq,
};
use crate::KvError;
use crate::batch::{CommitInfo, CommitRequest, Version};
use crate::engine::Scan as ScanResult;
use crate::error::code;
use crate::key::{KeyRange, KeyValue};

/// Time for one call.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two attempts to ask after a commit that has no answer.
const FENCE_PAUSE: Duration = Duration::from_millis(50);

/// A database served by another process.
pub(crate) struct RemoteStore {
    env: Env,
    rpc: Arc<Client>,
    endpoint: Endpoint,
    /// Name of this store towards the server, for a fair share of what that holds.
    name: u64,
}

/// A view held by the other process.
pub(crate) struct RemoteView {
    store: Arc<RemoteStore>,
    id: u64,
    version: Version,
    /// From then on the server refuses commits of it.
    ends: Instant,
    /// The other process was told.
    ended: AtomicBool,
}

impl RemoteStore {
    pub(crate) fn new(env: Env, rpc: Arc<Client>, endpoint: Endpoint) -> Self {
        let name = env.random_u64();
        RemoteStore { env, rpc, endpoint, name }
    }

    async fn call<M: Method>(&self, req: &M::Req) -> Result<M::Rsp, Status> {
        self.rpc.call_endpoint::<M>(&self.endpoint, req, &CallOptions::timeout(TIMEOUT)).await
    }

    /// A call that changes nothing: whatever happened to it, it may be made again.
    async fn read<M: Method>(&self, req: &M::Req) -> Result<M::Rsp, KvError> {
        self.call::<M>(req).await.map_err(|error| error_of(error, KvError::Retryable))
    }

    pub(crate) async fn view(self: &Arc<Self>) -> Result<RemoteView, KvError> {
        let info = self.read::<Begin>(&BeginReq { client: self.name }).await?;
        Ok(RemoteView {
            store: self.clone(),
            id: info.view,
            version: info.version,
            ends: Instant::now() + VIEW_AGE_MAX,
            ended: AtomicBool::new(false),
        })
    }

    pub(crate) async fn get(&self, view: &RemoteView, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let req = GetReq { view: view.id, key: Bytes::copy_from_slice(key) };
        Ok(self.read::<Get>(&req).await?.value)
    }

    pub(crate) async fn scan(
        &self,
        view: &RemoteView,
        range: &KeyRange,
        reverse: bool,
        limit: usize,
    ) -> Result<ScanResult, KvError> {
        let (begin, end) = (range.begin.clone(), range.end.clone());
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let rsp = self.read::<Scan>(&ScanReq { view: view.id, begin, end, reverse, limit }).await?;
        Ok(ScanResult { entries: rsp.entries.into_iter().map(KeyValue::from).collect(), more: rsp.more })
    }

    /// Commits. [`KvError::MaybeCommitted`] is an answer about the past, as FoundationDB's is: the commit does not arrive
    /// later and undo what came after it. That is known from a fence, or from the age of the transaction, which the
    /// server refuses then; so it takes no longer than a transaction may, and than a call. Nor does what begins later fail
    /// to see it: a fence is ordered behind it, and of those that are over by age the server waits for the accepted ones.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        view: Option<&RemoteView>,
        mut request: CommitRequest,
    ) -> Result<CommitInfo, KvError> {
        // Only what has a view can be kept out.
        let view = match view {
            Some(view) => view,
            None => &self.view().await?,
        };
        request.read_version = Some(view.version);
        let fence = self.env.random_u64().max(1);
        let req = CommitReq::new(request, view.id, fence);
        match self.call::<Commit>(&req).await {
            Ok(rsp) => {
                view.ended.store(true, Ordering::Relaxed);
                Ok(rsp.info())
            }
            Err(error) => {
                let error = error_of(error, |_| KvError::MaybeCommitted);
                if error == KvError::MaybeCommitted {
                    self.fence(fence, view.ends).await;
                }
                Err(error)
            }
        }
    }

    /// Waits until a commit has arrived or cannot any more.
    async fn fence(&self, fence: u64, ends: Instant) {
        loop {
            let left = ends.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let options = CallOptions::timeout(left);
            let req = FenceReq { fence };
            if self.rpc.call_endpoint::<Fence>(&self.endpoint, &req, &options).await.is_ok() {
                return;
            }
            sleep(FENCE_PAUSE.min(left)).await;
        }
    }
}

impl RemoteView {
    pub(crate) fn version(&self) -> Version {
        self.version
    }
}

impl Drop for RemoteView {
    fn drop(&mut self) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        // A courtesy: without it the server gives the view up by itself.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (store, view) = (self.store.clone(), self.id);
        runtime.spawn(async move {
            let _ = store.call::<End>(&EndReq { view }).await;
        });
    }
}

/// The failure of a call. `lost` makes the error for a request that may have been executed.
fn error_of(error: Status, lost: impl FnOnce(String) -> KvError) -> KvError {
    let message = error.message;
    match error.code {
        code::CONFLICT => KvError::Conflict,
        code::TOO_OLD => KvError::TooOld,
        code::MAYBE_COMMITTED => KvError::MaybeCommitted,
        code if code::is_retryable(code) => KvError::Retryable(message),
        status::RPC_SEND_FAILED | status::RPC_REQUEST_REFUSED => KvError::Retryable(message),
        status::RPC_TIMEOUT => lost(message),
        // An answer that cannot be read follows an execution.
        40..=45 | status::FOUND_BUG => lost(message),
        _ => KvError::engine(format!("remote database: {message}")),
    }
}
