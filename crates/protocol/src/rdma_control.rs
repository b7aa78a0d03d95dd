//! Flow control of server-initiated RDMA, served by clients (`src/common/net/RDMAControl.h`).

use valor_wire::{Void, Wire};

/// Asks for leave to transfer the data of a request that is being served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct RDMATransmissionReq {
    /// Packet uuid of the request.
    pub uuid: u64,
}

/// Leave is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct RDMATransmissionRsp {
    /// Nothing.
    pub dummy: Void,
}

/// Methods of the service.
pub mod methods {
    use super::*;
    crate::method::methods! { "RDMAControl", 10;
        /// Waits for a transmission slot.
        Apply = 1 "apply" (RDMATransmissionReq) -> RDMATransmissionRsp;
    }
}
