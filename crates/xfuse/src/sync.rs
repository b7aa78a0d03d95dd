//! Atomics, locks and waiting as the lock-free parts use them.
//!
//! `tests/model` compiles those parts against a version of this module on `loom`, which tries all interleavings. They
//! have their unit tests in files of their own, so that these are not compiled along.

pub(crate) use parking_lot::Mutex;
pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
pub(crate) use tokio::sync::Notify;
pub(crate) use tokio::time::timeout;
