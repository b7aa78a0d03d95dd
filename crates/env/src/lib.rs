//! The world a process sees: clock, randomness, network and disk.
//!
//! Servers and clients get an [`Env`] and reach the outside only through it, so that a simulator can put a whole
//! cluster into one thread and decide what happens. Monotonic time and sleeping are `tokio::time`, whose clock the
//! simulator pauses. This is the only crate that uses the standard library's wall clock, a random generator or
//! tokio's sockets.

pub mod buffer;
pub mod disk;
pub mod metrics;
pub mod mutation;
pub mod net;
mod real;
pub mod request_id;

use std::fmt;
use std::sync::Arc;
use std::{io, task};

pub use net::{Acceptor, Endpoint, Listener, Socket, Stream};

/// Wall clock time in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcMicros(pub i64);

/// What an implementation of the world provides. Users hold an [`Env`].
pub trait World: Send + Sync + 'static {
    /// Wall clock.
    fn utc_now(&self) -> UtcMicros;
    /// Fills `buf` with random bytes; in the real world of cryptographic quality.
    fn fill_random(&self, buf: &mut [u8]);
    /// Name of this machine.
    fn hostname(&self) -> String;
    /// Opens a connection.
    fn connect(&self, to: Endpoint) -> BoxFuture<io::Result<Stream>>;
    /// Listens. See [`Env::bind`].
    fn bind(&self, on: &Endpoint, reuse_port: bool) -> io::Result<Listener>;
    /// The machine's files.
    fn disk(&self) -> Arc<dyn disk::Disk>;
}

/// A boxed future that may move between threads.
pub type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

/// Handle to the world. Cheap to clone.
#[derive(Clone)]
pub struct Env(Arc<dyn World>);

impl Env {
    /// The operating system's clock, randomness, sockets and files.
    pub fn real() -> Self {
        Self::new(real::Real::new())
    }

    /// Any other world.
    pub fn new(world: impl World) -> Self {
        Self(Arc::new(world))
    }

    /// Wall clock time. Only for what leaves the process: intervals are measured with `tokio::time::Instant`.
    pub fn utc_now(&self) -> UtcMicros {
        self.0.utc_now()
    }

    /// A uniformly random number.
    pub fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill_random(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Fills `buf` with random bytes, of cryptographic quality in the real world.
    pub fn fill_random(&self, buf: &mut [u8]) {
        self.0.fill_random(buf);
    }

    /// A random (version 4) UUID.
    pub fn random_uuid(&self) -> [u8; 16] {
        let mut uuid = [0; 16];
        self.0.fill_random(&mut uuid);
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }

    /// Name of this machine.
    pub fn hostname(&self) -> String {
        self.0.hostname()
    }

    /// Opens a connection, without a deadline of its own.
    ///
    /// # Errors
    /// What the network says.
    pub async fn connect(&self, to: &Endpoint) -> io::Result<Stream> {
        self.0.connect(to.clone()).await
    }

    /// Listens. With `reuse_port` several listeners of a TCP address share its connections (one per shard). A UNIX
    /// socket is created with mode 0600; a file left by a process that is gone is replaced.
    ///
    /// # Errors
    /// What the network says, above all that the address is in use.
    pub fn bind(&self, on: &Endpoint, reuse_port: bool) -> io::Result<Listener> {
        self.0.bind(on, reuse_port)
    }

    /// The machine's files.
    pub fn disk(&self) -> Arc<dyn disk::Disk> {
        self.0.disk()
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

/// Waits for a poll function.
async fn poll<T>(mut f: impl FnMut(&mut task::Context<'_>) -> task::Poll<T>) -> T {
    std::future::poll_fn(move |cx| f(cx)).await
}
