//! One direction of a connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Waker};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Bytes that may be under way.
const WINDOW: usize = 256 << 10;

#[derive(Default)]
pub(super) struct Pipe(Mutex<State>);

#[derive(Default)]
struct State {
    queue: VecDeque<Piece>,
    queued: usize,
    /// Arrival of the last piece: nothing overtakes.
    last: Option<Instant>,
    /// Nothing more will be sent.
    finished: bool,
    /// Nobody reads any more.
    refused: bool,
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Piece {
    sent: Instant,
    due: Instant,
    bytes: Vec<u8>,
    taken: usize,
}

/// What a reader finds.
pub(super) enum Readable {
    Now,
    /// At this moment at the earliest.
    At(Instant),
    /// When somebody wakes it.
    Later,
}

impl Pipe {
    /// Takes what fits of `bufs` to arrive at `due`; returns the bytes taken.
    pub(super) fn send(&self, bufs: &[IoSlice<'_>], now: Instant, due: Instant) -> io::Result<Vec<u8>> {
        let mut state = self.0.lock();
        if state.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if state.finished || state.refused {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = WINDOW - state.queued;
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut bytes = Vec::new();
        for buf in bufs {
            let fits = buf.len().min(room - bytes.len());
            bytes.extend_from_slice(&buf[..fits]);
        }
        let due = state.last.map_or(due, |last| last.max(due));
        state.last = Some(due);
        state.queued += bytes.len();
        state.queue.push_back(Piece { sent: now, due, bytes: bytes.clone(), taken: 0 });
        wake(&mut state.reader);
        Ok(bytes)
    }

    /// Reads what has arrived, if the direction `passes`.
    pub(super) fn receive(&self, buf: &mut [u8], now: Instant, passes: bool) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if state.refused {
            return Ok(0);
        }
        if !passes {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut read = 0;
        while read < buf.len() {
            let Some(piece) = state.queue.front_mut().filter(|piece| piece.due <= now) else { break };
            let len = (buf.len() - read).min(piece.bytes.len() - piece.taken);
            buf[read..read + len].copy_from_slice(&piece.bytes[piece.taken..piece.taken + len]);
            piece.taken += len;
            read += len;
            if piece.taken == piece.bytes.len() {
                state.queue.pop_front();
            }
        }
        state.queued -= read;
        if read > 0 {
            wake(&mut state.writer);
            return Ok(read);
        }
        if buf.is_empty() || (state.finished && state.queue.is_empty()) {
            return Ok(0);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Whether a read would do something; else who waits is remembered.
    pub(super) fn readable(&self, cx: &Context<'_>, now: Instant, passes: bool) -> Readable {
        let mut state = self.0.lock();
        if state.reset || state.refused {
            return Readable::Now;
        }
        let found = match state.queue.front() {
            _ if !passes => Readable::Later,
            Some(piece) if piece.due <= now => return Readable::Now,
            Some(piece) => Readable::At(piece.due),
            None if state.finished => return Readable::Now,
            None => Readable::Later,
        };
        state.reader = Some(cx.waker().clone());
        found
    }

    /// Whether a write would do something; else who waits is remembered.
    pub(super) fn writable(&self, cx: &Context<'_>) -> bool {
        let mut state = self.0.lock();
        if state.reset || state.finished || state.refused || state.queued < WINDOW {
            return true;
        }
        state.writer = Some(cx.waker().clone());
        false
    }

    /// When the oldest bytes under way were sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.0.lock().queue.front().map(|piece| piece.sent)
    }

    /// The sender sends no more.
    pub(super) fn finish(&self) {
        let mut state = self.0.lock();
        state.finished = true;
        wake(&mut state.reader);
        wake(&mut state.writer);
    }

    pub(super) fn is_finished(&self) -> bool {
        let state = self.0.lock();
        state.finished || state.reset
    }

    /// The reader reads no more, and sees the end.
    pub(super) fn refuse(&self) {
        let mut state = self.0.lock();
        state.refused = true;
        wake(&mut state.reader);
        wake(&mut state.writer);
    }

    /// The connection breaks.
    pub(super) fn reset(&self) {
        let mut state = self.0.lock();
        state.reset = true;
        state.queue.clear();
        state.queued = 0;
        wake(&mut state.reader);
        wake(&mut state.writer);
    }

    /// Has the reader look again.
    pub(super) fn wake(&self) {
        wake(&mut self.0.lock().reader);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
