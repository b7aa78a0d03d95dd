//! The sending half of a connection.
//!
//! A message is written by whoever sends it, as far as the socket takes it. Only the rest, and messages that follow
//! before it is gone, pass through a queue and a task. A sender which knows that others are about to send on the same
//! connection may ask for the queue at once: the task then writes what has gathered with one system call.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use valor_env::Stream;
use valor_wire::Segments;

/// Pieces per system call.
const SLICES: usize = 64;
/// Larger messages gain nothing from sharing a system call.
const BATCH_MAX: usize = 16 << 10;

/// The connection is closed; nothing was sent.
#[derive(Debug)]
pub(crate) struct Closed;

/// The sending half of a connection, and the owner of its socket.
pub(crate) struct Writer {
    stream: Stream,
    state: Mutex<State>,
    /// Work for the task.
    work: Notify,
    /// The queue became shorter, or the connection closed.
    room: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Bytes accepted and bytes written since the connection was opened.
    accepted: u64,
    written: u64,
    /// When the queue was last empty or shortened, while there is one.
    progress: Option<Instant>,
    has_task: bool,
    closed: bool,
}

impl Writer {
    pub(crate) fn new(stream: Stream) -> Arc<Self> {
        Arc::new(Self { stream, state: Mutex::default(), work: Notify::new(), room: Notify::new() })
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Sends a message, or queues it. Returns its end as a position in the stream, see [`written`](Self::written).
    pub(crate) fn send(self: &Arc<Self>, message: Segments, batch: bool) -> Result<u64, Closed> {
        let len = message.len();
        let mut state = self.state.lock();
        if state.closed {
            return Err(Closed);
        }
        state.accepted += len as u64;
        let end = state.accepted;
        let mut sent = 0;
        if state.queue.is_empty() && !(batch && len < BATCH_MAX) {
            match self.write_directly(&message) {
                Ok(written) => sent = written,
                Err(_) => {
                    // The message counts as sent: none of it may have been, but its sender learns soon enough.
                    self.close_locked(&mut state);
                    return Ok(end);
                }
            }
            state.written += sent as u64;
        }
        if sent < len {
            state.queued += len - sent;
            state.progress.get_or_insert_with(Instant::now);
            for mut piece in message {
                let skipped = sent.min(piece.len());
                sent -= skipped;
                piece.advance(skipped);
                if !piece.is_empty() {
                    state.queue.push_back(piece);
                }
            }
            self.wake_task(&mut state);
        }
        Ok(end)
    }

    /// Writes as much as the socket takes.
    fn write_directly(&self, message: &Segments) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut total = 0;
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(message.iter()) {
            *slice = IoSlice::new(piece);
            total += piece.len();
            count += 1;
        }
        let mut slices = &mut slices[..count];
        let mut sent = 0;
        while sent < total {
            match try_write(&self.stream, slices)? {
                0 => break,
                written => {
                    sent += written;
                    IoSlice::advance_slices(&mut slices, written);
                }
            }
        }
        Ok(sent)
    }

    fn wake_task(self: &Arc<Self>, state: &mut State) {
        if state.has_task {
            self.work.notify_one();
        } else {
            state.has_task = true;
            tokio::spawn(Arc::clone(self).run());
        }
    }

    /// Writes the queue whenever there is one, until the connection is closed.
    async fn run(self: Arc<Self>) {
        // Unwritten requests must not wait for a task that is gone, whatever ended it.
        let guard = CloseOnDrop(&self);
        loop {
            match self.write_queue() {
                Progress::Blocked => {
                    if self.stream.writable().await.is_err() {
                        break;
                    }
                }
                Progress::Empty => self.work.notified().await,
                Progress::Closed => break,
            }
        }
        drop(guard);
    }

    fn write_queue(&self) -> Progress {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Progress::Closed;
            }
            if state.queue.is_empty() {
                return Progress::Empty;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&state.queue) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            match try_write(&self.stream, &slices[..count]) {
                Ok(0) => return Progress::Blocked,
                Ok(written) => {
                    state.take(written);
                    self.room.notify_waiters();
                }
                Err(_) => {
                    self.close_locked(&mut state);
                    return Progress::Closed;
                }
            }
        }
    }

    /// How far the stream has been written: a message is sent if its end is not beyond this.
    pub(crate) fn written(&self) -> u64 {
        self.state.lock().written
    }

    /// Waits until at most `max` bytes are queued. At once if the connection is closed.
    pub(crate) async fn wait_for_room(&self, max: usize) {
        loop {
            let notified = self.room.notified();
            let mut notified = std::pin::pin!(notified);
            notified.as_mut().enable();
            {
                let state = self.state.lock();
                if state.closed || state.queued <= max {
                    return;
                }
            }
            notified.await;
        }
    }

    /// Bytes waiting to be written.
    pub(crate) fn queued(&self) -> usize {
        self.state.lock().queued
    }

    /// How long the peer has taken nothing of what waits for it.
    pub(crate) fn stalled_for(&self) -> Duration {
        self.state.lock().progress.map_or(Duration::ZERO, |progress| progress.elapsed())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Ends both directions; the reader sees the end.
    pub(crate) fn close(&self) {
        self.close_locked(&mut self.state.lock());
    }

    fn close_locked(&self, state: &mut State) {
        if !state.closed {
            state.closed = true;
            state.queue = VecDeque::new();
            state.queued = 0;
            state.progress = None;
            self.stream.shutdown();
            self.work.notify_one();
            self.room.notify_waiters();
        }
    }
}

/// `Ok(0)`: the socket takes nothing at the moment.
fn try_write(stream: &Stream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        match stream.try_write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

enum Progress {
    Empty,
    Blocked,
    Closed,
}

impl State {
    fn take(&mut self, mut written: usize) {
        self.written += written as u64;
        self.queued -= written;
        self.progress = (self.queued > 0).then(Instant::now);
        while let Some(front) = self.queue.front_mut().filter(|_| written > 0) {
            if front.len() > written {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.queue.pop_front();
        }
    }
}

struct CloseOnDrop<'a>(&'a Writer);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
