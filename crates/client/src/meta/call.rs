//! One metadata call: server, deadline, repetition, failover (`src/client/meta/MetaClient.cc`, `retry`).

use super::MetaClient;
use super::config::MetaRetryConfig;
use super::errors::{
    is_answer, is_retryable, is_server_failure, is_unclear, is_unknown_extension, passes_quickly,
};
use super::messages::{MetaRequest, MetaResponse};
use super::servers::MetaServer;
use crate::backoff::{Backoff, FastPause};
use crate::routing::Routing;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use valor_env::metrics;
use valor_protocol::meta::{Chains, Inode, Validate};
use valor_protocol::status::{code, with_message};
use valor_protocol::{ChainTableVersion, Method, Status, Uuid};
use valor_rpc::CallOptions;

/// Shortest time that a refresh of routing information is waited for.
const REFRESH_TIME: Duration = Duration::from_millis(100);

/// Pauses of one call.
struct Pauses {
    slow: Backoff,
    fast: FastPause,
}

/// Longest wait for routing information that names what a reply names.
const MAX_ROUTING_WAIT: Duration = Duration::from_secs(30);

impl Pauses {
    fn new(config: &MetaRetryConfig) -> Pauses {
        let fast_max = config.retry_fast.get().min(config.retry_init_wait.get());
        Pauses {
            slow: Backoff::new(
                config.retry_init_wait.get(),
                config.retry_max_wait.get(),
                config.retry_total_time.get(),
            ),
            fast: FastPause::new(config.retry_fast_init_wait.get(), fast_max),
        }
    }

    /// The pause after a failure; none if time is over.
    fn after(&mut self, quick: bool) -> Option<Duration> {
        let slow = self.slow.current()?;
        if quick {
            return Some(self.fast.take());
        }
        self.slow.advance();
        Some(slow)
    }
}

/// The server of a call as long as it does not fail too often.
struct Current {
    server: MetaServer,
    failures: u32,
}

impl MetaClient {
    /// Makes a call, repeating it on other servers and later as far as its errors allow. The request's client identity
    /// is filled in.
    ///
    /// # Errors
    /// 3 and 3013 if the request is not valid, else the last attempt's.
    pub async fn call<M>(&self, req: M::Req) -> Result<M::Rsp, Status>
    where
        M: Method,
        M::Req: MetaRequest + Validate,
        M::Rsp: MetaResponse,
    {
        self.call_noting::<M>(req, |_| {}).await
    }

    /// Like [`MetaClient::call`], and tells `note` of every failed attempt.
    pub(super) async fn call_noting<M>(
        &self,
        mut req: M::Req,
        mut note: impl FnMut(&Status) + Send,
    ) -> Result<M::Rsp, Status>
    where
        M: Method,
        M::Req: MetaRequest + Validate,
        M::Rsp: MetaResponse,
    {
        req.base_mut().client = self.client_id.clone();
        req.valid()?;
        let config = self.config.load_full();
        let mut pauses = Pauses::new(&config.retry_default);
        let mut current: Option<Current> = None;
        // Calls that change something carry a name, under which servers remember the answer for some time.
        let named = !req.base_mut().uuid.is_zero();
        let mut unclear: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            let (error, quick) = match self.attempt::<M>(&req, &config.retry_default, &mut current).await {
                Ok(Ok(rsp)) => {
                    let patience = (config.retry_default.retry_total_time.get() / 2).min(MAX_ROUTING_WAIT);
                    self.await_routing(&rsp, patience).await?;
                    return Ok(rsp);
                }
                Ok(Err(answer)) if is_answer(answer.code) || is_unknown_extension::<M>(answer.code) => {
                    return Err(answer);
                }
                Ok(Err(error)) => {
                    note(&error);
                    let quick = passes_quickly(error.code);
                    (error, quick)
                }
                Err(no_server) => (no_server, true),
            };
            if named && is_unclear(error.code) {
                unclear.get_or_insert(begun);
            }
            let limit = config.retry_default.retry_unclear_time.get();
            let mut remembered = unclear.is_none_or(|since| since.elapsed() < limit);
            if !remembered && M::Req::IDEMPOTENT {
                req.base_mut().uuid = Uuid(self.env.random_uuid());
                (unclear, remembered) = (None, true);
            }
            let pause = if is_retryable(error.code) && remembered { pauses.after(quick) } else { None };
            let Some(pause) = pause else {
                ::metrics::counter!(metrics::CLIENT_META_FAILURES).increment(1);
                tracing::debug!(method = M::NAME, %error, "metadata call given up");
                return Err(error);
            };
            ::metrics::counter!(metrics::CLIENT_META_RETRIES).increment(1);
            sleep(pause).await;
            if current.is_none() {
                // Success or not, the next server is chosen from what is known then.
                let _ = timeout(pause.max(REFRESH_TIME), self.mgmtd.refresh_now()).await;
            }
        }
    }

    /// Asks one server. Errs if there is none.
    async fn attempt<M: Method>(
        &self,
        req: &M::Req,
        config: &MetaRetryConfig,
        current: &mut Option<Current>,
    ) -> Result<Result<M::Rsp, Status>, Status> {
        let mode = self.config.load().selection_mode;
        let mut asked = match current.take() {
            Some(current) => current,
            None => Current { server: self.servers.choose(&self.mgmtd.routing(), mode)?, failures: 0 },
        };
        let result = {
            // The semaphore is never closed.
            let _permit = self.requests.acquire().await.ok();
            self.call_server::<M>(asked.server, req, config).await
        };
        match &result {
            Err(error) if is_unknown_extension::<M>(error.code) => {
                self.servers.mark_working(asked.server.node)
            }
            Err(error) if is_server_failure(error.code) => {
                asked.failures += 1;
                if asked.failures >= config.max_failures_before_failover {
                    tracing::info!(method = M::NAME, node = %asked.server.node, %error, "metadata server avoided");
                    self.servers.mark_failed(asked.server.node);
                } else {
                    *current = Some(asked);
                }
            }
            Err(error) if !is_answer(error.code) => *current = Some(asked),
            _ => self.servers.mark_working(asked.server.node),
        }
        Ok(result)
    }

    pub(super) async fn call_server<M: Method>(
        &self,
        server: MetaServer,
        req: &M::Req,
        config: &MetaRetryConfig,
    ) -> Result<M::Rsp, Status> {
        let options = CallOptions {
            timeout: Some(config.rpc_timeout.get()),
            send_retries: Some(config.retry_send),
            ..CallOptions::default()
        };
        self.rpc.call::<M>(server.address, req, &options).await
    }

    /// Asks any server once, without repetition.
    pub(super) async fn call_once<M: Method>(&self, req: &M::Req) -> Result<M::Rsp, Status> {
        let config = self.config.load_full();
        let server = self.servers.choose(&self.mgmtd.routing(), config.selection_mode)?;
        let result = self.call_server::<M>(server, req, &config.retry_default).await;
        match &result {
            Err(error) if is_server_failure(error.code) => self.servers.mark_failed(server.node),
            _ => self.servers.mark_working(server.node),
        }
        result
    }

    /// Waits until the routing information knows the chain tables of the files in a response: servers may have newer
    /// information.
    async fn await_routing(&self, rsp: &impl MetaResponse, limit: Duration) -> Result<(), Status> {
        let mut known = true;
        let routing = self.mgmtd.routing();
        rsp.for_each_inode(&mut |inode| known &= knows_tables(&routing, inode));
        if known {
            return Ok(());
        }
        let wait = async {
            let mut pause = FastPause::new(Duration::from_millis(10), Duration::from_secs(1));
            loop {
                let routing = match self.mgmtd.refresh_now().await {
                    Ok(routing) => routing,
                    Err(_) => self.mgmtd.routing(),
                };
                let mut known = true;
                rsp.for_each_inode(&mut |inode| known &= knows_tables(&routing, inode));
                if known {
                    return;
                }
                sleep(pause.take()).await;
            }
        };
        timeout(limit, wait).await.map_err(|_| {
            let message = "a file's chain table does not appear in the routing information";
            with_message(code::MGMTD_CLIENT_ROUTING_INFO_NOT_READY, message)
        })
    }
}

/// True if the chain table of a file's layout is known.
fn knows_tables(routing: &Routing, inode: &Inode) -> bool {
    let Some(file) = inode.data.as_file() else { return true };
    let layout = &file.layout;
    let named = match layout.chains {
        Chains::Empty(_) => false,
        Chains::ChainRange(_) => true,
        Chains::ChainList(_) => layout.table_id.0 != 0 && layout.table_version != ChainTableVersion(0),
    };
    !named || routing.info().chain_table(layout.table_id, layout.table_version).is_some()
}
