//! Processes that are killed in the middle of commits.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use valor_env::Env;
use valor_kv::{Database, Durability, EmbeddedOptions, KvError, LocalOptions, SimulatedStorage};

#[path = "../src/random.rs"]
#[allow(dead_code)]
mod random;

use random::{Random, seed_from_env};

const DIR: &str = "KV_CRASH_DIR";
const SYNCED: &str = "KV_CRASH_SYNCED";

/// Writers in the child, each with keys of its own.
const WRITERS: u64 = 4;
/// Rows a writer leaves behind.
const ROWS: u64 = 20;

fn durability(synced: bool) -> Durability {
    if synced { Durability::Always } else { Durability::Process }
}

fn open(dir: &Path, synced: bool) -> Database {
    // Small memtables: the kill also hits closed ones, tables and merges.
    let options = EmbeddedOptions { memtable_bytes: 100 << 10, ..EmbeddedOptions::default() };
    Database::open_with(Env::real(), dir, durability(synced), &options, &LocalOptions::default()).unwrap()
}

/// One commit of a writer: the sequence number in two places, a new row, the oldest row gone.
async fn step(db: &Database, writer: u64) -> Result<u64, KvError> {
    db.run(|tx| async move {
        let last = read_number(tx.get(format!("{writer}/first")).await?);
        let next = last + 1;
        tx.set(format!("{writer}/first"), next.to_string());
        tx.set(format!("{writer}/last"), next.to_string());
        tx.set(format!("{writer}/row/{next:09}"), row(next));
        let oldest = next.saturating_sub(ROWS);
        tx.clear_range(format!("{writer}/row/"), format!("{writer}/row/{:09}", oldest + 1));
        Ok(next)
    })
    .await
}

fn row(n: u64) -> Vec<u8> {
    // Some rows are longer than a page.
    let len = if n.is_multiple_of(37) { 9000 } else { 300 };
    n.to_be_bytes().repeat(len / 8)
}

fn read_number(value: Option<bytes::Bytes>) -> u64 {
    value.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap())
}

/// The child: commits and tells, until it is killed.
#[test]
#[ignore = "started by the tests below"]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let db = open(Path::new(&dir), std::env::var(SYNCED).is_ok());
    let threads: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let db = db.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    loop {
                        let committed = step(&db, writer).await.unwrap();
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "acked {writer} {committed}").unwrap();
                        out.flush().unwrap();
                    }
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

fn start(dir: &Path, synced: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--ignored", "--nocapture"]).env(DIR, dir).stdout(Stdio::piped());
    if synced {
        command.env(SYNCED, "1");
    }
    command.spawn().unwrap()
}

/// Lets the child acknowledge `count` commits, kills it, and returns the last acknowledged number of each writer, including
/// what was still on its way.
fn kill_after(mut child: Child, count: u64) -> BTreeMap<u64, u64> {
    let mut acked = BTreeMap::new();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = 0;
    for line in lines.map_while(Result::ok) {
        // The test harness may have begun the line.
        let Some((_, numbers)) = line.split_once("acked ") else { continue };
        let Some((writer, committed)) = numbers.split_once(' ') else { continue };
        acked.insert(writer.parse().unwrap(), committed.parse().unwrap());
        seen += 1;
        if seen == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= count, "the child ended after {seen} commits");
    acked
}

async fn check(db: &Database, acked: &BTreeMap<u64, u64>) {
    let tx = db.begin();
    for writer in 0..WRITERS {
        let first = read_number(tx.get(format!("{writer}/first")).await.unwrap());
        let last = read_number(tx.get(format!("{writer}/last")).await.unwrap());
        let acked = acked.get(&writer).copied().unwrap_or(0);
        assert_eq!(first, last, "writer {writer}: a commit is there in part");
        assert!(first >= acked, "writer {writer}: commit {acked} was acknowledged, {first} is there");
        assert!(
            first <= acked.max(1) + 1 || acked == 0,
            "writer {writer}: {first} committed, {acked} acknowledged"
        );
        let rows = tx.get_prefix(format!("{writer}/row/"), 1000).await.unwrap().items;
        let expected: Vec<_> = (first.saturating_sub(ROWS) + 1..=first)
            .map(|n| (format!("{writer}/row/{n:09}"), row(n)))
            .collect();
        let found: Vec<_> = rows
            .iter()
            .map(|entry| (String::from_utf8(entry.key.to_vec()).unwrap(), entry.value.to_vec()))
            .collect();
        assert!(found == expected, "writer {writer}: rows differ after commit {first}");
    }
}

async fn kill_and_reopen(synced: bool) {
    let seed = seed_from_env(0x5eed_0004);
    println!("seed {seed:#x} (KV_SEED)");
    let mut random = Random::new(seed);
    let dir = tempfile::tempdir().unwrap();
    for round in 0..8 {
        let acked = kill_after(start(dir.path(), synced), 1 + random.below(1500));
        let db = open(dir.path(), synced);
        check(&db, &acked).await;
        if round % 2 == 1 {
            db.verify().await.unwrap();
            // A commit of our own between two crashes.
            step(&db, 0).await.unwrap();
        }
    }
}

#[tokio::test]
async fn acknowledged_commits_survive_a_killed_process() {
    kill_and_reopen(false).await;
}

#[tokio::test]
async fn acknowledged_synced_commits_survive_a_killed_process() {
    kill_and_reopen(true).await;
}

/// Versionstamps grow even when commits were lost with the power.
#[tokio::test]
async fn a_simulated_power_failure_takes_only_commits_that_were_not_synced() {
    let seed = seed_from_env(0x5eed_0005);
    println!("seed {seed:#x} (KV_SEED)");
    let env = Env::real();
    for durability in [Durability::Process, Durability::Always] {
        let storage = SimulatedStorage::new();
        let mut random = Random::new(seed);
        let mut lost_some = false;
        let mut required = 0;
        for _ in 0..30 {
            let db = Database::simulated(env.clone(), &storage, durability);
            let mut last = read_number(db.begin().get("0/first").await.unwrap());
            assert!(last >= required);
            check(&db, &BTreeMap::from([(0, last)])).await;
            for _ in 0..random.below(20) {
                last = step(&db, 0).await.unwrap();
            }
            if random.below(2) == 0 {
                storage.lose_power(&env);
                assert!(step(&db, 0).await.is_err(), "the machine is off");
                required = if durability == Durability::Always { last } else { 0 };
            } else {
                // The end of the process alone loses nothing.
                required = last;
            }
            let left = read_number(
                Database::simulated(env.clone(), &storage, durability).begin().get("0/first").await.unwrap(),
            );
            lost_some |= left < last;
        }
        assert_eq!(lost_some, durability == Durability::Process);
    }
}
