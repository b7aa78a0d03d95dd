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
    /// The reply for at least this version, and whether it is of a manager that starts; `newest` says what there is if no
    /// such one is known.
    pub fn reply(
        &mut self,
        least: (RoutingInfoVersion, bool),
        newest: impl FnOnce() -> ((RoutingInfoVersion, bool), RoutingInfo),
    ) -> WithCrc<RoutingReply> {
        let enough = self.of.0 >= least.0 && self.of.1 == least.1;
        if let Some(reply) = self.reply.as_ref().filter(|_| enough) {
            return reply.clone();
        }
        let (of, info) = newest();
        let value = RoutingReply::new(Some(info));
        let known = KnownCrc { data: value.0.clone(), crc: storage_crc32c(&value.0) };
        let reply = WithCrc { value, known: vec![known] };
        *self = Self { of, reply: Some(reply.clone()) };
        reply
    }
}
