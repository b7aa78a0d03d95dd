//! The log: every commit since the tree's tables, in segments.
//!
//! A segment goes with a memtable of the tree: both are closed together, and when the memtable's table is on disk the segment is
//! deleted. A record is handed to the operating system when it is appended, so that a full disk refuses a commit before it had any
//! effect; [`Log::sync`] makes records durable.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::io_error;
use super::record::{HEADER_LEN, SegmentHeader, encode_record};
use crate::KvError;
use crate::batch::{Batch, Version};
use crate::engine::ApplyError;

/// One file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    file: File,
    header: SegmentHeader,
    /// Whether the directory is known to hold the file after a power failure.
    named_durably: AtomicBool,
}

impl Segment {
    /// Path of the segment that follows `base` in `dir`.
    fn path_of(dir: &Path, base: Version) -> PathBuf {
        dir.join(format!("{base:020}.log"))
    }

    fn create(dir: &Path, header: SegmentHeader) -> Result<Self, KvError> {
        let path = Self::path_of(dir, header.base);
        let create = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
            file.write_all_at(&header.encode(), 0)?;
            Ok(file)
        };
        let file = create().map_err(|error: io::Error| io_error(&path, &error))?;
        Ok(Segment { path, file, header, named_durably: AtomicBool::new(false) })
    }

    /// Opens a file of the log. `None` when its header is not whole and sound.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, KvError> {
        let open = || {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            let mut header = vec![0; HEADER_LEN];
            match file.read_exact_at(&mut header, 0) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => header.clear(),
                other => other?,
            }
            Ok((file, header))
        };
        let (file, header) = open().map_err(|error: io::Error| io_error(path, &error))?;
        Ok(SegmentHeader::decode(&header).map(|header| Segment {
            path: path.to_owned(),
            file,
            header,
            named_durably: AtomicBool::new(false),
        }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn header(&self) -> SegmentHeader {
        self.header
    }

    fn sync(&self) -> Result<(), KvError> {
        self.file.sync_data().map_err(|error| io_error(&self.path, &error))?;
        if !self.named_durably.load(Ordering::Acquire) {
            sync_dir(self.path.parent().unwrap_or(Path::new(".")))?;
            self.named_durably.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Cuts the file to `len` bytes.
    pub(crate) fn truncate(&self, len: u64) -> Result<(), KvError> {
        self.file.set_len(len).map_err(|error| io_error(&self.path, &error))
    }
}

/// A segment that takes no more records.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    pub(crate) segment: Arc<Segment>,
    /// Version of its last commit.
    pub(crate) last: Version,
}

/// Makes a directory's entries durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), KvError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(|error| io_error(dir, &error))
}

/// The log's segments in order, by the base in their names; files with other names are none of ours.
pub(crate) fn list_segments(dir: &Path) -> Result<Vec<(Version, PathBuf)>, KvError> {
    let list = || {
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(dir)? {
            paths.push(entry?.path());
        }
        io::Result::Ok(paths)
    };
    let paths = match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| io_error(dir, &error))?,
    };
    let named = paths.into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        let base = name.strip_suffix(".log")?.parse::<Version>().ok()?;
        (path == Segment::path_of(dir, base)).then_some((base, path))
    });
    let mut segments: Vec<_> = named.collect();
    segments.sort();
    Ok(segments)
}

/// The log of an open database.
pub(crate) struct Log {
    dir: PathBuf,
    writer: Mutex<Writer>,
    /// Held during a sync.
    syncing: Mutex<()>,
    /// Why no sync can succeed any more.
    failure: OnceLock<KvError>,
}

struct Writer {
    active: Arc<Segment>,
    /// Length of the active segment.
    len: u64,
    last: Version,
    /// Segments with bytes that were not synced, oldest first.
    unsynced: Vec<Arc<Segment>>,
    scratch: Vec<u8>,
}

impl Log {
    /// A new log that follows `base`.
    pub(crate) fn create(dir: &Path, header: SegmentHeader) -> Result<Self, KvError> {
        let active = Arc::new(Segment::create(dir, header)?);
        Ok(Self::resume(dir, active, HEADER_LEN as u64, header.base, Vec::new()))
    }

    /// Goes on behind the first `len` bytes of `active`, whose last commit is `last`. `earlier` are the segments before it.
    pub(crate) fn resume(
        dir: &Path,
        active: Arc<Segment>,
        len: u64,
        last: Version,
        earlier: Vec<Arc<Segment>>,
    ) -> Self {
        let mut unsynced = earlier;
        unsynced.push(active.clone());
        let writer = Writer { active, len, last, unsynced, scratch: Vec::new() };
        Log {
            dir: dir.to_owned(),
            writer: Mutex::new(writer),
            syncing: Mutex::default(),
            failure: OnceLock::new(),
        }
    }

    /// Adds the record of a batch. Returns whether the log had nothing to sync before.
    pub(crate) fn append(&self, batch: &Batch) -> Result<bool, ApplyError> {
        let mut writer = self.writer.lock();
        let Writer { active, len, last, scratch, .. } = &mut *writer;
        scratch.clear();
        encode_record(active.header.salt, *last, batch, scratch);
        write_or_undo(active, scratch, *len)?;
        *len += scratch.len() as u64;
        // One large transaction must not hold its size for ever.
        scratch.shrink_to(64 << 10);
        writer.last = batch.version;
        let was_synced = writer.unsynced.is_empty();
        if writer.unsynced.last().is_none_or(|segment| !Arc::ptr_eq(segment, &writer.active)) {
            let active = writer.active.clone();
            writer.unsynced.push(active);
        }
        Ok(was_synced)
    }

    /// Closes the active segment and begins another. Returns the closed one.
    pub(crate) fn rotate(&self, salt: u64) -> Result<Arc<Segment>, KvError> {
        let mut writer = self.writer.lock();
        let next = Arc::new(Segment::create(&self.dir, SegmentHeader { salt, base: writer.last })?);
        writer.len = HEADER_LEN as u64;
        writer.unsynced.push(next.clone());
        Ok(std::mem::replace(&mut writer.active, next))
    }

    /// Version of the last record.
    pub(crate) fn last(&self) -> Version {
        self.writer.lock().last
    }

    /// Makes every appended record durable; `done` runs with the last version before anybody else can sync. After a failure
    /// no sync succeeds, since the operating system may have dropped what it could not write.
    pub(crate) fn sync(&self, done: impl FnOnce(Version) -> Result<(), KvError>) -> Result<Version, KvError> {
        let _one_at_a_time = self.syncing.lock();
        if let Some(error) = self.failure() {
            return Err(error.clone());
        }
        let result = self.sync_locked().and_then(|last| done(last).map(|()| last));
        if let Err(error) = &result {
            tracing::error!(%error, "log not synced; the database serves no more transactions until it is opened again");
            self.failure.get_or_init(|| error.clone());
        }
        result
    }

    fn sync_locked(&self) -> Result<Version, KvError> {
        let (last, unsynced) = {
            let mut writer = self.writer.lock();
            (writer.last, std::mem::take(&mut writer.unsynced))
        };
        for segment in unsynced {
            segment.sync()?;
        }
        Ok(last)
    }

    /// Why syncs fail, once one has.
    pub(crate) fn failure(&self) -> Option<&KvError> {
        self.failure.get()
    }
}

/// Writes a record; after a failure cuts the file back to where the record began.
fn write_or_undo(segment: &Segment, record: &[u8], offset: u64) -> Result<(), ApplyError> {
    let Err(error) = segment.file.write_all_at(record, offset) else { return Ok(()) };
    let error = io_error(&segment.path, &error);
    match segment.truncate(offset) {
        Ok(()) => Err(ApplyError::NothingWritten(error)),
        Err(_) => Err(ApplyError::Unknown(error)),
    }
}

/// Removes a segment whose commits are in the tree's tables.
pub(crate) fn delete_segment(segment: &Segment) {
    if let Err(error) = fs::remove_file(&segment.path) {
        tracing::warn!(path = %segment.path.display(), %error, "log segment not removed");
    }
}
