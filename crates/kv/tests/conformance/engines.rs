//! Makers of databases, one per engine.

use tempfile::TempDir;
use valor_env::Env;
use valor_kv::{Database, Durability, EmbeddedOptions, LocalOptions, SimulatedStorage};

/// A database and what it stands on.
pub(crate) struct Fixture {
    pub(crate) db: Database,
    medium: Medium,
}

enum Medium {
    None,
    Simulated(SimulatedStorage),
    Directory { dir: TempDir, durability: Durability },
}

pub(crate) fn memory() -> Fixture {
    Fixture { db: Database::memory(Env::real()), medium: Medium::None }
}

pub(crate) fn simulated() -> Fixture {
    let storage = SimulatedStorage::new();
    let db = Database::simulated(Env::real(), &storage, Durability::Process);
    Fixture { db, medium: Medium::Simulated(storage) }
}

pub(crate) fn embedded_process() -> Fixture {
    embedded(Durability::Process)
}

pub(crate) fn embedded_always() -> Fixture {
    embedded(Durability::Always)
}

fn embedded(durability: Durability) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir, durability);
    Fixture { db, medium: Medium::Directory { dir, durability } }
}

/// Small memtables, so that the cases reach tables and merges too.
fn open(dir: &TempDir, durability: Durability) -> Database {
    let options = EmbeddedOptions { memtable_bytes: 64 << 10, ..EmbeddedOptions::default() };
    Database::open_with(Env::real(), dir.path(), durability, &options, &LocalOptions::default()).unwrap()
}

impl Fixture {
    /// Closes the database and opens it again. `false` when the engine keeps nothing.
    pub(crate) async fn reopen(&mut self) -> bool {
        // The old handle must be gone before the directory can be opened again.
        let old = std::mem::replace(&mut self.db, Database::memory(Env::real()));
        if matches!(self.medium, Medium::None) {
            self.db = old;
            return false;
        }
        old.close().await.unwrap();
        drop(old);
        self.db = match &self.medium {
            Medium::None => unreachable!("returned above"),
            Medium::Simulated(storage) => Database::simulated(Env::real(), storage, Durability::Process),
            Medium::Directory { dir, durability } => open(dir, *durability),
        };
        true
    }
}
