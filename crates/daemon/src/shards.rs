//! Thread per core: each shard is one thread with a current-thread runtime (design: a request stays on the core
//! that received it).

use crate::Stop;
use std::future::Future;
use std::io;
use std::thread::JoinHandle;
use tokio::runtime::{Builder, Handle};

/// One shard's runtime, from outside.
#[derive(Clone)]
pub struct Shard {
    /// Position, from 0.
    pub index: usize,
    handle: Handle,
}

impl Shard {
    /// Runs a future on this shard and waits for its value.
    ///
    /// # Errors
    /// When the shard has ended or the future panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<T> {
        self.handle.spawn(future).await.map_err(io::Error::other)
    }
}

/// Shard threads; they end when dropped through [`Shards::join`].
pub struct Shards {
    shards: Vec<Shard>,
    threads: Vec<JoinHandle<()>>,
    stop: Stop,
}

impl Shards {
    /// Starts `count` threads named `name-N`.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(name: &str, count: usize) -> io::Result<Self> {
        let stop = Stop::default();
        let mut shards = Vec::new();
        let mut threads = Vec::new();
        for index in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            shards.push(Shard { index, handle: runtime.handle().clone() });
            let stop = stop.clone();
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || runtime.block_on(stop.triggered()))?;
            threads.push(thread);
        }
        Ok(Self { shards, threads, stop })
    }

    /// The shards, by index.
    #[must_use]
    pub fn all(&self) -> &[Shard] {
        &self.shards
    }

    /// Ends the threads; tasks still running on them are dropped.
    pub fn join(self) {
        self.stop.trigger();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a shard thread panicked");
            }
        }
    }
}
