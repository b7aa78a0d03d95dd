//! Databases of other processes on this machine.
//!
//! An embedded database is open in one process. Others, such as the admin commands or a second server, run transactions on it over
//! RPC: reads and the conflict check happen there, own writes and conflict ranges are kept here until commit, as in
//! FoundationDB's client. [`router`] is the serving half, [`crate::Database::remote`] the calling one. The service is Valor's own
//! (number 0x5601); it knows no users and is meant for a UNIX socket of mode 0600.

mod client;
mod protocol;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use client::{RemoteStore, RemoteView};
pub use protocol::{SERVICE, SERVICE_ID};
pub use server::router;
