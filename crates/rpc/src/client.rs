//! The calling side.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use valor_env::metrics::{RPC_CLIENT_ERRORS, RPC_CLIENT_LATENCY, RPC_CLIENT_REQUESTS};
use valor_env::{Endpoint, Env, request_id};
use valor_protocol::Method;
use valor_protocol::address::{Address, AddressType};
use valor_protocol::status::code;
use valor_wire::{
    BodyCrc, MAX_FRAME, PacketHead, Segments, Status, Timestamp, encode_message, flags, from_bytes,
};

use crate::config::{CallOptions, ClientConfig};
use crate::connection::Connection;
use crate::pool::Pool;
use crate::waiters::{Failure, Response};

/// Makes calls. One is enough for a process: connections belong to the thread that calls.
///
/// Errors are [`Status`]es, either the server's answer or one of these:
///
/// | code | meaning |
/// |---|---|
/// | `RPC_TIMEOUT` 2005 | no response before the deadline, or the connection was lost after the request was sent: it may have been executed |
/// | `RPC_SEND_FAILED` 2007 | not connected, or not sent completely, retries included: it was not executed |
/// | `RPC_INVALID_ADDR` 2006 | an address that cannot be dialled |
/// | 40..=45 | the response does not decode; the connection is closed |
///
/// Dropping a call's future forgets the call; its connection stays usable.
pub struct Client {
    env: Env,
    config: ClientConfig,
    key: u64,
    /// Lower half of request ids.
    counter: AtomicU32,
    /// Upper half of request ids that are not made on behalf of another request.
    trace: AtomicU32,
    pools: Mutex<Vec<Arc<Pool>>>,
    methods: Mutex<HashMap<(u16, u16), MethodMetrics>>,
}

/// The response to a call, with what is known about it.
#[derive(Debug)]
pub struct Reply<T> {
    /// The response.
    pub value: T,
    /// Gives the storage checksum of byte strings in the response almost for free.
    pub crc: BodyCrc,
    /// The call's way, if it was asked for and the server supports it.
    pub timestamp: Option<Timestamp>,
}

#[derive(Clone)]
struct MethodMetrics {
    requests: metrics::Counter,
    errors: metrics::Counter,
    latency: metrics::Histogram,
}

thread_local! {
    /// This thread's pools by the key of their client.
    static POOLS: RefCell<HashMap<u64, Weak<Pool>>> = RefCell::default();
}

impl Client {
    /// A client without connections.
    pub fn new(env: Env, config: ClientConfig) -> Arc<Self> {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            counter: AtomicU32::new(env.random_u64() as u32),
            trace: AtomicU32::new(env.random_u64() as u32),
            key: KEYS.fetch_add(1, Relaxed),
            env,
            config,
            pools: Mutex::default(),
            methods: Mutex::default(),
        })
    }

    /// Calls a method of the server at `to`. RDMA addresses are dialled over TCP, which their port serves too.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn call<M: Method>(
        &self,
        to: Address,
        req: &M::Req,
        options: &CallOptions,
    ) -> Result<M::Rsp, Status> {
        self.call_endpoint::<M>(&endpoint_of(to)?, req, options).await
    }

    /// Calls a method of the server that listens on `to`.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn call_endpoint<M: Method>(
        &self,
        to: &Endpoint,
        req: &M::Req,
        options: &CallOptions,
    ) -> Result<M::Rsp, Status> {
        self.call_detailed::<M>(to, req, options).await.map(|reply| reply.value)
    }

    /// Like [`call_endpoint`](Self::call_endpoint), and says more about the response.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn call_detailed<M: Method>(
        &self,
        to: &Endpoint,
        req: &M::Req,
        options: &CallOptions,
    ) -> Result<Reply<M::Rsp>, Status> {
        let id = self.next_id();
        let called = if options.timestamps { self.env.utc_now().0 } else { 0 };
        let encode = || self.encode::<M>(id, req, options, called);
        let metrics = self.method_metrics::<M>();
        let started = Instant::now();
        let deadline = started + options.timeout.unwrap_or(self.config.default_timeout);
        let retries = options.send_retries.unwrap_or(self.config.default_send_retries);
        let pool = self.pool();
        let exchange = self.exchange(&pool, to, id, &encode, retries);
        let exchanged = match pool.deadlines.within(deadline, exchange).await {
            Some(result) => result,
            None => Err(Status::new(code::RPC_TIMEOUT, format!("{}.{} at {to}", M::SERVICE, M::NAME))),
        };
        metrics.requests.increment(1);
        metrics.latency.record(started.elapsed());
        let (connection, response) = exchanged.inspect_err(|_| metrics.errors.increment(1))?;
        let result = from_bytes::<Result<M::Rsp, Status>>(response.payload).map_err(|error| {
            connection.close("undecodable response");
            metrics.errors.increment(1);
            Status::from(error)
        })?;
        let timestamp = response.timestamp.filter(|_| options.timestamps).map(|timestamp| Timestamp {
            client_called: called,
            client_waked: self.env.utc_now().0,
            ..timestamp
        });
        Ok(Reply { value: result?, crc: response.crc, timestamp })
    }

    /// Encodes a request, called at the time `called`, as a frame.
    fn encode<M: Method>(
        &self,
        id: u64,
        req: &M::Req,
        options: &CallOptions,
        called: i64,
    ) -> Result<Segments, Status> {
        let compression = options.compression.or(self.config.default_compression).filter(|c| c.level != 0);
        let timestamp = options.timestamps.then(|| Timestamp {
            client_called: called,
            client_serialized: self.env.utc_now().0,
            ..Timestamp::default()
        });
        let head = PacketHead {
            uuid: id,
            service_id: M::SERVICE_ID,
            method_id: M::ID,
            flags: flags::IS_REQ | if compression.is_some() { flags::USE_COMPRESS } else { 0 },
            timestamp,
            ..PacketHead::default()
        };
        let request = encode_message(&head, req, &options.bulk_crc, compression);
        if request.len() >= MAX_FRAME {
            return Err(Status::new(code::RPC_SEND_FAILED, format!("request of {} bytes", request.len())));
        }
        Ok(request)
    }

    /// Sends a request until it is sent, and waits for its response. Encoding it again for another attempt, which is
    /// rare, saves sharing it in all others.
    async fn exchange(
        &self,
        pool: &Pool,
        to: &Endpoint,
        id: u64,
        encode: &(dyn Fn() -> Result<Segments, Status> + Sync),
        mut retries: u32,
    ) -> Result<(Arc<Connection>, Response), Status> {
        loop {
            let (failure, reused) = match pool.get(&self.env, &self.config, to).await {
                Ok((connection, reused)) => {
                    match connection.call(id, encode()?, self.config.max_unsent_bytes).await {
                        Ok(response) => return Ok((connection, response)),
                        Err(failure) => (failure, reused),
                    }
                }
                Err(reason) => (Failure::Unsent(reason), false),
            };
            match failure {
                Failure::Lost(reason) => return Err(Status::new(code::RPC_TIMEOUT, reason)),
                Failure::Unsent(reason) if retries == 0 => {
                    return Err(Status::new(code::RPC_SEND_FAILED, reason));
                }
                Failure::Unsent(_) => retries -= 1,
            }
            // A connection which the server has closed in the meantime says nothing about the server.
            if !reused {
                sleep(self.config.wait_to_retry_send).await;
            }
        }
    }

    fn next_id(&self) -> u64 {
        // Odd steps through all 2^32 values: unrelated to look at, and needs no generator.
        let trace = request_id::current().unwrap_or_else(|| self.trace.fetch_add(0x9e37_79b9, Relaxed));
        u64::from(trace) << 32 | u64::from(self.counter.fetch_add(1, Relaxed))
    }

    /// This thread's connections.
    fn pool(&self) -> Arc<Pool> {
        POOLS.with_borrow_mut(|pools| {
            if let Some(pool) = pools.get(&self.key).and_then(Weak::upgrade) {
                return pool;
            }
            pools.retain(|_, pool| pool.strong_count() > 0);
            let pool = Arc::new(Pool::default());
            pools.insert(self.key, Arc::downgrade(&pool));
            self.pools.lock().push(Arc::clone(&pool));
            pool
        })
    }

    fn method_metrics<M: Method>(&self) -> MethodMetrics {
        let mut methods = self.methods.lock();
        let metrics = methods.entry((M::SERVICE_ID, M::ID)).or_insert_with(|| {
            let labels = [("service", M::SERVICE), ("method", M::NAME)];
            MethodMetrics {
                requests: metrics::counter!(RPC_CLIENT_REQUESTS, &labels),
                errors: metrics::counter!(RPC_CLIENT_ERRORS, &labels),
                latency: metrics::histogram!(RPC_CLIENT_LATENCY, &labels),
            }
        });
        metrics.clone()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        for pool in self.pools.get_mut() {
            pool.close();
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("config", &self.config).finish_non_exhaustive()
    }
}

/// How a node's published address is dialled.
fn endpoint_of(address: Address) -> Result<Endpoint, Status> {
    match address.kind {
        AddressType::Tcp | AddressType::Ipoib | AddressType::Local | AddressType::Rdma => {
            Ok(Endpoint::Tcp(address.socket_addr().into()))
        }
        AddressType::Unix => match address.unix_file_name() {
            Some(name) => Ok(Endpoint::Unix(temporary_directory().join(name))),
            None => Err(Status::new(code::RPC_INVALID_ADDR, address.to_string())),
        },
        AddressType::Other(_) => Err(Status::new(code::RPC_INVALID_ADDR, address.to_string())),
    }
}

/// Where C++ 3FS puts its sockets.
fn temporary_directory() -> &'static Path {
    static DIRECTORY: std::sync::LazyLock<std::path::PathBuf> = std::sync::LazyLock::new(std::env::temp_dir);
    &DIRECTORY
}
