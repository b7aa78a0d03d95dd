//! A client's connection: requests out, responses in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;
use valor_env::{Env, Stream};
use valor_wire::{MessagePacket, Segments, flags, from_bytes, open_body};

use crate::reader::{Frame, FrameDeadline, FrameReader, Incoming};
use crate::waiters::{Failure, Response, Wait, Waiters};
use crate::writer::Writer;

/// A server which has begun a frame completes it within this time (plus a second per MiB), and takes some of what it is
/// sent; else the connection is of no use.
const STUCK: Duration = Duration::from_secs(30);

/// An open connection.
pub(crate) struct Connection {
    writer: Arc<Writer>,
    waiters: Waiters,
    frame_deadline: Arc<FrameDeadline>,
    env: Env,
    opened: Instant,
    /// Last use, in milliseconds since `opened`.
    used: AtomicU64,
}

impl Connection {
    /// Starts reading responses.
    pub(crate) fn start(env: Env, stream: Stream) -> Arc<Self> {
        let opened = Instant::now();
        let connection = Arc::new(Self {
            writer: Writer::new(stream),
            waiters: Waiters::default(),
            frame_deadline: Arc::new(FrameDeadline::new(opened, STUCK)),
            env,
            opened,
            used: AtomicU64::new(0),
        });
        tokio::spawn(read_responses(ReaderGuard(Arc::clone(&connection))));
        connection
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.writer.is_closed()
    }

    /// Whether the server neither completes its frame nor reads requests in time.
    pub(crate) fn is_stuck(&self) -> bool {
        self.frame_deadline.expired() || self.writer.stalled_for() > STUCK
    }

    /// Calls in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.waiters.len()
    }

    /// Time since the last call began.
    pub(crate) fn unused_for(&self) -> Duration {
        self.opened.elapsed().saturating_sub(Duration::from_millis(self.used.load(Relaxed)))
    }

    /// Sends a request and waits for its response, without a deadline.
    pub(crate) async fn call(
        &self,
        id: u64,
        request: Segments,
        max_unsent: usize,
    ) -> Result<Response, Failure> {
        self.used.store(self.opened.elapsed().as_millis() as u64, Relaxed);
        if self.writer.queued() > max_unsent {
            self.writer.wait_for_room(max_unsent).await;
        }
        let batch = self.waiters.len() > 0;
        if !self.waiters.add(id) {
            let reason = self.waiters.failure().unwrap_or_else(|| "request id in use".to_owned());
            return Err(Failure::Unsent(reason));
        }
        let wait = Wait { waiters: &self.waiters, id };
        match self.writer.send(request, batch) {
            Ok(end) => self.waiters.sent(id, end),
            Err(_) => return Err(Failure::Unsent("connection closed".to_owned())),
        }
        wait.await
    }

    /// Closes the connection; calls in flight fail.
    pub(crate) fn close(&self, reason: &str) {
        self.writer.close();
        self.waiters.fail(self.writer.written(), reason);
    }

    fn receive(&self, frame: Frame) -> Result<(), String> {
        let (body, crc) = open_body(frame.header, frame.body).map_err(|error| error.to_string())?;
        let packet: MessagePacket =
            from_bytes(body).map_err(|error| format!("undecodable packet: {error}"))?;
        if packet.flags & flags::IS_REQ != 0 {
            // Servers may ask for flow control of RDMA; we never announce that we understand it.
            return Ok(());
        }
        let mut timestamp = packet.timestamp;
        if let Some(timestamp) = &mut timestamp {
            timestamp.client_received = self.env.utc_now().0;
        }
        self.waiters.complete(packet.uuid, Response { payload: packet.payload, crc, timestamp });
        Ok(())
    }
}

/// Fails the waiting calls however the reading task ends, be it with its runtime.
struct ReaderGuard(Arc<Connection>);

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        self.0.close("connection closed");
    }
}

async fn read_responses(guard: ReaderGuard) {
    let connection = &guard.0;
    let mut reader = FrameReader::new(None, Arc::clone(&connection.frame_deadline));
    loop {
        let received = match reader.next(connection.writer.stream()).await {
            Ok(Incoming::Frame(frame)) => connection.receive(frame),
            Ok(Incoming::Refused { .. }) => Ok(()),
            Ok(Incoming::End) => Err("connection closed by the server".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = received {
            tracing::debug!(peer = %connection.writer.stream().peer(), reason, "connection ends");
            connection.close(&reason);
            return;
        }
    }
}
