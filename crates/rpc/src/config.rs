//! Settings of clients, servers and single calls.

use std::time::Duration;

use valor_wire::{Compression, KnownCrc};

/// Settings of a [`Client`](crate::Client). Defaults are 3FS's where it has the setting.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientConfig {
    /// Deadline of a call that names none.
    pub default_timeout: Duration,
    /// How often a request that was not sent completely is sent again.
    pub default_send_retries: u32,
    /// Pause before it is.
    pub wait_to_retry_send: Duration,
    /// Limit for opening a connection.
    pub connect_timeout: Duration,
    /// Connections per thread and address.
    pub max_connections: usize,
    /// Bytes waiting to be sent on a connection beyond which further calls wait.
    pub max_unsent_bytes: usize,
    /// Compression of requests of calls that name none; `None` is off.
    pub default_compression: Option<Compression>,
    /// A connection unused for this long is not used again.
    pub idle_expiration: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            default_timeout: Duration::from_secs(1),
            default_send_retries: 1,
            wait_to_retry_send: Duration::from_millis(100),
            connect_timeout: Duration::from_secs(1),
            max_connections: 1,
            max_unsent_bytes: 64 << 20,
            default_compression: None,
            idle_expiration: Duration::from_secs(86_400),
        }
    }
}

/// Settings of one call. `CallOptions::default()` takes everything from the client.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// Deadline for everything: connecting, sending, waiting.
    pub timeout: Option<Duration>,
    /// How often the request is sent again if it was not sent completely.
    pub send_retries: Option<u32>,
    /// Compression of the request, which also asks for a compressed response.
    pub compression: Option<Compression>,
    /// Storage checksums of large byte strings in the request, so that sending does not read them.
    pub bulk_crc: Vec<KnownCrc>,
    /// Have the call's way timed; the times are in [`Reply::timestamp`](crate::Reply::timestamp).
    pub timestamps: bool,
}

impl CallOptions {
    /// Only a deadline.
    pub fn timeout(timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..Self::default() }
    }
}

/// Settings of a [`Server`](crate::Server), which is one shard: limits are per shard. Defaults are 3FS's where it has
/// the setting.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Requests running at a time; more are refused with `RPC_REQUEST_REFUSED`.
    pub max_processing_requests: usize,
    /// Bytes of requests received and not yet answered; more are refused with `RPC_REQUEST_REFUSED`.
    pub max_in_flight_bytes: usize,
    /// Bytes of unsent responses on a connection beyond which no more requests are read from it.
    pub max_unsent_bytes: usize,
    /// Open connections; to admit more, those idle longest are closed.
    pub max_connections: usize,
    /// A connection without any request for this long is closed.
    pub idle_expiration: Duration,
    /// A frame that has begun must arrive within this time, plus a second per MiB.
    pub half_frame_timeout: Duration,
    /// Compression of responses, for clients that asked for it.
    pub response_compression: Compression,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_processing_requests: 4096,
            max_in_flight_bytes: 1 << 30,
            max_unsent_bytes: 64 << 20,
            max_connections: 20_000,
            idle_expiration: Duration::from_secs(86_400),
            half_frame_timeout: Duration::from_secs(30),
            response_compression: Compression { level: 1, threshold: 128 << 10 },
        }
    }
}
