//! What updates and reads cost: operations per second, and bytes that go to the disk per byte of user data.
//!
//! `cargo run --release -p valor-chunk-engine --example engine_bench -- [DIRECTORY] [CHUNKS]`
//!
//! "handed over" are the bytes of write calls, "written" what the block device under the directory counted, with
//! everything flushed before and after; that of other processes is counted too. Both include the folding of overwrites
//! into their chunks, which is brought to its end within the measurement.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use valor_chunk_engine::{Engine, Options, SyncMode, Tag, Update, UpdateKind};
use valor_env::buffer::PooledBuf;
use valor_env::disk::{Disk, DiskFile, IoFuture, OpenOptions, Space, real};

/// Counts what goes through a disk.
struct Counting {
    disk: Arc<dyn Disk>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    bytes: AtomicU64,
    writes: AtomicU64,
    syncs: AtomicU64,
}

struct CountingFile {
    file: Arc<dyn DiskFile>,
    counts: Arc<Counts>,
}

impl Disk for Counting {
    fn open(&self, path: &Path, options: OpenOptions) -> IoFuture<Arc<dyn DiskFile>> {
        let (opening, counts) = (self.disk.open(path, options), Arc::clone(&self.counts));
        IoFuture::boxed(async move {
            let file = opening.await?;
            Ok(Arc::new(CountingFile { file, counts }) as Arc<dyn DiskFile>)
        })
    }
    fn create_dir_all(&self, path: &Path) -> IoFuture<()> {
        self.disk.create_dir_all(path)
    }
    fn remove_file(&self, path: &Path) -> IoFuture<()> {
        self.disk.remove_file(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> IoFuture<()> {
        self.disk.rename(from, to)
    }
    fn list(&self, path: &Path) -> IoFuture<Vec<PathBuf>> {
        self.disk.list(path)
    }
    fn sync_dir(&self, path: &Path) -> IoFuture<()> {
        self.disk.sync_dir(path)
    }
    fn space(&self, path: &Path) -> IoFuture<Space> {
        self.disk.space(path)
    }
    fn exists(&self, path: &Path) -> IoFuture<bool> {
        self.disk.exists(path)
    }
    fn boot_id(&self) -> [u8; 16] {
        self.disk.boot_id()
    }
}

impl DiskFile for CountingFile {
    fn read_at(&self, offset: u64, len: usize) -> IoFuture<PooledBuf> {
        self.file.read_at(offset, len)
    }
    fn write_at(&self, offset: u64, data: &[Bytes]) -> IoFuture<()> {
        self.counts.bytes.fetch_add(data.iter().map(|piece| piece.len() as u64).sum(), Ordering::Relaxed);
        self.counts.writes.fetch_add(1, Ordering::Relaxed);
        self.file.write_at(offset, data)
    }
    fn sync_data(&self) -> IoFuture<()> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }
    fn size(&self) -> IoFuture<u64> {
        self.file.size()
    }
    fn set_len(&self, len: u64) -> IoFuture<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> IoFuture<()> {
        self.file.allocate(offset, len)
    }
    fn zero_range(&self, offset: u64, len: u64) -> IoFuture<()> {
        self.file.zero_range(offset, len)
    }
    fn punch_hole(&self, offset: u64, len: u64) -> IoFuture<()> {
        self.file.punch_hole(offset, len)
    }
}

/// A number from /proc/self.
fn proc_self(file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0)
}

/// Bytes written so far by the device under a directory, with nothing left to write.
fn device_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let _ = std::process::Command::new("sync").arg("-f").arg(dir).status();
    let dev = std::fs::metadata(dir).map_or(0, |metadata| metadata.dev());
    let (major, minor) = (dev >> 8 & 0xfff, dev & 0xff | dev >> 12 & 0xfff00);
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
    stat.split_whitespace().nth(6).and_then(|sectors| sectors.parse::<u64>().ok()).unwrap_or(0) * 512
}

struct Bench {
    dir: PathBuf,
    engine: Arc<Engine>,
    counts: Arc<Counts>,
    chunk_size: u32,
    chunks: u64,
    rng: StdRng,
    noise: Bytes,
}

impl Bench {
    async fn new(dir: &Path, sync: SyncMode, chunk_size: u32, chunks: u64) -> Bench {
        let counts = Arc::new(Counts::default());
        let disk = Arc::new(Counting { disk: real(), counts: Arc::clone(&counts) });
        let options = Options { sync, ..Options::new(1) };
        let engine = Engine::create(disk, dir, options).await.expect("the directory holds no engine");
        tokio::spawn(Arc::clone(&engine).maintain());
        let mut rng = StdRng::seed_from_u64(1);
        let mut noise = vec![0; 8 << 20];
        rng.fill_bytes(&mut noise);
        Bench { dir: dir.to_path_buf(), engine, counts, chunk_size, chunks, rng, noise: noise.into() }
    }

    fn data(&mut self, len: usize) -> Bytes {
        let at = self.rng.random_range(0..self.noise.len() - len);
        self.noise.slice(at..at + len)
    }

    /// Runs operations of `bytes` user bytes each, then lets the background come to its end, and reports.
    async fn measure<F: Future<Output = ()>>(
        &mut self,
        name: &str,
        count: u64,
        bytes: u64,
        op: impl Fn(u64, Bytes) -> F,
    ) {
        let data: Vec<Bytes> = (0..64).map(|_| self.data(bytes as usize)).collect();
        let before =
            [&self.counts.bytes, &self.counts.writes, &self.counts.syncs].map(|c| c.load(Ordering::Relaxed));
        let written = device_bytes(&self.dir);
        let started = Instant::now();
        for i in 0..count {
            op(i, data[i as usize % data.len()].clone()).await;
            if i % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let elapsed = started.elapsed();
        self.engine.settle().await.expect("settling");
        let settled = started.elapsed() - elapsed;
        let after =
            [&self.counts.bytes, &self.counts.writes, &self.counts.syncs].map(|c| c.load(Ordering::Relaxed));
        let written = device_bytes(&self.dir) - written;
        report(name, count, bytes, elapsed, settled);
        let per_byte = |n: u64| n as f64 / (count * bytes) as f64;
        println!(
            "    {:.3} bytes handed over per byte, {:.3} written; {:.2} writes and {:.3} syncs per operation",
            per_byte(after[0] - before[0]),
            per_byte(written),
            (after[1] - before[1]) as f64 / count as f64,
            (after[2] - before[2]) as f64 / count as f64,
        );
    }
}

fn report(name: &str, count: u64, bytes: u64, elapsed: Duration, settled: Duration) {
    println!(
        "{name:44} {:>9.0} op/s {:>8.2} us/op {:>8.1} MB/s   (+{:.2} s until settled)",
        count as f64 / elapsed.as_secs_f64(),
        elapsed.as_secs_f64() * 1e6 / count as f64,
        (count * bytes) as f64 / elapsed.as_secs_f64() / 1e6,
        settled.as_secs_f64(),
    );
}

fn id(chunk: u64) -> [u8; 16] {
    u128::from(chunk).to_be_bytes()
}

async fn update(engine: &Arc<Engine>, chunk: u64, offset: u32, data: Bytes, chunk_size: u32) {
    let id = id(chunk);
    let ver = engine.get_meta(&id).and_then(|meta| meta.committed).map_or(0, |version| version.ver) + 1;
    let kind = UpdateKind::Write { offset, data: vec![data], checksum: None };
    let update = Update { kind, ver, chain_ver: 1, chunk_size, tag: Tag::default() };
    engine.prepare(&id, update).await.expect("prepare");
    engine.commit(&id, ver, 1).await.expect("commit");
}

fn mix(i: u64) -> u64 {
    let x = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 8
}

async fn process(dir: &Path, chunks: u64) {
    let size = 1u32 << 20;
    let mut bench = Bench::new(&dir.join("process"), SyncMode::Process, size, chunks).await;
    let engine = Arc::clone(&bench.engine);
    let blocks = u64::from(size) / 4096;
    let fresh = |i: u64, data: Bytes| {
        let engine = Arc::clone(&engine);
        async move { update(&engine, i % chunks, 0, data, size).await }
    };
    bench.measure("write 1 MiB, new chunks", chunks, 1 << 20, fresh).await;
    bench.measure("write 1 MiB, whole chunks again", chunks, 1 << 20, fresh).await;
    let overwrite = |i: u64, data: Bytes| {
        let engine = Arc::clone(&engine);
        async move { update(&engine, mix(i) % chunks, (mix(i) / chunks % blocks * 4096) as u32, data, size).await }
    };
    bench.measure("overwrite 4 KiB, random", chunks * 64, 4096, overwrite).await;
    let unaligned = |i: u64, data: Bytes| {
        let engine = Arc::clone(&engine);
        async move {
            let offset = mix(i) / chunks % (u64::from(size) - 4096);
            update(&engine, mix(i) % chunks, offset as u32, data, size).await;
        }
    };
    bench.measure("overwrite 4 KiB, random, not aligned", chunks * 32, 4096, unaligned).await;
    let append = |i: u64, data: Bytes| {
        let engine = Arc::clone(&engine);
        async move { update(&engine, chunks + i / 16, (i % 16 * 65_536) as u32, data, size).await }
    };
    bench.measure("append 64 KiB", chunks * 16, 65_536, append).await;
    let append = |i: u64, data: Bytes| {
        let engine = Arc::clone(&engine);
        async move { update(&engine, 3 * chunks + i / 256, (i % 256 * 4096) as u32, data, size).await }
    };
    bench.measure("append 4 KiB", chunks * 64, 4096, append).await;
    read(&bench, "read 1 MiB, cached", chunks * 2, 1 << 20).await;
    read(&bench, "read 4 KiB, cached, random", chunks * 256, 4096).await;
    bench.engine.close().await.expect("close");
    let started = Instant::now();
    let engine = Engine::open(real(), &dir.join("process"), Options::new(1)).await.expect("open");
    println!("open with {} chunks: {:?}", engine.space().await.expect("space").chunks, started.elapsed());
}

async fn read(bench: &Bench, name: &str, count: u64, len: u32) {
    let started = Instant::now();
    for i in 0..count {
        let blocks = u64::from(bench.chunk_size / len);
        let offset = (mix(i) / bench.chunks % blocks) as u32 * len;
        let read = bench.engine.read(&id(mix(i) % bench.chunks), offset, len, false).await.expect("read");
        assert_eq!(read.data.len(), len as usize);
    }
    report(name, count, len.into(), started.elapsed(), Duration::ZERO);
}

async fn always(dir: &Path, chunks: u64) {
    let size = 1u32 << 20;
    let mut bench = Bench::new(&dir.join("always"), SyncMode::Always, size, chunks).await;
    let engine = Arc::clone(&bench.engine);
    let fresh = |i: u64, data: Bytes| {
        let engine = Arc::clone(&engine);
        async move { update(&engine, i % chunks, 0, data, size).await }
    };
    bench.measure("sync always: write 1 MiB, new chunks", chunks, 1 << 20, fresh).await;
    let overwrite = |i: u64, data: Bytes| {
        let engine = Arc::clone(&engine);
        async move { update(&engine, mix(i) % chunks, (mix(i) / chunks % 256 * 4096) as u32, data, size).await }
    };
    bench.measure("sync always: overwrite 4 KiB, one at a time", 200, 4096, overwrite).await;
    let syncs = bench.counts.syncs.load(Ordering::Relaxed);
    let started = Instant::now();
    let tasks: Vec<_> = (0..32u64)
        .map(|task| {
            let (engine, data) = (Arc::clone(&bench.engine), bench.noise.slice(..4096));
            tokio::spawn(async move {
                for i in 0..50 {
                    let chunk = task + mix(i) % (chunks / 32).max(1) * 32;
                    update(&engine, chunk, (mix(i) % 256 * 4096) as u32, data.clone(), size).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("task");
    }
    report("sync always: overwrite 4 KiB, 32 at a time", 32 * 50, 4096, started.elapsed(), Duration::ZERO);
    let syncs = bench.counts.syncs.load(Ordering::Relaxed) - syncs;
    println!("    {:.3} syncs per operation", syncs as f64 / 1600.0);
}

/// Memory for many small chunks.
async fn memory(dir: &Path) {
    const COUNT: u64 = 200_000;
    let bench = Bench::new(&dir.join("memory"), SyncMode::Process, 65_536, COUNT).await;
    let before = proc_self("status", "VmRSS:") * 1024;
    let started = Instant::now();
    for i in 0..COUNT {
        update(&bench.engine, i, 0, bench.noise.slice(..100), 65_536).await;
    }
    let elapsed = started.elapsed();
    bench.engine.settle().await.expect("settling");
    report("write 100 bytes, new chunks of 64 KiB", COUNT, 100, elapsed, Duration::ZERO);
    let used = proc_self("status", "VmRSS:") * 1024 - before;
    println!(
        "{:.0} bytes of memory per chunk, {} of them its entry",
        used as f64 / COUNT as f64,
        bench.engine.internals()["entry_bytes"]
    );
    bench.engine.close().await.expect("close");
    let started = Instant::now();
    let engine = Engine::open(real(), &dir.join("memory"), Options::new(1)).await.expect("open");
    println!("open with {} chunks: {:?}", engine.space().await.expect("space").chunks, started.elapsed());
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let chunks = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(512);
    let dir = tempfile::tempdir_in(parent).expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        memory(dir.path()).await;
        process(dir.path(), chunks).await;
        always(dir.path(), chunks.min(128)).await;
    });
}
