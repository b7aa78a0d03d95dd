//! The embedded engine under pressure.

use std::time::Duration;

use valor_env::Env;
use valor_kv::{Database, Durability, EmbeddedOptions, KvError, LocalOptions};

/// Memtables of a few commits: commits must wait for tables to be written and merged, and go on.
#[tokio::test]
async fn commits_wait_for_housekeeping() {
    for durability in [Durability::Process, Durability::Always] {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            memtable_bytes: 4 << 10,
            cache_bytes: 1 << 20,
            background_sync: Some(Duration::from_millis(1)),
        };
        let db = Database::open_with(Env::real(), dir.path(), durability, &options, &LocalOptions::default())
            .unwrap();
        let writers: Vec<_> = (0..4u32)
            .map(|writer| {
                let db = db.clone();
                tokio::spawn(async move {
                    for n in 0..100u32 {
                        db.run(async |tx| {
                            tx.get(format!("{writer}")).await?;
                            tx.set(format!("{writer}"), n.to_be_bytes());
                            tx.set(format!("{writer}/{}", n % 50), vec![n as u8; 1000]);
                            Ok::<_, KvError>(())
                        })
                        .await
                        .unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let tx = db.begin();
        for writer in 0..4u32 {
            assert_eq!(tx.get(format!("{writer}")).await.unwrap().as_deref(), Some(&99u32.to_be_bytes()[..]));
            let items = tx.get_prefix(format!("{writer}/"), 100).await.unwrap().items;
            assert_eq!(items.len(), 50);
            assert!(items.iter().all(|entry| entry.value.len() == 1000 && entry.value[0] >= 50));
        }
        drop(tx);
        db.verify().await.unwrap();
    }
}

/// A snapshot keeps its version through memtables, tables and merges.
#[tokio::test]
async fn an_old_snapshot_reads_through_housekeeping() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { memtable_bytes: 16 << 10, ..EmbeddedOptions::default() };
    let db =
        Database::open_with(Env::real(), dir.path(), Durability::Process, &options, &LocalOptions::default())
            .unwrap();
    let mut snapshots = Vec::new();
    for round in 0..40u32 {
        let tx = db.begin();
        for key in 0..20u32 {
            if (round + key).is_multiple_of(7) {
                tx.clear(format!("k{key:02}"));
            } else {
                tx.set(format!("k{key:02}"), vec![round as u8; 400]);
            }
        }
        tx.commit().await.unwrap();
        drop(tx);
        let tx = db.begin();
        tx.read_version().await.unwrap();
        snapshots.push((round, tx));
        for (round, tx) in &snapshots {
            let items = tx.snapshot_get_prefix("k", 100).await.unwrap().items;
            let expected = (0..20u32).filter(|key| !(round + key).is_multiple_of(7));
            assert!(items.iter().all(|entry| entry.value[..] == [*round as u8; 400]), "round {round}");
            assert!(
                items
                    .iter()
                    .map(|entry| &entry.key)
                    .eq(expected.map(|key| format!("k{key:02}")).collect::<Vec<_>>().iter())
            );
        }
        if round % 10 == 9 {
            // Some of the snapshots go, others stay behind.
            snapshots.retain(|(round, _)| round % 3 == 0);
        }
    }
}
