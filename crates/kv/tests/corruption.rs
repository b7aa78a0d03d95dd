//! Damaged files: what was committed reads back right, or the damage is reported. Never a panic, never other data.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use valor_env::Env;
use valor_kv::{Database, Durability, EmbeddedOptions, KvError, LocalOptions};

#[path = "../src/random.rs"]
#[allow(dead_code)]
mod random;

use random::{Random, seed_from_env};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(dir: &Path) -> Result<Database, KvError> {
    let options = EmbeddedOptions { memtable_bytes: 20 << 10, ..EmbeddedOptions::default() };
    Database::open_with(Env::real(), dir, Durability::Process, &options, &LocalOptions::default())
}

/// A database with several tables and a log behind them. The second part of the result is what it holds.
async fn sample(dir: &Path) -> (Database, Content) {
    let db = open(dir).unwrap();
    let mut content = Content::new();
    let mut random = Random::new(7);
    for n in 0..400u64 {
        let tx = db.begin();
        let key = format!("key-{:03}", random.below(150)).into_bytes();
        let value = random.next().to_be_bytes().repeat(1 + random.below(40) as usize);
        tx.set(&key, &value);
        content.insert(key, value);
        if n % 5 == 0 {
            let gone = format!("key-{:03}", random.below(150)).into_bytes();
            tx.clear(&gone);
            content.remove(&gone);
        }
        tx.commit().await.unwrap();
    }
    (db, content)
}

/// Everything a database returns, by range and key by key.
async fn read_all(db: &Database) -> Result<Content, KvError> {
    let tx = db.begin();
    let items = tx.get_range("", "z", usize::MAX, false).await?.items;
    let by_range: Content =
        items.into_iter().map(|entry| (entry.key.to_vec(), entry.value.to_vec())).collect();
    let reverse = tx.get_range("", "z", usize::MAX, true).await?.items;
    assert!(by_range.keys().rev().eq(reverse.iter().map(|entry| entry.key.as_ref())));
    for n in 0..150 {
        let key = format!("key-{n:03}").into_bytes();
        assert_eq!(tx.get(&key).await?.as_deref(), by_range.get(&key).map(Vec::as_slice));
    }
    Ok(by_range)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// What became of a damaged copy.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Right,
    Corrupt { file: PathBuf, offset: Option<u64> },
}

/// Opens and reads a copy of `original` after `damage` was done to it.
async fn try_damaged(original: &Path, content: &Content, what: &str, damage: impl FnOnce(&Path)) -> Outcome {
    let copy = TempDir::new().unwrap();
    copy_tree(original, copy.path());
    damage(copy.path());
    let result = match open(copy.path()) {
        Ok(db) => read_all(&db).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(found) => {
            assert!(found == *content, "{what}: other data read");
            Outcome::Right
        }
        Err(KvError::Corrupt { file, offset, .. }) => {
            let file = file
                .strip_prefix(copy.path())
                .unwrap_or_else(|_| panic!("{what}: names {file:?}"))
                .to_owned();
            Outcome::Corrupt { file, offset }
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

/// Offsets to damage: all of a small file, the edges and a sample of a larger one.
fn offsets(len: u64, random: &mut Random) -> Vec<u64> {
    if len <= 100 {
        return (0..len).collect();
    }
    let edges = (0..20).chain(len - 30..len);
    edges.chain((0..60).map(|_| random.below(len))).collect()
}

#[derive(Default, Debug)]
struct Tally {
    right: usize,
    corrupt: usize,
}

/// Flips a bit, cuts, empties and removes every file in turn.
async fn damage_every_file(original: &Path, content: &Content) -> BTreeMap<PathBuf, Tally> {
    let seed = seed_from_env(0x5eed_0006);
    println!("seed {seed:#x} (KV_SEED)");
    let mut random = Random::new(seed);
    let mut tallies: BTreeMap<PathBuf, Tally> = BTreeMap::new();
    for path in files(original) {
        let name = path.strip_prefix(original).unwrap().to_owned();
        let len = fs::metadata(&path).unwrap().len();
        let mut outcomes = Vec::new();
        for offset in offsets(len, &mut random) {
            let bit = random.below(8);
            let what = format!("{}: bit {bit} of byte {offset} flipped", name.display());
            outcomes.push(
                try_damaged(original, content, &what, |copy| {
                    let mut bytes = fs::read(copy.join(&name)).unwrap();
                    bytes[offset as usize] ^= 1 << bit;
                    fs::write(copy.join(&name), bytes).unwrap();
                })
                .await,
            );
        }
        let cuts: Vec<u64> = (0..12).map(|_| random.below(len)).chain([0, len.saturating_sub(1)]).collect();
        for cut in cuts.into_iter().filter(|cut| *cut < len) {
            let what = format!("{}: cut to {cut} of {len} bytes", name.display());
            let cut_file = |copy: &Path| {
                let file = fs::OpenOptions::new().write(true).open(copy.join(&name)).unwrap();
                file.set_len(cut).unwrap();
            };
            outcomes.push(try_damaged(original, content, &what, cut_file).await);
        }
        let what = format!("{}: removed", name.display());
        outcomes.push(
            try_damaged(original, content, &what, |copy| fs::remove_file(copy.join(&name)).unwrap()).await,
        );

        let tally = tallies.entry(name.clone()).or_default();
        for outcome in outcomes {
            match outcome {
                Outcome::Right => tally.right += 1,
                Outcome::Corrupt { file, .. } => {
                    tally.corrupt += 1;
                    // Of a missing file, its directory or the file that should follow it is named; of the two halves of the
                    // tree's manifest, `current` and `v<N>`, which disagree, either one.
                    let related = name.starts_with(&file)
                        || file.parent() == name.parent() && !name.starts_with("tree/tables");
                    assert!(file == name || related, "{}: {} blamed", name.display(), file.display());
                }
            }
        }
    }
    tallies
}

fn print(tallies: &BTreeMap<PathBuf, Tally>) {
    for (name, tally) in tallies {
        println!("{}: {tally:?}", name.display());
    }
}

#[tokio::test]
async fn damage_to_a_closed_database_is_reported_or_harmless() {
    let dir = TempDir::new().unwrap();
    let (db, content) = sample(dir.path()).await;
    db.close().await.unwrap();
    drop(db);
    let tallies = damage_every_file(dir.path(), &content).await;
    print(&tallies);
    let manifest = fs::read(dir.path().join("tree/current")).unwrap();
    let manifest = format!("tree/v{}", u64::from_le_bytes(manifest[..8].try_into().unwrap()));
    let newest_segment = tallies.keys().rfind(|name| name.starts_with("log")).expect("there is a log");
    for (name, tally) in &tallies {
        // Nothing is in the lock file, and the tree leaves old manifests behind. Everything else of a closed database is needed.
        let superseded = name.to_string_lossy().starts_with("tree/v") && *name != Path::new(&manifest);
        // A closed segment whose memtable was written together with an earlier one may outlive the database's closing.
        let in_tables = name.starts_with("log") && name != newest_segment && tally.corrupt == 0;
        let harmless = name.ends_with("LOCK") || superseded || in_tables;
        assert_eq!(tally.corrupt == 0, harmless, "{}: {tally:?}", name.display());
        if !harmless
            && (name.starts_with("log") || ["STATE", "FORMAT"].map(Path::new).contains(&name.as_path()))
        {
            assert_eq!(tally.right, 0, "{}: {tally:?}", name.display());
        }
    }
    assert!(tallies.keys().filter(|name| name.starts_with("tree/tables")).count() > 0);
}

/// The files as a killed process leaves them: nothing was closed, everything is acknowledged.
#[tokio::test]
async fn damage_after_a_crash_is_reported_or_harmless() {
    let dir = TempDir::new().unwrap();
    let (db, content) = sample(dir.path()).await;
    let image = TempDir::new().unwrap();
    // Housekeeping may be at work: copy until an image opens, as a kill at one moment would leave it.
    copy_tree(dir.path(), image.path());
    drop(db);
    if try_damaged(image.path(), &content, "undamaged", |_| ()).await != Outcome::Right {
        println!("the image was taken in the middle of a change of files; nothing to learn from it");
        return;
    }
    let tallies = damage_every_file(image.path(), &content).await;
    print(&tallies);
    let log = tallies.iter().filter(|(name, _)| name.starts_with("log")).map(|(_, tally)| tally);
    assert!(log.map(|tally| tally.corrupt).sum::<usize>() > 50);
}

#[tokio::test]
async fn log_damage_is_located() {
    let dir = TempDir::new().unwrap();
    let (db, content) = sample(dir.path()).await;
    drop(db);
    let log = files(&dir.path().join("log")).pop().unwrap();
    let name = log.strip_prefix(dir.path()).unwrap();
    let len = fs::metadata(&log).unwrap().len();
    let outcome = try_damaged(dir.path(), &content, "flip", |copy| {
        let mut bytes = fs::read(copy.join(name)).unwrap();
        bytes[len as usize - 10] ^= 1;
        fs::write(copy.join(name), bytes).unwrap();
    })
    .await;
    let Outcome::Corrupt { file, offset } = outcome else { panic!("not noticed") };
    assert_eq!(file, name);
    // The last record begins there.
    let offset = offset.unwrap();
    assert!(offset < len - 10 && offset + 400 > len - 10, "{offset} of {len}");
}

#[tokio::test]
async fn a_record_that_was_not_acknowledged_is_cut_off() {
    let dir = TempDir::new().unwrap();
    let (db, content) = sample(dir.path()).await;
    drop(db);
    let log = files(&dir.path().join("log")).pop().unwrap();
    let name = log.strip_prefix(dir.path()).unwrap();
    let bytes = fs::read(&log).unwrap();
    for torn in [&bytes[32..40], &bytes[32..60], &[0; 5000][..]] {
        let outcome = try_damaged(dir.path(), &content, "torn tail", |copy| {
            fs::write(copy.join(name), [&bytes[..], torn].concat()).unwrap();
        })
        .await;
        assert_eq!(outcome, Outcome::Right);
    }
}

#[tokio::test]
async fn verify_names_the_damaged_table() {
    let dir = TempDir::new().unwrap();
    let (db, _) = sample(dir.path()).await;
    db.close().await.unwrap();
    db.verify().await.unwrap();
    let table = files(&dir.path().join("tree/tables")).pop().unwrap();
    let mut bytes = fs::read(&table).unwrap();
    bytes[100] ^= 4;
    fs::write(&table, bytes).unwrap();
    match db.verify().await {
        Err(KvError::Corrupt { file, .. }) => assert_eq!(file, table),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_database_is_open_once() {
    let dir = TempDir::new().unwrap();
    let db = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(KvError::Engine { .. })));
    drop(db);
    open(dir.path()).unwrap();
}

#[tokio::test]
async fn an_interrupted_creation_starts_over() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()).unwrap());
    fs::remove_file(dir.path().join("FORMAT")).unwrap();
    let db = open(dir.path()).unwrap();
    let tx = db.begin();
    tx.set("k", "v");
    tx.commit().await.unwrap();
    drop(tx);
    drop(db);
    // Now there is something to lose.
    fs::remove_file(dir.path().join("FORMAT")).unwrap();
    assert!(matches!(open(dir.path()), Err(KvError::Corrupt { .. })));
}

/// Makes a copy look as if the machine had rebooted since.
fn reboot(copy: &Path) {
    let path = copy.join("STATE");
    let mut state = fs::read(&path).unwrap();
    state[8..24].fill(0xab);
    let crc = crc32c::crc32c(&state[..56]);
    state[56..60].copy_from_slice(&crc.to_le_bytes());
    fs::write(path, state).unwrap();
}

/// Commits numbers in order until an image of the directory is taken; returns the image.
async fn image_of_counter(durability: Durability, commits: u64) -> TempDir {
    let dir = TempDir::new().unwrap();
    let options = EmbeddedOptions { background_sync: None, ..EmbeddedOptions::default() };
    let db =
        Database::open_with(Env::real(), dir.path(), durability, &options, &LocalOptions::default()).unwrap();
    for n in 1..=commits {
        let tx = db.begin();
        tx.set("count", n.to_be_bytes());
        tx.set_versionstamped_value("stamp", [0; 10], 0);
        tx.commit().await.unwrap();
    }
    let image = TempDir::new().unwrap();
    copy_tree(dir.path(), image.path());
    image
}

fn cut_log(copy: &Path, bytes: u64) {
    let log = files(&copy.join("log")).pop().unwrap();
    let file = fs::OpenOptions::new().write(true).open(log).unwrap();
    file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
}

/// With [`Durability::Process`] a power failure may take the last commits, as a whole; no versionstamp is given out twice.
#[tokio::test]
async fn after_a_reboot_unsynced_commits_may_be_missing() {
    let image = image_of_counter(Durability::Process, 100).await;
    let stamp = open(image.path()).unwrap().begin().get("stamp").await.unwrap().unwrap();
    let image = image_of_counter(Durability::Process, 100).await;
    cut_log(image.path(), 1000);
    assert!(
        matches!(open(image.path()), Err(KvError::Corrupt { .. })),
        "the machine still runs: nothing is lost"
    );
    reboot(image.path());
    let db = open(image.path()).unwrap();
    let tx = db.begin();
    let count = tx.get("count").await.unwrap().unwrap();
    let count = u64::from_be_bytes(count[..].try_into().unwrap());
    assert!(count > 50 && count < 100, "{count}");
    let old = tx.get("stamp").await.unwrap().unwrap();
    assert_eq!(u64::from_be_bytes(old[..8].try_into().unwrap()), count);
    tx.set_versionstamped_value("stamp", [0; 10], 0);
    tx.commit().await.unwrap();
    drop(tx);
    assert!(db.begin().get("stamp").await.unwrap().unwrap() > stamp);
    // What was found after the reboot is required from then on.
    drop(db);
    cut_log(image.path(), 10);
    reboot(image.path());
    assert!(matches!(open(image.path()), Err(KvError::Corrupt { .. })));
}

#[tokio::test]
async fn after_a_reboot_synced_commits_are_required() {
    let image = image_of_counter(Durability::Always, 20).await;
    reboot(image.path());
    let db = open(image.path()).unwrap();
    assert_eq!(db.begin().get("count").await.unwrap().unwrap()[..], 20u64.to_be_bytes());
    drop(db);
    let image = image_of_counter(Durability::Always, 20).await;
    reboot(image.path());
    cut_log(image.path(), 1);
    assert!(matches!(open(image.path()), Err(KvError::Corrupt { .. })));
}
