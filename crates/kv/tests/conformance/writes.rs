//! What commits do, and what they refuse.

use valor_kv::{KvError, MAX_KEY, MAX_VALUE, METADATA_VERSION_KEY, Versionstamp};

use crate::engines::Fixture;

pub(crate) async fn all_or_nothing(fixture: &mut Fixture) {
    let db = &fixture.db;
    let loser = db.begin();
    loser.get("k").await.unwrap();
    loser.set("a", "");
    loser.clear_range("b", "c");
    let winner = db.begin();
    winner.set("k", "");
    winner.set("b", "");
    winner.commit().await.unwrap();
    assert_eq!(loser.commit().await, Err(KvError::Conflict));
    let tx = db.begin();
    let keys: Vec<_> =
        tx.get_range("", "z", 10, false).await.unwrap().items.into_iter().map(|e| e.key).collect();
    assert_eq!(keys, ["b", "k"]);
    // Dropped without a commit.
    let tx = db.begin();
    tx.set("dropped", "");
    drop(tx);
    assert_eq!(db.begin().get("dropped").await.unwrap(), None);
}

pub(crate) async fn sizes_are_bounded(fixture: &mut Fixture) {
    let db = &fixture.db;
    let (longest_key, largest_value) = (vec![7u8; MAX_KEY], vec![9u8; MAX_VALUE]);
    let tx = db.begin();
    tx.set(&longest_key, &largest_value);
    tx.set("empty value", "");
    tx.commit().await.unwrap();
    drop(tx);
    fixture.reopen().await;
    let db = &fixture.db;
    let tx = db.begin();
    assert_eq!(tx.get(&longest_key).await.unwrap().as_deref(), Some(&largest_value[..]));
    assert_eq!(tx.get("").await.unwrap(), None);
    assert_eq!(tx.get("empty value").await.unwrap(), Some("".into()));
    let end = valor_kv::key_after(&longest_key);
    assert_eq!(tx.get_range(&longest_key, &end, 2, false).await.unwrap().items.len(), 1);

    let too_large = |error: Option<KvError>| matches!(error, Some(KvError::TooLarge { .. }));
    let tx = db.begin();
    tx.set(vec![7u8; MAX_KEY + 1], "");
    assert!(too_large(tx.get("k").await.err()));
    assert!(too_large(tx.commit().await.err()));
    let tx = db.begin();
    tx.set("k", vec![0u8; MAX_VALUE + 1]);
    assert!(too_large(tx.commit().await.err()));
    let tx = db.begin();
    for n in 0..101u32 {
        tx.set(n.to_be_bytes(), &largest_value);
    }
    assert!(too_large(tx.commit().await.err()));
    assert!(too_large(db.begin().get(vec![7u8; MAX_KEY + 1]).await.err()));
    assert_eq!(db.begin().get("k").await.unwrap(), None);
    // Just below the limit of a transaction.
    let tx = db.begin();
    for n in 0..99u32 {
        tx.set(n.to_be_bytes(), &largest_value);
    }
    tx.commit().await.unwrap();
    let tx = db.begin();
    assert_eq!(tx.get_range([0], [1], usize::MAX, false).await.unwrap().items.len(), 99);
}

pub(crate) async fn reserved_keys(fixture: &mut Fixture) {
    let db = &fixture.db;
    let illegal = |error: Option<KvError>| matches!(error, Some(KvError::Illegal(_)));
    for key in [&b"\xff"[..], b"\xff/x", b"", METADATA_VERSION_KEY] {
        let tx = db.begin();
        tx.set(key, "");
        assert!(illegal(tx.commit().await.err()));
        let tx = db.begin();
        tx.clear(key);
        assert!(illegal(tx.commit().await.err()));
    }
    assert!(illegal(db.begin().get(b"\xff\xff").await.err()));
    assert!(illegal(db.begin().get_range("", b"\xff\xff", 1, false).await.err()));
    assert!(illegal(db.begin().get_range("b", "a", 1, false).await.err()));
    assert!(db.begin().get_range("", b"\xff", 1, false).await.is_ok());
    let tx = db.begin();
    tx.clear_range("", b"\xff");
    tx.commit().await.unwrap();
}

async fn stamp(fixture: &Fixture, key: &str) -> Versionstamp {
    let tx = fixture.db.begin();
    tx.set_versionstamped_value(key, b"ab..........yz", 2);
    let info = tx.commit().await.unwrap();
    let value = fixture.db.begin().get(key).await.unwrap().unwrap();
    assert_eq!((&value[..2], &value[12..]), (&b"ab"[..], &b"yz"[..]));
    let stamp: Versionstamp = value[2..12].try_into().unwrap();
    assert_eq!(info.versionstamp, Some(stamp));
    assert_eq!(stamp[..8], info.version.to_be_bytes());
    stamp
}

pub(crate) async fn versionstamps_grow(fixture: &mut Fixture) {
    let mut last = [0; 10];
    for round in 0..3 {
        for n in 0..20 {
            let stamp = stamp(fixture, &format!("key-{n}")).await;
            assert!(stamp > last, "round {round}: {stamp:?} after {last:?}");
            last = stamp;
        }
        fixture.reopen().await;
    }
    // All values stamped by one commit get the same stamp; a later write replaces a stamped one.
    let tx = fixture.db.begin();
    tx.set_versionstamped_value("a", [0; 10], 0);
    tx.set_versionstamped_value("b", [0; 10], 0);
    tx.set_versionstamped_value("c", [0; 10], 0);
    tx.set("c", "plain");
    tx.commit().await.unwrap();
    let tx = fixture.db.begin();
    assert_eq!(tx.get("a").await.unwrap(), tx.get("b").await.unwrap());
    assert_eq!(tx.get("c").await.unwrap(), Some("plain".into()));
    let tx = fixture.db.begin();
    tx.set_versionstamped_value("a", [0; 12], 3);
    assert!(matches!(tx.commit().await, Err(KvError::Illegal(_))));
}

pub(crate) async fn metadata_version(fixture: &mut Fixture) {
    let db = &fixture.db;
    assert_eq!(db.begin().get(METADATA_VERSION_KEY).await.unwrap(), None);
    let reader = db.begin();
    reader.get(METADATA_VERSION_KEY).await.unwrap();
    reader.set("k", "");
    let tx = db.begin();
    tx.set_versionstamped_value(METADATA_VERSION_KEY, [0; 10], 0);
    let info = tx.commit().await.unwrap();
    let value = db.begin().get(METADATA_VERSION_KEY).await.unwrap();
    assert_eq!(value.as_deref(), info.versionstamp.as_ref().map(|stamp| &stamp[..]));
    assert_eq!(reader.commit().await, Err(KvError::Conflict));
}

pub(crate) async fn a_versionstamp_is_unreadable_before_commit(fixture: &mut Fixture) {
    let tx = fixture.db.begin();
    tx.set_versionstamped_value("k", [0; 10], 0);
    assert!(matches!(tx.get("k").await, Err(KvError::Illegal(_))));
    assert!(matches!(tx.get_range("a", "z", 10, false).await, Err(KvError::Illegal(_))));
    assert_eq!(tx.get("other").await.unwrap(), None);
    tx.commit().await.unwrap();
}

pub(crate) async fn a_transaction_ends_with_its_commit(fixture: &mut Fixture) {
    let tx = fixture.db.begin();
    tx.set("k", "1");
    tx.commit().await.unwrap();
    assert!(matches!(tx.commit().await, Err(KvError::Illegal(_))));
    assert!(matches!(tx.get("k").await, Err(KvError::Illegal(_))));
}

pub(crate) async fn commits_survive_reopening(fixture: &mut Fixture) {
    for round in 0..3u32 {
        // Enough to close several small memtables.
        for n in 0..100u32 {
            let tx = fixture.db.begin();
            tx.set(format!("key-{n:03}"), vec![round as u8; 1000]);
            tx.clear(format!("key-{:03}", (n + 50) % 100));
            tx.set("last", n.to_be_bytes());
            tx.commit().await.unwrap();
        }
        if !fixture.reopen().await {
            return;
        }
        let tx = fixture.db.begin();
        assert_eq!(tx.get("last").await.unwrap().as_deref(), Some(&99u32.to_be_bytes()[..]));
        let items = tx.get_prefix("key-", 1000).await.unwrap().items;
        assert_eq!(items.len(), 50);
        assert!(items.iter().all(|entry| entry.value[..] == [round as u8; 1000]));
        fixture.db.verify().await.unwrap();
    }
}
