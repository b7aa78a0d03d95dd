//! Which transactions exclude each other.

use valor_kv::{Database, KvError, Transaction, key_after};

use crate::engines::Fixture;

async fn put(db: &Database, entries: &[(&str, &str)]) {
    let tx = db.begin();
    for (key, value) in entries {
        tx.set(key, value);
    }
    tx.commit().await.unwrap();
}

async fn number(tx: &Transaction, key: &str) -> i64 {
    let value = tx.get(key).await.unwrap();
    value.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap())
}

pub(crate) async fn lost_update(fixture: &mut Fixture) {
    let db = &fixture.db;
    put(db, &[("counter", "1")]).await;
    let (first, second) = (db.begin(), db.begin());
    let seen = (number(&first, "counter").await, number(&second, "counter").await);
    first.set("counter", (seen.0 + 1).to_string());
    second.set("counter", (seen.1 + 1).to_string());
    first.commit().await.unwrap();
    assert_eq!(second.commit().await, Err(KvError::Conflict));
    assert_eq!(number(&db.begin(), "counter").await, 2);
}

pub(crate) async fn write_skew(fixture: &mut Fixture) {
    let db = &fixture.db;
    put(db, &[("a", "1"), ("b", "1")]).await;
    let (first, second) = (db.begin(), db.begin());
    for tx in [&first, &second] {
        assert_eq!(number(tx, "a").await + number(tx, "b").await, 2);
    }
    // Each leaves one of the two, on the belief that the other stays.
    first.clear("a");
    second.clear("b");
    first.commit().await.unwrap();
    assert_eq!(second.commit().await, Err(KvError::Conflict));
}

pub(crate) async fn phantom_in_a_range(fixture: &mut Fixture) {
    let db = &fixture.db;
    put(db, &[("dir/b", "")]).await;
    for (key, conflict) in
        [("dir/a", true), ("dir/b", true), ("dir/c", true), ("dir0", false), ("dir.", false)]
    {
        let tx = db.begin();
        tx.get_prefix("dir/", 100).await.unwrap();
        tx.set("elsewhere", "");
        put(db, &[(key, "new")]).await;
        assert_eq!(tx.commit().await.is_err(), conflict, "{key}");
    }
}

pub(crate) async fn conflict_with_clear_range(fixture: &mut Fixture) {
    let db = &fixture.db;
    put(db, &[("b", "1")]).await;
    // What was read is cleared, whether it existed or not.
    for key in ["b", "bb"] {
        let reader = db.begin();
        reader.get(key).await.unwrap();
        reader.set("other", "");
        let clearer = db.begin();
        clearer.clear_range("a", "c");
        clearer.commit().await.unwrap();
        assert_eq!(reader.commit().await, Err(KvError::Conflict), "{key}");
    }
    // A clear that read nothing wins over a write inside its range.
    let clearer = db.begin();
    clearer.clear_range("a", "c");
    put(db, &[("b", "2")]).await;
    clearer.commit().await.unwrap();
    assert_eq!(db.begin().get("b").await.unwrap(), None);
}

pub(crate) async fn snapshot_reads_do_not_conflict(fixture: &mut Fixture) {
    let db = &fixture.db;
    put(db, &[("k", "1")]).await;
    let tx = db.begin();
    assert_eq!(tx.snapshot_get("k").await.unwrap(), Some("1".into()));
    assert_eq!(tx.snapshot_get_range("a", "z", 10, false).await.unwrap().items.len(), 1);
    assert_eq!(tx.snapshot_get_prefix("k", 10).await.unwrap().items.len(), 1);
    tx.set("other", "");
    put(db, &[("k", "2")]).await;
    // Still the version of the first read.
    assert_eq!(tx.snapshot_get("k").await.unwrap(), Some("1".into()));
    tx.commit().await.unwrap();
}

pub(crate) async fn blind_writes_do_not_conflict(fixture: &mut Fixture) {
    let db = &fixture.db;
    let tx = db.begin();
    tx.get("unrelated").await.unwrap();
    tx.set("k", "mine");
    put(db, &[("k", "theirs")]).await;
    tx.commit().await.unwrap();
    assert_eq!(db.begin().get("k").await.unwrap(), Some("mine".into()));
}

pub(crate) async fn read_only_transactions_commit(fixture: &mut Fixture) {
    let db = &fixture.db;
    put(db, &[("k", "1")]).await;
    let tx = db.begin();
    tx.get("k").await.unwrap();
    put(db, &[("k", "2")]).await;
    let info = tx.commit().await.unwrap();
    assert_eq!(info.versionstamp, None);
    assert!(info.version > 0);
}

pub(crate) async fn explicit_conflict_ranges(fixture: &mut Fixture) {
    let db = &fixture.db;
    put(db, &[("k", "1"), ("read", "1")]).await;
    type Declare = fn(&Transaction);
    let reads: [(Declare, bool); 3] = [
        (|tx| tx.add_read_conflict_key("k"), true),
        (|tx| tx.add_read_conflict_range("j", "l"), true),
        (|tx| tx.add_read_conflict_range("l", "m"), false),
    ];
    for (declare, conflict) in reads {
        let tx = db.begin();
        tx.get("read").await.unwrap();
        declare(&tx);
        tx.set("other", "");
        put(db, &[("k", "2")]).await;
        assert_eq!(tx.commit().await.is_err(), conflict);
    }
    let writes: [(Declare, bool); 3] = [
        (|tx| tx.add_write_conflict_key("k"), true),
        (|tx| tx.add_write_conflict_range("j", "l"), true),
        (|tx| tx.add_write_conflict_range("l", "m"), false),
    ];
    for (declare, conflict) in writes {
        let tx = db.begin();
        tx.get("k").await.unwrap();
        tx.set("other", "");
        let writer = db.begin();
        declare(&writer);
        // Writes nothing, and yet counts as a commit.
        assert!(writer.commit().await.unwrap().versionstamp.is_some());
        assert_eq!(tx.commit().await.is_err(), conflict);
    }
}

pub(crate) async fn own_writes_are_no_reads(fixture: &mut Fixture) {
    let db = &fixture.db;
    let tx = db.begin();
    tx.get("unrelated").await.unwrap();
    tx.set("k", "1");
    tx.get("k").await.unwrap();
    tx.add_read_conflict_key("k");
    put(db, &[("k", "2")]).await;
    tx.commit().await.unwrap();
}

pub(crate) async fn a_limited_range_read_conflicts_up_to_its_end(fixture: &mut Fixture) {
    let db = &fixture.db;
    put(db, &[("b", "1"), ("d", "1"), ("f", "1")]).await;
    for (reverse, key, conflict) in [
        (false, "a", true),
        (false, "c", true),
        (false, "d", true),
        (false, "e", false),
        (true, "g", true),
        (true, "e", true),
        (true, "d", true),
        (true, "c", false),
    ] {
        put(db, &[("b", "1"), ("d", "1"), ("f", "1")]).await;
        let tx = db.begin();
        let result = tx.get_range("a", "z", 2, reverse).await.unwrap();
        assert!(result.more);
        tx.set("zz", "");
        put(db, &[(key, "new")]).await;
        assert_eq!(tx.commit().await.is_err(), conflict, "{key} reverse {reverse}");
        let cleanup = db.begin();
        for key in ["a", "c", "e", "g"] {
            cleanup.clear(key);
        }
        cleanup.commit().await.unwrap();
    }
    // An exhausted read conflicts up to the end it was given.
    let tx = db.begin();
    assert!(!tx.get_range("a", "m", 4, false).await.unwrap().more);
    tx.set("zz", "");
    put(db, &[("l", "new")]).await;
    assert!(tx.commit().await.is_err());
    assert_eq!(&key_after(b"a")[..], b"a\0");
}

pub(crate) async fn concurrent_counters(fixture: &mut Fixture) {
    const TASKS: u64 = 16;
    const STEPS: u64 = 25;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let db = fixture.db.clone();
            tokio::spawn(async move {
                for step in 0..STEPS {
                    let key = format!("counter-{}", (task + step) % 3);
                    db.run(|tx| {
                        let key = key.clone();
                        async move {
                            let value = number(&tx, &key).await;
                            // Others get a turn between the read and the commit.
                            tokio::task::yield_now().await;
                            tx.set(&key, (value + 1).to_string());
                            Ok::<_, KvError>(())
                        }
                    })
                    .await
                    .unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let tx = fixture.db.begin();
    let mut sum = 0;
    for counter in 0..3 {
        sum += number(&tx, &format!("counter-{counter}")).await;
    }
    assert_eq!(sum, (TASKS * STEPS) as i64);
}

/// Transfers between accounts from several threads; a reader sees the same sum in every version.
pub(crate) async fn concurrent_transfers_keep_the_sum(fixture: &mut Fixture) {
    const ACCOUNTS: u64 = 5;
    let account = |n: u64| format!("account-{}", n % ACCOUNTS);
    let tx = fixture.db.begin();
    for n in 0..ACCOUNTS {
        tx.set(account(n), "100");
    }
    tx.commit().await.unwrap();
    let writers: Vec<_> = (0..4u64)
        .map(|thread| {
            let db = fixture.db.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    for step in 0..50 {
                        let (from, to) = (account(thread + step), account(thread * 2 + step * 3 + 1));
                        db.run(|tx| {
                            let (from, to) = (from.clone(), to.clone());
                            async move {
                                let balance = number(&tx, &from).await;
                                tx.set(&from, (balance - 1).to_string());
                                let balance = number(&tx, &to).await;
                                tx.set(&to, (balance + 1).to_string());
                                Ok::<_, KvError>(())
                            }
                        })
                        .await
                        .unwrap();
                    }
                });
            })
        })
        .collect();
    while writers.iter().any(|writer| !writer.is_finished()) {
        let tx = fixture.db.begin();
        let entries = tx.get_prefix("account-", 100).await.unwrap().items;
        let sum: i64 = entries
            .iter()
            .map(|entry| std::str::from_utf8(&entry.value).unwrap().parse::<i64>().unwrap())
            .sum();
        assert_eq!((entries.len() as u64, sum), (ACCOUNTS, 100 * ACCOUNTS as i64));
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.join().unwrap();
    }
}
