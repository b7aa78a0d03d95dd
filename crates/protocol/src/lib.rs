//! 3FS message structs, service and method numbers, status codes and layout arithmetic.
//!
//! Everything here is data: no input, no output, no clock. Structs follow the C++ definitions of
//! deepseek-ai/3FS field by field; `tests/golden` holds bytes recorded from that program.

pub mod address;
pub mod app;
pub mod core;
pub mod echo;
pub mod ib_connect;
mod id;
pub mod layout;
pub mod meta;
mod method;
pub mod mgmtd;
pub mod migration;
pub mod monitor;
pub mod rdma_control;
mod routing;
pub mod status;
pub mod storage;
pub mod token;
pub mod user;
pub mod valor;

pub use address::{Address, AddressType, ServiceGroupInfo};
pub use id::*;
pub use method::Method;
pub use valor_wire::{Duration64, Status, UtcTime, Uuid, Void};
