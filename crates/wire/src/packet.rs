//! The envelope of every message (`src/common/serde/MessagePacket.h`).

use bytes::Bytes;

use crate::{Compression, Encoder, KnownCrc, Segments, Wire, seal_frame};

/// Bits of [`MessagePacket::flags`].
pub mod flags {
    /// A request. Responses have no flag at all.
    pub const IS_REQ: u16 = 1;
    /// The sender can read compressed answers.
    pub const USE_COMPRESS: u16 = 2;
    /// The sender wants to be asked before RDMA transfers (service RDMAControl).
    pub const CONTROL_RDMA: u16 = 4;
}

/// Protocol version: echoed by receivers, interpreted by none of 3FS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Wire)]
pub struct PacketVersion {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
    /// Patch.
    pub patch: u8,
    /// Build.
    pub hash: u32,
}

/// When a call passed which point, in microseconds of the wall clock of the machine concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Wire)]
pub struct Timestamp {
    /// The caller made the call.
    pub client_called: i64,
    /// The request was serialized.
    pub client_serialized: i64,
    /// The server unpacked the frame.
    pub server_received: i64,
    /// The handler started.
    pub server_waked: i64,
    /// The handler finished.
    pub server_processed: i64,
    /// The response was serialized.
    pub server_serialized: i64,
    /// The client unpacked the response.
    pub client_received: i64,
    /// The caller went on.
    pub client_waked: i64,
}

/// A whole message: the body of a frame.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct MessagePacket {
    /// Request id, echoed in the response.
    pub uuid: u64,
    /// Service, echoed.
    pub service_id: u16,
    /// Method within the service, echoed.
    pub method_id: u16,
    /// See [`flags`].
    pub flags: u16,
    /// Echoed.
    pub version: PacketVersion,
    /// The encoded request, or `Result` of the response.
    pub payload: Bytes,
    /// Echoed and filled by the server if the client sent one.
    pub timestamp: Option<Timestamp>,
}

/// Everything of a [`MessagePacket`] except its payload, for sending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketHead {
    /// See [`MessagePacket::uuid`].
    pub uuid: u64,
    /// See [`MessagePacket::service_id`].
    pub service_id: u16,
    /// See [`MessagePacket::method_id`].
    pub method_id: u16,
    /// See [`flags`].
    pub flags: u16,
    /// See [`MessagePacket::version`].
    pub version: PacketVersion,
    /// See [`MessagePacket::timestamp`].
    pub timestamp: Option<Timestamp>,
}

/// Encodes a frame with its envelope and payload in one go: no intermediate buffers, one allocation if small.
///
/// `known` lists checksums of large byte strings in `payload`.
pub fn encode_message<T: Wire>(
    head: &PacketHead,
    payload: &T,
    known: &[KnownCrc],
    compression: Option<Compression>,
) -> Segments {
    let mut out = Encoder::new();
    for crc in known {
        out.know_crc(crc.clone());
    }
    head.timestamp.encode(&mut out);
    let end = out.len();
    payload.encode(&mut out);
    out.put_length_since(end);
    head.version.encode(&mut out);
    head.flags.encode(&mut out);
    head.method_id.encode(&mut out);
    head.service_id.encode(&mut out);
    head.uuid.encode(&mut out);
    out.put_length_since(0);
    seal_frame(out, compression)
}
