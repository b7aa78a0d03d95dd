//! Services: which code answers which method.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use tokio::time::Instant;
use valor_env::metrics::{RPC_SERVER_ERRORS, RPC_SERVER_LATENCY, RPC_SERVER_PANICS, RPC_SERVER_REQUESTS};
use valor_env::{Endpoint, request_id};
use valor_protocol::Method;
use valor_protocol::status::code;
use valor_wire::{BodyCrc, KnownCrc, Status, Wire, from_bytes};

use crate::session::Responder;

/// What a handler knows about its request besides the request itself.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// The caller.
    pub peer: Arc<Endpoint>,
    /// Trace id; calls made while handling the request carry it too.
    pub request_id: u32,
    /// When the request was read.
    pub received: Instant,
    crc: BodyCrc,
}

impl CallContext {
    pub(crate) fn new(peer: Arc<Endpoint>, request_id: u32, received: Instant, crc: BodyCrc) -> Self {
        Self { peer, request_id, received, crc }
    }

    /// Storage checksum (`valor_wire::storage_crc32c`) of `bytes`. Nearly free for a large byte string of the request,
    /// which was read when the frame was verified.
    pub fn storage_crc32c(&self, bytes: &[u8]) -> u32 {
        self.crc.storage_crc32c(bytes)
    }
}

/// A response with storage checksums of large byte strings in it, so that sending does not read them again.
#[derive(Clone, Debug)]
pub struct WithCrc<T> {
    /// The response.
    pub value: T,
    /// What is known.
    pub known: Vec<KnownCrc>,
}

impl<T> From<T> for WithCrc<T> {
    fn from(value: T) -> Self {
        Self { value, known: Vec::new() }
    }
}

/// The methods of one service.
#[derive(Clone)]
pub struct Router {
    id: u16,
    name: &'static str,
    /// By method id.
    methods: Vec<Option<Arc<dyn Handler>>>,
}

impl Router {
    /// A service without methods.
    pub fn new(id: u16, name: &'static str) -> Self {
        Self { id, name, methods: Vec::new() }
    }

    /// Number of the service.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Name of the service.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Adds a method.
    ///
    /// # Panics
    /// If the method belongs to another service.
    #[must_use]
    pub fn method<M, F, Fut>(self, handler: F) -> Self
    where
        M: Method,
        F: Fn(CallContext, M::Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<M::Rsp, Status>> + Send + 'static,
    {
        self.method_with_crc::<M, _, _>(move |context, request| {
            let response = handler(context, request);
            async move { response.await.map(WithCrc::from) }
        })
    }

    /// Adds a method whose responses come with checksums.
    ///
    /// # Panics
    /// If the method belongs to another service.
    #[must_use]
    pub fn method_with_crc<M, F, Fut>(self, handler: F) -> Self
    where
        M: Method,
        F: Fn(CallContext, M::Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<WithCrc<M::Rsp>, Status>> + Send + 'static,
    {
        self.method_as::<M, M::Rsp, _, _>(handler)
    }

    /// Adds a method whose responses are of another type with the same encoding, such as one that was encoded before.
    ///
    /// # Panics
    /// If the method belongs to another service.
    #[must_use]
    pub fn method_as<M, R, F, Fut>(mut self, handler: F) -> Self
    where
        M: Method,
        R: Wire + Send + 'static,
        F: Fn(CallContext, M::Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<WithCrc<R>, Status>> + Send + 'static,
    {
        assert_eq!(M::SERVICE_ID, self.id, "{}.{} is not a method of {}", M::SERVICE, M::NAME, self.name);
        let index = usize::from(M::ID);
        if self.methods.len() <= index {
            self.methods.resize_with(index + 1, || None);
        }
        self.methods[index] = Some(Arc::new(TypedHandler::<M, R, F> {
            handler: Arc::new(handler),
            metrics: MethodMetrics::new::<M>(),
            types: std::marker::PhantomData,
        }));
        self
    }

    pub(crate) fn find(&self, method: u16) -> Option<&Arc<dyn Handler>> {
        self.methods.get(usize::from(method))?.as_ref()
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A method without its types.
pub(crate) trait Handler: Send + Sync {
    /// Handles a request in a task of its own and answers through `responder`.
    fn start(&self, context: CallContext, payload: Bytes, responder: Responder);
}

#[derive(Clone)]
struct MethodMetrics {
    requests: metrics::Counter,
    errors: metrics::Counter,
    latency: metrics::Histogram,
}

impl MethodMetrics {
    fn new<M: Method>() -> Self {
        let labels = [("service", M::SERVICE), ("method", M::NAME)];
        Self {
            requests: metrics::counter!(RPC_SERVER_REQUESTS, &labels),
            errors: metrics::counter!(RPC_SERVER_ERRORS, &labels),
            latency: metrics::histogram!(RPC_SERVER_LATENCY, &labels),
        }
    }
}

struct TypedHandler<M, R, F> {
    handler: Arc<F>,
    metrics: MethodMetrics,
    types: std::marker::PhantomData<fn(M) -> R>,
}

impl<M, R, F, Fut> Handler for TypedHandler<M, R, F>
where
    M: Method,
    R: Wire + Send + 'static,
    F: Fn(CallContext, M::Req) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<WithCrc<R>, Status>> + Send + 'static,
{
    fn start(&self, context: CallContext, payload: Bytes, responder: Responder) {
        let metrics = self.metrics.clone();
        metrics.requests.increment(1);
        let request = match from_bytes::<M::Req>(payload) {
            Ok(request) => request,
            Err(error) => {
                metrics.errors.increment(1);
                let text = format!("{}.{}: {error}", M::SERVICE, M::NAME);
                return responder.refuse(Status::new(code::RPC_VERIFY_REQUEST_FAILED, text));
            }
        };
        let handler = Arc::clone(&self.handler);
        tokio::spawn(async move {
            let responder = responder.started();
            let (id, received) = (context.request_id, context.received);
            let handled = request_id::scope(id, async move { handler(context, request).await });
            let response = caught(handled).await.unwrap_or_else(|panic| {
                tracing::error!(req = id, service = M::SERVICE, method = M::NAME, panic, "handler panicked");
                metrics::counter!(RPC_SERVER_PANICS).increment(1);
                Err(Status::new(code::FOUND_BUG, format!("{}.{} panicked: {panic}", M::SERVICE, M::NAME)))
            });
            match response {
                Ok(WithCrc { value, known }) => responder.respond::<R>(Ok(value), &known),
                Err(status) => {
                    metrics.errors.increment(1);
                    responder.respond::<R>(Err(status), &[]);
                }
            }
            metrics.latency.record(received.elapsed());
        });
    }
}

/// Awaits `future`; the text of its panic if it panics.
async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        // A future that has panicked is never polled again.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(panic) => Poll::Ready(Err(panic_text(panic))),
        }
    })
    .await
}

fn panic_text(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => {
            panic.downcast::<&str>().map_or_else(|_| "no text".to_owned(), |text| (*text).to_owned())
        }
    }
}
