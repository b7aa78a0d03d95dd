//! Frames out of a byte stream.
//!
//! Small frames are slices of a read buffer that all connections of a thread share, so that an idle connection holds
//! no memory and a read may bring several frames. The body of a larger frame, or of one cut off by the end of the
//! buffer, is read straight into a page-aligned buffer of its own.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use valor_env::Stream;
use valor_env::buffer::{Pool, PooledBuf};
use valor_wire::{DecodeError, FrameError, FrameHeader, HEADER_LEN, extend_raw_crc32c};

use crate::budget::{Budget, Charge};

/// Size of the shared read buffer.
const SHARED_BUFFER: usize = 64 << 10;
/// A read has at least this much room in it.
const SHARED_READ_MIN: usize = 8 << 10;
/// Room for the first read when another large frame is expected: enough for its beginning, little to copy.
const LARGE_FRAME_HEAD: usize = 4 << 10;
/// From this body size on, the next frame is expected to be as large.
const LARGE_BODY: usize = 32 << 10;
/// First allocation for an announced body...
const FIRST_ALLOCATION: usize = 2 << 20;
/// ... when many others have been announced and have not come.
const FIRST_ALLOCATION_CAUTIOUS: usize = 64 << 10;
/// What is kept of a body that is thrown away: enough for everything before the payload.
const PREFIX: usize = 64;

thread_local! {
    static SHARED: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// One received frame, not verified.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: FrameHeader,
    pub(crate) body: Bytes,
    /// What it takes of the reader's budget.
    pub(crate) charge: Charge,
}

/// What came out of the stream.
#[derive(Debug)]
pub(crate) enum Incoming {
    Frame(Frame),
    /// A correct, uncompressed frame for which there was no memory: only the start of its body is kept.
    Refused {
        prefix: Bytes,
    },
    /// The peer closed the connection between two frames.
    End,
}

/// Why the stream is of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("undecodable packet: {0}")]
    Packet(DecodeError),
    #[error("connection closed inside a frame")]
    Truncated,
}

/// Until when the frame that has begun must be complete, in milliseconds since `epoch`; 0 if none has. Read by the
/// server's sweeper, so that waiting for data needs no timer.
#[derive(Debug)]
pub(crate) struct FrameDeadline {
    epoch: Instant,
    limit: Duration,
    at: AtomicU64,
}

impl FrameDeadline {
    pub(crate) fn new(epoch: Instant, limit: Duration) -> Self {
        Self { epoch, limit, at: AtomicU64::new(0) }
    }

    fn start(&self, size: usize) {
        let limit = self.limit + Duration::from_secs((size >> 20) as u64);
        self.at.store((self.epoch.elapsed() + limit).as_millis() as u64, Relaxed);
    }

    fn clear(&self) {
        self.at.store(0, Relaxed);
    }

    /// Whether a frame has begun and ought to be complete by now.
    pub(crate) fn expired(&self) -> bool {
        let at = self.at.load(Relaxed);
        at != 0 && at <= self.epoch.elapsed().as_millis() as u64
    }
}

/// Cuts a connection's bytes into frames.
pub(crate) struct FrameReader {
    /// Read and not yet cut.
    pending: Bytes,
    expect_large: bool,
    budget: Option<Arc<Budget>>,
    deadline: Arc<FrameDeadline>,
}

impl FrameReader {
    /// A reader that charges frames to `budget`, if there is one, and keeps `deadline` up to date.
    pub(crate) fn new(budget: Option<Arc<Budget>>, deadline: Arc<FrameDeadline>) -> Self {
        Self { pending: Bytes::new(), expect_large: false, budget, deadline }
    }

    /// The next frame.
    pub(crate) async fn next(&mut self, stream: &Stream) -> Result<Incoming, ReadError> {
        loop {
            if let Some(header) = self.header()? {
                let size = header.size as usize;
                if self.pending.len() < HEADER_LEN + size {
                    return self.incomplete_body(stream, header).await;
                }
                self.expect_large = false;
                let body = self.pending.split_to(HEADER_LEN + size).slice(HEADER_LEN..);
                return Ok(match self.charge(size) {
                    Some(charge) => Incoming::Frame(Frame { header, body, charge }),
                    None => refuse(header, &body)?,
                });
            }
            let mid_header = !self.pending.is_empty();
            if mid_header {
                self.deadline.start(0);
            }
            let more = self.read_shared(stream).await?;
            if mid_header {
                self.deadline.clear();
            }
            match (more.is_empty(), mid_header) {
                (true, false) => return Ok(Incoming::End),
                (true, true) => return Err(ReadError::Truncated),
                (false, false) => self.pending = more,
                (false, true) => self.pending = [&self.pending[..], &more].concat().into(),
            }
        }
    }

    /// The header at the front of what is pending, if it is complete.
    fn header(&self) -> Result<Option<FrameHeader>, FrameError> {
        match self.pending.first_chunk::<HEADER_LEN>() {
            Some(header) => FrameHeader::parse(header).map(Some),
            None => Ok(None),
        }
    }

    fn charge(&self, bytes: usize) -> Option<Charge> {
        self.budget.as_ref().map_or_else(|| Some(Charge::default()), |budget| budget.charge(bytes))
    }

    /// Waits for bytes and reads them into the thread's buffer. Empty at the end of the stream.
    async fn read_shared(&self, stream: &Stream) -> Result<Bytes, ReadError> {
        loop {
            stream.readable().await?;
            let mut buffer = SHARED.take();
            if buffer.len() < SHARED_READ_MIN {
                buffer.clear();
                if buffer.try_reclaim(SHARED_BUFFER) {
                    buffer.resize(SHARED_BUFFER, 0);
                } else {
                    buffer = BytesMut::zeroed(SHARED_BUFFER);
                }
            }
            let room = if self.expect_large { LARGE_FRAME_HEAD } else { buffer.len() };
            let result = stream.try_read(&mut buffer[..room]);
            let read = result.as_ref().map_or(0, |read| *read);
            let bytes = buffer.split_to(read).freeze();
            SHARED.set(buffer);
            match result {
                Ok(_) => return Ok(bytes),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads the rest of a body whose header and beginning are pending.
    async fn incomplete_body(&mut self, stream: &Stream, header: FrameHeader) -> Result<Incoming, ReadError> {
        let head = std::mem::take(&mut self.pending).slice(HEADER_LEN..);
        self.expect_large = header.size as usize >= LARGE_BODY;
        self.deadline.start(header.size as usize);
        let result = self.read_body(stream, header, head).await;
        self.deadline.clear();
        result
    }

    /// The buffer follows the data: what a header announces is not allocated before some of it has come.
    async fn read_body(
        &self,
        stream: &Stream,
        header: FrameHeader,
        head: Bytes,
    ) -> Result<Incoming, ReadError> {
        let size = header.size as usize;
        let eager = size.min(FIRST_ALLOCATION);
        let speculation = self.budget.as_ref().map(|budget| budget.speculate(eager));
        let cautious = matches!(speculation, Some(None));
        let first = if cautious { size.min(FIRST_ALLOCATION_CAUTIOUS) } else { eager }.max(head.len());
        let Some(mut charge) = self.charge(first) else {
            return discard(stream, header, &head).await;
        };
        let mut buffer = Pool::global().take(first);
        buffer[..head.len()].copy_from_slice(&head);
        let mut have = head.len();
        drop(head);
        while have < size {
            if have == buffer.len() {
                let bigger = size.min(buffer.len() * 2);
                if !charge.grow_to(bigger) {
                    return discard(stream, header, &buffer).await;
                }
                buffer.resize(bigger);
            }
            have += read_some(stream, &mut buffer[have..]).await?;
        }
        Ok(Incoming::Frame(Frame { header, body: buffer.freeze(), charge }))
    }
}

async fn read_some(stream: &Stream, buffer: &mut [u8]) -> Result<usize, ReadError> {
    match stream.read(buffer).await? {
        0 => Err(ReadError::Truncated),
        read => Ok(read),
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Verifies a complete frame that will not be processed, and keeps its beginning.
fn refuse(header: FrameHeader, body: &[u8]) -> Result<Incoming, FrameError> {
    header.verify(valor_wire::raw_crc32c(body))?;
    Ok(Incoming::Refused { prefix: prefix(header, body) })
}

fn prefix(header: FrameHeader, body: &[u8]) -> Bytes {
    // Of a compressed body the beginning says nothing; its sender's deadline will tell it.
    let len = if header.is_compressed() { 0 } else { body.len().min(PREFIX) };
    Bytes::copy_from_slice(&body[..len])
}

/// Reads a body to its end without storing it; `have` is what was read so far.
async fn discard(stream: &Stream, header: FrameHeader, have: &[u8]) -> Result<Incoming, ReadError> {
    let mut prefix = BytesMut::from(&prefix(header, have)[..]);
    let mut crc = extend_raw_crc32c(0, have);
    let mut left = header.size as usize - have.len();
    let mut buffer: PooledBuf = Pool::global().take(SHARED_BUFFER);
    while left > 0 {
        let room = left.min(buffer.len());
        let read = read_some(stream, &mut buffer[..room]).await?;
        crc = extend_raw_crc32c(crc, &buffer[..read]);
        if !header.is_compressed() && prefix.len() < PREFIX {
            prefix.extend_from_slice(&buffer[..read.min(PREFIX - prefix.len())]);
        }
        left -= read;
    }
    header.verify(crc)?;
    Ok(Incoming::Refused { prefix: prefix.freeze() })
}
