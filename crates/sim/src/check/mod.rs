//! What must hold.

pub mod chains;
pub mod copies;
pub mod linear;
pub mod managers;
pub mod memory;
pub mod metadata;
pub mod probes;
pub mod replicas;
mod requests;

pub use memory::Memory;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::trace::Trace;

/// Violations found so far. Clones are the same list.
#[derive(Clone)]
pub struct Verdict {
    trace: Trace,
    found: Arc<Mutex<Vec<String>>>,
}

/// Violations kept; the first ones say most.
const KEPT: usize = 20;

impl Verdict {
    /// An empty list.
    pub fn new(trace: Trace) -> Self {
        Self { trace, found: Arc::default() }
    }

    /// Something does not hold.
    pub fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        self.trace.event(format_args!("VIOLATION {what}"));
        let mut found = self.found.lock();
        if found.len() < KEPT {
            found.push(what);
        }
    }

    /// What was found.
    pub fn all(&self) -> Vec<String> {
        self.found.lock().clone()
    }
}
