//! Databases of other processes on this machine.
//!
//! An embedded database is open in one process. Others, such as the admin commands or a second server, run transactions on it over
//! RPC: reads and the conflict check happen there, own writes and conflict ranges are kept here until commit, as in
//! FoundationDB's client. [`router`] is the serving half, [`crate::Database::remote`] the calling one. The service is Valor's own
//! (number 0x5601); it knows no users and is meant for a UNIX socket of mode 0600.
//!
//! # Bounds
//! A transaction lives for 5 s, as in FoundationDB: later reads and commits fail with [`crate::KvError::TooOld`]. Views are
//! limited in number; beyond that the oldest one of the client that holds most is given up, with the same error. Clients
//! outlive the server: what was begun at one that was killed fails with that error, too, and a commit that was under way
//! with [`crate::KvError::MaybeCommitted`]. What begins after that error shows the commit or will never see it: it was
//! fenced off, or it is too old, and if it was accepted before and waits for the disk, new transactions wait for it.

use std::time::Duration;

mod client;
mod protocol;
mod server;
#[cfg(test)]
mod tests;
mod views;

pub(crate) use client::{RemoteStore, RemoteView};
pub use protocol::{SERVICE, SERVICE_ID};
pub use server::router;

/// How long a transaction may last.
const VIEW_AGE_MAX: Duration = Duration::from_secs(5);
