//! What a transaction sees.

use valor_kv::{Database, RangeResult};

use crate::engines::Fixture;

async fn put(db: &Database, entries: &[(&str, &str)]) {
    let tx = db.begin();
    for (key, value) in entries {
        tx.set(key, value);
    }
    tx.commit().await.unwrap();
}

fn text(result: RangeResult) -> (String, bool) {
    let pairs: Vec<String> = result
        .items
        .iter()
        .map(|entry| {
            format!("{}={}", String::from_utf8_lossy(&entry.key), String::from_utf8_lossy(&entry.value))
        })
        .collect();
    (pairs.join(" "), result.more)
}

pub(crate) async fn a_transaction_reads_one_version(fixture: &mut Fixture) {
    let db = &fixture.db;
    put(db, &[("a", "1"), ("b", "1")]).await;
    let tx = db.begin();
    assert_eq!(tx.get("a").await.unwrap(), Some("1".into()));
    put(db, &[("a", "2"), ("b", "2"), ("c", "2")]).await;
    let clear = db.begin();
    clear.clear("a");
    clear.commit().await.unwrap();
    assert_eq!(tx.get("a").await.unwrap(), Some("1".into()));
    assert_eq!(tx.get("b").await.unwrap(), Some("1".into()));
    assert_eq!(text(tx.get_range("a", "z", 10, false).await.unwrap()), ("a=1 b=1".into(), false));
    let later = db.begin();
    assert_eq!(text(later.get_range("a", "z", 10, false).await.unwrap()), ("b=2 c=2".into(), false));
    assert!(later.read_version().await.unwrap() > tx.read_version().await.unwrap());
}

pub(crate) async fn reads_see_own_writes(fixture: &mut Fixture) {
    let db = &fixture.db;
    put(db, &[("a", "1"), ("b", "1"), ("c", "1")]).await;
    let tx = db.begin();
    tx.set("a", "own");
    tx.clear("b");
    assert_eq!(tx.get("a").await.unwrap(), Some("own".into()));
    assert_eq!(tx.get("b").await.unwrap(), None);
    assert_eq!(tx.snapshot_get("a").await.unwrap(), Some("own".into()));
    tx.clear_range("a", "d");
    assert_eq!(tx.get("a").await.unwrap(), None);
    assert_eq!(tx.get("c").await.unwrap(), None);
    tx.set("c", "again");
    assert_eq!(tx.get("c").await.unwrap(), Some("again".into()));
    assert_eq!(db.begin().get("a").await.unwrap(), Some("1".into()));
    tx.commit().await.unwrap();
    let after = db.begin().get_range("", "\u{7f}", 10, false).await.unwrap();
    assert_eq!(text(after), ("c=again".into(), false));
}

pub(crate) async fn ranges_see_own_writes(fixture: &mut Fixture) {
    let db = &fixture.db;
    put(db, &[("b", "0"), ("d", "0"), ("f", "0"), ("h", "0")]).await;
    let tx = db.begin();
    tx.set("a", "1");
    tx.set("d", "1");
    tx.clear("f");
    tx.set("g", "1");
    let all = "a=1 b=0 d=1 g=1 h=0";
    assert_eq!(text(tx.get_range("a", "z", 10, false).await.unwrap()), (all.into(), false));
    assert_eq!(text(tx.get_range("a", "z", 3, false).await.unwrap()), ("a=1 b=0 d=1".into(), true));
    assert_eq!(text(tx.get_range("a", "z", 3, true).await.unwrap()), ("h=0 g=1 d=1".into(), true));
    assert_eq!(text(tx.get_range("b", "h", 10, true).await.unwrap()), ("g=1 d=1 b=0".into(), false));
    assert_eq!(text(tx.snapshot_get_range("e", "h", 10, false).await.unwrap()), ("g=1".into(), false));
    assert_eq!(text(tx.get_range("d", "d", 10, false).await.unwrap()), ("".into(), false));
    tx.clear_range("b", "e");
    tx.set("c", "2");
    assert_eq!(text(tx.get_range("", "z", 10, false).await.unwrap()), ("a=1 c=2 g=1 h=0".into(), false));
    // A limit is filled although the store's first entries are cleared.
    assert_eq!(text(tx.get_range("b", "z", 2, false).await.unwrap()), ("c=2 g=1".into(), true));
    assert_eq!(text(tx.get_range("a", "f", 2, true).await.unwrap()), ("c=2 a=1".into(), true));
}

pub(crate) async fn ranges_longer_than_a_chunk(fixture: &mut Fixture) {
    const COUNT: usize = 5000;
    let key = |n: usize| format!("key-{n:05}");
    let tx = fixture.db.begin();
    for n in 0..COUNT {
        tx.set(key(n), "stored");
    }
    tx.commit().await.unwrap();
    let tx = fixture.db.begin();
    tx.clear_range(key(100), key(4000));
    for n in (0..COUNT).step_by(7) {
        tx.set(format!("{}+", key(n)), "own");
    }
    let mut expected: Vec<String> = (0..COUNT).filter(|n| !(100..4000).contains(n)).map(key).collect();
    expected.extend((0..COUNT).step_by(7).map(|n| format!("{}+", key(n))));
    expected.sort();
    for reverse in [false, true] {
        for limit in [1, 99, 1024, 1025, 2000, usize::MAX] {
            let result = tx.get_range("key", "kez", limit, reverse).await.unwrap();
            let keys: Vec<String> =
                result.items.iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect();
            let mut expected = expected.clone();
            if reverse {
                expected.reverse();
            }
            expected.truncate(limit);
            assert_eq!(keys, expected, "limit {limit} reverse {reverse}");
            assert_eq!(result.more, keys.len() == limit);
        }
    }
}

pub(crate) async fn prefixes(fixture: &mut Fixture) {
    let db = &fixture.db;
    let tx = db.begin();
    for key in [&b"DENT"[..], b"DENT\x01a", b"DENT\x01b", b"DENT\xff\xff", b"DENU", b"DENS\xff"] {
        tx.set(key, "");
    }
    tx.commit().await.unwrap();
    let tx = db.begin();
    assert_eq!(tx.get_prefix("DENT", 10).await.unwrap().items.len(), 4);
    assert_eq!(tx.get_prefix(b"DENT\x01", 10).await.unwrap().items.len(), 2);
    assert_eq!(tx.get_prefix(b"DENT\xff", 10).await.unwrap().items.len(), 1);
    assert_eq!(tx.snapshot_get_prefix("DEN", 2).await.unwrap().items.len(), 2);
}
