//! Data files: eight per size class, made when first used.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use valor_env::buffer::PooledBuf;
use valor_env::disk::{Disk, DiskFile, IoFuture, OpenOptions};

use crate::codec::{Fields, Malformed, Put};
use crate::error::{EngineError, Result, io_error, sync_error};
use crate::geometry::{BLOCK, CLASSES, FILE_HEADER, FILES_PER_CLASS, Slot, capacity, stride};
use crate::log::{FORMAT_VERSION, seal, unseal};
use crate::signal::Signal;

const MAGIC: &[u8; 8] = b"VALORDAT";
const HEADER_LEN: usize = 8 + 4 + 8 + 1 + 4 + 4;

/// The data files of an engine.
pub(crate) struct DataFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    target_id: u64,
    /// The file system cannot make holes.
    no_holes: AtomicBool,
    open: [[OnceLock<Arc<DataFile>>; FILES_PER_CLASS as usize]; CLASSES],
}

/// One data file.
pub(crate) struct DataFile {
    pub(crate) path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// Something was written since the last sync began.
    dirty: AtomicBool,
    syncs: Mutex<Syncs>,
    synced: Signal,
    /// A sync failed: the kernel has forgotten which pages were not written, so no later sync says anything.
    failed: OnceLock<EngineError>,
}

/// Syncs of a file, counted.
#[derive(Default)]
struct Syncs {
    started: u64,
    done: u64,
    running: bool,
}

/// Name of a data file: its chunk size in KiB and number.
pub(crate) fn path(dir: &Path, class: u8, number: u32) -> PathBuf {
    dir.join(format!("data-{}k-{number}", capacity(class) >> 10))
}

fn header(target_id: u64, class: u8, number: u32) -> Bytes {
    let mut header = Vec::with_capacity(BLOCK);
    header.put(MAGIC);
    header.u32(FORMAT_VERSION);
    header.u64(target_id);
    header.u8(class);
    header.u32(number);
    seal(&mut header);
    header.resize(BLOCK, 0);
    header.into()
}

fn check_header(bytes: &[u8], target_id: u64, class: u8, number: u32) -> std::result::Result<(), Malformed> {
    let sealed = bytes.get(..HEADER_LEN).ok_or(Malformed("data file header"))?;
    let mut fields = Fields(unseal(sealed).map_err(|_| Malformed("data file header"))?);
    let (magic, version): ([u8; 8], u32) = (fields.array()?, fields.u32()?);
    if &magic != MAGIC || version != FORMAT_VERSION {
        return Err(Malformed("data file of an unknown format version"));
    }
    let matching = (fields.u64()?, fields.u8()?, fields.u32()?) == (target_id, class, number);
    if matching { Ok(()) } else { Err(Malformed("data file of another target or under another's name")) }
}

impl DataFiles {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf, target_id: u64) -> Self {
        DataFiles { disk, dir, target_id, no_holes: AtomicBool::new(false), open: Default::default() }
    }

    /// The file that holds a slot.
    pub(crate) async fn of(&self, slot: Slot) -> Result<Arc<DataFile>> {
        let cell = &self.open[usize::from(slot.class)][slot.file() as usize];
        if let Some(file) = cell.get() {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.open_file(slot.class, slot.file()).await?);
        // Somebody else may have been faster; both are the same file.
        Ok(Arc::clone(cell.get_or_init(|| file)))
    }

    async fn open_file(&self, class: u8, number: u32) -> Result<DataFile> {
        let path = path(&self.dir, class, number);
        let failed = |e| io_error("open", &path, e);
        let file = self.disk.open(&path, OpenOptions::CREATE).await.map_err(failed)?;
        let found = file.read_at(0, BLOCK).await.map_err(failed)?;
        let checked = check_header(&found, self.target_id, class, number);
        // A file that was never written, or whose making was interrupted: there is nothing behind the header.
        let unmade = checked.is_err() && file.size().await.map_err(failed)? <= FILE_HEADER;
        if unmade || found.iter().all(|byte| *byte == 0) {
            let written = file.write_at(0, &[header(self.target_id, class, number)]).await;
            written.map_err(|e| io_error("write", &path, e))?;
            self.disk.sync_dir(&self.dir).await.map_err(failed)?;
        } else if let Err(malformed) = checked {
            return Err(EngineError::corrupt(&path, 0, malformed.0));
        }
        let (dirty, syncs, synced) = (AtomicBool::new(true), Mutex::default(), Signal::default());
        Ok(DataFile { path, file, dirty, syncs, synced, failed: OnceLock::new() })
    }

    /// Opens and checks all files that exist, for a sync of what an earlier process wrote.
    pub(crate) async fn open_existing(&self) -> Result<()> {
        for class in 0..CLASSES as u8 {
            for index in 0..FILES_PER_CLASS {
                let path = path(&self.dir, class, index);
                if self.disk.exists(&path).await.map_err(|e| io_error("stat", &path, e))? {
                    self.of(Slot { class, index }).await?;
                }
            }
        }
        Ok(())
    }

    /// Makes everything written durable.
    pub(crate) async fn sync_all(&self) -> Result<()> {
        for file in self.open.iter().flatten().filter_map(OnceLock::get) {
            file.sync().await?;
        }
        Ok(())
    }

    /// Gives a slot's space back. False: the file system cannot.
    pub(crate) async fn empty(&self, slot: Slot) -> Result<bool> {
        let file = self.of(slot).await?;
        let done = file.punch(slot.start(), stride(slot.class)).await?;
        if !done {
            self.no_holes.store(true, Ordering::Relaxed);
        }
        Ok(done)
    }

    /// Whether space can be given back to the file system, as far as is known.
    pub(crate) fn can_give_back(&self) -> bool {
        !self.no_holes.load(Ordering::Relaxed)
    }
}

impl DataFile {
    /// Writes at an offset of the file. The write is under way when this returns.
    pub(crate) fn write(
        &self,
        offset: u64,
        data: &[Bytes],
    ) -> impl Future<Output = Result<()>> + Send + use<'_> {
        debug_assert!(offset >= FILE_HEADER);
        let written = self.file.write_at(offset, data);
        async move {
            let result = written.await.map_err(|e| io_error("write", &self.path, e));
            self.dirty.store(true, Ordering::Release);
            result
        }
    }

    /// Reads `len` bytes at an offset of the file. The read is under way when this returns.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Reading<'_> {
        Reading { file: self, len, read: self.file.read_at(offset, len) }
    }

    /// Makes the file's space for a range read as zeros. False: the file system cannot.
    pub(crate) async fn punch(&self, offset: u64, len: u64) -> Result<bool> {
        self.dirty.store(true, Ordering::Release);
        match self.file.punch_hole(offset, len).await {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(false),
            Err(e) => Err(io_error("punch a hole in", &self.path, e)),
        }
    }

    /// Makes durable what was written before the call. Callers that come while a sync runs share the next one.
    pub(crate) async fn sync(&self) -> Result<()> {
        let needed = self.syncs.lock().started + 1;
        loop {
            let mine = self.synced.wait(|| {
                let mut syncs = self.syncs.lock();
                if syncs.done >= needed {
                    return Some(None);
                }
                if syncs.running {
                    return None;
                }
                syncs.running = true;
                syncs.started += 1;
                Some(Some(syncs.started))
            });
            let Some(number) = mine.await else { return Ok(()) };
            let mut running = Running { file: self, done: None };
            if let Some(failed) = self.failed.get() {
                return Err(failed.clone());
            }
            if self.dirty.swap(false, Ordering::AcqRel)
                && let Err(e) = self.file.sync_data().await
            {
                let error = self.failed.get_or_init(|| sync_error(&self.path, e));
                return Err(error.clone());
            }
            running.done = Some(number);
        }
    }
}

/// A read under way.
pub(crate) struct Reading<'a> {
    file: &'a DataFile,
    len: usize,
    read: IoFuture<PooledBuf>,
}

impl Reading<'_> {
    /// The bytes. What was never written is zeros.
    pub(crate) async fn finish(self) -> Result<PooledBuf> {
        let mut buf = self.read.await.map_err(|e| io_error("read", &self.file.path, e))?;
        let filled = buf.len();
        if filled < self.len {
            buf.resize(self.len);
            buf[filled..].fill(0);
        }
        Ok(buf)
    }
}

/// Ends a sync even if its caller goes away.
struct Running<'a> {
    file: &'a DataFile,
    done: Option<u64>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        {
            let mut syncs = self.file.syncs.lock();
            syncs.running = false;
            if let Some(number) = self.done {
                syncs.done = number;
            } else {
                self.file.dirty.store(true, Ordering::Release);
            }
        }
        self.file.synced.notify();
    }
}
