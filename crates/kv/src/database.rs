//! Databases: where transactions begin, and the loop that repeats them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use valor_env::{Endpoint, Env};

use crate::engine::Durability;
use crate::engine::embedded::{EmbeddedEngine, EmbeddedOptions};
use crate::engine::memory::MemoryEngine;
use crate::engine::simulated::{SimulatedEngine, SimulatedStorage};
use crate::error::code;
use crate::faults::{Faults, Injector};
use crate::local::{LocalOptions, LocalStore};
use crate::remote::RemoteStore;
use crate::snapshots::Snapshots;
use crate::store::Store;
use crate::transaction::{Attempt, Transaction};
use crate::{KvError, TransactionError};

/// How [`Database::run_with`] repeats a transaction.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Runs of the body at most.
    pub attempts_max: u32,
    /// No new run begins after this much time; the last failure is returned.
    pub time_max: Duration,
    /// Pause after the first failure; doubles with each further one. The actual pause is a random part of it, at least half.
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// Also repeat after [`KvError::MaybeCommitted`]: only for bodies that may take effect twice, or that look at
    /// [`Transaction::after_maybe_committed`].
    pub retry_maybe_committed: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        RunOptions {
            attempts_max: 32,
            time_max: Duration::from_secs(5),
            backoff_min: Duration::from_millis(1),
            backoff_max: Duration::from_secs(1),
            retry_maybe_committed: false,
        }
    }
}

/// A transactional key-value database. Clones are handles of one database.
///
/// The last handle to be dropped closes it, as [`Database::close`] does.
#[derive(Clone)]
pub struct Database {
    env: Env,
    store: Store,
    faults: Option<Injector>,
}

impl Database {
    /// An empty database in memory.
    pub fn memory(env: Env) -> Self {
        let options = LocalOptions::default();
        let snapshots = Snapshots::new(0, options.max_transaction_age);
        let engine = Arc::new(MemoryEngine::new(snapshots.clone()));
        Self::local(env, engine, snapshots, &options)
            .expect("the memory engine needs no thread, which could fail to start")
    }

    /// The database on a simulated medium; deterministic. See [`SimulatedStorage`].
    pub fn simulated(env: Env, storage: &SimulatedStorage, durability: Durability) -> Self {
        let options = LocalOptions::default();
        let snapshots = Snapshots::new(storage.last_version(), options.max_transaction_age);
        let engine = Arc::new(SimulatedEngine::open(storage, durability, snapshots.clone()));
        Self::local(env, engine, snapshots, &options)
            .expect("the simulated engine needs no thread, which could fail to start")
    }

    /// Opens the database in the directory `path`, creating it when there is none, with default options. Blocks for the time it
    /// takes to read the log, some milliseconds for a few MiB.
    ///
    /// # Errors
    /// [`KvError::Corrupt`] when a file is damaged; [`KvError::Engine`] when the directory cannot be used or another process
    /// uses it.
    pub fn open(env: Env, path: impl AsRef<Path>, durability: Durability) -> Result<Self, KvError> {
        Self::open_with(env, path, durability, &EmbeddedOptions::default(), &LocalOptions::default())
    }

    /// [`Database::open`] with options.
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_with(
        env: Env,
        path: impl AsRef<Path>,
        durability: Durability,
        embedded: &EmbeddedOptions,
        options: &LocalOptions,
    ) -> Result<Self, KvError> {
        let (engine, snapshots) =
            EmbeddedEngine::open(&env, path.as_ref(), durability, embedded, options.max_transaction_age)?;
        Self::local(env, Arc::new(engine), snapshots, options)
    }

    /// The database that another process serves at `endpoint` with [`crate::remote::router`]. Nothing is sent before a
    /// transaction reads or commits.
    pub fn remote(env: Env, rpc: Arc<valor_rpc::Client>, endpoint: Endpoint) -> Self {
        let store = Arc::new(RemoteStore::new(env.clone(), rpc, endpoint));
        Database { env, store: Store::Remote(store), faults: None }
    }

    /// What a server of this database needs of it.
    pub(crate) fn into_parts(self) -> (Env, Store) {
        (self.env, self.store)
    }

    fn local(
        env: Env,
        engine: Arc<dyn crate::engine::Engine>,
        snapshots: Arc<Snapshots>,
        options: &LocalOptions,
    ) -> Result<Self, KvError> {
        let store = LocalStore::new(engine, snapshots, options)?;
        Ok(Database { env, store: Store::Local(Arc::new(store)), faults: None })
    }

    /// The same database with failures injected into the transactions of this handle.
    pub fn with_faults(&self, faults: Faults) -> Self {
        let faults = Some(Injector::new(self.env.clone(), faults));
        Database { faults, ..self.clone() }
    }

    /// Begins a transaction. Most callers want [`Database::run`].
    pub fn begin(&self) -> Transaction {
        self.begin_attempt(Attempt::default())
    }

    fn begin_attempt(&self, attempt: Attempt) -> Transaction {
        Transaction::new(self.store.clone(), self.faults.clone(), attempt)
    }

    /// Runs `body` in a transaction and commits it; repeats both, on a new transaction, while they fail for a reason that may
    /// pass ([`KvError::is_retryable`]). `body` must not have effects outside the transaction.
    ///
    /// # Errors
    /// The body's own errors, and the store's failure that was last or not worth repeating. [`KvError::MaybeCommitted`] is not
    /// repeated: see [`RunOptions::retry_maybe_committed`].
    pub async fn run<T, E, F, Fut>(&self, body: F) -> Result<T, E>
    where
        F: FnMut(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: TransactionError,
    {
        self.run_with(&RunOptions::default(), body).await
    }

    /// [`Database::run`] with options.
    ///
    /// # Errors
    /// As for `run`.
    pub async fn run_with<T, E, F, Fut>(&self, options: &RunOptions, mut body: F) -> Result<T, E>
    where
        F: FnMut(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: TransactionError,
    {
        let begun = Instant::now();
        let mut attempt = Attempt::default();
        let mut backoff = options.backoff_min;
        loop {
            let tx = self.begin_attempt(attempt);
            let error = match body(tx.clone()).await {
                Ok(value) => match tx.commit().await {
                    Ok(_) => return Ok(value),
                    Err(error) => E::from(error),
                },
                Err(error) => error,
            };
            drop(tx);
            let Some(failure) = error.transaction_code() else { return Err(error) };
            let unknown = failure == code::MAYBE_COMMITTED;
            let worth_it = code::is_retryable(failure) || (unknown && options.retry_maybe_committed);
            attempt.number += 1;
            if !worth_it || attempt.number >= options.attempts_max || begun.elapsed() >= options.time_max {
                return Err(error);
            }
            attempt.after_maybe_committed |= unknown;
            metrics::counter!(valor_env::metrics::KV_RETRIES).increment(1);
            tokio::time::sleep(self.jitter(backoff)).await;
            backoff = (backoff * 2).min(options.backoff_max);
        }
    }

    /// A random duration from half of `pause` to all of it.
    fn jitter(&self, pause: Duration) -> Duration {
        let half = pause / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        half + Duration::from_nanos(self.env.random_u64() % nanos)
    }

    /// Makes all commits durable and ends the database for all handles: later commits fail. Blocks the thread until
    /// background work has stopped. Reads go on; the directory is free for another process when the last handle, those of
    /// transactions included, is dropped. Does nothing to a remote database.
    ///
    /// # Errors
    /// The engine's, when commits could not be made durable.
    pub async fn close(&self) -> Result<(), KvError> {
        self.store.close()
    }

    /// Reads all tables on disk and compares their checksums. Blocks the thread; for administrators. Does nothing to a remote
    /// database.
    ///
    /// # Errors
    /// [`KvError::Corrupt`] names the first damaged file.
    pub async fn verify(&self) -> Result<(), KvError> {
        self.store.verify()
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}
