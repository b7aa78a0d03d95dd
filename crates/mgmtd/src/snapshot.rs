//! Routing information as replies carry it: encoded once per version, since every server and client of a large cluster
//! asks for it after every change.

use bytes::Bytes;
use valor_protocol::RoutingInfoVersion;
use valor_protocol::mgmtd::{GetRoutingInfoRsp, RoutingInfo};
use valor_rpc::WithCrc;
use valor_wire::{DecodeError, Decoder, Encoder, KnownCrc, Wire, storage_crc32c, to_bytes};

/// A reply of `getRoutingInfo` that is encoded already.
#[derive(Clone, Debug)]
pub struct RoutingReply(Bytes);

impl RoutingReply {
    /// Encodes a reply.
    pub fn new(info: Option<RoutingInfo>) -> Self {
        Self(to_bytes(&GetRoutingInfoRsp { info }))
    }

    /// The encoding.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl Wire for RoutingReply {
    const MIN_SIZE: usize = GetRoutingInfoRsp::MIN_SIZE;

    fn encode(&self, out: &mut Encoder) {
        out.put_bytes(&self.0);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        GetRoutingInfoRsp::decode(input).map(|rsp| Self(to_bytes(&rsp)))
    }
}

/// The last encoded version.
#[derive(Debug, Default)]
pub struct Snapshot {
    of: (RoutingInfoVersion, bool),
    reply: Option<WithCrc<RoutingReply>>,
}

impl Snapshot {
    /// The reply for a version and whether it is of a manager that starts; `make` says what it holds if it is not known.
    pub fn reply(
        &mut self,
        of: (RoutingInfoVersion, bool),
        make: impl FnOnce() -> RoutingInfo,
    ) -> WithCrc<RoutingReply> {
        if let Some(reply) = self.reply.as_ref().filter(|_| self.of == of) {
            return reply.clone();
        }
        let value = RoutingReply::new(Some(make()));
        let known = KnownCrc { data: value.0.clone(), crc: storage_crc32c(&value.0) };
        let reply = WithCrc { value, known: vec![known] };
        *self = Self { of, reply: Some(reply.clone()) };
        reply
    }
}
