//! RPC over TCP and UNIX sockets: connections, request matching, deadlines, dispatch.
//!
//! * [`Client`] calls methods. Connections belong to the thread that made them; many requests share one and are matched
//!   by id. See [`Client`] for deadlines and retries.
//! * [`Server`] listens, one per shard, and gives requests to the methods of its [`Router`]s. It refuses what exceeds
//!   its limits and keeps serving the rest.
//!
//! Interoperates with C++ 3FS (`src/common/net`, `src/common/serde/{ClientContext,CallContext}.h`).
//!
//! What a small call costs on each side: one `writev`, one `epoll_wait`, one `read`; no read that finds nothing, no
//! wake-up of another thread.

mod budget;
mod client;
mod config;
mod connection;
mod deadlines;
mod pool;
mod reader;
mod registry;
mod router;
mod server;
mod session;
mod waiters;
mod writer;

pub use client::{Client, Reply};
pub use config::{CallOptions, ClientConfig, ServerConfig};
pub use router::{CallContext, Router, WithCrc};
pub use server::{Server, ServerBuilder, ServerHandle};
pub use valor_wire::{BodyCrc, Compression, KnownCrc, Timestamp};
