//! The world of one process: its clock, randomness, network and disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::time::Instant;
use valor_env::disk::memory::MemoryDisk;
use valor_env::disk::{Disk, DiskFile, IoFuture, OpenOptions, Space};
use valor_env::{BoxFuture, Endpoint, Env, Listener, Stream, UtcMicros, World};

use crate::net::{Host, Life, Net};

/// Wall clock at the start of a run: 2025-01-01.
const EPOCH: i64 = 1_735_689_600_000_000;

/// What stays of a machine when its process is started again.
pub struct Machine {
    /// Address.
    pub host: Host,
    /// Name in traces.
    pub name: String,
    /// Disk.
    pub disk: MemoryDisk,
    net: Net,
    start: Instant,
    offset: Arc<AtomicI64>,
    seed: u64,
    lives: u64,
}

impl Machine {
    /// A machine with an empty disk.
    pub fn new(host: Host, name: impl Into<String>, net: &Net, seed: u64) -> Self {
        Self {
            host,
            name: name.into(),
            disk: MemoryDisk::new(seed),
            net: net.clone(),
            start: Instant::now(),
            offset: Arc::default(),
            seed,
            lives: 0,
        }
    }

    /// The world of the machine's next process, and the process's life.
    pub fn next_life(&mut self) -> (Env, Arc<Life>) {
        self.lives += 1;
        let life = Arc::new(Life::default());
        let world = NodeWorld {
            host: self.host,
            name: self.name.clone(),
            life: Arc::clone(&life),
            net: self.net.clone(),
            disk: self.disk.clone(),
            start: self.start,
            offset: Arc::clone(&self.offset),
            rng: Mutex::new(StdRng::seed_from_u64(self.seed.wrapping_add(self.lives << 32))),
        };
        (Env::new(world), life)
    }

    /// Moves the wall clock.
    pub fn jump(&self, micros: i64) {
        self.offset.fetch_add(micros, Ordering::Relaxed);
    }

    /// Sets the wall clock right.
    pub fn set_clock_right(&self) {
        self.offset.store(0, Ordering::Relaxed);
    }
}

struct NodeWorld {
    host: Host,
    name: String,
    life: Arc<Life>,
    net: Net,
    disk: MemoryDisk,
    start: Instant,
    offset: Arc<AtomicI64>,
    rng: Mutex<StdRng>,
}

impl World for NodeWorld {
    fn utc_now(&self) -> UtcMicros {
        let elapsed: Duration = self.start.elapsed();
        UtcMicros(EPOCH + elapsed.as_micros() as i64 + self.offset.load(Ordering::Relaxed))
    }

    fn fill_random(&self, buf: &mut [u8]) {
        self.rng.lock().fill_bytes(buf);
    }

    fn hostname(&self) -> String {
        self.name.clone()
    }

    fn connect(&self, to: Endpoint) -> BoxFuture<io::Result<Stream>> {
        let (net, host, life) = (self.net.clone(), self.host, Arc::clone(&self.life));
        Box::pin(async move { net.connect(host, life, to).await })
    }

    fn bind(&self, on: &Endpoint, _: bool) -> io::Result<Listener> {
        self.net.bind(self.host, &self.life, on)
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(OwnDisk { disk: self.disk.handle(), life: Arc::clone(&self.life) })
    }
}

/// A machine's disk as one process sees it: what is left of a dead process gets no answer. Files that it opened fail by
/// themselves, since the disk knows which start of the process they belong to.
struct OwnDisk {
    disk: Arc<dyn Disk>,
    life: Arc<Life>,
}

impl OwnDisk {
    fn perform<T: Send + 'static>(&self, operation: impl FnOnce(&dyn Disk) -> IoFuture<T>) -> IoFuture<T> {
        if self.life.is_dead() {
            return IoFuture::boxed(std::future::pending());
        }
        operation(&*self.disk)
    }
}

impl Disk for OwnDisk {
    fn open(&self, path: &Path, options: OpenOptions) -> IoFuture<Arc<dyn DiskFile>> {
        self.perform(|disk| disk.open(path, options))
    }

    fn create_dir_all(&self, path: &Path) -> IoFuture<()> {
        self.perform(|disk| disk.create_dir_all(path))
    }

    fn remove_file(&self, path: &Path) -> IoFuture<()> {
        self.perform(|disk| disk.remove_file(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> IoFuture<()> {
        self.perform(|disk| disk.rename(from, to))
    }

    fn list(&self, path: &Path) -> IoFuture<Vec<PathBuf>> {
        self.perform(|disk| disk.list(path))
    }

    fn sync_dir(&self, path: &Path) -> IoFuture<()> {
        self.perform(|disk| disk.sync_dir(path))
    }

    fn space(&self, path: &Path) -> IoFuture<Space> {
        self.perform(|disk| disk.space(path))
    }

    fn exists(&self, path: &Path) -> IoFuture<bool> {
        self.perform(|disk| disk.exists(path))
    }

    fn boot_id(&self) -> [u8; 16] {
        self.disk.boot_id()
    }
}
