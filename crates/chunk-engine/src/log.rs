//! The log: a sequence of segment files that records, and the data of small overwrites, are appended to.
//!
//! Whoever appends while nobody writes becomes the writer: it takes all records that wait, writes them with one call
//! (and one sync in [`SyncMode::Always`]), applies them to the state in their order and tells the others, the first of
//! which writes the next batch. So there is one write per record when there is no contention, and one sync per batch
//! when there is.

mod frame;
mod replay;
mod segment;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use parking_lot::Mutex;
use valor_env::disk::Disk;

use crate::error::{EngineError, Result, io_error, sync_error};
use crate::options::SyncMode;
use crate::record::Record;
use crate::signal::Signal;
use crate::state::State;
use frame::{END_LEN, Encoded, SEGMENT_HEADER};
pub(crate) use frame::{FORMAT_VERSION, seal, unseal};
pub(crate) use replay::{Found, Known, remove_segment, replay};
pub(crate) use segment::{Segment, segment_path};

/// Most bytes of one write.
const BATCH_MAX: usize = 4 << 20;

/// Place of a record: segment number and offset. Later records have larger places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    pub(crate) const fn new(segment: u32, offset: u32) -> Self {
        Lsn((segment as u64) << 32 | offset as u64)
    }

    pub(crate) const fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) const fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment(), self.offset())
    }
}

/// The log of an engine.
pub(crate) struct Log {
    place: Place,
    sync: SyncMode,
    shared: Mutex<Shared>,
    /// Told when a segment was made.
    made: Signal,
    /// Told when there may be background work.
    work: Arc<Signal>,
}

/// Where segments are made.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) target_id: u64,
    /// Usual size of a segment.
    pub(crate) segment_size: u32,
    /// Whether new segments are made durable before they are used.
    pub(crate) durable: bool,
}

struct Shared {
    current: Segment,
    /// Offset of the next record in the current segment.
    tail: u32,
    /// The segment after the current one, made in advance.
    next: Option<Segment>,
    /// All segments, by number: patches are read from them.
    segments: BTreeMap<u32, Segment>,
    /// Former segments, to be written over.
    spares: Vec<PathBuf>,
    queue: VecDeque<Waiting>,
    /// Somebody is writing or was told to.
    writing: bool,
    /// Everything below is on disk whatever happens.
    durable: Lsn,
    /// Finished segments with something that is not.
    unsynced: Vec<Segment>,
    /// Names of segments may not be durable.
    new_names: bool,
    /// Why nothing can be appended any more.
    stopped: Option<EngineError>,
    /// A segment is being made.
    making: bool,
}

struct Waiting {
    record: Record,
    encoded: Encoded,
    ticket: Arc<Ticket>,
}

#[derive(Default)]
struct Ticket(Mutex<Turn>);

#[derive(Default)]
enum Turn {
    #[default]
    New,
    Waiting(Waker),
    /// This one writes the next batch.
    Writer,
    Done(Result<()>),
    /// Nobody waits any more.
    Abandoned,
}

/// Whether a record may use the last of the space.
fn is_essential(record: &Record) -> bool {
    match record {
        Record::Prepare { pending, .. } | Record::Put { pending, .. } => {
            pending.body == crate::record::Body::Remove
        }
        _ => true,
    }
}

impl Log {
    /// A log that goes on where `found` ends.
    pub(crate) fn new(place: Place, sync: SyncMode, found: Found, work: Arc<Signal>) -> Self {
        let shared = Shared {
            unsynced: found.segments.values().filter(|s| s.number != found.current.number).cloned().collect(),
            current: found.current,
            tail: found.tail.offset(),
            next: found.next,
            segments: found.segments,
            spares: found.spares,
            queue: VecDeque::new(),
            writing: false,
            durable: Lsn::default(),
            new_names: true,
            stopped: None,
            making: false,
        };
        Log { place, sync, shared: Mutex::new(shared), made: Signal::default(), work }
    }

    /// Appends a record with its data and applies it to the state.
    pub(crate) async fn append(&self, state: &Mutex<State>, record: Record, data: Vec<Bytes>) -> Result<()> {
        let encoded = Encoded::new(&record, data);
        let ticket = Arc::new(Ticket::default());
        let mut turn = {
            let mut shared = self.shared.lock();
            if let Some(stopped) = &shared.stopped {
                return Err(stopped.clone());
            }
            shared.queue.push_back(Waiting { record, encoded, ticket: Arc::clone(&ticket) });
            let first = !std::mem::replace(&mut shared.writing, true);
            MyTurn { log: self, ticket: &ticket, writing: first, over: false }
        };
        if !turn.writing {
            if let Some(result) = ticket.wait().await {
                turn.over = true;
                return result;
            }
            turn.writing = true;
        }
        // Records of callers who went away may come before this one.
        let result = loop {
            self.write_batch(state).await;
            if let Some(result) = ticket.result() {
                break result;
            }
        };
        turn.over = true;
        self.pass_on();
        result
    }

    /// The next who waits writes the next batch.
    fn pass_on(&self) {
        let mut shared = self.shared.lock();
        shared.writing = false;
        let next = shared.queue.iter().find_map(|waiting| waiting.ticket.make_writer());
        if let Some(waker) = next {
            shared.writing = true;
            drop(shared);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// Writes and applies what waits, as much as fits one write and one segment.
    async fn write_batch(&self, state: &Mutex<State>) {
        if let Err(e) = self.make_room().await {
            self.refuse_first(e);
        }
        let (batch, segment, start, durable) = {
            let mut shared = self.shared.lock();
            (shared.take_batch(), shared.current.clone(), shared.tail, shared.durable)
        };
        if batch.is_empty() {
            return;
        }
        let mut offset = start;
        let (mut pieces, mut written) =
            (Vec::with_capacity(batch.len() * 2), Vec::with_capacity(batch.len()));
        for Waiting { mut record, encoded, ticket } in batch {
            let lsn = Lsn::new(segment.number, offset);
            offset += encoded.len() as u32;
            // Offsets in a segment are far below the limit.
            let _ = record.place(lsn, lsn.offset() + encoded.data_offset());
            encoded.place(lsn, durable, &mut pieces);
            written.push((record, ticket));
        }
        let result = self.write(&segment, start, offset, &pieces).await;
        let result = result.and_then(|()| self.apply(state, &mut written, Lsn::new(segment.number, offset)));
        for (_, ticket) in written {
            ticket.finish(result.clone());
        }
    }

    async fn write(&self, segment: &Segment, start: u32, end: u32, pieces: &[Bytes]) -> Result<()> {
        if let Err(e) = segment.file.write_at(start.into(), pieces).await {
            let error = io_error("write", &segment.path, e);
            // What was written of it must not be taken for records later.
            let erased = segment.erase(start, end).await;
            if !matches!(error, EngineError::NoSpace(_)) || erased.is_err() {
                self.stop(&error);
            }
            return Err(error);
        }
        if self.sync == SyncMode::Always {
            self.sync_segment(segment).await?;
        }
        let mut shared = self.shared.lock();
        shared.tail = end;
        if self.sync == SyncMode::Always {
            shared.durable = Lsn::new(segment.number, end);
        }
        Ok(())
    }

    fn apply(&self, state: &Mutex<State>, written: &mut [(Record, Arc<Ticket>)], end: Lsn) -> Result<()> {
        let mut state = state.lock();
        for (record, _) in written {
            let record = std::mem::replace(record, Record::End);
            match state.apply(record) {
                Ok(left) => state.release(left.slots),
                Err(malformed) => {
                    let error = EngineError::corrupt(&self.place.dir, 0, malformed.0);
                    self.stop(&error);
                    return Err(error);
                }
            }
        }
        state.applied = end;
        let due = state.wants_attention();
        drop(state);
        if due {
            self.work.notify();
        }
        Ok(())
    }

    /// Sees to it that the first record that waits fits the current segment.
    async fn make_room(&self) -> Result<()> {
        let (need, essential, room, size, has_next) = {
            let shared = self.shared.lock();
            let Some(first) = shared.queue.front() else { return Ok(()) };
            let room = shared.current.size - shared.tail - END_LEN;
            let essential = is_essential(&first.record);
            (
                first.encoded.len() as u64,
                essential,
                u64::from(room),
                shared.current.size,
                shared.next.is_some(),
            )
        };
        let fits = need <= room;
        // Without a next segment the second half of this one is for records that give space back.
        let plenty = essential || has_next || room - need.min(room) >= u64::from(size / 2);
        if fits && plenty {
            return Ok(());
        }
        let least = u32::try_from(need).ok().and_then(|need| need.checked_add(SEGMENT_HEADER + 2 * END_LEN));
        let least = least.ok_or(EngineError::InvalidArg("data too large for a log record"))?;
        let next = self.make_segment(least).await?;
        if fits { Ok(()) } else { self.switch_to(next).await }
    }

    /// Makes the segment after the current one, if that is not done yet.
    pub(crate) async fn make_next(&self) -> Result<()> {
        self.make_segment(0).await.map(|_| ())
    }

    /// The segment after the current one, at least this long.
    async fn make_segment(&self, least: u32) -> Result<Segment> {
        let (next, number, spare) = self
            .made
            .wait(|| {
                let mut shared = self.shared.lock();
                if std::mem::replace(&mut shared.making, true) {
                    return None;
                }
                let next = shared.next.take();
                let spare = if next.is_some() { None } else { shared.spares.pop() };
                Some((next, shared.current.number + 1, spare))
            })
            .await;
        let mut making = Making { log: self, next: None, spare: None };
        let size = self.place.segment_size.max(least);
        let made = match (next, spare) {
            (Some(next), _) if next.size >= least => Ok(next),
            (Some(next), _) => {
                making.next = Some(next.clone());
                next.grow(&self.place, size).await
            }
            (None, Some(spare)) => {
                let made = Segment::reuse(&self.place, &spare, number, size).await;
                making.spare = made.is_err().then_some(spare);
                made
            }
            (None, None) => Segment::create(&self.place, number, size).await,
        }?;
        making.next = Some(made.clone());
        Ok(made)
    }

    async fn switch_to(&self, next: Segment) -> Result<()> {
        let (current, tail, durable) = {
            let shared = self.shared.lock();
            (shared.current.clone(), shared.tail, shared.durable)
        };
        let mut pieces = Vec::new();
        Encoded::new(&Record::End, Vec::new()).place(Lsn::new(current.number, tail), durable, &mut pieces);
        self.write(&current, tail, tail + END_LEN, &pieces).await?;
        let mut shared = self.shared.lock();
        if self.sync == SyncMode::Process {
            shared.unsynced.push(current);
        }
        shared.segments.insert(next.number, next.clone());
        shared.next = None;
        shared.current = next;
        shared.tail = SEGMENT_HEADER;
        drop(shared);
        self.work.notify();
        Ok(())
    }

    fn refuse_first(&self, error: EngineError) {
        let first = self.shared.lock().queue.pop_front();
        if let Some(first) = first {
            first.ticket.finish(Err(error));
        }
    }

    async fn sync_segment(&self, segment: &Segment) -> Result<()> {
        segment.file.sync_data().await.map_err(|e| {
            let error = sync_error(&segment.path, e);
            self.stop(&error);
            error
        })
    }

    /// Makes everything appended so far durable.
    pub(crate) async fn sync(&self) -> Result<Lsn> {
        let (segments, end, new_names) = {
            let mut shared = self.shared.lock();
            let end = Lsn::new(shared.current.number, shared.tail);
            if shared.durable >= end {
                return Ok(end);
            }
            let current = std::iter::once(&shared.current);
            let segments: Vec<Segment> = shared.unsynced.iter().chain(current).cloned().collect();
            (segments, end, std::mem::take(&mut shared.new_names))
        };
        if new_names && let Err(e) = self.place.disk.sync_dir(&self.place.dir).await {
            let error = sync_error(&self.place.dir, e);
            self.stop(&error);
            return Err(error);
        }
        for segment in &segments {
            self.sync_segment(segment).await?;
        }
        let mut shared = self.shared.lock();
        shared.durable = shared.durable.max(end);
        shared.unsynced.retain(|segment| segments.iter().all(|synced| synced.number != segment.number));
        Ok(end)
    }

    /// Refuses all further records.
    pub(crate) fn stop(&self, error: &EngineError) {
        let mut shared = self.shared.lock();
        if shared.stopped.is_none() {
            if !matches!(error, EngineError::Closed) {
                tracing::error!(dir = %self.place.dir.display(), %error, "the engine is read-only from now on");
            }
            shared.stopped = Some(match error {
                EngineError::Closed => EngineError::Closed,
                other => EngineError::ReadOnly(Arc::new(other.clone())),
            });
        }
    }

    /// Why nothing can be appended any more.
    pub(crate) fn stopped(&self) -> Option<EngineError> {
        self.shared.lock().stopped.clone()
    }

    /// The file that holds a patch's data.
    pub(crate) fn segment(&self, number: u32) -> Option<Segment> {
        self.shared.lock().segments.get(&number).cloned()
    }

    /// Bytes from a place to the end.
    pub(crate) fn bytes_since(&self, lsn: Lsn) -> u64 {
        let shared = self.shared.lock();
        let before = shared.segments.range(lsn.segment()..shared.current.number);
        let whole: u64 = before.map(|(_, segment)| u64::from(segment.size)).sum();
        (whole + u64::from(shared.tail)).saturating_sub(lsn.offset().into())
    }

    /// Whether the segment after the current one is missing.
    pub(crate) fn needs_next(&self) -> bool {
        let shared = self.shared.lock();
        shared.next.is_none() && shared.stopped.is_none()
    }

    /// Segments before `limit`.
    pub(crate) fn segments_before(&self, limit: u32) -> Vec<u32> {
        self.shared.lock().segments.range(..limit).map(|(number, _)| *number).collect()
    }

    /// Forgets a segment nobody needs and keeps its file for reuse, or removes it if there are enough.
    pub(crate) async fn retire(&self, number: u32) -> Result<()> {
        let (segment, keep) = {
            let mut shared = self.shared.lock();
            let Some(segment) = shared.segments.remove(&number) else { return Ok(()) };
            shared.unsynced.retain(|other| other.number != number);
            (segment, shared.spares.is_empty())
        };
        if !keep || segment.size != self.place.segment_size {
            return segment.remove(&self.place).await;
        }
        let spare = segment.into_spare(&self.place).await?;
        self.shared.lock().spares.push(spare);
        Ok(())
    }
}

impl Shared {
    /// The first record that waits, and more while they fit the segment and one write.
    fn take_batch(&mut self) -> Vec<Waiting> {
        let room = (self.current.size - self.tail - END_LEN) as usize;
        let reserve = if self.next.is_none() { self.current.size as usize / 2 } else { 0 };
        let mut batch = Vec::new();
        let mut taken = 0;
        while let Some(first) = self.queue.front() {
            let len = taken + first.encoded.len();
            let limit = if is_essential(&first.record) { room } else { room.saturating_sub(reserve) };
            if !batch.is_empty() && len > limit.min(BATCH_MAX) {
                break;
            }
            taken = len;
            batch.extend(self.queue.pop_front());
        }
        batch
    }
}

/// Ends the making of a segment, also when its caller goes away.
struct Making<'a> {
    log: &'a Log,
    /// What was made, or was there before.
    next: Option<Segment>,
    spare: Option<PathBuf>,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        {
            let mut shared = self.log.shared.lock();
            shared.making = false;
            shared.new_names = true;
            let number = shared.current.number + 1;
            shared.next = self.next.take().filter(|next| next.number == number);
            shared.spares.extend(self.spare.take());
        }
        self.log.made.notify();
    }
}

/// Watches over a caller's turn: whoever goes away must not leave the others waiting.
struct MyTurn<'a> {
    log: &'a Log,
    ticket: &'a Arc<Ticket>,
    writing: bool,
    over: bool,
}

impl Drop for MyTurn<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if self.writing {
            // In the middle of a write that may or may not arrive: what follows it cannot be known.
            self.log.stop(&EngineError::InvalidArg("a log write was abandoned"));
            self.log.pass_on();
        } else if self.ticket.abandon() {
            self.log.pass_on();
        }
    }
}

impl Ticket {
    /// Waits for a result, or `None` for being the next writer.
    async fn wait(&self) -> Option<Result<()>> {
        std::future::poll_fn(|cx| {
            let mut turn = self.0.lock();
            match &mut *turn {
                Turn::Done(result) => std::task::Poll::Ready(Some(result.clone())),
                Turn::Writer => std::task::Poll::Ready(None),
                Turn::Waiting(waker) => {
                    waker.clone_from(cx.waker());
                    std::task::Poll::Pending
                }
                Turn::New | Turn::Abandoned => {
                    *turn = Turn::Waiting(cx.waker().clone());
                    std::task::Poll::Pending
                }
            }
        })
        .await
    }

    fn finish(&self, result: Result<()>) {
        let before = {
            let mut turn = self.0.lock();
            if matches!(*turn, Turn::Abandoned) {
                return;
            }
            std::mem::replace(&mut *turn, Turn::Done(result))
        };
        if let Turn::Waiting(waker) = before {
            waker.wake();
        }
    }

    fn result(&self) -> Option<Result<()>> {
        match &*self.0.lock() {
            Turn::Done(result) => Some(result.clone()),
            _ => None,
        }
    }

    /// Makes the waiting caller the writer; returns its waker, if it has one yet. `None`: it is gone.
    fn make_writer(&self) -> Option<Option<Waker>> {
        let mut turn = self.0.lock();
        match std::mem::replace(&mut *turn, Turn::Writer) {
            Turn::Waiting(waker) => Some(Some(waker)),
            Turn::New => Some(None),
            other => {
                *turn = other;
                None
            }
        }
    }

    /// The caller goes away; true if it was to write.
    fn abandon(&self) -> bool {
        let before = std::mem::replace(&mut *self.0.lock(), Turn::Abandoned);
        matches!(before, Turn::Writer)
    }
}
