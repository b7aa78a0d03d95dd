//! A connection as the server sees it: requests in, responses out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use valor_env::{Endpoint, Stream};
use valor_protocol::status::code;
use valor_wire::{
    BodyCrc, DecodeError, Decoder, HEADER_LEN, KnownCrc, MAX_FRAME, MessagePacket, PacketHead, Status,
    Timestamp, Void, Wire, encode_message, flags, from_bytes, open_body,
};

use crate::budget::Charge;
use crate::reader::{Frame, FrameDeadline, FrameReader, Incoming, ReadError};
use crate::router::CallContext;
use crate::server::{Running, Shared};
use crate::writer::Writer;

/// A client's connection.
pub(crate) struct Session {
    server: Arc<Shared>,
    writer: Arc<Writer>,
    peer: Arc<Endpoint>,
    frame_deadline: Arc<FrameDeadline>,
    opened: Instant,
    /// When the last request was received or answered, in milliseconds since `opened`.
    active: AtomicU64,
    /// Requests being handled.
    running: AtomicUsize,
    /// There are none left.
    rest: Notify,
}

impl Session {
    pub(crate) fn new(server: Arc<Shared>, stream: Stream) -> Arc<Self> {
        let opened = Instant::now();
        Arc::new(Self {
            peer: Arc::new(stream.peer().clone()),
            writer: Writer::new(stream),
            frame_deadline: Arc::new(FrameDeadline::new(opened, server.config.half_frame_timeout)),
            opened,
            active: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            rest: Notify::new(),
            server,
        })
    }

    pub(crate) fn peer(&self) -> &Endpoint {
        &self.peer
    }

    pub(crate) fn close(&self) {
        self.writer.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.writer.is_closed()
    }

    /// Time since the last request was received or answered; `None` while one is being handled or sent.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        let busy = self.running.load(Relaxed) > 0 || self.writer.queued() > 0;
        let active = Duration::from_millis(self.active.load(Relaxed));
        (!busy).then(|| self.opened.elapsed().saturating_sub(active))
    }

    /// Whether the client neither completes its frame nor reads its responses in time.
    pub(crate) fn is_stuck(&self) -> bool {
        self.frame_deadline.expired() || self.writer.stalled_for() > self.server.config.half_frame_timeout
    }

    fn touch(&self, now: Instant) {
        self.active.store((now - self.opened).as_millis() as u64, Relaxed);
    }

    /// Serves the connection until it ends.
    pub(crate) async fn run(self: Arc<Self>) {
        let budget = Arc::clone(&self.server.budget);
        let mut reader = FrameReader::new(Some(budget), Arc::clone(&self.frame_deadline));
        loop {
            if self.writer.queued() > self.server.config.max_unsent_bytes {
                // The client does not read its responses: let it wait for its requests, too.
                self.writer.wait_for_room(self.server.config.max_unsent_bytes / 2).await;
            }
            let received = match reader.next(self.writer.stream()).await {
                Ok(Incoming::Frame(frame)) => self.receive(frame),
                Ok(Incoming::Refused { prefix }) => {
                    self.refuse_unread(prefix);
                    Ok(())
                }
                Ok(Incoming::End) => break,
                Err(error) => Err(error),
            };
            if let Err(error) = received {
                if !matches!(error, ReadError::Io(_)) && !self.is_closed() {
                    self.server.metrics.bad_frames.increment(1);
                    if self.server.may_complain() {
                        tracing::warn!(peer = %self.peer, %error, "closing connection");
                    }
                }
                return self.close();
            }
        }
        // The client has ended its direction only; what it asked for before is still answered.
        self.finished().await;
        self.close();
    }

    /// Waits until no request is running and all responses are written.
    pub(crate) async fn finished(&self) {
        loop {
            let notified = self.rest.notified();
            if self.running.load(Relaxed) == 0 {
                break;
            }
            notified.await;
        }
        self.writer.wait_for_room(0).await;
    }

    fn receive(self: &Arc<Self>, frame: Frame) -> Result<(), ReadError> {
        let received = Instant::now();
        self.touch(received);
        self.server.metrics.bytes_in.increment((frame.body.len() + HEADER_LEN) as u64);
        let compressed = frame.header.is_compressed();
        let (body, crc) = open_body(frame.header, frame.body)?;
        let mut charge = frame.charge;
        let fits = !compressed || charge.grow_to(body.len());
        let packet: MessagePacket = from_bytes(body).map_err(ReadError::Packet)?;
        if packet.flags & flags::IS_REQ == 0 {
            // A response to a request that a server never makes.
            return Ok(());
        }
        let head = self.response_head(&packet);
        if fits {
            self.dispatch(head, packet, crc, charge, received);
        } else {
            self.refuse(head, "too many bytes of requests");
        }
        Ok(())
    }

    fn response_head(&self, request: &MessagePacket) -> ResponseHead {
        let mut timestamp = request.timestamp;
        if let Some(timestamp) = &mut timestamp {
            timestamp.server_received = self.server.env.utc_now().0;
        }
        ResponseHead {
            packet: PacketHead {
                uuid: request.uuid,
                service_id: request.service_id,
                method_id: request.method_id,
                flags: 0,
                version: request.version,
                timestamp,
            },
            compress: request.flags & flags::USE_COMPRESS != 0,
        }
    }

    fn dispatch(
        self: &Arc<Self>,
        head: ResponseHead,
        packet: MessagePacket,
        crc: BodyCrc,
        charge: Charge,
        received: Instant,
    ) {
        let Some(handler) = self.server.find(packet.service_id, packet.method_id) else {
            let text = format!("service {} has no method {}", packet.service_id, packet.method_id);
            return self.respond::<Void>(head, &Err(Status::new(code::RPC_INVALID_METHOD_ID, text)), &[]);
        };
        let running = match Running::start(&self.server) {
            Ok(running) => running,
            Err(reason) => return self.refuse(head, reason),
        };
        self.running.fetch_add(1, Relaxed);
        // C++ clients count from zero: then the lower half is what tells requests apart.
        let (trace, count) = ((packet.uuid >> 32) as u32, packet.uuid as u32);
        let request_id = if trace == 0 { count } else { trace };
        let context = CallContext::new(Arc::clone(&self.peer), request_id, received, crc);
        let responder =
            Responder { session: Arc::clone(self), head, running: Some(running), _charge: charge };
        handler.start(context, packet.payload, responder);
    }

    fn refuse(self: &Arc<Self>, head: ResponseHead, reason: &str) {
        self.server.metrics.refused.increment(1);
        self.respond::<Void>(head, &Err(Status::new(code::RPC_REQUEST_REFUSED, reason)), &[]);
    }

    /// Refuses a request of which only the beginning was kept.
    fn refuse_unread(self: &Arc<Self>, prefix: Bytes) {
        self.touch(Instant::now());
        let Ok(packet) = decode_prefix(prefix) else {
            // Compressed, so that there is nothing to answer to; the client's deadline ends the call.
            self.server.metrics.refused.increment(1);
            return;
        };
        if packet.flags & flags::IS_REQ != 0 {
            self.refuse(self.response_head(&packet), "too many bytes of requests");
        }
    }

    fn respond<T: Wire>(
        self: &Arc<Self>,
        mut head: ResponseHead,
        result: &Result<T, Status>,
        known: &[KnownCrc],
    ) {
        if let Some(timestamp) = &mut head.packet.timestamp {
            timestamp.server_serialized = self.server.env.utc_now().0;
        }
        let compression = head.compress.then_some(self.server.config.response_compression);
        let mut message = encode_message(&head.packet, result, known, compression);
        if message.len() >= MAX_FRAME {
            let status = Status::new(code::RPC_SEND_FAILED, format!("response of {} bytes", message.len()));
            message = encode_message(&head.packet, &Err::<Void, _>(status), &[], None);
        }
        self.server.metrics.bytes_out.increment(message.len() as u64);
        // While others are being handled their responses may share the system call.
        let batch = self.running.load(Relaxed) > 1;
        // If the connection is closed nobody waits for the response.
        let _ = self.writer.send(message, batch);
    }
}

/// The fields before the payload, from the beginning of a packet.
fn decode_prefix(prefix: Bytes) -> Result<MessagePacket, DecodeError> {
    let mut input = Decoder::new(prefix);
    input.varint()?;
    Ok(MessagePacket {
        uuid: Wire::decode(&mut input)?,
        service_id: Wire::decode(&mut input)?,
        method_id: Wire::decode(&mut input)?,
        flags: Wire::decode(&mut input)?,
        version: Wire::decode(&mut input)?,
        ..MessagePacket::default()
    })
}

/// What of a request its response repeats.
#[derive(Clone, Copy)]
struct ResponseHead {
    packet: PacketHead,
    compress: bool,
}

/// The way back of one request. Until dropped, the request counts as running.
pub(crate) struct Responder {
    session: Arc<Session>,
    head: ResponseHead,
    running: Option<Running>,
    _charge: Charge,
}

impl Responder {
    /// Notes that the handler starts.
    pub(crate) fn started(mut self) -> Self {
        self.stamp(|timestamp, now| timestamp.server_waked = now);
        self
    }

    fn stamp(&mut self, set: impl FnOnce(&mut Timestamp, i64)) {
        if let Some(timestamp) = &mut self.head.packet.timestamp {
            set(timestamp, self.session.server.env.utc_now().0);
        }
    }

    /// Sends the response.
    pub(crate) fn respond<T: Wire>(mut self, result: Result<T, Status>, known: &[KnownCrc]) {
        self.stamp(|timestamp, now| timestamp.server_processed = now);
        self.session.respond(self.head, &result, known);
    }

    /// Sends an error without having handled the request.
    pub(crate) fn refuse(self, status: Status) {
        self.session.respond::<Void>(self.head, &Err(status), &[]);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.session.touch(Instant::now());
        if self.session.running.fetch_sub(1, Relaxed) == 1 {
            self.session.rest.notify_waiters();
        }
        self.running.take();
    }
}
