//! Segment files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use valor_env::disk::{DiskFile, OpenOptions};

use super::Place;
use super::frame::{self, SEGMENT_HEADER};
use crate::error::{EngineError, Result, io_error};

/// Zeros to write, in one piece.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// An open segment file.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    /// Bytes records may use, with the header.
    pub(crate) size: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) path: Arc<Path>,
}

/// Name of a segment's file.
pub(crate) fn segment_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("log-{number:08x}"))
}

/// What the name of a log file says.
pub(super) enum Name {
    Segment(u32),
    Spare,
    Other,
}

pub(super) fn parse_name(path: &Path) -> Name {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.starts_with("spare-") {
        return Name::Spare;
    }
    let number = name.strip_prefix("log-").filter(|digits| digits.len() == 8);
    number.and_then(|digits| u32::from_str_radix(digits, 16).ok()).map_or(Name::Other, Name::Segment)
}

impl Segment {
    /// Makes a new file, its space reserved as far as the file system can.
    pub(super) async fn create(place: &Place, number: u32, size: u32) -> Result<Segment> {
        let path = segment_path(&place.dir, number);
        let made = Self::fill(place, &path, number, size).await;
        match made {
            Ok(file) => Ok(Segment { number, size, file, path: path.into() }),
            Err(e) => {
                // Half made, it only takes space.
                let _ = place.disk.remove_file(&path).await;
                Err(io_error("create", &path, e))
            }
        }
    }

    async fn fill(place: &Place, path: &Path, number: u32, size: u32) -> io::Result<Arc<dyn DiskFile>> {
        let options = OpenOptions { truncate: true, ..OpenOptions::CREATE };
        let file = place.disk.open(path, options).await?;
        reserve(&*file, size).await?;
        file.write_at(0, &[frame::segment_header(place.target_id, number, size)]).await?;
        if place.durable {
            file.sync_data().await?;
            place.disk.sync_dir(&place.dir).await?;
        }
        Ok(file)
    }

    /// Makes a file that is no longer needed the segment with this number.
    pub(super) async fn reuse(place: &Place, spare: &Path, number: u32, size: u32) -> Result<Segment> {
        let path = segment_path(&place.dir, number);
        let failed = |e| io_error("reuse", spare, e);
        let file = place.disk.open(spare, OpenOptions::WRITE).await.map_err(failed)?;
        // Appending to pages with old contents would read them first; that is all this is for.
        if file.zero_range(0, size.into()).await.is_err() {
            reserve(&*file, size).await.map_err(failed)?;
        }
        let header = frame::segment_header(place.target_id, number, size);
        file.write_at(0, &[header]).await.map_err(failed)?;
        if place.durable {
            file.sync_data().await.map_err(failed)?;
        }
        place.disk.rename(spare, &path).await.map_err(failed)?;
        if place.durable {
            place.disk.sync_dir(&place.dir).await.map_err(failed)?;
        }
        let file = place.disk.open(&path, OpenOptions::WRITE).await.map_err(failed)?;
        Ok(Segment { number, size, file, path: path.into() })
    }

    /// Makes room for more in a segment that has no records yet.
    pub(super) async fn grow(mut self, place: &Place, size: u32) -> Result<Segment> {
        let failed = |e| io_error("grow", &self.path, e);
        reserve(&*self.file, size).await.map_err(failed)?;
        let header = frame::segment_header(place.target_id, self.number, size);
        self.file.write_at(0, &[header]).await.map_err(failed)?;
        if place.durable {
            self.file.sync_data().await.map_err(failed)?;
        }
        self.size = size;
        Ok(self)
    }

    /// Opens an existing file. `None`: its header is not valid, and why.
    pub(super) async fn open(
        place: &Place,
        number: u32,
    ) -> Result<std::result::Result<Segment, (Arc<dyn DiskFile>, &'static str)>> {
        let path = segment_path(&place.dir, number);
        let failed = |e| io_error("open", &path, e);
        let file = place.disk.open(&path, OpenOptions::WRITE).await.map_err(failed)?;
        let header = file.read_at(0, SEGMENT_HEADER as usize).await.map_err(failed)?;
        match frame::check_segment_header(&header, place.target_id, number) {
            Ok(size) => Ok(Ok(Segment { number, size, file, path: path.into() })),
            Err(malformed) => Ok(Err((file, malformed.0))),
        }
    }

    /// All bytes of the segment; what was never written is zeros.
    pub(super) async fn contents(&self) -> Result<Bytes> {
        read_whole(&*self.file, &self.path).await
    }

    /// Gives the file the length and space it should have.
    pub(super) async fn reserve(&self) -> Result<()> {
        reserve(&*self.file, self.size).await.map_err(|e| io_error("grow", &self.path, e))
    }

    /// Writes zeros over a range.
    pub(super) async fn erase(&self, start: u32, end: u32) -> Result<()> {
        let mut at = start;
        while at < end {
            let len = (end - at).min(ZEROS.len() as u32);
            let zeros = Bytes::from_static(&ZEROS[..len as usize]);
            self.file.write_at(at.into(), &[zeros]).await.map_err(|e| io_error("erase", &self.path, e))?;
            at += len;
        }
        Ok(())
    }

    /// Removes the file.
    pub(super) async fn remove(&self, place: &Place) -> Result<()> {
        place.disk.remove_file(&self.path).await.map_err(|e| io_error("remove", &self.path, e))
    }

    /// Renames the file so that it can be written over later.
    pub(super) async fn into_spare(self, place: &Place) -> Result<PathBuf> {
        let spare = place.dir.join(format!("spare-{:08x}", self.number));
        place.disk.rename(&self.path, &spare).await.map_err(|e| io_error("rename", &self.path, e))?;
        Ok(spare)
    }
}

/// All bytes of a file.
pub(super) async fn read_whole(file: &dyn DiskFile, path: &Path) -> Result<Bytes> {
    let failed = |e| io_error("read", path, e);
    let size = file.size().await.map_err(failed)?;
    let len = usize::try_from(size).ok().filter(|len| *len < 1 << 31);
    let len = len.ok_or_else(|| EngineError::corrupt(path, size, "file too long"))?;
    Ok(file.read_at(0, len).await.map_err(failed)?.freeze())
}

/// Reserves space for a segment, as far as the file system can. The file has its full length from then on: a shorter
/// one was cut.
async fn reserve(file: &dyn DiskFile, size: u32) -> io::Result<()> {
    match file.allocate(0, size.into()).await {
        Err(e) if e.kind() == io::ErrorKind::Unsupported && file.size().await? < size.into() => {
            file.set_len(size.into()).await
        }
        Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
        other => other,
    }
}
