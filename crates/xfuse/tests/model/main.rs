//! The lock-free parts under `loom`, which tries every interleaving and every value that weak memory allows: their own
//! source files, compiled against [`sync`] instead of the crate's module of that name.
//!
//! What is bounded is said at each model. `LOOM_MAX_PREEMPTIONS=4` goes further than the ordinary run, `LOOM_LOG=trace
//! LOOM_LOCATION=1` shows the way to a failure.
#![allow(dead_code)]

mod sync;

#[path = "../../src/buffer.rs"]
mod buffer;
#[path = "../../src/channel/uring/entries.rs"]
mod entries;
#[path = "../../src/wait/hot.rs"]
mod hot;
#[path = "../../src/inflight.rs"]
mod inflight;

mod buffer_models;
mod channel_models;
mod entries_models;
mod hot_models;
mod inflight_models;

use xfuse::abi;

/// Tries all interleavings with at most `preemptions` switches away from a thread that could go on.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 20_000;
    builder.check(model);
}
