//! The loop that repeats transactions, under a paused clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use valor_env::Env;
use valor_kv::{Database, Durability, Faults, KvError, RunOptions, SimulatedStorage, TransactionError};

/// A body's own error next to the store's.
#[derive(Debug, PartialEq, Eq)]
enum Error {
    Own,
    Kv(KvError),
}

impl From<KvError> for Error {
    fn from(error: KvError) -> Self {
        Error::Kv(error)
    }
}

impl TransactionError for Error {
    fn transaction_code(&self) -> Option<u16> {
        match self {
            Error::Own => None,
            Error::Kv(error) => Some(error.code()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_repeated_with_growing_pauses() {
    let db = Database::memory(Env::real());
    let begun = Instant::now();
    let attempts = db
        .run(|tx| {
            let db = db.clone();
            async move {
                tx.get("k").await?;
                tx.set("k", "mine");
                if tx.attempt() < 6 {
                    let other = db.begin();
                    other.set("k", "theirs");
                    other.commit().await?;
                }
                Ok::<_, KvError>(tx.attempt())
            }
        })
        .await;
    assert_eq!(attempts, Ok(6));
    // 1 + 2 + 4 + 8 + 16 + 32 ms, each pause at least half of it. The clock counts whole milliseconds.
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(31) && waited <= Duration::from_millis(70), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn attempts_and_time_are_bounded() {
    let db = Database::memory(Env::real());
    let runs = AtomicU32::new(0);
    let options = RunOptions { attempts_max: 5, ..RunOptions::default() };
    let body = |_| async {
        runs.fetch_add(1, Ordering::Relaxed);
        Err::<(), _>(KvError::Conflict)
    };
    assert_eq!(db.run_with(&options, body).await, Err(KvError::Conflict));
    assert_eq!(runs.swap(0, Ordering::Relaxed), 5);

    let options =
        RunOptions { attempts_max: u32::MAX, time_max: Duration::from_secs(3), ..RunOptions::default() };
    let begun = Instant::now();
    assert_eq!(db.run_with(&options, body).await, Err(KvError::Conflict));
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(3) && waited <= Duration::from_secs(4), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_may_not_pass_is_not_repeated() {
    let db = Database::memory(Env::real());
    let runs = AtomicU32::new(0);
    for error in [
        Error::Own,
        Error::Kv(KvError::MaybeCommitted),
        Error::Kv(KvError::Engine { message: String::new() }),
        Error::Kv(KvError::Illegal(String::new())),
    ] {
        let error = &error;
        let result: Result<(), Error> = db
            .run(|_| {
                runs.fetch_add(1, Ordering::Relaxed);
                async move {
                    Err(match error {
                        Error::Own => Error::Own,
                        Error::Kv(error) => Error::Kv(error.clone()),
                    })
                }
            })
            .await;
        assert_eq!(result.as_ref(), Err(error));
        assert_eq!(runs.swap(0, Ordering::Relaxed), 1, "{error:?}");
    }
}

/// A counter that recognises its own commits stays exact although results get lost.
#[tokio::test(start_paused = true)]
async fn a_body_learns_that_an_earlier_run_may_have_committed() {
    let storage = SimulatedStorage::new();
    let db = Database::simulated(Env::real(), &storage, Durability::Process);
    let faulty = db.with_faults(Faults { read_too_old: 50, commit_conflict: 100, commit_unknown: 200 });
    let options = RunOptions { retry_maybe_committed: true, attempts_max: 1000, ..RunOptions::default() };
    let recognised = Arc::new(AtomicU32::new(0));
    for n in 0..300u32 {
        faulty
            .run_with(&options, |tx| {
                let recognised = recognised.clone();
                async move {
                    let done = tx.get(format!("done/{n}")).await?.is_some();
                    if done {
                        assert!(tx.after_maybe_committed());
                        recognised.fetch_add(1, Ordering::Relaxed);
                        return Ok::<_, KvError>(());
                    }
                    let count =
                        tx.get("count").await?.map_or(0, |value| value[0] as u32 * 256 + value[1] as u32);
                    tx.set("count", &(count + 1).to_be_bytes()[2..]);
                    tx.set(format!("done/{n}"), "");
                    Ok(())
                }
            })
            .await
            .unwrap();
    }
    let count = db.begin().get("count").await.unwrap().unwrap();
    assert_eq!(count[..], 300u32.to_be_bytes()[2..]);
    assert!(recognised.load(Ordering::Relaxed) > 5);
    assert!(storage.commits() >= 300);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_holds_back_the_store_loses_its_snapshot() {
    let db = Database::memory(Env::real());
    let put = async |value: &str| {
        let tx = db.begin();
        tx.set("k", value);
        tx.commit().await.unwrap();
    };
    put("1").await;
    let old = db.begin();
    assert_eq!(old.get("k").await.unwrap(), Some("1".into()));
    tokio::time::advance(Duration::from_secs(59)).await;
    put("2").await;
    assert_eq!(old.get("k").await.unwrap(), Some("1".into()));
    tokio::time::advance(Duration::from_secs(2)).await;
    put("3").await;
    assert_eq!(old.get("k").await, Err(KvError::TooOld));
    assert!(KvError::TooOld.is_retryable());
}

#[tokio::test]
async fn a_failed_write_leaves_no_trace() {
    let storage = SimulatedStorage::new();
    let db = Database::simulated(Env::real(), &storage, Durability::Process);
    let put = async |value: &str| {
        let tx = db.begin();
        tx.set("k", value);
        tx.commit().await
    };
    put("1").await.unwrap();
    storage.fail_writes(true);
    assert!(matches!(put("2").await, Err(KvError::Engine { .. })));
    assert_eq!(db.begin().get("k").await.unwrap(), Some("1".into()));
    storage.fail_writes(false);
    put("3").await.unwrap();
    db.close().await.unwrap();
    assert!(matches!(put("4").await, Err(KvError::Engine { .. })));
    assert_eq!(db.begin().get("k").await.unwrap(), Some("3".into()));
}
