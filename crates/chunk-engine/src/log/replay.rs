//! Reading the log at open: what happened since the checkpoint, and where it ends.
//!
//! The log ends at the first place without a valid record. That is harmless if what was there had not been
//! acknowledged, or was lost with the machine's power in a mode which allows that; it is corruption if the record is
//! known to have been on disk. Known it is from the checkpoint, from a later record that says so, and from a later
//! record at all if the machine has not been restarted since: then the page cache lost nothing, and only the last
//! write may be cut short.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;

use super::frame::{self, SEGMENT_HEADER};
use super::segment::{Name, parse_name, read_whole};
use super::{Lsn, Place, Segment, segment_path};
use crate::codec::Malformed;
use crate::error::{EngineError, Result, io_error};
use crate::record::Record;

/// The log of an engine being opened.
pub(crate) struct Found {
    /// Segment that is written next.
    pub(crate) current: Segment,
    /// The segment after it, if it exists.
    pub(crate) next: Option<Segment>,
    /// Where the next record goes.
    pub(crate) tail: Lsn,
    /// All segments, with the current one.
    pub(crate) segments: BTreeMap<u32, Segment>,
    /// Earlier segments whose headers are not valid.
    pub(crate) unusable: Vec<u32>,
    /// Files to be written over.
    pub(crate) spares: Vec<PathBuf>,
    /// Number of times the engine was opened, as of the last time.
    pub(crate) opens: u32,
}

/// What a checkpoint knows of the log.
pub(crate) struct Known {
    /// Replay begins here.
    pub(crate) from: Lsn,
    /// All records below were on disk.
    pub(crate) durable: Lsn,
    /// Machine's boot and count of the last open before the checkpoint.
    pub(crate) boot_id: [u8; 16],
    pub(crate) opens: u32,
}

/// Reads the log from the checkpoint on and hands each record over with the place after it.
pub(crate) async fn replay(
    place: &Place,
    known: Known,
    mut apply: impl FnMut(Record, Lsn, Lsn) -> std::result::Result<(), Malformed>,
) -> Result<Found> {
    let (numbers, spares) = list(place).await?;
    let mut reading = Reading { place, boot_id: known.boot_id, opens: known.opens, durable: known.durable };
    let mut segments = BTreeMap::new();
    let mut unusable = Vec::new();
    for number in numbers.iter().copied().filter(|number| *number < known.from.segment()) {
        // Only patches are read from these, if any. A file that was about to be used again may have its new header
        // and its old name.
        match Segment::open(place, number).await? {
            Ok(segment) => drop(segments.insert(number, segment)),
            Err(_) => unusable.push(number),
        }
    }
    let mut at = known.from;
    let current = loop {
        let (segment, bytes) = reading.open(&numbers, at).await?;
        segments.insert(segment.number, segment.clone());
        match reading.read(&segment, &bytes, &mut at, &mut apply, &numbers).await? {
            Ending::Next => at = Lsn::new(at.segment() + 1, SEGMENT_HEADER),
            Ending::Here => break segment,
        }
    };
    // Whatever comes later is empty or was lost: one file serves as the next segment. The others must not be used
    // again under their numbers with records in them.
    let mut next = None;
    for number in numbers.into_iter().filter(|number| *number > current.number) {
        match Segment::open(place, number).await? {
            Ok(segment) if number == current.number + 1 => next = Some(segment),
            _ => remove_segment(place, number).await?,
        }
    }
    if let Some(next) = &next {
        erase_records(next).await?;
    }
    Ok(Found { current, next, tail: at, segments, unusable, spares, opens: reading.opens })
}

async fn list(place: &Place) -> Result<(Vec<u32>, Vec<PathBuf>)> {
    let entries = place.disk.list(&place.dir).await.map_err(|e| io_error("list", &place.dir, e))?;
    let (mut numbers, mut spares) = (Vec::new(), Vec::new());
    for path in entries {
        match parse_name(&path) {
            Name::Segment(number) => numbers.push(number),
            Name::Spare => spares.push(path),
            Name::Other => {}
        }
    }
    numbers.sort_unstable();
    Ok((numbers, spares))
}

/// Removes a segment's file.
pub(crate) async fn remove_segment(place: &Place, number: u32) -> Result<()> {
    let path = segment_path(&place.dir, number);
    place.disk.remove_file(&path).await.map_err(|e| io_error("remove", &path, e))
}

/// Removes what is left of records in a segment that is to be written from its start.
async fn erase_records(segment: &Segment) -> Result<()> {
    let bytes = segment.contents().await?;
    if let Some((end, _)) = frame::search(&bytes, segment.number, SEGMENT_HEADER) {
        segment.erase(SEGMENT_HEADER, end.min(bytes.len() as u32)).await?;
    }
    Ok(())
}

enum Ending {
    /// The log goes on in the next segment.
    Next,
    /// The log ends in this segment.
    Here,
}

struct Reading<'a> {
    place: &'a Place,
    /// Boot of the machine when the records being read were written.
    boot_id: [u8; 16],
    opens: u32,
    durable: Lsn,
}

impl Reading<'_> {
    /// Opens the segment the log goes on in. After a loss of power it may be missing or incomplete; then it is made.
    async fn open(&self, numbers: &[u32], at: Lsn) -> Result<(Segment, Bytes)> {
        let number = at.segment();
        let path = segment_path(&self.place.dir, number);
        let (bytes, what) = if numbers.contains(&number) {
            match Segment::open(self.place, number).await? {
                Ok(segment) => {
                    let bytes = segment.contents().await?;
                    if bytes.len() < segment.size as usize {
                        if self.same_boot() {
                            return Err(EngineError::corrupt(
                                &path,
                                bytes.len() as u64,
                                "log segment cut short",
                            ));
                        }
                        segment.reserve().await?;
                    }
                    return Ok((segment, bytes));
                }
                Err((file, what)) => (read_whole(&*file, &path).await?, what),
            }
        } else {
            (Bytes::new(), "missing log segment")
        };
        // It was there before the record was written that the log goes on in it, or before the checkpoint.
        let evidence = frame::search(&bytes, number, SEGMENT_HEADER);
        if self.same_boot() || self.judge(at, evidence, numbers).await?.is_some() {
            return Err(EngineError::corrupt(&path, 0, what));
        }
        let segment = Segment::create(self.place, number, self.place.segment_size).await?;
        Ok((segment, Bytes::new()))
    }

    /// Whether the machine has not been restarted since the records were written. Not so for a new engine, which has
    /// no log yet.
    fn same_boot(&self) -> bool {
        self.opens > 0 && self.boot_id == self.place.disk.boot_id()
    }

    async fn read(
        &mut self,
        segment: &Segment,
        bytes: &Bytes,
        at: &mut Lsn,
        apply: &mut impl FnMut(Record, Lsn, Lsn) -> std::result::Result<(), Malformed>,
        numbers: &[u32],
    ) -> Result<Ending> {
        loop {
            let offset = at.offset();
            let what = match frame::parse(bytes, segment.number, offset) {
                Ok(found) if found.data_valid => {
                    let next = Lsn::new(segment.number, found.next);
                    if let Record::Open { boot_id, opens } = found.record {
                        (self.boot_id, self.opens) = (boot_id, opens);
                    }
                    if found.record == Record::End {
                        return Ok(Ending::Next);
                    }
                    apply(found.record, *at, next)
                        .map_err(|m| EngineError::corrupt(&segment.path, offset.into(), m.0))?;
                    *at = next;
                    continue;
                }
                Ok(found) => {
                    // The record is good, its data are not. If it was acknowledged, reading them will tell.
                    let evidence = frame::search(bytes, segment.number, found.next);
                    if self.judge(*at, evidence, numbers).await?.is_none() {
                        self.cut(segment, bytes, offset).await?;
                        return Ok(Ending::Here);
                    }
                    let next = Lsn::new(segment.number, found.next);
                    apply(found.record, *at, next)
                        .map_err(|m| EngineError::corrupt(&segment.path, offset.into(), m.0))?;
                    *at = next;
                    continue;
                }
                Err(malformed) => malformed.0,
            };
            let evidence = frame::search(bytes, segment.number, offset);
            if self.judge(*at, evidence, numbers).await?.is_some() {
                return Err(EngineError::corrupt(&segment.path, offset.into(), what));
            }
            self.cut(segment, bytes, offset).await?;
            return Ok(Ending::Here);
        }
    }

    /// Whether something was certainly at a place where no valid record is: then where later records end. `evidence`
    /// is what was found behind it in the same segment.
    async fn judge(&self, at: Lsn, evidence: Option<(u32, Lsn)>, numbers: &[u32]) -> Result<Option<Lsn>> {
        let mut last = evidence.map(|(end, durable)| (Lsn::new(at.segment(), end), durable));
        for number in numbers.iter().copied().filter(|number| *number > at.segment()) {
            let file = match Segment::open(self.place, number).await? {
                Ok(segment) => segment.file,
                Err((file, _)) => file,
            };
            let bytes = read_whole(&*file, &segment_path(&self.place.dir, number)).await?;
            if let Some((end, durable)) = frame::search(&bytes, number, SEGMENT_HEADER) {
                let durable = last.map_or(durable, |(_, before)| before.max(durable));
                last = Some((Lsn::new(number, end), durable));
            }
        }
        let known = last.map_or(self.durable, |(_, durable)| durable.max(self.durable)) > at;
        let same_boot = last.is_some() && self.same_boot();
        Ok((known || same_boot).then(|| last.map_or(at, |(end, _)| end)))
    }

    /// The log ends here: what follows must not be taken for records when there is a valid one before it.
    async fn cut(&self, segment: &Segment, bytes: &Bytes, offset: u32) -> Result<()> {
        let Some((end, _)) = frame::search(bytes, segment.number, offset) else { return Ok(()) };
        let file = segment.path.display();
        tracing::warn!(%file, from = offset, to = end, "the log's end was lost with the machine's power");
        segment.erase(offset, end.min(segment.size)).await
    }
}
