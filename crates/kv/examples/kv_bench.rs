//! Measures the engines: commits per second, latencies, memory, opening.
//!
//! `cargo run --release -p valor-kv --example kv_bench [DIRECTORY [SECONDS]]`; figures of one machine are in README.md.
//!
//! A transaction is what the metadata service does to create a file: one read, three writes of 200 bytes, one of them to a key
//! that was read.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use valor_env::Env;
use valor_kv::{Database, Durability, EmbeddedOptions, KvError, LocalOptions};

/// Keys that exist in the end, per prefix.
const KEYS: u64 = 400_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| "/tmp".into());
    let seconds = arguments.next().map_or(3, |text| text.parse().expect("SECONDS is a number"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(run(Path::new(&directory), Duration::from_secs(seconds)));
}

async fn run(directory: &Path, time: Duration) {
    let base = resident_mib();
    println!("resident before anything: {base:.1} MiB");
    println!("\nmemory engine");
    let db = Database::memory(Env::real());
    commits_one_by_one(&db, 100_000).await;
    point_gets(&db).await;
    drop(db);

    println!("\nembedded engine, process durability");
    let dir = tempfile::tempdir_in(directory).expect("the directory can be written");
    let before = resident_mib();
    let db = open(dir.path(), Durability::Process);
    println!("  resident after creation: +{:.1} MiB", resident_mib() - before);
    commits_one_by_one(&db, 20_000).await;
    commits_one_by_one(&db, 150_000).await;
    concurrent_commits(&db, time, 64).await;
    println!("  resident after load: +{:.1} MiB", resident_mib() - before);
    point_gets(&db).await;
    range_reads(&db).await;
    println!("  resident after reads: +{:.1} MiB", resident_mib() - before);
    let closing = Instant::now();
    drop(db);
    println!("  close {:.1?}", closing.elapsed());
    let db = open(dir.path(), Durability::Process);
    println!("  resident: +{:.1} MiB, on disk {:.1} MiB", resident_mib() - before, disk_mib(dir.path()));
    drop(db);

    println!("\nembedded engine, synced");
    let dir = tempfile::tempdir_in(directory).expect("the directory can be written");
    let db = open(dir.path(), Durability::Always);
    for tasks in [1, 4, 16, 64] {
        concurrent_commits(&db, time, tasks).await;
    }
}

fn open(path: &Path, durability: Durability) -> Database {
    let begun = Instant::now();
    let options = (EmbeddedOptions::default(), LocalOptions::default());
    let db = Database::open_with(Env::real(), path, durability, &options.0, &options.1)
        .expect("the database opens");
    println!("  open {:.1?}", begun.elapsed());
    db
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn key(&mut self, prefix: &[u8; 4]) -> Vec<u8> {
        [&prefix[..], &(self.next() % KEYS).to_le_bytes()].concat()
    }
}

async fn create_file(db: &Database, random: &mut Random) -> Result<(), KvError> {
    let value = [random.next() as u8; 200];
    let (inode, entry, session) = (random.key(b"INOD"), random.key(b"DENT"), random.key(b"INOS"));
    let tx = db.begin();
    tx.get(&entry).await?;
    tx.set(inode, value);
    tx.set(entry, value);
    tx.set(session, value);
    tx.commit().await.map(|_| ())
}

async fn commits_one_by_one(db: &Database, count: usize) {
    let mut random = Random(88_172_645_463_325_252);
    let mut latencies = Vec::with_capacity(count);
    let begun = Instant::now();
    for _ in 0..count {
        let begun = Instant::now();
        create_file(db, &mut random).await.expect("nobody else writes");
        latencies.push(begun.elapsed());
    }
    report("one by one", count as f64 / begun.elapsed().as_secs_f64(), &mut latencies);
}

async fn concurrent_commits(db: &Database, time: Duration, tasks: u64) {
    let end = Instant::now() + time;
    let tasks_running: Vec<_> = (0..tasks)
        .map(|task| {
            let db = db.clone();
            tokio::spawn(async move {
                let mut random = Random(7777 + task * 977);
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let begun = Instant::now();
                    match create_file(&db, &mut random).await {
                        Ok(()) => latencies.push(begun.elapsed()),
                        Err(KvError::Conflict) => {}
                        Err(error) => panic!("{error}"),
                    }
                    // Commits that are done at once would keep the thread.
                    tokio::task::yield_now().await;
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks_running {
        latencies.extend(task.await.expect("a task ends well"));
    }
    let rate = latencies.len() as f64 / time.as_secs_f64();
    report(&format!("{tasks} at a time"), rate, &mut latencies);
}

async fn point_gets(db: &Database) {
    const COUNT: usize = 200_000;
    let mut random = Random(99);
    let mut latencies = Vec::with_capacity(COUNT);
    let mut found = 0;
    let all = Instant::now();
    for _ in 0..COUNT {
        let key = random.key(b"INOD");
        let begun = Instant::now();
        let value = db.begin().snapshot_get(key).await.expect("reads succeed");
        latencies.push(begun.elapsed());
        found += usize::from(value.is_some());
    }
    report(&format!("gets, {found} found"), COUNT as f64 / all.elapsed().as_secs_f64(), &mut latencies);
}

async fn range_reads(db: &Database) {
    const COUNT: usize = 2_000;
    let mut random = Random(99);
    let mut latencies = Vec::with_capacity(COUNT);
    let all = Instant::now();
    for _ in 0..COUNT {
        let key = random.key(b"DENT");
        let begun = Instant::now();
        db.begin().snapshot_get_range(key, "DENU", 100, false).await.expect("reads succeed");
        latencies.push(begun.elapsed());
    }
    report("ranges of 100", COUNT as f64 / all.elapsed().as_secs_f64(), &mut latencies);
}

fn report(what: &str, per_second: f64, latencies: &mut [Duration]) {
    latencies.sort_unstable();
    let part =
        |thousandths: usize| latencies[(latencies.len() * thousandths / 1000).min(latencies.len() - 1)];
    println!(
        "  {what}: {per_second:.0}/s, p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?}, max {:.1?}",
        part(500),
        part(990),
        part(999),
        part(1000)
    );
}

fn resident_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Rss:"));
    let kib =
        line.and_then(|line| line.split_whitespace().nth(1)).and_then(|number| number.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn disk_mib(path: &Path) -> f64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(path) else { return 0.0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_mib(&entry.path()),
            Ok(metadata) => (metadata.blocks() * 512) as f64 / 1048576.0,
            Err(_) => 0.0,
        })
        .sum()
}
