//! Makers of databases, one per engine.

use tempfile::TempDir;
use valor_env::{Endpoint, Env};
use valor_kv::{Database, Durability, EmbeddedOptions, LocalOptions, SimulatedStorage};
use valor_rpc::{Client, ClientConfig, Server, ServerConfig, ServerHandle};

/// A database and what it stands on.
pub(crate) struct Fixture {
    pub(crate) db: Database,
    medium: Medium,
}

enum Medium {
    None,
    Simulated(SimulatedStorage),
    /// Another process, as far as the database can tell.
    Served {
        _server: ServerHandle,
        _dir: TempDir,
    },
    Directory {
        dir: TempDir,
        durability: Durability,
    },
}

pub(crate) fn memory() -> Fixture {
    Fixture { db: Database::memory(Env::real()), medium: Medium::None }
}

pub(crate) fn simulated() -> Fixture {
    let storage = SimulatedStorage::new();
    let db = Database::simulated(Env::real(), &storage, Durability::Process);
    Fixture { db, medium: Medium::Simulated(storage) }
}

pub(crate) fn remote() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let socket = Endpoint::Unix(dir.path().join("kv.sock"));
    let service = valor_kv::remote::router(Database::memory(Env::real()));
    let server = Server::builder(Env::real(), ServerConfig::default()).service(service);
    let server = server.listen(std::slice::from_ref(&socket)).unwrap();
    let client = Client::new(Env::real(), ClientConfig::default());
    let db = Database::remote(Env::real(), client, socket);
    Fixture { db, medium: Medium::Served { _server: server, _dir: dir } }
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
        if matches!(self.medium, Medium::None | Medium::Served { .. }) {
            self.db = old;
            return false;
        }
        old.close().await.unwrap();
        drop(old);
        self.db = match &self.medium {
            Medium::None | Medium::Served { .. } => unreachable!("returned above"),
            Medium::Simulated(storage) => Database::simulated(Env::real(), storage, Durability::Process),
            Medium::Directory { dir, durability } => open(dir, *durability),
        };
        true
    }
}
