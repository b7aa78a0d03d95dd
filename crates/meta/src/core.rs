//! What all operations share, and how one is executed: tries of a transaction until one commits
//! (`src/meta/store/Operation.h`).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::time::Instant;
use valor_config::Live;
use valor_env::Env;
use valor_env::mutation::{Mutation, broken};
use valor_kv::Database;
use valor_protocol::NodeId;
use valor_protocol::meta::ReqBase;
use valor_protocol::status::code;
use valor_wire::{Status, UtcTime, Uuid, Wire};

use crate::acl_cache::AclCache;
use crate::cluster::{ChunkAccess, Cluster};
use crate::config::Config;
use crate::distributor::Distributor;
use crate::error::{Error, Result, is_remembered, status};
use crate::gc::GcQueues;
use crate::idempotent;
use crate::inode_id::InodeIds;
use crate::layout::ChainAllocator;
use crate::ops::request_ids;
use crate::statfs::StatFs;
use crate::store::Tx;

/// State of the server, shared by its shards.
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) config: Arc<Live<Config>>,
    pub(crate) db: Database,
    pub(crate) node: NodeId,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) chunks: Arc<dyn ChunkAccess>,
    pub(crate) acl_cache: AclCache,
    pub(crate) chains: ChainAllocator,
    pub(crate) inode_ids: InodeIds,
    pub(crate) gc: GcQueues,
    pub(crate) distributor: Distributor,
    pub(crate) statfs: StatFs,
}

/// What one operation sees of the server.
pub(crate) struct Cx<'a> {
    pub(crate) core: &'a Core,
    /// Configuration when the operation started.
    pub(crate) config: Arc<Config>,
    /// When that was.
    started: UtcTime,
}

impl Cx<'_> {
    /// The time of the operation to the microsecond. It stands still, so that everything it changes has one time.
    pub(crate) fn precise_now(&self) -> UtcTime {
        self.started
    }

    /// Client and request ids under which a request is remembered that has an effect, if there are several servers: a
    /// copy that comes late at one of them must not take effect after what was done at another since. On one server
    /// copies come one after the other as a rule: one that is still being tried when the next has been answered, which takes
    /// seconds of conflicts, is not told apart.
    pub(crate) fn shared_ids(&self, base: &ReqBase) -> Option<(Uuid, Uuid)> {
        let shared = self.core.distributor.is_shared() && !broken(Mutation::ApplyLateCopies);
        if shared { request_ids(base) } else { None }
    }

    /// The time of the operation as inodes keep it.
    pub(crate) fn now(&self) -> UtcTime {
        self.rounded(self.precise_now())
    }

    /// A time rounded down to the configured granularity.
    pub(crate) fn rounded(&self, time: UtcTime) -> UtcTime {
        let step = i64::try_from(self.config.time_granularity.get().as_micros()).unwrap_or(1).max(1);
        UtcTime(time.0 - time.0.rem_euclid(step))
    }
}

/// A unit of work that is tried until its transaction commits.
pub(crate) trait Operation: Send {
    /// What the client gets.
    type Rsp: Wire + Send;

    /// True if nothing is written.
    fn read_only(&self) -> bool {
        false
    }

    /// Client and request ids under which the result is remembered.
    fn idempotency(&self, _cx: &Cx<'_>) -> Option<(Uuid, Uuid)> {
        None
    }

    /// Whether the refusal of the last try is what the client gets; it is remembered then.
    fn refusal_is_answer(&self) -> bool {
        true
    }

    /// One try.
    fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> impl Future<Output = Result<Self::Rsp>> + Send;

    /// Called once after success.
    fn committed(&mut self, _cx: &Cx<'_>, _rsp: &Self::Rsp) {}
}

/// Pauses between tries: doubling, with a random part.
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
    left: u32,
}

impl Backoff {
    pub(crate) fn new(config: &Config) -> Self {
        let retry = &config.retry_transaction;
        Self { next: Duration::from_micros(200), max: retry.max_backoff.get(), left: retry.max_retry_count }
    }

    /// Waits before another try; false if there shall be none.
    pub(crate) async fn pause(&mut self, env: &Env) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let step = self.next.min(self.max);
        self.next = step * 2;
        let micros = u64::try_from(step.as_micros()).unwrap_or(u64::MAX).max(1);
        tokio::time::sleep(Duration::from_micros(micros / 2 + env.random_u64() % micros)).await;
        true
    }
}

impl Core {
    /// The view of one operation.
    pub(crate) fn cx(&self) -> Cx<'_> {
        Cx { core: self, config: self.config.get(), started: UtcTime(self.env.utc_now().0) }
    }

    /// Executes an operation for a client.
    ///
    /// # Errors
    /// The operation's own, 34 in read-only mode, 1xxx when tries are used up, 3203 when the time is.
    pub(crate) async fn execute<O: Operation>(
        &self,
        mut operation: O,
    ) -> std::result::Result<O::Rsp, Status> {
        self.drive(&mut operation).await
    }

    pub(crate) async fn drive<O: Operation>(&self, operation: &mut O) -> std::result::Result<O::Rsp, Status> {
        let cx = self.cx();
        if cx.config.readonly && !operation.read_only() {
            return Err(status(code::READ_ONLY_MODE, "the file system is read-only"));
        }
        let limit = cx.config.operation_timeout.get();
        let deadline = (!limit.is_zero()).then(|| Instant::now() + limit);
        let mut backoff = Backoff::new(&cx.config);
        loop {
            match attempt(&cx, operation).await {
                Ok(rsp) => {
                    operation.committed(&cx, &rsp);
                    return Ok(rsp);
                }
                Err(error) if error.is_transient() => {
                    counter!(valor_env::metrics::META_TXN_RETRIES).increment(1);
                    tracing::debug!(%error, "transaction is tried again");
                    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        return Err(status(code::META_OPERATION_TIMEOUT, error.to_string()));
                    }
                    if !backoff.pause(&self.env).await {
                        return Err(error.into_status());
                    }
                }
                Err(error) => return Err(error.into_status()),
            }
        }
    }

    /// Runs background work in a transaction until it commits.
    ///
    /// # Errors
    /// The work's own, or the transaction's when tries are used up.
    pub(crate) async fn transact<W: Work>(&self, mut work: W) -> Result<W::Output> {
        let cx = self.cx();
        let mut backoff = Backoff::new(&cx.config);
        loop {
            let mut tx = Tx::begin(&self.db);
            let result = match work.run(&cx, &mut tx).await {
                Ok(output) => tx.commit().await.map(|()| output),
                Err(error) => Err(error),
            };
            match result {
                Err(error) if error.is_transient() => {
                    if !backoff.pause(&self.env).await {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }
}

/// Background work within a transaction. A transaction that wrote nothing commits without effort.
pub(crate) trait Work: Send {
    /// What it gives.
    type Output: Send;
    /// One try.
    fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> impl Future<Output = Result<Self::Output>> + Send;
}

async fn attempt<O: Operation>(cx: &Cx<'_>, operation: &mut O) -> Result<O::Rsp> {
    let mut tx = Tx::begin(&cx.core.db);
    if operation.read_only() {
        return operation.run(cx, &mut tx).await;
    }
    let remembered = operation.idempotency(cx).filter(|_| !broken(Mutation::ForgetRemovals));
    let Some((client, request)) = remembered else {
        let rsp = operation.run(cx, &mut tx).await?;
        tx.commit().await?;
        return Ok(rsp);
    };
    if let Some(result) = idempotent::load::<O::Rsp>(&mut tx, client, request).await? {
        return result.map_err(Error::Status);
    }
    match operation.run(cx, &mut tx).await {
        Ok(rsp) => {
            let result = Ok(rsp);
            idempotent::store(cx, &mut tx, client, request, &result);
            tx.commit().await?;
            result.map_err(Error::Status)
        }
        // A final refusal is remembered too, without what the operation did until then.
        Err(Error::Status(refusal)) if is_remembered(&refusal) && operation.refusal_is_answer() => {
            let mut tx = Tx::begin(&cx.core.db);
            if let Some(result) = idempotent::load::<O::Rsp>(&mut tx, client, request).await? {
                return result.map_err(Error::Status);
            }
            let result: std::result::Result<O::Rsp, Status> = Err(refusal);
            idempotent::store(cx, &mut tx, client, request, &result);
            tx.commit().await?;
            result.map_err(Error::Status)
        }
        Err(error) => Err(error),
    }
}
