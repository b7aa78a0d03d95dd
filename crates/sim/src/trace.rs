//! What happened in a run: a running hash over every byte that crossed the network and every event, and the events as
//! text when somebody wants to read them.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The trace of a run. Clones are the same trace.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<State>>);

struct State {
    start: Instant,
    hash: u64,
    count: u64,
    print: bool,
}

impl Trace {
    /// An empty trace that begins now; with `print` events go to standard error as they happen.
    pub fn new(print: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            start: Instant::now(),
            hash: 0xcbf2_9ce4_8422_2325,
            count: 0,
            print,
        })))
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.lock().start.elapsed()
    }

    /// Takes bytes into the hash, with their time.
    pub fn bytes(&self, kind: u64, bytes: &[u8]) {
        let state = &mut *self.0.lock();
        let now = state.start.elapsed().as_micros() as u64;
        state.mix(now);
        state.mix(kind);
        state.mix(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            state.mix(u64::from_le_bytes(*word));
        }
        for byte in rest {
            state.mix(u64::from(*byte));
        }
        state.count += 1;
    }

    /// Takes an event into the hash, and prints it if wanted.
    pub fn event(&self, what: impl Display) {
        let text = what.to_string();
        self.bytes(1, text.as_bytes());
        let state = self.0.lock();
        if state.print {
            eprintln!("{:>10.3} {text}", state.start.elapsed().as_secs_f64());
        }
    }

    /// Hash and number of entries so far.
    pub fn digest(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.hash, state.count)
    }
}

impl State {
    fn mix(&mut self, word: u64) {
        let mixed = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = mixed ^ mixed >> 29;
    }
}
